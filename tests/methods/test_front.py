"""realera.erase: the stages' results from an open pipeline, which it leaves as it was."""

import os
from contextlib import chdir

import pytest
import torch
import yaml
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import DDIMScheduler, StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st

import realera
from realera.commands.front import erase_model
from realera.families.stable_diffusion import open_pipeline
from realera.methods.front import ask, kept_words, make_preset
from realera.methods.realera import alignment
from realera.settings.errors import ArtifactError, ConfigError, ModelError
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
    for key, value in (SETTINGS | {"model.device": "cpu"}).items():
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


def by_stages(project, method):
    return realera.read_erasure(project / "artifacts/plane" / method / "erasure")


def assert_same(found, theirs):
    for ours, other in ((found.overlay, theirs.overlay), (found.adapter, theirs.adapter)):
        assert ours.keys() == other.keys()
        assert all(torch.equal(ours[name], other[name]) for name in other)
    assert found.adapter_metadata == theirs.adapter_metadata


@pytest.mark.parametrize("method", ["realera", "uce"])
def test_it_is_what_the_stages_make_to_the_bit(project, own, method):
    theirs, found = by_stages(project, method), erased(own, method)
    assert_same(found, theirs)
    assert bool(found.adapter) == (method == "realera")
    assert found.about.base.sha256 == theirs.about.base.sha256


@pytest.mark.parametrize("method", ["realera", "uce"])
def test_the_command_makes_it_from_a_checkpoint_to_the_bit(project, tiny_sd, tmp_path, method):
    model = {"id": str(tiny_sd), "revision": None, "config": None, "dtype": None, "device": "cpu"}
    options = {"synonyms": ["jet"], "method": method, "settings": SETTINGS}
    said = erase_model(model, tmp_path / "erased", ["airplane"], ["sun"], PRESERVE, **options)
    assert_same(realera.read_erasure(tmp_path / "erased"), by_stages(project, method))
    assert "kept       3 words" in said


def test_the_command_solves_for_the_checkpoints_own_weights_in_half_precision_too(fine_model, tmp_path):
    """As on a GPU, where auto is float16: the lines that it prints open the model in float32."""
    model = {"id": str(fine_model), "revision": None, "config": None, "dtype": "bfloat16", "device": "cpu"}
    erase_model(model, tmp_path / "erased", ["airplane"], ["sun"], PRESERVE, method="uce", settings=SETTINGS)
    realera.read_erasure(tmp_path / "erased").apply(StableDiffusionPipeline.from_pretrained(fine_model))


def test_what_a_pipeline_in_half_precision_gave_fits_the_checkpoint_and_no_other(fine_model, own):
    found = erased(open_pipeline(fine_model, dtype="bfloat16", device="cpu"), "uce")
    pipe = open_pipeline(fine_model, dtype="float32", device="cpu")
    found.apply(pipe)
    with pytest.raises(ArtifactError, match="weights differ"):
        found.apply(own)


@pytest.fixture
def fine_model(tiny_sd, tmp_path):
    """A checkpoint whose weights no half precision holds; the embedded one is in float16."""
    pipe = open_pipeline(tiny_sd, device="cpu")
    with torch.no_grad():
        for weight in pipe.unet.parameters():
            weight.mul_(1 + 2**-14)
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_an_interrupted_call_goes_on_and_ends_as_an_uninterrupted_one(project, own, monkeypatch):
    take_step, taken = alignment._take_step, []

    def interrupted(*arguments):
        taken.append(take_step(*arguments))
        if len(taken) == 2:
            raise KeyboardInterrupt
        return taken[-1]

    monkeypatch.setattr(alignment, "_take_step", interrupted)
    settings = SETTINGS | {"lora.save_every": 1}
    with pytest.raises(KeyboardInterrupt):
        erased(own, settings=settings)
    assert_same(erased(own, settings=settings), by_stages(project, "realera"))
    assert len(taken) == 4  # the first step is not taken again


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_trains_where_gradients_are_switched_off(project, own, mode):
    state = torch.get_rng_state()
    with mode():
        found = erased(own)
    assert_same(found, by_stages(project, "realera"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_an_outdated_scheduler_of_the_users_is_not_mended_in_place(own, monkeypatch):
    outdated = DDIMScheduler.from_config(own.scheduler.config, clip_sample=True, steps_offset=0)
    before = dict(outdated.config)
    monkeypatch.setattr(own, "scheduler", outdated)
    erased(own)
    assert own.scheduler is outdated
    assert dict(outdated.config) == before


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
        ({"settings": {"uce.reading": "newest"}}, "settings: uce.reading"),
        ({"settings": {"model.id": "other"}}, "settings: found 'model.id', which has no part here; accepted: encode,"),
        ({"settings": {"lora.num_processes": 2}}, "lora.num_processes: found 2; accepted: 1"),
        ({"settings": {"sampler.source": "text", "sampler.M": 2}}, "sampler.source: found 'text'; accepted: noise"),
        ({"preserve": ["cat", " "]}, "preserve.words"),
        ({"synonyms": [""]}, "synonyms"),
        ({"target": []}, "targets"),
    ],
)
def test_what_does_not_fit_is_named(own, arguments, message):
    with pytest.raises(ConfigError, match=message):
        erased(own, **{"method": "uce"} | arguments)


