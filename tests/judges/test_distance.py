import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from realera.judges.clip import image_features
from realera.judges.distance import paired_distances
from realera.settings.errors import ArtifactError, ConfigError


def noise(seed, size=(64, 64)):
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def images():
    return [noise(seed).filter(ImageFilter.GaussianBlur(2)) for seed in range(4)]


@pytest.mark.parametrize("kind", ["ssim", "clip"])
def test_identical_images(kind, judge, images):
    found = paired_distances(kind, images, [image.copy() for image in images], clip=judge, batch_size=3)
    assert found.dtype == np.float64
    assert np.array_equal(found, np.zeros(4))


@pytest.mark.parametrize("kind", ["ssim", "clip"])
def test_a_larger_change_is_farther(kind, judge, images):
    slightly = [Image.blend(image, noise(9), 0.1) for image in images]
    others = images[1:] + images[:1]
    near = paired_distances(kind, images, slightly, clip=judge)
    far = paired_distances(kind, images, others, clip=judge)
    assert (near > 0).all()
    assert (far > near).all()
    assert (far <= 2).all()


def test_clip_is_one_minus_the_cosine(judge, images):
    features = image_features(*judge, images).double()
    expected = 1 - (features[:2] * features[2:]).sum(dim=1)
    assert np.allclose(paired_distances("clip", images[:2], images[2:], clip=judge), expected, atol=1e-6)


def _ssim_of_wang(first: np.ndarray, second: np.ndarray) -> float:
    """One channel, mirrored at its edges."""
    first, second = (np.pad(values, 5, mode="reflect") for values in (first, second))
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    kernel = np.outer(window, window) / window.sum() ** 2

    def mean(values):
        return np.einsum("ijkl,kl->ij", np.lib.stride_tricks.sliding_window_view(values, (11, 11)), kernel)

    mx, my = mean(first), mean(second)
    vx, vy = mean(first**2) - mx**2, mean(second**2) - my**2
    cov = mean(first * second) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def test_ssim_is_that_of_wang(images):
    first, second = (np.asarray(image, dtype=np.float64) / 255 for image in images[:2])
    expected = np.mean([_ssim_of_wang(first[..., channel], second[..., channel]) for channel in range(3)])
    assert paired_distances("ssim", images[:1], images[1:2])[0] == pytest.approx(1 - expected, abs=2e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(11, 40), st.integers(11, 40), st.integers(0, 999), st.integers(0, 999))
def test_ssim_of_any_size(width, height, one, other):
    first, second = noise(one, (width, height)), noise(other, (width, height))
    forth, back, same = paired_distances("ssim", [first, second, first], [second, first, first.copy()])
    assert forth == pytest.approx(back, abs=1e-6)
    assert 0 <= forth <= 2
    assert (forth == 0) == (one == other)
    assert same == 0


def test_pairs_of_several_sizes_and_modes():
    sizes = [(20, 30), (64, 64), (30, 20)]
    base = [noise(index, size) for index, size in enumerate(sizes)]
    erased = [noise(index + 9, size) for index, size in enumerate(sizes)]
    together = paired_distances("ssim", base, erased)
    assert list(together) == [paired_distances("ssim", [a], [b])[0] for a, b in zip(base, erased, strict=True)]
    flat = Image.new("RGB", (64, 64), (77, 140, 201))
    assert paired_distances("ssim", [flat], [flat.copy()])[0] == 0
    gray = base[0].convert("L")
    assert paired_distances("ssim", [gray], [gray.convert("RGB")])[0] == 0


@pytest.mark.parametrize("kind", ["ssim", "clip"])
def test_no_pairs(kind, judge):
    assert paired_distances(kind, [], [], clip=judge).shape == (0,)


def test_what_is_no_pair(judge, images):
    with pytest.raises(ArtifactError, match="found 2 images of the original model and 1 of the erased one"):
        paired_distances("clip", images[:2], images[:1], clip=judge)
    with pytest.raises(ArtifactError, match="ssim: pair 1: found 64x64 and 64x32 pixels; accepted: one size"):
        paired_distances("ssim", images[:2], [images[0], noise(0, (64, 32))])
    small = noise(0, (64, 10))
    with pytest.raises(ArtifactError, match="ssim: pair 0: found 64x10 pixels; accepted: 11 and more"):
        paired_distances("ssim", [small], [small])


def test_kinds(images):
    with pytest.raises(ConfigError, match="distance: found 'l2'; accepted: clip, ssim, lpips"):
        paired_distances("l2", images, images)
    with pytest.raises(ConfigError, match="distance clip: found no CLIP model"):
        paired_distances("clip", images, images)


def test_lpips_says_what_is_missing(images):
    assert importlib.util.find_spec("torchvision") is None, "the locked environment has no torchvision"
    with pytest.raises(ConfigError, match=r"distance lpips: torchvision cannot be imported: .*realera\[fid\]"):
        paired_distances("lpips", images, images)
