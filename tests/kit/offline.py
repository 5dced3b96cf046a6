"""A machine without a network: processes that note and refuse every connection, in a namespace without interfaces."""

import shutil
import subprocess
from pathlib import Path

GUARD = """
import os, socket, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and arguments[0].family == socket.AF_UNIX:
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") or event.startswith("socket.gethost"):
        what = arguments[-1]
    elif event == "socket.getaddrinfo":
        what = arguments[:2]
    else:
        return
    with open(os.environ["CONNECTIONS"], "a") as file:
        file.write(f"{event} {what} by {sys.argv}\\n")
    raise OSError(f"no network here: {event} {what}")

sys.addaudithook(refuse)
"""
"""A sitecustomize: Python runs it in every process, before anything else; a hook can't be taken off again."""


def guard(folder: Path) -> tuple[dict[str, str], Path]:
    """Return an environment whose Python processes note and refuse every connection, and the note."""
    (folder / "guard").mkdir()
    (folder / "guard/sitecustomize.py").write_text(GUARD)
    note = folder / "connections"
    note.touch()
    return {"PYTHONPATH": str(folder / "guard"), "CONNECTIONS": str(note), "PYTHONNOUSERSITE": "1"}, note


def without_network() -> list[str]:
    """Return what starts a command in a network namespace without interfaces; nothing where that is not allowed."""
    for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which(prefix[0]) and run(*prefix, "true").returncode == 0:
            return prefix
    return []


def run(*command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def unaware(environment: dict[str, str]) -> dict[str, str]:
    """Return a user's environment: nothing tells the libraries and DVC that they are offline."""
    told = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DVC_NO_ANALYTICS", "CI")
    return {name: value for name, value in environment.items() if name not in told}
