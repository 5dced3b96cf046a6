"""A project small enough for a test: two presets, a dozen words, every stage run for real."""

import os
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import yaml

CONCEPTS = ("airplane", "cat")
HOSTILE_TEXT = "<script>alert(1)</script>"
HOSTILE_WORD = 'jet"><img src=x onerror=alert(2)>'

_WORDS = {"few": ["airplane", "cat", "dog"], "unseen": ["alien", "cactus"]}
_SYNONYMS = {"airplane": ["plane", HOSTILE_WORD], "cat": ["kitty"]}
_ANCHORS = {"airplane": "rainbow", "cat": "moon"}
_STAGES = ("encode", "mine", "solve", "latents", "train")
_METHOD = "realera"


@cache
def build(folder: Path, repository: Path) -> Path:
    """Make a project with artifacts in `folder`, once a session."""
    _write(folder / "params.yaml", _params(repository))
    _write(folder / "data/prompts/words.yaml", _WORDS)
    for concept in CONCEPTS:
        _write(folder / f"data/concepts/{concept}.yaml", _preset(concept))
    with inside(folder):
        _run_stages()
    return folder


@contextmanager
def inside(folder: Path):
    """Work in a folder; stages take their paths from there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _run_stages() -> None:
    from stages import erase, generate, judge, plan, score, task

    plan.main()
    generate.main(generate.What.base, "", "")
    for concept in CONCEPTS:
        for name in _STAGES:
            __import__(f"stages.{name}")
            sys.modules[f"stages.{name}"].main(concept)
        task.main(_METHOD, concept)
        erase.main(_METHOD, concept)
        generate.main(generate.What.originals, concept, "")
        judge.main(concept)
        generate.main(generate.What.erased, concept, _METHOD)
        score.main(concept, _METHOD)


def _params(repository: Path) -> dict:
    params = yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))
    params["concepts"] = list(CONCEPTS)
    params["model"]["device"] = "cpu"
    params["encode"] |= {"num_templates": 2}
    params["sampler"] |= {"M": "inf", "N": 2}
    params["latents"] |= {"num_images": 1}
    params["lora"] |= {"steps": 4, "batch_size": 1}
    params["generate"] |= {"num_inference_steps": 2, "num_processes": 1}
    params["generate"]["images"] = dict.fromkeys(params["generate"]["images"], 2) | {"erase": 3}
    params["score"] |= {"num_resamples": 200}
    return params


def _preset(concept: str) -> dict:
    return {
        "task": "object",
        "targets": [concept],
        "anchors": [_ANCHORS[concept]],
        "synonyms": {concept: _SYNONYMS[concept]},
        "classes": "few",
        "preserve": {"lists": ["few"], "texts": ["", HOSTILE_TEXT]},
        "templates": "object",
        "neighbors": [],
        "draw": {
            "unseen": "unseen",
            "lookalikes": ["rocket"],
            "associated": {concept: [f"a small {concept} in the sky"]},
        },
        "judged": {"by": ["classes", "clip_score", "distance"]},
    }


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
