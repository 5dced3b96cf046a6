"""RealEra: erase a concept from a text-to-image model and measure what is left.

The library is a house of rooms, each a folder whose `__init__` says what is in it and what it may import. Imports run
down only: settings, store, runtime, text, families, erasures, drawing, methods, judges, scores, report, exports and
commands.
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realera.erasures.artifact import Erasure, read_erasure
    from realera.methods.front import erase

__version__ = "0.1.0"
__all__ = ["Erasure", "__version__", "erase", "read_erasure"]

_FRONT = {
    "erase": "realera.methods.front",
    "Erasure": "realera.erasures.artifact",
    "read_erasure": "realera.erasures.artifact",
}


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for: `import realera` alone waits for no torch."""
    if name not in _FRONT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_FRONT[name]), name)


_TORCHVISION_ADVICE = "requires torchvision (not installed)"

# diffusers imports image processors that no pipeline of ours uses; transformers then advises
# to install torchvision, once for each.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: _TORCHVISION_ADVICE not in record.getMessage()
)
