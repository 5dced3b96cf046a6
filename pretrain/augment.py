"""Batched augmentations of icons, and images that show nothing: plain torch, all randomness from one generator.

Shapes: n images, 4 or 3 channels, h x w pixels; icons come as RGBA [n 4 H W] in 0..1 (straight alpha), what
the models see is RGB [n 3 h w] in 0..1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

_LUMA = (0.299, 0.587, 0.114)
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Strength:
    """How far a picture may be changed: the spreads of the geometry, the rates of everything else."""

    rotate: float = 0.12  # radians
    shear: float = 0.06
    stretch: float = 0.1
    shift: float = 0.08  # of half the picture's side
    zoom_out: float = 0.2
    zoom_in: float = 0.1
    perspective: float = 0.05
    warp: float = 0.025  # smooth local displacement, of half the side
    background: float = 0.15
    jitter: float = 0.15
    hue: float = 0.2
    recolor: float = 0.3  # share of icons whose hue, lightness or saturation is changed
    gray: float = 0.05
    duotone: float = 0.15  # share of icons drawn in two random colors, by lightness
    invert: float = 0.0
    outline: float = 0.06
    sketch: float = 0.03
    soften: float = 0.4
    noise: float = 0.1
    cutout: float = 0.08


MILD = Strength(
    rotate=0.08, shear=0.04, stretch=0.05, shift=0.06, zoom_out=0.1, zoom_in=0.05, perspective=0.0, warp=0.0,
    background=0.1, jitter=0.05, hue=0.0, recolor=0.0, gray=0.0, duotone=0.0, invert=0.0, outline=0.0,
    sketch=0.0, soften=0.3, noise=0.1, cutout=0.0,
)  # fmt: skip
STRONG = Strength()


class Random:
    """Shorthands for draws from one generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.device = generator.device

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def pick(self, n: int, rate: float) -> torch.Tensor:
        """Indices of a random share of n rows."""
        return (self.uniform(0, 1, n) < rate).nonzero()[:, 0]

    def order(self, n: int) -> torch.Tensor:
        return torch.randperm(n, generator=self.generator, device=self.device)

    def smooth(self, n: int, channels: int, cells: int, size: int) -> torch.Tensor:
        """Smooth noise [n channels size size], standard normal at `cells` x `cells` support points."""
        coarse = self.normal(n, channels, cells, cells)
        return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)


def augment(
    icons_n4hw: torch.Tensor, size: int, generator: torch.Generator, strength: Strength = STRONG, flip: bool = True
) -> torch.Tensor:
    """Random views [n 3 size size] in 0..1 of icons in 0..1 on random backgrounds."""
    random = Random(generator)
    rgba = recolor(icons_n4hw, random, strength)
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)  # premultiplied, as resampling needs
    rgba = F.grid_sample(
        rgba, sampling_grid(len(rgba), size, random, strength, flip), mode="bilinear", align_corners=False
    )
    rgba = outline(rgba, random, strength.outline)
    images = rgba[:, :3] + (1 - rgba[:, 3:]) * backgrounds(len(rgba), size, random, strength.background)
    images = sketch(images, random, strength.sketch)
    return degrade(images, random, strength)


def degrade(images: torch.Tensor, random: Random, strength: Strength) -> torch.Tensor:
    """Cutouts, soft edges, wobbly colors and noise, as in images that a small VAE has decoded."""
    images = cutout(images, random, strength.cutout)
    images = soften(images, random, strength.soften)
    images = noise(images, random, strength.noise)
    return images.clamp(0, 1)


def recolor(rgba: torch.Tensor, random: Random, strength: Strength) -> torch.Tensor:
    """One random affine map of the colors an icon: brightness, contrast, saturation, hue, gray, inversion."""
    n, device = len(rgba), rgba.device
    yiq = _YIQ.to(device)
    turn = random.uniform(-strength.hue, strength.hue, n) * (random.uniform(0, 1, n) < strength.recolor)
    wild = random.uniform(0, 1, n) < 0.3 * strength.recolor
    turn = torch.where(wild, random.uniform(-torch.pi, torch.pi, n), turn)
    jitter = strength.jitter
    saturation = 1 + random.uniform(-1.5 * jitter, 1.5 * jitter, n)
    saturation = saturation * (random.uniform(0, 1, n) >= strength.gray)
    contrast = 1 + random.uniform(-jitter, jitter, n)
    contrast = torch.where(random.uniform(0, 1, n) < strength.invert, -contrast, contrast)
    chroma = contrast.abs() * saturation
    matrix = torch.zeros(n, 3, 3, device=device)
    matrix[:, 0, 0] = contrast
    matrix[:, 1, 1] = matrix[:, 2, 2] = chroma * turn.cos()
    matrix[:, 1, 2] = -chroma * turn.sin()
    matrix[:, 2, 1] = chroma * turn.sin()
    matrix = torch.linalg.inv(yiq) @ matrix @ yiq
    shift = 0.5 + random.uniform(-0.5 * jitter, 0.5 * jitter, n)
    rgb = torch.einsum("nij,njhw->nihw", matrix, rgba[:, :3] - 0.5) + shift[:, None, None, None]
    return torch.cat([duotone(rgb.clamp(0, 1), random, strength.duotone), rgba[:, 3:]], dim=1)


