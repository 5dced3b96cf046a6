"""The style judge: a stock ResNet that tells whose emoji art a small picture shows.

It reads generated images, so some of its training views are softened and noisy as a small autoencoder leaves them.
They are moved, turned and cut far, and never recolored or redrawn: colors and edges are what a style is, shapes
are not. It is shallow for the same reason: what it sees at once is too small to know a thing by. A share of the
views shows nothing recognizable and is taught an even answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from pretrain.augment import Random, Strength, augment, blended, blobs, blurred, degrade, plain, smeared, strokes
from pretrain.config import Params, StyleJudge
from pretrain.data import Icons, light_views, plain_views
from pretrain.precision import autocast
from realera.scores.statistics import bootstrap_interval, wilson_interval

IMAGE_SIZE = 64
MEAN = STD = 0.5  # pixels go in as -1..1
VIEWS = 4  # of each validation icon: as it is, and slightly moved
TEMPERATURES = torch.linspace(-2.0, 2.0, 161).exp()

STYLED = Strength(
    rotate=0.4, shear=0.15, stretch=0.15, shift=0.2, zoom_out=0.2, zoom_in=0.4, perspective=0.0, warp=0.01,
    background=0.0, jitter=0.01, hue=0.0, recolor=0.0, gray=0.0, duotone=0.0, invert=0.0, outline=0.0,
    sketch=0.0, soften=0.3, noise=0.2, cutout=0.3,
)  # fmt: skip
STYLELESS = (blurred, blended, blobs, strokes, smeared, plain)
"""Ways to break a picture that leave no style in it; pieces in another order would keep theirs."""


def split_icons(icons: Icons, params: Params) -> tuple[Icons, Icons]:
    """(train, validation): the style judge's own split of the judged styles."""
    return icons.without_vendors(*params.render.unseen).split(params.style_judge.seed, params.style_judge.val_share)


def build_classifier(params: StyleJudge, styles: Sequence[str]) -> ResNetForImageClassification:
    """Return an untrained classifier of 64 x 64 pixels whose labels are `styles`."""
    config = ResNetConfig(
        embedding_size=params.embedding_size,
        hidden_sizes=list(params.hidden_sizes),
        depths=list(params.depths),
        layer_type="basic",
        id2label=dict(enumerate(styles)),
        label2id={style: index for index, style in enumerate(styles)},
    )
    return ResNetForImageClassification(config)


def build_image_processor() -> ViTImageProcessorPil:
    """Return what the folder needs beside the weights: 64 x 64 pixels in -1..1, without torchvision."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return ViTImageProcessorPil(size=size, do_convert_rgb=True, image_mean=[MEAN] * 3, image_std=[STD] * 3)


class StyleSampler:
    """Draws icons: first a style, then one of its icons, each equally likely."""

    def __init__(self, icons: Icons):
        self.weights = torch.tensor([1 / icons.vendors.count(vendor) for vendor in icons.vendors])

    def sample(self, num: int, generator: torch.Generator) -> torch.Tensor:
        """Icon indices, int64 [num], with replacement."""
        return torch.multinomial(self.weights, num, replacement=True, generator=generator)


def styleless(views_n3hw: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn each view in 0..1 into one without a style, by each way of `STYLELESS` in turn [n 3 h w]."""
    random = Random(generator)
    order, result = random.order(len(views_n3hw)), views_n3hw.clone()
    for rows, kind in zip(order.chunk(len(STYLELESS)), STYLELESS, strict=False):
        result[rows] = kind(views_n3hw[rows], random)
    return degrade(result, random, STYLED)


@dataclass
class StyleTask:
    """Cross-entropy over the styles; views without a style are taught that each is as likely as the others."""

    module: nn.Module
    icons: Icons
    styles: tuple[str, ...]
    params: StyleJudge
    device: torch.device

    def __post_init__(self) -> None:
        self.sampler = StyleSampler(self.icons)
        self.style_ids = torch.tensor([self.styles.index(vendor) for vendor in self.icons.vendors])

    def loss(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = self.sampler.sample(self.params.batch_size, generator)
        num_none = round(len(rows) * self.params.none_rate)
        views = augment(self.icons.rgba[rows].float() / 255, IMAGE_SIZE, generator, STYLED)
        views[:num_none] = styleless(views[:num_none], generator)
        targets = F.one_hot(self.style_ids[rows], len(self.styles)).float()
        targets[:num_none] = 1 / len(self.styles)
        targets = targets.to(self.device)
        with autocast(self.device):
            logits = self.module(pixel_values=((views - MEAN) / STD).to(self.device)).logits
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.params.label_smoothing)
        right = logits.argmax(1) == targets.argmax(1)
        return {"loss": loss, "accuracy": right[num_none:].float().mean()}


