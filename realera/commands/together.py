"""What `realera solve` does: one erasure of many concepts, which are added and withdrawn by their sums."""

import time
from collections.abc import Sequence
from pathlib import Path

from realera.families.text_weights import read_text_weights
from realera.methods.realera.sums import TargetSums, file_name, read_target
from realera.methods.realera.together import MEMBERS, Together
from realera.methods.seam import check_task
from realera.settings.config import Params
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import load_preset
from realera.store.paths import REALERA, place
from realera.text.prompt_table import PromptTable


def solve_together(folder: Path, add: Sequence[str], withdraw: Sequence[str], params: Params) -> str:
    """Add presets to a folder and withdraw targets from it, solve, and write it; return what was done.

    Args:
        folder: of an earlier call, or a new or empty one.
        add: presets that `mine` has been run for.
        withdraw: targets, or presets with all their targets.
        params: of the project.

    Raises:
        RealEraError: see `realera.methods.realera.together.Together`; nothing is changed then.
    """
    start = time.monotonic()
    family = check_task(REALERA, params.model)
    together = _members(folder, add, params)
    for name in withdraw:
        together.withdraw(name, _sums_of)
    for name in add:
        if not (files := place(name)).of(REALERA).sums.is_dir() or not files.prompts.is_file():
            listed = "" if name in params.concepts else f", with {name} among the concepts of params.yaml"
            raise ArtifactError(f"{files.of(REALERA).sums}: not there yet; made by: dvc repro mine@{name}{listed}")
        together.add(name, load_preset(name), place(name), params)
    together.save(together.solve(read_text_weights(params.model.model_dump()), params, family), folder)
    names = ", ".join(sorted(together.targets))
    shown = names if len(names) <= 200 else f"{names[:200]}..."
    return (
        f"{folder}: {len(together.targets)} erased ({shown}), {len(together.kept())} texts kept, "
        f"{time.monotonic() - start:.1f} s"
    )


def _members(folder: Path, add: Sequence[str], params: Params) -> Together:
    if (folder / MEMBERS).is_file():
        return Together.read(folder)
    if not add:
        raise ConfigError(f"{folder}: found no {MEMBERS}; accepted: a folder of an earlier call, or --add")
    return Together.nothing(PromptTable.read(place(add[0]).prompts).width, params)


def _sums_of(preset: str, target: str) -> TargetSums:
    return read_target(place(preset).of(REALERA).sums / file_name(target))
