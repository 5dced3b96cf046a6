"""Templates, token spans by tokenization, alignment of names of different lengths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realera.settings.errors import ConfigError
from realera.settings.presets import load_preset, load_templates, preserved_words
from realera.text.prompts import Prompt, build, embed, fill, locate
from realera.text.spans import Tokens, aligned

NAMES = ["cat", "fire engine", "statue of liberty", "helicopter", "anuran", "motorcar", "soccer ball", "naïve café"]


def span_text(tokenizer, prompt: Prompt, tokens: Tokens) -> str:
    ids = tokenizer(prompt.text)["input_ids"][tokens.first : tokens.last + 1]
    return tokenizer.decode(ids).strip()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("template", ["{name}", "{name} on a hill", "a photo of the {name} at night", "the {name}"])
def test_span_holds_exactly_the_name(pipe, name, template):
    prompt = Prompt(*fill(template, name), "target")
    tokens = locate(prompt, pipe.tokenizer)
    assert span_text(pipe.tokenizer, prompt, tokens) == name
    alone = len(pipe.tokenizer(name)["input_ids"]) - 2
    assert tokens.last - tokens.first + 1 == alone
    assert tokens.num_tokens == len(pipe.tokenizer(prompt.text)["input_ids"])


def test_a_name_that_also_stands_elsewhere_is_found_where_the_template_puts_it(pipe):
    prompt = Prompt(*fill("a cat and {a} {name}", "cat"), "target")
    tokens = locate(prompt, pipe.tokenizer)
    assert (tokens.first, tokens.last) == (5, 5)


def test_a_name_split_in_pieces_counts_every_piece(pipe):
    prompt = Prompt(*fill("a photo of the {name}", "anuran"), "target")
    tokens = locate(prompt, pipe.tokenizer)
    assert tokens.last > tokens.first
    assert pipe.tokenizer.convert_ids_to_tokens(pipe.tokenizer(prompt.text)["input_ids"])[tokens.last].endswith("</w>")


def test_a_prompt_of_exactly_77_tokens_fits_and_one_more_does_not(pipe):
    fits = Prompt(*fill("{name}" + " cat" * 74, "dog"), "target")
    assert locate(fits, pipe.tokenizer).num_tokens == 77
    with pytest.raises(ConfigError, match=r"found 78 tokens.*reads 77.*'dog' does not fit"):
        locate(Prompt(*fill("{name}" + " cat" * 75, "dog"), "target"), pipe.tokenizer)


@pytest.mark.parametrize("name", ["\n", "\t "])
def test_a_name_without_tokens_is_an_error(pipe, name):
    with pytest.raises(ConfigError, match="tokenizes to nothing"):
        locate(Prompt(*fill("a photo of {name}", name), "target"), pipe.tokenizer)


def test_empty_free_text_has_no_span(pipe):
    assert locate(Prompt("", 0, 0, "preserve"), pipe.tokenizer) == Tokens(1, 0, 2)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("a photo", "0 times"),
        ("{name} and {name}", "2 times"),
        ("a {color} {name}", "color"),
        ("a {name", "expected"),
    ],
)
def test_bad_templates_are_named(template, problem):
    with pytest.raises(ConfigError, match=problem):
        fill(template, "cat")


def test_articles():
    assert fill("{a} {name}", "airplane")[0] == "an airplane"
    assert fill("{a} {name}", "unicorn")[0] == "a unicorn"


@given(
    first=st.integers(1, 20),
    target_length=st.integers(1, 8),
    anchor_length=st.integers(1, 8),
    suffix=st.integers(0, 10),
    span=st.sampled_from(["concept", "concept_to_eot", "concept_to_end"]),
)
@settings(max_examples=200, deadline=None)
def test_alignment(first, target_length, anchor_length, suffix, span):
    target = Tokens(first, first + target_length - 1, first + target_length + suffix + 1)
    anchor = Tokens(first, first + anchor_length - 1, first + anchor_length + suffix + 1)
    pairs = dict(aligned(target, anchor, span, 77))
    own = sorted(pairs)
    stop = {"concept": target.last + 1, "concept_to_eot": target.num_tokens, "concept_to_end": 77}[span]
    assert own == list(range(first, stop))  # every token once, never BOS
    assert all(anchor.first <= other <= 76 for other in pairs.values())
    assert pairs[target.last] == anchor.last
    if span != "concept":  # the end of text meets the end of text, whatever the lengths
        assert pairs[target.num_tokens - 1] == anchor.num_tokens - 1
    assert [pairs[token] for token in own] == sorted(pairs.values())


def test_build_pairs_targets_with_anchors_and_preserves_nothing_judged():
    preset = load_preset("airplane")
    vocabulary = ["airplane", "jet", "fox", "guitar", "cat", "guitar"]
    prompts = build(preset, vocabulary, 3, 2)
    texts = [prompt.text for prompt in prompts]
    assert texts[:4] == [
        "a photo of the airplane",
        f"a photo of the {preset.anchors[0]}",
        "a photo of an airplane",
        f"a photo of a {preset.anchors[0]}",
    ]
    by_pair = [prompt.pair_id for prompt in prompts if prompt.role != "preserve"]
    assert by_pair == [0, 0, 1, 1, 2, 2]
    preserved = [prompt.text for prompt in prompts if prompt.role == "preserve"]
    assert "a photo of a guitar" in preserved
    assert preserved[-1] == ""
    assert not any(word in text.split() for text in preserved for word in ("airplane", "jet", "fox"))
    assert len(preserved) == 2 * len(preserved_words(preset, vocabulary)) + 1


def test_more_templates_than_there_are():
    count = len(load_templates("object"))
    with pytest.raises(ConfigError, match=rf"encode.num_templates.*found {count + 1}.*has {count}"):
        build(load_preset("airplane"), [], count + 1, 1)


def test_embeddings_are_what_the_pipeline_feeds_the_unet(pipe):
    texts = ["a photo of the cat", "", "the fire engine"]
    ours = embed(texts, pipe.tokenizer, pipe.text_encoder, batch_size=2)
    theirs, _ = pipe.encode_prompt(texts, pipe.device, 1, False)
    assert ours.shape == (3, 77, pipe.unet.config.cross_attention_dim)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-5)
