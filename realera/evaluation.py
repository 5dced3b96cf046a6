"""What is drawn to judge an erasure: which words, in which part, how often.

Words that presets share (the classes, the unseen concepts) are drawn by the original model
once for all of them; a preset's own words (its targets, their synonyms, its anchors) once for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from realera.artifacts import read_json
from realera.concepts import Preset, load_words
from realera.config import GenerateParams
from realera.errors import ArtifactError
from realera.prompts import fill

GROUPS = ("erase", "preserve", "synonym", "unseen", "anchor")


@dataclass(frozen=True)
class Subject:
    """One word to draw.

    Attributes:
        group: one of GROUPS.
        word: stands in the prompt.
        parent: what its images are judged as: the target for erase, synonym and anchor (an
            anchor's images tell how often the judge takes them for the target), else the word.
    """

    group: str
    word: str
    parent: str


@dataclass(frozen=True)
class Drawing:
    """One image to draw: its subject, prompt and seed."""

    subject: Subject
    prompt: str
    seed: int


def shared_subjects(preset: Preset) -> list[Subject]:
    """Return the words that every preset with these lists shares."""
    classes = [Subject("preserve", word, word) for word in load_words(preset.classes)]
    return classes + [Subject("unseen", word, word) for word in load_words(preset.unseen)]


def own_subjects(preset: Preset) -> list[Subject]:
    """Return the words that only this preset draws with the original model."""
    anchors = [Subject("anchor", anchor, target) for target, anchor in preset.pairs()]
    return [*_faded(preset), *anchors]


def erased_subjects(preset: Preset) -> list[Subject]:
    """Return the words that the erased model draws."""
    kept = [subject for subject in shared_subjects(preset) if subject.word not in preset.targets]
    return [*_faded(preset), *kept]


def all_shared_subjects(presets: Iterable[Preset]) -> list[Subject]:
    """Return what several presets share, without repeats, sorted: the order of presets is no matter."""
    found = {subject for preset in presets for subject in shared_subjects(preset)}
    return sorted(found, key=lambda subject: (GROUPS.index(subject.group), subject.word))


def read_subjects(path: Path) -> list[Subject]:
    """Read subjects.json, which the stage plan writes.

    Raises:
        ArtifactError: it is missing or corrupt.
    """
    rows = read_json(path)
    keys = {field.name for field in fields(Subject)}
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, dict) or row.keys() != keys or row["group"] not in GROUPS:
            raise ArtifactError(f"{path}: found {row!r}; accepted: group, word and parent; plan makes it anew")
    return [Subject(**row) for row in rows]


def drawings(subjects: Sequence[Subject], params: GenerateParams) -> list[Drawing]:
    """Return every image to draw: each word's seeds count up from `params.seed`."""
    return [
        Drawing(subject, fill(params.template, subject.word)[0], params.seed + index)
        for subject in subjects
        for index in range(getattr(params.images, subject.group))
    ]


def _faded(preset: Preset) -> list[Subject]:
    """Return the words that shall not be drawn any more."""
    targets = [Subject("erase", target, target) for target in preset.targets]
    return targets + [
        Subject("synonym", word, target) for target in preset.targets for word in preset.synonyms.get(target, ())
    ]
