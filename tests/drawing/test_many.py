"""Drawing many images: the same bytes however it is interrupted, ordered or divided."""

import dataclasses

import pytest
import torch

from realera.drawing import many
from realera.drawing.many import Source, draw_all, image_id
from realera.drawing.subjects import (
    Settings,
    Subject,
    all_shared_subjects,
    drawings,
    erased_subjects,
    own_subjects,
    read_subjects,
    shared_subjects,
    to_json,
)
from realera.settings.config import load_params
from realera.settings.errors import ArtifactError
from realera.settings.presets import PROMPT_FILES, load_preset, load_words
from realera.store.artifacts import read_parquet, write_json
from realera.store.images import decode_png


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


@pytest.mark.parametrize(
    ("number", "most", "sizes"),
    [(179, 16, [15, 15, 15, 15, 15, 15, 14, 15, 15, 15, 15, 15]), (3, 1, [1, 1, 1]), (1, 16, [1]), (5, 2, [1, 1, 1, 2]),
     (32, 16, [16, 16])],
)  # fmt: skip
def test_batches_are_even_and_none_is_empty(number, most, sizes):
    found = many.divided(range(number), most)
    assert sorted(len(batch) for batch in found) == sorted(sizes)
    assert [each for batch in found for each in batch] == list(range(number))


def test_finished_batches_are_kept_and_damaged_ones_drawn_again(whole, plan, source, params, tmp_path):
    draw_all(plan, source, params, tmp_path)
    first, second = sorted(tmp_path.glob("part-*"))
    before = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:100])
    assert draw_all(plan, source, params, tmp_path).equals(whole)
    assert first.stat().st_mtime_ns == before
    assert read_parquet(first).num_rows == read_parquet(second).num_rows == 2


@pytest.mark.parametrize(("number", "sizes"), [(3, [3]), (4, [2, 2]), (7, [1, 2, 2, 2]), (12, [3, 3, 3, 3])])
def test_batches_are_of_one_size_and_shared_by_two_processes(number, sizes, params, source, tmp_path):
    images = params.images.model_copy(update={"erase": number})
    asked = params.model_copy(update={"images": images, "num_inference_steps": 1, "num_processes": 2})
    whole = draw_all(drawings([Subject("erase", "cat", "cat", ("a cat",))], asked), source, asked, tmp_path)
    assert [read_parquet(part).num_rows for part in sorted(tmp_path.glob("part-*"))] == sizes
    assert whole["seed"].to_pylist() == list(range(number))


def test_image_ids_tell_prompts_seeds_and_settings_apart(plan, params):
    first = plan[0]
    others = [dataclasses.replace(first, seed=9), dataclasses.replace(first, prompt="x")]
    assert len({image_id(each, params) for each in [first, *others]}) == 3
    assert image_id(dataclasses.replace(first, settings=Settings(1.5)), params) != image_id(first, params)
    assert image_id(dataclasses.replace(first, settings=Settings(5.0, 64, 96)), params) != image_id(first, params)
    assert image_id(first, params.model_copy(update={"batch_size": 7})) == image_id(first, params)


ROWS = [
    Subject("rows", "i2p/3", "i2p", ("a cat",), 0, 4_290_749_014, 7.5, 128, 64),
    Subject("rows", "i2p/9", "i2p", ("a dog",), 1, 2, None, None, None),
    Subject("rows", "coco/1", "coco", ("a ship",), 0, 3, 7.5, 128, 64),
]


def test_rows_keep_their_seed_and_take_their_own_settings_if_asked(params):
    found = drawings(ROWS, params)
    assert [each.seed for each in found] == [4_290_749_014, 2, 3]
    assert {each.settings for each in found} == {Settings(params.guidance_scale)}
    honored = drawings(ROWS, params.model_copy(update={"row_settings": "honor"}))
    own = Settings(7.5, 128, 64)
    assert [each.settings for each in honored] == [own, Settings(params.guidance_scale), own]


def test_the_first_rows_of_each_file_are_drawn(params):
    def drawn(rows: int) -> list[str]:
        images = params.images.model_copy(update={"rows": rows})
        return [each.subject.word for each in drawings(ROWS, params.model_copy(update={"images": images}))]

    assert drawn(1) == ["i2p/3", "coco/1"]
    assert drawn(0) == drawn(100) == ["i2p/3", "i2p/9", "coco/1"]


