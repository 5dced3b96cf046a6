"""`model.id` is all that says which model: a folder, one file, or a hub id that is in the local cache."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from diffusers import PNDMScheduler
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from realera.families.schedulers import use_scheduler
from realera.families.stable_diffusion import open_pipeline
from realera.families.text_weights import read_text_weights
from realera.methods.realera.perturb import sample
from realera.methods.realera.solving import solve
from realera.methods.realera.sums import target_sums, write_sums
from realera.settings.config import load_params
from realera.settings.errors import ModelError
from realera.settings.presets import load_preset
from realera.store.artifacts import read_safetensors
from realera.store.paths import place
from realera.text.encoding import encode_preset
from realera.text.vocabulary import VOCABULARY_FILE
from tools.fullsize import SCHEDULER, new_part
from tools.single_file import as_convolution, unet_name, vae_name

PARTS = ("unet", "vae", "text_encoder")
MODEL = {"revision": None, "config": None, "dtype": "auto", "device": "auto"}
HUB_ID = "someone/tiny-sd"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RUN = """
import sys
from realera.settings.errors import ModelError
from realera.families.text_weights import read_text_weights
from realera.families.stable_diffusion import open_pipeline
for name, revision in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        open_pipeline(name, revision, device="cpu")
        print("opened")
    except ModelError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def single_file(tiny_sd, repository, tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    subprocess.run([sys.executable, "tools/single_file.py", tiny_sd, path], cwd=repository, check=True)
    return path


@pytest.fixture(scope="module")
def hub_cache(tiny_sd, tmp_path_factory):
    """What a download leaves behind: the revision's name points to a commit, whose files are there."""
    cache = tmp_path_factory.mktemp("hub")
    model = cache / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    shutil.copytree(tiny_sd, model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    for name in ("main", "some-branch"):
        (model / "refs" / name).write_text(COMMIT)
    return cache


def assert_same(pipe, other):
    for part in PARTS:
        found, wanted = (getattr(each, part).state_dict() for each in (pipe, other))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), part
    assert pipe.scheduler.config.beta_end == other.scheduler.config.beta_end
    assert pipe.safety_checker is None


def test_a_single_file_is_the_folder_s_model(single_file, tiny_sd, pipe):
    assert_same(open_pipeline(single_file, config=tiny_sd, device="cpu"), pipe)


@pytest.mark.parametrize("without", [("unet", "vae"), ("text_encoder", "tokenizer", "vae")])
def test_parts_of_a_single_file_are_left_out(single_file, tiny_sd, without):
    pipe = open_pipeline(single_file, config=tiny_sd, device="cpu", without=without)
    missing = {name for name in (*PARTS, "tokenizer") if getattr(pipe, name) is None}
    assert missing == set(without)


def test_a_single_file_without_config_says_so_offline(single_file):
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be loaded: .*model\.config: found null"):
        open_pipeline(single_file, device="cpu")


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_names_in_a_single_file_at_full_size(part):
    """diffusers reads Stable Diffusion v1.4's own names back, attention of the VAE included."""
    with torch.device("meta"):  # shapes without memory
        model = new_part(part)
    wanted = {name: weight.shape for name, weight in model.state_dict().items()}
    config = model.config
    if part == "unet":
        blocks = config.layers_per_block, config.up_block_types
        original = {f"model.diffusion_model.{unet_name(key, *blocks)}": w for key, w in model.state_dict().items()}
        assert "model.diffusion_model.output_blocks.5.2.conv.weight" in original
        found = convert_ldm_unet_checkpoint(original, config)
    else:
        state = {key: as_convolution(key, w) for key, w in model.state_dict().items()}
        original = {f"first_stage_model.{vae_name(key, 4)}": w for key, w in state.items()}
        assert original["first_stage_model.decoder.mid.attn_1.proj_out.weight"].shape == (512, 512, 1, 1)
        found = convert_ldm_vae_checkpoint(original, config)
    assert {name: weight.shape for name, weight in found.items()} == wanted


def test_a_folder_as_compvis_published_it(tiny_sd, pipe, tmp_path, capfd):
    """Its index names a safety checker and an image processor by a class that transformers no longer has."""
    folder = shutil.copytree(tiny_sd, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": True,
        "scheduler": ["diffusers", "PNDMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    PNDMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    opened = open_pipeline(folder, device="cpu")
    assert_same(opened, pipe)
    assert opened.feature_extractor is None
    assert isinstance(opened.scheduler, PNDMScheduler)
    use_scheduler(opened, "ddim")
    assert opened.scheduler.config.clip_sample is False
    assert opened.scheduler.config.steps_offset == 1
    assert "safety" not in capfd.readouterr().err


@pytest.mark.parametrize("revision", [None, "some-branch", COMMIT])
def test_a_hub_id_with_a_revision_is_found_in_the_cache(hub_cache, pipe, revision, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache / "hub"))
    assert_same(open_pipeline(HUB_ID, revision=revision, device="cpu"), pipe)


def test_what_is_not_in_the_cache_is_one_line_that_names_it(hub_cache):
    done = subprocess.run(
        [sys.executable, "-c", RUN, HUB_ID, "some-branch", HUB_ID, "no-branch", "someone/else", "main"],
        env=os.environ | {"HF_HOME": str(hub_cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found, *errors = done.stdout.splitlines()
    assert found == "opened"
    assert len(errors) == 2
    assert errors[0].startswith(f"{HUB_ID}: cannot be loaded: ")
    assert errors[1].startswith("someone/else: cannot be loaded: ")


def test_stages_make_the_same_of_every_kind_of_model(single_file, hub_cache, tiny_sd, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache / "hub"))
    folder = shutil.copytree(tiny_sd, tmp_path / "folder", ignore=shutil.ignore_patterns(VOCABULARY_FILE))
    models = [
        {"id": str(folder)},
        {"id": str(single_file), "config": str(folder)},
        {"id": HUB_ID, "revision": "some-branch"},
    ]
    patches = []
    for number, model in enumerate(models):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        with pytest.warns(UserWarning, match=f"preserve.lists: {model['id']} has no {VOCABULARY_FILE}"):
            patches.append(erase(model))
    for other in patches[1:]:
        assert other.keys() == patches[0].keys()
        assert all(torch.equal(other[name], patches[0][name]) for name in other)


def erase(model: dict[str, str]) -> dict[str, torch.Tensor]:
    """Run encode, mine and solve in the working folder; return the K/V weights."""
    params = load_params()
    params = params.model_copy(
        update={
            "model": params.model.model_copy(update=model),
            "encode": params.encode.model_copy(update={"num_templates": 1}),
            "sampler": params.sampler.model_copy(update={"M": 1, "N": 1}),
        }
    )
    opened, files = params.model.model_dump(), place("airplane")
    pipe = open_pipeline(**opened | {"dtype": "float32"}, without=("unet", "vae"))
    table = encode_preset(load_preset("airplane"), params.encode, pipe, params.model.id)
    table.write(files.prompts)
    own = files.of("realera")
    samples, _ = sample(table, params.sampler)
    write_sums(target_sums(table, params.sampler, {}, lambda: [samples]), own.sums)
    solve(files, params, "airplane", partial(read_text_weights, opened))
    return read_safetensors(own.kv_patch)


# --- checkpoints that lack something ---


@pytest.fixture
def half(tiny_sd, tmp_path):
    """A folder whose weights have the names of the variant fp16 alone."""
    folder = shutil.copytree(tiny_sd, tmp_path / "half")
    for path in list(folder.rglob("*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    return folder


def test_a_folder_with_weights_in_half_precision_alone_is_opened(half, pipe):
    assert_same(open_pipeline(half, device="cpu"), pipe)
    found, wanted = read_text_weights({**MODEL, "id": str(half)}), read_text_weights({**MODEL, "id": pipe.name_or_path})
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("part", PARTS)
def test_one_component_in_half_precision_is_enough(tiny_sd, tmp_path, part, pipe):
    folder = shutil.copytree(tiny_sd, tmp_path / "half")
    (path,) = (folder / part).glob("*.safetensors")
    path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert_same(open_pipeline(folder, device="cpu"), pipe)
    if part != "unet":
        assert open_pipeline(folder, device="cpu", without=("unet", "vae")).unet is None


def test_a_hub_id_with_weights_in_half_precision_alone_is_opened(half, pipe, tmp_path, monkeypatch):
    model = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    shutil.copytree(half, model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert_same(open_pipeline(HUB_ID, device="cpu"), pipe)


@pytest.fixture
def without_scipy(tiny_sd, tmp_path, monkeypatch):
    """A model whose scheduler diffusers only has beside scipy, and diffusers without it: its own stand-in."""
    from diffusers.utils import dummy_torch_and_scipy_objects

    folder = shutil.copytree(tiny_sd, tmp_path / "lms")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "LMSDiscreteScheduler"]}))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "LMSDiscreteScheduler"}))
    monkeypatch.setattr("diffusers.LMSDiscreteScheduler", dummy_torch_and_scipy_objects.LMSDiscreteScheduler)
    return folder


