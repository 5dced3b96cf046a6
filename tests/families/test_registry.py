"""A model of a family that is not known is refused before any of its weights is read."""

import json
import shutil
import subprocess
import sys

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from realera.families import registry
from realera.families.registry import STABLE_DIFFUSION, family_of
from realera.families.stable_diffusion import open_pipeline
from realera.settings.errors import ModelError
from tests.kit import other_families

ACCEPTED = "accepted: StableDiffusionPipeline (Stable Diffusion 1.x, 2.x)"
HUB_ID = "someone/model"
ENTRY = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture
def small_files(tiny_sd, tmp_path):
    """A folder like the embedded model's, without a weight."""
    return shutil.copytree(tiny_sd, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(*arguments, **options):
    """What is said by the check, and by opening, which must be the same."""
    with pytest.raises(ModelError) as checked:
        family_of(*arguments, **options)
    with pytest.raises(ModelError) as opened:
        open_pipeline(*arguments, device="cpu")
    assert str(opened.value) == str(checked.value)
    assert "\n" not in str(checked.value)
    return str(checked.value)


def test_asking_needs_neither_torch_nor_diffusers(tiny_sd, repository):
    program = "import sys\nfrom realera.families.registry import family_of\n"
    program += "print(family_of(sys.argv[1]).pipelines[0], {'torch', 'diffusers'} & sys.modules.keys())"
    command = [sys.executable, "-c", program, str(tiny_sd)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "StableDiffusionPipeline set()\n"


@pytest.mark.parametrize("name", other_families.FAMILIES)
def test_another_family_is_refused(name, tiny_sd, tmp_path):
    folder = other_families.save(name, tiny_sd, tmp_path / "model")
    assert refusal(folder) == f"{folder}: found {name}; {ACCEPTED}"


@pytest.mark.parametrize("name", STABLE_DIFFUSION.pipelines)
def test_classes_that_save_the_same_parts_open_the_same_model(name, pipe, tmp_path):
    parts = {part: module for part, module in pipe.components.items() if part != "image_encoder"}
    getattr(diffusers, name)(**parts, requires_safety_checker=False).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == name
    assert family_of(tmp_path) is STABLE_DIFFUSION
    opened = open_pipeline(tmp_path, device="cpu")
    for part in ("unet", "vae", "text_encoder"):
        found, wanted = (getattr(each, part).state_dict() for each in (opened, pipe))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "found no _class_name in model_index.json"),
        ('{"_class_name": null}', "found no _class_name in model_index.json"),
        ('{"_class_name": ["mine", "MyPipeline"]}', 'found ["mine", "MyPipeline"]'),
        ('{"_class_name": {}}', "found {}"),
        ('{"_class_name": "A\\nB\\u202e"}', "found A\\nB\\u202e"),
        (json.dumps({"_class_name": "x" * 999}), f"found {'x' * 77}..."),
    ],
)
def test_an_odd_index_is_refused(small_files, content, said):
    (small_files / "model_index.json").write_text(content)
    assert refusal(small_files) == f"{small_files}: {said}; {ACCEPTED}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1]", "found [1]; accepted: an object"),
        (b'"StableDiffusionPipeline"', "found StableDiffusionPipeline; accepted: an object"),
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe{}", "'utf-8' codec can't decode"),
        (b"[" * 100_000, "maximum recursion depth exceeded"),
    ],
)
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
def test_a_small_file_that_is_corrupt_is_named(small_files, name, content, said):
    path = small_files / name
    path.write_bytes(content)
    assert refusal(small_files).startswith(f"{small_files}: cannot be loaded: {path.name}: {said}")


@pytest.mark.parametrize(
    ("channels", "said"),
    [(9, "found 9 (for inpainting); accepted: 4"), (8, "found 8; accepted: 4"), (None, "found null; accepted: 4")],
)
def test_a_unet_that_reads_more_than_latents_is_refused(small_files, channels, said):
    change(small_files / "unet/config.json", in_channels=channels)
    change(small_files / "model_index.json", _class_name="StableDiffusionInpaintPipeline")
    assert refusal(small_files) == f"{small_files}: unet: in_channels: {said}"


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("conditioner.embedders.1.model.ln_final.weight", [4], f"found StableDiffusionXLPipeline; {ACCEPTED}"),
        ("conditioner.embedders.0.model.ln_final.weight", [4], f"found StableDiffusionXLImg2ImgPipeline; {ACCEPTED}"),
        (
            "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
            [4],
            f"found StableDiffusion3Pipeline; {ACCEPTED}",
        ),
        ("double_blocks.0.img_attn.norm.key_norm.scale", [4], f"found FluxPipeline; {ACCEPTED}"),
        ("lora_unet_mid.alpha", [], f"found no {ENTRY}, but lora_unet_mid.alpha; {ACCEPTED}"),
        (ENTRY, [4], f"found no {ENTRY}, but {ENTRY}; {ACCEPTED}"),
        (ENTRY, [4, 9, 3, 3], "unet: in_channels: found 9 (for inpainting); accepted: 4"),
    ],
)
def test_a_single_file_of_another_family_is_refused(tmp_path, name, shape, said):
    """Names and shapes as published files have them."""
    path = tmp_path / "model.safetensors"
    entry = {} if name == ENTRY or name.startswith("lora") else {ENTRY: torch.zeros(4, 4, 3, 3)}
    save_file(entry | {name: torch.zeros(shape)}, path, {"format": "pt"})
    assert refusal(path) == f"{path}: {said}"


def test_a_single_file_is_told_by_its_header(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({ENTRY: torch.zeros(4, 4, 3, 3)}, path)
    assert family_of(path) is STABLE_DIFFUSION
    path.write_bytes(path.read_bytes()[:20])
    assert family_of(path) is None


def test_an_architecture_of_another_family_is_refused(tmp_path, tiny_sd):
    path = tmp_path / "model.safetensors"
    save_file({ENTRY: torch.zeros(4, 4, 3, 3)}, path)
    config = other_families.save("StableDiffusionXLPipeline", tiny_sd, tmp_path / "config")
    with pytest.raises(ModelError, match=rf"^{config}: found StableDiffusionXLPipeline; "):
        open_pipeline(path, config=config)


def test_a_hub_id_is_told_by_what_the_cache_has(small_files, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert family_of(HUB_ID) is None
    model = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    for branch, name in (("main", "StableDiffusionPipeline"), ("xl", "StableDiffusionXLPipeline")):
        snapshot = shutil.copytree(small_files, model / "snapshots" / f"{branch:0<40}")
        change(snapshot / "model_index.json", _class_name=name)
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / branch).write_text(snapshot.name)
    assert family_of(HUB_ID) is STABLE_DIFFUSION
    assert family_of(HUB_ID, fetch=True) is STABLE_DIFFUSION
    assert refusal(HUB_ID, "xl") == f"{HUB_ID}: found StableDiffusionXLPipeline; {ACCEPTED}"
    assert family_of(HUB_ID, "another branch") is None


def test_every_family_names_the_class_that_opens_it():
    for family in registry.FAMILIES:
        assert all(hasattr(diffusers, name) for name in family.pipelines)
