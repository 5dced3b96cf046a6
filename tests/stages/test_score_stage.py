"""The stages judge and score on pictures that the embedded model draws, judged by the embedded judge.

The "erased" pictures are an oracle's: where the target was, the anchor of the same seed.
"""

import csv
import subprocess
import sys
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import yaml

from realera.drawing.subjects import Subject
from realera.judges.clip import class_probabilities
from realera.judges.forced_choice import choice_labels
from realera.judges.judging import judge_images
from realera.judges.pictures import open_images, select_subjects
from realera.judges.raw import SCORES
from realera.settings.config import load_params
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import Preset
from realera.store.artifacts import read_json, read_parquet, write_parquet
from realera.store.images import SCHEMA, decode_png, encode_png
from stages import judge as judge_stage
from stages import score as score_stage

WORDS = {"few": ["airplane", "cat", "ship"], "kept": ["banana", "airplane"]}
PRESET = {
    "task": "object",
    "targets": ["airplane"],
    "anchors": ["dog"],
    "synonyms": {"airplane": ["jet"]},
    "classes": "few",
    "preserve": {"lists": ["few"], "texts": []},
    "templates": "object",
    "neighbors": [],
    "draw": {"unseen": "kept"},
    "judged": {},
}
DRAWN = {  # group -> [(word, parent)]
    "erase": [("airplane", "airplane")],
    "synonym": [("jet", "airplane")],
    "anchor": [("dog", "airplane")],
    "preserve": [("cat", "cat"), ("ship", "ship")],
    "unseen": [("banana", "banana")],
}
ERASED = ("erase", "synonym", "preserve", "unseen")
NUM_IMAGES = 2
NUM_STEPS = 8


