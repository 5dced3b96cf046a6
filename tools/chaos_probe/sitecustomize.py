"""Count a stage's passes of the UNet from outside: each one adds a byte to a file of its process.

Python imports this at its start where this folder is on PYTHONPATH. What was counted outlives SIGKILL.
"""

import os
import sys
from pathlib import Path
from typing import Any

FOLDER = "REALERA_PASSES"


def count_passes(folder: Path) -> None:
    """Let every pass that begins in this process be counted in `folder`."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    descriptor = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def count(module: Any, _arguments: Any) -> None:
        if type(module).__name__ == "UNet2DConditionModel":
            os.write(descriptor, b".")

    register_module_forward_pre_hook(count)


if FOLDER in os.environ and "resource_tracker" not in " ".join(sys.orig_argv):
    count_passes(Path(os.environ[FOLDER]))
