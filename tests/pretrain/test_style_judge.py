"""The style judge: its task on toy icons, its readings, and the checkpoint in data/models/tiny-style."""

import json
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModelForImageClassification, ResNetForImageClassification

from pretrain.style_judge import (
    MEAN,
    STD,
    VIEWS,
    StyleSampler,
    StyleTask,
    best_temperature,
    build_classifier,
    build_image_processor,
    calibrate_styles,
    calibration_error,
    confusion,
    evaluate_styles,
    split_icons,
    styleless,
    validation_views,
)
from pretrain.style_judge import read_styles as logits_of

VENDORS = ("noto", "blob", "flat", "firefox")
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def small(params):
    sizes = {"embedding_size": 8, "hidden_sizes": (8, 16), "batch_size": 20, "none_rate": 0.2}
    return params.style_judge.model_copy(update=sizes)


@pytest.fixture
def model(small) -> ResNetForImageClassification:
    torch.manual_seed(0)
    return build_classifier(small, VENDORS).eval()


# who is judged ---------------------------------------------------------------------------------------


def test_the_labels_are_the_generators_styles(params, tiny_sd):
    vocabulary = json.loads((tiny_sd / "vocabulary.json").read_text(encoding="utf-8"))
    assert list(params.render.styles) == vocabulary["styles"]
    assert not {"emojione", "contrast"} & set(params.render.styles)


def test_validation_icons_are_never_trained_on(params, icons):
    train, val = split_icons(icons, params)
    assert not set(train.icon_ids) & set(val.icon_ids)
    assert {*train.icon_ids, *val.icon_ids} == set(icons.icon_ids)
    assert 0.05 < len(val) / len(icons) < 0.3
    other = params.model_copy(update={"render": params.render.model_copy(update={"held_out": "noto"})})
    assert "noto" not in {vendor for part in split_icons(icons, other) for vendor in part.vendors}


def test_each_style_is_drawn_equally_often(icons, seeded):
    rare = icons.select([vendor != "noto" or i % 10 == 0 for i, vendor in enumerate(icons.vendors)])
    drawn = StyleSampler(rare).sample(4000, seeded())
    shares = pd.Series([rare.vendors[int(i)] for i in drawn]).value_counts(normalize=True)
    assert shares.to_numpy() == pytest.approx(np.full(4, 0.25), abs=0.03)


# training --------------------------------------------------------------------------------------------


def test_the_loss_follows_the_generator(small, icons, seeded):
    torch.manual_seed(0)
    task = StyleTask(build_classifier(small, VENDORS), icons, VENDORS, small, torch.device("cpu"))
    with torch.no_grad():
        first, again, other = (task.loss(seeded(seed)) for seed in (1, 1, 2))
    assert first["loss"].item() == pytest.approx(again["loss"].item(), rel=1e-4)
    assert first["loss"].item() != pytest.approx(other["loss"].item(), rel=1e-4)
    assert 0 <= first["accuracy"] <= 1