def test_bars_are_shown_unless_they_are_switched_off(own, capsys):
    erased(own)
    assert "align" in capsys.readouterr().err
    erased(own, progress=False)
    assert capsys.readouterr().err == ""


def test_spelling_makes_no_other_word(own):
    request = ask(
        own, "Airplane", "sun", preserve=["airplane", "AIRPLANE", "fire engine", "cat"], synonyms="Fire  engine"
    )
    assert kept_words(request, own) == ["cat"]
    for target, anchor in (("Sun", "sun"), (["cat", "Cat"], "sun")):
        with pytest.raises(ConfigError):
            ask(own, target, anchor)


def test_a_text_is_one_word(own):
    request = ask(own, "airplane", "sun", preserve="hot air balloon", synonyms="jet")
    assert request.preset.preserve.words == ("hot air balloon",)
    assert request.preset.synonyms == {"airplane": ("jet",)}
    assert kept_words(request, own) == ["hot air balloon"]


WORD = st.sampled_from(["airplane", "cat", "fire engine", "sun", "jet"])


@given(st.lists(WORD, min_size=1, max_size=4), WORD, st.none() | st.lists(WORD), st.lists(WORD))
def test_what_fades_never_stays(own, targets, anchor, preserve, synonyms):
    if anchor in targets or len(set(targets)) < len(targets):
        with pytest.raises(ConfigError):
            ask(own, targets, anchor, preserve, synonyms)
        return
    request = ask(own, targets, anchor, preserve, synonyms)
    kept = kept_words(request, own)
    assert not {*targets, *synonyms} & set(kept)
    assert len(set(kept)) == len(kept)
    assert preserve is None or set(kept) == set(preserve) - {*targets, *synonyms}
    assert request.preset.pairs() == [(target, anchor) for target in targets]


def test_a_pipeline_that_is_not_fit_is_refused(own, tiny_sd):
    add_hook_to_module(own.vae.decoder, ModelHook())
    try:
        with pytest.raises(ModelError, match="found parts that are offloaded"):
            erased(own)
    finally:
        remove_hook_from_module(own.vae.decoder)
    with pytest.raises(ModelError, match="found no vae"):
        erased(open_pipeline(tiny_sd, device="cpu", without=["vae"]))
    with pytest.raises(ModelError, match="found str; accepted: StableDiffusionPipeline"):
        realera.erase("data/models/tiny-sd", "airplane", "sun")


def test_a_class_derived_from_the_familys_and_parts_put_together_are_fine(own):
    class Derived(StableDiffusionPipeline):
        pass

    parts = {name: own.components[name] for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}
    derived = Derived(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    assert ask(derived, "airplane", "sun").params.model.id == "Derived"
    assert erased(derived, "uce").about.base.id == "Derived"


def test_another_family_is_refused(own):
    class StableDiffusionXLPipeline:
        name_or_path = "model"

    with pytest.raises(ModelError, match=r"found StableDiffusionXLPipeline; accepted: StableDiffusionPipeline"):
        realera.erase(StableDiffusionXLPipeline(), "airplane", "sun")
