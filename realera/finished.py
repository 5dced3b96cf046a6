"""A finished erasure among the project's artifacts: where it lies, and what it is.

Free of torch, so that a name that does not exist is refused at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from realera import project
from realera.artifacts import read_json
from realera.concepts import Preset, load_preset
from realera.config import Params
from realera.errors import ArtifactError
from realera.stage import artifact

KV_FILE = "kv_patch.safetensors"
LORA_FOLDER = "lora"
LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers gives a LoRA in its folder."""


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


def find_erasure(concept: str, params: Params, model: str | None = None) -> Finished:
    """Return the artifacts of a concept.

    Args:
        concept: name of a preset.
        params: the project's parameters.
        model: the model that it is needed for; None is params.model.id.

    Raises:
        ConfigError: there is no such preset.
        ArtifactError: a file is missing (the message has the command that makes it), or the
            erasure was made for another model.
    """
    preset = load_preset(concept)
    kv_patch = _made(concept, KV_FILE)
    lora = _made(concept, f"{LORA_FOLDER}/{LORA_FILE}").parent
    _check_model(kv_patch, model or params.model.id, concept)
    scores = project.find(artifact(concept, "scores.json"))
    return Finished(concept, preset, params, kv_patch, lora, scores and read_json(scores))


def _made(concept: str, name: str) -> Path:
    """Return an artifact's path, as seen from the working folder or from the project."""
    path = artifact(concept, name)
    found = project.find(path)
    if found is None:
        raise ArtifactError(f"{path}: not there yet; made by: dvc repro score@{concept}")
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
