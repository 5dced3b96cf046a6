"""Prompts and the vocabulary that a model was trained on.

A small model knows few words. The rows of its token-embedding table that no training
caption used are exactly zero, so a prompt tells by its tokens which words mean nothing.
"""

import difflib
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from realera.settings.errors import ArtifactError
from realera.store.artifacts import read_json

VOCABULARY_FILE = "vocabulary.json"


class UnknownWordsWarning(UserWarning):
    """A prompt holds words that the model was not trained on."""


def unknown_words(prompt: str, tokenizer: CLIPTokenizer, token_embedding_weight: torch.Tensor) -> list[str]:
    """Return the words of a prompt that have a token without a meaning to the model.

    Words are what CLIP's tokenizer splits at spaces and punctuation, as the user typed them,
    in order and without repeats. Punctuation alone is no word. What lies beyond the
    tokenizer's 77 tokens is not looked at, since the model does not see it either.

    Args:
        prompt: any text.
        tokenizer: the model's tokenizer.
        token_embedding_weight: [vocabulary, width]; all-zero rows belong to unknown tokens.
    """
    encoding = tokenizer(prompt, truncation=True, add_special_tokens=True, return_offsets_mapping=True)
    is_unknown = (token_embedding_weight[encoding["input_ids"]] == 0).all(dim=-1).tolist()
    spans = _word_spans(prompt, encoding.word_ids(), encoding["offset_mapping"], is_unknown)
    words = [prompt[start:end] for start, end in spans]
    return list(dict.fromkeys(word for word in words if not _is_punctuation(word)))


def warn_unknown_words(
    prompts: Iterable[str],
    tokenizer: CLIPTokenizer,
    token_embedding_weight: torch.Tensor,
    model: str,
) -> None:
    """Warn once for each distinct prompt that has unknown words, and suggest known ones.

    Args:
        prompts: any texts.
        tokenizer: the model's tokenizer.
        token_embedding_weight: [vocabulary, width].
        model: the model's name in the message; a folder is searched for its vocabulary.
    """
    vocabulary = read_vocabulary(model)
    for prompt in dict.fromkeys(prompts):
        words = unknown_words(prompt, tokenizer, token_embedding_weight)
        if words:
            warnings.warn(
                _unknown_words_message(prompt, words, model, vocabulary),
                UnknownWordsWarning,
                stacklevel=2,
            )


def read_vocabulary(model: str | Path) -> list[str]:
    """Return the concepts, synonyms and styles in a model folder's vocabulary.json.

    The words serve as suggestions only: where there is no such file, or it is built in
    another way, there are none.
    """
    try:
        content = read_json(Path(model) / VOCABULARY_FILE)
        concepts = content["concepts"]
        words = [*concepts, *content.get("styles", [])]
        words += [word for entry in concepts.values() for word in entry.get("synonyms", [])]
    except (ArtifactError, AttributeError, KeyError, TypeError):
        return []
    return sorted({word for word in words if isinstance(word, str)})


def read_concepts(model: str | Path) -> list[str]:
    """Return the names of the concepts in a model folder's vocabulary.json, or none."""
    try:
        names = list(read_json(Path(model) / VOCABULARY_FILE)["concepts"].keys())
    except (ArtifactError, AttributeError, KeyError, TypeError):
        return []
    return [name for name in names if name.strip()]


def _unknown_words_message(prompt: str, words: Sequence[str], model: str, vocabulary: Sequence[str]) -> str:
    named = ", ".join(_with_suggestion(word, vocabulary) for word in words)
    return (
        f"{prompt!r}: {model} was not trained on {named}, and draws something else there; "
        "its model card (README.md) lists the words that it knows"
    )


def _with_suggestion(word: str, vocabulary: Sequence[str]) -> str:
    close = difflib.get_close_matches(word.lower(), vocabulary, n=3)
    return f"{word!r} (close: {', '.join(close)})" if close else repr(word)


def _word_spans(
    prompt: str,
    word_ids: Sequence[int | None],
    offsets: Sequence[tuple[int, int]],
    is_unknown: Sequence[bool],
) -> list[tuple[int, int]]:
    """Return [start, end) in the prompt of each word with an unknown token.

    The tokenizer makes a word of every digit; the digits of a number are put together.
    """
    spans: dict[int, tuple[int, int]] = {}
    unknown = set()
    for word, (start, end), bad in zip(word_ids, offsets, is_unknown, strict=True):
        if word is None:  # <|startoftext|>, <|endoftext|>
            continue
        spans[word] = (spans.get(word, (start, end))[0], end)
        if bad:
            unknown.add(word)
    return [span for span, bad in _join_digits(prompt, spans, unknown) if bad]


def _join_digits(
    prompt: str, spans: dict[int, tuple[int, int]], unknown: set[int]
) -> list[tuple[tuple[int, int], bool]]:
    joined: list[tuple[tuple[int, int], bool]] = []
    for word, (start, end) in spans.items():
        bad = word in unknown
        if joined and joined[-1][0][1] == start and prompt[start - 1 : end].isdecimal():
            (start, _), was_bad = joined.pop()
            bad = bad or was_bad
        joined.append(((start, end), bad))
    return joined


def _is_punctuation(text: str) -> bool:
    return all(unicodedata.category(character).startswith("P") for character in text)
