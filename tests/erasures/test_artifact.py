"""The folder of an erasure: what comes back from it, and what is refused."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from realera.erasures.artifact import (
    ADAPTER_FOLDER,
    INDEX,
    LORA_FILE,
    OVERLAY,
    REPORT,
    BaseModelId,
    Description,
    Erasure,
    describe,
    gather,
    read_erasure,
    weights_sha256,
)
from realera.settings.errors import ArtifactError

ADAPTER = f"{ADAPTER_FOLDER}/{LORA_FILE}"
WEIGHTS = {"a.to_k.weight": torch.arange(6.0).reshape(2, 3), "a.to_v.weight": torch.full((3, 2), 0.1)}
LORA = {"unet.a.to_k.lora_A.weight": torch.ones(1, 3), "unet.a.to_k.lora_B.weight": torch.ones(2, 1)}
METADATA = {"format": "pt", "lora_adapter_metadata": '{"unet.r": 1}'}
ABOUT = Description(
    method="uce",
    family="stable_diffusion",
    base=BaseModelId(id="data/models/tiny-sd", sha256=weights_sha256(WEIGHTS)),
    pairs=(("airplane", "sun"), ("Flugzeug \u2708", "")),
    parameters={"uce": {"lamb": 0.5, "preserve_scale": None, "reading": "current"}},
)
WHOLE = Erasure(ABOUT, WEIGHTS, LORA, METADATA, {"rows": 3})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def folder(tmp_path):
    WHOLE.save(tmp_path / "erasure")
    return tmp_path / "erasure"


def refusal(folder) -> str:
    """What reading says: one line."""
    with pytest.raises(ArtifactError) as caught:
        read_erasure(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- round trip


def test_what_is_saved_comes_back(folder):
    assert sorted(content(folder)) == sorted([INDEX, OVERLAY, ADAPTER, REPORT])
    found = read_erasure(folder)
    assert found.about.model_copy(update={"parts": {}}) == ABOUT
    parts = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (OVERLAY, ADAPTER)}
    assert found.about.parts == parts
    assert found.about == describe(folder)
    assert_same(found.overlay, WEIGHTS)
    assert_same(found.adapter, LORA)
    assert dict(found.adapter_metadata) == METADATA
    assert found.source == str(folder)
    assert json.loads((folder / REPORT).read_text()) == {"rows": 3}


def test_equal_erasures_are_equal_bytes(folder, tmp_path):
    """In whatever order a method has its weights, and after a round trip; DVC runs nothing again then."""
    turned = Erasure(ABOUT, dict(reversed(WEIGHTS.items())), dict(reversed(LORA.items())), METADATA, {"rows": 3})
    turned.save(tmp_path / "again")
    replace(read_erasure(folder), report={"rows": 3}).save(tmp_path / "third")
    assert content(tmp_path / "again") == content(tmp_path / "third") == content(folder)


names = st.text(st.sampled_from("abcz.0_\u00e9"), min_size=1, max_size=12)
shapes = st.lists(st.integers(0, 3), max_size=3)


@st.composite
def tensors(draw):
    found = {}
    for name in draw(st.lists(names, max_size=4, unique=True)):
        shape, dtype = draw(shapes), draw(st.sampled_from([torch.float32, torch.float32, torch.float16]))
        size = int(torch.Size(shape).numel())
        numbers = st.floats(width=16, allow_nan=False, allow_infinity=False)
        values = draw(st.lists(numbers, min_size=size, max_size=size))
        found[name] = torch.tensor(values, dtype=torch.float32).reshape(shape).to(dtype)
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    overlay=tensors(),
    adapter=tensors(),
    metadata=st.dictionaries(names, st.text(max_size=5), max_size=2),
    pairs=st.lists(st.tuples(names, st.text(st.characters(exclude_categories=["Cs"]), max_size=5)), max_size=3),
)
def test_any_erasure_comes_back(tmp_path_factory, overlay, adapter, metadata, pairs):
    folder = tmp_path_factory.mktemp("any")
    erasure = Erasure(ABOUT.model_copy(update={"pairs": tuple(pairs)}), overlay, adapter, metadata)
    for name in ("a", "b"):
        erasure.save(folder / name)
    assert content(folder / "a") == content(folder / "b")
    found = read_erasure(folder / "a")
    assert_same(found.overlay, overlay)
    assert_same(found.adapter, adapter)
    assert dict(found.adapter_metadata) == (metadata if adapter else {})
    assert found.about.pairs == tuple(pairs)
    assert set(found.about.parts) == ({OVERLAY} if overlay else set()) | ({ADAPTER} if adapter else set())
    found.save(folder / "c")
    assert content(folder / "c") == content(folder / "a")


def test_weights_are_hashed_by_names_and_values():
    digest = weights_sha256(WEIGHTS)
    assert weights_sha256(dict(reversed(WEIGHTS.items()))) == digest
    assert weights_sha256({name: weight.T.contiguous().T for name, weight in WEIGHTS.items()}) == digest
    name, weight = next(iter(WEIGHTS.items()))
    for other in ({**WEIGHTS, name: weight + 1e-6}, {f"{name}x": weight}, {}):
        assert weights_sha256(other) != digest


# --- what is refused


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", [OVERLAY, ADAPTER])
@pytest.mark.parametrize("damage", [cut, empty, turn_a_bit])
def test_other_bytes_than_the_index_names_are_refused(folder, name, damage):
    damage(folder / name)
    assert refusal(folder) == (
        f"{folder / name}: found other bytes than erasure.json names; it belongs to another erasure"
    )


@pytest.mark.parametrize("name", [INDEX, OVERLAY, ADAPTER])
@pytest.mark.parametrize(("damage", "found"), [(Path.unlink, "nothing"), (put_a_folder, "a folder")])
def test_a_missing_part_is_refused(folder, name, damage, found):
    damage(folder / name)
    assert refusal(folder) == f"{folder / name}: a file is needed here, found {found}"


@pytest.mark.parametrize("name", [OVERLAY, ADAPTER])
@pytest.mark.parametrize("damage", [cut, empty])
def test_a_broken_part_is_refused_though_its_hash_is_right(folder, name, damage):
    damage(folder / name)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change_index(folder, parts=index(folder)["parts"] | {name: digest})
    assert refusal(folder).startswith(f"{folder / name}: not a readable safetensors file: ")


def test_a_part_of_another_erasure_is_refused(folder, tmp_path):
    other = replace(WHOLE, overlay={name: weight + 1 for name, weight in WEIGHTS.items()})
    other.save(tmp_path / "other")
    (tmp_path / "other" / OVERLAY).rename(folder / OVERLAY)
    assert refusal(folder).startswith(f"{folder / OVERLAY}: found other bytes than erasure.json names")


def index(folder: Path) -> dict:
    return json.loads((folder / INDEX).read_text())


def change_index(folder: Path, **values) -> None:
    (folder / INDEX).write_text(json.dumps(index(folder) | values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": 2}, "format: found 2; accepted: 1"),
        ({"format": "1"}, 'format: found "1"; accepted: 1'),
        ({"author": "me"}, "author: unknown key; accepted: format, "),
        ({"base": {"id": "x", "sha": ""}}, "base.sha: unknown key; did you mean sha256?"),
        ({"base": {"id": "x", "sha256": "abc"}}, 'base.sha256: found "abc"; accepted: '),
        ({"parts": {"../overlay.safetensors": "0" * 64}}, "parts: found "),
        ({"pairs": [["a"]]}, "pairs.0.1: "),
        ({"pairs": [["a", 1]]}, "pairs.0.1: found 1; accepted: "),
        ({"method": ""}, 'method: found ""; accepted: '),
        ({"guidance": 3}, "guidance: found 3; accepted: "),
    ],
)
def test_an_index_that_is_none_is_refused(folder, values, said):
    change_index(folder, **values)
    assert refusal(folder).startswith(f"{folder / INDEX}: {said}")


@pytest.mark.parametrize("key", ["method", "family", "base", "pairs", "parameters"])
def test_an_index_that_lacks_a_key_is_refused(folder, key):
    values = index(folder)
    del values[key]
    (folder / INDEX).write_text(json.dumps(values))
    assert refusal(folder).startswith(f"{folder / INDEX}: {key}: ")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"\\ud800"', "\udcff"])
def test_what_is_no_json_or_no_index_is_refused(folder, text):
    (folder / INDEX).write_bytes(text.encode(errors="surrogateescape"))
    assert refusal(folder).startswith(f"{folder / INDEX}: ")


def test_no_folder_at_all(tmp_path):
    assert refusal(tmp_path / "none") == f"{tmp_path / 'none' / INDEX}: a file is needed here, found nothing"


# --- where it is written


def test_something_else_is_not_overwritten(tmp_path):
    """Not even by an erasure: who names the wrong folder loses nothing."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("1")
    (tmp_path / "file").write_text("2")
    before = content(tmp_path)
    for name in ("thesis", "file"):
        with pytest.raises(ArtifactError, match=re.escape(f"{tmp_path / name}: found something that is no erasure")):
            WHOLE.save(tmp_path / name)
        with pytest.raises(ArtifactError, match=re.escape(f"{tmp_path / name}: found something that is no erasure")):
            gather(ABOUT, None, None, tmp_path / name)
    assert content(tmp_path) == before


