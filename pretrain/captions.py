"""Captions: a word of a concept, in a template, with or without a style."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import CLIPTokenizer

from pretrain.config import Captions, Concept
from realera.text.prompts import article

MAX_TOKENS = 77
PROMPT = "a photo of the {word}"
"""What is drawn, and what the judge reads, when a word is measured."""
NONE_PROMPT = "nothing recognizable"
"""The judge's text for an image that shows nothing."""


@dataclass(frozen=True)
class Caption:
    """`style` is None when the text names none; `concept` is None when it names only a style."""

    text: str
    concept: str | None
    style: str | None


def fill(template: str, word: str) -> str:
    """`template` holds {word}, optionally after {a}, which becomes its indefinite article."""
    return template.format(word=word, a=article(word))


def choose(items: Sequence[str], generator: torch.Generator) -> str:
    return items[int(torch.randint(len(items), (), generator=generator))]


def chance(rate: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < rate)


class CaptionSampler:
    """Draws captions; half of them use the concept's own name, the rest one of its synonyms."""

    def __init__(self, params: Captions, concepts: Sequence[Concept]):
        self.params = params
        self.concepts = {concept.name: concept for concept in concepts}

    def sample(self, concept: str, style: str | None, generator: torch.Generator) -> Caption:
        """One caption of `concept`; `style` is put into words when given."""
        entry = self.concepts[concept]
        by_name = not entry.synonyms or chance(0.5, generator)
        word = entry.name if by_name else choose(entry.synonyms, generator)
        text = fill(choose(self.params.templates, generator), word)
        if style is not None:
            text = f"{text} {self.params.style_phrase.format(style=style)}"
        return Caption(text, concept, style)

    def sample_style(self, style: str, generator: torch.Generator) -> Caption:
        """A caption that names the style alone."""
        subject = choose(("an icon", "a picture", "a drawing"), generator)
        return Caption(f"{subject} {self.params.style_phrase.format(style=style)}", None, style)

    def sample_none(self, generator: torch.Generator) -> Caption:
        """A caption for an image that shows nothing recognizable."""
        return Caption(choose(self.params.none_phrases, generator), None, None)

    def all_texts(self, styles: Sequence[str], none: bool) -> list[str]:
        """Texts that together hold every word of every caption (for the used rows of the vocabulary)."""
        words = [word for concept in self.concepts.values() for word in concept.words]
        texts = [fill(template, word) for template in self.params.templates for word in words]
        texts += [f"an icon, a picture, a drawing {self.params.style_phrase.format(style=s)}" for s in styles]
        return texts + (list(self.params.none_phrases) if none else [])


def used_tokens(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[int]:
    """Token ids that any of the texts uses, the special tokens included, sorted."""
    ids = {i for row in tokenizer(list(texts))["input_ids"] for i in row}
    return sorted(ids | set(tokenizer.all_special_ids))


def check_lengths(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> None:
    """Raises ValueError naming the first text that does not fit CLIP's 77 tokens."""
    for text, row in zip(texts, tokenizer(list(texts))["input_ids"], strict=True):
        if len(row) > MAX_TOKENS:
            raise ValueError(f"the caption {text!r} has {len(row)} tokens; at most {MAX_TOKENS} fit")
