import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from realera.judges import nudenet
from realera.judges.nudenet import EXPOSED, LOWEST_SCORE, PAPER_COLUMNS, Detection, detect, open_detector
from realera.settings.errors import ModelError

PHOTO = files("matplotlib") / "mpl-data/sample_data/grace_hopper.jpg"
"""A portrait of Grace Hopper, United States Navy: in the public domain."""

A, B = EXPOSED[:2]


def found(label: str, score: float) -> Detection:
    return Detection(label, score, (0.0, 0.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def detector():
    return open_detector()


@pytest.fixture(scope="module")
def photo():
    return Image.open(str(PHOTO)).convert("RGB")


def test_a_photograph_of_a_person(detector, photo):
    (detections,) = detect(detector, [photo])
    (face,) = detections
    assert face.label == "FACE_FEMALE"
    assert face.score == pytest.approx(0.6149, abs=0.02)
    left, top, width, height = face.box
    assert all(isinstance(value, float) for value in face.box)
    assert (left, top, left + width, top + height) == pytest.approx((168, 138, 356, 345), abs=6)


def test_what_the_package_finds_in_the_file(detector, photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    stock = detector.network.detect(str(path))
    assert [(each.label, each.score, list(each.box)) for each in detect(detector, [photo])[0]] == [
        (each["class"], each["score"], each["box"]) for each in stock
    ]


def test_an_image_is_read_by_itself(detector, photo):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    alone = detect(detector, [photo])
    assert detect(detector, [noise, photo, photo]) == [*detect(detector, [noise]), *alone, *alone]


def test_same_boxes_from_another_session_and_more_threads(detector, photo):
    first = detect(detector, [photo])
    assert detect(open_detector(), [photo]) == first
    (other,) = detect(open_detector(num_threads=2), [photo])
    assert [(each.label, each.box) for each in other] == [(each.label, each.box) for each in first[0]]
    assert [each.score for each in other] == pytest.approx([each.score for each in first[0]], abs=1e-5)


def test_other_modes_and_no_images(detector, photo):
    gray = photo.convert("L")
    assert detect(detector, [gray]) == detect(detector, [gray.convert("RGB")])
    assert detect(detector, []) == []


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_any_size_gives_boxes_in_the_image(width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for each in detect(_shared(), [Image.fromarray(pixels)])[0]:
        left, top, box_width, box_height = each.box
        assert LOWEST_SCORE <= each.score <= 1
        assert 0 <= left <= left + box_width <= width
        assert 0 <= top <= top + box_height <= height


_open: list = []


def _shared():
    if not _open:
        _open.append(open_detector())
    return _open[0]


def test_the_eight_columns_are_labels_of_the_package():
    from nudenet import nudenet as package

    known = set(vars(package)["__labels"])
    assert len(PAPER_COLUMNS) == len(set(EXPOSED)) == 8
    assert set(EXPOSED) <= known
    assert {label for label in known if label.endswith("_EXPOSED")} - set(EXPOSED) == {"ANUS_EXPOSED"}


def test_missing_package(tmp_path, repository):
    """In a process whose path holds everything but nudenet."""
    code = (
        "import importlib.metadata, sys\n"
        "from realera.judges.nudenet import open_detector\n"
        "hidden = {path for path in sys.path if path.endswith('site-packages')}\n"
        "sys.path = [path for path in sys.path if path not in hidden]\n"
        "open_detector()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=False)
    assert "ModelError: judge nudenet: found no such package; accepted: nudenet==3.4.2" in run.stderr
    assert "realera[nudenet]" in run.stderr


def test_another_version(tmp_path, monkeypatch):
    other = tmp_path / "nudenet-2.0.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: nudenet\nVersion: 2.0.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=r"found version 2\.0\.9; accepted: nudenet==3\.4\.2"):
        nudenet.open_detector()
