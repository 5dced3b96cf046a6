import importlib.util
import json
import sys

import pytest
import torch
from typer.testing import CliRunner

from realera.settings.errors import RealEraError


@pytest.fixture(scope="module")
def tool(repository):
    spec = importlib.util.spec_from_file_location("fullsize", repository / "tools" / "fullsize.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fullsize"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fullsize"]


@pytest.fixture
def small(tool, monkeypatch):
    """The tool with small parts in place of the full-size ones."""
    parts = {
        "unet": lambda: tool.UNet2DConditionModel(
            **tool.UNET | {"block_out_channels": (32,) * 4, "cross_attention_dim": 96, "attention_head_dim": 4}
        ),
        "vae": lambda: tool.AutoencoderKL(**tool.VAE | {"block_out_channels": (32,) * 4}),
        "text_encoder": lambda: tool.CLIPTextModel(
            tool.CLIPTextConfig(**tool.TEXT_ENCODER | {"hidden_size": 96, "num_hidden_layers": 1})
        ),
    }
    counted = {name: (make, sum(p.numel() for p in make().parameters())) for name, make in parts.items()}
    monkeypatch.setattr(tool, "PARTS", counted)
    return tool


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_parts_have_the_size_of_stable_diffusion_v1_4(tool, name):
    with torch.device("meta"):  # shapes without memory
        tool.new_part(name)


def test_unet_has_the_layers_of_stable_diffusion_v1_4(tool):
    from realera.families import cross_attention

    with torch.device("meta"):
        shapes = [tuple(weight.shape) for weight in cross_attention.weights(tool.new_part("unet")).values()]
    rows = [320] * 4 + [640] * 4 + [1280] * 4 + [1280] * 6 + [640] * 6 + [320] * 6 + [1280] * 2
    assert shapes == [(row, 768) for row in rows]


def test_a_wrong_size_is_noticed(small, monkeypatch, tmp_path):
    make, count = small.PARTS["vae"]
    monkeypatch.setitem(small.PARTS, "vae", (make, count + 1))
    with pytest.raises(AssertionError, match="vae"):
        small.build(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_build_opens_with_stock_diffusers_and_repeats(small, tmp_path):
    from diffusers import StableDiffusionPipeline

    for name in ("one", "two"):
        small.build(tmp_path / name)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "one")
    assert pipe.text_encoder.dtype == pipe.unet.dtype == torch.float32
    assert type(pipe.scheduler).__name__ == "PNDMScheduler"
    index = json.loads((tmp_path / "one" / "model_index.json").read_text())
    assert index["requires_safety_checker"] is False
    image = pipe("a cat", num_inference_steps=1, height=64, width=64).images[0]
    assert image.size == (64, 64)


def test_refuses_a_folder_that_exists_and_a_disk_that_is_too_small(tool, tmp_path, monkeypatch):
    with pytest.raises(RealEraError, match=r"--out: found .*, which exists"):
        tool.build(tmp_path)
    usage = tool.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    with pytest.raises(RealEraError, match=r"needs 2.1 GB, the disk has 1.0 GB free"):
        tool.build(tmp_path / "new" / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_full_size_checkpoint_draws(tool, tmp_path):
    import typer

    from realera.families.stable_diffusion import open_pipeline

    application = typer.Typer()
    application.command()(tool.main)
    result = CliRunner().invoke(application, ["--out", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    pipe = open_pipeline(tmp_path / "model", device="cpu")
    image = pipe("a cat", num_inference_steps=1, height=256, width=256).images[0]
    assert image.size == (256, 256)
