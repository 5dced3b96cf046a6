"""Judge clip_score: a CLIP model's `logits_per_image` with the prompt."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from realera.judges.clip import paired_scores, text_features
from realera.judges.context import Batch, Context, Judge
from realera.judges.pictures import Images
from realera.judges.raw import raw_row


def open_clip_score(context: Context) -> Judge:
    """Open the CLIP judge for scores."""
    model, processor = context.clip
    known: dict[str, torch.Tensor] = {}

    def vector(text: str) -> torch.Tensor:
        # Texts repeat: a prompt has several seeds, and both models draw it.
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
