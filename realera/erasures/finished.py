"""A finished erasure among the project's artifacts: where it lies, and whether it fits the present parameters.

Free of torch, so that a name that does not exist is refused at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from realera.erasures.artifact import ADAPTER_FOLDER, LORA_FILE, Description, describe
from realera.settings import project
from realera.settings.config import Params, load_yaml
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import Preset, load_preset
from realera.store.paths import method_place

_STAGES = ("encode", "task", "mine", "solve", "latents", "train", "erase", "generate", "score")


@dataclass(frozen=True)
class Finished:
    """A finished erasure among the project's artifacts.

    Attributes:
        concept: name of the preset.
        method: by which it was made.
        preset: targets, anchors, and how it was judged.
        params: the project's parameters.
        folder: the erasure's.
        about: its erasure.json.
    """

    concept: str
    method: str
    preset: Preset
    params: Params
    folder: Path
    about: Description

    @property
    def has_lora(self) -> bool:
        """Whether a LoRA belongs to it."""
        return f"{ADAPTER_FOLDER}/{LORA_FILE}" in self.about.parts

    @property
    def stage(self) -> str:
        """The stage of the graph that makes and judges it."""
        return f"score@{self.method}-{self.concept}"


def find_erasure(concept: str, params: Params, method: str | None = None) -> Finished:
    """Return a method's erasure of a concept.

    Args:
        concept: name of a preset.
        params: the project's parameters; model.id is the model that the erasure is needed for.
        method: None: the first of `methods`.

    Raises:
        ConfigError: there is no such preset or method.
        ArtifactError: a file is missing (the message has the command that makes it), or the
            erasure was made for another model.
    """
    method = chosen_method(params, method)
    preset = load_preset(concept)
    place = method_place(concept, method)
    folder = project.find(place.erasure)
    if folder is None:
        listed = "" if concept in params.concepts else f", with {concept} among the concepts of params.yaml"
        command = f"dvc repro score@{method}-{concept}{listed}"
        raise ArtifactError(f"{place.erasure}: not there yet; made by: {command}")
    found = Finished(concept, method, preset, params, folder, describe(folder))
    if found.about.base.id != params.model.id:
        problem = f"made for the model {found.about.base.id!r}, found model.id {params.model.id!r}"
        raise ArtifactError(f"{folder}: {problem}; make it anew: dvc repro {found.stage}")
    return found


def chosen_method(params: Params, method: str | None) -> str:
    """Return the named method, or the first of `methods`.

    Raises:
        ConfigError: the parameters do not have it.
    """
    if method is not None and method not in params.methods:
        raise ConfigError(
            f"method: found {method!r}; accepted: {', '.join(params.methods)}, the methods of params.yaml"
        )
    return method or params.methods[0]


def check_parameters(erasure: Finished) -> None:
    """Refuse an erasure that was made with other parameters than the given ones.

    DVC notes in dvc.lock what each stage was run with. Without that file there is nothing to compare.

    Raises:
        ArtifactError: a parameter has changed since.
    """
    lock = erasure.folder.parents[3] / "dvc.lock"
    if not lock.is_file():
        return
    now = {"params.yaml": erasure.params, f"data/concepts/{erasure.concept}.yaml": erasure.preset}
    locked = load_yaml(lock, _Lock).stages
    for stage in (f"{name}@{of}" for name in _STAGES for of in _instances(erasure)):
        used = locked.get(stage, _LockedStage()).params
        for file in used.keys() & now.keys():
            _compare(used[file], now[file].model_dump(mode="json"), file, erasure)


def _instances(erasure: Finished) -> tuple[str, str]:
    """Return how a stage of the concept, and one of the method, are told apart from others of their name."""
    return erasure.concept, f"{erasure.method}-{erasure.concept}"


class _LockedStage(BaseModel):
    """A stage in dvc.lock: file -> key -> value."""

    params: dict[str, dict[str, Any]] = {}


class _Lock(BaseModel):
    """What is needed of dvc.lock."""

    stages: dict[str, _LockedStage] = {}


def _compare(used: dict[str, Any], now: dict[str, Any], file: str, erasure: Finished) -> None:
    for key, value in _flat(used):
        present = _at(now, key)
        if not _is_same(value, present):
            remedy = f"dvc repro {erasure.stage} makes it with that, or set it back"
            raise ArtifactError(f"{file}: {key}: found {present!r}, the erasure was made with {value!r}; {remedy}")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _is_same(one: Any, other: Any) -> bool:
    """Compare two values; DVC may have written 1e-05, which YAML reads as text."""
    try:
        return one == other or float(one) == float(other)
    except (TypeError, ValueError):
        return False
