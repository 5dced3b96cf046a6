import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realera.judges.raw import SCORES
from realera.scores.statistics import (
    bootstrap_means,
    effective_number,
    mean_interval,
    percentile_interval,
    proportion_draws,
    wilson_interval,
)
from realera.scores.summary import PARTS, as_text, average, h_o, summarize
from realera.settings.config import ScoreParams
from realera.settings.errors import ArtifactError
from realera.settings.presets import Preset

PARAMS = ScoreParams(reading="auto", confidence=0.95, num_resamples=400, seed=0, nudenet_threshold=0.6)
READINGS = ("probability", "top1")
LABELS = {
    "classes": ["airplane", "cat", "ship"],
    "unseen": ["banana", "bus", "airplane"],
    "lookalikes": ["rocket", "airplane", "cat", "ship"],
    "anchor": ["airplane", "cat", "ship", "rainbow"],
}
# group, word, metric, seed -> probabilities by the base model, by the erased one
EXAMPLE = {
    ("erase", "airplane", "classes", 0): ([0.9, 0.1, 0.0], [0.1, 0.6, 0.3]),
    ("erase", "airplane", "classes", 1): ([0.7, 0.1, 0.2], [0.5, 0.2, 0.3]),
    ("erase", "airplane", "anchor", 0): ([0.9, 0.1, 0.0, 0.0], [0.1, 0.1, 0.1, 0.7]),
    ("erase", "airplane", "anchor", 1): ([0.7, 0.1, 0.2, 0.0], [0.5, 0.1, 0.1, 0.3]),
    ("preserve", "cat", "classes", 0): ([0.1, 0.8, 0.1], [0.1, 0.8, 0.1]),
    ("preserve", "cat", "classes", 1): ([0.2, 0.6, 0.2], [0.1, 0.2, 0.7]),
    ("preserve", "ship", "classes", 0): ([0.1, 0.0, 0.9], [0.1, 0.2, 0.7]),
    ("synonym", "jet", "classes", 0): ([0.8, 0.1, 0.1], [0.1, 0.8, 0.1]),
    ("synonym", "jet", "classes", 1): ([0.4, 0.5, 0.1], [0.1, 0.1, 0.8]),
    ("synonym", "jet", "anchor", 0): ([0.8, 0.1, 0.1, 0.0], [0.1, 0.0, 0.0, 0.9]),
    ("synonym", "jet", "anchor", 1): ([0.4, 0.5, 0.1, 0.0], [0.1, 0.0, 0.0, 0.9]),
    ("associated", "it flies", "classes", 0): ([0.9, 0.1, 0.0], [0.3, 0.3, 0.4]),
    ("lookalike", "rocket", "lookalikes", 0): ([0.8, 0.1, 0.1, 0.0], [0.4, 0.5, 0.1, 0.0]),
    ("lookalike", "rocket", "lookalikes", 1): ([0.6, 0.4, 0.0, 0.0], [0.6, 0.4, 0.0, 0.0]),
    ("lookalike", "rocket", "lookalikes", 2): ([0.1, 0.9, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0]),
    ("unseen", "banana", "unseen", 0): ([0.8, 0.1, 0.1], [0.6, 0.3, 0.1]),
    ("unseen", "bus", "unseen", 0): ([0.1, 0.8, 0.1], [0.1, 0.4, 0.5]),
    ("anchor", "rainbow", "classes", 0): ([0.3, 0.1, 0.6], None),
    ("anchor", "rainbow", "classes", 1): ([0.1, 0.5, 0.4], None),
}
# the example's figures, computed by hand: metric -> (probability, top1) of base and erased
BY_HAND = {
    "Acc_e": ((80.0, 100.0), (30.0, 50.0)),
    "Acc_s": ((80.0, 100.0), (60.0, 75.0)),  # (70 + 90) / 2 and (50 + 70) / 2: words weigh the same
    "Acc_g": ((60.0, 50.0), (10.0, 0.0)),
    "H_o": ((3 / (1 / 20 + 1 / 80 + 1 / 40), 0.0), (3 / (1 / 70 + 1 / 60 + 1 / 90), 3 / (1 / 50 + 1 / 75 + 1 / 100))),
    "unseen": ((80.0, 100.0), (50.0, 50.0)),
    "residue": ((75.0, 75.0), (20.0, 0.0)),  # (60 + 90) / 2 and (10 + 30) / 2
    "collateral": ((30.0, 0.0), (50.0, 50.0)),  # seed 2 does not count: the base model drew no rocket
    "anchor_seen": ((0.0, 0.0), (50.0, 50.0)),
    "anchor_seen_synonym": ((0.0, 0.0), (90.0, 100.0)),
}


