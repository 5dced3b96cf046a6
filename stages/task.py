"""Stage task: what a method is asked, checked before anything is drawn or trained for it."""

import typer

from realera.methods.seam import check_task, own_parameters
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.artifacts import write_json
from realera.store.paths import method_place
from realera.text.checks import check_preset


def main(method: str, concept: str) -> None:
    """Write parts/task.json of a method's erasure."""
    with stage_errors():
        params, preset = load_params(), load_preset(concept)
        check_preset(concept, preset, params)
        family = check_task(method, params.model)
        own = own_parameters(method, params)
        asked = {"method": method, "family": family, "pairs": preset.pairs(), "parameters": own}
        write_json(asked, method_place(concept, method).task)


if __name__ == "__main__":
    typer.run(main)
