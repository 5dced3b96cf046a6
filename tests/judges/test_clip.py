import numpy as np
import pytest
import torch
from PIL import Image

from realera.judges.clip import class_probabilities, image_features, paired_scores, text_features

PROMPTS = ["a photo of a cat", "a photo of a car", "a photo of a house"]


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(5)]


def test_features_are_unit_vectors(judge, images):
    model, processor = judge
    width = model.config.projection_dim
    images_nd = image_features(model, processor, images, batch_size=2)
    prompts_pd = text_features(model, processor, PROMPTS)
    assert (images_nd.shape, prompts_pd.shape) == ((5, width), (3, width))
    for features in (images_nd, prompts_pd):
        assert torch.allclose(features.norm(dim=-1), torch.ones(len(features)), atol=1e-5)


def test_probabilities_are_those_of_stock_clip(judge, images):
    model, processor = judge
    ours = class_probabilities(model, processor, images, PROMPTS, batch_size=2)
    inputs = processor(text=PROMPTS, images=images, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        stock = model(**inputs).logits_per_image.softmax(dim=-1).numpy()
    assert ours.dtype == np.float64
    assert np.allclose(ours.sum(axis=1), 1)
    assert np.allclose(ours, stock, atol=1e-4)


def test_other_image_modes_are_read_as_rgb(judge, images):
    model, processor = judge
    gray = images[0].convert("L")
    both = class_probabilities(model, processor, [gray, gray.convert("RGB")], PROMPTS)
    assert np.allclose(both[0], both[1])


def test_no_images(judge):
    assert class_probabilities(*judge, [], PROMPTS).shape == (0, 3)


def test_scores_are_the_stock_logits_of_each_image_with_its_own_text(judge, images):
    model, processor = judge
    prompts = [*PROMPTS, PROMPTS[0], "a photo of a house, a very long one " * 20]
    ours = paired_scores(model, image_features(*judge, images), text_features(*judge, prompts))
    inputs = processor(text=prompts, images=images, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        stock = model(**inputs).logits_per_image.diagonal().numpy()
    assert ours.dtype == np.float64
    assert ours.shape == (5,)
    assert np.allclose(ours, stock, atol=1e-3)
    assert np.ptp(ours) > 0.01
