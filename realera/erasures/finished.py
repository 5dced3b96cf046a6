"""A finished erasure among the project's artifacts: where it lies, and what it is.

Free of torch, so that a name that does not exist is refused at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from safetensors import SafetensorError, safe_open

from realera.scores.summaries import read_summary
from realera.settings import project
from realera.settings.config import Params, load_yaml
from realera.settings.errors import ArtifactError
from realera.settings.presets import Preset, load_preset
from realera.store.paths import artifact

KV_FILE = "kv_patch.safetensors"
LORA_FOLDER = "lora"
LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers gives a LoRA in its folder."""

_STAGES = ("encode", "mine", "solve", "latents", "train", "generate", "score")


@dataclass(frozen=True)
class Finished:
    """A finished erasure among the project's artifacts.

    Attributes:
        concept: name of the preset.
        preset: targets, anchors, and how it was judged.
        params: the project's parameters.
        kv_patch: the closed form's weights.
        lora: folder of the LoRA on top of them.
        scores: content of scores.json; None if it was not scored.
    """

    concept: str
    preset: Preset
    params: Params
    kv_patch: Path
    lora: Path
    scores: Any = None


def find_erasure(concept: str, params: Params) -> Finished:
    """Return the artifacts of a concept.

    Args:
        concept: name of a preset.
        params: the project's parameters; model.id is the model that the erasure is needed for.

    Raises:
        ConfigError: there is no such preset.
        ArtifactError: a file is missing (the message has the command that makes it), or the
            erasure was made for another model.
    """
    preset = load_preset(concept)
    kv_patch = _made(concept, KV_FILE, params)
    lora = _made(concept, f"{LORA_FOLDER}/{LORA_FILE}", params).parent
    _check_model(kv_patch, params.model.id, concept)
    scores = project.find(artifact(concept, "scores.json"))
    return Finished(concept, preset, params, kv_patch, lora, scores and read_summary(scores))


def check_parameters(erasure: Finished) -> None:
    """Refuse an erasure that was made with other parameters than the given ones.

    DVC notes in dvc.lock what each stage was run with. Without that file there is nothing to compare.

    Raises:
        ArtifactError: a parameter has changed since.
    """
    lock = erasure.kv_patch.parents[2] / "dvc.lock"
    if not lock.is_file():
        return
    now = {"params.yaml": erasure.params, f"data/concepts/{erasure.concept}.yaml": erasure.preset}
    locked = load_yaml(lock, _Lock).stages
    for stage in _STAGES:
        used = locked.get(f"{stage}@{erasure.concept}", _LockedStage()).params
        for file in used.keys() & now.keys():
            _compare(used[file], now[file].model_dump(mode="json"), file, erasure.concept)


class _LockedStage(BaseModel):
    """A stage in dvc.lock: file -> key -> value."""

    params: dict[str, dict[str, Any]] = {}


class _Lock(BaseModel):
    """What is needed of dvc.lock."""

    stages: dict[str, _LockedStage] = {}


def _compare(used: dict[str, Any], now: dict[str, Any], file: str, concept: str) -> None:
    for key, value in _flat(used):
        present = _at(now, key)
        if not _is_same(value, present):
            remedy = f"dvc repro score@{concept} makes it with that, or set it back"
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


def _made(concept: str, name: str, params: Params) -> Path:
    """Return an artifact's path, as seen from the working folder or from the project."""
    path = artifact(concept, name)
    found = project.find(path)
    if found is None:
        listed = "" if concept in params.concepts else f", with {concept} among the concepts of params.yaml"
        raise ArtifactError(f"{path}: not there yet; made by: dvc repro score@{concept}{listed}")
    return found


def _check_model(kv_patch: Path, wanted: str, concept: str) -> None:
    made_for = _metadata(kv_patch).get("base_model", wanted)
    if made_for != wanted:
        problem = f"made for the model {made_for!r}, found model.id {wanted!r}"
        raise ArtifactError(f"{kv_patch}: {problem}; make it anew: dvc repro score@{concept}")


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not a readable safetensors file: {error}") from error
