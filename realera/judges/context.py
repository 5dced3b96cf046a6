"""What the judges share: the preset, the parameters, one CLIP model, the features of a batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from realera.judges.clip import image_features, open_clip
from realera.judges.pictures import Images
from realera.runtime.devices import resolve_device
from realera.settings.config import Params
from realera.settings.presets import Preset
from realera.text.prompts import fill

BATCH = 64

Batch = list[dict[str, Any]]
Judge = Callable[[Images, Batch, Sequence[Image.Image]], Iterator[dict]]
"""(where from, rows of the image table, their pictures) -> rows of SCORES."""


@dataclass
class Context:
    """What judges share: the preset, the parameters, one CLIP model, the features of a batch.

    Attributes:
        preset, params, images, originals: as given to `realera.judges.judging.judge_images`.
        stack: closes what a judge has opened, when all images are judged.
    """

    preset: Preset
    params: Params
    images: Sequence[Images]
    originals: Sequence[Images] = ()
    stack: ExitStack = field(default_factory=ExitStack, init=False)
    _features: torch.Tensor | None = field(default=None, init=False)

    @cached_property
    def clip(self) -> tuple[CLIPModel, CLIPProcessor]:
        """The CLIP judge and its processor."""
        judge = self.params.judge
        return open_clip(judge.id, judge.revision, self.params.model.device)

    @property
    def device(self) -> torch.device:
        """Where judges compute."""
        return resolve_device(self.params.model.device)

    def features(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return the batch's unit vectors [n, width], computed once."""
        # Not kept by `pictures`: every judge of a batch sees the same ones, and `clear` comes between batches.
        if self._features is None:
            self._features = image_features(*self.clip, pictures, BATCH)
        return self._features

    def clear(self) -> None:
        """Forget the batch before."""
        self._features = None

    def text(self, word: str) -> str:
        """Return the text by which a CLIP judge knows a word."""
        return fill(self.preset.judged.text, self.preset.called(word))[0]
