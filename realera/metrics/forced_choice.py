"""The judge's forced choices: which of a list of words does an image show?

The raw probabilities are kept, so that another reading of them judges no image again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from tqdm import tqdm
from transformers import CLIPModel, CLIPProcessor

from realera.concepts import Preset
from realera.errors import ArtifactError, ConfigError
from realera.evaluation import Subject
from realera.images import decode_png
from realera.metrics.clip import divide_probability, image_features, text_features
from realera.prompts import fill

METRICS = {
    "erase": ("classes", "anchor"),
    "preserve": ("classes",),
    "synonym": ("classes", "anchor"),
    "unseen": ("unseen",),
    "anchor": ("classes",),
}
"""Group of an image -> the forced choices put to it."""

SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("image_id", pa.string()),
        ("group", pa.string()),
        ("word", pa.string()),
        ("parent", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("metric", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float32())),
    ]
)
"""scores.parquet: one row an image and forced choice."""


@dataclass(frozen=True)
class Choice:
    """A forced choice: its words and the unit vectors [num_labels, width] of their texts."""

    labels: tuple[str, ...]
    texts_ld: torch.Tensor


def choice_labels(preset: Preset, classes: Sequence[str], unseen: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the words of each forced choice, without repeats.

    "classes": the classes, then targets that are not among them (section 5.1). "unseen": the
    same with concepts that no preserve set holds. "anchor": the classes, targets and anchors,
    which tells how often the anchor is what appears.

    Raises:
        ConfigError: there is nothing to choose beside the targets.
    """
    if not set(classes) - set(preset.targets):
        raise ConfigError(f"classes: found {list(classes)}; accepted: a list with words beside the targets")
    lists = {
        "classes": (*classes, *preset.targets),
        "unseen": (*unseen, *preset.targets),
        "anchor": (*classes, *preset.targets, *preset.anchors),
    }
    return {metric: tuple(dict.fromkeys(words)) for metric, words in lists.items()}


def select_subjects(images: pa.Table, subjects: Iterable[Subject], source: str | Path) -> pa.Table:
    """Return the rows of an image table that show the subjects.

    Raises:
        ArtifactError: a subject has no image, or a column is missing.
    """
    found = list(zip(*(images[name].to_pylist() for name in ("group", "word", "parent")), strict=True))
    wanted = [(subject.group, subject.word, subject.parent) for subject in subjects]
    missing = [f"{word!r} ({group})" for group, word, parent in wanted if (group, word, parent) not in set(found)]
    if missing:
        raise ArtifactError(f"{source}: no images of {', '.join(missing)}; the preset needs them")
    return images.take([row for row, key in enumerate(found) if key in set(wanted)])


def read_choices(
    model: CLIPModel, processor: CLIPProcessor, labels: Mapping[str, Sequence[str]], template: str
) -> dict[str, Choice]:
    """Encode the texts of each forced choice, once for all images.

    Args:
        model: the judge.
        processor: its processor.
        labels: words of each forced choice.
        template: text with {name}, such as "a photo of the {name}".
    """
    return {
        metric: Choice(tuple(words), text_features(model, processor, [fill(template, word)[0] for word in words]))
        for metric, words in labels.items()
    }


def judge_images(
    model: CLIPModel,
    processor: CLIPProcessor,
    images: pa.Table,
    choices: Mapping[str, Choice],
    drawn_by: str,
    source: str | Path,
    batch_size: int = 64,
    progress: bool = False,
) -> pa.Table:
    """Put to each image the forced choices of its group; return rows of `SCORES`.

    Args:
        model: the judge.
        processor: its processor.
        images: of `realera.images.SCHEMA`.
        choices: from `read_choices`.
        drawn_by: "base" or "erased", the column `model`.
        source: the images' file, for errors.
        batch_size: images decoded and judged at once.
        progress: show a bar on stderr.

    Raises:
        ArtifactError: an image cannot be decoded, or its group or parent is not known.
    """
    rows: list[dict] = []
    with tqdm(total=images.num_rows, unit="image", desc=f"judge {drawn_by}", disable=not progress) as bar:
        for start in range(0, images.num_rows, batch_size):
            batch = images.slice(start, batch_size).to_pylist()
            pictures = [decode_png(image["png"], image["image_id"], str(source)) for image in batch]
            vectors_nd = image_features(model, processor, pictures, batch_size)
            for image, vector_d in zip(batch, vectors_nd, strict=True):
                rows += _scores(model, image, vector_d, choices, drawn_by, source)
            bar.update(len(batch))
    return pa.Table.from_pylist(rows, schema=SCORES)


def _scores(
    model: CLIPModel,
    image: dict,
    vector_d: torch.Tensor,
    choices: Mapping[str, Choice],
    drawn_by: str,
    source: str | Path,
) -> Iterator[dict]:
    if image["group"] not in METRICS:
        raise ArtifactError(f"{source}: group: found {image['group']!r}; accepted: {', '.join(METRICS)}")
    known = {name: value for name, value in image.items() if name != "png"}
    for metric in METRICS[image["group"]]:
        choice = choices[metric]
        if image["parent"] not in choice.labels:
            raise ArtifactError(f"{source}: parent: found {image['parent']!r}; accepted: {', '.join(choice.labels)}")
        probabilities = divide_probability(model, vector_d[None], choice.texts_ld)[0]
        chosen = {"metric": metric, "labels": list(choice.labels), "probabilities": probabilities.tolist()}
        yield {"model": drawn_by, **known, **chosen}
