"""An image-classification checkpoint as judge: which of its own classes an image shows.

`realera.models.open_classifier` opens it.
"""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from realera.errors import ConfigError

_SHOWN = 5


def labels(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of the model's classes, in the order of its outputs."""
    names = model.config.id2label
    return tuple(str(names[index]) for index in range(len(names)))


def check_labels(found: Collection[str], wanted: Sequence[str], source: str) -> None:
    """Refuse a checkpoint that cannot answer what is asked.

    Args:
        found: the checkpoint's classes.
        wanted: those that are asked for, named exactly as the checkpoint names them.
        source: the checkpoint and the key that names it, for the error.

    Raises:
        ConfigError: classes are missing, or several outputs have the same wanted name.
    """
    if missing := [name for name in wanted if name not in found]:
        raise ConfigError(f"{source}: no class {_listed(missing)}; accepted: classes that it has, {_listed(found)}")
    times = Counter(found)
    if twice := [name for name in wanted if times[name] > 1]:
        raise ConfigError(f"{source}: found several classes {twice[0]!r}; accepted: each of the wanted classes once")


@torch.no_grad()
def class_probabilities(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: Sequence[Image.Image],
    batch_size: int = 64,
) -> np.ndarray:
    """Return float64 [num_images, num_labels]: the softmax of the model's logits, in the order of `labels`."""
    parts = [
        _batch(model, processor, images[start : start + batch_size]) for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(parts) if parts else np.empty((0, len(labels(model))))


def _batch(model: PreTrainedModel, processor: BaseImageProcessor, images: Sequence[Image.Image]) -> np.ndarray:
    inputs = processor([image.convert("RGB") for image in images], return_tensors="pt")
    logits = model(pixel_values=inputs["pixel_values"].to(model.device, model.dtype)).logits
    return logits.double().softmax(dim=-1).cpu().numpy()


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
