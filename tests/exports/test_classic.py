"""The classic layout holds the same weights and tokens as what transformers saves today."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from realera.exports import classic
from realera.settings.errors import ArtifactError, ModelError
from tests.kit.erasure_project import save_new_text_encoder

TEXTS = ["a photo of a cat", "  It's 12 O'CLOCK\n", "<|endoftext|> naïve ✈ 中文", "", "x! !!", "word " * 100]
TOKENIZER = {"merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"}


@pytest.fixture
def saved(tiny_sd, tiny_clip, tmp_path):
    """Both models as the installed transformers saves them: prefix lost, tokenizer and processor in one file each."""
    save_new_text_encoder(tiny_sd / "text_encoder", tmp_path / "sd/text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")
    tokenizer.save_pretrained(tmp_path / "sd/tokenizer")
    CLIPModel.from_pretrained(tiny_clip).half().save_pretrained(tmp_path / "clip")
    processor = CLIPImageProcessorPil.from_pretrained(tiny_clip)
    CLIPProcessor(processor, tokenizer).save_pretrained(tmp_path / "clip")
    return tmp_path


def names(folder):
    return {path.name for path in folder.iterdir()}


def ids(folder):
    return CLIPTokenizer.from_pretrained(folder)(TEXTS, truncation=True)["input_ids"]


def test_a_text_encoder_keeps_its_weights_under_their_first_names(saved, tiny_sd):
    folder = saved / "sd/text_encoder"
    before = load_file(folder / "model.safetensors")
    assert not classic.is_classic(folder)
    assert "dtype" in json.loads((folder / "config.json").read_text())
    for _ in range(2):  # twice is as good as once
        classic.classic_pipeline(saved / "sd")
        after = load_file(folder / "model.safetensors")
        assert {f"text_model.{name}" for name in before} == set(after)
        assert all(torch.equal(after[f"text_model.{name}"], weight) for name, weight in before.items())
    assert classic.is_classic(folder)
    assert classic.is_classic(tiny_sd / "text_encoder")
    config = json.loads((folder / "config.json").read_text())
    assert config["torch_dtype"] == "float16"
    assert "dtype" not in config


def test_a_tokenizer_reads_the_same_tokens(saved, tiny_sd):
    before = ids(saved / "sd/tokenizer")
    classic.classic_pipeline(saved / "sd")
    assert names(saved / "sd/tokenizer") == TOKENIZER
    assert ids(saved / "sd/tokenizer") == before
    for name in TOKENIZER:
        assert (saved / "sd/tokenizer" / name).read_bytes() == (tiny_sd / "tokenizer" / name).read_bytes()


def test_a_whole_clip_in_the_classic_layout_is_the_embedded_judge(saved, tiny_clip):
    classic.classic_clip(saved / "clip")
    assert names(saved / "clip") == TOKENIZER | {"config.json", "model.safetensors", "preprocessor_config.json"}
    for name in ("preprocessor_config.json", "tokenizer_config.json", "vocab.json", "model.safetensors"):
        assert (saved / "clip" / name).read_bytes() == (tiny_clip / name).read_bytes()
    assert '"dtype"' not in (saved / "clip/config.json").read_text()


def test_what_is_no_such_part_is_refused(saved, tmp_path):
    path = saved / "sd/tokenizer/tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"type": "WordLevel"}}))
    with pytest.raises(ModelError, match=r"tokenizer\.json: found a tokenizer of type 'WordLevel'; accepted: 'BPE'"):
        classic.classic_tokenizer(path.parent)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: a file is needed here"):
        classic.classic_tokenizer(path.parent)
    weights = saved / "sd/text_encoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        classic.is_classic(weights.parent)


def test_a_random_text_encoder_reads_back_as_it_was(tmp_path, tiny_sd):
    config = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    model = CLIPTextModel(config)
    model.save_pretrained(tmp_path / "text_encoder")
    shutil.copytree(tiny_sd / "tokenizer", tmp_path / "tokenizer")
    classic.classic_pipeline(tmp_path)
    read, report = CLIPTextModel.from_pretrained(tmp_path / "text_encoder", output_loading_info=True)
    assert not report["missing_keys"]
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in read.state_dict().items())
