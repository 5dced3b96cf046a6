import numpy as np
import pytest
from PIL import Image

from realera.drawing.batch import draw, image_grid
from realera.text.vocabulary import UnknownWordsWarning

PROMPTS = [
    "a photo of a cat",
    "a photo of a car",
    "a photo of a house",
    "a photo of a cat",
    "a photo of a tree",
]
SEEDS = [3, 4, 5, 6, 2**32 - 1]


def pixels(pipe, prompts, seeds, batch_size):
    images = draw(pipe, prompts, seeds, 4, 5.0, batch_size)
    return np.stack([np.asarray(image).astype(int) for image in images])


def test_batch_size_and_order_do_not_change_what_is_drawn(pipe):
    together = pixels(pipe, PROMPTS, SEEDS, batch_size=5)
    assert together.shape == (5, 64, 64, 3)
    by_two = pixels(pipe, PROMPTS, SEEDS, batch_size=2)
    backwards = pixels(pipe, PROMPTS[::-1], SEEDS[::-1], batch_size=3)[::-1]
    assert abs(together - by_two).max() <= 1
    assert abs(together - backwards).max() <= 1


def test_the_same_call_gives_the_same_bytes(pipe):
    first, second = (pixels(pipe, PROMPTS, SEEDS, batch_size=3) for _ in range(2))
    assert (first == second).all()


def test_seed_and_prompt_change_the_image(pipe):
    images = pixels(pipe, ["a photo of a cat"] * 2 + ["a photo of a car"], [1, 2, 1], batch_size=3)
    assert (images[0] != images[1]).any()
    assert (images[0] != images[2]).any()


def test_unknown_words_warn_once_before_drawing(pipe):
    with pytest.warns(UnknownWordsWarning, match="'xylographer'") as caught:
        draw(pipe, ["a xylographer"] * 3, [0, 1, 2], 1, 1.0)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"seeds": [1, 2]}, "1 prompts and 2 seeds"),
        ({"batch_size": 0}, "1 or more"),
        ({"num_inference_steps": 0}, "1 or more"),
    ],
)
def test_bad_numbers_fail_at_once(pipe, changed, expected):
    arguments = {"prompts": ["a cat"], "seeds": [1], "num_inference_steps": 1, "guidance_scale": 1.0}
    with pytest.raises(ValueError, match=expected):
        draw(pipe, **(arguments | changed))


def test_no_prompts_no_images(pipe):
    assert list(draw(pipe, [], [], 1, 1.0)) == []


def test_grid_is_filled_row_by_row():
    colors = ["red", "lime", "blue"]
    grid = image_grid([Image.new("RGB", (2, 3), color) for color in colors], columns=2)
    assert grid.size == (4, 6)
    corners = [grid.getpixel(place) for place in ((0, 0), (2, 0), (0, 3), (2, 3))]
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


@pytest.mark.parametrize("seeds", [[-1], [0, 2**32], [2**64]])
def test_seeds_that_would_repeat_others_are_refused(pipe, seeds):
    with pytest.raises(ValueError, match=r"found seeds .*; accepted: 0 to 4294967295"):
        draw(pipe, ["a cat"] * len(seeds), seeds, 1, 1.0)
