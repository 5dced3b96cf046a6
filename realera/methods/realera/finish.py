"""RealEra's erasure, gathered from what its stages have made. Free of torch."""

from realera.erasures.artifact import gather
from realera.methods.seam import description
from realera.settings.config import Params
from realera.settings.errors import ArtifactError
from realera.settings.presets import Preset
from realera.store.artifacts import read_json
from realera.store.paths import REALERA, Place

SECTIONS = ("encode", "sampler", "solver", "latents", "lora")
"""Its parameters."""


def finish(place: Place, preset: Preset, params: Params, family: str) -> None:
    """Write the erasure that the chain's links amount to: the closed form's weights and the LoRA on top of them.

    Raises:
        ArtifactError: one of their files is missing or corrupt.
    """
    own = place.of(REALERA)
    base = read_json(own.base)
    if not isinstance(base, dict) or not isinstance(base.get("sha256"), str):
        raise ArtifactError(f"{own.base}: found no SHA-256 of the model's weights; solve makes it anew")
    about = description(preset, params, REALERA, family, SECTIONS, base["sha256"])
    gather(about, own.kv_patch, own.lora, own.erasure)