def test_a_scheduler_that_another_one_replaces_is_not_needed(without_scipy, pipe):
    from realera.drawing.batch import draw

    opened = open_pipeline(without_scipy, device="cpu", scheduler="ddim")
    assert_same(opened, pipe)
    own = open_pipeline(pipe.name_or_path, device="cpu", scheduler="ddim")
    pictures = [next(draw(each, ["a photo of a cat"], [3], 3, 5.0)).tobytes() for each in (opened, own)]
    assert pictures[0] == pictures[1]
    assert open_pipeline(without_scipy, device="cpu", without=("unet", "vae")).text_encoder is not None
    alphas = open_pipeline(without_scipy, device="cpu", scheduler=None).scheduler.alphas_cumprod
    assert torch.equal(alphas, pipe.scheduler.alphas_cumprod)


def test_a_scheduler_that_is_asked_for_names_what_it_needs(without_scipy):
    with pytest.raises(ModelError) as caught:
        open_pipeline(without_scipy, device="cpu")
    message = str(caught.value)
    assert (
        "scheduler: found LMSDiscreteScheduler, which needs scipy; accepted: pip install scipy, or another" in message
    )
    assert "generate.scheduler, --scheduler: ddim, pndm" in message


def test_a_loader_s_message_is_not_cut_at_its_first_line(tiny_sd):
    from realera.store.checkpoints import load

    def loader(place, **options):
        raise ImportError("\nIt requires a library.\nInstall it with pip: `pip install library`\x1b[31m")

    with pytest.raises(ModelError) as caught:
        load(loader, "model", {})
    assert str(caught.value) == (
        "model: cannot be loaded: It requires a library. Install it with pip: `pip install library`\\x1b[31m"
    )
    with pytest.raises(ModelError, match=r"^model: cannot be loaded: x{600}\.\.\.$"):
        load(lambda place: (_ for _ in ()).throw(ValueError("x" * 2000)), "model", {})
