"""Solve: from prompts and sums to the closed form's weights."""

from collections.abc import Callable

import torch

from realera.erasures.artifact import weights_sha256
from realera.methods.common.closed_form import check_width
from realera.methods.realera.rows import solve_sums
from realera.methods.realera.sums import read_sums
from realera.settings.config import Params
from realera.store.artifacts import write_json, write_safetensors
from realera.store.paths import REALERA, Place
from realera.text.prompt_table import PromptTable


def solve(place: Place, params: Params, concept: str, original_weights: Callable[[], dict[str, torch.Tensor]]) -> None:
    """Write the closed form's K and V weights (equation 7), what the solve did, and of which weights it is.

    Args:
        place: of prompts and sums.
        params: sections sampler and solver, and the model's id.
        concept: noted in the file.
        original_weights: reads the unedited model's K and V weights, float32, by name.

    Raises:
        ConfigError: the embeddings are not of this model's width, or the ridge is too small.
        ArtifactError: prompts or sums are missing or corrupt, or not of one another.
    """
    own, table = place.of(REALERA), PromptTable.read(place.prompts)
    original = original_weights()
    check_width(original, table)
    sums = read_sums(own.sums, table, params.sampler)
    solved = solve_sums(original, table, sums, params.sampler.span, params.solver)
    write_safetensors(solved.weights, own.kv_patch, {"base_model": params.model.id, "concept": concept})
    write_json({"sha256": weights_sha256(original), "solver": params.solver.model_dump(mode="json")}, own.solved)
    write_json(solved.report, own.solve)
