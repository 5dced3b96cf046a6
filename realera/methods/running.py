"""Run a method on the artifacts of a concept."""

from functools import partial

import torch

from realera.erasures.artifact import Erasure
from realera.families.stable_diffusion import open_pipeline
from realera.methods.seam import Task, find_method
from realera.settings.config import Params
from realera.settings.presets import load_preset
from realera.store.artifacts import read_safetensors
from realera.store.paths import place
from realera.store.scratch import fingerprint, scratch
from realera.text.prompt_table import PromptTable


def run_method(method: str, concept: str, params: Params, family: str) -> Erasure:
    """Return a method's erasure of a concept; an interrupted run is gone on with from its scratch folder.

    Raises:
        RealEraError: an artifact or a parameter does not fit; see the method.
    """
    preset, files = load_preset(concept), place(concept)

    def latents() -> torch.Tensor:
        return read_safetensors(files.latents, ["latents"])["latents"]

    open_model = partial(open_pipeline, **params.model.model_dump(), scheduler=None)
    task = Task(concept, preset, params, PromptTable.read(files.prompts), family, open_model, latents)
    settings = [method, params.model_dump(mode="json"), preset.model_dump(mode="json")]
    with scratch("erase", fingerprint(settings, [files.prompts])) as folder:
        return find_method(method).erase(task, folder)
