"""The judges' raw rows of one erasure, joined to pairs and read as numbers."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from realera.judges.forced_choice import CHOICES
from realera.scores.estimates import MODELS
from realera.scores.readings import OF_JUDGE, READINGS
from realera.settings.config import ScoreParams
from realera.settings.errors import ArtifactError
from realera.settings.presets import Preset, spelled
from realera.store.images import pair_key

ByModel = dict[str, dict[str, dict[str, Any]]]
"""Model -> question -> row, for the images of one prompt and seed."""

_CHOICES = {name for names in CHOICES.values() for name in names}


_OWN_NAMES = ("style", "identity")
"""Questions whose labels are the judge's own classes; those of a forced choice are the preset's words."""


@dataclass(frozen=True)
class Metric:
    """Which images a metric reads, and for which word.

    Attributes:
        groups: of the images.
        choice: the forced choice that they are judged in.
        asks_for_anchor: read for the anchor, not for the image's own word.
        is_loss: 100 - the reading, of images that the base model drew recognisably.
    """

    groups: tuple[str, ...]
    choice: str
    asks_for_anchor: bool = False
    is_loss: bool = False


class Answers:
    """The raw rows, gathered by image.

    Attributes:
        params: how rows are read.
        preset: whose images they are.
        readings: names of the readings that the preset's judges give, in the order of tables.
        labels: words of each forced choice.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], params: ScoreParams, preset: Preset):
        self.params, self.preset = params, preset
        asked = {name for judge in preset.judged.by for name in OF_JUDGE[judge]}
        self.readings = tuple(name for name in READINGS if name in asked)
        rows = list(rows)
        self.labels = {row["metric"]: row["labels"] for row in rows if row["metric"] in _CHOICES}
        self._groups: dict[str, dict[tuple, ByModel]] = defaultdict(dict)
        for row in rows:
            self._add(row)

    def _add(self, row: dict[str, Any]) -> None:
        key = pair_key(row)
        answers = self._groups[row["group"]].setdefault(key, {}).setdefault(row["model"], {})
        if row["metric"] in answers:
            raise ArtifactError(f"scores: {_describe(row)}: found twice for the {row['model']} model")
        answers[row["metric"]] = row

    def of(self, groups: Iterable[str]) -> Iterator[ByModel]:
        """Yield the images of groups, in an order that the rows' order does not change."""
        for group in groups:
            for _, answers in sorted(self._groups.get(group, {}).items()):
                yield answers

    def pairs(self, groups: Iterable[str], question: str) -> Iterator[dict[str, dict[str, Any]]]:
        """Yield {model: row} of the images that were asked a question.

        Raises:
            ArtifactError: one of a pair is missing.
        """
        for answers in self.of(groups):
            rows = {model: answers[model][question] for model in MODELS if question in answers.get(model, {})}
            for model in MODELS if rows else ():
                if model not in rows:
                    row = next(iter(rows.values()))
                    raise ArtifactError(
                        f"scores: {_describe(row)}: no image of the {model} model with this prompt and seed"
                    )
            if rows:
                yield rows

    def strata(self, metric: Metric, readings: Sequence[str], by: Sequence[str]) -> dict[tuple, np.ndarray]:
        """Return values [image, model, reading] of the images in each stratum.

        Raises:
            ArtifactError: not every image was asked the question of every reading.
        """
        questions = [READINGS[name].question or metric.choice for name in readings]
        label = self._label(metric)
        columns = [
            self._column(metric, name, question, label, by) for name, question in zip(readings, questions, strict=True)
        ]
        keys = columns[0].keys() if columns else ()
        for column, question in zip(columns, questions, strict=True):
            _check_sizes(columns[0], questions[0], column, question)
        return {key: np.stack([column[key] for column in columns], axis=-1) for key in keys}

    def values_of(self, metric: Metric, readings: Sequence[str]) -> dict[tuple, np.ndarray]:
        """Return `strata` by word; of a loss 1 - the values, where the base image is recognised.

        The last reading of a loss tells what is recognised.
        """
        strata = self.strata(metric, readings, ("word", "parent"))
        if not metric.is_loss:
            return strata
        kept = {key: 1 - values[values[:, 0, -1] == 1] for key, values in strata.items()}
        return {key: values for key, values in kept.items() if len(values)}

    def _column(
        self, metric: Metric, name: str, question: str, label: Callable[[str], str], by: Sequence[str]
    ) -> dict[tuple, np.ndarray]:
        """Return one reading's values [image, model] in each stratum."""
        found = defaultdict(list)
        for rows in self.pairs(metric.groups, question):
            row = rows["base"]
            asked = label(row["parent"])
            if question in _OWN_NAMES:
                asked = self.preset.called(asked)
            values = [READINGS[name].read(rows[m], asked, self.params) for m in MODELS]
            found[tuple(row[key] for key in by)].append(values)
        return {key: np.array(values) for key, values in found.items()}

    def _label(self, metric: Metric) -> Callable[[str], str]:
        """Return what gives, for an image's parent, the label that the metric asks about."""
        if metric.asks_for_anchor:
            return dict(self.preset.pairs()).__getitem__
        if metric.groups != ("listed",):
            return str
        known = self.labels.get("classes", ())  # a prompt file may spell a name otherwise
        return lambda parent: spelled(parent, known) or parent

    def of_base(self, groups: Iterable[str], question: str) -> Iterator[dict[str, Any]]:
        """Yield the base model's rows of a question."""
        for answers in self.of(groups):
            if question in answers.get("base", {}):
                yield answers["base"][question]


def _check_sizes(
    first: Mapping[tuple, np.ndarray], asked: str, other: Mapping[tuple, np.ndarray], question: str
) -> None:
    for key in first.keys() | other.keys():
        numbers = [len(column.get(key, ())) for column in (first, other)]
        if numbers[0] != numbers[1]:
            found = f"{numbers[0]} images with {asked}, {numbers[1]} with {question}"
            raise ArtifactError(f"scores: {key[0]!r}: found {found}; accepted: as many")


def _describe(row: Mapping[str, Any]) -> str:
    return f"{row['group']} {row['word']!r}, prompt {row['prompt']!r}, seed {row['seed']}"
