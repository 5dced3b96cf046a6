"""Where and in which number format to compute: names of devices and dtypes, and what this machine has of them."""

import re

import torch

from realera.settings.errors import ConfigError, ModelError

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def resolve_device(name: str = "auto") -> torch.device:
    """Return the named device; `auto` takes a GPU if there is one.

    Raises:
        ModelError: the name is not a device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device(_best_device())
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ModelError(f"device: found {name!r}; accepted: auto, cpu, cuda, cuda:1, mps")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device: found 'mps'; this machine has none, accepted: auto, cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ModelError(f"device: found {name!r}; torch sees {count} CUDA devices here")
    return device


def check_num_processes(key: str, num_processes: int, device: str, num_gpus: int) -> None:
    """Refuse more processes than GPUs; a CPU serves any number.

    Args:
        key: of the parameter that was found, for the message.
        num_processes: on this machine.
        device: resolved: cpu, mps, cuda (all GPUs) or cuda:1 (that one).
        num_gpus: CUDA devices here.

    Raises:
        ConfigError: there are too many.
    """
    most = most_processes(device, num_gpus)
    if most is not None and num_processes > most:
        raise ConfigError(f"{key}: found {num_processes}; accepted on {device}: at most {most}, one for each GPU")


def most_processes(device: str, num_gpus: int) -> int | None:
    """Return how many processes a device serves: one on each GPU; None is any number.

    Args:
        device: as in `check_num_processes`.
        num_gpus: likewise.
    """
    return {"cpu": None, "cuda": num_gpus}.get(device, 1)


def process_device(rank: int, device: str, num_gpus: int) -> str:
    """Return the device of one of several processes on a machine.

    Args:
        rank: of the process, from 0.
        device: as in `check_num_processes`.
        num_gpus: likewise.
    """
    return f"cuda:{rank}" if device == "cuda" and rank < num_gpus else device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the named dtype; `auto` is float16 on CUDA and float32 elsewhere.

    Raises:
        ModelError: the name is not one of DTYPES.
    """
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ModelError(f"dtype: found {name!r}; accepted: auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
