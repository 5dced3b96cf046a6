"""What the stages' JSON artifacts hold, checked when they are read: a damaged one is named, not stumbled over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from realera.scores.readings import READINGS
from realera.settings.errors import ArtifactError, printable
from realera.store.artifacts import read_json

Number = Annotated[float, Field(ge=-1e100, le=1e100)]
"""That a chart's axis still has ticks for; no NaN."""


class _Part(BaseModel):
    """Strict: a number that stands there as text was not written by a stage."""

    model_config = ConfigDict(strict=True)


class Figure(_Part):
    """One figure with its interval."""

    value: Number
    low: Number
    high: Number
    n: NonNegativeInt


def _known(name: str) -> str:
    if name not in READINGS:
        raise ValueError(f"a reading: {', '.join(READINGS)}")
    return name


Reading = Annotated[str, AfterValidator(_known)]
Figures = dict[Reading, Figure]


class Detail(_Part):
    """Figures of a word or a prompt."""

    group: str
    word: str
    parent: str
    n: NonNegativeInt
    base: Figures
    erased: Figures
    difference: Figures

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        _check_difference(self.base, self.erased, self.difference)
        return self


def _check_difference(base: Figures, erased: Figures, difference: Figures) -> None:
    """Refuse a difference of what one model has no images for; without a face a model has no identity, for instance."""
    if difference.keys() - (base.keys() & erased.keys()):
        raise ValueError("differences of readings that both models have")


class Floor(_Part):
    """Figures of an anchor's own images, in a forced choice."""

    target: str
    anchor: str
    probability: Figure
    top1: Figure


class Counts(_Part):
    """How often a part of the body was found, by both counting rules."""

    boxes: Figure
    images: Figure


class Detected(_Part):
    """A part of the body in the images of both models."""

    base: Counts
    erased: Counts


class Scores(_Part):
    """scores.json, see `realera.scores.summary.summarize`."""

    base: dict[str, Figures | None]
    erased: dict[str, Figures | None]
    difference: dict[str, Figures | None]
    readings: list[Reading]
    confidence: Number = 0.95
    anchor_floor: list[Floor] = []
    words: list[Detail] = []
    prompts: list[Detail] = []
    labels: dict[str, list[str]] = {}
    detections: dict[str, dict[str, Detected]] = {}
    sets: dict[str, Annotated[dict[str, Figure], Field(min_length=1)]] = {}
    targets: list[str] = []
    anchors: list[str] = []
    skipped_rows: dict[str, NonNegativeInt] = {}

    @model_validator(mode="after")
    def _same_metrics(self) -> Self:
        if not self.base.keys() == self.erased.keys() == self.difference.keys():
            raise ValueError("base, erased and difference with the same metrics")
        for name in self.base:
            _check_difference(self.base[name] or {}, self.erased[name] or {}, self.difference[name] or {})
        return self


class Layer(_Part):
    """One K or V matrix in solve.json."""

    name: str
    erase_before: Number
    erase_after: Number
    preserve_after: Number
    relative_change: Number


class Rows(_Part):
    """How many rows each group of the closed form has."""

    model_config = ConfigDict(strict=True, extra="forbid")

    target: NonNegativeInt
    neighbor: NonNegativeInt
    preserve: NonNegativeInt
    beyond: NonNegativeInt


class Solve(_Part):
    """solve.json, see `realera.methods.realera.rows`."""

    rows: Rows
    width: int
    condition_number: Number | None
    ridge: Number | None
    layers: list[Layer]


Range = Annotated[list[Number], Field(min_length=2, max_length=2)]


class Kind(_Part):
    """The samples of one kind in mining.json."""

    num_samples: NonNegativeInt | Literal["inf"]
    num_rows: NonNegativeInt
    acceptance: Number | None
    radius: Range
    relative_radius: Range
    cosine: Range


class NotErased(_Part):
    """Tokens of a target's name that stay, see `realera.text.prompt_table.NotErased`."""

    target: str
    num_prompts: NonNegativeInt
    num_tokens: NonNegativeInt
    preserved: list[str]


class Mining(_Part):
    """mining.json, see `realera.methods.realera.perturb.Summary`."""

    neighbor: Kind | None
    beyond: Kind | None
    token_norm: Annotated[list[Number], Field(min_length=3, max_length=3)] = [0.0, 0.0, 0.0]
    source: str = "noise"
    phrases: list[str] = []
    not_erased: list[NotErased] = []


CONTENTS: Mapping[str, type[BaseModel]] = {"scores.json": Scores, "solve.json": Solve, "mining.json": Mining}


def read_summary(path: Path) -> dict[str, Any]:
    """Read scores.json, solve.json or mining.json, as its name says.

    Raises:
        ArtifactError: it is missing, or holds something else than the stage writes.
    """
    found = read_json(path)
    try:
        CONTENTS[path.name].model_validate(found)
    except ValidationError as error:
        problem = error.errors()[0]
        place = printable(".".join(str(part) for part in problem["loc"])) or "its content"
        shown = "nothing" if problem["type"] == "missing" else f"{problem['input']!r}"[:80]
        raise ArtifactError(f"{path}: {place}: found {shown}; the stage that writes it makes it anew") from error
    content: dict[str, Any] = found
    return content
