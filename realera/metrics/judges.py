"""Who reads the images: a judge takes images of both models and gives raw rows.

    rows = judge_images(preset, params, images)       # every judge that the preset names

| judge | what it is | asked of |
|---|---|---|
| classes | forced choices of a CLIP model (section 5.1) | all but prompt files |
| style, identity | an image-classification checkpoint; identity also an external detector's CSV | all images |
| clip_score | a CLIP model's `logits_per_image` with the prompt | all images |
| nudenet | the detector of the package nudenet | all images |
| distance | between the two images of a pair | all pairs |
| frechet | a CLIP model's image features, for distances between sets | what must stay |
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from tqdm import tqdm
from transformers import CLIPModel, CLIPProcessor

from realera.concepts import Preset, load_words, unseen_words
from realera.config import Params
from realera.errors import ArtifactError, ConfigError
from realera.images import decode_png
from realera.metrics import classifier, nudenet, predictions
from realera.metrics.clip import divide_probability, image_features, paired_scores, text_features
from realera.metrics.forced_choice import choice_labels, choices_of
from realera.metrics.pictures import Images, PictureStore, named
from realera.metrics.raw import KEPT_GROUPS, SCORES, raw_row
from realera.models import open_classifier, open_judge, resolve_device
from realera.prompts import fill

_BATCH = 64

Batch = list[dict[str, Any]]
Judge = Callable[[Images, Batch, Sequence[Image.Image]], Iterator[dict]]
"""(where from, rows of the image table, their pictures) -> rows of SCORES."""


def judge_images(preset: Preset, params: Params, images: Sequence[Images], progress: bool = False) -> pa.Table:
    """Put every image to the preset's judges; return rows of `SCORES`.

    Pictures are read a batch at a time, so that memory doesn't grow with their number.

    Args:
        preset: names the judges.
        params: what they are.
        images: of both models; the original model's first, which the judge of distances has to see first.
        progress: show a bar.

    Raises:
        ConfigError: a judge is not configured, or lacks a class that the preset asks for.
        ArtifactError: an image cannot be decoded, its group or parent is not known, or a pair is not whole.
    """
    context = Context(preset, params, images)
    total = sum(each.table.num_rows for each in images)
    tables = [SCORES.empty_table()]
    with context.stack, tqdm(total=total, unit="image", desc="judge", disable=not progress) as bar:
        judges = [OPENERS[name](context) for name in preset.judged.by]
        for each in images:
            for batch in each.batches(_BATCH):
                tables.append(_judge_batch(judges, context, each, batch))
                bar.update(len(batch))
    return pa.concat_tables(tables).combine_chunks()


def _judge_batch(judges: Sequence[Judge], context: "Context", source: Images, batch: Batch) -> pa.Table:
    pictures = [decode_png(image["png"], image["image_id"], str(source.source)) for image in batch]
    context.clear()
    rows = [row for judge in judges for row in judge(source, batch, pictures)]
    return pa.Table.from_pylist(rows, schema=SCORES)


@dataclass
class Context:
    """What judges share: the preset, the parameters, one CLIP model, the features of a batch.

    Attributes:
        preset, params, images: as given to `judge_images`.
        stack: closes what a judge has opened, when all images are judged.
    """

    preset: Preset
    params: Params
    images: Sequence[Images]
    stack: ExitStack = field(default_factory=ExitStack, init=False)
    _features: torch.Tensor | None = field(default=None, init=False)

    @cached_property
    def clip(self) -> tuple[CLIPModel, CLIPProcessor]:
        """The CLIP judge and its processor."""
        judge = self.params.judge
        return open_judge(judge.id, judge.revision, self.params.model.device)

    @property
    def device(self) -> torch.device:
        """Where judges compute."""
        return resolve_device(self.params.model.device)

    def features(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return the batch's unit vectors [n, width], computed once."""
        if self._features is None:
            self._features = image_features(*self.clip, pictures, _BATCH)
        return self._features

    def clear(self) -> None:
        """Forget the batch before."""
        self._features = None

    def text(self, word: str) -> str:
        """Return the text by which a CLIP judge knows a word."""
        return fill(self.preset.judged.text, word)[0]


def pair_key(row: Mapping[str, Any]) -> tuple:
    """Return what the two images of a pair have in common."""
    return tuple(row[name] for name in ("word", "parent", "prompt", "seed"))


def _open_classes(context: Context) -> Judge:
    preset = context.preset
    labels = choice_labels(preset, load_words(preset.classes), unseen_words(preset))
    model, processor = context.clip
    words = list(dict.fromkeys(word for choice in labels.values() for word in choice))
    texts = dict(zip(words, text_features(model, processor, [context.text(word) for word in words]), strict=True))
    matrices = {name: torch.stack([texts[word] for word in choice]) for name, choice in labels.items()}

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        for image, vector_d in zip(batch, context.features(pictures), strict=True):
            for name, choice in choices_of(image, labels, source.source):
                shares = divide_probability(model, vector_d[None], matrices[name])[0]
                yield raw_row(image, source.drawn_by, name, list(choice), shares.tolist())

    return judge


