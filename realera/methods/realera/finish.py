"""RealEra's erasure, gathered from what its stages have made. Free of torch."""

from pathlib import Path
from typing import Any

from realera.erasures.artifact import gather
from realera.methods.seam import description
from realera.settings.config import Params
from realera.settings.errors import ArtifactError
from realera.settings.presets import Preset
from realera.store.artifacts import read_json
from realera.store.paths import REALERA, Place


def finish(place: Place, preset: Preset, params: Params, family: str) -> None:
    """Write the erasure that the chain's links amount to: the closed form's weights and the LoRA on top of them.

    Each link has noted its parameters: where one is changed without a change of what the link makes, the links after it
    do not run again, and the present parameters would not be those that made their files.

    Raises:
        ArtifactError: one of their files is missing or corrupt.
    """
    own = place.of(REALERA)
    solved, trained = _note(own.solved, "solver", "solve"), _note(own.trained, "lora", "train")
    parameters = {"encode": params.encode.model_dump(mode="json"), "solver": solved["solver"], **trained}
    about = description(preset.pairs(), params, REALERA, family, parameters, str(solved.get("sha256")))
    gather(about, own.kv_patch, own.lora, own.erasure)


def _note(path: Path, key: str, stage: str) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get(key), dict):
        raise ArtifactError(f"{path}: found no parameters of {stage}, which makes it anew")
    return found
