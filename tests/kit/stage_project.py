"""A small project with every artifact, made by the stages in this process; what each stage reads and writes."""

import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import yaml

from realera.settings.config import ImageCounts
from stages import encode, generate, latents, mine, plan, report, score, solve, train

CONCEPT = "airplane"
WORDS = {"few": ["airplane", "cat"], "unseen": ["cactus"]}
PRESET = {
    "task": "object",
    "targets": ["airplane"],
    "anchors": ["rainbow"],
    "synonyms": {"airplane": ["plane"]},
    "classes": "few",
    "preserve": {"lists": ["few"], "texts": [""]},
    "templates": "object",
    "neighbors": [],
    "draw": {"unseen": "unseen"},
    "judged": {},
}
SMALL = {
    "model": {"device": "cpu"},
    "encode": {"num_templates": 2},
    "sampler": {"M": 2, "N": 2},
    "latents": {"num_images": 2},
    "lora": {"steps": 2, "batch_size": 1},
    "generate": {
        "num_inference_steps": 1,
        "num_processes": 1,
        "images": dict.fromkeys(ImageCounts.model_fields, 1),
    },
    "score": {"num_resamples": 100},
}


def base() -> None:
    generate.main(generate.What.base, "")


def originals(concept: str = CONCEPT) -> None:
    generate.main(generate.What.originals, concept)


def erased(concept: str = CONCEPT) -> None:
    generate.main(generate.What.erased, concept)


STAGES: dict[
    str, tuple[Callable[..., None], list[str], list[str]]
] = {  # name -> (what runs it, what it reads, what it writes)
    "plan": (plan.main, [], ["shared/subjects.json"]),
    "base": (base, ["shared/subjects.json"], ["shared/base.parquet"]),
    "encode": (encode.main, [], ["prompts.parquet"]),
    "mine": (mine.main, ["prompts.parquet"], ["samples.parquet", "mining.json"]),
    "solve": (solve.main, ["prompts.parquet", "samples.parquet"], ["kv_patch.safetensors", "solve.json"]),
    "latents": (latents.main, [], ["anchor_latents.safetensors"]),
    "train": (
        train.main,
        ["prompts.parquet", "samples.parquet", "kv_patch.safetensors", "anchor_latents.safetensors"],
        ["lora", "loss.csv"],
    ),
    "originals": (originals, [], ["originals.parquet"]),
    "generate": (
        erased,
        ["kv_patch.safetensors", "lora/pytorch_lora_weights.safetensors"],
        ["images.parquet"],
    ),
    "score": (
        score.main,
        ["originals.parquet", "shared/base.parquet", "images.parquet"],
        ["scores.parquet", "scores.json"],
    ),
    "report": (
        report.main,
        [
            *("prompts.parquet", "samples.parquet", "mining.json", "solve.json", "loss.csv", "originals.parquet"),
            *("shared/base.parquet", "images.parquet", "scores.parquet", "scores.json"),
        ],
        [],
    ),
}
INPUTS = [(stage, name) for stage, (_, reads, _) in STAGES.items() for name in reads]


def place(name: str) -> Path:
    return Path("artifacts") / (name if name.startswith("shared/") else f"{CONCEPT}/{name}")


def execute(stage: str, concept: str = CONCEPT) -> None:
    main = STAGES[stage][0]
    main() if stage in ("plan", "base", "report") else main(concept)


def make_project(folder: Path, repository: Path) -> None:
    """Fill a folder with a small project that has every artifact."""
    params = yaml.safe_load((repository / "params.yaml").read_text()) | {"concepts": [CONCEPT]}
    for section, values in SMALL.items():
        params[section] |= values
    contents = {"params.yaml": params, "data/prompts/words.yaml": WORDS, f"data/concepts/{CONCEPT}.yaml": PRESET}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(content))
    shutil.copy(repository / "data/prompts/templates.yaml", folder / "data/prompts")
    with chdir(folder):
        for stage in STAGES:
            execute(stage)
