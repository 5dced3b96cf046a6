"""A pipeline export holds the base model's own files, and new weights of the UNet alone."""

import json
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest

from realera.commands.cli import app
from realera.erasures.apply import apply_erasure
from realera.exports.copying import copy_unedited
from realera.families.schedulers import use_scheduler
from realera.families.stable_diffusion import open_pipeline
from realera.settings import project
from realera.settings.errors import ModelError
from tests.exports.test_export import follow_card
from tests.kit.erasure_project import draw, make_workspace, save_new_text_encoder

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
MODEL_FILES = ("README.md", "evaluation.json", "words.csv", "sheets/")


def files(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def changed(source, out):
    """The export's files that are not the source's, byte for byte; and the source's that are not in the export."""
    there, here = files(source), files(out)
    different = {name for name in here if name not in there or here[name].read_bytes() != there[name].read_bytes()}
    return different, {name for name in there if name not in here and not name.startswith(MODEL_FILES)}


@pytest.fixture
def export_from(repository, tmp_path, monkeypatch):
    """Export from a project whose base model is another one, with tiny-sd's weights."""
    from typer.testing import CliRunner

    def export(model, *arguments, **generate):
        root = tmp_path / "project"
        root.mkdir()
        make_workspace(root, repository, model, generate)
        monkeypatch.chdir(root)
        monkeypatch.setattr(project, "PROJECT", root)
        result = CliRunner().invoke(app, ["export", "airplane", "--out", str(tmp_path / "out"), *arguments])
        assert result.exit_code == 0, result.output
        return tmp_path / "out"

    return export


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_only_the_unet_s_weights_are_new(run, tmp_path, tiny_sd, dtype):
    out = tmp_path / "out"
    assert run("export", "airplane", "--dtype", dtype, "--out", out).exit_code == 0
    different, missing = changed(tiny_sd, out)
    assert different == {WEIGHTS, "README.md"}
    assert not missing
    assert f"Only the UNet's weights are new ({dtype})" in (out / "README.md").read_text()


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_follow_the_umask(run, tmp_path, umask):
    before = os.umask(umask)
    try:
        assert run("export", "airplane", "--out", tmp_path / "out", "--keep-lora").exit_code == 0
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in files(tmp_path / "out").items()}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_a_hub_model_is_copied_from_its_snapshot(export_from, tiny_sd, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "hub/models--someone--tiny-sd"
    for name, path in files(tiny_sd).items():  # as a download leaves it: links to blobs
        blob, link = model / "blobs" / name.replace("/", "_"), model / "snapshots" / commit / name
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link.symlink_to(blob)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    out = export_from({"id": "someone/tiny-sd"})
    assert changed(tiny_sd, out) == ({WEIGHTS, "README.md"}, set())
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_the_export_of_a_single_file_is_classic_and_follows_the_umask(export_from, repository, tiny_sd, tmp_path):
    path = tmp_path / "model.safetensors"
    subprocess.run([sys.executable, "tools/single_file.py", tiny_sd, path], cwd=repository, check=True)
    out = export_from({"id": str(path), "config": str(tiny_sd)})
    for name in ("vocab.json", "merges.txt"):
        assert (out / "tokenizer" / name).read_bytes() == (tiny_sd / "tokenizer" / name).read_bytes()
    assert not (out / "tokenizer/tokenizer.json").exists()
    card = (out / "README.md").read_text()
    assert "transformers 5.6" not in card
    assert "byte for byte" not in card
    assert len({stat.S_IMODE(path.stat().st_mode) for path in files(out).values()}) == 1
    follow_card(out, tiny_sd)


@pytest.mark.parametrize("scheduler", ["pndm", "model"])
def test_the_card_takes_the_scheduler_that_the_scores_were_drawn_with(export_from, tiny_sd, tmp_path, scheduler):
    out = export_from({}, scheduler=scheduler)
    assert changed(tiny_sd, out)[0] == {WEIGHTS, "README.md"}
    pipe = open_pipeline(tiny_sd, device="cpu")
    use_scheduler(pipe, scheduler)
    apply_erasure(pipe, tmp_path / "project/artifacts/airplane/realera/erasure")
    np.testing.assert_array_equal(draw(follow_card(out, tiny_sd)), draw(pipe))


def test_a_text_encoder_that_names_half_precision_is_opened_with_the_others(export_from, tiny_sd, tmp_path):
    source = shutil.copytree(tiny_sd, tmp_path / "half")
    config = json.loads((source / "text_encoder/config.json").read_text())
    (source / "text_encoder/config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))
    out = export_from({"id": str(source)})
    assert changed(source, out)[0] == {WEIGHTS, "README.md"}
    assert "torch_dtype=torch.float32" in (out / "README.md").read_text()
    draw(follow_card(out, tiny_sd))


def test_a_source_of_the_new_layout_stays_one_and_the_card_warns(export_from, tiny_sd, tmp_path):
    source = shutil.copytree(tiny_sd, tmp_path / "new")
    save_new_text_encoder(tiny_sd / "text_encoder", source / "text_encoder")
    out = export_from({"id": str(source)})
    assert changed(source, out)[0] == {WEIGHTS, "README.md"}
    assert "**transformers 5.6 or later only**" in (out / "README.md").read_text()


def test_safety_checker_pickles_and_other_formats_stay_behind(tiny_sd, tmp_path):
    source, out = shutil.copytree(tiny_sd, tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    index = json.loads((source / "model_index.json").read_text())
    parts = {"feature_extractor": ["transformers", "CLIPFeatureExtractor"], "safety_checker": ["sd", "Checker"]}
    (source / "model_index.json").write_text(json.dumps(index | parts | {"requires_safety_checker": True}))
    for name in ("text_encoder/pytorch_model.bin", "vae/model.fp16.safetensors", "unet/code.py", "safety_checker/x"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    (source / "text_encoder/model.safetensors").rename(source / "text_encoder/model.fp16.safetensors")
    copy_unedited(source, out)
    assert files(out).keys() == files(tiny_sd).keys() - {WEIGHTS, "text_encoder/model.safetensors"} - {
        name for name in files(tiny_sd) if name.startswith(MODEL_FILES)
    } | {"text_encoder/model.fp16.safetensors"}
    assert json.loads((out / "model_index.json").read_text()) == index


def test_missing_components_and_weights_are_refused(tiny_sd, tmp_path):
    source = shutil.copytree(tiny_sd, tmp_path / "model")
    weights = source / "vae/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"vae: no weights as \.safetensors; found config\.json, diffusion_pytorch_mo"):
        copy_unedited(source, tmp_path / "out")
    shutil.rmtree(source / "vae")
    (tmp_path / "again").mkdir()
    with pytest.raises(ModelError, match=r"vae: a component is missing that model_index\.json names"):
        copy_unedited(source, tmp_path / "again")
