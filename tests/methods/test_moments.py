"""Mining in closed form: moments that samples must meet, sums that replace theirs, and what has no closed form."""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realera.families import cross_attention
from realera.methods.common.closed_form import Gram
from realera.methods.realera import moments as closed
from realera.methods.realera.geometry import Thresholds
from realera.methods.realera.mining import sample_beyond, sample_neighbors
from realera.methods.realera.moments import NAMES, moments
from realera.methods.realera.perturb import expect, sample_blocks
from realera.methods.realera.rows import solve_grams
from realera.methods.realera.sums import add_expected, no_grams, total_sums
from realera.settings.config import load_params
from realera.settings.errors import ConfigError, MiningError
from realera.settings.presets import load_preset
from realera.text import prompts
from realera.text.prompt_table import PromptTable
from tests.kit.mining_problems import seeded, tokens

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLE = {"neighbor": sample_neighbors, "beyond": sample_beyond}
STEPS = {"neighbor": 0, "beyond": 1}
NUMBERS_AT_ONCE = 2**22

# name: width, norm of the token, thresholds; none is symmetric in anything
CASES = {
    "paper, d 2": (2, 1.0, Thresholds(1.2, 0.3, 3.0, 0.99, 0.2)),
    "isotropic, d 2": (2, 1.7, Thresholds(1.1, 0.2, 2.5, 0.97, 0.3, direction="isotropic")),
    "paper, d 3, obtuse": (3, 1.5, Thresholds(3.0, 0.3, 6.0, -0.1, -0.8)),
    "isotropic, d 3, absolute": (3, 2.0, Thresholds(1.5, 0.7, 5.0, 0.95, 0.4, "absolute", "isotropic")),
    "paper, d 16": (16, 2.5, Thresholds(1.0, 0.3, 2.0, 0.95, 0.5)),
    "paper, d 16, near-copies": (16, 6.0, Thresholds(0.4, 0.35, 1.1, 1.0, 0.9)),
    "paper, d 16, absolute": (16, 5.0, Thresholds(3.0, 1.0, 9.0, 0.97, 0.6, "absolute")),
    "isotropic, d 16": (16, 0.8, Thresholds(0.9, 0.05, 1.3, 0.98, 0.7, direction="isotropic")),
    "paper, d 768": (768, 27.7, Thresholds(0.25, 0.1, 1.4, 1.0, 0.95)),
    "paper, d 768, S1 below 1": (768, 24.0, Thresholds(0.5, 0.2, 1.6, 0.99, 0.7)),
    "isotropic, d 768": (768, 31.0, Thresholds(0.6, 0.3, 2.0, 0.98, 0.75, direction="isotropic")),
    "isotropic, d 768, absolute": (768, 20.0, Thresholds(9.0, 4.0, 30.0, 0.99, 0.85, "absolute", "isotropic")),
}


