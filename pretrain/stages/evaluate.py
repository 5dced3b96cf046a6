"""Stage evaluate: judge the drawings; write the table, the summary and the contact sheets."""

import typer

from pretrain.config import WORK
from pretrain.evaluation import read_drawings, summarize, word_table
from pretrain.sheets import all_sheets
from realera.judges.classifier import open_classifier
from realera.judges.clip import open_clip
from realera.store.artifacts import atomic_path, read_json, read_parquet, write_json


def main() -> None:
    drawings = read_parquet(WORK / "drawings.parquet").to_pandas()
    judge, style_judge = open_clip(WORK / "tiny-clip"), open_classifier(WORK / "tiny-style")
    read = read_drawings(drawings, judge, style_judge, read_json(WORK / "vocabulary.json"))
    words = word_table(read)
    summary = summarize(read, words)
    with atomic_path(WORK / "evaluation") as folder:
        folder.mkdir()
        words.to_csv(folder / "words.csv", index=False)
        write_json(summary, folder / "evaluation.json")
        for name, picture in all_sheets(drawings, summary["drawn_well"]["words"]).items():
            picture.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    typer.run(main)