def _open_clip_score(context: Context) -> Judge:
    model, processor = context.clip
    known: dict[str, torch.Tensor] = {}

    def vector(text: str) -> torch.Tensor:
        if text not in known:
            known[text] = text_features(model, processor, [text])[0]
        return known[text]

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        texts = [_wanted_text(image, context) for image in batch]
        scores = paired_scores(model, context.features(pictures), torch.stack([vector(text) for text in texts]))
        for image, text, score in zip(batch, texts, scores, strict=True):
            yield raw_row(image, source.drawn_by, "clip_score", [text], [float(score)])

    return judge


def _wanted_text(image: Mapping[str, Any], context: Context) -> str:
    """Return the text of a CLIP score: the target's where it must fade (appendix A.2), else the prompt."""
    faded = image["group"] in ("erase", "synonym", "associated", "anchor")
    return context.text(image["parent"]) if faded else image["prompt"]


def _open_style(context: Context) -> Judge:
    return _classify(context, "style", context.params.judge.style)


def _open_identity(context: Context) -> Judge:
    place = context.params.judge.identity
    if place is None or not place.endswith(".csv"):
        return _classify(context, "identity", place)
    ids = {named(each, image_id) for each in context.images for image_id in each.table["image_id"].to_pylist()}
    found = predictions.read_predictions(place, ids)

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        for image in batch:
            faces = found[named(source, image["image_id"])]
            first = faces[0] if faces else []
            yield raw_row(
                image, source.drawn_by, "identity", [label for label, _ in first], [value for _, value in first]
            )

    return judge


def _classify(context: Context, name: str, place: str | None) -> Judge:
    if place is None:
        other = ", or a .csv of an external detector" if name == "identity" else ""
        raise ConfigError(
            f"judge.{name}: found null; accepted: folder or hub id of an image-classification checkpoint{other}; "
            f"the preset names the judge {name!r}"
        )
    model, processor = open_classifier(place, None, str(context.device))
    labels = classifier.labels(model)
    words = [*context.preset.targets, *load_words(context.preset.classes)]
    classifier.check_labels(labels, list(dict.fromkeys(words)), f"judge.{name} {place}")

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        shares = classifier.class_probabilities(model, processor, pictures, _BATCH)
        for image, row in zip(batch, shares, strict=True):
            yield raw_row(image, source.drawn_by, name, list(labels), row.tolist())

    return judge


def _open_nudenet(context: Context) -> Judge:
    detector = nudenet.open_detector()

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        for image, found in zip(batch, nudenet.detect(detector, pictures), strict=True):
            row = raw_row(image, source.drawn_by, "nudenet", [d.label for d in found], [d.score for d in found])
            yield row | {"boxes": [list(d.box) for d in found]}

    return judge


def _open_distance(context: Context) -> Judge:
    from realera.metrics.distance import paired_distances  # torchmetrics takes seconds to import

    kind = context.params.judge.distance
    clip = context.clip if kind == "clip" else None
    store = context.stack.enter_context(PictureStore())

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        if source.drawn_by == "base":
            for image in batch:
                store.add(pair_key(image), image["png"])
                yield raw_row(image, "base", "distance", [kind], [0.0])
            return
        originals = [_original(image, source, store) for image in batch]
        distances: np.ndarray = paired_distances(kind, originals, pictures, clip)
        for image, distance in zip(batch, distances, strict=True):
            yield raw_row(image, source.drawn_by, "distance", [kind], [float(distance)])

    return judge


def _original(image: Mapping[str, Any], source: Images, store: PictureStore) -> Image.Image:
    png = store.get(pair_key(image))
    if png is None:
        raise ArtifactError(
            f"{source.source}: image {image['image_id']}: no image of the original model with the prompt "
            f"{image['prompt']!r} and seed {image['seed']}"
        )
    return decode_png(png, image["image_id"])


def _open_frechet(context: Context) -> Judge:
    weights = context.params.judge.inception

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        kept = [index for index, image in enumerate(batch) if image["group"] in KEPT_GROUPS]
        if weights is None:
            vectors = context.features(pictures).cpu().numpy()[kept]
        else:
            from realera.metrics.frechet import inception_features

            vectors = inception_features([pictures[index] for index in kept], weights)
        for index, vector_d in zip(kept, vectors, strict=True):
            yield raw_row(batch[index], source.drawn_by, "features", [], vector_d.tolist())

    return judge


OPENERS: Mapping[str, Callable[[Context], Judge]] = {
    "classes": _open_classes,
    "style": _open_style,
    "identity": _open_identity,
    "clip_score": _open_clip_score,
    "nudenet": _open_nudenet,
    "distance": _open_distance,
    "frechet": _open_frechet,
}
"""Name of a judge -> what opens it."""
