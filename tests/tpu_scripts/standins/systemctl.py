"""A stand-in for systemctl on one host, whose home directory is HOME: one unit, started again as its file says.

`systemctl.py --supervise HOME` is systemd itself: it runs in the background and lives as long as the unit.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

from world import SPEED, background, begin, call, die, lives, read, stop, write

UNIT = "etc/systemd/system/xalign.service"


def settings(home):
    """Key -> value of the unit's file; None if there is no file."""
    try:
        return dict(re.findall(r"^(\w+)=(.*)$", (home / UNIT).read_text(), re.MULTILINE))
    except OSError:
        return None


def state(home):
    return read(
        home / "unit.json", {"ActiveState": "inactive", "ExecMainStartTimestampMonotonic": 0, "ExecMainStatus": 0}
    )


def start(home):
    if state(home)["ActiveState"] in ("active", "activating"):
        return
    if not (Path(settings(home)["WorkingDirectory"])).is_dir():
        die("Job for xalign.service failed: the working directory is not there")
    write(home / "unit.json", state(home) | {"ActiveState": "activating", "stopping": False})
    background("systemctl.py", "--supervise", home)
    while state(home)["ActiveState"] == "activating" and "pid" not in state(home):
        time.sleep(0.01)


def supervise(home):
    """Runs the unit until it ends for good."""
    unit, starts = settings(home), 0
    lasting = unit.get("RestartPreventExitStatus", "").split()
    while True:
        starts += 1
        process = begin(unit["ExecStart"], home, home / "journal", unit["WorkingDirectory"])
        write(
            home / "unit.json",
            {
                "ActiveState": "active",
                "ExecMainStartTimestampMonotonic": time.monotonic_ns() // 1000,
                "ExecMainStatus": 0,
            }
            | {"pid": process.pid, "starts": starts, "supervisor": os.getpid()},
        )
        code = process.wait()
        if not home.exists():
            return
        ended = state(home) | {"ExecMainStatus": abs(code)}
        again = code != 0 and unit["Restart"] == "on-failure" and not (code > 0 and str(code) in lasting)
        if not again or state(home).get("stopping") or starts >= int(unit["StartLimitBurst"]):
            write(home / "unit.json", ended | {"ActiveState": "failed" if code else "inactive"})
            return
        write(home / "unit.json", ended | {"ActiveState": "activating"})
        time.sleep(float(unit["RestartSec"]) / SPEED)


def end(home, seconds=20.0):
    """Stops the unit, as `systemctl stop` and a shutdown do."""
    now = state(home)
    if now["ActiveState"] not in ("active", "activating"):
        return
    write(home / "unit.json", now | {"stopping": True})
    stop([now["pid"]], seconds)
    while lives(now["supervisor"]) and state(home)["ActiveState"] in ("active", "activating"):
        time.sleep(0.02)


def reboot(home):
    """The host loses its processes at once; when it is up again, it starts what is enabled."""
    now = state(home)
    for pid in (now["supervisor"], now["pid"]):
        os.killpg(pid, signal.SIGKILL)
    (home / "unit.json").unlink()
    os.environ |= {"HOME": str(home), "STANDIN_HOST": home.name, "STANDIN_NUMBER": home.name[-1]}
    if (home / "enabled").exists():
        start(home)


def main():
    if sys.argv[1] == "--supervise":
        supervise(Path(sys.argv[2]))
        return
    call("systemctl", sys.argv[1:])
    home = Path(os.environ["HOME"])
    verb, *words = [word for word in sys.argv[1:] if word not in ("--quiet", "xalign", "-p")]
    if verb == "show":
        found = {
            "LoadState": "loaded" if settings(home) else "not-found",
            "UnitFileState": "enabled" if (home / "enabled").exists() else "disabled",
            **state(home),
        }
        print(
            "\n".join(str(found[key]) if "--value" in words else f"{key}={found[key]}" for key in found if key in words)
        )
    elif settings(home) is None:
        die(f"Failed to {verb} xalign.service: Unit xalign.service not found.", 5)
    elif verb == "enable":
        (home / "enabled").touch()
        if "--now" in words:
            start(home)
    elif verb == "disable":
        (home / "enabled").unlink(missing_ok=True)
        if "--now" in words:
            end(home)
    else:
        die(f"Unknown command verb {verb}")


if __name__ == "__main__":
    main()
