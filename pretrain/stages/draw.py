"""Stage draw: the images that the evaluation judges, so that a change of the judge draws nothing again."""

import typer

from pretrain.config import WORK, load_params
from pretrain.drawing import draw_subjects, subjects
from realera.store.artifacts import read_json, write_parquet
from realera.store.scratch import fingerprint, scratch

MODEL, VOCABULARY = WORK / "tiny-sd", WORK / "vocabulary.json"


def main() -> None:
    params = load_params()
    vocabulary = read_json(VOCABULARY)
    plan = subjects(vocabulary, params.evaluate)
    with scratch("draw", fingerprint(params.evaluate, [MODEL, VOCABULARY])) as folder:
        style_phrase = vocabulary["style_phrase"]
        table = draw_subjects(MODEL, plan, style_phrase, params.evaluate, folder, params.num_processes)
        write_parquet(table, WORK / "drawings.parquet")


if __name__ == "__main__":
    typer.run(main)
