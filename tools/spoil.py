"""Ways to spoil a file: by its bytes, or by what it says. A seed says which."""

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

PAYLOAD = '"><script>alert(1)</script><img src=x onerror=alert(2)>'

HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**40, -0.5, 1e-300, 1e300, float("nan"), float("inf")),
    *("", " ", "1e-05", "nan", "airplane", "../../x", "/etc/passwd", "/dev/zero", "a\0b", "C:\\x", "con", "~", "~x"),
    *(PAYLOAD, "=cmd|' /C calc'!A0", "\u202eenalpria", "a\u200bb", "\ud800", "{name}", "{a} {", "%s", "日本語"),
    *("x" * 100_000, "\x1b[2J", "\r\n", [], {}, [[]], [None], [1], ["", ""], {"": 1}, {"a": {"b": {"c": []}}}),
    *(["airplane"] * 3, ["cat", PAYLOAD], ["../x"], [f"word{i}" for i in range(1000)]),
)
"""Values for any place in a tree of parameters."""

ALIASES = "\n".join(
    ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    + [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)
"""A few lines that mean a billion values."""

YAML_TEXTS = (
    "!!python/object/apply:os.system ['touch owned']",
    "a: !!python/name:os.system",
    "a: &a [1]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]",
    ALIASES,
    ALIASES.replace("[", "{<<: [").replace("]", "]}").replace("1, 1, 1, 1, 1, 1, 1, 1, 1", "{k: 1}"),
    "a: &a [*a]",
    "[" * 3000,
    "a: " + "{b: " * 3000,
    "\t- a",
    "a: 1\na: 2",
    "--- 1\n--- 2",
    "a: b: c",
    "? [a, b]\n: 1",
    "a: 0x" + "f" * 10_000,
    "\x07",
    "\ufeff",
    "a: 2020-99-99",
)
JSON_TEXTS = (
    "[" * 100_000,
    '{"a": ' * 3000,
    "NaN",
    "-Infinity",
    "1e999",
    '"\\ud800"',
    "9" * 5000,
    '{"a": 1, "a": 2}',
    "\0",
)
CSV_CELLS = (
    *("=1+1", '"', '""', ",", "\n", "-1", "1e400", "nan", "1e-320", "9" * 20, PAYLOAD, "x" * 200_000),
    *("\x00", "", "0", "\u202e", "../x", "\ud7ff", "1" * 5000),
)
Random = np.random.Generator


def spoil(path: Path, random: Random) -> str:
    """Spoil a file by its bytes or by what it says; return how."""
    ways: list[Callable[[Path, Random], str]] = [_bytes]
    ways += {
        ".yaml": [_leaf, _leaf, _yaml_text],
        ".json": [_leaf, _leaf, _json_text],
        ".csv": [_cells, _cells, _lines],
        ".parquet": [_columns, _columns],
        ".safetensors": [_tensors, _tensors, _header],
    }[path.suffix]
    return one_of(ways, random)(path, random)


def one_of(options: Any, random: Random) -> Any:
    """Return one of the options, as the seed says."""
    return options[int(random.integers(len(options)))]


def _bytes(path: Path, random: Random) -> str:
    data = bytearray(path.read_bytes())
    place, way = int(random.integers(len(data))), one_of(("flip", "cut", "empty", "noise", "twice", "insert"), random)
    if way == "flip":
        for each in random.integers(len(data), size=int(random.integers(1, 9))):
            data[each] ^= 1 << int(random.integers(8))
    elif way == "insert":
        data[place:place] = random.bytes(16)
    else:
        noise = bytearray(random.bytes(4096))
        data = {"cut": data[:place], "empty": bytearray(), "noise": noise, "twice": data * 2}[way]
    path.write_bytes(data)
    return f"bytes: {way} at {place}"


def _leaf(path: Path, random: Random) -> str:
    """Replace, remove or add a value somewhere in a tree."""
    is_json = path.suffix == ".json"
    tree = json.loads(path.read_text()) if is_json else yaml.safe_load(path.read_text())
    holder, key = one_of(list(_spots(tree)), random)
    value, way = one_of(HOSTILE, random), int(random.integers(6))
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[value if isinstance(value, str) else "added"] = value
    else:
        holder[key] = value
    path.write_text(json.dumps(tree) if is_json else yaml.safe_dump(tree), encoding="utf-8")
    return f"{key!r} {('removed', 'added')[way] if way < 2 else 'set to'} {str(value)[:60]!a}"


def _spots(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (holder, key) of every value in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _spots(value)


def _yaml_text(path: Path, random: Random) -> str:
    lines, text = path.read_text().splitlines(), one_of(YAML_TEXTS, random)
    place = int(random.integers(len(lines)))
    lines[place : place + int(random.integers(2))] = text.split("\n")
    path.write_text("\n".join(lines))
    return f"line {place}: {text[:60]!r}"


def _json_text(path: Path, random: Random) -> str:
    """Put text in the place of a value, valid JSON or not."""
    tree = json.loads(path.read_text())
    holder, key = one_of(list(_spots(tree)), random)
    text, holder[key] = one_of(JSON_TEXTS, random), "<here>"
    path.write_text(json.dumps(tree).replace('"<here>"', text, 1))
    return f"{key!r} set to the text {text[:60]!r}"


def _cells(path: Path, random: Random) -> str:
    lines, cell = path.read_text().splitlines(), one_of(CSV_CELLS, random)
    row = int(random.integers(len(lines)))
    cells = lines[row].split(",")
    column = int(random.integers(len(cells)))
    cells[column] = cell
    lines[row] = ",".join(cells)
    path.write_text("\n".join(lines))
    return f"row {row} column {column}: {cell[:30]!r}"


def _lines(path: Path, random: Random) -> str:
    """Drop or repeat a line, or swap two columns."""
    lines, way = path.read_text().splitlines(), one_of(("drop", "twice", "swap"), random)
    row = int(random.integers(len(lines)))
    if way == "swap":
        lines = [",".join(reversed(line.split(","))) for line in lines[:1]] + lines[1:]
    else:
        lines[row : row + 1] = [lines[row]] * (2 if way == "twice" else 0)
    path.write_text("\n".join(lines))
    return f"row {row}: {way}"


def _columns(path: Path, random: Random) -> str:
    """Change a column: its name, type, order, values or number of rows."""
    table = pq.read_table(path)
    name = one_of(table.column_names, random)
    ways = ["drop", "rename", "swap", "text", "null", "twice", "metadata"]
    if table.num_rows:
        ways += ["broken text", "rows", "values", "values"]
    way = one_of(ways, random)
    pq.write_table(_changed(table, name, way, random), path)
    return f"column {name}: {way}"


def _changed(table: pa.Table, name: str, way: str, random: Random) -> pa.Table:
    names, num = table.column_names, table.num_rows
    whole: dict[str, Callable[[], pa.Table]] = {
        "drop": lambda: table.drop_columns([name]),
        "rename": lambda: table.rename_columns([PAYLOAD if each == name else each for each in names]),
        "swap": lambda: table.rename_columns([*names[1:], names[0]]),
        "rows": lambda: table.slice(0, int(random.integers(num))),
        "twice": lambda: pa.concat_tables([table, table]),
        "metadata": lambda: table.replace_schema_metadata(
            dict.fromkeys(table.schema.metadata or (), one_of((b"", b"-1", b"x"), random))
        ),
    }
    if way in whole:
        return whole[way]()
    return table.set_column(names.index(name), *_values(table, name, way, random))


def _values(table: pa.Table, name: str, way: str, random: Random) -> tuple[pa.Field, pa.Array]:
    field, num = table.schema.field(name), table.num_rows
    if way == "text":
        return pa.field(name, pa.string()), pa.array([PAYLOAD] * num, pa.string())
    if way == "broken text":
        return pa.field(name, pa.string()), pa.array([b"\xff\xfe"] * num).view(pa.string())
    if way == "null":
        return field, pa.nulls(num, field.type)
    values = table[name].to_pylist()
    row = int(random.integers(num))
    values[row] = _other(values[row], random)
    return field, pa.array(values, field.type)


def _other(value: Any, random: Random) -> Any:
    """Return another value of the same type."""
    if isinstance(value, list):
        return [_other(value[0], random), *value[1:]] if value else value
    if isinstance(value, bytes):
        return one_of((value[: len(value) // 2], b"", b"GIF89a", _large_png()), random)
    options = {
        bool: (not value,),
        int: (-1, 0, 2**31 - 1, -(2**31)),
        float: (float("nan"), float("inf"), -1.0, 1e30, 0.0),
    }
    return one_of(options.get(type(value), (PAYLOAD, "", "../x", "\u202e", "x" * 10_000, "a\0b")), random)


def _large_png() -> bytes:
    """Return the start of a picture that would be of a billion pixels."""
    import struct
    import zlib

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = (
        (struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chain.from_iterable(parts))


def _tensors(path: Path, random: Random) -> str:
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = one_of(sorted(tensors), random)
    way = one_of(("drop", "rename", "shape", "empty", "type", "nan", "huge", "metadata"), random)
    old = tensors.pop(name)
    if way == "rename":
        tensors["../" + name] = old
    elif way == "metadata":
        metadata, tensors[name] = {"base_model": PAYLOAD}, old
    elif way != "drop":
        tensors[name] = {
            "shape": old.flatten()[:-1].clone(),
            "empty": torch.zeros(0),
            "type": old.to(torch.int32),
            "nan": torch.full_like(old, float("nan")),
            "huge": torch.full_like(old, 3e38 if old.dtype == torch.float32 else 6e4),
        }[way]
    save_file(tensors, path, metadata)
    return f"tensor {name}: {way}"


def _header(path: Path, random: Random) -> str:
    """Let the header of a safetensors file say what is not so."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = one_of(sorted(set(header) - {"__metadata__"}), random)
    way = one_of(("length", "offsets", "shape", "dtype"), random)
    header[name] |= {
        "offsets": {"data_offsets": [0, 2**40]},
        "shape": {"shape": [2**62, 4]},
        "dtype": {"dtype": "F99"},
    }.get(way, {})
    text = json.dumps(header).encode()
    path.write_bytes((2**40 if way == "length" else len(text)).to_bytes(8, "little") + text + data[8 + size :])
    return f"header, {name}: {way}"
