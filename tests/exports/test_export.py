import dataclasses
import re
from pathlib import Path

import pytest

from realera.erasures.apply import apply_erasure
from realera.erasures.finished import find_erasure
from realera.exports.card import Options, write_card
from realera.exports.export import UNET_FILE
from realera.families.stable_diffusion import open_pipeline
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from tests.kit.erasure_project import STEPS, draw

FORMATS = ["pipeline", "kv", "lora", "single-file"]


@pytest.fixture(scope="module")
def expected(tiny_sd, own):
    """The images of the erased model, drawn as the stage `generate` draws them."""
    pipe = open_pipeline(tiny_sd, device="cpu")
    apply_erasure(pipe, own.erasure)
    return draw(pipe)


def follow_card(folder, base):
    """Do what the card's Python lines say, with stock diffusers, and return their pipeline."""
    code = re.search("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    names = {'"this-folder': f'"{folder}', '"data/models/tiny-sd"': f'"{base}"'}
    for file in folder.glob("*.safetensors"):
        names[f'"{file.name}"'] = f'"{file}"'
    for name, place in names.items():
        code = code.replace(name, place)
    scope = {}
    exec(code, scope)
    assert scope["image"].size == (64, 64)
    return scope["pipe"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("keep_lora", [False, True])
def test_images_of_the_reloaded_export_are_those_of_generate(format, keep_lora, run, tmp_path, tiny_sd, own, expected):
    out = tmp_path / "out"
    result = run("export", "airplane", "--format", format, "--out", out, *["--keep-lora"] * keep_lora)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}\n"
    pipe = follow_card(out, tiny_sd)
    if format == "kv" and keep_lora:
        pipe.load_lora_weights(own.erasure / "adapter")
    difference = abs(draw(pipe) - expected)
    is_exact = format in ("pipeline", "kv") and not keep_lora
    assert difference.max() <= (0 if is_exact else 2)  # of 255: an adapter rounds differently


def test_half_precision_halves_the_unet_and_draws_the_same_picture(run, tmp_path, tiny_sd, expected):
    for dtype in ("float32", "float16"):
        assert run("export", "airplane", "--dtype", dtype, "--out", tmp_path / dtype).exit_code == 0
    sizes = [(tmp_path / dtype / UNET_FILE).stat().st_size for dtype in ("float32", "float16")]
    assert 1.95 < sizes[0] / sizes[1] < 2.05
    assert abs(draw(follow_card(tmp_path / "float16", tiny_sd)) - expected).mean() < 1


def test_card_says_what_how_and_how_well(run, tmp_path):
    run("export", "airplane", "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    params = load_params()
    for text in (
        "`data/models/tiny-sd`",
        "SHA-256 of the UNet's weights `",
        " -> ".join(load_preset("airplane").pairs()[0]),
        ", ".join(load_preset("airplane").all_synonyms()),
        f"{STEPS} steps, guidance 5",
        f"sampler.D1: {params.sampler.D1}",
        f"lora.learning_rate: {params.lora.learning_rate}",
        "| Acc_e | probability | 12.3 [10.0, 15.0] | 12.3 [10.0, 15.0] | +12.3 [+10.0, +15.0] | 40 |",
    ):
        assert text in card
    assert "base_model:" not in card  # a key for models of the hub only
    assert str(Path.home()) not in card
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "out").rglob("*.json"))


@pytest.mark.usefixtures("run")
def test_a_card_shows_names_that_look_like_tags(tmp_path):
    preset = load_preset("airplane").model_copy(update={"targets": ("<my-plane>",), "synonyms": {}})
    erasure = dataclasses.replace(find_erasure("airplane", load_params(), "realera"), preset=preset)
    write_card(erasure, "kv", Options(), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "# \\<my-plane> erased from data/models/tiny-sd" in card
    assert "Asked for \\<my-plane>, or for it" in card
    assert "| \\<my-plane> -> sun |" in card
    assert 'pipe("a photo of the <my-plane>"' in card


def test_without_scores_the_card_says_so(run, tmp_path, own):
    own.summary.rename(own.root / "kept")
    try:
        assert run("export", "airplane", "--format", "lora", "--out", tmp_path / "out").exit_code == 0
    finally:
        (own.root / "kept").rename(own.summary)
    assert "Not scored; `dvc repro score@realera-airplane`" in (tmp_path / "out" / "README.md").read_text()