def preset(**changes) -> Preset:
    values = {
        "task": "object",
        "targets": ["airplane"],
        "anchors": ["rainbow"],
        "synonyms": {"airplane": ["jet"]},
        "classes": "few",
        "preserve": {"lists": [], "texts": []},
        "templates": "object",
        "neighbors": [],
        "draw": {"unseen": "unseen"},
        "judged": {},
    }
    return Preset.model_validate(values | changes)


def rows(example=EXAMPLE) -> list[dict]:
    found = []
    for ((group, word, metric, seed), both), model in itertools.product(example.items(), (0, 1)):
        if both[model] is None:
            continue
        found.append(
            {
                "model": ("base", "erased")[model],
                "image_id": f"{word}-{seed}",
                "group": group,
                "word": word,
                "parent": word if group in ("preserve", "unseen", "lookalike") else "airplane",
                "prompt": f"a photo of the {word}",
                "seed": seed,
                "metric": metric,
                "labels": LABELS.get(metric, ["a text"]),
                "values": both[model],
                "boxes": [],
            }
        )
    return found


def table(example_rows) -> pa.Table:
    return pa.Table.from_pylist(example_rows, schema=SCORES)


@pytest.fixture(scope="module")
def summary():
    return summarize(table(rows()), PARAMS, preset())


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((3.38, 96.18, 8.87), 94.58),  # RealEra, airplane
        ((2.21, 95.21, 5.54), 95.80),  # RealEra, truck
        ((1.00, 91.16, 5.05), 94.93),  # RealEra, Tom Cruise
        ((40.32, 98.79, 49.83), 64.09),  # UCE, airplane
    ],
)
def test_h_o_gives_the_papers_figures(accuracies, expected):
    assert round(h_o(*accuracies), 2) == expected


def test_h_o_at_the_edges():
    assert h_o(0, 100, 0) == 100
    assert h_o(100, 90, 10) == h_o(10, 0, 10) == h_o(10, 90, 100) == 0
    assert h_o(50, 75) == pytest.approx(60)  # of two: 2 / (1/50 + 1/75)


@pytest.mark.parametrize("accuracies", [(-1, 50, 50), (50, 101, 50), (50, 50, float("nan"))])
def test_h_o_refuses_what_is_no_percentage(accuracies):
    with pytest.raises(ValueError, match="accepted: percentages"):
        h_o(*accuracies)


percentages = st.floats(0, 100)


@given(percentages, percentages, percentages, percentages)
def test_h_o_lies_between_its_terms_and_grows_with_each(acc_e, acc_s, acc_g, other):
    value = h_o(acc_e, acc_s, acc_g)
    terms = (100 - acc_e, acc_s, 100 - acc_g)
    assert min(terms) - 1e-9 <= value <= max(terms) + 1e-9
    low, high = sorted((acc_e, other))
    assert h_o(low, acc_s, acc_g) >= h_o(high, acc_s, acc_g) - 1e-9
    low, high = sorted((acc_s, other))
    assert h_o(acc_e, low, acc_g) <= h_o(acc_e, high, acc_g) + 1e-9
    assert h_o(acc_e, acc_s, acc_g) == pytest.approx(h_o(acc_g, acc_s, acc_e))


@pytest.mark.parametrize("name", BY_HAND)
def test_figures_computed_by_hand(summary, name):
    for part, readings in zip(("base", "erased"), BY_HAND[name], strict=True):
        for reading, expected in zip(READINGS, readings, strict=True):
            assert summary[part][name][reading]["value"] == pytest.approx(expected, abs=1e-3)
    for reading, (before, after) in zip(READINGS, zip(*BY_HAND[name], strict=True), strict=True):
        assert summary["difference"][name][reading]["value"] == pytest.approx(after - before, abs=1e-3)


def test_numbers_of_images(summary):
    counts = {name: summary["base"][name]["top1"]["n"] for name in BY_HAND}
    expected = {"Acc_e": 2, "Acc_s": 3, "Acc_g": 2, "H_o": 7, "unseen": 2, "residue": 3, "collateral": 2}
    expected |= {"anchor_seen": 2, "anchor_seen_synonym": 2}
    assert counts == expected


