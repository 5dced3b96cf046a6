"""A method of one stage in the graph: UCE by itself, with nothing of RealEra's chain."""

from contextlib import chdir

import pytest
import torch
import yaml
from safetensors.torch import load_file

from realera.erasures.artifact import read_erasure
from realera.erasures.finished import find_erasure
from realera.families import cross_attention
from realera.report.results import read_figures
from realera.settings.config import load_params
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import load_preset
from realera.store.artifacts import read_json, read_parquet
from realera.store.paths import method_place, place
from stages import erase, report
from tests.kit.stage_project import CONCEPT, execute, write_project

SHARED_STAGES = ("plan", "base", "encode", "latents", "originals", "judge")
OWN_STAGES = ("task", "erase", "generate", "score")


@pytest.fixture(scope="module")
def folder(repository, tmp_path_factory):
    """A project that has UCE alone among its methods, after all its stages."""
    folder = tmp_path_factory.mktemp("uce")
    write_project(folder, repository, methods=["uce"])
    with chdir(folder):
        for stage in SHARED_STAGES:
            execute(stage)
        for stage in OWN_STAGES:
            execute(stage, method="uce")
        report.main()
    return folder


@pytest.fixture
def project(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_nothing_of_another_method_is_made(project):
    made = {
        str(path.relative_to(project / "artifacts" / CONCEPT)) for path in (project / place(CONCEPT).root).rglob("*")
    }
    assert made == {
        *("prompts.parquet", "anchor_latents.safetensors", "originals.parquet", "judged.parquet"),
        *("uce", "uce/parts", "uce/parts/task.json"),
        *("uce/erasure", "uce/erasure/erasure.json", "uce/erasure/overlay.safetensors", "uce/erasure/report.json"),
        *("uce/images.parquet", "uce/scores.parquet", "uce/scores.json"),
    }


def test_the_task_says_what_was_asked(project):
    asked = read_json(method_place(CONCEPT, "uce").task)
    assert asked == {
        "method": "uce",
        "family": "stable_diffusion",
        "pairs": [list(pair) for pair in load_preset(CONCEPT).pairs()],
        "parameters": load_params().uce.model_dump(mode="json"),
    }


def test_the_erasure_is_of_this_model_and_the_images_are_not_the_originals(project, pipe):
    own = method_place(CONCEPT, "uce")
    erasure = read_erasure(own.erasure)
    assert (erasure.about.method, erasure.about.base.id) == ("uce", load_params().model.id)
    weights = cross_attention.weights(pipe.unet)
    assert erasure.overlay.keys() == weights.keys()
    assert not any(torch.equal(erasure.overlay[name], weight) for name, weight in weights.items())
    originals = {row["image_id"]: row["png"] for row in read_parquet(place(CONCEPT).originals).to_pylist()}
    erased = {row["image_id"]: row["png"] for row in read_parquet(own.images).to_pylist()}
    pairs = originals.keys() & erased.keys()
    assert pairs
    assert not any(originals[image] == erased[image] for image in pairs)


def test_its_scores_and_the_report_are_its_own(project):
    scores = read_json(method_place(CONCEPT, "uce").summary)
    assert "probability" in scores["erased"]["H_o"]
    metrics = read_json("reports/metrics.json")
    assert {key.rpartition(".")[0] for key in metrics} == {f"{CONCEPT}.uce"}
    figures = read_figures(project / "reports/figures.csv")
    assert figures.keys() == {(CONCEPT, "uce")}
    page = (project / "reports/index.html").read_text(encoding="utf-8")
    assert "uce" in page
    assert list((project / "reports/plots").rglob("*.csv")) == []  # RealEra's chain has plots
    assert find_erasure(CONCEPT, load_params()).stage == f"score@uce-{CONCEPT}"


def test_it_is_exported_without_a_lora(project, tmp_path):
    from typer.testing import CliRunner

    from realera.commands.cli import app

    done = CliRunner().invoke(app, ["export", CONCEPT, "--format", "kv", "--out", str(tmp_path / "kv")])
    assert done.exit_code == 0, done.output
    exported = load_file(tmp_path / "kv/kv_patch.safetensors")
    overlay = read_erasure(method_place(CONCEPT, "uce").erasure).overlay
    assert exported.keys() == overlay.keys()
    assert all(torch.equal(exported[name], weight) for name, weight in overlay.items())
    for arguments in (["--format", "lora"], ["--keep-lora"], ["--format", "kv", "--method", "realera"]):
        done = CliRunner().invoke(app, ["export", CONCEPT, *arguments, "--out", str(tmp_path / "no")])
        assert done.exit_code == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "no").exists()


def test_erasures_that_are_not_there_are_named(project, monkeypatch):
    monkeypatch.setattr("realera.settings.project.PROJECT", project)  # the repository may hold artifacts of its own
    params = load_params()
    with pytest.raises(ConfigError, match="method: found 'realera'; accepted: uce"):
        find_erasure(CONCEPT, params, "realera")
    both = params.model_copy(update={"methods": ("realera", "uce")})
    with pytest.raises(ArtifactError, match=f"made by: dvc repro score@realera-{CONCEPT}$"):
        find_erasure(CONCEPT, both)


def test_the_stage_repeats_its_bytes(project):
    own = method_place(CONCEPT, "uce").erasure
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    erase.main("uce", CONCEPT)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


@pytest.mark.parametrize("method", ["ucee", "../uce", "", "shared"])
@pytest.mark.parametrize("stage", OWN_STAGES)
def test_an_unknown_method_is_refused(project, capsys, stage, method):
    before = set(project.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        execute(stage, method=method)
    assert stopped.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert line.startswith(("error: method: found ", "error: artifacts/airplane/"))
    assert set(project.rglob("*")) == before


def test_an_unknown_method_in_the_parameters_is_refused(project, tmp_path):
    content = yaml.safe_load((project / "params.yaml").read_text())
    for methods in (["esd"], [], ["uce", "uce"], "uce"):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(content | {"methods": methods}))
        with pytest.raises(ConfigError, match=r"params\.yaml: methods"):
            load_params(tmp_path / "params.yaml")
