"""What is drawn to judge an erasure: which words and prompts, in which part, how often.

Words that presets share (the classes, the unseen concepts, the rows of prompt files) are drawn by the
original model once for all of them; a preset's own words (its targets, their synonyms and associated
prompts, its look-alikes, its anchors) once for it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from realera.settings.config import MAX_SEED, GenerateParams, ImageSeed
from realera.settings.errors import ArtifactError
from realera.settings.presets import Preset, load_words, prompt_file, spelled, unseen_words
from realera.settings.yaml_file import explain
from realera.store.artifacts import read_json
from realera.store.images import FILE_GROUPS
from realera.text.prompt_files import MAX_SIZE, SIZE_STEP, PromptRow, read_prompt_file
from realera.text.prompts import fill

GROUPS = ("erase", "preserve", "synonym", "associated", "lookalike", "unseen", "anchor", "rows", "listed")
SHARED_GROUPS = ("preserve", "unseen", "rows", "listed")
"""Drawn by the original model once for all presets."""

Pixels = Annotated[int, Field(ge=SIZE_STEP, le=MAX_SIZE, multiple_of=SIZE_STEP)]


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class Subject:
    """What is drawn as one.

    Attributes:
        group: one of GROUPS.
        word: the name that stands in the prompts; of an associated prompt the prompt, of a row
            "<file>/<case>".
        parent: what its images are judged as: the target for erase, synonym, associated and anchor
            (an anchor's images tell how often the judge takes them for the target), for rows
            their file, or "<file>/<part>" of pairs, for listed what the file says, else the word.
        prompts: whole texts, drawn in turn.
        number: of a row, its position in the file; its seed, where the file names none, is `generate.seed` + number.
        seed: of a row's only image; None: seeds count up from `generate.seed`.
        guidance_scale: of a row; None: `generate.guidance_scale`.
        width: of a row, in pixels; None: the model's.
        height: likewise.
    """

    group: str
    word: str
    parent: str
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    number: Annotated[int, Field(ge=0)] | None = None
    seed: ImageSeed | None = None
    guidance_scale: Annotated[float, Field(gt=0)] | None = None
    width: Pixels | None = None
    height: Pixels | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Group, word and parent: what joins a subject with its images."""
        return self.group, self.word, self.parent


@dataclass(frozen=True)
class Settings:
    """How one image is drawn, beside what all images share; images of a batch share these, too."""

    guidance_scale: float
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Drawing:
    """One image to draw: its subject, prompt, seed and settings."""

    subject: Subject
    prompt: str
    seed: int
    settings: Settings


def shared_subjects(preset: Preset) -> list[Subject]:
    """Return what every preset with these lists and prompts shares."""
    prompts = preset.draw.prompts
    found = [_word("preserve", word, prompts) for word in load_words(preset.classes)]
    found += [_word("unseen", word, prompts) for word in unseen_words(preset)]
    files = {name: read_prompt_file(prompt_file(name)) for name in preset.draw.prompt_files}
    return found + [_row(name, row, prompts) for name, rows in files.items() for row in rows]


def own_subjects(preset: Preset) -> list[Subject]:
    """Return what only this preset draws with the original model."""
    prompts = preset.draw.prompts
    anchors = [_word("anchor", anchor, prompts, target) for target, anchor in preset.pairs()]
    return [*_faded(preset), *_lookalikes(preset), *anchors]


def erased_subjects(preset: Preset) -> list[Subject]:
    """Return what the erased model draws."""
    kept = [subject for subject in shared_subjects(preset) if spelled(subject.word, preset.targets) is None]
    return [*_faded(preset), *_lookalikes(preset), *kept]


def all_shared_subjects(presets: Iterable[Preset]) -> list[Subject]:
    """Return what several presets share, without repeats, sorted: the order of presets is no matter."""
    found = {subject for preset in presets for subject in shared_subjects(preset)}
    return sorted(found, key=_place)


def _place(subject: Subject) -> tuple[int, str, int, str, tuple[str, ...]]:
    """Return what subjects are sorted by; rows as they stand in their file."""
    file = subject.word.partition("/")[0] if subject.number is not None else ""
    return GROUPS.index(subject.group), file, subject.number or 0, subject.word, subject.prompts


def to_json(subjects: Iterable[Subject]) -> list[dict[str, Any]]:
    """Return subjects.json, which the stage plan writes; what is not set is left out."""
    rows = [asdict(subject) for subject in subjects]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def read_subjects(path: Path) -> list[Subject]:
    """Read subjects.json.

    Raises:
        ArtifactError: it is missing or corrupt.
    """
    try:  # as strict JSON: lists may become tuples, but text never becomes a number
        subjects = TypeAdapter(list[Subject]).validate_json(json.dumps(read_json(path)), strict=True)
    except ValidationError as error:
        raise ArtifactError(f"{path}: {explain(error, list[Subject])[0]}; plan makes it anew") from error
    for subject in subjects:
        if subject.group not in GROUPS or (subject.number is None) == (subject.group in FILE_GROUPS):
            raise ArtifactError(
                f"{path}: found {subject.key}; accepted: groups {', '.join(GROUPS)}, rows with a number"
            )
    return subjects


def drawings(subjects: Sequence[Subject], params: GenerateParams) -> list[Drawing]:
    """Return every image to draw.

    Each word's seeds count up from `params.seed`, and its prompts take turns. A row has one image, with its own
    seed, or where its file names none with `params.seed` + its number; of each prompt file the first
    `params.images.rows` are drawn (0: all).
    """
    found: list[Drawing] = []
    for subject in subjects:
        if subject.number is None:
            found += _words_drawings(subject, params)
        elif params.images.rows == 0 or subject.number < params.images.rows:
            seed = (params.seed + subject.number) % (MAX_SEED + 1) if subject.seed is None else subject.seed
            found.append(Drawing(subject, subject.prompts[0], seed, _settings(subject, params)))
    return found


def _words_drawings(subject: Subject, params: GenerateParams) -> list[Drawing]:
    prompts, settings = subject.prompts, Settings(params.guidance_scale)
    number = getattr(params.images, subject.group)
    return [Drawing(subject, prompts[index % len(prompts)], params.seed + index, settings) for index in range(number)]


def _settings(subject: Subject, params: GenerateParams) -> Settings:
    """Return a row's own settings or the section's, as `generate.row_settings` says."""
    if params.row_settings == "override":
        return Settings(params.guidance_scale)
    guidance = params.guidance_scale if subject.guidance_scale is None else subject.guidance_scale
    return Settings(guidance, subject.width, subject.height)


def _faded(preset: Preset) -> list[Subject]:
    """Return what shall not be drawn any more."""
    prompts = preset.draw.prompts
    targets = [_word("erase", target, prompts) for target in preset.targets]
    synonyms = [
        _word("synonym", word, prompts, target) for target in preset.targets for word in preset.synonyms.get(target, ())
    ]
    associated = [
        Subject("associated", prompt, target, (prompt,))
        for target in preset.targets
        for prompt in preset.draw.associated.get(target, ())
    ]
    return [*targets, *synonyms, *associated]


def _lookalikes(preset: Preset) -> list[Subject]:
    return [_word("lookalike", word, preset.draw.prompts) for word in preset.draw.lookalikes]


def _word(group: str, word: str, prompts: Sequence[str], parent: str | None = None) -> Subject:
    return Subject(group, word, word if parent is None else parent, tuple(fill(text, word)[0] for text in prompts))


def _row(name: str, row: PromptRow, prompts: Sequence[str]) -> Subject:
    """Return a row of a prompt file; a name alone is put into the first of the preset's prompts."""
    return Subject(
        group="listed" if row.concept else "rows",
        word=f"{name}/{row.case}-{row.part}" if row.part else f"{name}/{row.case}",
        parent=row.concept or (f"{name}/{row.part}" if row.part else name),
        prompts=(fill(prompts[0], row.concept)[0] if row.prompt is None else row.prompt,),
        number=row.number,
        seed=row.seed,
        guidance_scale=row.guidance_scale,
        width=row.width,
        height=row.height,
    )
