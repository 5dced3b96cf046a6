"""Run a command and add a line of JSON to a log: its stage, seconds and peak memory.

    python tools/measure.py LOG COMMAND ARGUMENT...

The peak is what the kernel counted, not a sample: the largest resident set of the command or of
a process that it waited for, with the pages of files that it had mapped. So it needs no more
than this small process beside the command, and holds for commands that work in one process.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of ru_maxrss."""


def measure(command: list[str]) -> dict[str, float | int | str]:
    """Run a command to its end, also when the user interrupts it.

    Returns:
        stage: the DVC stage that runs it, else the command; seconds by the clock; cpu_seconds of
        all its threads; peak_bytes; exit_code, negative for a signal.
    """
    started = time.monotonic()
    child = subprocess.Popen(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the child, which says what it does about it
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return {
        "stage": os.environ.get("DVC_STAGE") or " ".join(command),
        "seconds": time.monotonic() - started,
        "cpu_seconds": _cpu_seconds(usage),
        "peak_bytes": usage.ru_maxrss * BYTES,
        "exit_code": child.returncode,
    }


def _cpu_seconds(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def main(log: str, *command: str) -> int:
    """Measure a command; return its exit code."""
    found = measure(list(command))
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    return abs(int(found["exit_code"]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
