"""An image-classification checkpoint as judge, of styles and of identities: which of its own classes an image shows."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from realera.judges.context import BATCH, Batch, Context, Judge
from realera.judges.pictures import Images
from realera.judges.raw import raw_row
from realera.runtime.devices import resolve_device
from realera.settings.errors import ConfigError
from realera.settings.presets import load_words
from realera.store.checkpoints import check_folder, load, locate, refuse_missing

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


def open_style(context: Context) -> Judge:
    """Open the judge of styles, `judge.style`."""
    return open_named(context, "style", context.params.judge.style)


def open_named(context: Context, name: str, place: str | None) -> Judge:
    """Open a checkpoint as the judge `name`; `place` is what params.yaml has for it.

    Raises:
        ConfigError: there is none, or it lacks a class that the preset asks for.
    """
    if place is None:
        other = ", or a .csv of an external detector" if name == "identity" else ""
        raise ConfigError(
            f"judge.{name}: found null; accepted: folder or hub id of an image-classification checkpoint{other}; "
            f"the preset names the judge {name!r}"
        )
    model, processor = open_classifier(place, None, str(context.device))
    names = labels(model)
    targets = map(context.preset.called, context.preset.targets)
    words = [*targets, *load_words(context.preset.classes)]
    check_labels(names, list(dict.fromkeys(words)), f"judge.{name} {place}")

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        shares = class_probabilities(model, processor, pictures, BATCH)
        for image, row in zip(batch, shares, strict=True):
            yield raw_row(image, source.drawn_by, name, list(names), row.tolist())

    return judge


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
        device: see `resolve_device`.

    Raises:
        ModelError: nothing is there, it is no such model, or weights are missing or corrupt.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification  # takes a while

    place = locate(id)
    check_folder(place, "config.json", "an image-classification model")
    where = {"revision": revision, "trust_remote_code": False}
    weights = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = load(AutoModelForImageClassification.from_pretrained, place, where | weights)
    refuse_missing(place, report["missing_keys"])
    # Named, because the other processors need torchvision, and say so when it is not installed.
    processor = load(AutoImageProcessor.from_pretrained, place, where | {"backend": "pil"})
    return model.eval().to(resolve_device(device)), processor