def sampled(kind, width, norm, limits, num):
    """Return Algorithm 1's projections on e and lengths of so many samples, float64 [num], and its acceptance."""
    e = torch.zeros(1, width)
    e[0, 0] = norm
    generator, parts, shares = seeded(3), [], []
    for portion in torch.arange(num).split(max(1, NUMBERS_AT_ONCE // width)):
        found = SAMPLE[kind](e, torch.zeros(1), len(portion), limits, generator)
        parts.append(torch.stack([found.eta[:, 0, 0].double(), found.radius[:, 0].double()]))
        shares.append(found.acceptance * len(portion))
    return (*torch.cat(parts, 1), sum(shares) / num)


def wanted(along, radius, width):
    """Return what each moment is the mean of, by name."""
    cosine = along / radius
    across = (radius.square() - along.square()) / (width - 1)
    return {
        "along": along,
        "along_squared": along.square(),
        "across_squared": across,
        "direction": cosine,
        "radius_along": radius * cosine.square(),
        "radius_across": across / radius,
    }


def assert_met(name, kind, num):
    width, norm, limits = CASES[name]
    e = torch.zeros(1, width)
    e[0, 0] = norm
    found = moments(kind, e, limits)
    along, radius, acceptance = sampled(kind, width, norm, limits, num)
    for moment, values in wanted(along, radius, width).items():
        error = float(values.std()) / math.sqrt(num)
        rounding = 1e-6 * abs(float(values.mean()))  # of the samples, which are float32
        difference = abs(float(getattr(found, moment)) - float(values.mean()))
        assert difference < 4.5 * error + rounding, (moment, difference / error)
    scale = norm if limits.units == "relative" else 1.0
    tolerance = limits.D1_anchor * scale / 2 if kind == "neighbor" else 0.0
    assert float(found.anchor_radius) == pytest.approx(tolerance)
    share = float(found.acceptance)
    assert abs(share - acceptance) < 5 * math.sqrt(share * (1 - share) / num) + 1e-9


@pytest.mark.parametrize("kind", SAMPLE)
@pytest.mark.parametrize("name", CASES)
def test_moments_are_the_means_of_samples(name, kind):
    assert_met(name, kind, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLE)
@pytest.mark.parametrize("name", CASES)
def test_moments_are_the_means_of_a_million_samples(name, kind):
    assert_met(name, kind, 1_000_000)


@pytest.mark.parametrize("kind", SAMPLE)
@pytest.mark.parametrize("name", ["paper, d 3, obtuse", "isotropic, d 16", "paper, d 16, absolute"])
def test_sums_are_the_means_of_sampled_sums(name, kind):
    """Whole matrices around a token that lies along no axis, each entry within its own standard error."""
    width, norm, limits = CASES[name]
    e, anchor, num = tokens(width, [norm]), tokens(width, [1.3 * norm], seed=5), 100_000
    grams = no_grams(width)
    add_expected(grams, e, anchor, {kind: moments(kind, e, limits)})
    found = SAMPLE[kind](e, torch.zeros(1), num, limits, seeded(1))
    eta, ratio = found.eta[:, 0].double(), (found.anchor_radius / found.radius).double()
    source = e.double() + eta
    target = anchor.double() + ratio * eta if kind == "neighbor" else source
    assert grams[kind].num_rows == 1
    for left, matrix in ((source, grams[kind].source), (target, grams[kind].cross)):
        mean = left.T @ source / num
        error = ((left.square().T @ source.square() / num - mean.square()).clamp(min=0) / num).sqrt()
        assert ((matrix - mean).abs() < 5 * error + 1e-6 * mean.abs().max()).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    width=st.sampled_from([2, 3, 16, 768]),
    norm=st.floats(0.3, 3.0),
    cosine=st.floats(-0.5, 0.95),
    radius=st.floats(0.2, 2.0),
    direction=st.sampled_from(["paper", "isotropic"]),
    units=st.sampled_from(["relative", "absolute"]),
)
def test_any_moments_are_those_of_some_law(width, norm, cosine, radius, direction, units):
    """Bounds that every law of accepted samples keeps, whatever the thresholds."""
    scale = norm * math.sqrt(width)
    near = radius * scale if units == "absolute" else radius
    limits = Thresholds(near, near / 2, 2.5 * near, 1.0, cosine, units, direction)
    e = torch.zeros(1, width)
    e[0, 0] = scale
    unit = scale if units == "relative" else 1.0
    for kind, (low, high) in {"neighbor": (0, near), "beyond": (near, 2.5 * near)}.items():
        try:
            found = moments(kind, e, limits)
        except MiningError:
            continue
        values = {name: float(getattr(found, name)) for name in NAMES}
        square = values["along_squared"] + (width - 1) * values["across_squared"]
        assert 0 < values["acceptance"] <= 1 + 1e-12
        assert (low * unit) ** 2 - 1e-9 <= square <= (high * unit) ** 2 * (1 + 1e-12)
        assert values["along"] ** 2 <= values["along_squared"] * (1 + 1e-12)
        assert -1 - 1e-12 <= values["direction"] <= 1 + 1e-12
        assert values["across_squared"] >= 0


@pytest.mark.parametrize("units", ["relative", "absolute"])
@pytest.mark.parametrize("direction", ["paper", "isotropic"])
def test_many_lengths_are_read_off_as_each_is_integrated(units, direction, monkeypatch):
    """Also where the limits' angles come and go with the length, so that no polynomial fits."""
    limits = Thresholds(0.6, 0.2, 1.5, 0.98, 0.6, units, direction)
    if units == "absolute":
        limits = replace(limits, D1=3.0, D1_anchor=0.5, D2=9.0)
    e = torch.randn(150, 12, generator=seeded(0)) * torch.linspace(0.9, 1.6, 150)[:, None]
    fast = [moments(kind, e, limits) for kind in SAMPLE]
    monkeypatch.setattr(closed, "FIRST_DEGREE", 10**6)
    for kind, found in zip(SAMPLE, fast, strict=True):
        each = moments(kind, e, limits)
        for name in NAMES:
            torch.testing.assert_close(getattr(found, name), getattr(each, name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_more_nodes_change_nothing(name, monkeypatch):
    width, norm, limits = CASES[name]
    e = torch.zeros(1, width)
    e[0, 0] = norm
    found = {kind: moments(kind, e, limits) for kind in SAMPLE}
    monkeypatch.setattr(closed, "PANEL_NODES", 2 * closed.PANEL_NODES)
    monkeypatch.setattr(closed, "RADIAL_NODES", 2 * closed.RADIAL_NODES)
    for kind, one in found.items():
        more = moments(kind, e, limits)
        for moment in NAMES:
            torch.testing.assert_close(getattr(one, moment), getattr(more, moment), rtol=1e-9, atol=1e-12)


def test_what_has_no_closed_form_is_refused():
    e = tokens(8, [1.0, 2.0])
    with pytest.raises(MiningError, match=r"sampler\.noise: found shared; accepted .*per_token"):
        moments("neighbor", e, Thresholds(0.5, 0.1, 1.4, 1.0, 0.9, noise="shared"))
    with pytest.raises(MiningError, match="no neighbor sample is accepted"):
        moments("neighbor", tokens(768, [27.7]), Thresholds(1, 0.5, 40, 0.99, 0.5, "absolute"))
    with pytest.raises(MiningError, match=r"found the norm 0\.0 at row 1"):
        moments("beyond", tokens(8, [1.0, 0.0]), Thresholds(0.5, 0.1, 1.4, 1.0, 0.9))


# --- on the embedded model's own prompts


@pytest.fixture(scope="module")
def params():
    return load_params()


@pytest.fixture(scope="module")
def table(pipe):
    built = prompts.build(load_preset("airplane"), ["fox", "guitar", "fire engine"], 2, 1)
    places = [prompts.locate(prompt, pipe.tokenizer) for prompt in built]
    return PromptTable(built, places, prompts.embed([p.text for p in built], pipe.tokenizer, pipe.text_encoder))


def sums(table, sampler):
    return total_sums(
        table, sampler, expect(table, sampler), lambda: [block for block, _ in sample_blocks(table, sampler)]
    )


def test_the_patch_of_finite_m_approaches_the_exact_one_as_its_root(table, params, pipe):
    def patch(number, seed=0):
        sampler = params.sampler.model_copy(update={"M": number, "N": number, "seed": seed})
        kept = Gram(table.width, stays=True)
        kept.add(table.preserved())
        return solve_grams({**sums(table, sampler), "preserve": kept}, params.solver).map

    exact = patch(math.inf)
    size = float((exact - torch.eye(table.width)).norm())
    distance = {
        number: sum(float((patch(number, seed) - exact).norm()) for seed in range(4)) / 4 / size
        for number in (4, 16, 64)
    }
    assert distance[64] < 0.2
    for few, many in ((4, 16), (16, 64)):
        assert distance[few] / distance[many] == pytest.approx(2, rel=0.2)
    weight = next(iter(cross_attention.weights(pipe.unet).values()))
    assert weight.shape[1] == len(exact)


def test_each_kind_can_be_infinite_on_its_own(table, params):
    """The other kind is sampled as it was."""
    finite = sums(table, params.sampler)
    both = sums(table, params.sampler.model_copy(update={"M": math.inf, "N": math.inf}))
    for name, other in (("M", "beyond"), ("N", "neighbor")):
        mixed = sums(table, params.sampler.model_copy(update={name: math.inf}))
        exact = "neighbor" if name == "M" else "beyond"
        assert torch.equal(mixed[other].source, finite[other].source)
        assert torch.equal(mixed[exact].source, both[exact].source)
        assert mixed[exact].num_rows == mixed["target"].num_rows


def test_a_kind_that_cannot_be_infinite_is_refused_where_parameters_are_read(repository, tmp_path):
    text = (repository / "params.yaml").read_text(encoding="utf-8")
    number = re.search(r"^  M: (\S+)", text, re.MULTILINE).group(1)
    for written in ("inf", ".inf", "'.inf'"):  # as people write it, and as DVC does
        given = text.replace(f"  M: {number}", f"  M: {written}", 1)
        (tmp_path / "params.yaml").write_text(given, encoding="utf-8")
        assert math.inf == load_params(tmp_path / "params.yaml").sampler.M
        for old, new, problem in (
            ("source: noise", "source: text", "sampler: .*source noise where M is inf"),
            ("noise: per_token", "noise: shared", "sampler: .*noise per_token where M is inf, found shared"),
            ("sums: normalized", "sums: raw", "solver: .*sums: normalized where sampler.M or N is inf"),
        ):
            (tmp_path / "bad.yaml").write_text(given.replace(old, new, 1), encoding="utf-8")
            with pytest.raises(ConfigError, match=problem):
                load_params(tmp_path / "bad.yaml")
