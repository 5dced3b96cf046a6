"""User-interface icons that only the judge learns from: which are found, and how they join the emoji."""

import dataclasses
import json

import pytest
import torch

from pretrain.captions import CaptionSampler
from pretrain.config import GLYPH, Glyphs, Judge, Vocabulary
from pretrain.contrastive import JudgeTask
from pretrain.glyphs import find_glyphs, joined

BODY = {"body": '<path d="M0 0h24v24H0z"/>'}
VOCABULARY = Vocabulary(
    classes={"automobile": ("🚗", "car", "vehicle")},
    core={"racing car": ("🏎", "formula one"), "book": ("📕", "volume"), "mouse": ("🐁", "rodent")},
    rest={},
)


@pytest.fixture
def packages(tmp_path):
    sets = {
        "one": {"icons": dict.fromkeys(("car", "automobile", "racing-car", "volume", "book", "mouse"), BODY)},
        "two": {"icons": {"car-fill": BODY, "car": BODY}, "aliases": {"vehicle-line": {"parent": "car"}}},
    }
    for name, content in sets.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "icons.json").write_text(json.dumps({"height": 24, **content}), encoding="utf-8")
    return tmp_path


def found(packages, left_out=(), **sets) -> list[tuple[str, str]]:
    params = Glyphs.model_validate({"sets": sets, "left_out": left_out})
    return [(icon.concept, icon.name) for icon in find_glyphs(VOCABULARY, packages, params, "glyph")]


def test_a_class_is_found_by_each_of_its_words_another_concept_by_its_name(packages):
    names = found(packages, a={"package": "one"})
    assert names == [
        ("automobile", "a/automobile"),
        ("automobile", "a/car"),
        ("racing car", "a/racing-car"),
        ("book", "a/book"),
        ("mouse", "a/mouse"),
    ]


def test_a_word_that_is_left_out_is_not_looked_for(packages):
    assert ("mouse", "a/mouse") not in found(packages, ["mouse"], a={"package": "one"})


def test_only_the_endings_of_a_set_count(packages):
    assert found(packages, b={"package": "two", "endings": ["fill", "line"]}) == [
        ("automobile", "b/car-fill"),
        ("automobile", "b/vehicle-line"),
    ]


def test_every_glyph_has_its_set_in_its_name_and_one_vendor(packages):
    params = Glyphs.model_validate({"sets": {"a": {"package": "one"}, "b": {"package": "two"}}, "left_out": ()})
    icons = list(find_glyphs(VOCABULARY, packages, params, "glyph"))
    assert {icon.vendor for icon in icons} == {"glyph"}
    assert len({icon.name for icon in icons}) == len(icons)
    assert all("<path" in icon.svg for icon in icons)


def test_joined_icons_keep_order_and_drawings(icons):
    first, second = icons.select([True, False] * (len(icons) // 2)), icons.select([False, True] * (len(icons) // 2))
    both = joined(first, second)
    assert len(both) == len(first) + len(second)
    assert both.icon_ids == first.icon_ids + second.icon_ids
    assert torch.equal(both.rgba[len(first) :], second.rgba)


def test_a_glyph_is_seen_as_often_as_its_weight_says(icons, params, tokenizer):
    glyphs = dataclasses.replace(icons, vendors=(GLYPH,) * len(icons))
    vocabulary = Vocabulary(classes={"cat": ("🐈",)}, core={"house": ("🏠",)}, rest={"spoon": ("🥄",)})
    captions = CaptionSampler(params.caption, vocabulary.concepts())
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = params.judge.model_dump() | {"text": tower, "vision": tower, "projection_dim": 8, "glyph_weight": 0.25}
    task = JudgeTask(joined(icons, glyphs), tokenizer, captions, Judge.model_validate(small))
    emoji, glyph = task.sampler.weights.split(len(icons))
    torch.testing.assert_close(glyph, 0.25 * emoji)


def test_the_repositorys_sets_are_fetched_and_named_once(params):
    fetched = {package.folder for package in params.fetch.npm}
    used = [glyph_set.package for glyph_set in params.glyphs.sets.values()]
    assert set(used) <= fetched
    assert len(set(used)) == len(used)
    assert not set(used) & set(params.render.vendors.values())