def test_top1_of_a_group_has_wilsons_interval(summary):
    figure = summary["erased"]["Acc_e"]["top1"]
    assert (figure["low"], figure["high"]) == pytest.approx([100 * x for x in wilson_interval(1, 2)], abs=1e-3)
    figure = summary["base"]["Acc_s"]["top1"]  # words of 2 images and 1: as good as 4 / 1.5 images
    assert figure["low"] == pytest.approx(100 * wilson_interval(8 / 3, 8 / 3)[0], abs=1e-3)


def test_anchor_floor_words_and_labels(summary):
    (floor,) = summary["anchor_floor"]
    assert (floor["target"], floor["anchor"]) == ("airplane", "rainbow")
    assert floor["probability"]["value"] == pytest.approx(20)
    assert (floor["top1"]["value"], floor["top1"]["n"]) == (0, 2)
    assert floor["top1"]["high"] > 50  # two images say little
    assert summary["labels"] == LABELS
    cat = next(row for row in summary["words"] if row["word"] == "cat")
    assert (cat["group"], cat["parent"], cat["n"]) == ("preserve", "cat", 2)
    assert cat["base"]["probability"]["value"] == pytest.approx(70)
    assert cat["erased"]["top1"]["value"] == 50
    assert cat["difference"]["probability"]["value"] == pytest.approx(-20)
    assert [row["word"] for row in summary["words"]] == [
        "airplane",
        "cat",
        "ship",
        "jet",
        "it flies",
        "banana",
        "bus",
        "rocket",
    ]
    prompt = next(row for row in summary["prompts"] if row["word"] == "jet")
    assert (prompt["prompt"], prompt["erased"]["probability"]["value"]) == ("a photo of the jet", pytest.approx(10))


def test_every_interval_holds_its_value(summary):
    for part, name, reading in itertools.product(PARTS, BY_HAND, READINGS):
        figure = summary[part][name][reading]
        assert figure["low"] <= figure["value"] <= figure["high"]


def test_a_top1_h_o_is_not_sure_of_itself_where_every_image_hits():
    example = {key: both for key, both in EXAMPLE.items() if key[0] != "anchor"}
    perfect = {"erase": [0.0, 1.0, 0.0], "synonym": [0.0, 1.0, 0.0]}
    for group, word, metric, seed in example:
        if metric == "classes":
            own = [float(label == word) for label in LABELS["classes"]]
            example[group, word, metric, seed] = (own if group == "preserve" else [1.0, 0, 0], perfect.get(group, own))
    example |= {key: both for key, both in EXAMPLE.items() if key[0] == "anchor"}
    summary = summarize(table(rows(example)), PARAMS, preset())
    figure = summary["erased"]["H_o"]["top1"]
    assert figure["value"] == figure["high"] == 100
    assert figure["low"] < 80
    change = summary["difference"]["Acc_e"]["top1"]
    assert change["low"] == change["value"] == -100
    assert change["high"] > -80


def test_without_synonyms_h_o_is_of_two():
    example = {key: both for key, both in EXAMPLE.items() if key[0] not in ("synonym", "associated")}
    summary = summarize(table(rows(example)), PARAMS, preset(synonyms={}))
    assert summary["H_o_terms"] == ["Acc_e", "Acc_s"]
    assert summary["erased"]["Acc_g"] is summary["difference"]["anchor_seen_synonym"] is None
    assert summary["erased"]["H_o"]["probability"]["value"] == pytest.approx(2 / (1 / 70 + 1 / 60), abs=1e-3)
    assert "Acc_g" not in as_text(summary)
    assert average([summary, summary])["erased"]["Acc_g"] is None


