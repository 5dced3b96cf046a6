"""Presets: what is erased, what it becomes, what must stay, and how that is judged.

One YAML file a concept in data/concepts; named lists of words and templates, which presets
share, in data/prompts.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, RootModel, field_validator, model_validator

from realera import project
from realera.config import CONCEPT_NAME, Section, load_yaml
from realera.errors import ConfigError

CONCEPTS = Path("data/concepts")
WORDS = Path("data/prompts/words.yaml")
TEMPLATES = Path("data/prompts/templates.yaml")

VOCABULARY = "vocabulary"
"""Name of the list that holds every concept the model's own vocabulary.json names."""


class Preserve(Section):
    """What must stay: named lists, whose words go into templates, and free text."""

    lists: tuple[str, ...]
    texts: tuple[str, ...]


class Preset(Section):
    """One file of data/concepts."""

    task: Literal["object"]
    targets: tuple[str, ...] = Field(min_length=1)
    anchors: tuple[str, ...] = Field(min_length=1)
    synonyms: dict[str, tuple[str, ...]]
    classes: str
    preserve: Preserve
    unseen: str
    templates: str
    neighbors: tuple[str, ...]

    @field_validator("targets", "anchors", "neighbors")
    @classmethod
    def _not_blank(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_words(words)

    @field_validator("synonyms")
    @classmethod
    def _distinct(cls, synonyms: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for words in synonyms.values():
            _checked_words(words, may_repeat=False)
        return synonyms

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.anchors) not in (1, len(self.targets)):
            raise ValueError(f"one anchor, or one for each of the {len(self.targets)} targets")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("targets without repeats")
        if both := set(self.targets) & set(self.anchors):
            raise ValueError(f"anchors that are not targets themselves, found {sorted(both)}")
        if strange := set(self.synonyms) - set(self.targets):
            raise ValueError(f"synonyms of the targets {list(self.targets)}, found some of {sorted(strange)}")
        return self

    def pairs(self) -> list[tuple[str, str]]:
        """Return [(target, its anchor)]."""
        anchors = self.anchors * len(self.targets) if len(self.anchors) == 1 else self.anchors
        return list(zip(self.targets, anchors, strict=True))

    def all_synonyms(self) -> list[str]:
        """Return every synonym of every target, in order."""
        return [word for target in self.targets for word in self.synonyms.get(target, ())]


class _Lists(RootModel[dict[str, tuple[str, ...]]]):
    """A file of named lists."""

    @field_validator("root")
    @classmethod
    def _distinct(cls, lists: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, words in lists.items():
            _checked_words(words, f"{name}: ", may_repeat=False)
        return lists


def check_name(name: str) -> None:
    """Refuse what could be a path, so that nothing is read or written outside the concept's own folder.

    Raises:
        ConfigError: the name is no file name.
    """
    if not re.fullmatch(CONCEPT_NAME, name):
        raise ConfigError(f"concepts: found {name!r}; accepted: names of files in {CONCEPTS}, without .yaml")


def load_preset(name: str) -> Preset:
    """Read data/concepts/<name>.yaml.

    Raises:
        ConfigError: the name is no file name, there is no such preset, or a value does not fit.
    """
    check_name(name)
    path = project.find(CONCEPTS / f"{name}.yaml")
    if path is None:
        folder = project.find(CONCEPTS) or CONCEPTS
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ConfigError(f"concepts: found {name!r}; accepted: {known}")
    return load_yaml(path, Preset)


def load_words(name: str, vocabulary: Iterable[str] = ()) -> tuple[str, ...]:
    """Return a named list of words: `vocabulary` as given, others from data/prompts/words.yaml.

    Raises:
        ConfigError: there is no such list.
    """
    if name == VOCABULARY:
        return tuple(vocabulary)
    return _named(WORDS, name)


def load_templates(name: str) -> tuple[str, ...]:
    """Return a named list of prompt templates with {name} and, for its article, {a}.

    Raises:
        ConfigError: there is no such list.
    """
    return _named(TEMPLATES, name)


def preserved_words(preset: Preset, vocabulary: Iterable[str]) -> list[str]:
    """Return the names to preserve, in order and without repeats.

    Never among them: the targets, their synonyms (kept for judging, they must fade with the
    target) and the unseen words (kept for judging, nothing may be done for them).
    """
    left_out = {*preset.targets, *preset.all_synonyms(), *load_words(preset.unseen)}
    words = [word for name in preset.preserve.lists for word in load_words(name, vocabulary)]
    return [word for word in dict.fromkeys(words) if word not in left_out]


def _named(path: Path, name: str) -> tuple[str, ...]:
    lists = load_yaml(project.find(path) or path, _Lists).root
    if name not in lists:
        raise ConfigError(f"{path}: no list {name!r}; accepted: {', '.join(sorted(lists))}")
    return lists[name]


def _checked_words(words: tuple[str, ...], where: str = "", may_repeat: bool = True) -> tuple[str, ...]:
    if any(not word.strip() for word in words):
        raise ValueError(f"{where}words that are not blank")
    if not may_repeat and len(set(words)) < len(words):
        raise ValueError(f"{where}words without repeats, found {_first_repeated(words)!r} again")
    return words


def _first_repeated(words: tuple[str, ...]) -> str:
    return next(word for index, word in enumerate(words) if word in words[:index])
