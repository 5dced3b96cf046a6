"""A small project with every artifact, made by the stages in this process; what each stage reads and writes."""

import shutil
from collections.abc import Callable
from contextlib import chdir
from functools import partial
from pathlib import Path

import yaml

from realera.settings.config import ImageCounts
from realera.store.paths import REALERA
from stages import encode, erase, generate, judge, latents, mine, plan, report, score, solve, task, train

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


def draw_base() -> None:
    generate.main(generate.What.base, "", "")


def draw_originals(concept: str) -> None:
    generate.main(generate.What.originals, concept, "")


def draw_erased(concept: str, method: str = REALERA) -> None:
    generate.main(generate.What.erased, concept, method)


def ask(concept: str, method: str = REALERA) -> None:
    task.main(method, concept)


def make_erasure(concept: str, method: str = REALERA) -> None:
    erase.main(method, concept)


def sum_up(concept: str, method: str = REALERA) -> None:
    score.main(concept, method)


_PARTS = ("realera/parts/kv_patch.safetensors", "realera/parts/solved.json")
_SUMS = "realera/sums/airplane-0f488683.safetensors"
_TRAINED = "realera/parts/trained.json"
_LORA = "lora/pytorch_lora_weights.safetensors"
_ERASURE = ("erasure.json", "overlay.safetensors", "adapter/pytorch_lora_weights.safetensors")

STAGES: dict[
    str, tuple[Callable[..., None], list[str], list[str]]
] = {  # name -> (what runs it, what it reads, what it writes)
    "plan": (plan.main, [], ["shared/subjects.json"]),
    "base": (draw_base, ["shared/subjects.json"], ["shared/base.parquet"]),
    "task": (ask, [], ["realera/parts/task.json"]),
    "encode": (encode.main, [], ["prompts.parquet"]),
    "mine": (
        mine.main,
        ["prompts.parquet"],
        ["realera/samples.parquet", "realera/moments.parquet", "realera/mining.json", _SUMS],
    ),
    "solve": (solve.main, ["prompts.parquet", _SUMS], [*_PARTS, "realera/solve.json"]),
    "latents": (latents.main, [], ["anchor_latents.safetensors"]),
    "train": (
        train.main,
        ["prompts.parquet", "realera/samples.parquet", _PARTS[0], "anchor_latents.safetensors"],
        ["realera/parts/lora", _TRAINED, "realera/loss.csv"],
    ),
    "erase": (make_erasure, [*_PARTS, f"realera/parts/{_LORA}", _TRAINED], ["realera/erasure"]),
    "erase by uce": (partial(make_erasure, method="uce"), ["prompts.parquet"], ["uce/erasure"]),
    "originals": (draw_originals, [], ["originals.parquet"]),
    "judge": (judge.main, ["originals.parquet", "shared/base.parquet"], ["judged.parquet"]),
    "generate": (draw_erased, [f"realera/erasure/{name}" for name in _ERASURE], ["realera/images.parquet"]),
    "score": (
        sum_up,
        ["originals.parquet", "shared/base.parquet", "judged.parquet", "realera/images.parquet"],
        ["realera/scores.parquet", "realera/scores.json"],
    ),
    "report": (
        report.main,
        [
            *("prompts.parquet", "originals.parquet", "shared/base.parquet"),
            *("realera/samples.parquet", "realera/moments.parquet", "realera/mining.json", "realera/solve.json"),
            "realera/loss.csv",
            *("realera/images.parquet", "realera/scores.parquet", "realera/scores.json"),
        ],
        [],
    ),
}
CHAIN = tuple(name for name in STAGES if name != "erase by uce")
"""RealEra's stages, in an order that works."""

INPUTS = [(stage, name) for stage, (_, reads, _) in STAGES.items() for name in reads]
FOR_ALL = ("plan", "base", "report")
"""Stages that are run once, for all concepts."""


def place(name: str) -> Path:
    return Path("artifacts") / (name if name.startswith("shared/") else f"{CONCEPT}/{name}")


def execute(stage: str, concept: str = CONCEPT, **method: str) -> None:
    """Run a stage; `method` is another one than RealEra, for the stages that have one."""
    main = STAGES[stage][0]
    main() if stage in FOR_ALL else main(concept, **method)


def write_project(folder: Path, repository: Path, **others: object) -> None:
    """Fill a folder with the parameters, preset and lists of a small project; `others` are further parameters."""
    params = yaml.safe_load((repository / "params.yaml").read_text()) | {"concepts": [CONCEPT]} | others
    for section, values in SMALL.items():
        params[section] |= values
    contents = {"params.yaml": params, "data/prompts/words.yaml": WORDS, f"data/concepts/{CONCEPT}.yaml": PRESET}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(content))
    shutil.copy(repository / "data/prompts/templates.yaml", folder / "data/prompts")


def make_project(folder: Path, repository: Path) -> None:
    """Fill a folder with a small project that has every artifact."""
    write_project(folder, repository)
    with chdir(folder):
        for stage in STAGES:
            execute(stage)
