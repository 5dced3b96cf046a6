"""Stage erase: what a method makes of the model, as one folder. RealEra's own stages have done its work by then."""

import typer

from realera.methods.seam import check_task
from realera.runtime.console import stage_errors
from realera.settings.config import Params, load_params
from realera.settings.presets import load_preset
from realera.store.paths import REALERA, method_place, place


def main(method: str, concept: str) -> None:
    """Write the folder erasure/ of a method and a concept."""
    with stage_errors():
        params = load_params()
        family = check_task(method, params.model)
        if method == REALERA:
            from realera.methods.realera.finish import finish

            finish(place(concept), load_preset(concept), params, family)
        else:
            erase(method, concept, params, family)


def erase(method: str, concept: str, params: Params, family: str) -> None:
    """Run a method whose work is this one stage."""
    from realera.methods.running import run_method  # torch and diffusers, and the seconds to import them

    erasure = run_method(method, concept, params, family)
    erasure.save(method_place(concept, method).erasure)


if __name__ == "__main__":
    typer.run(main)
