import importlib.metadata
import shutil

import pytest
from typer.testing import CliRunner

from realera.commands import doctor
from realera.commands.cli import app
from realera.settings import project
from tests.kit import other_families


@pytest.fixture
def workspace(tmp_path, repository, monkeypatch):
    """A project folder of its own, so that tests can break it."""
    folder = tmp_path / "project"
    for name in (
        "data/models/tiny-sd",
        "data/models/tiny-clip",
        "data/models/tiny-style",
        "data/concepts",
        "data/prompts",
    ):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("sheets"))
    shutil.copyfile(repository / "params.yaml", folder / "params.yaml")
    (folder / "dvc.yaml").touch()
    (folder / ".dvc").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(project, "PROJECT", folder)
    return folder


def examine(*arguments):
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.stdout


def bad_lines(output):
    return [line.split(maxsplit=1)[1] for line in output.splitlines() if line.startswith("MISSING")]


def set_model(folder, id):
    text = (folder / "params.yaml").read_text().replace("id: data/models/tiny-sd ", f"id: {id} ")
    (folder / "params.yaml").write_text(text)


def test_a_whole_project_is_found_whole(workspace):
    code, output = examine()
    assert code == 0, output
    assert bad_lines(output) == []
    for text in (
        "torch                   2.13.0",
        "device cpu",
        "airplane -> ",
        "dvc program",
        "37 MB of weights",
    ):
        assert text in output


def test_every_runtime_package_is_looked_at(workspace):
    names = {finding.name for finding in doctor.examine(workspace / "params.yaml")}
    assert {"diffusers", "transformers", "peft", "accelerate", "safetensors", "dvc program", "pyarrow"} <= names
    assert not {"pytest", "ruff", "resvg-py", "dvc"} & names  # extras


def test_a_cut_off_weight_file_is_named(workspace):
    path = workspace / "data/models/tiny-sd/unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, output = examine()
    assert code == 1
    assert bad_lines(output) == [
        "embedded tiny-sd        data/models/tiny-sd: diffusion_pytorch_model.safetensors is corrupt or cut off",
        "model.id                data/models/tiny-sd: diffusion_pytorch_model.safetensors is corrupt or cut off",
    ]


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda folder: set_model(folder, "data/models/none"), "no such folder or file, and no hub id"),
        (lambda folder: set_model(folder, "owner/model"), "not in the local cache, and HF_HUB_OFFLINE is set"),
        (lambda folder: set_model(folder, "data/models/tiny-clip"), "no model_index.json in the folder"),
        (lambda folder: (folder / "params.yaml").write_text("a: 1"), "concepts: missing; it is needed"),
        (lambda folder: (folder / "params.yaml").unlink(), "cannot be read"),
        (lambda folder: (folder / "data/concepts/airplane.yaml").unlink(), "found 'airplane'; accepted: automobile"),
        (lambda folder: (folder / "dvc.yaml").unlink(), "missing: run in the project's folder"),
        (lambda folder: shutil.rmtree(folder / "data/models/tiny-clip"), "no such folder or file"),
    ],
)
def test_what_is_missing_is_said_and_exits_with_1(workspace, break_it, expected):
    break_it(workspace)
    code, output = examine()
    assert code == 1
    assert expected in "\n".join(bad_lines(output))


@pytest.mark.parametrize("name", other_families.FAMILIES)
def test_a_model_of_another_family_is_said(workspace, name, tiny_sd):
    other_families.save(name, tiny_sd, workspace / "model")
    set_model(workspace, "model")
    code, output = examine()
    assert code == 1
    accepted = "accepted: StableDiffusionPipeline (Stable Diffusion 1.x, 2.x)"
    assert bad_lines(output) == [f"model.id                model: found {name}; {accepted}"]


def test_a_hub_id_of_another_family_is_said(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub/models--owner--model"
    for path, text in (("refs/main", "abc"), ("snapshots/abc/model_index.json", '{"_class_name": "FluxPipeline"}')):
        (model / path).parent.mkdir(parents=True)
        (model / path).write_text(text)
    set_model(workspace, "owner/model")
    assert "owner/model: found FluxPipeline; accepted: " in "\n".join(bad_lines(examine()[1]))


@pytest.mark.parametrize(
    ("version", "expected"), [("1.0", "1.0; needed: ==2.13.0"), (None, "not installed: make setup")]
)
def test_a_wrong_package_is_said(workspace, monkeypatch, version, expected):
    real = importlib.metadata.version

    def found(name):
        if name != "torch":
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)
    code, output = examine()
    assert code == 1
    assert bad_lines(output) == [f"torch                   {expected}"]


def test_scratch_that_cannot_be_used_is_said(workspace, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("REALERA_SCRATCH", str(tmp_path / "file" / "scratch"))
    code, output = examine()
    assert code == 1
    assert "not writable; set REALERA_SCRATCH" in output
