import json
import os
import stat
import subprocess
import sys

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from realera.settings.errors import ArtifactError
from realera.store.artifacts import (
    atomic_path,
    file_sha256,
    read_json,
    read_parquet,
    read_parquet_blocks,
    take_rows,
    write_json,
    write_parquet,
    write_safetensors,
)

WRITE_TENSORS = """
import sys, torch
from realera.store.artifacts import write_safetensors
tensors = {name: torch.full((2, 3), float(i)) for i, name in enumerate("abc")}
write_safetensors(tensors, sys.argv[1], {f"key{i}": "ä" * i for i in range(12)})
"""


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")]


def test_atomic_file_keeps_suffix_and_replaces(tmp_path):
    target = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with atomic_path(target) as temporary:
            assert temporary.suffix == ".txt"
            assert temporary.parent.parent == target.parent  # one that is killed leaves a folder of its own
            temporary.write_text(text)
    assert target.read_text() == "two"
    assert leftovers(target.parent) == []


def test_atomic_folder_replaces_a_folder_that_is_not_empty(tmp_path):
    target = tmp_path / "model"
    (target / "old").mkdir(parents=True)
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new.txt").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new.txt"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("is_folder", [False, True])
def test_atomic_failure_leaves_what_was_there(tmp_path, error, is_folder):
    target = tmp_path / "a"
    target.write_text("before")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.mkdir() if is_folder else temporary.write_text("half")
        raise error
    assert target.read_text() == "before"
    assert leftovers(tmp_path) == []


def test_atomic_without_output_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="nothing was written"), atomic_path(tmp_path / "a"):
        pass


def test_json_is_sorted_ends_with_newline_and_reads_back(tmp_path):
    path = tmp_path / "a.json"
    value = {"b": [1, 2.5, None], "a": {"ü": "x"}}
    write_json(value, path)
    assert path.read_text(encoding="utf-8").startswith('{\n  "a": {\n    "ü"')
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert read_json(path) == value


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(1, path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(float("nan"), path)
    assert read_json(path) == 1


def test_read_json_errors_name_the_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"a\.json: a file is needed here, found nothing"):
        read_json(tmp_path / "a.json")
    for text in ("{", "[" * 100_000, '"\\ud800"'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"a\.json: not readable as JSON"):
            read_json(tmp_path / "a.json")


def test_parquet_round_trip_is_byte_stable(tmp_path):
    table = pa.table({"id": list(range(3000)), "png": [bytes([i % 256]) * 9 for i in range(3000)]})
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, chunk in zip(paths, (3000, 7), strict=True):
        write_parquet(pa.Table.from_batches(table.to_batches(max_chunksize=chunk)), path)
    assert file_sha256(paths[0]) == file_sha256(paths[1])
    assert read_parquet(paths[0]).equals(table)
    assert read_parquet(paths[0], columns=["id"]).column_names == ["id"]


def test_parquet_errors_name_file_and_columns(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(ArtifactError, match=r"a\.parquet: a file is needed here, found nothing"):
        read_parquet(path)
    write_parquet(pa.table({"id": [1]}), path)
    with pytest.raises(ArtifactError, match=r"no column \['seed'\]; it has \['id'\]"):
        read_parquet(path, columns=["seed"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"a\.parquet: not a readable Parquet file"):
        read_parquet(path)


def test_text_that_is_no_utf8_is_found_by_every_reader(tmp_path):
    """Arrow reads it as text; only a row that is used would end in a traceback, or none."""
    path, schema = tmp_path / "a.parquet", pa.schema([("word", pa.string())])
    write_parquet(pa.table([pa.array([b"cat", b"\xff"]).view(pa.string())], schema=schema), path)
    readers = (
        lambda: read_parquet(path),
        lambda: list(read_parquet_blocks(path, schema, 1)),
        lambda: take_rows(path, schema.field("word"), [0]),
    )
    for read in readers:
        with pytest.raises(ArtifactError, match=r"a\.parquet: not a readable Parquet file: .*UTF8"):
            read()


def test_safetensors_same_bytes_in_every_process(tmp_path, repository):
    digests = set()
    for seed in ("0", "1", "2", "random"):
        path = tmp_path / f"{seed}.safetensors"
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", WRITE_TENSORS, str(path)]
        subprocess.run(command, env=environment, cwd=repository, check=True)
        digests.add(file_sha256(path))
    assert len(digests) == 1


names = st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__")
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8])


@given(
    shapes=st.dictionaries(names, st.tuples(dtypes, st.lists(st.integers(0, 4), max_size=3)), max_size=5),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=4),
)
def test_safetensors_round_trip(tmp_path_factory, shapes, metadata):
    path = tmp_path_factory.mktemp("tensors") / "a.safetensors"
    tensors = {name: torch.randint(0, 9, shape).to(dtype) for name, (dtype, shape) in shapes.items()}
    write_safetensors(tensors, path, metadata)
    header_length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + header_length])
    assert header_length % 8 == 0
    assert list(header) == sorted(header)
    with safe_open(path, "pt") as file:
        assert (file.metadata() or {}) == metadata
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert file.get_tensor(name).dtype == tensor.dtype
            assert torch.equal(file.get_tensor(name), tensor)


def test_safetensors_takes_transposed_tensors(tmp_path):
    matrix = torch.arange(6.0).reshape(2, 3)
    write_safetensors({"t": matrix.T}, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("t"), matrix.T)


def test_written_files_follow_the_umask(tmp_path):
    write_safetensors({"t": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.safetensors", "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize("metadata", [None, {"width": "3"}])
def test_a_table_of_lists_that_is_read_and_written_again_has_the_same_bytes(tmp_path, metadata):
    """Though Parquet gives a list's items another name (findings/parquet_list_items.sh)."""
    schema = pa.schema([("labels", pa.list_(pa.string())), ("boxes", pa.list_(pa.list_(pa.float32())))])
    rows = [{"labels": ["a", "b"], "boxes": [[1.0]]}, {"labels": [], "boxes": []}]
    write_parquet(pa.Table.from_pylist(rows, schema=schema).replace_schema_metadata(metadata), tmp_path / "one")
    write_parquet(read_parquet(tmp_path / "one", schema), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