def duotone(rgb: torch.Tensor, random: Random, rate: float) -> torch.Tensor:
    """Some images [n 3 h w] in two random colors, dark to light or light to dark: shape without its colors."""
    rows = random.pick(len(rgb), rate)
    if len(rows) == 0:
        return rgb
    dark, light = random.uniform(0, 0.6, len(rows), 3, 1, 1), random.uniform(0.5, 1, len(rows), 3, 1, 1)
    swap = random.uniform(0, 1, len(rows), 1, 1, 1) < 0.3
    low, high = torch.where(swap, light, dark), torch.where(swap, dark, light)
    share = luma(rgb[rows])
    result = rgb.clone()
    result[rows] = low * (1 - share) + high * share
    return result


def sampling_grid(n: int, size: int, random: Random, strength: Strength, flip: bool) -> torch.Tensor:
    """Grid [n size size 2] for grid_sample: affine, a little perspective, a smooth local warp."""
    angle = random.normal(n) * strength.rotate
    zoom = random.uniform(1 - strength.zoom_in, 1 + strength.zoom_out, n)
    stretch = (random.normal(n) * strength.stretch * 0.5).exp()
    matrix = torch.zeros(n, 3, 3, device=random.device)
    matrix[:, 0, 0] = zoom * stretch * angle.cos()
    matrix[:, 0, 1] = -zoom * angle.sin() + random.normal(n) * strength.shear
    matrix[:, 1, 0] = zoom * angle.sin() + random.normal(n) * strength.shear
    matrix[:, 1, 1] = zoom / stretch * angle.cos()
    matrix[:, :2, 2] = random.uniform(-1, 1, n, 2) * strength.shift * zoom[:, None]
    matrix[:, 2, :2] = random.uniform(-1, 1, n, 2) * strength.perspective
    matrix[:, 2, 2] = 1
    if flip:
        matrix[:, :, 0] *= (random.uniform(0, 1, n) < 0.5).float()[:, None] * 2 - 1
    line = (torch.arange(size, device=random.device) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3) @ matrix.transpose(1, 2)
    grid = (points[..., :2] / points[..., 2:]).view(n, size, size, 2)
    if strength.warp:
        grid = grid + strength.warp * random.smooth(n, 2, 5, size).permute(0, 2, 3, 1)
    return grid


def backgrounds(n: int, size: int, random: Random, rate: float) -> torch.Tensor:
    """White [n 3 size size], but for a share of flat colors, gradients and smooth noise."""
    result = torch.ones(n, 3, size, size, device=random.device)
    rows = random.pick(n, rate)
    if len(rows) == 0:
        return result
    kind = random.uniform(0, 1, len(rows))[:, None, None, None]
    pale = torch.where(random.uniform(0, 1, len(rows), 1, 1, 1) < 0.5, 0.3, 1.0)
    color = 1 - pale * random.uniform(0, 1, len(rows), 3, 1, 1)
    corners = color + 0.4 * pale * random.normal(len(rows), 3, 2, 2)
    gradient = F.interpolate(corners, size=(size, size), mode="bilinear", align_corners=True)
    texture = color + 0.15 * random.smooth(len(rows), 3, 8, size)
    result[rows] = torch.where(kind < 0.5, color, torch.where(kind < 0.85, gradient, texture)).clamp(0, 1)
    return result


def outline(rgba: torch.Tensor, random: Random, rate: float) -> torch.Tensor:
    """A dark or colored border around some premultiplied silhouettes."""
    rows = random.pick(len(rgba), rate)
    if len(rows) == 0:
        return rgba
    part = rgba[rows]
    border = F.max_pool2d(part[:, 3:], 3, stride=1, padding=1) - part[:, 3:]
    color = random.uniform(0, 1, len(rows), 3, 1, 1) * random.uniform(0, 1, len(rows), 1, 1, 1)
    result = rgba.clone()
    result[rows] = part + torch.cat([border * color, border], dim=1)
    return result


