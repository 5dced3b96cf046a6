"""Presets: what is erased, what it becomes, what must stay, and how that is drawn and judged.

One YAML file a concept in data/concepts; named lists of words and templates, which presets
share, in data/prompts.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, RootModel, ValidationInfo, field_validator, model_validator

from realera.settings import project
from realera.settings.config import CONCEPT_NAME, RESERVED, Section, check_template, load_yaml
from realera.settings.errors import ConfigError
from realera.settings.recipes import DEFAULTS

CONCEPTS = Path("data/concepts")
PROMPTS = Path("data/prompts")
PROMPT_FILES = Path("data/prompt_files")
WORDS = PROMPTS / "words.yaml"
TEMPLATES = PROMPTS / "templates.yaml"

JudgeName = Literal["classes", "style", "identity", "clip_score", "nudenet", "distance", "frechet"]
"""What `realera.judges.judging` has: a preset names those that read its images."""

VOCABULARY = "vocabulary"
"""Name of the list that holds every concept the model's own vocabulary.json names."""


EVERYDAY = "everyday"
"""Name of the list of everyday nouns that ships with the package, for models without a vocabulary."""


class Preserve(Section):
    """What must stay: named lists and single words, which go into templates, and free text."""

    lists: tuple[str, ...]
    texts: tuple[str, ...]
    words: tuple[str, ...] = ()

    @field_validator("words")
    @classmethod
    def _not_blank(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_words(words)


class Draw(Section):
    """What is drawn to judge an erasure, and never preserved; every key may be left out.

    Attributes:
        unseen: a list of words.yaml, or words: concepts that nobody thought of.
        lookalikes: words that look like a target and must stay.
        prompts: what is drawn of each word, in turn, with {name}; none: the task's.
        associated: whole prompts that mean a target without naming it.
        prompt_files: CSV files of data/prompt_files, by name, such as i2p and coco.
    """

    unseen: str | tuple[str, ...] = ""
    lookalikes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    associated: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    prompt_files: tuple[Annotated[str, Field(pattern=CONCEPT_NAME)], ...] = ()

    @field_validator("prompts")
    @classmethod
    def _have_a_name(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_template(prompt) for prompt in _checked_words(prompts, may_repeat=False))

    @field_validator("lookalikes", "prompt_files")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_words(names, may_repeat=False)

    @field_validator("unseen")
    @classmethod
    def _of_words(cls, unseen: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return unseen if isinstance(unseen, str) else _checked_words(unseen, may_repeat=False)

    @field_validator("associated")
    @classmethod
    def _distinct(cls, associated: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return _checked_lists(associated)


class Judged(Section):
    """Who reads the images; every key may be left out, and the task decides then.

    Attributes:
        by: names of `realera.judges.judging`.
        text: by which a CLIP judge knows a word, with {name}.
        names: target -> what the judges call it; for a token of a textual inversion, which they cannot read.
    """

    by: tuple[JudgeName, ...] = ()
    text: str = ""
    names: dict[str, Annotated[str, Field(pattern=r"\S")]] = Field(default_factory=dict)

    @field_validator("by")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_words(names, may_repeat=False)

    @field_validator("text")
    @classmethod
    def _has_a_name(cls, text: str) -> str:
        return check_template(text) if text else text


class Preset(Section):
    """One file of data/concepts; docs/presets.md explains each key."""

    task: Literal["object", "celebrity", "style", "explicit"]
    targets: tuple[str, ...] = Field(min_length=1)
    anchors: tuple[str, ...] = Field(min_length=1)
    synonyms: dict[str, tuple[str, ...]]
    classes: str
    preserve: Preserve
    templates: str
    neighbors: tuple[str, ...]
    draw: Draw
    judged: Judged

    @field_validator("targets", "anchors", "neighbors")
    @classmethod
    def _not_blank(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_words(words)

    @field_validator("synonyms")
    @classmethod
    def _distinct(cls, synonyms: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return _checked_lists(synonyms)

    @field_validator("draw", "judged")
    @classmethod
    def _by_task(cls, section: Section, info: ValidationInfo) -> Section:
        """Fill in what the task decides."""
        task = TASKS.get(info.data.get("task", ""), {})
        left_open = {name: task[name] for name, value in section if name in task and not value}
        return section.model_copy(update=left_open)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.anchors) not in (1, len(self.targets)):
            raise ValueError(f"one anchor, or one for each of the {len(self.targets)} targets")
        if len(distinct(self.targets)) < len(self.targets):
            raise ValueError(f"targets without repeats, found {_first_repeated(self.targets)!r} again")
        if both := _common(self.anchors, self.targets):
            raise ValueError(f"anchors that are not targets themselves, found {both}")
        if both := _common(self.all_synonyms(), self.targets):
            raise ValueError(f"synonyms that are not targets themselves, found {both}")
        by_target: dict[str, Iterable[str]] = {
            "synonyms": self.synonyms,
            "associated prompts": self.draw.associated,
            "names": self.judged.names,
        }
        for key, found in by_target.items():
            if strange := set(found) - set(self.targets):
                raise ValueError(f"{key} of the targets {list(self.targets)}, found some of {sorted(strange)}")
        if both := _common(self.draw.lookalikes, (*self.targets, *self.all_synonyms())):
            raise ValueError(f"lookalikes that are no targets or synonyms, found {both}")
        return self

    def pairs(self) -> list[tuple[str, str]]:
        """Return [(target, its anchor)]."""
        anchors = self.anchors * len(self.targets) if len(self.anchors) == 1 else self.anchors
        return list(zip(self.targets, anchors, strict=True))

    def called(self, word: str) -> str:
        """Return what the judges call a word."""
        return self.judged.names.get(word, word)

    def all_synonyms(self) -> list[str]:
        """Return every synonym of every target, in order."""
        return [word for target in self.targets for word in self.synonyms.get(target, ())]

    def all_associated(self) -> list[str]:
        """Return every associated prompt of every target, in order."""
        return [prompt for target in self.targets for prompt in self.draw.associated.get(target, ())]


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
        ConfigError: the name is no file name, or one that the project uses itself.
    """
    if not re.fullmatch(CONCEPT_NAME, name) or name in RESERVED:
        raise ConfigError(f"concepts: found {name!r}; accepted: names of files in {CONCEPTS}, without .yaml")


def load_preset(name: str) -> Preset:
    """Read data/concepts/<name>.yaml.

    Raises:
        ConfigError: the name is no file name, there is no such preset, or a value does not fit.
    """
    return load_yaml(preset_file(name), Preset)


def preset_file(name: str) -> Path:
    """Return data/concepts/<name>.yaml.

    Raises:
        ConfigError: the name is no file name, or there is no such preset.
    """
    check_name(name)
    path = project.find(CONCEPTS / f"{name}.yaml")
    if path is None:
        folder = project.find(CONCEPTS) or CONCEPTS
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ConfigError(f"concepts: found {name!r}; accepted: {known}")
    return path


def prompt_file(name: str) -> Path:
    """Return data/prompt_files/<name>.csv, the evaluation prompts of a benchmark.

    Raises:
        ConfigError: there is no such file.
    """
    path = project.find(PROMPT_FILES / f"{name}.csv")
    if path is None:
        raise ConfigError(
            f"draw.prompt_files: found {name!r}, but no {PROMPT_FILES / name}.csv; "
            "docs/prompt-files.md says how to get it"
        )
    return path


def load_words(name: str, vocabulary: Iterable[str] = ()) -> tuple[str, ...]:
    """Return a named list of words: `vocabulary` as given, `everyday`, others from data/prompts/words.yaml.

    Raises:
        ConfigError: there is no such list.
    """
    if name == VOCABULARY:
        return tuple(vocabulary)
    return _named(DEFAULTS / "everyday.yaml" if name == EVERYDAY else WORDS, name)


def unseen_words(preset: Preset) -> tuple[str, ...]:
    """Return the words that are judged and never preserved; none if the preset names no list.

    Raises:
        ConfigError: there is no such list.
    """
    unseen = preset.draw.unseen
    return load_words(unseen) if isinstance(unseen, str) and unseen else tuple(unseen)


def load_templates(name: str) -> tuple[str, ...]:
    """Return a named list of prompt templates with {name} and, for its article, {a}.

    Raises:
        ConfigError: there is no such list.
    """
    return _named(TEMPLATES, name)


def preserved_words(preset: Preset, vocabulary: Iterable[str]) -> list[str]:
    """Return the names to preserve, in order and without repeats.

    Never among them: the targets, their synonyms (kept for judging, they must fade with the
    target), the lookalikes and the unseen words (kept for judging, nothing may be done for them).
    However they are spelled: to the text encoder Airplane is airplane. Of several spellings the first stays.
    """
    named = (*preset.targets, *preset.all_synonyms(), *preset.draw.lookalikes, *unseen_words(preset))
    left_out = {as_read(word) for word in named}
    words = [word for name in preset.preserve.lists for word in load_words(name, vocabulary)]
    words += preset.preserve.words
    return [word for word in distinct(words) if as_read(word) not in left_out]


def as_read(word: str) -> str:
    """Return a word as CLIP's tokenizer reads it: composed letters, small, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", word).lower().split())


def distinct(words: Iterable[str]) -> list[str]:
    """Return words without those that the text encoder reads as one before."""
    found: dict[str, str] = {}
    for word in words:
        found.setdefault(as_read(word), word)
    return list(found.values())


def spelled(word: str, words: Iterable[str]) -> str | None:
    """Return the one of `words` that the text encoder reads as `word`, as it is spelled there; None: there is none."""
    return next((other for other in words if as_read(other) == as_read(word)), None)


def _named(path: Path, name: str) -> tuple[str, ...]:
    found = project.find(path) or (DEFAULTS / path.name if path == TEMPLATES else path)  # outside of a project
    lists = load_yaml(found, _Lists).root
    if name not in lists:
        raise ConfigError(f"{path}: no list {name!r}; accepted: {', '.join(sorted(lists))}")
    return lists[name]


def _checked_words(words: tuple[str, ...], where: str = "", may_repeat: bool = True) -> tuple[str, ...]:
    if any(not word.strip() for word in words):
        raise ValueError(f"{where}words that are not blank")
    if not may_repeat and len(distinct(words)) < len(words):
        raise ValueError(f"{where}words without repeats, found {_first_repeated(words)!r} again")
    return words


def _checked_lists(lists: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    for words in lists.values():
        _checked_words(words, may_repeat=False)
    return lists


def _first_repeated(words: tuple[str, ...]) -> str:
    return next(word for index, word in enumerate(words) if spelled(word, words[:index]) is not None)


def _common(words: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return those of `words` that the text encoder reads as one of the others."""
    read = set(map(as_read, others))
    return sorted(word for word in words if as_read(word) in read)


TASKS: Mapping[str, Mapping[str, Any]] = {
    "object": {"prompts": ("a photo of the {name}",), "text": "a photo of the {name}", "by": ("classes",)},
    "celebrity": {"prompts": ("A portrait of {name}",), "text": "A portrait of {name}", "by": ("identity",)},
    "style": {"prompts": ("An artwork by {name}",), "text": "An artwork by {name}", "by": ("clip_score",)},
    "explicit": {"prompts": ("{name}",), "text": "{name}", "by": ("nudenet", "clip_score")},
}
"""The paper's four tasks (section 5 and appendix A.2): what a preset leaves open."""