def test_the_original_model_draws_the_rows_that_the_erased_one_draws(params, tmp_path, monkeypatch):
    """Sorted by their text, cases 10 and 100 would come before 2, and pairs would lack."""
    (tmp_path / PROMPT_FILES).mkdir(parents=True)
    rows = [f"{number},a cat,{number}" for number in range(120)]
    (tmp_path / PROMPT_FILES / "many.csv").write_text("\n".join(["case_number,prompt,evaluation_seed", *rows]))
    preset = load_preset("airplane")
    preset = preset.model_copy(update={"draw": preset.draw.model_copy(update={"prompt_files": ("many",)})})
    monkeypatch.chdir(tmp_path)
    chosen = params.model_copy(update={"images": params.images.model_copy(update={"rows": 15})})

    def cases(subjects):
        return [each.subject.word for each in drawings(subjects, chosen) if each.subject.group == "rows"]

    assert cases(all_shared_subjects([preset])) == cases(erased_subjects(preset)) == [f"many/{n}" for n in range(15)]


def test_rows_without_a_seed_count_up_from_the_section_s(params):
    row = Subject("rows", "captions/9", "captions", ("a cat",), 9)
    every = params.model_copy(update={"images": params.images.model_copy(update={"rows": 0})})
    assert [each.seed for each in drawings([row], every.model_copy(update={"seed": 5}))] == [14]
    assert [each.seed for each in drawings([row], every.model_copy(update={"seed": 2**32 - 1}))] == [8]


def test_rows_of_other_sizes_are_drawn_in_batches_of_their_own(params, source, tmp_path):
    honored = params.model_copy(update={"row_settings": "honor", "num_inference_steps": 1})
    table = draw_all(drawings(ROWS, honored), source, honored, tmp_path)
    assert [decode_png(png, "x").size for png in table["png"].to_pylist()] == [(128, 64), (64, 64), (128, 64)]
    assert table["word"].to_pylist() == ["i2p/3", "i2p/9", "coco/1"]
    assert len(list(tmp_path.glob("part-*"))) == 3


def test_prompts_take_turns(params):
    subject = Subject("erase", "noto", "noto", ("a cat by noto", "a dog by noto"))
    assert [(each.prompt, each.seed) for each in drawings([subject], params)] == [
        ("a cat by noto", 0),
        ("a dog by noto", 1),
    ]


def test_subjects_are_read_as_they_were_written(tmp_path):
    subjects = [*shared_subjects(load_preset("airplane")), *ROWS]
    write_json(to_json(subjects), tmp_path / "subjects.json")
    assert read_subjects(tmp_path / "subjects.json") == subjects
    for row in ({"group": "coco"}, {"group": "unseen"}, {"prompts": []}, {"seed": "x"}, {"number": -1}):
        write_json([to_json(ROWS)[0] | row], tmp_path / "subjects.json")
        with pytest.raises(ArtifactError, match=r"subjects.json: "):
            read_subjects(tmp_path / "subjects.json")


def test_who_draws_what():
    airplane, cat = load_preset("airplane"), load_preset("cat")
    classes, unseen = set(load_words("cifar10")), set(load_words("unseen"))
    shared = shared_subjects(airplane)
    assert {each.word for each in shared} == classes | unseen
    assert all_shared_subjects([airplane, cat]) == all_shared_subjects([cat, airplane])
    assert {each.word for each in own_subjects(airplane)} == {
        "airplane",
        *airplane.synonyms["airplane"],
        *airplane.all_associated(),
        *airplane.draw.lookalikes,
        *airplane.anchors,
    }
    erased = erased_subjects(airplane)
    assert {each.group for each in erased} == {"erase", "synonym", "associated", "lookalike", "preserve", "unseen"}
    assert [each.word for each in erased if each.group == "preserve"] == [
        word for word in load_words("cifar10") if word != "airplane"
    ]
    assert {each.parent for each in erased if each.group == "synonym"} == {"airplane"}


@pytest.mark.parametrize(
    ("device", "num_threads", "platform", "expected"),
    [
        ("cpu", 1, "linux", "fork"),
        ("cpu", 2, "linux", "spawn"),
        ("cpu", 1, "darwin", "spawn"),
        ("cuda:0", 1, "linux", "spawn"),
    ],
)
def test_processes_are_forked_only_where_that_is_safe(device, num_threads, platform, expected, monkeypatch):
    monkeypatch.setattr(many.sys, "platform", platform)
    monkeypatch.setattr(many.devices, "resolve_device", torch.device)
    assert many.start_method(device, num_threads) == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_both_ways_to_start_processes_draw_the_same(method, whole, plan, source, params, tmp_path, monkeypatch):
    monkeypatch.setattr(many, "start_method", lambda *_: method)
    assert draw_all(plan, source, params.model_copy(update={"num_processes": 2}), tmp_path).equals(whole)