def validation_views(icons: Icons, seed: int) -> torch.Tensor:
    """VIEWS pictures of each icon on white, icon by icon [VIEWS * icons, 3, 64, 64] in -1..1."""
    generator = torch.Generator().manual_seed(seed)
    shown = [plain_views(icons.rgba, IMAGE_SIZE)]
    shown += [light_views(icons.rgba, generator, IMAGE_SIZE) for _ in range(VIEWS - 1)]
    return torch.stack(shown, dim=1).flatten(0, 1)


@torch.no_grad()
def read_styles(model: ResNetForImageClassification, pixels: torch.Tensor) -> torch.Tensor:
    """[n 3 64 64] in -1..1 -> logits [n, styles]."""
    return torch.cat([model(pixel_values=part).logits for part in pixels.split(128)])


def calibrate_styles(
    model: ResNetForImageClassification, icons: Icons, styles: Sequence[str], params: StyleJudge
) -> float:
    """Divide the logits by the temperature that is likeliest on validation icons; return it.

    It goes into the weights of the last layer, so that stock code reads calibrated probabilities (Guo et al. 2017).
    """
    logits = read_styles(model, validation_views(icons, params.seed))
    temperature = best_temperature(logits, _style_ids(icons, styles))
    head = model.classifier[1]
    with torch.no_grad():
        head.weight /= temperature
        head.bias /= temperature
    return temperature


def best_temperature(logits: torch.Tensor, own: torch.Tensor) -> float:
    """Return the one of TEMPERATURES with the least cross-entropy of logits [n, styles] and true styles [n]."""
    losses = [F.cross_entropy(logits / temperature, own) for temperature in TEMPERATURES]
    return TEMPERATURES[torch.stack(losses).argmin()].item()


def evaluate_styles(
    model: ResNetForImageClassification, val: Icons, held_out: Icons, styles: Sequence[str], params: StyleJudge
) -> dict:
    """Return the readings of validation icons; intervals resample icons, not their views.

    `held_out` is the vendor that nothing was trained on: it has none of the styles, so only what it is taken for
    is counted.
    """
    own = _style_ids(val, styles)
    views = validation_views(val, params.seed)
    probability = read_styles(model, views).double().softmax(1)
    softened = degraded(views, params.seed)
    right = probability.argmax(1) == own
    broken = styleless((views + 1) / 2, torch.Generator().manual_seed(params.seed))
    confident = read_styles(model, broken * 2 - 1).softmax(1).amax(1) > 0.5
    return {
        "validation_top1": _mean(right, params.seed),
        "validation_softened_top1": _mean(read_styles(model, softened).argmax(1) == own, params.seed),
        "validation_probability": _mean(probability[torch.arange(len(own)), own], params.seed),
        "validation_calibration_error": round(calibration_error(probability.amax(1), right), 4),
        "styleless_read_as_a_style": _mean(confident, params.seed),
        "by_style": {style: _mean(right[own == index], params.seed) for index, style in enumerate(styles)},
        "confusion": confusion(probability.argmax(1), own, styles),
        "held_out_read_as": read_as(read_styles(model, validation_views(held_out, params.seed)).argmax(1), styles),
    }


def degraded(pixels: torch.Tensor, seed: int) -> torch.Tensor:
    """Softened and noisy views, every one of them, of views in -1..1."""
    everything = Strength(soften=1.0, noise=1.0, cutout=0.0)
    return degrade((pixels + 1) / 2, Random(torch.Generator().manual_seed(seed)), everything) * 2 - 1


def calibration_error(confidence: torch.Tensor, right: torch.Tensor, bins: int = 10) -> float:
    """Expected calibration error: how far confidence and accuracy differ, over bins of confidence."""
    index = (confidence * bins).long().clamp(max=bins - 1)
    gaps = [
        (index == i).double().mean() * (confidence[index == i].mean() - right[index == i].double().mean()).abs()
        for i in index.unique()
    ]
    return float(torch.stack(gaps).sum())


def confusion(read: torch.Tensor, own: torch.Tensor, styles: Sequence[str]) -> dict[str, dict[str, float]]:
    """{style: {read as: share of its images}}."""
    return {style: read_as(read[own == index], styles) for index, style in enumerate(styles) if (own == index).any()}


def read_as(read: torch.Tensor, styles: Sequence[str]) -> dict[str, float]:
    """{style: share of the images read as it}."""
    return {style: round(float((read == index).double().mean()), 4) for index, style in enumerate(styles)}


def _style_ids(icons: Icons, styles: Sequence[str]) -> torch.Tensor:
    return torch.tensor([styles.index(vendor) for vendor in icons.vendors]).repeat_interleave(VIEWS)


def _mean(values: torch.Tensor, seed: int) -> dict:
    """Mean over views [icons * VIEWS]; the interval resamples icons, since views of one icon go together."""
    by_icon = values.double().view(-1, VIEWS).mean(1).numpy()
    low, high = bootstrap_interval(by_icon, seed)
    if low == high:  # all icons alike: resampling says nothing, Wilson's interval does
        low, high = wilson_interval(float(by_icon.sum()), len(by_icon))
    mean = float(np.mean(by_icon))
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4), "images": len(values)}
