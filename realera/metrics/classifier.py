"""An image-classification checkpoint as judge: which of its own classes an image shows."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

from realera import models
from realera.errors import ConfigError, ModelError

_SHOWN = 5


def open_classifier(
    id: str | Path,
    revision: str | None = None,
    device: str = "auto",
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Open an image-classification checkpoint in float32 and its image processor.

    Args:
        id: a folder (relative to the working folder or to the project) or a hub id, with weights in
            safetensors and its image processor's configuration. Code that a checkpoint brings is not run.
        revision: branch, tag or commit of a hub id.
        device: see `realera.models.resolve_device`.

    Raises:
        ModelError: nothing is there, it is no such model, or weights are missing or corrupt.
    """
    place = models._locate(id)
    models._check_folder(place, "config.json", "an image-classification model")
    where = {"revision": revision, "trust_remote_code": False}
    weights = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = models._load(AutoModelForImageClassification.from_pretrained, place, where | weights)
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{place}: weights are missing, among them {', '.join(missing[:3])}")
    # Named, because the other processors need torchvision, and say so when it is not installed.
    processor = models._load(AutoImageProcessor.from_pretrained, place, where | {"backend": "pil"})
    return model.eval().to(models.resolve_device(device)), processor


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
