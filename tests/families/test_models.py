import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from realera.families.schedulers import SCHEDULERS, use_scheduler
from realera.families.stable_diffusion import open_pipeline
from realera.judges.clip import open_clip
from realera.runtime.devices import resolve_device, resolve_dtype
from realera.settings.errors import ModelError


@pytest.fixture
def copy_of(tmp_path):
    def copy_of(folder):
        return shutil.copytree(folder, tmp_path / folder.name)

    return copy_of


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def test_pipeline_is_float32_on_a_cpu_and_quiet(pipe, capfd):
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    assert pipe.safety_checker is None
    pipe(["a cat"], num_inference_steps=1, guidance_scale=1.0)
    assert capfd.readouterr().err == ""


def test_default_models_are_found_from_any_folder(tmp_path, monkeypatch, tiny_sd, tiny_clip):
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_pipeline("data/models/tiny-sd", device="cpu"), StableDiffusionPipeline)
    assert open_clip("data/models/tiny-clip", device="cpu")[0].dtype == torch.float32


def test_no_warning_while_loading(tiny_sd, tiny_clip, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_pipeline(tiny_sd, device="cpu")
        open_clip(tiny_clip, device="cpu")
    assert "orchvision" not in capfd.readouterr().err


def test_other_dtype(tiny_sd):
    assert open_pipeline(tiny_sd, dtype="bfloat16", device="cpu").unet.dtype == torch.bfloat16


@pytest.mark.parametrize("opener", [open_pipeline, open_clip])
@pytest.mark.parametrize("missing", ["data/models/none", "/nowhere/at/all", "./none", "none.safetensors"])
def test_missing_model(opener, missing):
    with pytest.raises(ModelError, match=r"no such model; accepted: a folder, a hub id"):
        opener(missing)


@pytest.mark.parametrize(("opener", "index"), [(open_pipeline, "model_index.json"), (open_clip, "config.json")])
def test_another_folder(opener, index, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=rf"no {index} in the folder, which holds notes\.txt"):
        opener(tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("damage", [truncate, lambda path: path.unlink()])
def test_corrupt_pipeline(copy_of, tiny_sd, part, damage):
    folder = copy_of(tiny_sd)
    damage(next((folder / part).glob("*.safetensors")))
    assert_one_line(lambda: open_pipeline(folder), folder)


def test_corrupt_pipeline_index(copy_of, tiny_sd):
    folder = copy_of(tiny_sd)
    (folder / "model_index.json").write_text("{")
    assert_one_line(lambda: open_pipeline(folder), folder)


@pytest.mark.parametrize("damage", [truncate, lambda path: path.unlink()])
def test_corrupt_judge(copy_of, tiny_clip, damage):
    folder = copy_of(tiny_clip)
    damage(folder / "model.safetensors")
    assert_one_line(lambda: open_clip(folder), folder)


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ("unet", "conv_out.bias"),
        ("vae", "decoder.conv_out.bias"),
        ("text_encoder", "text_model.final_layer_norm.bias"),
    ],
)
def test_pipeline_with_missing_weights(copy_of, tiny_sd, part, weight):
    """Libraries fill them with random or no numbers and only log it."""
    from safetensors.torch import load_file, save_file

    folder = copy_of(tiny_sd)
    file = next((folder / part).glob("*.safetensors"))
    weights = load_file(file)
    del weights[weight]
    save_file(weights, file, {"format": "pt"})
    name = re.escape(weight.removeprefix("text_model."))  # as transformers 5.23 calls it, whatever the file does
    with pytest.raises(ModelError, match=rf"{part}: weights are missing, among them {name}$"):
        open_pipeline(folder)


def test_judge_with_missing_weights(copy_of, tiny_clip):
    from safetensors.torch import load_file, save_file

    folder = copy_of(tiny_clip)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"weights are missing, among them visual_projection\.weight"):
        open_clip(folder)


def test_pickles_are_refused(tmp_path):
    for name in ("model.ckpt", "model.pt"):
        (tmp_path / name).touch()
        with pytest.raises(ModelError, match=r"accepted: \.safetensors"):
            open_pipeline(tmp_path / name)


def test_corrupt_single_file(tmp_path, tiny_sd):
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    path = tmp_path / "model.safetensors"
    assert_one_line(lambda: open_pipeline(path, config=tiny_sd), path)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_draw(tiny_sd, name):
    pipe = open_pipeline(tiny_sd, device="cpu")
    betas = pipe.scheduler.config.beta_end
    use_scheduler(pipe, name)
    assert isinstance(pipe.scheduler, SCHEDULERS[name])
    assert pipe.scheduler.config.beta_end == betas
    image = pipe("a cat", num_inference_steps=3, generator=torch.Generator().manual_seed(0)).images[0]
    assert np.asarray(image).std() > 0


def test_scheduler_names(pipe):
    before = pipe.scheduler
    use_scheduler(pipe, "model")
    assert pipe.scheduler is before
    with pytest.raises(ModelError, match="accepted: model, ddim"):
        use_scheduler(pipe, "fastest")


def test_device_and_dtype():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.float16
    with pytest.raises(ModelError, match="device: found 'gpu'; accepted: auto, cpu"):
        resolve_device("gpu")
    with pytest.raises(ModelError, match="dtype: found 'int8'; accepted: auto, float32"):
        resolve_dtype("int8", torch.device("cpu"))
    with pytest.raises(ModelError, match=r"device: found 'cuda:\d+'; torch sees \d+ CUDA devices"):
        resolve_device(f"cuda:{torch.cuda.device_count()}")


def assert_one_line(call, path):
    with pytest.raises(ModelError) as caught:
        call()
    assert str(caught.value).startswith(f"{path}: cannot be loaded: ")
    assert "\n" not in str(caught.value)
