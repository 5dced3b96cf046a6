import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from realera.judges.classifier import check_labels, class_probabilities, labels, open_classifier
from realera.settings.errors import ConfigError, ModelError

NAMES = ("oil", "ink", "chalk")
SIZE = {"height": 32, "width": 32}


def save_resnet(folder, names=NAMES):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return _save(ResNetForImageClassification, config, folder, names)


def save_vit(folder, names=NAMES):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return _save(ViTForImageClassification, ViTConfig(image_size=32, patch_size=8, **sizes), folder, names)


def _save(kind, config, folder, names):
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    kind(config).save_pretrained(folder)
    ViTImageProcessorPil(size=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def classifier(folder):
    return open_classifier(folder, device="cpu")


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(5)]


@pytest.mark.parametrize("save", [save_resnet, save_vit])
def test_probabilities_are_those_of_the_stock_model(save, tmp_path, images):
    model, processor = open_classifier(save(tmp_path), device="cpu")
    ours = class_probabilities(model, processor, images, batch_size=2)
    stock = type(model).from_pretrained(tmp_path).eval()
    pixels = ViTImageProcessorPil(size=SIZE)(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = stock(pixels).logits.softmax(dim=-1).numpy()
    assert ours.dtype == np.float64
    assert ours.shape == (5, 3)
    assert np.allclose(ours.sum(axis=1), 1)
    assert np.allclose(ours, expected, atol=1e-5)
    assert np.ptp(ours, axis=0).max() > 1e-3  # the images differ, and the model looks at them


def test_no_warning(folder, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_classifier(folder, device="cpu")
    assert "torchvision" not in "".join(capfd.readouterr())


def test_a_processor_saved_for_torchvision(folder, tmp_path, images, classifier):
    """Checkpoints of the hub name processors that are not installed here."""
    save_resnet(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor_type": "ViTImageProcessorFast"}))
    model, processor = open_classifier(tmp_path, device="cpu")
    assert np.array_equal(class_probabilities(model, processor, images), class_probabilities(*classifier, images))


def test_other_image_modes_are_read_as_rgb(classifier, images):
    gray = images[0].convert("L")
    both = class_probabilities(*classifier, [gray, gray.convert("RGB")])
    assert np.array_equal(both[0], both[1])


def test_no_images(classifier):
    assert class_probabilities(*classifier, []).shape == (0, 3)


def test_labels_are_in_the_order_of_outputs(tmp_path, classifier):
    assert labels(classifier[0]) == NAMES
    names = tuple(f"class {index}" for index in range(12))  # as text, 10 would stand before 2
    assert labels(open_classifier(save_vit(tmp_path, names), device="cpu")[0]) == names


def test_wanted_labels():
    check_labels(NAMES, ("ink",), "judge.style x")
    check_labels(NAMES, (), "judge.style x")
    with pytest.raises(
        ConfigError, match=r"^judge\.style x: no class 'tar', 'soot'; accepted: .*'oil', 'ink', 'chalk'"
    ):
        check_labels(NAMES, ("ink", "tar", "soot"), "judge.style x")
    with pytest.raises(ConfigError, match="several classes 'crane'"):
        check_labels(("crane", "crane", "maillot"), ("crane",), "judge.style x")
    check_labels(("crane", "crane", "maillot"), ("maillot",), "judge.style x")


@given(st.lists(st.text(), unique=True), st.lists(st.text()))
def test_exactly_the_known_labels_pass(found, wanted):
    if set(wanted) <= set(found):
        check_labels(found, wanted, "x")
    else:
        with pytest.raises(ConfigError) as caught:
            check_labels(found, wanted, "x")
        assert repr(next(name for name in wanted if name not in found)) in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(ModelError, match="no such model"):
        open_classifier(tmp_path / "absent")


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ModelError, match=r"not an image-classification model: no config\.json .* holds notes\.txt"):
        open_classifier(tmp_path)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "model.safetensors"])
def test_a_file_is_missing(tmp_path, name):
    save_resnet(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded: .*(processor|safetensors)"):
        open_classifier(tmp_path)


def test_only_pickled_weights(tmp_path):
    save_resnet(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_classifier(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00\xfe"])
def test_corrupt_file(tmp_path, name, content):
    save_resnet(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        open_classifier(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_the_classifying_head(tiny_clip):
    with pytest.raises(ModelError, match=r"weights are missing, among them classifier\.bias"):
        open_classifier(tiny_clip)
