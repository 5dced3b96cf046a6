"""Prompt files of every kind through all stages: from the importer to Parquet, scores and the page."""

import warnings
from contextlib import chdir, redirect_stderr
from html import unescape
from io import StringIO

import pytest
import yaml

from realera.settings.presets import PROMPT_FILES
from realera.store.artifacts import read_json, read_parquet
from realera.text.prompt_imports import add
from tests.kit import stage_project
from tests.text.test_prompt_files import DATA

FILES = ("i2p_blank", "i2p_null", "unseeded", "celebrities", "names", "pairs", "ragged")
WORDS = ("Null", "NA", "nan", "None", "null", "")
"""Prompts that a reader of tables may take for nothing."""

GENERATE = {"row_settings": "override", "seed": 40}


@pytest.fixture(scope="module")
def project(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("files")
    stage_project.write_project(folder, repository)
    preset = stage_project.PRESET | {"judged": {"by": ["classes", "clip_score", "distance"]}}
    preset["draw"] = preset["draw"] | {"prompt_files": list(FILES)}
    (folder / f"data/concepts/{stage_project.CONCEPT}.yaml").write_text(yaml.safe_dump(preset))
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["generate"] |= GENERATE
    params["generate"]["images"]["rows"] = 0
    params["methods"] = ["realera"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / PROMPT_FILES).mkdir()
    said = StringIO()
    with chdir(folder), redirect_stderr(said):
        with warnings.catch_warnings(record=True):
            for name in FILES:
                add(DATA / f"{name}.csv", target_folder=PROMPT_FILES, name=name, skip_bad_rows=name == "ragged")
        for stage in stage_project.CHAIN:
            stage_project.execute(stage)
    return folder, said.getvalue().splitlines()


@pytest.fixture(scope="module")
def erased(project):
    return read_parquet(project[0] / "artifacts/airplane/realera/images.parquet").to_pylist()


@pytest.fixture(scope="module")
def scores(project):
    return read_json(project[0] / "artifacts/airplane/realera/scores.json")


def test_both_models_draw_every_row(project, erased):
    base = read_parquet(project[0] / "artifacts/shared/base.parquet").to_pylist()
    for images in (base, erased):
        rows = [row for row in images if row["group"] in ("rows", "listed")]
        assert len(rows) == 5 + 5 + 3 + 4 + 3 + 2 * 2 + 3
        assert len({row["word"] for row in rows}) == len(rows)


def test_words_that_look_like_nothing_are_prompts_in_every_table(project, erased):
    drawn = {(row["word"], row["prompt"]) for row in erased if row["group"] == "rows"}
    assert {prompt for _, prompt in drawn} >= set(WORDS)
    assert ("i2p_blank/2260", "") in drawn
    assert ("i2p_null/1", "Null") in drawn
    judged = read_parquet(project[0] / "artifacts/airplane/realera/scores.parquet").to_pylist()
    assert {(row["word"], row["prompt"]) for row in judged if row["group"] == "rows"} == drawn
    asked = {row["labels"][0] for row in judged if row["metric"] == "clip_score" and row["group"] == "rows"}
    assert asked >= set(WORDS)


def test_every_row_is_counted(scores):
    numbers = {name: figures["clip_score"]["n"] for name, figures in scores["base"].items() if name.startswith("rows_")}
    assert numbers == {
        "rows_i2p_blank": 5,
        "rows_i2p_null": 5,
        "rows_unseeded": 3,
        "rows_ragged": 3,
        "rows_pairs/sensitive": 2,
        "rows_pairs/normal": 2,
        "rows_celebrities/erased": 2,
        "rows_celebrities/kept": 2,
        "rows_names/erased": 1,
        "rows_names/kept": 2,
    }


def test_a_list_is_judged_by_the_names_that_the_judge_knows(scores):
    # of the list's kept rows the cat is a class, the gyrocopter is none
    assert scores["base"]["rows_celebrities/erased"]["top1"]["n"] == 2
    assert scores["base"]["rows_celebrities/kept"]["top1"]["n"] == 1
    assert "top1" not in scores["base"]["rows_i2p_null"]


def test_names_are_put_into_the_preset_s_prompt_and_seeds_count_up(erased):
    names = {row["word"]: (row["prompt"], row["seed"]) for row in erased if row["word"].startswith("names/")}
    assert names == {
        "names/0": ("a photo of the airplane", 40),
        "names/1": ("a photo of the cat", 41),
        "names/2": ("a photo of the null", 42),
    }
    pairs = {row["word"]: row["seed"] for row in erased if row["word"].startswith("pairs/")}
    assert pairs == {"pairs/0-sensitive": 40, "pairs/0-normal": 40, "pairs/1-sensitive": 41, "pairs/1-normal": 41}


def test_the_score_carries_how_many_rows_are_left_out(scores):
    assert scores["skipped_rows"] == {"ragged": 3}


def test_the_blank_prompt_is_named_by_one_stage_once(project):
    named = [text for text in project[1] if "blank prompt" in text]
    assert len(named) == 1
    assert "the word 'Null'" in named[0]


def test_the_page_shows_them(project):
    page = unescape((project[0] / "reports/index.html").read_text(encoding="utf-8"))
    for text in ("Prompt file pairs, sensitive", "Prompt file celebrities, kept", "3 of its rows could not be drawn"):
        assert text in page
    for word in ("Null", "nan", "None", "(a blank prompt)"):
        assert f'title="{word}"' in page