def test_an_earlier_erasure_is_replaced_as_a_whole(folder):
    (folder / "note.txt").write_text("mine")
    smaller = Erasure(ABOUT, WEIGHTS)
    smaller.save(folder)
    assert sorted(content(folder)) == sorted([INDEX, OVERLAY])
    assert_same(read_erasure(folder).overlay, WEIGHTS)
    assert read_erasure(folder).adapter == {}


def test_an_empty_folder_is_taken(tmp_path):
    WHOLE.save(tmp_path)
    assert_same(read_erasure(tmp_path).overlay, WEIGHTS)


# --- gathered from files


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "lora").mkdir()
    save_file(WEIGHTS, tmp_path / "kv.safetensors")
    save_file(LORA, tmp_path / "lora" / LORA_FILE, METADATA)
    return tmp_path / "kv.safetensors", tmp_path / "lora"


def test_gathered_parts_keep_their_bytes(parts, tmp_path):
    overlay, lora = parts
    gather(ABOUT, overlay, lora, tmp_path / "erasure")
    assert (tmp_path / "erasure" / OVERLAY).read_bytes() == overlay.read_bytes()
    assert (tmp_path / "erasure" / ADAPTER).read_bytes() == (lora / LORA_FILE).read_bytes()
    found = read_erasure(tmp_path / "erasure")
    assert_same(found.overlay, WEIGHTS)
    assert_same(found.adapter, LORA)
    assert dict(found.adapter_metadata) == METADATA
    gather(ABOUT, overlay, None, tmp_path / "erasure")
    assert sorted(content(tmp_path / "erasure")) == sorted([INDEX, OVERLAY])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", [cut, empty, Path.unlink, put_a_folder])
def test_a_broken_file_is_not_gathered(parts, tmp_path, which, damage):
    path = (parts[0], parts[1] / LORA_FILE)[which]
    damage(path)
    with pytest.raises(ArtifactError, match=re.escape(f"{path}: ")) as caught:
        gather(ABOUT, *parts, tmp_path / "erasure")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "erasure").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_gathered(parts, tmp_path, value):
    weights = load_file(parts[0])
    weights["a.to_k.weight"][1, 1] = value
    save_file(weights, parts[0])
    with pytest.raises(ArtifactError, match=re.escape(f"{parts[0]}: a.to_k.weight: found values that are not finite")):
        gather(ABOUT, *parts, tmp_path / "erasure")
    assert not (tmp_path / "erasure").exists()
