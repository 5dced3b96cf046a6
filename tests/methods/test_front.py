"""realera.erase: the stages' results from an open pipeline, which it leaves as it was."""

import os
from contextlib import chdir

import pytest
import torch
import yaml

import realera
from realera.families.stable_diffusion import open_pipeline
from realera.methods.front import make_preset
from realera.settings.errors import ConfigError, ModelError
from realera.settings.presets import load_words
from stages import encode, erase, latents, mine, solve, task, train

SETTINGS = {
    "encode.num_templates": 2,
    "sampler.M": 2,
    "sampler.N": 2,
    "latents.num_images": 2,
    "lora.steps": 3,
    "lora.batch_size": 1,
    "generate.num_inference_steps": 2,
    "model.device": "cpu",
}
PRESERVE = ["cat", "dog", "ship"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Sums are split by threads: equal bits need equally many."""


@pytest.fixture(scope="module")
def project(repository, tmp_path_factory):
    """A project whose preset says what the calls below say, and its erasures by the stages."""
    folder = tmp_path_factory.mktemp("project")
    params = yaml.safe_load((repository / "params.yaml").read_text()) | {"concepts": ["plane"]}
    for key, value in SETTINGS.items():
        section, name = key.split(".")
        params[section][name] = value
    preset = {
        "task": "object",
        "targets": ["airplane"],
        "anchors": ["sun"],
        "synonyms": {"airplane": ["jet"]},
        "classes": "cifar10",
        "preserve": {"lists": [], "words": PRESERVE, "texts": [""]},
        "templates": "object",
        "neighbors": [],
        "draw": {},
        "judged": {},
    }
    (folder / "data/concepts").mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data/concepts/plane.yaml").write_text(yaml.safe_dump(preset))
    with chdir(folder):
        for stage in (encode, mine, solve, latents, train):
            stage.main("plane")
        for method in ("realera", "uce"):
            task.main(method, "plane")
            erase.main(method, "plane")
    return folder


@pytest.fixture(scope="module")
def own(tiny_sd):
    return open_pipeline(tiny_sd, device="cpu")


def erased(pipe, method="realera", **more):
    arguments = {"target": "airplane", "anchor": "sun", "preserve": PRESERVE, "synonyms": ["jet"], "settings": SETTINGS}
    return realera.erase(pipe, method=method, **arguments | more)


@pytest.mark.parametrize("method", ["realera", "uce"])
def test_it_is_what_the_stages_make_to_the_bit(project, own, method):
    theirs = realera.read_erasure(project / "artifacts/plane" / method / "erasure")
    found = erased(own, method)
    for ours, other in ((found.overlay, theirs.overlay), (found.adapter, theirs.adapter)):
        assert ours.keys() == other.keys()
        assert all(torch.equal(ours[name], other[name]) for name in other)
    assert found.adapter_metadata == theirs.adapter_metadata
    assert bool(found.adapter) == (method == "realera")
    assert found.about.base.sha256 == theirs.about.base.sha256


def test_the_pipeline_stays_as_it_was(own):
    before = {name: weight.clone() for name, weight in own.unet.state_dict().items()}
    parts, scheduler = list(own.components.values()), own.scheduler
    erasure = erased(own, "uce")
    assert own.scheduler is scheduler
    assert all(one is other for one, other in zip(own.components.values(), parts, strict=True))
    assert all(torch.equal(weight, before[name]) for name, weight in own.unet.state_dict().items())
    erasure.apply(own)
    assert not all(torch.equal(weight, before[name]) for name, weight in own.unet.state_dict().items())
    with pytest.raises(ModelError, match="carries an erasure"):
        erased(own, "uce")
    erasure.remove(own)
    assert all(torch.equal(weight, before[name]) for name, weight in own.unet.state_dict().items())


def test_it_is_saved_and_read_again(own, tmp_path):
    erasure = erased(own, "uce")
    erasure.save(tmp_path / "erased")
    again = realera.read_erasure(tmp_path / "erased")
    assert again.about.pairs == (("airplane", "sun"),)
    assert all(torch.equal(again.overlay[name], weight) for name, weight in erasure.overlay.items())


def test_nothing_is_left_in_the_scratch_folder(own):
    erased(own, "uce")
    assert os.listdir(os.environ["REALERA_SCRATCH"]) == []


def test_half_precision_pipelines_are_erased_in_float32(tiny_sd):
    pipe = open_pipeline(tiny_sd, dtype="bfloat16", device="cpu")
    found = erased(pipe, "uce")
    assert {weight.dtype for weight in found.overlay.values()} == {torch.float32}
    assert pipe.unet.dtype == torch.bfloat16


def test_what_stays_by_default_is_the_models_vocabulary_or_everyday_nouns(own, tiny_sd, tmp_path):
    assert make_preset(own, "airplane", "sun").preserve.lists == ("vocabulary",)
    own_name = own.name_or_path
    own.register_to_config(_name_or_path="elsewhere/model")
    try:
        assert make_preset(own, "airplane", "sun").preserve.lists == ("everyday",)
    finally:
        own.register_to_config(_name_or_path=own_name)
    assert make_preset(own, "airplane", "sun", ["cat"]).preserve.words == ("cat",)
    everyday = load_words("everyday")
    assert 300 <= len(everyday) <= 500
    assert len({word.lower() for word in everyday}) == len(everyday)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "mace"}, "method: found 'mace'; accepted: realera, uce"),
        ({"anchor": "airplane"}, "anchor: found 'airplane', which is a target"),
        ({"anchor": ["sun", "moon"]}, "anchor: found 2; accepted: one, or one for each of the 1 targets"),
        ({"target": ["cat", "cat"]}, "target: found"),
        ({"target": " "}, "targets"),
        ({"task": "animal"}, "task: found 'animal'; accepted: object, celebrity, style, explicit"),
        ({"recipe": "sd9"}, "recipe: found 'sd9'; accepted: sd15, tiny, or a YAML file"),
        ({"settings": {"lora.stepz": 1}}, "lora.stepz: unknown key"),
        ({"settings": {"uce.reading": "newest"}}, "uce.reading"),
    ],
)
def test_what_does_not_fit_is_named(own, arguments, message):
    with pytest.raises(ConfigError, match=message):
        erased(own, **{"method": "uce"} | arguments)


def test_another_family_is_refused(own):
    class StableDiffusionXLPipeline:
        name_or_path = "model"

    with pytest.raises(ModelError, match=r"found StableDiffusionXLPipeline; accepted: StableDiffusionPipeline"):
        realera.erase(StableDiffusionXLPipeline(), "airplane", "sun")
