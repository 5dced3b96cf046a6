"""Prompts of an erasure: templates filled with names, token spans, embeddings.

A span is found by tokenization: the template tells which characters the name occupies, and the
tokenizer tells which tokens cover them. So a name may stand anywhere, have several words or
be split into several pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realera.settings.errors import ConfigError
from realera.settings.presets import Preset, load_templates, preserved_words
from realera.text.spans import Tokens

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer

_MARK = "\x00"
_VOWELS = tuple("aeiou")
_SOUNDS_ELSE = {"unicorn": "a", "ufo": "a", "ewe": "a", "hourglass": "an"}


@dataclass(frozen=True)
class Prompt:
    """A text and the part of it that matters.

    Attributes:
        text: what the text encoder reads.
        start: first character of the name; for free text 0.
        end: behind the last character of the name; for free text the length of the text.
        role: target, anchor or preserve.
        target: whose erasure it belongs to; "" for preserve.
        pair_id: joins a target's prompt with its anchor's; -1 for preserve.
    """

    text: str
    start: int
    end: int
    role: str
    target: str = ""
    pair_id: int = -1


def article(word: str) -> str:
    """Return the indefinite article of a word."""
    return _SOUNDS_ELSE.get(word, "an" if word.lower().startswith(_VOWELS) else "a")


def fill(template: str, name: str) -> tuple[str, int, int]:
    """Put a name into a template; return the text and the range of characters that is the name.

    Args:
        template: with {name} once and, where an article stands, {a}.
        name: a concept's name.

    Raises:
        ConfigError: the template holds another field, or {name} not exactly once.
    """
    try:
        marked = template.format(name=_MARK, a=article(name))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"template {template!r}: found {error}; accepted fields: {{name}} and {{a}}") from error
    if marked.count(_MARK) != 1:
        raise ConfigError(f"template {template!r}: found {marked.count(_MARK)} times {{name}}; accepted: once")
    start = marked.index(_MARK)
    return marked.replace(_MARK, name), start, start + len(name)


def build(preset: Preset, vocabulary: Sequence[str], num_templates: int, num_preserve_templates: int) -> list[Prompt]:
    """Return the prompts of an erasure: targets with their anchors, then what is preserved.

    Raises:
        ConfigError: the preset has fewer templates than asked for.
    """
    templates = load_templates(preset.templates)
    needed = max(num_templates, num_preserve_templates)
    if needed > len(templates):
        raise ConfigError(
            f"encode.num_templates, encode.num_preserve_templates: found {needed}; the list "
            f"{preset.templates!r} has {len(templates)} templates"
        )
    prompts: list[Prompt] = []
    for target, anchor in preset.pairs():
        for template in templates[:num_templates]:
            pair_id = len(prompts) // 2
            prompts.append(Prompt(*fill(template, target), "target", target, pair_id))
            prompts.append(Prompt(*fill(template, anchor), "anchor", target, pair_id))
    words = preserved_words(preset, vocabulary)
    prompts += [Prompt(*fill(t, word), "preserve") for word in words for t in templates[:num_preserve_templates]]
    return prompts + [Prompt(text, 0, len(text), "preserve") for text in preset.preserve.texts]


def with_shared_beginnings(
    preset: Preset,
    vocabulary: Sequence[str],
    tokenizer: "CLIPTokenizer",
    num_templates: int,
    num_preserve_templates: int,
) -> list[Prompt]:
    """Return further prompts to preserve: names that begin with a target's first token, in its other templates.

    "Fire" is preserved beside the target "fire engine". Both begin alike in each of the target's templates, and only
    where both are encoded it can be seen that their first tokens have one vector (`PromptTable.shared`).
    """
    beginnings = {first for target in preset.targets for first in _ids(target, tokenizer)[:1]}
    if not beginnings or num_templates <= num_preserve_templates:
        return []
    words = [word for word in preserved_words(preset, vocabulary) if beginnings & {*_ids(word, tokenizer)[:1]}]
    templates = load_templates(preset.templates)[num_preserve_templates:num_templates]
    return [Prompt(*fill(template, word), "preserve") for word in words for template in templates]


def _ids(name: str, tokenizer: "CLIPTokenizer") -> list[int]:
    """Return the ids of a name's tokens."""
    ids: list[int] = tokenizer(name, add_special_tokens=False)["input_ids"]
    return ids


def locate(prompt: Prompt, tokenizer: "CLIPTokenizer") -> Tokens:
    """Find the tokens of a prompt's name.

    Raises:
        ConfigError: the prompt does not fit the tokenizer's length, or its name has no token.
    """
    encoding = tokenizer(prompt.text, return_offsets_mapping=True)
    num_tokens = len(encoding["input_ids"])
    name = prompt.text[prompt.start : prompt.end]
    if num_tokens > tokenizer.model_max_length:
        raise ConfigError(
            f"{prompt.text!r}: found {num_tokens} tokens, with start and end; "
            f"the text encoder reads {tokenizer.model_max_length}, so {name!r} does not fit"
        )
    inside = [
        index
        for index, (start, end) in enumerate(encoding["offset_mapping"])
        if 0 < index < num_tokens - 1 and start < prompt.end and end > prompt.start
    ]
    if not inside and prompt.role != "preserve":
        raise ConfigError(f"{name!r}: tokenizes to nothing; accepted: a name with at least one token")
    return Tokens(inside[0], inside[-1], num_tokens) if inside else Tokens(1, 0, num_tokens)


def unread(prompt: str, tokenizer: "CLIPTokenizer") -> str:
    """Return the end of a prompt that the text encoder does not read, as it stands there; "" where it reads all."""
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) <= tokenizer.model_max_length:
        return ""
    return prompt[offsets[tokenizer.model_max_length - 1][0] :]  # the last token is the end of text


def embed(
    texts: Sequence[str], tokenizer: "CLIPTokenizer", text_encoder: "CLIPTextModel", batch_size: int = 64
) -> "torch.Tensor":
    """Return what the UNet's cross-attention reads: float32 [num_texts, T, d] on the CPU."""
    import torch

    parts = []
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        inputs = tokenizer(batch, padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            hidden = text_encoder(inputs["input_ids"].to(text_encoder.device))[0]
        parts.append(hidden.float().cpu())
    return torch.cat(parts)
