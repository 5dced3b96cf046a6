"""A UNet in bfloat16: nearly the same pictures, and what cannot work is refused."""

import numpy as np
import pytest
import torch

from realera.drawing.batch import draw
from realera.drawing.many import Source, draw_all
from realera.drawing.precision import check_precision
from realera.drawing.subjects import Subject, drawings
from realera.families.cross_attention import cross_attention
from realera.settings.config import load_params
from realera.settings.errors import ConfigError

PROMPTS = ["a photo of a cat", "a photo of a truck", "a photo of a bird"]


@pytest.fixture(scope="module")
def params():
    return load_params().generate.model_copy(update={"dtype": "bfloat16", "num_inference_steps": 4, "batch_size": 2})


@pytest.fixture(scope="module")
def source():
    return Source(load_params().model.model_copy(update={"device": "cpu"}))


@pytest.fixture(scope="module")
def narrow(source, params):
    return source.open("ddim", params)


def pictures(pipe, steps=10):
    return np.stack([np.asarray(image).astype(int) for image in draw(pipe, PROMPTS, range(3), steps, 5.0, 3)])


def test_the_unet_alone_is_narrow(narrow):
    assert narrow.unet.dtype == torch.bfloat16
    assert narrow.text_encoder.dtype == narrow.vae.dtype == torch.float32


def test_pictures_differ_by_rounding(narrow, source):
    moved = abs(pictures(narrow) - pictures(source.open("ddim")))
    assert 0 < moved.mean() < 2
    assert (moved > 32).mean() < 0.01


def test_latents_stay_in_full_precision(narrow):
    seen = []
    handle = narrow.vae.decoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].dtype))
    pictures(narrow, steps=1)
    handle.remove()
    assert seen == [torch.float32]


def test_a_model_that_is_bfloat16_already_is_left_alone(source, params):
    model = source.model.model_copy(update={"dtype": "bfloat16"})
    assert (pictures(Source(model).open("ddim", params), 2) == pictures(Source(model).open("ddim"), 2)).all()


def test_processes_give_the_same_bytes(source, params, tmp_path):
    images = params.images.model_copy(update={"erase": 3})
    plan = drawings(
        [Subject("erase", "cat", "cat", ("a photo of the cat",))], params.model_copy(update={"images": images})
    )
    one, two = (
        draw_all(plan, source, params.model_copy(update={"num_processes": number}), tmp_path / str(number))
        for number in (1, 2)
    )
    assert one.equals(two)


def test_the_anchors_latents_are_not_drawn_so(source):
    assert source.open("ddim").unet.dtype == torch.float32


def test_offloaded_weights_are_refused():
    with pytest.raises(ConfigError, match=r"generate.dtype: found 'bfloat16' with generate.offload 'model'"):
        check_precision("bfloat16", "model", torch.device("cuda"))


def test_a_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(ConfigError, match="accepted on this GPU, which does not compute with it: model"):
        check_precision("bfloat16", "none", torch.device("cuda"))


def test_keys_of_a_text_are_computed_once_in_bfloat16_too(narrow):
    layer = next(iter(cross_attention(narrow.unet).values()))
    outputs = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    pictures(narrow, steps=4)
    handle.remove()
    assert len(outputs) == 4
    assert len({id(output) for output in outputs}) == 1
