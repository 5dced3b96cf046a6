"""The K and V weights read without a pipeline are those that a pipeline has, in its order."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel

from realera.families import cross_attention, text_weights
from realera.families.text_weights import read_text_weights
from realera.settings.errors import ModelError

SD = {
    "sample_size": 8,
    "block_out_channels": (8, 8, 16, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 12,
    "layers_per_block": 2,
    "transformer_layers_per_block": 2,
}
"""Stable Diffusion v1.4's blocks, small and with more than one layer in each."""


def model(folder):
    return {"id": str(folder), "revision": None, "config": None, "dtype": "float32", "device": "cpu"}


@pytest.fixture
def checkpoint(tiny_sd, tmp_path):
    """The embedded model's folder with another UNet, saved in half precision."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_sd, folder)
    shutil.rmtree(folder / "unet")
    torch.manual_seed(0)
    UNet2DConditionModel(**SD).half().save_pretrained(folder / "unet")
    return folder


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight.float())
        assert found[name].dtype == torch.float32


def test_the_embedded_model_s(tiny_sd, pipe):
    assert_same(text_weights._from_folder(tiny_sd), cross_attention.weights(pipe.unet))


def test_blocks_of_several_layers_come_in_the_model_s_order(checkpoint):
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet", torch_dtype=torch.float16)
    wanted = cross_attention.weights(unet)
    assert len(wanted) == 2 * 2 * (3 * 2 + 3 * 3 + 1)
    assert_same(read_text_weights(model(checkpoint)), wanted)


@pytest.mark.parametrize("key", ["only_cross_attention", "dual_cross_attention"])
def test_an_unusual_unet_is_opened_as_a_whole(checkpoint, key):
    path = checkpoint / text_weights.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: True}))
    assert text_weights._from_folder(checkpoint) == {}


def test_a_file_in_other_parts_is_opened_as_a_whole(checkpoint):
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    (checkpoint / text_weights.FILE).unlink()
    unet.save_pretrained(checkpoint / "unet", max_shard_size="20KB")
    assert text_weights._from_folder(checkpoint) == {}
    assert_same(read_text_weights(model(checkpoint)), cross_attention.weights(unet))


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_spoiled_file_ends_as_the_pipeline_s_loader_says(checkpoint, content):
    (checkpoint / text_weights.FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be loaded|weights are missing"):
        read_text_weights(model(checkpoint))


def test_neither_diffusers_nor_transformers_is_imported_for_it(repository):
    program = (
        "import sys; from realera.families.text_weights import read_text_weights\n"
        f"read_text_weights({model('data/models/tiny-sd')!r})\n"
        "print([name for name in ('diffusers', 'transformers', 'peft', 'accelerate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("stage", ["mine", "solve"])
def test_the_stages_of_the_closed_form_start_without_them(repository, stage):
    program = (
        f"import runpy, sys; sys.argv = ['stages/{stage}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path('stages/{stage}.py', run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "names = ('diffusers', 'transformers', 'peft', 'accelerate', 'torch._dynamo')\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
