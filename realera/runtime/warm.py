"""Start the stages of one `dvc repro` without importing the libraries anew in each of them.

    python -m realera.runtime.warm stages/encode.py airplane     # in dvc.yaml, for python stages/encode.py airplane

torch, diffusers and transformers take seconds to import, most stages less than that to work. So the first stage of a
run leaves a process that has imported them and waits; the next ones ask it for a fork, in which the script runs as it
would have run alone: with its own arguments, folder, environment, standard streams, exit code, and the project's code
read anew. The waiting process belongs to one run of DVC and ends with it. Ctrl-C reaches a fork as any other process
of the terminal's group, SIGTERM is passed on, and where whoever asked is gone, the fork is ended.

By hand a script runs as it is, and so it does under DVC where there is a GPU (a driver's context does not outlive a
fork), elsewhere than on Linux, with REALERA_WARM=0, and whenever anything here does not work. Nothing of a result
depends on it. Standard library alone: this is what a stage waits for.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

SWITCH = "REALERA_WARM"
GPUS = ("/dev/nvidiactl", "/dev/kfd")
LIBRARIES = (
    "torch",
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "safetensors.torch",
    "typer",
    "pydantic",
    "yaml",
    "PIL.Image",
    "tqdm",
    "accelerate",
    "peft",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
)
"""What stages import of others; one that is missing is no loss."""

_PATIENCE_S = 1.0
_TICK_S = 0.02
_GRACE_S = 5.0
_LENGTH = struct.Struct("<I")
_CREDENTIALS = struct.Struct("3i")


def main(arguments: list[str]) -> int:
    """Run a script with its arguments; return its exit code."""
    if arguments[:1] == ["--serve"]:
        return _serve(int(arguments[1]), arguments[2])
    if not arguments:
        print("usage: python -m realera.runtime.warm SCRIPT [ARGUMENT]...", file=sys.stderr)
        return 2
    if is_wanted() and (code := _ask(arguments)) is not None:
        return code
    _run(arguments)
    return 0


def is_wanted() -> bool:
    """Say whether a fork may be asked for: in a stage that DVC runs, on Linux, without a GPU."""
    return (
        sys.platform == "linux"
        and "DVC_STAGE" in os.environ
        and os.environ.get(SWITCH, "1") != "0"
        and not any(Path(path).exists() for path in GPUS)
    )


def _run(arguments: list[str]) -> None:
    """Run a script in this process, as `python SCRIPT ARGUMENT...` does."""
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    for name in [name for name in sys.modules if name.partition(".")[0] == "realera"]:
        del sys.modules[name]  # read anew, should it have changed since this process was started
    runpy.run_path(arguments[0], run_name="__main__")


# --- who asks


def _ask(arguments: list[str]) -> int | None:
    """Return a fork's exit code; None where there is none to be had, which is then started for the next stage."""
    with contextlib.suppress(OSError, ValueError):
        pid, started = _run_of_dvc()
        address = _address(pid, started)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(address)
            except ConnectionRefusedError:
                _start_server(pid, started)
                return None
            if not _is_ours(connection):
                return None
            asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
            content = json.dumps(asked).encode()
            socket.send_fds(connection, [_LENGTH.pack(len(content))], [0, 1, 2])
            connection.sendall(content)
            answers = connection.makefile("r")
            if not (worker := answers.readline()):
                return None
            return _wait(int(worker), answers)
    return None


def _wait(worker: int, answers: TextIO) -> int:
    """Return the exit code that the server tells; signals to this process are the fork's business."""

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's reaches the fork itself
    signal.signal(signal.SIGTERM, pass_on)
    told = answers.readline()
    if not told:
        print("error: the process that had the libraries loaded is gone; run the stage again", file=sys.stderr)
        return 1
    return int(told)


def _run_of_dvc() -> tuple[int, str]:
    """Return the process of DVC that runs this stage, and when it was started, which tells it from a later one.

    Raises:
        OSError: a process is gone, or another user's.
    """
    pid = os.getppid()
    while b"DVC_STAGE=" in Path(f"/proc/{pid}/environ").read_bytes():  # a shell in between
        pid = int(_status(pid)[1])
    return pid, _status(pid)[19]


def _status(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat that follow the name, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def _address(pid: int, started: str) -> str:
    """Return the name of a socket that is no file and is gone with its process."""
    return f"\0realera-{os.getuid()}-{pid}-{started}"


def _start_server(pid: int, started: str) -> None:
    command, nowhere = [sys.executable, "-m", "realera.runtime.warm", "--serve", str(pid), started], subprocess.DEVNULL
    # In the same group as this stage: what ends all of a terminal's processes ends it, too.
    subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)


def _is_ours(connection: socket.socket) -> bool:
    """Say whether the process at the other end is of the same user."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(found)[1] == os.getuid()


# --- who is asked


def _serve(pid: int, started: str) -> int:
    """Import, then fork for each stage that asks, until the run of DVC has ended; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(_address(pid, started))
        except OSError:  # another one waits already
            return 0
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):
                import_module(name)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for the forks
        listener.listen()
        while _is_there(pid, started):
            if select.select([listener], [], [], _PATIENCE_S)[0]:
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    _attend(connection)
                connection.close()
    return 0


def _is_there(pid: int, started: str) -> bool:
    try:
        status = _status(pid)
    except OSError:
        return False
    return status[19] == started and status[0] != "Z"


def _attend(connection: socket.socket) -> NoReturn:
    """Fork for one stage, and wait for the fork's end or for the end of who asked."""
    code = 1
    with contextlib.suppress(OSError, ValueError, KeyError):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if _is_ours(connection):
            head, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
            asked = json.loads(_received(connection, _LENGTH.unpack(head)[0]))
            if (worker := os.fork()) == 0:
                connection.close()
                _work(asked, streams)
            connection.sendall(f"{worker}\n".encode())
            code = _end_of(worker, connection)
            connection.sendall(f"{code}\n".encode())
    os._exit(0)


def _received(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length and (part := connection.recv(length - len(content))):
        content += part
    return content


def _end_of(worker: int, connection: socket.socket) -> int:
    """Return a fork's exit code as a shell tells it; the fork is ended when nobody waits for it any more."""
    deadline = None
    while True:
        pid, status = os.waitpid(worker, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if deadline is None and select.select([connection], [], [], _TICK_S)[0]:
            os.kill(worker, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_S
        elif deadline is not None:
            time.sleep(_TICK_S)
            if time.monotonic() > deadline:
                os.kill(worker, signal.SIGKILL)


def _work(asked: dict, streams: list[int]) -> NoReturn:
    """Become the process of a script."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, max(streams) + 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        _run(asked["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _finish(code)
    raise AssertionError


def _finish(code: int) -> NoReturn:
    """End a fork: what was registered to be done at the end is done, what the server holds is not taken down."""
    import atexit

    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
