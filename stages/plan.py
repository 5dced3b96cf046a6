"""Stage plan: the words and prompt files that the presets share, so that the original model draws them once for all."""

import typer

from realera.drawing.subjects import all_shared_subjects, to_json
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.artifacts import write_json
from realera.store.paths import SUBJECTS


def main() -> None:
    """Write artifacts/shared/subjects.json; its bytes change only when the words do."""
    with stage_errors():
        presets = [load_preset(concept) for concept in load_params().concepts]
        write_json(to_json(all_shared_subjects(presets)), SUBJECTS)


if __name__ == "__main__":
    typer.run(main)
