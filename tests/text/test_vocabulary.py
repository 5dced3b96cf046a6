import json
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realera.text.vocabulary import UnknownWordsWarning, read_vocabulary, unknown_words, warn_unknown_words

KNOWN = ["a", "photo", "of", "the", "cat", "car", "dog", "rex", "winged", "creature", "house"]


@pytest.fixture(scope="session")
def tokenizer(tiny_sd):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")


@pytest.fixture(scope="session")
def weight(tokenizer):
    """An embedding table [49408, 4] in which only the KNOWN words have rows."""
    table = torch.zeros(len(tokenizer), 4, dtype=torch.float16)
    table[tokenizer(KNOWN, add_special_tokens=True, padding=True, return_tensors="pt").input_ids] = 6e-8
    return table


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a photo of a cat", []),
        ("", []),
        ("A Photo of the CAT!", []),
        ("a photo of a quokka", ["quokka"]),
        ("Quokka, quokka and   Zebra", ["Quokka", "quokka", "and", "Zebra"]),
        ("zebra cat zebra", ["zebra"]),
        ("a t-rex", ["t"]),
        ("a cat, (dog); [car]...", []),
        ("a cat in 1990", ["in", "1990"]),
        ("the cat's house", ["'s"]),
        ("a straße über\tcafé", ["straße", "über", "café"]),
        ("a 🐱 cat", ["🐱"]),
        ("zebracat", ["zebracat"]),
    ],
)
def test_unknown_words(tokenizer, weight, prompt, expected):
    assert unknown_words(prompt, tokenizer, weight) == expected


def test_nothing_is_unknown_to_a_full_table(tokenizer, weight):
    full = torch.full_like(weight, 6e-8)  # the smallest float16 above zero still is not zero
    assert unknown_words("quokka zebra 🐱 1990", tokenizer, full) == []


def test_words_that_do_not_fit_are_not_looked_at(tokenizer, weight):
    assert unknown_words("cat " * 75 + "zebra", tokenizer, weight) == []
    assert unknown_words("cat " * 74 + "zebra", tokenizer, weight) == ["zebra"]


@given(prompt=st.text())
def test_any_text_gives_its_own_words(tokenizer, weight, prompt):
    words = unknown_words(prompt, tokenizer, weight)
    assert len(words) == len(set(words))
    assert all(word and word in prompt for word in words)


def test_warning_once_a_prompt_names_words_model_and_close_ones(tokenizer, weight, tmp_path):
    vocabulary = {"concepts": {"zebra crossing": {}, "feline": {"synonyms": ["felid"]}}, "styles": ["noto"]}
    (tmp_path / "vocabulary.json").write_text(json.dumps(vocabulary))
    with pytest.warns(UnknownWordsWarning) as caught:
        warn_unknown_words(["a felin", "a felin", "a cat"], tokenizer, weight, str(tmp_path))
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "'felin' (close: feline, felid)" in text
    assert str(tmp_path) in text
    assert "README.md" in text


def test_no_warning_for_known_words(tokenizer, weight):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unknown_words(["a cat", "the dog"], tokenizer, weight, "tiny")


@pytest.mark.parametrize("content", ["[]", "{}", '{"concepts": 3}', '{"concepts": {"a": 1}}', "{"])
def test_a_vocabulary_of_another_form_gives_no_suggestions(tmp_path, content):
    (tmp_path / "vocabulary.json").write_text(content)
    assert read_vocabulary(tmp_path) == []
    assert read_vocabulary(tmp_path / "none") == []
