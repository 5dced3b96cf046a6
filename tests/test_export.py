import json
import re
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from realera import project, sampling, unet
from realera.artifacts import write_safetensors
from realera.cli import app
from realera.erased import apply_erasure, load_lora, lora_changes
from realera.errors import ArtifactError
from realera.models import open_pipeline
from realera.singlefile import low_rank

PROMPTS = ["a photo of the airplane", "a photo of the cat"]
STEPS, GUIDANCE = 4, 5.0
FORMATS = ["pipeline", "kv", "lora", "single-file"]
FIGURE = {"value": 12.345, "low": 10.0, "high": 15.0, "n": 40}
SCORES = {
    **{
        part: {"Acc_e": {"probability": FIGURE, "top1": FIGURE}, "Acc_g": None}
        for part in ("base", "erased", "difference")
    },
    "confidence": 0.95,
}


@pytest.fixture(scope="module")
def workspace(tiny_sd, repository, tmp_path_factory):
    """A project folder with artifacts of an erasure: real weights, perturbed, and a LoRA that changes the images."""
    folder = tmp_path_factory.mktemp("workspace")
    params = yaml.safe_load((repository / "params.yaml").read_text())
    params["generate"] |= {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data").symlink_to(repository / "data")
    artifacts = folder / "artifacts" / "airplane"
    artifacts.mkdir(parents=True)
    pipe = open_pipeline(tiny_sd, device="cpu")
    metadata = {"base_model": params["model"]["id"], "concept": "airplane"}
    write_safetensors(perturbed(pipe), artifacts / "kv_patch.safetensors", metadata)
    save_random_lora(pipe, artifacts / "lora")
    (artifacts / "scores.json").write_text(json.dumps(SCORES))
    return folder


@pytest.fixture
def run(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(project, "PROJECT", workspace)  # the repository may hold artifacts of its own
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def artifacts(workspace):
    return workspace / "artifacts" / "airplane"


@pytest.fixture(scope="module")
def expected(tiny_sd, artifacts):
    """The images of the erased model, drawn as the stage `generate` draws them."""
    pipe = open_pipeline(tiny_sd, device="cpu")
    apply_erasure(pipe, artifacts / "kv_patch.safetensors", artifacts / "lora")
    return draw(pipe)


def perturbed(pipe):
    generator = torch.Generator().manual_seed(0)
    weights = unet.weights(pipe.unet)
    return {
        name: weight + 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
        for name, weight in weights.items()
    }


def save_random_lora(pipe, folder, rank=2, alpha=6.0):
    targets = [name.removesuffix(".weight") for name in unet.weights(pipe.unet)]
    pipe.unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict(),
    )


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    prompts = PROMPTS * 2
    images = sampling.draw(pipe, prompts, range(len(prompts)), STEPS, GUIDANCE)
    return np.stack([np.asarray(image).astype(int) for image in images])


def follow_card(folder, base):
    """Do what the card's Python lines say, with stock diffusers, and return their pipeline."""
    code = re.search("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    names = {'"this-folder': f'"{folder}', '"data/models/tiny-sd"': f'"{base}"'}
    for file in folder.glob("*.safetensors"):
        names[f'"{file.name}"'] = f'"{file}"'
    for name, place in names.items():
        code = code.replace(name, place)
    scope = {}
    exec(code, scope)
    assert scope["image"].size == (64, 64)
    return scope["pipe"]


def test_the_lora_and_the_patch_both_change_the_images(tiny_sd, artifacts, expected):
    pipe = open_pipeline(tiny_sd, device="cpu")
    base = draw(pipe)
    apply_erasure(pipe, artifacts / "kv_patch.safetensors")
    patched = draw(pipe)
    assert abs(base - patched).mean() > 3
    assert abs(patched - expected).mean() > 3


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("keep_lora", [False, True])
def test_images_of_the_reloaded_export_are_those_of_generate(
    format, keep_lora, run, tmp_path, tiny_sd, artifacts, expected
):
    out = tmp_path / "out"
    result = run("export", "airplane", "--format", format, "--out", out, *["--keep-lora"] * keep_lora)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}\n"
    pipe = follow_card(out, tiny_sd)
    if format == "kv" and keep_lora:
        pipe.load_lora_weights(artifacts / "lora")
    difference = abs(draw(pipe) - expected)
    is_exact = format in ("pipeline", "kv") and not keep_lora
    assert difference.max() <= (0 if is_exact else 2)  # of 255: an adapter rounds differently


def test_single_file_by_the_formula_of_comfyui_and_a1111(run, tmp_path, tiny_sd, artifacts):
    run("export", "airplane", "--format", "single-file", "--out", tmp_path / "out")
    file = load_file(tmp_path / "out" / "erase-airplane.safetensors")
    pipe = open_pipeline(tiny_sd, device="cpu")
    base = {name: weight.clone() for name, weight in unet.weights(pipe.unet).items()}
    apply_erasure(pipe, artifacts / "kv_patch.safetensors", artifacts / "lora")
    assert len(file) == 3 * len(base)
    for name, wanted in unet.weights(pipe.unet).items():
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        up, down, alpha = (file[f"{key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        found = base[name] + alpha / down.shape[0] * up @ down
        assert (found - wanted).norm() <= 2e-5 * (wanted - base[name]).norm()


def test_files_tell_what_they_are(run, tmp_path):
    run("export", "airplane", "--format", "single-file", "--out", tmp_path / "out")
    with safe_open(tmp_path / "out" / "erase-airplane.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["base_model"] == "data/models/tiny-sd"
    assert metadata["erased"] == "airplane -> rainbow"
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_v2"] == "False"


def test_half_precision_export_is_half_as_large_and_draws_the_same_picture(run, tmp_path, tiny_sd, expected):
    for dtype in ("float32", "float16"):
        assert run("export", "airplane", "--dtype", dtype, "--out", tmp_path / dtype).exit_code == 0
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / dtype).rglob("*.safetensors"))
        for dtype in ("float32", "float16")
    ]
    assert 1.95 < sizes[0] / sizes[1] < 2.05
    assert abs(draw(follow_card(tmp_path / "float16", tiny_sd)) - expected).mean() < 1


def test_card_says_what_how_and_how_well(run, tmp_path):
    run("export", "airplane", "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (
        "`data/models/tiny-sd`",
        "SHA-256 of the UNet's weights `",
        "airplane -> rainbow",
        "aircraft, plane, jet",
        f"{STEPS} steps, guidance 5",
        "sampler.D1: 0.25",
        "lora.learning_rate: 0.0003",
        "| Acc_e | probability | 12.3 [10.0, 15.0] | 12.3 [10.0, 15.0] | +12.3 [+10.0, +15.0] | 40 |",
    ):
        assert text in card
    assert "base_model:" not in card  # a key for models of the hub only
    assert str(Path.home()) not in card
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "out").rglob("*.json"))


