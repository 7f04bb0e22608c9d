"""A machine room of stand-ins (`standins/`) for the launch scripts: local processes are hosts, a local server the bucket."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from runtime import gcs

HERE = Path(__file__).parent
SCRIPTS = HERE.parent.parent / "tpu_scripts"
STANDINS = HERE / "standins"
PYTHON = f"{sys.executable} -E -B"
SLURM = ("sbatch", "srun", "squeue", "scancel", "scontrol")
# Small tools of hosts. `uv` brings "xalign", which is the file STANDIN_XALIGN.
SHELL = {
    "sudo": 'if [[ $1 == tee ]]; then mkdir -p "$(dirname "$HOME$2")" && exec tee "$HOME$2"; fi; exec "$@"',
    "curl": 'mkdir -p ~/.local/bin && cp "$(dirname "$0")/uv" ~/.local/bin/uv',
    "sleep": "[[ $1 == *.* ]] && exec /bin/sleep $1 || exec /bin/sleep 0.05",  # waits of whole seconds are too long here
    "journalctl": "tail -n 20 ~/journal",
    "uv": """echo "uv $*" >>"$STANDIN_STATE/called"
if [[ $1 == venv ]]; then mkdir -p "${@: -1}/bin"; exit; fi
[[ ! -f $STANDIN_STATE/faults/busy ]] || { rm "$STANDIN_STATE/faults/busy"; echo "error: 503" >&2; exit 1; }
for word; do [[ $word != *file://* || -f ${word#*file://} ]] || { echo "no such wheel: $word" >&2; exit 1; }; done
python=$(dirname "${@: -2:1}"); for word; do [[ $word != */bin/python ]] || python=$(dirname "$word"); done
cp "$STANDIN_XALIGN" "$python/xalign" """,
}


class Cloud:
    """The stand-ins, their state, and calls of scripts with them."""

    def __init__(self, folder, xalign=STANDINS / "trainer.sh"):
        self.state, self.bin, self.home = (folder / name for name in ("state", "bin", "home"))
        for path in (self.state / "faults", self.bin, self.home / ".ssh"):
            path.mkdir(parents=True)
        (self.home / ".ssh" / "google_compute_engine").touch()
        self.server = gcs.serve()
        for name in ("gcloud", "xpk", "kubectl", "systemctl"):
            quick = "case $1 in daemon-reload | reset-failed) exit ;; esac" if name == "systemctl" else ""
            site = "" if name == "kubectl" else "-S"
            self._tool(name, f'{quick}\nexec {PYTHON} {site} {STANDINS}/{name}.py "$@"')
        for name in SLURM:
            self._tool(name, f'exec {PYTHON} -S {STANDINS}/slurm.py {name} "$@"')
        for name, text in SHELL.items():
            self._tool(name, text)
        shutil.copy(xalign, self.bin / "xalign")  # in the containers' image
        self._tool("python", f'PYTHONPATH={STANDINS} exec {sys.executable} "$@"')  # in the image, too
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("XALIGN_N", "STANDIN_"))}
        self.environment = kept | gcs.environment(self.server)
        self.environment |= {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.home),
            "STANDIN_STATE": str(self.state),
            "STANDIN_XALIGN": str(xalign),
        }

    def _tool(self, name, text):
        (self.bin / name).write_text(f"#!/bin/bash\n{text}\n")
        (self.bin / name).chmod(0o755)

    def call(self, script, *arguments, code=0, **options):
        """What a script printed, on both streams; its exit code must be `code`."""
        done = subprocess.run(
            ["bash", str(SCRIPTS / f"{script}.sh"), *arguments],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=options.get("timeout", 120),
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, (done.returncode, said, self.log())
        return said

    def start(self, script, *arguments):
        """A script in the background."""
        with open(self.state / "background", "w") as file:
            command = ["bash", str(SCRIPTS / f"{script}.sh"), *arguments]
            return subprocess.Popen(command, env=self.environment, cwd=self.home, stdout=file, stderr=file)

    def control(self, code):
        """Run Python inside the stand-ins' world, such as `gcloud.preempt("n")`."""
        command = [
            sys.executable,
            "-B",
            "-c",
            f"import gcloud, jobsets, slurm, systemctl; from pathlib import Path; {code}",
        ]
        done = subprocess.run(command, env=self.environment, cwd=STANDINS, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def fault(self, name):
        (self.state / "faults" / name).touch()

    def mend(self, name):
        (self.state / "faults" / name).unlink()

    def text(self, name):
        """A file of the state; empty if it is not there."""
        path = self.state / name
        return path.read_text() if path.exists() else ""

    def log(self):
        """What the tests show when they fail."""
        logs = [
            path
            for pattern in ("background", "trained", "supervisors.log", "hosts/*/journal", "jobsets/*/log-*")
            for path in self.state.glob(pattern)
        ]
        return "\n".join(f"{path}:\n{path.read_text()[-1500:]}" for path in logs)

    def called(self, part):
        """The calls that contain a text."""
        return [line for line in self.text("called").splitlines() if part in line]

    def running(self):
        """Processes that the stand-ins started and that still run."""
        mark = f"STANDIN_STATE={self.state}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found

    def until(self, ready, seconds=120):
        """Wait until `ready()`."""
        begun = time.monotonic()
        while not ready():
            assert time.monotonic() < begun + seconds, self.log()
            time.sleep(0.05)

    def close(self):
        """End all that is left."""
        mark = f"STANDIN_STATE={self.state}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    os.kill(int(process.name), 9)
        self.server.shutdown()
