import importlib.util
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from realera.judges.clip import image_features
from realera.judges.frechet import INCEPTION_FILE, inception_features
from realera.scores.frechet import frechet_distance, kernel_distance, set_distance
from realera.settings.errors import ArtifactError, ConfigError

KINDS = ["frechet", "kernel"]

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(seed, n, mean=0.0, scale=1.0, width=4):
    return mean + scale * np.random.default_rng(seed).standard_normal((n, width))


def _root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def test_frechet_is_the_formula():
    first, second = normal(0, 300), normal(1, 200, mean=0.5, scale=1.5)
    s1, s2 = np.cov(first.T), np.cov(second.T)
    cross = _root(_root(s1) @ s2 @ _root(s1))
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(s1 + s2 - 2 * cross)
    assert frechet_distance(*map(torch.from_numpy, (first, second))) == pytest.approx(expected, rel=1e-9)


def test_kernel_is_the_unbiased_formula():
    first, second = normal(0, 30), normal(1, 30, mean=0.5)

    def kernel(a, b):
        return (a @ b.T / 4 + 1) ** 3

    def others(values):
        gram = kernel(values, values)
        return (gram.sum() - np.trace(gram)) / (30 * 29)

    expected = others(first) + others(second) - 2 * kernel(first, second).mean()
    assert kernel_distance(*map(torch.from_numpy, (first, second))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_known_distance_lies_in_the_interval(kind):
    """Equal covariances: the Frechet distance is the squared distance of the means."""
    near = set_distance(kind, normal(0, 200), normal(1, 200, mean=0.1), seed=0)
    far = set_distance(kind, normal(0, 200), normal(1, 200, mean=1.0), seed=0)
    assert near.low <= near.value <= near.high < far.low <= far.value <= far.high
    assert far.num_images == 200
    if kind == "frechet":
        assert far.low < 4 < far.high


@pytest.mark.parametrize("kind", KINDS)
def test_same_set(kind):
    values = normal(0, 50)
    found = set_distance(kind, values, values, seed=0, num_resamples=20, paired=True)
    if kind == "frechet":
        assert found.value == pytest.approx(0, abs=1e-6)
        assert found.high == pytest.approx(0, abs=1e-6)
    else:
        assert found.value < 0  # unbiased: as often below the true 0 as above it


def test_kernel_has_no_bias_and_frechet_has():
    values = [(normal(seed, 20), normal(seed + 1000, 20)) for seed in range(200)]
    pairs = [tuple(map(torch.from_numpy, pair)) for pair in values]
    kernel = np.array([kernel_distance(*pair) for pair in pairs])
    assert abs(kernel.mean()) < 3 * kernel.std() / np.sqrt(len(kernel))
    few = np.mean([frechet_distance(*pair) for pair in pairs])
    many = np.mean([frechet_distance(*map(torch.from_numpy, (normal(s, 80), normal(s + 1000, 80)))) for s in range(50)])
    assert few == pytest.approx(4 * many, rel=0.3)  # as 1 / n


@pytest.mark.parametrize("kind", KINDS)
def test_interval_covers_what_other_images_would_give(kind):
    """The spread of the value over fresh sets is what the interval is about."""
    values = [set_distance(kind, normal(s, 60), normal(s + 1000, 60, mean=1), s, 1).value for s in range(60)]
    found = set_distance(kind, normal(5000, 60), normal(6000, 60, mean=1), seed=0, num_resamples=200)
    spread = np.subtract(*np.quantile(values, [0.975, 0.025]))
    assert 0.6 * spread < found.high - found.low < 1.6 * spread


@pytest.mark.parametrize("kind", KINDS)
def test_seeded(kind):
    arguments = kind, normal(0, 20), normal(1, 30)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first = set_distance(*arguments, seed=1, num_resamples=10)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(8)
    assert set_distance(*arguments, seed=1, num_resamples=10) == first
    assert set_distance(*arguments, seed=2, num_resamples=10).low != first.low


def test_pairs_narrow_the_interval():
    base = normal(0, 100)
    erased = base + normal(1, 100, mean=0.3, scale=0.1)
    pairs = set_distance("frechet", base, erased, seed=0, paired=True)
    alone = set_distance("frechet", base, erased, seed=0)
    assert pairs.value == alone.value
    assert pairs.high - pairs.low < alone.high - alone.low


numbers = st.floats(-1, 1).map(lambda value: round(value, 3))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 3).flatmap(
        lambda width: st.tuples(
            arrays.arrays(np.float64, st.tuples(st.integers(2, 6), st.just(width)), elements=numbers),
            arrays.arrays(np.float64, st.tuples(st.integers(2, 6), st.just(width)), elements=numbers),
        )
    )
)
def test_laws_of_the_frechet_distance(sets):
    first, second = (torch.from_numpy(values) for values in sets)
    there, back = frechet_distance(first, second), frechet_distance(second, first)
    assert there == pytest.approx(back, abs=1e-5)
    assert there >= 0
    means = float((first.mean(0) - second.mean(0)).square().sum())
    assert there >= means - 1e-5
    assert frechet_distance(first + 1, second + 1) == pytest.approx(there, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.ones((1, 3)), np.ones((2, 3)), r"found features of shape \[1, 3\]; accepted: 2 images or more"),
        (np.ones((2, 3)), np.ones((0, 3)), r"found features of shape \[0, 3\]; accepted: 2 images or more"),
        (np.ones(4), np.ones((2, 3)), r"found features of shape \[4\]"),
        (np.ones((2, 3)), np.ones((2, 4)), r"found features \[2, 3\] and \[2, 4\]; accepted: one width"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), "found features that are not finite"),
    ],
)
def test_bad_features(kind, first, second, message):
    with pytest.raises(ArtifactError, match=f"set distance {kind}: {message}"):
        set_distance(kind, first, second, seed=0)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="set distance: found 'fid'; accepted: frechet, kernel"):
        set_distance("fid", normal(0, 2), normal(1, 2), seed=0)
    with pytest.raises(ArtifactError, match="pairs of one number"):
        set_distance("frechet", normal(0, 2), normal(1, 3), seed=0, paired=True)
    for arguments in ({"num_resamples": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match="accepted: 1 or more, 0 to 1"):
            set_distance("frechet", normal(0, 2), normal(1, 2), seed=0, **arguments)


def test_sets_of_images(judge):
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(6)]
    dark = [image.point(lambda value: value // 4) for image in images]
    found, other = (image_features(*judge, each, 4).double().numpy() for each in (images, dark))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in KINDS:
            distance = set_distance(kind, found, other, seed=0, num_resamples=5)
            assert distance.value > 0


def test_inception_says_what_is_missing(tmp_path):
    assert importlib.util.find_spec("torchvision") is None, "the locked environment has no torchvision"
    with pytest.raises(ConfigError, match=r"features inception: torchvision cannot be imported: .*realera\[fid\]"):
        inception_features([], tmp_path / INCEPTION_FILE)
