"""Keep onnxruntime out where no detector needs it: diffusers imports it whenever it loads a model.

onnxruntime 1.32.0 notes an id of the machine and its own start in the user's home when it is merely imported
(findings/onnxruntime_telemetry.sh); `ORT_DISABLE_TELEMETRY=1`, set before, stops that.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import diffusers.pipelines

_NAME = "OnnxRuntimeModel"


class _StandIn:
    """No model is one."""


@contextmanager
def without_onnxruntime() -> Iterator[None]:
    """Let diffusers load models without its class for ONNX, whose module imports onnxruntime.

    Only where that class is not there yet; afterwards it can be had as before.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # diffusers may find another way to it
    modules = [module for module in (diffusers, diffusers.pipelines) if _NAME not in vars(module)]
    for module in modules:
        setattr(module, _NAME, _StandIn)
    try:
        yield
    finally:
        for module in modules:
            delattr(module, _NAME)
