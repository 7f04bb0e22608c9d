"""The licences of the packages that setup.py requires, and of the packages that these require.

`python tests/licences.py` prints a table and fails if a licence is unknown or binds who uses it. It reads the metadata of
the installed packages and downloads nothing. Packages that are not installed stay unread, and are named.
"""

from __future__ import annotations

import importlib.metadata
import runpy
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from packaging.requirements import Requirement

SETUP = Path(__file__).parent.parent / "setup.py"

# None of these asks anything of a program that imports the package. MPL-2.0 binds changed copies of its own files only.
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC"),
    *("MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "ZPL-2.1", "Zlib"),
}

# How metadata older than SPDX expressions names licences.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache License Version 2.0, January 2004": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause": "BSD-3-Clause",
    "BSD License": "BSD",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The MIT License (MIT)": "MIT",
    "Zope Public License": "ZPL-2.1",
}

# Their metadata says nothing; their LICENSE files were read.
READ_BY_HAND = {"namex": "Apache-2.0"}

# Package -> (licence, why it binds no user). Each is named in docs/licences.md.
EXCEPTIONS = {
    "chardet": (
        "LGPL-2.1-or-later",
        "extra eval: lm-evaluation-harness imports it as a package of its own, which a user can replace",
    ),
}

# Tools of developers, in the extras `docs` and `test`. They run as programs of their own, and no user gets them.
NOT_FOR_USERS = {"docs", "test"}


class Package(NamedTuple):
    """An installed package. `extra`: the extra that brings it, "" if every installation has it."""

    name: str
    version: str
    licence: str
    extra: str


def setup_arguments(file: Path = SETUP) -> dict:
    """What setup.py hands to setuptools."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(file))
    return setup.call_args.kwargs


def required() -> tuple[list[Package], list[str]]:
    """All packages that an installation with all extras for users brings, and the names of those not installed here."""
    arguments = setup_arguments()
    groups = {"": arguments["install_requires"], **arguments["extras_require"]}
    found: dict[str, Package] = {}
    absent: set[str] = set()
    for extra, lines in groups.items():
        waiting = [] if extra in NOT_FOR_USERS else [Requirement(line) for line in lines]
        while waiting:
            one = waiting.pop()
            name = one.name.lower().replace("_", "-")
            if name in found or name in absent:
                continue
            try:
                package = importlib.metadata.distribution(one.name)
            except importlib.metadata.PackageNotFoundError:
                absent.add(name)
                continue
            found[name] = Package(name, package.version, licence(name, package.metadata), extra)
            waiting += _requirements(package, one.extras)
    return sorted(found.values()), sorted(absent)


def _requirements(package: importlib.metadata.Distribution, extras: set[str]) -> list[Requirement]:
    """What a package requires on this machine, with these extras."""
    lines = [Requirement(line) for line in package.requires or []]
    return [
        line
        for line in lines
        if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in {"", *extras})
    ]


def licence(name: str, metadata: importlib.metadata.PackageMetadata) -> str:
    """The licence as an SPDX expression, "" if the metadata names none."""
    if expression := metadata.get("License-Expression"):
        return expression
    # Metadata that quotes the whole licence begins with its title.
    stated = " ".join((metadata.get("License") or "").split())
    titles = [title for title in SPDX if stated == title or stated.startswith(f"{title} ")]
    said = SPDX[max(titles, key=len)] if titles else stated if allowed(stated) else ""
    classes = [one.split("::")[-1].strip() for one in metadata.get_all("Classifier", []) if one.startswith("License")]
    classes = [SPDX.get(one, one) for one in classes if one not in ("DFSG approved", "OSI Approved")]
    # A class says less than the text: "BSD License" stands for "BSD-3-Clause".
    # Words that are no licence, such as "Dual License", count only if there are no classes either.
    short = stated if len(stated) < 40 else ""
    return said or " AND ".join(classes) or short or READ_BY_HAND.get(name, "")


def allowed(expression: str) -> bool:
    """Whether every part joined by AND has one alternative, joined by OR, that is allowed."""
    parts = expression.replace("(", "").replace(")", "").split(" AND ")
    return all(any(one.partition(" WITH ")[0].strip() in ALLOWED for one in part.split(" OR ")) for part in parts)


def binds(package: Package) -> bool:
    """Whether the package's licence is unknown, or may bind who uses the package."""
    expected, _ = EXCEPTIONS.get(package.name, ("", ""))
    if package.name.startswith("nvidia-") and package.licence.startswith("LicenseRef-NVIDIA"):
        return False  # CUDA's libraries, of PyTorch and of the extra `cuda`: docs/licences.md
    return package.licence != expected and not allowed(package.licence)


def main() -> int:
    packages, absent = required()
    for one in packages:
        mark = "  <- unknown, or binds users" if binds(one) else ""
        print(f"{one.name:28} {one.version:16} {one.extra:9} {one.licence or '?'}{mark}")
    if absent:
        print(f"not installed, not read: {', '.join(absent)}")
    wrong = [one.name for one in packages if binds(one)]
    print(f"{len(packages)} packages, {len(wrong)} with a licence that is unknown or binds users")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