def test_without_scores_the_card_says_so(run, tmp_path, artifacts):
    (artifacts / "scores.json").rename(artifacts / "kept")
    try:
        assert run("export", "airplane", "--format", "lora", "--out", tmp_path / "out").exit_code == 0
    finally:
        (artifacts / "kept").rename(artifacts / "scores.json")
    assert "Not scored; `dvc repro score@airplane`" in (tmp_path / "out" / "README.md").read_text()


def test_force_replaces_an_earlier_export_only(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    command = ["export", "airplane", "--format", "lora", "--out", out]
    assert run(*command).exit_code == 0  # an empty folder is welcome
    again = run(*command)
    assert again.exit_code == 1
    assert again.stderr == f"error: --out: found '{out}', which is not empty; accepted: a new folder, or --force\n"
    (out / "stray").touch()
    assert run(*command, "--force").exit_code == 0
    assert not (out / "stray").exists()
    (out / "README.md").write_text("my thesis")
    refused = run(*command, "--force")
    assert refused.stderr == f"error: --out: found '{out}', no earlier export; --force replaces only those\n"
    assert (out / "README.md").read_text() == "my thesis"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["airplan"], "error: concepts: found 'airplan'; accepted: airplane"),
        (["../airplane"], "error: concepts: found '../airplane'"),
        (
            ["bird"],
            "error: artifacts/bird/kv_patch.safetensors: not there yet; made by: dvc repro score@bird\n",
        ),
        (["airplane", "--params", "none.yaml"], "error: none.yaml: cannot be read"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, expected):
    result = run("export", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(expected)
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--format", "gguf"], ["--dtype", "int8"], ["--tolerance", "-1"]])
def test_bad_usage_exits_with_2(run, tmp_path, option):
    assert run("export", "airplane", "--out", tmp_path / "out", *option).exit_code == 2


def test_an_erasure_of_another_model_is_refused(run, tmp_path, workspace):
    text = (workspace / "params.yaml").read_text().replace("data/models/tiny-sd", "owner/another")
    (tmp_path / "params.yaml").write_text(text)
    result = run("export", "airplane", "--out", tmp_path / "out", "--params", tmp_path / "params.yaml")
    assert result.exit_code == 1
    assert "made for the model 'data/models/tiny-sd', found model.id 'owner/another'" in result.stderr


@pytest.mark.parametrize("name", ["kv_patch.safetensors", "lora/pytorch_lora_weights.safetensors"])
def test_corrupt_artifact_is_one_line(run, tmp_path, artifacts, name):
    content = (artifacts / name).read_bytes()
    (artifacts / name).write_bytes(content[: len(content) // 2])
    try:
        result = run("export", "airplane", "--out", tmp_path / "out")
    finally:
        (artifacts / name).write_bytes(content)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert name in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_large_files():
    """Let writing fail after 200 kB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_nothing(run, tmp_path, no_large_files, format):
    result = run("export", "airplane", "--format", format, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "File too large" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_merged_weights_are_those_of_peft(tiny_sd, artifacts):
    own, peft = (open_pipeline(tiny_sd, device="cpu") for _ in range(2))
    apply_erasure(own, artifacts / "kv_patch.safetensors", artifacts / "lora")
    apply_erasure(peft, artifacts / "kv_patch.safetensors")
    load_lora(peft, artifacts / "lora")
    file = load_file(artifacts / "lora" / "pytorch_lora_weights.safetensors")
    for name, change in lora_changes(peft.unet).items():
        up, down = (file[f"unet.{name.removesuffix('.weight')}.lora_{factor}.weight"] for factor in "BA")
        torch.testing.assert_close(change, 3.0 * up @ down)  # alpha 6 / rank 2
    peft.fuse_lora()
    peft.unload_lora_weights()
    for name, weight in unet.weights(peft.unet).items():
        torch.testing.assert_close(unet.weights(own.unet)[name], weight, rtol=1e-6, atol=1e-7)


def test_merging_rounds_once(tiny_sd, artifacts):
    half = open_pipeline(tiny_sd, device="cpu", dtype="float16")
    full = open_pipeline(tiny_sd, device="cpu", dtype="float32")
    for pipe in (half, full):
        apply_erasure(pipe, artifacts / "kv_patch.safetensors", artifacts / "lora")
    assert not getattr(half.unet, "peft_config", None)
    for name, weight in unet.weights(full.unet).items():
        error = (unet.weights(half.unet)[name].float() - weight).norm() / weight.norm()
        assert error < 4e-4  # one rounding to 11 bits, and the LoRA's factors'


def test_a_lora_elsewhere_is_refused(tiny_sd, artifacts, tmp_path):
    pipe = open_pipeline(tiny_sd, device="cpu")
    pipe.unet.add_adapter(LoraConfig(r=1, target_modules=["attn1.to_k"]))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    pipe = open_pipeline(tiny_sd, device="cpu")
    with pytest.raises(ArtifactError, match=r"found a LoRA on .*attn1"):
        apply_erasure(pipe, artifacts / "kv_patch.safetensors", tmp_path)


def test_compare_puts_the_erased_image_below_the_base_one(run, tmp_path):
    options = ["--seed", "3", "--num", "2"]
    result = run("compare", PROMPTS[0], "--concept", "airplane", "--out", tmp_path / "pair.png", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'pair.png'}\n"
    assert run("draw", PROMPTS[0], "--out", tmp_path / "base.png", *options).exit_code == 0
    assert run("draw", PROMPTS[0], "--concept", "airplane", "--out", tmp_path / "new.png", *options).exit_code == 0
    pair, base, new = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("pair", "base", "new"))
    assert pair.shape == (128, 128, 3)
    assert (pair == np.concatenate([base, new])).all()
    assert abs(base - new).mean() > 3


@pytest.mark.parametrize("command", ["compare", "draw"])
def test_no_erasure_no_picture(run, tmp_path, command):
    result = run(command, "a cat", "--concept", "bird", "--out", tmp_path / "out.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: artifacts/bird/kv_patch.safetensors: not there yet")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    rank=st.integers(0, 24),
    tolerance=st.sampled_from([0.0, 1e-6, 1e-2, 0.3]),
    seed=st.integers(0, 1000),
)
def test_low_rank_is_the_least_rank_within_the_tolerance(rows, columns, rank, tolerance, seed):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    change = left @ torch.randn(rank, columns, generator=generator, dtype=torch.float64)
    up, down = low_rank(change, tolerance)
    norm = change.norm()
    assert (change - up @ down).norm() <= (tolerance + 1e-12) * norm
    if tolerance > 0:
        assert down.shape[0] <= max(1, min(rows, columns, rank))
    if down.shape[0] > 1:
        fewer = up[:, :-1] @ down[:-1]
        assert (change - fewer).norm() > tolerance * norm