def sketch(images: torch.Tensor, random: Random, rate: float) -> torch.Tensor:
    """Some images as dark edges on a pale ground: shape without color."""
    rows = random.pick(len(images), rate)
    if len(rows) == 0:
        return images
    gray = luma(images[rows])
    high, low = F.max_pool2d(gray, 3, 1, 1), -F.max_pool2d(-gray, 3, 1, 1)
    edges = ((high - low) * random.uniform(1.5, 4, len(rows), 1, 1, 1)).clamp(0, 1)
    paper = 1 - 0.2 * random.uniform(0, 1, len(rows), 3, 1, 1)
    keep = random.uniform(0, 0.6, len(rows), 1, 1, 1)
    ink = random.uniform(0, 0.3, len(rows), 3, 1, 1)
    drawn = paper * (1 - keep) + images[rows] * keep
    result = images.clone()
    result[rows] = drawn * (1 - edges) + ink * edges
    return result


def luma(images: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(_LUMA, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def soften(images: torch.Tensor, random: Random, rate: float) -> torch.Tensor:
    """Some images lose detail (to 28..52 pixels a side and back) and wobble in color."""
    order, size = random.order(len(images)), images.shape[-1]
    rows = order[: int(len(images) * rate)]
    if len(rows) == 0:
        return images
    result = images.clone()
    for part, share in zip(rows.chunk(3), (0.45, 0.6, 0.8), strict=False):
        small = F.interpolate(images[part], size=int(size * share), mode="area")
        result[part] = F.interpolate(small, size=size, mode="bicubic", align_corners=False)
    result[rows] += 0.04 * random.smooth(len(rows), 3, 10, size)
    return result


def noise(images: torch.Tensor, random: Random, rate: float) -> torch.Tensor:
    rows = random.pick(len(images), rate)
    result = images.clone()
    scale = random.uniform(0.0, 0.06, len(rows), 1, 1, 1)
    result[rows] += scale * random.normal(len(rows), *images.shape[1:])
    return result


def cutout(images: torch.Tensor, random: Random, rate: float) -> torch.Tensor:
    """A box of up to 0.35 of the side in one color hides a part of some images."""
    rows, size = random.pick(len(images), rate), images.shape[-1]
    center = random.uniform(0, size, len(rows), 2)
    half = random.uniform(0.06, 0.175, len(rows), 2) * size
    line = torch.arange(size, device=images.device)
    inside = (line - center[..., None]).abs() < half[..., None]
    box = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    white = random.uniform(0, 1, len(rows), 1, 1, 1) < 0.5
    color = torch.where(white, torch.ones_like(images[rows, :, :1, :1]), random.uniform(0, 1, len(rows), 3, 1, 1))
    result = images.clone()
    result[rows] = torch.where(box, color, images[rows])
    return result


# What shows nothing --------------------------------------------------------------------------------


def nothing(views_n3hw: torch.Tensor, generator: torch.Generator, strength: Strength = STRONG) -> torch.Tensor:
    """Turn each view into an image of nothing recognizable, by one of `NOTHING` in turn [n 3 h w]."""
    random = Random(generator)
    order = random.order(len(views_n3hw))
    result = views_n3hw.clone()
    for rows, kind in zip(order.chunk(len(NOTHING)), NOTHING.values(), strict=False):
        result[rows] = kind(views_n3hw[rows], random)
    return degrade(result, random, strength)


def blurred(images: torch.Tensor, random: Random) -> torch.Tensor:
    """So little detail (4 to 7 pixels a side) that only a patch of color is left."""
    size = images.shape[-1]
    cells = int(torch.randint(4, 8, (), generator=random.generator, device=random.device))
    return F.interpolate(F.interpolate(images, size=cells, mode="area"), size=size, mode="bicubic").clamp(0, 1)


def shuffled(images: torch.Tensor, random: Random) -> torch.Tensor:
    """Pieces of a 4 x 4 or 3 x 3 grid in another order."""
    n, size = len(images), images.shape[-1]
    cells = 4 if random.uniform(0, 1) < 0.6 else 3
    side = -(-size // cells)
    padded = F.pad(images, (0, side * cells - size) * 2, value=1.0)
    pieces = padded.unfold(2, side, side).unfold(3, side, side).reshape(n, 3, cells * cells, side, side)
    order = random.uniform(0, 1, n, cells * cells).argsort(1)
    pieces = pieces.gather(2, order[:, None, :, None, None].expand_as(pieces))
    pieces = pieces.view(n, 3, cells, cells, side, side).permute(0, 1, 2, 4, 3, 5)
    return pieces.reshape(n, 3, side * cells, side * cells)[..., :size, :size]


def blended(images: torch.Tensor, random: Random) -> torch.Tensor:
    """Two pictures laid over each other, or a half of one beside a half of the other."""
    n, size = len(images), images.shape[-1]
    other = images.roll(1, 0)
    share = random.uniform(0.4, 0.6, n, 1, 1, 1)
    angle = random.uniform(0, 2 * torch.pi, n, 1, 1)
    line = torch.linspace(-1, 1, size, device=images.device)
    side = (line[None, :, None] * angle.sin() + line[None, None, :] * angle.cos() > 0)[:, None]
    spliced = torch.where(side, images, other)
    mixed = share * images + (1 - share) * other
    return torch.where(random.uniform(0, 1, n, 1, 1, 1) < 0.5, spliced, mixed)


def warped(images: torch.Tensor, random: Random) -> torch.Tensor:
    """Drawings that run like wet paint."""
    n, size = len(images), images.shape[-1]
    line = (torch.arange(size, device=images.device) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([x, y], dim=-1) + 0.4 * random.smooth(n, 2, 6, size).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _palette(images: torch.Tensor, random: Random, colors: int) -> torch.Tensor:
    """Colors [n colors 3] of random pixels near the middle of each image."""
    n, size = len(images), images.shape[-1]
    places = torch.randint(size // 4, 3 * size // 4, (2, n, colors), generator=random.generator, device=random.device)
    return images[torch.arange(n, device=images.device)[:, None], :, places[0], places[1]]


def blobs(images: torch.Tensor, random: Random) -> torch.Tensor:
    """Smooth patches in three of the picture's colors on its border color."""
    n, size = len(images), images.shape[-1]
    ground = images[:, :, :1, :1].expand_as(images)
    colors = _palette(images, random, 3)
    line = torch.linspace(-1, 1, size, device=images.device)
    fall = (line[:, None] ** 2 + line[None, :] ** 2)[None]
    result = ground
    for index in range(3):
        cells = (4, 5, 7)[index]
        height = random.smooth(n, 1, cells, size) - (0.3 + index * 0.4) - fall + random.uniform(0.3, 1.0, n, 1, 1, 1)
        mask = (height * 12).sigmoid()
        result = result * (1 - mask) + colors[:, index, :, None, None] * mask
    return result


def strokes(images: torch.Tensor, random: Random) -> torch.Tensor:
    """One to four straight or bent strokes in the picture's colors."""
    n, size = len(images), images.shape[-1]
    result = images[:, :, :1, :1].expand_as(images)
    colors = _palette(images, random, 4)
    line = torch.linspace(-1, 1, size, device=images.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    shown = random.uniform(1, 5, n).int()
    for index in range(4):
        angle, bend, offset = (random.uniform(-a, a, n, 1, 1) for a in (3.14, 1.0, 0.6))
        along = x * angle.cos() + y * angle.sin()
        across = y * angle.cos() - x * angle.sin() + offset + bend * along**2
        width, length = random.uniform(0.04, 0.25, n, 1, 1), random.uniform(0.3, 1.0, n, 1, 1)
        mask = (torch.maximum(across.abs() / width, along.abs() / length) < 1)[:, None]
        mask = mask & (index < shown)[:, None, None, None]
        result = torch.where(mask, colors[:, index, :, None, None], result)
    return result


def smeared(images: torch.Tensor, random: Random) -> torch.Tensor:
    """The picture's silhouette eaten away or blown up to a lump, with its colors washed together."""
    size = images.shape[-1]
    away = (images - images[:, :, :1, :1]).abs().amax(1, keepdim=True)
    soft = F.interpolate(F.interpolate(away, size=7, mode="area"), size=size, mode="bicubic")
    mask = ((soft - 0.5 * soft.amax((2, 3), keepdim=True)) * 20).sigmoid()
    wash = F.interpolate(F.interpolate(images, size=5, mode="area"), size=size, mode="bicubic").clamp(0, 1)
    return images[:, :, :1, :1] * (1 - mask) + wash * mask


def plain(images: torch.Tensor, random: Random) -> torch.Tensor:
    """Backgrounds with nothing on them."""
    return backgrounds(len(images), images.shape[-1], random, 0.8)


NOTHING = {
    "blurred": blurred,
    "shuffled": shuffled,
    "blended": blended,
    "warped": warped,
    "blobs": blobs,
    "strokes": strokes,
    "smeared": smeared,
    "plain": plain,
}
