"""Stage publish: the model folders with their cards, figures and contact sheets, as git keeps them."""

import shutil
from pathlib import Path

import pandas as pd
import typer
from safetensors import safe_open

from pretrain.cards import generator_card, generator_licences, judge_card, judge_licences, style_judge_card
from pretrain.config import WORK, load_params
from realera.exports.classic import classic_clip, classic_pipeline
from realera.store.artifacts import atomic_path, read_json, write_json
from realera.store.scratch import fingerprint

MODELS = Path("data/models")
PUBLISHED = ("tiny-sd", "tiny-clip", "tiny-style")


def count_parameters(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    return total


def publish_style_judge() -> None:
    params = load_params()
    with atomic_path(MODELS / "tiny-style") as folder:
        shutil.copytree(WORK / "tiny-style", folder)
        report = read_json(folder / "evaluation.json")
        card = style_judge_card(params, report, count_parameters(folder), WORK / "packages")
        (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    params, evaluation = load_params(), WORK / "evaluation"
    vocabulary = read_json(WORK / "vocabulary.json")
    packages = WORK / "packages"
    words = pd.read_csv(evaluation / "words.csv")
    summary, vae = read_json(evaluation / "evaluation.json"), read_json(WORK / "vae/report.json")
    with atomic_path(MODELS / "tiny-sd") as folder:
        shutil.copytree(WORK / "tiny-sd", folder)
        classic_pipeline(folder)
        shutil.copy(WORK / "vocabulary.json", folder)
        for name in ("evaluation.json", "words.csv"):
            shutil.copy(evaluation / name, folder)
        shutil.copytree(evaluation, folder / "sheets", ignore=shutil.ignore_patterns("*.json", "*.csv"))
        licences = generator_licences(params, packages)
        card = generator_card(params, summary, words, vocabulary, vae, count_parameters(folder), licences)
        (folder / "README.md").write_text(card, encoding="utf-8")
    with atomic_path(MODELS / "tiny-clip") as folder:
        shutil.copytree(WORK / "tiny-clip", folder)
        classic_clip(folder)
        report = read_json(folder / "evaluation.json")
        num_concepts = len(vocabulary["concepts"])
        card = judge_card(params, report, num_concepts, count_parameters(folder), judge_licences(params, packages))
        (folder / "README.md").write_text(card, encoding="utf-8")
    publish_style_judge()
    write_json({"sha256": fingerprint({}, [MODELS / name for name in PUBLISHED])}, WORK / "published.json")


if __name__ == "__main__":
    typer.run(main)
