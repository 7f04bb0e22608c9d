"""`python tests/fuzz/run.py [READER ...] [--inputs=10000] [--first=0] [--seed=0]`: the long run; findings, alike ones once."""

from __future__ import annotations

import argparse
import collections
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fuzz.harness import findings
from fuzz.readers import all_readers


def main() -> None:
    readers = all_readers()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(readers)}; default: all")
    parser.add_argument("--inputs", type=int, default=10_000, help="of each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    left = 0
    for name in options.readers or readers:
        started = time.monotonic()
        kinds = collections.defaultdict(list)
        for finding in findings(readers[name], options.first, options.inputs, options.seed):
            kinds[re.sub(r"\d+|'[^']*'", "_", finding.what)].append(finding)
        left += len(kinds)
        found = sum(map(len, kinds.values()))
        print(
            f"{name}: {options.inputs} inputs, {found} findings of {len(kinds)} kinds, {time.monotonic() - started:.0f} s"
        )
        for same in kinds.values():
            print(f"  {len(same)} x {same[0]}", flush=True)
    sys.exit(left > 0)


if __name__ == "__main__":
    main()
