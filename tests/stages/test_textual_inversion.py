"""A target that is a token of a textual inversion: the model knows it, no judge does."""

from contextlib import chdir

import pytest
import torch
import yaml

from realera.families.stable_diffusion import open_pipeline
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.artifacts import read_json
from realera.text.checks import problems
from tests.kit import stage_project

TOKEN = "<my-plane>"
PRESET = stage_project.PRESET | {
    "targets": [TOKEN],
    "synonyms": {},
    "classes": "others",
    "preserve": {"lists": ["others"], "texts": [""]},
    "judged": {"names": {TOKEN: "airplane"}, "by": ["classes", "clip_score"]},
}


@pytest.fixture(scope="module")
def model(tiny_sd, tmp_path_factory):
    """The embedded model with one more token, which means an airplane: as diffusers loads and saves one."""
    pipe = open_pipeline(tiny_sd, device="cpu")
    (airplane,) = pipe.tokenizer("airplane", add_special_tokens=False)["input_ids"]
    pipe.load_textual_inversion({TOKEN: pipe.text_encoder.get_input_embeddings().weight[airplane].detach().clone()})
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def project(model, repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    stage_project.write_project(folder, repository)
    (folder / "data/prompts/words.yaml").write_text(
        yaml.safe_dump(stage_project.WORDS | {"others": ["cat", "house", "hamburger"]})
    )
    (folder / "data/concepts/airplane.yaml").write_text(yaml.safe_dump(PRESET))
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["model"]["id"] = str(model)
    params["generate"] |= {"num_inference_steps": 20}
    params["generate"]["images"] |= {"erase": 4}
    params["lora"]["steps"] = 0
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with chdir(folder), torch.random.fork_rng(devices=[]):
        for stage in stage_project.CHAIN[:-1]:  # all but the report
            stage_project.execute(stage)
    return folder


def test_it_is_drawn_erased_and_judged_by_the_name_that_the_preset_gives(project):
    scores = read_json(project / "artifacts/airplane/realera/scores.json")
    base, erased = (scores[part]["Acc_e"] for part in ("base", "erased"))
    assert base["top1"]["value"] == 100
    assert erased["top1"]["value"] == 0
    assert base["clip_score"]["value"] > erased["clip_score"]["value"] + 3
    assert scores["labels"]["classes"] == ["cat", "house", "hamburger", TOKEN]


def test_a_name_that_is_one_of_the_classes_is_refused(project, monkeypatch):
    monkeypatch.chdir(project)
    judged = {"names": {TOKEN: "Cat"}}
    preset = load_preset("airplane")
    changed = type(preset).model_validate(preset.model_dump() | {"judged": preset.judged.model_dump() | judged})
    (problem,) = problems(changed, load_params())
    assert problem == f"judged.names: found 'Cat' for '{TOKEN}', and 'cat' stays or appears; accepted: another text"
