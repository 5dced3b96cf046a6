"""Processes that heed Ctrl-C, whoever has started the tests."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Let what is started inside the block end at SIGINT.

    A script's shell lets what it starts with `&` ignore SIGINT, and each process passes that on to its children.
    A handler isn't passed on, unlike being deaf, so one in this process is enough; that needs no `preexec_fn`, which
    may deadlock where there are threads.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