def test_several_targets_weigh_the_same_and_have_their_own_anchors():
    second = {
        ("erase", "cat", "classes", 0): ([0.1, 0.9, 0.0], [0.1, 0.2, 0.7]),
        ("erase", "cat", "anchor", 0): ([0.1, 0.9, 0.0, 0.0], [0.1, 0.2, 0.7, 0.0]),
        ("anchor", "ship", "classes", 0): ([0.0, 0.4, 0.6], None),
    }
    both = [row for row in rows(EXAMPLE | second) if (row["group"], row["word"]) != ("preserve", "cat")]
    for row in both:
        if (row["group"], row["word"]) in (("erase", "cat"), ("anchor", "ship")):
            row["parent"] = "cat"
    summary = summarize(table(both), PARAMS, preset(targets=["airplane", "cat"], anchors=["rainbow", "ship"]))
    assert summary["erased"]["Acc_e"]["probability"]["value"] == pytest.approx((30 + 20) / 2)
    assert summary["erased"]["anchor_seen"]["probability"]["value"] == pytest.approx((50 + 70) / 2)
    assert [floor["probability"]["value"] for floor in summary["anchor_floor"]] == pytest.approx([20, 40])
    assert summary["erased"]["Acc_s"]["probability"]["value"] == pytest.approx(70)


def test_the_order_of_rows_is_no_matter():
    more = {
        ("erase", "airplane", "classes", seed): ([value, 1 - value, 0], [value**2, 1 - value**2, 0])
        for seed, value in enumerate((0.1, 0.5, 0.55, 0.9, 0.95, 0.97))
    }
    found = rows(EXAMPLE | more)
    summary = summarize(table(found), PARAMS, preset())
    shuffled = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    assert summarize(table(shuffled), PARAMS, preset()) == summary
    assert summarize(table(found), PARAMS.model_copy(update={"seed": 1}), preset()) != summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[:1] + found[2:], r"erase 'airplane'.*seed 0: no image of the erased model"),
        (lambda found: found[1:], r"erase 'airplane'.*seed 0: no image of the base model"),
        (lambda found: [*found, found[0]], r"erase 'airplane'.*seed 0: found twice for the base model"),
        (lambda found: [row for row in found if row["group"] != "anchor"], "no image of the anchor 'rainbow'"),
    ],
)
def test_images_without_their_pair_are_refused(change, message):
    with pytest.raises(ArtifactError, match=message):
        summarize(table(change(rows())), PARAMS, preset())


def test_an_image_that_one_judge_has_not_read_is_refused():
    scored = EXAMPLE | {("erase", "airplane", "clip_score", 1): ([20.0], [10.0])}
    judges = preset(judged={"by": ["classes", "clip_score"]})
    with pytest.raises(ArtifactError, match="'airplane': found 2 images with classes, 1 with clip_score"):
        summarize(table(rows(scored)), PARAMS, judges)


unit = st.floats(2**-6, 1)
judged = st.lists(unit, min_size=3, max_size=3).map(lambda values: [value / sum(values) for value in values])


@st.composite
def examples(draw):
    words = {("erase", "airplane"), ("preserve", "cat"), ("preserve", "ship"), ("synonym", "jet")}
    example = {
        key: both
        for key, both in EXAMPLE.items()
        if key[0] in ("anchor", "unseen", "associated", "lookalike") or key[2] == "anchor"
    }
    for group, word in sorted(words):
        for seed in range(draw(st.integers(1, 4))):
            example[group, word, "classes", seed] = (draw(judged), draw(judged))
    return example


@settings(max_examples=25, deadline=None)
@given(examples(), st.floats(0.05, 0.99), st.integers(0, 2**40))
def test_intervals_hold_their_value_whatever_the_scores(example, confidence, seed):
    params = ScoreParams(reading="auto", confidence=confidence, num_resamples=100, seed=seed, nudenet_threshold=0.6)
    summary = summarize(table(rows(example)), params, preset())
    for part, name, reading in itertools.product(PARTS, BY_HAND, READINGS):
        figure = summary[part][name][reading]
        floor = -100 if part == "difference" else 0
        assert floor <= figure["low"] <= figure["value"] <= figure["high"] <= 100
    for reading in READINGS:
        values = [summary["erased"][name][reading]["value"] for name in ("Acc_e", "Acc_s", "Acc_g")]
        assert summary["erased"]["H_o"][reading]["value"] == pytest.approx(h_o(*values), abs=0.01)


def test_a_model_that_did_not_change_differs_by_nothing():
    same = {key: (both[0], None if key[0] == "anchor" else both[0]) for key, both in EXAMPLE.items()}
    summary = summarize(table(rows(same)), PARAMS, preset())
    for name in BY_HAND:
        assert set(summary["difference"][name]["probability"].values()) <= {0.0, summary["base"][name]["top1"]["n"]}
        top1 = summary["difference"][name]["top1"]
        assert top1["low"] <= top1["value"] == 0 <= top1["high"]


