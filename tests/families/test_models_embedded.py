"""The two models in data/models: stock libraries load them, and they draw and recognise."""

import zlib

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from realera.drawing.batch import draw
from realera.judges.clip import class_probabilities
from realera.text.vocabulary import unknown_words

WORDS = ["cat", "car", "house", "tree", "boat"]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGES_PER_WORD = 4
MEGABYTE = 10**6


def test_stock_diffusers_loads_the_generator(tiny_sd):
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert pipe.scheduler.config.prediction_type == "epsilon"
    assert pipe.unet.config.cross_attention_dim == pipe.text_encoder.config.hidden_size
    assert pipe.unet.config.sample_size * pipe.vae_scale_factor == 64
    widths = {m.to_k.weight.shape[0] for name, m in pipe.unet.named_modules() if name.endswith("attn2")}
    assert len(widths) >= 2, "cross-attention of several widths"
    image = pipe("a photo of the cat", num_inference_steps=2, guidance_scale=5.0).images[0]
    assert image.size == (64, 64)


def test_stock_transformers_loads_the_judge(tiny_clip):
    model = CLIPModel.from_pretrained(tiny_clip)
    processor = CLIPProcessor.from_pretrained(tiny_clip)
    inputs = processor(text=["a cat", "a dog"], images=Image.new("RGB", (64, 64)), padding=True, return_tensors="pt")
    with torch.no_grad():
        assert model(**inputs).logits_per_image.isfinite().all()


def test_tokenizers_are_the_real_one(pipe, judge):
    for tokenizer in (pipe.tokenizer, judge[1].tokenizer):
        assert len(tokenizer) == 49_408
        assert tokenizer.model_max_length == 77
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_every_row_of_the_table_belongs_to_the_tokenizer(pipe, judge):
    assert pipe.text_encoder.get_input_embeddings().weight.shape[0] == 49_408
    assert judge[0].text_model.get_input_embeddings().weight.shape[0] == 49_408


def test_the_towers_are_not_shared(pipe, judge):
    ours, theirs = (m.get_input_embeddings().weight for m in (pipe.text_encoder, judge[0].text_model))
    assert ours.shape != theirs.shape or not torch.allclose(ours, theirs)


def test_weights_are_half_precision_safetensors_only(tiny_sd, tiny_clip):
    from safetensors import safe_open

    for folder in (tiny_sd, tiny_clip):
        names = {path.suffix for path in folder.rglob("*") if path.is_file()}
        assert names.isdisjoint({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".onnx"})
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, "pt") as file:
                dtypes = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
                assert dtypes <= {"F16", "I64"}


def test_both_fit_the_repository(tiny_sd, tiny_clip):
    files = [path for folder in (tiny_sd, tiny_clip) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 80 * MEGABYTE
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) <= 45 * MEGABYTE  # as git packs


def test_both_know_the_ten_classes_and_not_everything(pipe, judge):
    tables = {
        "generator": (pipe.tokenizer, pipe.text_encoder.get_input_embeddings().weight),
        "judge": (judge[1].tokenizer, judge[0].text_model.get_input_embeddings().weight),
    }
    for tokenizer, table in tables.values():
        assert unknown_words(f"a photo of a {' '.join(CIFAR10 + WORDS)}", tokenizer, table) == []
        assert unknown_words("a xylographer", tokenizer, table) == ["xylographer"]


@pytest.fixture(scope="module")
def readings(pipe, judge):
    """The judge's probabilities [word, image, word] for images of known seeds."""
    prompts = [f"a photo of a {word}" for word in WORDS]
    wanted = [prompt for prompt in prompts for _ in range(IMAGES_PER_WORD)]
    seeds = list(range(1000, 1000 + len(wanted)))
    images = list(draw(pipe, wanted, seeds, num_inference_steps=20, guidance_scale=5.0))
    probabilities = class_probabilities(*judge, images, prompts)
    return probabilities.reshape(len(WORDS), IMAGES_PER_WORD, len(WORDS))


@pytest.mark.parametrize("word", WORDS)
def test_known_seeds_draw_the_word(readings, word):
    index = WORDS.index(word)
    hits = np.count_nonzero(readings[index].argmax(axis=-1) == index)
    assert hits > IMAGES_PER_WORD / 2
