"""What commands and stages say alike: one line for what the user did wrong, quiet libraries, a clean end.

Free of heavy imports; libraries are quieted where they are loaded already.
"""

import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from realera.settings.errors import RealEraError, first_line


@contextmanager
def one_line_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Print what the user did wrong, a full disk or memory as `error: ...` and exit with 1.

    An interrupt, also by SIGTERM, ends what is inside as an exception does, so that nothing
    half-written stays; it prints `interrupted` and exits with 130. Warnings become one line.
    """
    with one_line_warnings(), sigterm_as_interrupt():
        try:
            yield
        except KeyboardInterrupt as error:
            _say(f"\n{interrupted}")  # a progress bar may stand on the line
            raise SystemExit(130) from error
        except (RealEraError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
                raise
            for line in describe(error).splitlines():
                _say(f"error: {line}")
            raise SystemExit(1) from error


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print the project's warnings without source line, and none of those for developers."""
    with warnings.catch_warnings():
        warnings.showwarning = _print_warning
        yield


@contextmanager
def stage_errors() -> Iterator[None]:
    """Print an error of the user's, or a full disk, as one line and exit with 1; warnings likewise."""
    quiet_libraries()
    with one_line_errors("interrupted; start the stage again and it goes on from its last checkpoint"):
        yield


def quiet_libraries() -> None:
    """Hide loading bars and advice of the libraries that are imported; errors and our warnings stay."""
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # tells which processes it ends
    for name in ("diffusers.utils", "transformers.utils"):
        if name in sys.modules:
            library = sys.modules[name].logging  # type: ignore[attr-defined]
            library.set_verbosity_error()
            library.disable_progress_bar()


def describe(error: BaseException) -> str:
    """Return an error's message; the system's own ones begin with the file, as ours do."""
    if isinstance(error, RealEraError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename}: {os.strerror(error.errno)}" if error.filename else os.strerror(error.errno)
    if _is_out_of_memory(error):
        return "out of memory; smaller batches, fewer samples or fewer processes need less"
    return first_line(error)


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell by the text: torch has no class of its own for a CPU's memory."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt inside the block, so that what is open is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        _say("warning: " + re.sub(r"\s+", " ", str(message)))


def _say(line: str) -> None:
    print(line, file=sys.stderr)
