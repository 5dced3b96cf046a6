"""RealEra: erase a concept from a text-to-image model and measure what is left.

The modules are imported one by one (`from realera import sampling`), so that a
task which needs only torch does not wait for diffusers.
"""

import logging

__version__ = "0.1.0"

_TORCHVISION_ADVICE = "requires torchvision (not installed)"

# diffusers imports image processors that no pipeline of ours uses; transformers then advises
# to install torchvision, once for each.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: _TORCHVISION_ADVICE not in record.getMessage()
)
