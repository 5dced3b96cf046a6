"""What the stages' JSON artifacts hold, checked when they are read: a damaged one is named, not stumbled over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from realera.artifacts import read_json
from realera.errors import ArtifactError
from realera.metrics.readings import READINGS


class _Part(BaseModel):
    """Strict: a number that stands there as text was not written by a stage."""

    model_config = ConfigDict(strict=True)


class Figure(_Part):
    """One figure with its interval."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
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
    base: Figures
    erased: Figures
    difference: Figures

    @model_validator(mode="after")
    def _same_readings(self) -> Self:
        if not self.base.keys() == self.erased.keys() == self.difference.keys():
            raise ValueError("base, erased and difference with the same readings")
        return self


class Floor(_Part):
    """Figures of an anchor's own images, in a forced choice."""

    target: str
    anchor: str
    probability: Figure
    top1: Figure


class Scores(_Part):
    """scores.json, see `realera.metrics.erasure.summarize`."""

    base: dict[str, Figures | None]
    erased: dict[str, Figures | None]
    difference: dict[str, Figures | None]
    readings: list[Reading]
    confidence: FiniteFloat = 0.95
    anchor_floor: list[Floor] = []
    words: list[Detail] = []
    prompts: list[Detail] = []
    labels: dict[str, list[str]] = {}
    detections: dict[str, dict[str, dict[str, dict[str, Figure]]]] = {}
    sets: dict[str, dict[str, Figure]] = {}
    targets: list[str] = []
    anchors: list[str] = []

    @model_validator(mode="after")
    def _same_metrics(self) -> Self:
        parts = [{name: set(each or ()) for name, each in part.items()} for part in self._parts()]
        if not parts[0] == parts[1] == parts[2]:
            raise ValueError("base, erased and difference with the same metrics and readings")
        return self

    def _parts(self) -> tuple[dict[str, Figures | None], ...]:
        return self.base, self.erased, self.difference


class Layer(_Part):
    """One K or V matrix in solve.json."""

    name: str
    erase_before: FiniteFloat
    erase_after: FiniteFloat
    preserve_after: FiniteFloat
    relative_change: FiniteFloat


class Solve(_Part):
    """solve.json, see `realera.erasure`."""

    rows: dict[str, NonNegativeInt]
    width: int
    condition_number: FiniteFloat | None
    ridge: FiniteFloat | None
    layers: list[Layer]


Range = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]


class Kind(_Part):
    """The samples of one kind in mining.json."""

    num_samples: NonNegativeInt
    num_rows: NonNegativeInt
    acceptance: FiniteFloat | None
    radius: Range
    relative_radius: Range
    cosine: Range


class Mining(_Part):
    """mining.json, see `realera.neighborhood.Summary`."""

    neighbor: Kind | None
    beyond: Kind | None
    token_norm: Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)] = [0.0, 0.0, 0.0]
    source: str = "noise"
    phrases: list[str] = []


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
        place = ".".join(str(part) for part in problem["loc"]) or "its content"
        shown = "nothing" if problem["type"] == "missing" else f"{problem['input']!r}"[:80]
        raise ArtifactError(f"{path}: {place}: found {shown}; the stage that writes it makes it anew") from error
    content: dict[str, Any] = found
    return content
