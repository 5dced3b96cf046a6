"""Judge classes: forced choices of a CLIP model (section 5.1)."""

from collections.abc import Iterator, Sequence

import torch
from PIL import Image

from realera.judges.clip import divide_probability, text_features
from realera.judges.context import Batch, Context, Judge
from realera.judges.forced_choice import choice_labels, choices_of
from realera.judges.pictures import Images
from realera.judges.raw import raw_row
from realera.settings.presets import load_words, unseen_words


def open_classes(context: Context) -> Judge:
    """Open the forced choices that the preset asks for."""
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