@pytest.fixture(scope="module")
def drawn(pipe) -> pa.Table:
    from realera.drawing.batch import draw

    rows = [
        {"group": group, "word": word, "parent": parent, "prompt": f"a photo of the {word}", "seed": seed}
        for group, subjects in DRAWN.items()
        for word, parent in subjects
        for seed in range(NUM_IMAGES)
    ]
    images = draw(pipe, [row["prompt"] for row in rows], [row["seed"] for row in rows], NUM_STEPS, 5.0)
    for index, (row, image) in enumerate(zip(rows, images, strict=True)):
        row |= {"image_id": f"{index:016x}", "png": encode_png(image)}
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def project(tmp_path, monkeypatch, repository, drawn):
    """A working folder with its own preset, and what the stages before have left."""
    params = yaml.safe_load((repository / "params.yaml").read_text())
    params["score"]["num_resamples"] = 200
    for name, content in {
        "params.yaml": params,
        "data/concepts/plane.yaml": PRESET,
        "data/prompts/words.yaml": WORDS,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    save(drawn, "shared/base", ("preserve", "unseen"))
    save(drawn, "plane/originals", ("erase", "synonym", "anchor"))
    save(oracle(drawn), "plane/realera/images", ERASED)
    return tmp_path


def save(images: pa.Table, name: str, groups: tuple) -> None:
    rows = [row for row in images.to_pylist() if row["group"] in groups]
    write_parquet(pa.Table.from_pylist(rows, schema=SCHEMA), f"artifacts/{name}.parquet")


def change(name: str, function) -> None:
    path = f"artifacts/{name}.parquet"
    rows = [function(row) for row in read_parquet(path).to_pylist()]
    write_parquet(pa.Table.from_pylist([row for row in rows if row], schema=SCHEMA), path)


def oracle(images: pa.Table) -> pa.Table:
    anchors = {row["seed"]: row["png"] for row in images.to_pylist() if row["group"] == "anchor"}
    rows = [
        row | {"png": anchors[row["seed"]]} if row["group"] in ("erase", "synonym") else row
        for row in images.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def judge_and_score(method: str = "realera") -> None:
    """Do as the graph does: the originals once, then a method's images."""
    judge_stage.main("plane")
    score_stage.main("plane", method)


def own(name: str, method: str = "realera") -> str:
    return f"artifacts/plane/{method}/{name}"


def test_the_stages_score_an_erasure(project, drawn, judge, capsys):
    judge_and_score()
    scores, summary = read_parquet(own("scores.parquet")), read_json(own("scores.json"))
    assert scores.schema.equals(SCORES)
    base = read_parquet("artifacts/plane/judged.parquet")
    assert base.num_rows == NUM_IMAGES * (2 * 2 + 4)
    assert set(base["model"].to_pylist()) == {"base"}
    assert scores.slice(0, base.num_rows).equals(base)
    assert set(scores["model"].to_pylist()[base.num_rows :]) == {"erased"}
    # base: erase and synonym in 2 choices, 4 words in 1; erased: the same without the anchor
    assert scores.num_rows == NUM_IMAGES * (2 * 2 + 4 + 2 * 2 + 3)
    for row in scores.to_pylist():
        assert sum(row["values"]) == pytest.approx(1, abs=1e-5)
        assert len(row["labels"]) == len(row["values"])
    before, after = (summary[part]["Acc_e"]["probability"]["value"] for part in ("base", "erased"))
    assert before > 80
    assert after < before - 30
    assert summary["base"]["Acc_s"] == summary["erased"]["Acc_s"]
    assert summary["difference"]["Acc_s"]["probability"]["value"] == 0
    assert summary["erased"]["anchor_seen"]["probability"]["value"] > 80
    assert summary["erased"]["H_o"]["probability"]["value"] > summary["base"]["H_o"]["probability"]["value"]
    # the oracle's pictures are the anchor's: what is left of the target is the floor
    assert summary["anchor_floor"][0]["probability"]["value"] == pytest.approx(after, abs=1e-3)
    assert summary["labels"] == {
        "classes": ["airplane", "cat", "ship"],
        "unseen": ["banana", "airplane"],
        "anchor": ["airplane", "cat", "ship", "dog"],
    }
    assert summary["readings"] == ["probability", "top1"]
    output = capsys.readouterr().out
    assert "Acc_g" in output
    assert "after" in output


def test_the_stages_repeat_their_bytes(project):
    contents = []
    for _ in range(2):
        judge_and_score()
        names = ("judged.parquet", "realera/scores.parquet", "realera/scores.json")
        contents.append([(project / "artifacts/plane" / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_the_originals_are_judged_once_for_all_methods(project, drawn):
    """Score asks no judge about them again: it has no need of their pictures any more."""
    save(drawn, "plane/uce/images", ERASED)  # a method that does nothing
    judge_stage.main("plane")
    for name in ("shared/base", "plane/originals"):
        change(name, lambda row: row | {"png": b"no picture"})
    for method in ("realera", "uce"):
        score_stage.main("plane", method)
    ours, other = (read_parquet(own("scores.parquet", method)) for method in ("realera", "uce"))
    base = read_parquet("artifacts/plane/judged.parquet")
    assert ours.slice(0, base.num_rows).equals(other.slice(0, base.num_rows))
    assert not ours.equals(other)
    summaries = [read_json(own("scores.json", method)) for method in ("realera", "uce")]
    assert values_of(summaries[0]["base"]) == values_of(summaries[1]["base"])
    assert summaries[1]["difference"]["Acc_e"]["probability"]["value"] == pytest.approx(0, abs=1e-4)


def values_of(part: dict) -> dict:
    """Return values without intervals, whose draws are of pairs."""
    return {
        (metric, reading): (figure["value"], figure["n"])
        for metric, readings in part.items()
        for reading, figure in (readings or {}).items()
    }


def test_an_erased_models_distances_are_counted_from_the_originals(project, drawn):
    preset = PRESET | {"judged": {"by": ["classes", "distance"]}}
    (project / "data/concepts/plane.yaml").write_text(yaml.safe_dump(preset))
    judge_and_score()
    rows = [row for row in read_parquet(own("scores.parquet")).to_pylist() if row["metric"] == "distance"]
    values = {(row["model"], row["group"] in ("preserve", "unseen")): row["values"][0] for row in reversed(rows)}
    assert values["base", True] == values["base", False] == values["erased", True] == 0
    assert values["erased", False] > 0.01
    change("plane/originals", lambda row: row["seed"] > 0 and row)
    with pytest.raises(SystemExit):
        score_stage.main("plane", "realera")


def test_rows_of_the_originals_that_are_not_of_these_images_are_refused(project, capsys):
    """A judged.parquet of before: the figures would be of other pairs."""
    judge_stage.main("plane")
    rows = read_parquet("artifacts/plane/judged.parquet").to_pylist()
    fewer = pa.Table.from_pylist([row for row in rows if row["word"] != "cat"], schema=SCORES)
    write_parquet(fewer, "artifacts/plane/judged.parquet")
    with pytest.raises(SystemExit) as stopped:
        score_stage.main("plane", "realera")
    assert stopped.value.code == 1
    (text,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "cat" in text
    assert not list(project.glob("artifacts/plane/realera/scores*"))


# --- a detector that runs elsewhere: one file for the original model and several methods


METHODS = ("realera", "uce")


@pytest.fixture
def detected(project, drawn):
    """A file with a face in every image of the original model and two methods; returns its lines and its path."""
    save(drawn, "plane/uce/images", ERASED)
    preset = PRESET | {"judged": {"by": ["identity"]}}
    (project / "data/concepts/plane.yaml").write_text(yaml.safe_dump(preset))
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["judge"]["identity"] = "faces.csv"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    groups = {"base": tuple(DRAWN), **dict.fromkeys(METHODS, ERASED)}
    lines = [
        f"{name}-{row['image_id']},0,{'dog' if name == 'realera' and row['group'] == 'erase' else row['parent']},0.9"
        for name, drawn_groups in groups.items()
        for row in drawn.to_pylist()
        if row["group"] in drawn_groups
    ]
    write_faces(project, lines)
    return lines


def write_faces(project, lines: list[str]) -> None:
    (project / "faces.csv").write_text("\n".join(["image_id,face,label,probability", *lines]) + "\n")


def test_one_file_of_predictions_serves_every_method(project, detected):
    judge_stage.main("plane")
    for method in METHODS:
        score_stage.main("plane", method)
    values = {method: read_json(own("scores.json", method)) for method in METHODS}
    assert values_of(values["realera"]["base"]) == values_of(values["uce"]["base"])
    assert values["uce"]["base"]["Acc_e"]["identity_top1"]["value"] == 100
    assert values["uce"]["erased"]["Acc_e"]["identity_top1"]["value"] == 100
    assert values["realera"]["erased"]["Acc_e"]["identity_top1"]["value"] == 0
    assert values["realera"]["erased"]["Acc_s"]["identity_top1"]["value"] == 100


def test_the_manifest_lists_every_methods_images(project, detected):
    from realera.commands import cli

    params = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump(params | {"methods": list(METHODS)}))
    cli.manifest("plane", project / "faces")
    with (project / "faces/manifest.csv").open(newline="", encoding="utf-8") as file:
        listed = [row["image_id"] for row in csv.DictReader(file)]
    assert sorted(listed) == sorted(line.partition(",")[0] for line in detected)


@pytest.mark.parametrize(
    ("change_lines", "refusing"),
    [
        (lambda lines: [line for line in lines if not line.startswith("uce-")], ["uce"]),
        (lambda lines: [line for line in lines if not line.startswith("base-")], ["base"]),
        (lambda lines: [*lines, "mace-0000000000000000,0,dog,0.5"], ["base", "realera", "uce"]),
        (lambda lines: [*lines, "0000000000000000,0,dog,0.5"], ["base", "realera", "uce"]),
        (lambda lines: [*lines, "uce-ffffffffffffffff,0,dog,0.5"], ["uce"]),
        (lambda lines: [*lines, lines[0]], ["base"]),
    ],
)
def test_rows_of_a_file_of_predictions_are_asked_for_by_whom_they_are_of(
    project, detected, capsys, change_lines, refusing
):
    judge_stage.main("plane")
    write_faces(project, change_lines(detected))
    runs = {"base": lambda: judge_stage.main("plane")}
    runs |= {method: partial(score_stage.main, "plane", method) for method in METHODS}
    for name, run in runs.items():
        capsys.readouterr()
        if name not in refusing:
            run()
            continue
        with pytest.raises(SystemExit):
            run()
        (text,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert text.startswith("error: faces.csv: ")


# --- what the judge said


def judged(drawn: pa.Table, **changes) -> list[dict]:
    preset = Preset.model_validate(PRESET | changes)
    write_parquet(drawn, "originals.parquet")
    return judge_images(preset, load_params(), [open_images("originals.parquet", "base")]).to_pylist()


def test_probabilities_are_those_of_the_judge(project, judge, drawn):
    scores = judged(drawn)
    pictures = {row["image_id"]: decode_png(row["png"], row["image_id"]) for row in drawn.to_pylist()}
    for row in (scores[0], scores[1], scores[-1]):
        texts = [f"a photo of the {label}" for label in row["labels"]]
        expected = class_probabilities(*judge, [pictures[row["image_id"]]], texts)[0]
        assert np.allclose(row["values"], expected, atol=1e-4)
    assert [row["metric"] for row in scores[:2]] == ["classes", "anchor"]
    assert scores[-1]["metric"] == "unseen"


def test_only_the_presets_words_of_the_shared_images_count(project):
    rows = read_parquet("artifacts/shared/base.parquet").to_pylist()
    other = rows[0] | {"word": "airplane", "parent": "airplane", "prompt": "a photo of the airplane"}
    more = pa.Table.from_pylist([*rows, other, rows[0] | {"group": "unseen"}], schema=SCHEMA)
    write_parquet(more, "artifacts/shared/base.parquet")
    judge_and_score()
    assert read_json(own("scores.json"))["base"]["Acc_s"]["top1"]["n"] == 2 * NUM_IMAGES


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("shared/base", lambda row: row["word"] != "ship" and row, "base.parquet: no images of 'ship' (preserve)"),
        ("plane/originals", lambda row: row["word"] != "dog" and row, "no images of 'dog' (anchor)"),
        ("plane/realera/images", lambda row: row["word"] != "banana" and row, "images.parquet: no images of 'banana'"),
        (
            "plane/realera/images",
            lambda row: row | {"png": row["png"][:200]},
            "images.parquet: image 0000000000000000: not",
        ),
        ("plane/originals", lambda row: row | {"png": b"no picture"}, "originals.parquet: image 000000000"),
        ("plane/realera/images", lambda row: row | {"seed": row["seed"] + 1}, "no image of the erased model"),
    ],
)
def test_bad_input_is_one_line_that_names_it(project, name, function, message, capsys):
    change(name, function)
    with pytest.raises(SystemExit) as stopped:
        judge_and_score()
    assert stopped.value.code == 1
    (text,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in text
    assert not list(project.glob("artifacts/plane/**/*scores*"))
    assert (project / "artifacts/plane/judged.parquet").exists() == name.endswith("realera/images")


def test_a_missing_file_ends_the_process_with_one_line(project, repository):
    (project / own("images.parquet")).unlink()
    command = [sys.executable, str(repository / "stages" / "score.py"), "plane", "realera"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.strip() == "error: artifacts/plane/realera/images.parquet: a file is needed here, found nothing"


def test_images_of_an_unknown_group_or_class_are_refused(project, drawn):
    for column, value in (("group", "coco"), ("parent", "horse")):
        rows = [drawn.to_pylist()[0] | {column: value}]
        with pytest.raises(ArtifactError, match=rf"originals.parquet: {column}: found '{value}'; accepted: "):
            judged(pa.Table.from_pylist(rows, schema=SCHEMA))
    assert judged(drawn.slice(0, 0)) == []


def test_targets_outside_the_classes_are_added_and_must_have_company(tmp_path):
    preset = Preset.model_validate(PRESET)
    labels = choice_labels(preset, ["cat", "ship"], [])
    assert labels == {
        "classes": ("cat", "ship", "airplane"),
        "unseen": ("airplane",),
        "lookalikes": ("cat", "ship", "airplane"),
        "anchor": ("cat", "ship", "airplane", "dog"),
    }
    with pytest.raises(ConfigError, match="accepted: a list with words beside the targets"):
        choice_labels(preset, ["airplane"], [])
    with pytest.raises(ArtifactError, match="no images of"):
        write_parquet(SCHEMA.empty_table(), tmp_path / "none.parquet")
        nothing = open_images(tmp_path / "none.parquet", "base")
        select_subjects(nothing, [Subject("erase", "airplane", "airplane", ("an airplane",))])