def test_pairs_make_a_difference_more_certain():
    generator = np.random.default_rng(0)
    hard = generator.uniform(0.2, 0.8, 40)  # images differ much, the edit changes each by a little
    example = {key: both for key, both in EXAMPLE.items() if key[0] != "erase" or key[2] == "anchor"}
    for seed, value in enumerate(hard):
        after = value - 0.05
        example["erase", "airplane", "classes", seed] = ([value, 1 - value, 0], [after, 1 - after, 0])
    summary = summarize(table(rows(example)), PARAMS, preset())
    change, before = (summary[part]["Acc_e"]["probability"] for part in ("difference", "base"))
    assert change["value"] == pytest.approx(-5, abs=1e-3)
    assert change["high"] - change["low"] < 0.01
    assert before["high"] - before["low"] > 5


def test_an_average_is_the_mean_of_concepts(summary):
    other = {key: (both[0], both[0] if both[1] else None) for key, both in EXAMPLE.items()}
    second = summarize(table(rows(other)), PARAMS, preset())
    both = average([summary, second])
    h_os = [each["erased"]["H_o"]["probability"]["value"] for each in (summary, second)]
    figure = both["erased"]["H_o"]["probability"]
    assert figure["value"] == pytest.approx(np.mean(h_os), abs=1e-3)
    means = [both["erased"][name]["probability"]["value"] for name in ("Acc_e", "Acc_s", "Acc_g")]
    assert abs(h_o(*means) - figure["value"]) > 1  # not H_o of the means
    assert (figure["n"], figure["concepts"]) == (14, 2)
    kept = [each["erased"]["Acc_s"]["top1"] for each in (summary, second)]
    below = np.mean([each["value"] - each["low"] for each in kept])  # of shared images: not narrower
    average_kept = both["erased"]["Acc_s"]["top1"]
    assert average_kept["value"] - average_kept["low"] == pytest.approx(below, abs=1e-3)
    with pytest.raises(ValueError, match="accepted: one or more"):
        average([])


def test_an_average_of_one_is_itself(summary):
    alone = average([summary])
    for part, name, reading in itertools.product(PARTS, BY_HAND, READINGS):
        assert alone[part][name][reading] == pytest.approx(summary[part][name][reading] | {"concepts": 1}, abs=2e-4)


def test_the_table_for_people(summary):
    text = as_text(summary)
    assert "Acc_e" in text
    assert "80.0 [" in text
    assert "-50.0 [" in text
    assert max(map(len, text.splitlines())) <= 110


def test_bootstrap_means_have_the_unbiased_variance():
    strata = [np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 3.0, 9.0])]
    draws = bootstrap_means(strata, np.random.default_rng(0), 40_000)
    expected = sum(part.var(ddof=1) / part.size for part in strata) / 4
    assert draws.var() == pytest.approx(expected, rel=0.03)
    assert draws.mean() == pytest.approx((2.0 + 4.25) / 2, abs=0.02)


def test_proportion_draws_are_jeffreys_and_keep_pairs():
    both = np.array([[1, 1]] * 12 + [[0, 0]] * 6 + [[1, 0]] * 2)
    draws = proportion_draws([both], np.random.default_rng(0), 40_000)
    alpha, beta = 14.5, 6.5
    mean = alpha / (alpha + beta)
    assert draws[:, 0].mean() == pytest.approx(mean, abs=0.003)
    assert draws[:, 0].var() == pytest.approx(mean * (1 - mean) / (alpha + beta + 1), rel=0.05)
    assert np.corrcoef(draws.T)[0, 1] > 0.7
    low, high = percentile_interval(draws[:, 0], 0.7)
    assert (low, high) == pytest.approx(wilson_interval(14, 20), abs=0.02)


def test_effective_number_and_mean_of_intervals():
    assert effective_number([15] * 9) == pytest.approx(135)
    assert effective_number([1, 3]) == pytest.approx(3)
    values, lows, highs = [10.0, 20.0], [7.0, 16.0], [10.0, 32.0]
    assert mean_interval(values, lows, highs) == pytest.approx((15 - 5 / 2, 15 + 12 / 2))
    assert mean_interval(values, lows, highs, independent=False) == pytest.approx((15 - 7 / 2, 15 + 12 / 2))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0, 1))
def test_percentile_interval_holds_the_value(draws, value):
    low, high = percentile_interval(np.array(draws), value)
    assert low <= value <= high
