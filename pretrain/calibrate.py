"""The judge on art that it was not trained on: fit its temperature, measure how well it sees.

    calibrate(clip, tokenizer, held_out_icons, concepts, seed)           # sets clip.logit_scale
    report = evaluate_judge(clip, tokenizer, held_out_icons, val_icons, captions, styles, seed)

`clip` is what `JudgeTask.export` gives; icons are `pretrain.data.Icons`.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer

from pretrain.augment import MILD, NOTHING, Random, augment
from pretrain.captions import NONE_PROMPT, PROMPT, CaptionSampler
from pretrain.config import Concept
from pretrain.contrastive import IMAGE_SIZE, MEAN, STD
from pretrain.data import Icons, light_views, plain_views
from realera.scores.statistics import bootstrap_interval, wilson_interval

VIEWS = 4  # of each icon: as it is, and slightly moved
LOG_SCALES = torch.linspace(0.7, 4.6, 157)  # logit scales of 2 to 100


@torch.no_grad()
def read_images(clip: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """[n 3 64 64] in -1..1 -> unit vectors [n d]."""
    parts = [clip.get_image_features(pixel_values=part).pooler_output for part in pixels.split(128)]
    return F.normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def read_texts(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Unit vectors [texts, d]."""
    inputs = tokenizer(list(texts), padding=True, return_tensors="pt")
    return F.normalize(clip.get_text_features(**inputs).pooler_output, dim=-1)


def views(icons: Icons, seed: int) -> torch.Tensor:
    """VIEWS pictures of each icon, icon by icon [VIEWS * icons, 3, 64, 64] in -1..1."""
    generator = torch.Generator().manual_seed(seed)
    shown = [plain_views(icons.rgba, IMAGE_SIZE)]
    shown += [light_views(icons.rgba, generator, IMAGE_SIZE) for _ in range(VIEWS - 1)]
    return torch.stack(shown, dim=1).flatten(0, 1)


def calibrate(
    clip: CLIPModel, tokenizer: CLIPTokenizer, held_out: Icons, concepts: Sequence[Concept], seed: int
) -> None:
    """Set `logit_scale` to the maximum likelihood in ten-way readings of art that no class shows.

    Each view of an icon outside the ten classes is read among its own concept and nine others at random, so the
    temperature is that of the reading in which the judge is used, and no icon of the ten classes sets it.
    """
    generator = torch.Generator().manual_seed(seed)
    names = [concept.name for concept in concepts if concept.tier != "classes"]
    icons = held_out.select([tier != "classes" for tier in held_out.tiers])
    own = torch.tensor([names.index(name) for name in icons.concepts]).repeat_interleave(VIEWS)
    cosines = read_images(clip, views(icons, seed)) @ _prompts(clip, tokenizer, names).T
    draws = torch.rand(cosines.shape, generator=generator)
    draws[torch.arange(len(own)), own] = -1  # its own concept comes first
    among = cosines.gather(1, draws.argsort(1)[:, :10])
    losses = [F.cross_entropy(scale * among, torch.zeros_like(own)) for scale in LOG_SCALES.exp()]
    clip.logit_scale.data.fill_(LOG_SCALES[torch.stack(losses).argmin()])


def evaluate_judge(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    held_out: Icons,
    val: Icons,
    captions: CaptionSampler,
    styles: Sequence[str],
    seed: int,
) -> dict[str, dict]:
    """Readings as {"mean", "low", "high", "images"}; intervals resample icons, not their views.

    `held_out` is the vendor that nothing was trained on; `val` are icons that the judge was not trained on, of
    vendors that it was, and `styles` are these vendors.
    """
    names = list(captions.concepts)
    classes = [name for name in names if captions.concepts[name].tier == "classes"]
    scale = clip.logit_scale.exp().item()
    of_concepts = _prompts(clip, tokenizer, names)
    none = read_texts(clip, tokenizer, [NONE_PROMPT])
    report = {}
    for label, icons in (("held_out", held_out), ("validation", val)):
        features = read_images(clip, views(icons, seed))
        own = torch.tensor([names.index(name) for name in icons.concepts]).repeat_interleave(VIEWS)
        logits = scale * features @ torch.cat([of_concepts, none]).T
        in_class = torch.tensor([name in classes for name in icons.concepts]).repeat_interleave(VIEWS)
        class_ids = torch.tensor([names.index(name) for name in classes])
        ten = logits[in_class][:, class_ids].double().softmax(1)
        right = class_ids == own[in_class][:, None]
        if len(ten):
            report[f"{label}_ten_classes_top1"] = _mean(class_ids[ten.argmax(1)] == own[in_class], seed)
            report[f"{label}_ten_classes_probability"] = _mean(ten[right], seed)
        order = logits[:, :-1].argsort(1, descending=True)
        report[f"{label}_all_concepts_top1"] = _mean(order[:, 0] == own, seed)
        report[f"{label}_all_concepts_top5"] = _mean((order[:, :5] == own[:, None]).any(1), seed)
        report[f"{label}_read_as_nothing"] = _mean(logits.softmax(1)[:, -1] > 0.5, seed)
    texts = [f"an icon {captions.params.style_phrase.format(style=style)}" for style in styles]
    by_style = read_images(clip, views(val, seed)) @ read_texts(clip, tokenizer, texts).T
    vendors = torch.tensor([styles.index(vendor) for vendor in val.vendors]).repeat_interleave(VIEWS)
    report["validation_style_top1"] = _mean(by_style.argmax(1) == vendors, seed)
    for kind, images in broken(held_out, seed).items():
        logits = scale * read_images(clip, (images - MEAN) / STD) @ torch.cat([of_concepts, none]).T
        found = logits.softmax(1)[:, -1] > 0.5
        low, high = wilson_interval(int(found.sum()), len(found))
        report[f"{kind}_read_as_nothing"] = _entry(float(found.float().mean()), low, high, len(found))
    return report


def broken(icons: Icons, seed: int) -> dict[str, torch.Tensor]:
    """Images of nothing, made of every icon, by each way of breaking them, 0..1."""
    generator = torch.Generator().manual_seed(seed)
    random = Random(generator)
    views_n3hw = augment(icons.rgba.float() / 255, IMAGE_SIZE, generator, MILD)
    views_n3hw = views_n3hw[random.order(len(views_n3hw))]  # blends are of two concepts, not of neighbors
    return {name: kind(views_n3hw, random).clamp(0, 1) for name, kind in NOTHING.items()}


def _prompts(clip: CLIPModel, tokenizer: CLIPTokenizer, names: Sequence[str]) -> torch.Tensor:
    return read_texts(clip, tokenizer, [PROMPT.format(word=name) for name in names])


def _mean(values: torch.Tensor, seed: int) -> dict:
    """Mean over views [icons * VIEWS]; the interval resamples icons, since views of one icon go together."""
    by_icon = values.double().view(-1, VIEWS).mean(1).numpy()
    low, high = bootstrap_interval(by_icon, seed)
    return _entry(float(np.mean(by_icon)), low, high, len(values))


def _entry(mean: float, low: float, high: float, images: int) -> dict:
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4), "images": images}
