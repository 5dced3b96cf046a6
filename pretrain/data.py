"""The rendered icons as tensors, and who may see which of them."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from realera.store.artifacts import read_parquet


@dataclass(frozen=True)
class Icons:
    """N drawings; `rgba` uint8 [N, 4, S, S] with straight alpha, the rest N strings each."""

    rgba: torch.Tensor
    icon_ids: tuple[str, ...]
    concepts: tuple[str, ...]
    tiers: tuple[str, ...]
    vendors: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.icon_ids)

    def select(self, keep: Sequence[bool]) -> "Icons":
        index = [i for i, kept in enumerate(keep) if kept]

        def pick(column: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(column[i] for i in index)

        return Icons(self.rgba[index], pick(self.icon_ids), pick(self.concepts), pick(self.tiers), pick(self.vendors))

    def without_vendors(self, *vendors: str) -> "Icons":
        return self.select([vendor not in vendors for vendor in self.vendors])

    def of_vendor(self, vendor: str) -> "Icons":
        return self.select([v == vendor for v in self.vendors])

    def split(self, seed: int, val_share: float) -> tuple["Icons", "Icons"]:
        """(train, validation) by a hash of the icon's id and the seed: stable when icons are added."""
        in_val = [_fraction(f"{seed}/{icon_id}") < val_share for icon_id in self.icon_ids]
        return self.select([not v for v in in_val]), self.select(in_val)


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def load_icons(path: Path) -> Icons:
    table = read_parquet(path)
    images = [np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")) for png in table["png"].to_pylist()]
    rgba = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    names = ("icon_id", "concept", "tier", "vendor")
    return Icons(rgba, *(tuple(table[name].to_pylist()) for name in names))


class IconSampler:
    """Draws icons: first a concept by its tier's weight, then one of its icons, each equally likely."""

    def __init__(self, icons: Icons, tier_weights: dict[str, float]):
        count = {name: icons.concepts.count(name) for name in set(icons.concepts)}
        weights = [
            tier_weights[tier] / count[concept] for concept, tier in zip(icons.concepts, icons.tiers, strict=True)
        ]
        self.weights = torch.tensor(weights)

    def sample(self, num: int, generator: torch.Generator) -> torch.Tensor:
        """Icon indices, int64 [num], with replacement."""
        return torch.multinomial(self.weights, num, replacement=True, generator=generator)


def light_views(rgba: torch.Tensor, generator: torch.Generator, size: int = 64) -> torch.Tensor:
    """Slightly moved, turned and scaled drawings on white.

    Args:
        rgba: uint8 [B, 4, S, S].
        generator: on the CPU.
        size: pixels a side of the views.

    Returns:
        float32 [B, 3, size, size] in [-1, 1].
    """
    num = len(rgba)
    angle = (torch.rand(num, generator=generator) - 0.5) * 0.2
    zoom = 1.02 + torch.rand(num, generator=generator) * 0.16  # above 1 the drawing shrinks
    shift = (torch.rand(num, 2, generator=generator) - 0.5) * 0.1
    return _on_white(_warp(rgba, angle, zoom, shift, size))


def plain_views(rgba: torch.Tensor, size: int = 64) -> torch.Tensor:
    """The drawings as they are, on white: float32 [B, 3, size, size] in [-1, 1]."""
    num = len(rgba)
    return _on_white(_warp(rgba, torch.zeros(num), torch.full((num,), 1.08), torch.zeros(num, 2), size))


def _warp(rgba: torch.Tensor, angle: torch.Tensor, zoom: torch.Tensor, shift: torch.Tensor, size: int) -> torch.Tensor:
    """Premultiplied float32 [B, 4, size, size] in [0, 1]; what lies outside is transparent."""
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
    image = rgba.float() / 255
    image = torch.cat([image[:, :3] * image[:, 3:], image[:, 3:]], dim=1)
    grid = F.affine_grid(theta, [len(rgba), 4, size, size], align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


def _on_white(premultiplied: torch.Tensor) -> torch.Tensor:
    white = 1 - premultiplied[:, 3:]
    return (premultiplied[:, :3] + white) * 2 - 1
