"""Several processes on one piece of work, by torch.distributed's own launcher or by one of the user's.

torchrun, `accelerate launch` and what else starts processes for torch.distributed name each process in the
environment: RANK of WORLD_SIZE, and LOCAL_RANK of LOCAL_WORLD_SIZE on its machine. So do the processes that
`on_processes` starts; what runs in them need not know who has started them.
"""

import logging
import os
import signal
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from types import FrameType

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]
from tqdm import tqdm

from realera.runtime import devices
from realera.runtime.console import one_line_warnings, quiet_libraries, sigterm_as_interrupt
from realera.settings.errors import ConfigError, RealEraError
from realera.store.scratch import scratch

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_PATIENCE = timedelta(days=7)
"""Longer than any wait for another run of the same work; a process that is gone ends the others at once."""

_GRACE_SECONDS = 2.0


def num_processes() -> int:
    """Return how many processes share the work of this one, itself included.

    Raises:
        ConfigError: a launcher has set only a part of `NAMES`, or no number.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1":
        return 1
    for name in NAMES:
        if not (found := os.environ.get(name, "nothing")).isdecimal():
            raise ConfigError(f"{name}: found {found}; WORLD_SIZE is {count!r}, so a number is needed")
    return int(count)


def is_main() -> bool:
    """Say whether this is the process that writes what all have made."""
    return num_processes() == 1 or os.environ["RANK"] == "0"


def own_device(device: str) -> str:
    """Return the device of this process for `model.device`: of several processes each has a GPU of its own.

    Raises:
        ConfigError: there is none for it.
    """
    count = num_processes()
    if count == 1:
        return device
    local_count = int(os.environ.get("LOCAL_WORLD_SIZE", 1 + int(os.environ["LOCAL_RANK"])))
    target, num_gpus = str(devices.resolve_device(device)), torch.cuda.device_count()
    devices.check_num_processes("lora.num_processes", local_count, target, num_gpus)
    return devices.process_device(int(os.environ["LOCAL_RANK"]), target, num_gpus)


@contextmanager
def shared_scratch(stage: str, key: str, device: str) -> Iterator[Path]:
    """Yield `realera.store.scratch.scratch` to every process; the main one holds it.

    On several machines it must lie where all see it.

    Args:
        stage: see `realera.store.scratch.scratch`.
        key: likewise.
        device: `model.device`, for the way in which the processes speak to each other.
    """
    if num_processes() == 1:
        with scratch(stage, key) as folder:
            yield folder
        return
    own = devices.resolve_device(own_device(device))
    state = PartialState(cpu=own.type == "cpu", timeout=_PATIENCE)
    if state.is_main_process:
        with scratch(stage, key) as folder:
            broadcast_object_list([folder])
            yield folder
    else:
        (folder,) = broadcast_object_list([None])
        yield folder
    state.destroy_process_group()


def on_processes(work: Callable[..., None], arguments: tuple, count: int, key: str) -> None:
    """Run `work(*arguments)` on each of `count` processes of this machine; all end when one fails.

    Args:
        work: a module's function.
        arguments: picklable.
        count: number of processes.
        key: of the parameter that sets it, for the message.

    Raises:
        RealEraError: what the user did wrong, as a process has raised it, or how one was ended.
        ChildFailedError: another exception in a process.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice at import has been given once
    problems = get_context("spawn").SimpleQueue()
    with _quiet_launcher() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, _in_process)(problems, work, arguments)
        except SignalException as error:
            raise KeyboardInterrupt from error
        except ChildFailedError as error:
            if not problems.empty():
                raise problems.get() from None
            _, failure = error.get_first_failure()
            if failure.exitcode == 1:
                raise
            ended = failure.signal_name() if failure.exitcode < 0 else f"code {failure.exitcode}"
            again = "start the stage again and it goes on from its last checkpoint"
            raise RealEraError(f"{key}: a process was ended by {ended}; {again}") from error


@contextmanager
def problems_sent(problems: "SimpleQueue[Exception]") -> Iterator[None]:
    """Send what the user did wrong to the parent, which says it once, and end this process; libraries are quiet."""
    quiet_libraries()
    signal.signal(signal.SIGINT, _interrupt_once)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which one that is killed leaves behind
    with one_line_warnings(), sigterm_as_interrupt():
        try:
            yield
        except KeyboardInterrupt as error:
            raise SystemExit(130) from error
        except torch.OutOfMemoryError as error:
            problems.put(MemoryError(str(error)))
            raise SystemExit(1) from error
        except (RealEraError, OSError, MemoryError) as error:
            problems.put(error)
            raise SystemExit(1) from error


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt and heed no other: the kernel tells of a parent's end once for each of its threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _in_process(problems: "SimpleQueue[Exception]", work: Callable[..., None], arguments: tuple) -> None:
    with problems_sent(problems):
        if not is_main():
            warnings.simplefilter("ignore")  # the main process gives the same ones
        try:
            work(*arguments)
        except RuntimeError:
            time.sleep(_GRACE_SECONDS)  # the connection to one that has ended: the launcher shall see that one first
            raise


@contextmanager
def _quiet_launcher() -> Iterator[str]:
    """Yield a folder for the launcher's files; inside the block nothing is logged, after it signals do as before."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in before.items():
            signal.signal(number, handler)
