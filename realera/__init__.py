"""RealEra: erase a concept from a text-to-image model and measure what is left.

The library is a house of rooms, each a folder whose `__init__` says what is in it and what it may import. Imports run
down only: settings, store, runtime, text, families, erasures, drawing, methods, judges, scores, report, exports and
commands.
"""

import logging

__version__ = "0.1.0"

_TORCHVISION_ADVICE = "requires torchvision (not installed)"

# diffusers imports image processors that no pipeline of ours uses; transformers then advises
# to install torchvision, once for each.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: _TORCHVISION_ADVICE not in record.getMessage()
)
