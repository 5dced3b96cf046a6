"""Stage plan: the words and prompt files that the presets share, so that the original model draws them once for all."""

import typer

from realera.drawing.subjects import all_shared_subjects, to_json
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.settings.presets import load_preset, prompt_file
from realera.store.artifacts import write_json
from realera.store.paths import SUBJECTS
from realera.text.checks import check_preset
from realera.text.prompt_imports import warn_blank


def main() -> None:
    """Write artifacts/shared/subjects.json; its bytes change only when the words do."""
    with stage_errors():
        params = load_params()
        presets = [load_preset(concept) for concept in params.concepts]
        for concept, preset in zip(params.concepts, presets, strict=True):
            check_preset(concept, preset, params)
        for file in dict.fromkeys(name for preset in presets for name in preset.draw.prompt_files):
            warn_blank(prompt_file(file))
        write_json(to_json(all_shared_subjects(presets)), SUBJECTS)


if __name__ == "__main__":
    typer.run(main)