def test_it_learns_colors(small, icons, seeded):
    """Icons whose vendor decides the color are told apart after a few steps: the views keep their colors."""
    colors = torch.tensor([[200, 30, 30], [30, 160, 30], [40, 60, 200], [200, 190, 40]], dtype=torch.uint8)
    rgba = icons.rgba.clone()
    rgba[:, :3] = colors[[VENDORS.index(vendor) for vendor in icons.vendors]][:, :, None, None]
    colored = type(icons)(rgba, icons.icon_ids, icons.concepts, icons.tiers, icons.vendors)
    torch.manual_seed(0)
    task = StyleTask(build_classifier(small, VENDORS), colored, VENDORS, small, torch.device("cpu"))
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=0.01)
    accuracy = []
    for step in range(25):
        values = task.loss(seeded(step))
        values["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        accuracy.append(values["accuracy"].item())
    assert np.mean(accuracy[-5:]) > 0.9


def test_styleless_views_are_pictures(icons, seeded):
    views = (validation_views(icons.select([i < 4 for i in range(len(icons))]), 0) + 1) / 2
    broken = styleless(views, seeded())
    assert broken.shape == views.shape
    assert ((broken >= 0) & (broken <= 1)).all()
    assert ((broken - views).abs().amax((1, 2, 3)) > 0.05).all()
    assert torch.equal(broken, styleless(views, seeded()))


# readings --------------------------------------------------------------------------------------------


def test_calibration_divides_the_logits_and_moves_no_answer(model, small, icons):
    few = icons.select([i % 4 == 0 for i in range(len(icons))])
    pixels = validation_views(few, small.seed)
    before = logits_of(model, pixels)
    temperature = calibrate_styles(model, few, VENDORS, small)
    torch.testing.assert_close(logits_of(model, pixels) * temperature, before, rtol=1e-3, atol=1e-4)


@given(st.floats(0.3, 3))
@settings(deadline=None, max_examples=25)
def test_the_temperature_follows_the_scale_of_the_logits(scale):
    """Labels drawn from softmax(logits) ask for a temperature of 1, and for `scale` when the logits are scaled."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4000, 4, generator=generator)
    own = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert best_temperature(scale * logits, own) == pytest.approx(scale, rel=0.1)


def test_the_report_counts_views_and_shares(model, small, icons):
    report = evaluate_styles(model, icons, icons.of_vendor("noto"), VENDORS, small)
    assert report["validation_top1"]["images"] == VIEWS * len(icons)
    by_style = [report["by_style"][style]["mean"] for style in VENDORS]
    assert report["validation_top1"]["mean"] == pytest.approx(np.mean(by_style), abs=1e-3)
    for style in VENDORS:
        assert sum(report["confusion"][style].values()) == pytest.approx(1, abs=1e-3)
        assert report["confusion"][style][style] == pytest.approx(report["by_style"][style]["mean"], abs=1e-4)
    assert sum(report["held_out_read_as"].values()) == pytest.approx(1, abs=1e-3)


answers = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(answers)
@settings(deadline=None)
def test_a_confusion_row_is_a_distribution(pairs):
    read, own = (torch.tensor(column) for column in zip(*pairs, strict=True))
    table = confusion(read, own, VENDORS)
    assert set(table) == {VENDORS[i] for i in own.tolist()}
    for style, row in table.items():
        mine = [r for r, o in pairs if VENDORS[o] == style]
        for index, name in enumerate(VENDORS):
            assert row[name] == pytest.approx(mine.count(index) / len(mine), abs=1e-4)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
@settings(deadline=None)
def test_the_calibration_error_is_between_the_overall_gap_and_one(pairs):
    confidence = torch.tensor([c for c, _ in pairs], dtype=torch.float64)
    right = torch.tensor([r for _, r in pairs])
    error = calibration_error(confidence, right)
    assert abs(confidence.mean() - right.double().mean()) - 1e-9 <= error <= 1 + 1e-9
    assert calibration_error(right.double(), right) == pytest.approx(0)


# the checkpoint --------------------------------------------------------------------------------------


def test_stock_transformers_loads_it(tiny_style, params):
    model = AutoModelForImageClassification.from_pretrained(tiny_style)
    processor = AutoImageProcessor.from_pretrained(tiny_style, backend="pil")
    assert isinstance(model, ResNetForImageClassification)
    assert model.dtype is torch.float32
    assert list(model.config.id2label.values()) == list(params.render.styles)
    picture = Image.new("RGBA", (96, 80), (200, 30, 30, 255))
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels[0, 0].unique().numpy() == pytest.approx([(200 / 255 - MEAN) / STD], abs=1e-4)
    with torch.no_grad():
        probabilities = model.eval()(pixel_values=pixels).logits.softmax(-1)
    assert probabilities.isfinite().all()


def test_the_processor_is_the_one_of_training(tiny_style):
    saved = AutoImageProcessor.from_pretrained(tiny_style, backend="pil").to_dict()
    assert saved == build_image_processor().to_dict() | {key: saved[key] for key in saved if key.startswith("_")}


def test_it_is_small_and_in_half_precision(tiny_style):
    files = [path for path in tiny_style.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "README.md", "config.json", "evaluation.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in files) < 3 * MEGABYTE
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 2 * MEGABYTE
    with safe_open(tiny_style / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} <= {"F16", "I64"}  # noqa: SIM118


def test_it_tells_streamline_from_the_others(tiny_style, params):
    report = json.loads((tiny_style / "evaluation.json").read_text(encoding="utf-8"))
    assert set(report["by_style"]) == set(params.render.styles)
    assert report["validation_top1"]["low"] > 3 / 7  # three times what guessing gives
    assert report["by_style"]["streamline"]["low"] > 0.8
    assert max(row["streamline"] for name, row in report["confusion"].items() if name != "streamline") < 0.02
