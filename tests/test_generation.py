"""Drawing many images: the same bytes however it is interrupted, ordered or divided."""

import dataclasses

import pytest

from realera.artifacts import read_parquet
from realera.concepts import load_preset, load_words
from realera.config import load_params
from realera.evaluation import (
    Settings,
    Subject,
    all_shared_subjects,
    drawings,
    erased_subjects,
    own_subjects,
    shared_subjects,
)
from realera.generation import Source, draw_all, image_id
from realera.images import decode_png


@pytest.fixture(scope="module")
def params():
    generate = load_params().generate
    counts = generate.images.model_copy(update=dict.fromkeys(type(generate.images).model_fields, 2))
    return generate.model_copy(update={"images": counts, "num_inference_steps": 2, "batch_size": 3, "num_processes": 1})


@pytest.fixture(scope="module")
def plan(params):
    return drawings(
        [
            Subject("erase", "cat", "cat", ("a photo of the cat",)),
            Subject("synonym", "kitty", "cat", ("a photo of the kitty",)),
        ],
        params,
    )


@pytest.fixture(scope="module")
def source():
    return Source(load_params().model)


@pytest.fixture(scope="module")
def whole(plan, source, params, tmp_path_factory):
    return draw_all(plan, source, params, tmp_path_factory.mktemp("whole"))


def test_one_row_a_drawing_with_a_picture(whole, plan):
    assert whole.num_rows == len(plan) == 4
    assert whole["word"].to_pylist() == ["cat", "cat", "kitty", "kitty"]
    assert whole["seed"].to_pylist() == [0, 1, 0, 1]
    assert len(set(whole["image_id"].to_pylist())) == 4
    assert decode_png(whole["png"][0].as_py(), "x").size == (64, 64)


def test_two_processes_give_the_same_bytes(whole, plan, source, params, tmp_path):
    two = params.model_copy(update={"num_processes": 2})
    assert draw_all(plan, source, two, tmp_path).equals(whole)


def test_finished_batches_are_kept_and_damaged_ones_drawn_again(whole, plan, source, params, tmp_path):
    draw_all(plan, source, params, tmp_path)
    first, second = sorted(tmp_path.glob("part-*"))
    before = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:100])
    assert draw_all(plan, source, params, tmp_path).equals(whole)
    assert first.stat().st_mtime_ns == before
    assert read_parquet(second).num_rows == 1


def test_image_ids_tell_prompts_seeds_and_settings_apart(plan, params):
    first = plan[0]
    others = [dataclasses.replace(first, seed=9), dataclasses.replace(first, prompt="x")]
    assert len({image_id(each, params) for each in [first, *others]}) == 3
    assert image_id(dataclasses.replace(first, settings=Settings(1.5)), params) != image_id(first, params)
    assert image_id(dataclasses.replace(first, settings=Settings(5.0, 64, 96)), params) != image_id(first, params)
    assert image_id(first, params.model_copy(update={"batch_size": 7})) == image_id(first, params)


def test_who_draws_what():
    airplane, cat = load_preset("airplane"), load_preset("cat")
    classes, unseen = set(load_words("cifar10")), set(load_words("unseen"))
    shared = shared_subjects(airplane)
    assert {each.word for each in shared} == classes | unseen
    assert all_shared_subjects([airplane, cat]) == all_shared_subjects([cat, airplane])
    assert {each.word for each in own_subjects(airplane)} == {
        "airplane",
        *airplane.synonyms["airplane"],
        *airplane.anchors,
    }
    erased = erased_subjects(airplane)
    assert {each.group for each in erased} == {"erase", "synonym", "preserve", "unseen"}
    assert [each.word for each in erased if each.group == "preserve"] == [
        word for word in load_words("cifar10") if word != "airplane"
    ]
    assert {each.parent for each in erased if each.group == "synonym"} == {"airplane"}
