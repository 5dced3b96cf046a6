"""The pretrain graph from pinned packages to model cards, at smoke size, in a repository of its own."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, CLIPModel, CLIPProcessor

from pretrain.config import PARAMS, VOCABULARY, Params, Vocabulary
from realera.exports.classic import is_classic
from realera.settings.config import load_yaml
from tests.kit.dvc_repository import Repository

SMOKE = Path("pretrain/smoke.yaml")
FOLDER = "pretrain"
"""A DVC project of its own."""

CORE = ("house", "castle", "tree", "cloud")
REST = ("tent",)
TRAINED = ["judge", "style_judge", "text_encoder", "vae", "unet"]
STAGES = ["fetch", "render", "glyphs", "caption", *TRAINED, "draw", "evaluate", "publish"]


def merged(base: Mapping, overrides: Mapping) -> dict:
    """`base` with the leaves of `overrides` in place of its own; every key of these must be in `base`."""
    unknown = set(overrides) - set(base)
    assert not unknown, f"{SMOKE} overrides what is not in {PARAMS}: {sorted(unknown)}"
    changed = {k: merged(base[k], v) if isinstance(v, Mapping) else v for k, v in overrides.items()}
    return {**base, **changed}


def cut_vocabulary(path: Path) -> None:
    """Keep the ten classes and a few other concepts."""
    vocabulary = _read(path)
    for tier, kept in (("core", CORE), ("rest", REST)):
        vocabulary[tier] = {name: vocabulary[tier][name] for name in kept}
    _write(vocabulary, path)


def shrink(root: Path) -> None:
    _write(merged(_read(root / PARAMS), _read(root / SMOKE)), root / PARAMS)
    cut_vocabulary(root / VOCABULARY)


def _read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _write(value: Mapping, path: Path) -> None:
    path.write_text(yaml.safe_dump(value, allow_unicode=True, sort_keys=False), encoding="utf-8")


def test_the_smoke_parameters_are_valid(repository, tmp_path):
    (tmp_path / "pretrain").mkdir()
    for path in (PARAMS, SMOKE, VOCABULARY):
        shutil.copy(repository / path, tmp_path / path)
    shrink(tmp_path)
    params = load_yaml(tmp_path / PARAMS, Params)
    trained = (params.vae, params.unet, params.judge, params.style_judge, params.text_encoder)
    assert max(training.steps for training in trained) <= 10
    assert all(training.save_every < training.steps for training in trained)
    assert len(load_yaml(tmp_path / VOCABULARY, Vocabulary).concepts()) == 10 + len(CORE) + len(REST)


# the graph -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(repository, tmp_path_factory):
    """The repository after one run, and what that run printed."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: stage fetch needs it")
    root, home = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("home")
    copy = Repository(root, repository, home, ["pretrain", "realera"])
    shrink(copy.root)
    return SimpleNamespace(repository=copy, root=copy.root, first=copy.reproduce(folder=FOLDER))


def test_the_erasures_project_does_not_see_it(repository, tmp_path):
    copy = Repository(
        tmp_path / "root", repository, tmp_path / "home", ["pretrain", "dvc.yaml", "params.yaml", "data/concepts"]
    )
    assert "pretrain" not in copy.run("dvc", "stage", "list", "--all")
    assert "pretrain" not in copy.run("dvc", "dag", "--dot")
    assert "pretrain" not in copy.run("dvc", "status")
    assert sorted(copy.run("dvc", "stage", "list", "--name-only", folder=FOLDER).split()) == sorted(STAGES)


@pytest.mark.slow
class TestGraph:
    """In this order: the last test changes a parameter."""

    def test_every_stage_ran_once(self, graph):
        assert sorted(graph.first.ran) == sorted(STAGES)
        assert graph.first.ran[0] == "fetch"
        assert graph.first.ran[-1] == "publish"

    def test_stock_diffusers_draws(self, graph):
        pipe = StableDiffusionPipeline.from_pretrained(graph.root / "data/models/tiny-sd")
        image = pipe("a photo of the cat", num_inference_steps=2, guidance_scale=5.0).images[0]
        assert image.size == (64, 64)
        assert len(pipe.tokenizer) == 49_408
        assert is_classic(graph.root / "data/models/tiny-sd/text_encoder")
        assert pipe.text_encoder.get_input_embeddings().num_embeddings == 49_408

    def test_stock_transformers_loads_the_judge(self, graph):
        folder = graph.root / "data/models/tiny-clip"
        assert {"merges.txt", "preprocessor_config.json", "vocab.json"} <= {path.name for path in folder.iterdir()}
        model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
        inputs = processor(
            text=["a cat", "a dog"], images=Image.new("RGB", (64, 64)), return_tensors="pt", padding=True
        )
        logits = model(**inputs.to(model.device)).logits_per_image
        assert logits.shape == (1, 2)
        assert logits.isfinite().all()

    def test_stock_transformers_loads_the_style_judge(self, graph):
        folder = graph.root / "data/models/tiny-style"
        model = AutoModelForImageClassification.from_pretrained(folder)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        styles = json.loads((graph.root / "data/models/tiny-sd/vocabulary.json").read_text(encoding="utf-8"))["styles"]
        assert list(model.config.id2label.values()) == styles
        logits = model.eval()(**processor(Image.new("RGB", (64, 64)), return_tensors="pt")).logits
        assert logits.shape == (1, len(styles))
        assert logits.isfinite().all()

    def test_the_generator_comes_with_its_evaluation(self, graph):
        folder = graph.root / "data/models/tiny-sd"
        summary = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        words = pd.read_csv(folder / "words.csv")
        assert summary["classes"]["words"] == 10
        assert summary["vocabulary_top1"]["words"] == 10 + len(CORE) + len(REST)
        assert len(words[words["role"] == "synonym"]) == 30
        for sheet in ("classes", "synonyms", "styles", "concepts", "vocabulary"):
            with Image.open(folder / f"sheets/{sheet}.png") as picture:
                assert min(picture.size) > 0

    def test_the_cards_figures_are_the_evaluations(
        self, graph, check_generator_card, check_judge_card, check_style_judge_card
    ):
        check_generator_card(graph.root / "data/models/tiny-sd")
        check_judge_card(graph.root / "data/models/tiny-clip")
        check_style_judge_card(graph.root / "data/models/tiny-style")

    def test_no_scratch_is_left(self, graph):
        scratch = Path(graph.repository.environment["REALERA_SCRATCH"])
        assert list(scratch.iterdir()) == []

    def test_a_second_run_does_nothing(self, graph):
        assert graph.repository.reproduce(folder=FOLDER).ran == []

    def test_other_seeds_of_the_evaluation_train_nothing_again(self, graph):
        params = _read(graph.root / PARAMS)
        params["evaluate"]["seed"] += 1000
        _write(params, graph.root / PARAMS)
        assert graph.repository.reproduce(folder=FOLDER).ran == ["draw", "evaluate", "publish"]
