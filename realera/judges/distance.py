"""How far an erased model's image is from the original model's, of the same prompt and seed.

| kind | distance |
|---|---|
| clip | 1 - cosine of the CLIP judge's image features, 0 to 2: what the image shows |
| ssim | 1 - SSIM (Wang et al. 2004), 0 to 2: structure, pixel by pixel; edges mirrored, good to 1e-3 |
| lpips | LPIPS with AlexNet (Zhang et al. 2018): how different the two look to people |

Identical images have distance 0 in each. SSIM and LPIPS are those of torchmetrics. LPIPS needs the
extra `fid`; its torchvision fetches AlexNet's weights, checked by their hash, when first used.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from realera.judges.clip import image_features
from realera.judges.context import BATCH, Batch, Context, Judge
from realera.judges.pictures import Images, PictureStore
from realera.judges.raw import raw_row
from realera.settings.errors import ArtifactError, ConfigError, ModelError
from realera.store.images import decode_png, pair_key

KINDS = ("clip", "ssim", "lpips")

_SSIM_WINDOW = 11
"""Pixels: Wang's, and torchmetrics' default."""

_LPIPS_SMALLEST = 32
"""Pixels; of a smaller image AlexNet's layers leave nothing."""


def open_distance(context: Context) -> Judge:
    """Open the judge of distances, with the originals to count from; an original's own distance is 0."""
    kind = context.params.judge.distance
    clip = context.clip if kind == "clip" else None
    store = context.stack.enter_context(PictureStore())
    for each in context.originals:
        for batch in each.batches(BATCH):
            for image in batch:
                store.add(pair_key(image), image["png"])

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        if source.drawn_by == "base":
            for image in batch:
                yield raw_row(image, "base", "distance", [kind], [0.0])
            return
        originals = [_original(image, source, store) for image in batch]
        distances: np.ndarray = paired_distances(kind, originals, pictures, clip)
        for image, distance in zip(batch, distances, strict=True):
            yield raw_row(image, source.drawn_by, "distance", [kind], [float(distance)])

    return judge


def paired_distances(
    kind: str,
    base_images: Sequence[Image.Image],
    erased_images: Sequence[Image.Image],
    clip: tuple[CLIPModel, CLIPProcessor] | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Return the distance of each pair, float64 [num_pairs].

    Args:
        kind: one of KINDS.
        base_images: of the original model.
        erased_images: of the erased model in the same order; for ssim and lpips of the same sizes.
        clip: what `realera.judges.clip.open_clip` returns; only the kind clip needs it.
        batch_size: images that a network sees at once.

    Raises:
        ConfigError: the kind is not known, has no CLIP model, or needs what is not installed.
        ArtifactError: images are not pairs, differ in size, or are too small for the kind.
        ModelError: AlexNet's weights are not here and cannot be fetched.
    """
    if len(base_images) != len(erased_images):
        found = f"{len(base_images)} images of the original model and {len(erased_images)} of the erased one"
        raise ArtifactError(f"distance {kind}: found {found}; accepted: pairs")
    if kind == "clip":
        return _clip(base_images, erased_images, clip, batch_size)
    if kind == "ssim":
        return _ssim(_pixels(kind, base_images, erased_images, _SSIM_WINDOW))
    if kind == "lpips":
        check_torchvision("distance lpips")
        return _lpips(list(_pixels(kind, base_images, erased_images, _LPIPS_SMALLEST)), batch_size)
    raise ConfigError(f"distance: found {kind!r}; accepted: {', '.join(KINDS)}")


def check_torchvision(what: str) -> None:
    """Refuse what needs torchvision where it is missing or doesn't fit the installed torch.

    Raises:
        ConfigError: it cannot be imported; the message begins with `what`.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ConfigError(
            f"{what}: torchvision cannot be imported: {error}; accepted: the one that pip install 'realera[fid]' "
            f"brings, beside a torch {torch.__version__.partition('+')[0]} of the same index, not torch's CPU build"
        ) from error


def _clip(
    base_images: Sequence[Image.Image],
    erased_images: Sequence[Image.Image],
    clip: tuple[CLIPModel, CLIPProcessor] | None,
    batch_size: int,
) -> np.ndarray:
    if clip is None:
        raise ConfigError("distance clip: found no CLIP model; accepted: the judge")
    base_nd, erased_nd = (image_features(*clip, images, batch_size) for images in (base_images, erased_images))
    # Of unit vectors |a - b|^2 / 2 = 1 - cos(a, b); this form is exactly 0 for equal ones.
    return ((base_nd - erased_nd).double().square().sum(dim=-1) / 2).cpu().numpy()


def _ssim(pairs: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    from torchmetrics.functional.image import structural_similarity_index_measure

    def similarity(base: torch.Tensor, erased: torch.Tensor) -> float:
        if torch.equal(base, erased):
            return 1.0  # exactly, which rounding does not give in flat areas
        found = structural_similarity_index_measure(erased, base, data_range=1.0)
        assert isinstance(found, torch.Tensor)  # a tuple only where other images are asked for
        return float(found)

    return 1 - np.array([similarity(base, erased) for base, erased in pairs], dtype=np.float64)


def _lpips(pairs: list[tuple[torch.Tensor, torch.Tensor]], batch_size: int) -> np.ndarray:
    """Read pairs of one size together: each call of the library opens AlexNet anew."""
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    distances = np.empty(len(pairs))
    for shape in dict.fromkeys(base.shape for base, _ in pairs):
        same = [index for index, (base, _) in enumerate(pairs) if base.shape == shape]
        for start in range(0, len(same), batch_size):
            chosen = same[start : start + batch_size]
            base, erased = (torch.cat(images) for images in zip(*(pairs[index] for index in chosen), strict=True))
            try:
                found = learned_perceptual_image_patch_similarity(erased, base, "alex", "none", normalize=True)
            except OSError as error:
                raise ModelError(f"distance lpips: AlexNet's weights cannot be fetched: {error}") from error
            distances[chosen] = found.detach().double().reshape(-1).numpy()
    return distances


def _pixels(
    kind: str, base_images: Sequence[Image.Image], erased_images: Sequence[Image.Image], smallest: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield pairs [1, 3, height, width], float32, 0 to 1."""
    for index, (base, erased) in enumerate(zip(base_images, erased_images, strict=True)):
        if base.size != erased.size:
            found = f"{base.width}x{base.height} and {erased.width}x{erased.height} pixels"
            raise ArtifactError(f"distance {kind}: pair {index}: found {found}; accepted: one size")
        if min(base.size) < smallest:
            found = f"{base.width}x{base.height} pixels"
            raise ArtifactError(f"distance {kind}: pair {index}: found {found}; accepted: {smallest} and more each way")
        yield _tensor(base), _tensor(erased)


def _tensor(image: Image.Image) -> torch.Tensor:
    pixels = np.array(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _original(image: Mapping[str, Any], source: Images, store: PictureStore) -> Image.Image:
    png = store.get(pair_key(image))
    if png is None:
        raise ArtifactError(
            f"{source.source}: image {image['image_id']}: no image of the original model with the prompt "
            f"{image['prompt']!r} and seed {image['seed']}"
        )
    return decode_png(png, image["image_id"])
