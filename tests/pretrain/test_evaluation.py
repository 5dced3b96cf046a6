"""What the evaluation draws, and how it reads it."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pretrain.drawing import Subject, draw_subjects, subjects
from pretrain.evaluation import read_drawings, summarize, word_table
from realera.judges.classifier import class_probabilities, labels, open_classifier
from realera.store.artifacts import read_json
from realera.store.images import encode_png

STYLE_PHRASE = "in the style of {style}"


@pytest.fixture(scope="module")
def known(tiny_sd) -> dict:
    return read_json(tiny_sd / "vocabulary.json")


@pytest.fixture(scope="module")
def style_judge(tiny_style):
    return open_classifier(tiny_style, device="cpu")


@pytest.fixture
def few(params):
    return params.evaluate.model_copy(update={"num_inference_steps": 2, "batch_size": 3})


# what is drawn ---------------------------------------------------------------------------------------


def test_every_word_has_its_number_of_images(known, params):
    plan = subjects(known, params.evaluate)
    named = [subject for subject in plan if subject.role == "name"]
    assert [subject.word for subject in named] == list(known["concepts"])
    assert all(subject.num_images == params.evaluate.images_per_word[subject.tier] for subject in named)
    synonyms = {subject.word: subject.concept for subject in plan if subject.role == "synonym"}
    assert synonyms["jet"] == "airplane"
    assert len(synonyms) == 30


def test_each_style_is_asked_for_on_every_class(known, params):
    styled = [subject for subject in subjects(known, params.evaluate) if subject.role == "style"]
    assert {subject.style for subject in styled} == set(known["styles"])
    for style in known["styles"]:
        assert sum(s.num_images for s in styled if s.style == style) == params.evaluate.images_per_style


def test_drawings_come_in_the_plans_order_with_seeds_that_count_up(tiny_sd, few, tmp_path):
    plan = [Subject("name", "cat", "cat", "classes", None, 2), Subject("style", "dog", "dog", "classes", "noto", 2)]
    table = draw_subjects(tiny_sd, plan, STYLE_PHRASE, few, tmp_path, 1).to_pydict()
    assert table["word"] == ["cat", "cat", "dog", "dog"]
    assert table["seed"] == [few.seed, few.seed + 1] * 2
    assert table["style"] == [None, None, "noto", "noto"]
    assert table["prompt"][1:3] == ["a photo of the cat", "a photo of the dog in the style of noto"]
    assert {Image.open(io.BytesIO(png)).size for png in table["png"]} == {(64, 64)}


def test_finished_batches_are_not_drawn_again(tiny_sd, few, tmp_path):
    plan = [Subject("name", "cat", "cat", "classes", None, 4)]
    first = draw_subjects(tiny_sd, plan, STYLE_PHRASE, few, tmp_path, 1)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*.parquet")}
    assert len(written) == 2
    assert draw_subjects(tiny_sd, plan, STYLE_PHRASE, few, tmp_path, 1).equals(first)
    assert {path: path.stat().st_mtime_ns for path in written} == written


# how it is read --------------------------------------------------------------------------------------


def drawings(rows: list[tuple]) -> pd.DataFrame:
    """Images of random colors; each row is role, word, concept, tier, style."""
    colors = np.random.default_rng(0).integers(0, 256, (len(rows), 64, 64, 3), dtype=np.uint8)
    table = pd.DataFrame(rows, columns=["role", "word", "concept", "tier", "style"])
    return table.assign(prompt="", seed=0, png=[encode_png(Image.fromarray(picture)) for picture in colors])


ROWS = [
    ("name", "cat", "cat", "classes", None),
    ("name", "castle", "castle", "core", None),
    ("synonym", "kitty", "cat", "classes", None),
    ("style", "cat", "cat", "classes", "noto"),
    ("style", "dog", "dog", "classes", "blob"),
]


def test_styles_are_read_by_the_style_judge_and_only_where_one_was_asked_for(judge, style_judge, known):
    table = drawings(ROWS)
    read = read_drawings(table, judge, style_judge, known)
    assert read["style_top1"].isna().tolist() == [True, True, True, False, False]
    images = [Image.open(io.BytesIO(png)) for png in table["png"][3:]]
    expected = np.array(labels(style_judge[0]))[class_probabilities(*style_judge, images).argmax(1)]
    assert read["style_top1"].tolist()[3:] == expected.tolist()


def test_readings_are_probabilities_and_top5_holds_top1(judge, style_judge, known):
    read = read_drawings(drawings(ROWS), judge, style_judge, known)
    assert read["none_prob"].between(0, 1).all()
    assert read["class_prob"].isna().tolist() == [False, True, False, False, False]
    assert (read["top5"] | ~read["top1"]).all()


def read_rows(*hits: tuple[str, str, str, str, bool]) -> pd.DataFrame:
    """Readings made by hand: role, word, concept, tier, whether it was read right."""
    rows = [
        {
            "role": role,
            "word": word,
            "concept": concept,
            "tier": tier,
            "style": "noto" if role == "style" else None,
            "class_top1": concept if right else "another",
            "class_prob": 0.9 if right else 0.1,
            "none_prob": 0.0 if right else 0.6,
            "top1": right,
            "top5": True,
            "style_top1": ("noto" if right else "blob") if role == "style" else None,
        }
        for role, word, concept, tier, right in hits
    ]
    return pd.DataFrame(rows)


def test_figures_of_readings_made_by_hand():
    read = read_rows(
        *[("name", "cat", "cat", "classes", right) for right in (True, True, True, False)],
        *[("synonym", "kitty", "cat", "classes", right) for right in (True, False)],
        *[("name", "castle", "castle", "core", True)] * 4,
        *[("name", "tree", "tree", "core", right) for right in (True, False)],
        *[("style", "cat", "cat", "classes", right) for right in (True, False, False, False)],
    )
    words = word_table(read)
    summary = summarize(read, words)
    assert summary["classes"]["mean"] == 0.75
    assert summary["classes"]["worst"] == {"word": "cat", "value": 0.75}
    assert summary["synonyms"]["mean"] == 0.5
    assert summary["classes_none"]["mean"] == 0.25
    assert summary["classes_mean_probability"]["mean"] == pytest.approx(0.7)
    assert summary["drawn_well"] == {"count": 1, "words": ["castle"]}
    assert summary["styles"]["mean"] == 0.25
    assert summary["styles"]["by_style"] == {"noto": 0.25}
    assert summary["vocabulary_top1"]["mean"] == pytest.approx((0.75 + 1 + 0.5) / 3, abs=1e-4)
