"""Spoil what a stage reads, a thousand ways, and see how the stage ends.

    python -m tools.fuzz --num 1000 --seed 0

Each case spoils one file of a small finished project (parameters, preset, word lists, a prompt file, an
artifact) and runs one stage that reads it, in this process. It may end in one or several lines `error: ...`
with exit code 1 and every file as before, or in a correct run. A traceback, a hang, a changed file after an
error, a temporary file, or markup of ours that reaches the page unescaped is a fault, and the exit code is 1.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
import yaml

from realera.artifacts import write_json

PROJECT = Path(__file__).resolve().parent.parent
SECONDS = 120
INTERRUPTED = 130
PAYLOAD = "<script>alert(1)</script>"
NAMES = ("clear error", "correct run", "traceback", "hang", "half-written", "unescaped", "no message")
FAULTS = NAMES[2:]

HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**40, -0.5, 1e-300, 1e300, float("nan"), float("inf")),
    *("", " ", "1e-05", "nan", "airplane", "../../x", "/etc/passwd", "a\0b", "C:\\x", "con", "~", "x" * 100_000),
    *(PAYLOAD, "=cmd|' /C calc'!A0", "\u202eenalpria", "a\u200bb", "\ud7ff", "{name}", "{a} {", "%s", "日本語"),
    *([], {}, [[]], [None], [1], ["", ""], {"": 1}, {"a": {"b": {"c": []}}}, ["airplane"] * 3, ["cat", PAYLOAD]),
)
YAML_TEXTS = (
    "!!python/object/apply:os.system ['touch owned']",
    "a: &a [1]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]",
    "[" * 3000,
    "\t- a",
    "a: 1\na: 2",
    "--- 1\n--- 2",
    "a: b: c",
    "\x07",
)
CSV_CELLS = ("=1+1", '"', '""', ",", "\n", "-1", "1e400", "nan", "99999999999999999999", PAYLOAD, "x" * 200_000, "\x00")

PREPARED = {"data/prompt_files/i2p.csv": "tests/data/i2p.csv", "data/prompt_files/coco.csv": "tests/data/coco.csv"}
QUICK = ("plan", "encode", "mine", "solve", "score")


@dataclass(frozen=True)
class Case:
    """One spoiled file and the stage that reads it."""

    number: int
    kind: str
    path: Path
    stage: str


def kind_of(path: str) -> str:
    """Return the name under which a file's cases are counted."""
    if path == "params.yaml":
        return "params.yaml"
    if path.startswith("data/concepts"):
        return "preset"
    if path.startswith("data/"):
        return {".csv": "prompt file", ".yaml": "word lists"}[Path(path).suffix]
    return Path(path).suffix.removeprefix(".")


def places() -> list[tuple[str, tuple[str, ...]]]:
    """Return [(file, stages that read it)]; a file stands there as often as it shall be taken."""
    from tests.stage_project import CONCEPT, STAGES, place

    texts = [("params.yaml", QUICK), (f"data/concepts/{CONCEPT}.yaml", ("plan", "encode", "mine", "score"))] * 6
    texts += [
        ("data/prompts/words.yaml", ("plan", "encode", "score")),
        ("data/prompts/templates.yaml", ("encode",)),
    ] * 2
    texts += [(path, ("plan",)) for path in PREPARED] * 3
    readers: dict[str, list[str]] = {}
    for stage, (_, reads, _) in STAGES.items():
        for name in reads:
            readers.setdefault(str(place(name)), []).append(stage)
    return texts + [(path, tuple(stages)) for path, stages in readers.items()]


def cases(num: int, seed: int) -> list[Case]:
    """Return the cases: every file in turn, with one of its stages."""
    found, all_places = [], places()
    for number in range(num):
        path, stages = all_places[number % len(all_places)]
        random = np.random.default_rng([seed, number, 0])
        found.append(Case(number, kind_of(path), Path(path), stages[int(random.integers(len(stages)))]))
    return found


def spoil(path: Path, random: np.random.Generator) -> str:
    """Spoil a file by its bytes or by what it says; return how."""
    ways: list[Callable[[Path, np.random.Generator], str]] = [_bytes]
    ways += {
        ".yaml": [_leaf, _leaf, _yaml_text],
        ".json": [_leaf, _leaf],
        ".csv": [_cells, _cells],
        ".parquet": [_columns, _columns],
        ".safetensors": [_tensors, _tensors],
    }[path.suffix]
    return ways[int(random.integers(len(ways)))](path, random)


def _bytes(path: Path, random: np.random.Generator) -> str:
    data = bytearray(path.read_bytes())
    way = ("flip", "cut", "empty", "noise", "twice", "insert")[int(random.integers(6))]
    place = int(random.integers(len(data)))
    if way == "flip":
        for each in random.integers(len(data), size=int(random.integers(1, 9))):
            data[each] ^= 1 << int(random.integers(8))
    elif way == "insert":
        data[place:place] = random.bytes(16)
    else:
        data = {"cut": data[:place], "empty": bytearray(), "noise": bytearray(random.bytes(4096)), "twice": data * 2}[
            way
        ]
    path.write_bytes(data)
    return f"bytes: {way} at {place}"


def _leaf(path: Path, random: np.random.Generator) -> str:
    """Replace, remove or add a value somewhere in a tree."""
    is_json = path.suffix == ".json"
    tree = json.loads(path.read_text()) if is_json else yaml.safe_load(path.read_text())
    spots = list(_spots(tree))
    holder, key = spots[int(random.integers(len(spots)))]
    value, way = HOSTILE[int(random.integers(len(HOSTILE)))], int(random.integers(6))
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[value if isinstance(value, str) else "added"] = value
    else:
        holder[key] = value
    path.write_text(json.dumps(tree) if is_json else yaml.safe_dump(tree, allow_unicode=True), errors="surrogatepass")
    return f"{key!r} {('removed', 'added')[way] if way < 2 else 'set to'} {str(value)[:60]!r}"


def _spots(tree: Any) -> Any:
    """Yield (holder, key) of every value in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _spots(value)


def _yaml_text(path: Path, random: np.random.Generator) -> str:
    lines, text = path.read_text().splitlines(), YAML_TEXTS[int(random.integers(len(YAML_TEXTS)))]
    place = int(random.integers(len(lines)))
    lines[place : place + int(random.integers(2))] = text.split("\n")
    path.write_text("\n".join(lines))
    return f"line {place}: {text[:60]!r}"


def _cells(path: Path, random: np.random.Generator) -> str:
    lines, cell = path.read_text().splitlines(), CSV_CELLS[int(random.integers(len(CSV_CELLS)))]
    row = int(random.integers(len(lines)))
    cells = lines[row].split(",")
    column = int(random.integers(len(cells)))
    cells[column] = cell
    lines[row] = ",".join(cells)
    path.write_text("\n".join(lines))
    return f"row {row} column {column}: {cell[:30]!r}"


def _columns(path: Path, random: np.random.Generator) -> str:
    """Change a column: its name, type, order, values or number of rows."""
    table = pq.read_table(path)
    column = int(random.integers(table.num_columns))
    name = table.column_names[column]
    way = ("drop", "rename", "text", "null", "rows", "values", "twice")[int(random.integers(7))]
    if way == "drop":
        table = table.drop_columns([name])
    elif way == "rename":
        table = table.rename_columns([PAYLOAD if each == name else each for each in table.column_names])
    elif way == "rows":
        table = table.slice(0, int(random.integers(table.num_rows)))
    elif way == "twice":
        table = pa.concat_tables([table, table])
    else:
        table = table.set_column(column, *_values(table, name, way, random))
    pq.write_table(table, path)
    return f"column {name}: {way}"


def _values(table: pa.Table, name: str, way: str, random: np.random.Generator) -> tuple[pa.Field, pa.Array]:
    field, num = table.schema.field(name), table.num_rows
    if way == "text":
        return pa.field(name, pa.string()), pa.array([PAYLOAD] * num)
    if way == "null":
        return field, pa.nulls(num, field.type)
    values = table[name].to_pylist()
    row = int(random.integers(num))
    values[row] = _other(values[row], random)
    return field, pa.array(values, field.type)


def _other(value: Any, random: np.random.Generator) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return [-1, 0, 2**31 - 1, -(2**31)][int(random.integers(4))]
    if isinstance(value, float):
        return [float("nan"), float("inf"), -1.0, 1e30][int(random.integers(4))]
    if isinstance(value, list):
        return [_other(value[0], random) if value else value, *value[1:]]
    return (
        value[: len(value) // 2]
        if isinstance(value, bytes)
        else [PAYLOAD, "", "../x", "\u202e"][int(random.integers(4))]
    )


def _tensors(path: Path, random: np.random.Generator) -> str:
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = sorted(tensors)[int(random.integers(len(tensors)))]
    way = ("drop", "rename", "shape", "type", "nan", "huge", "metadata")[int(random.integers(7))]
    old = tensors.pop(name)
    if way == "rename":
        tensors["../" + name] = old
    elif way == "metadata":
        metadata, tensors[name] = {"base_model": PAYLOAD}, old
    elif way != "drop":
        tensors[name] = {
            "shape": old.flatten()[:-1].clone(),
            "type": old.to(torch.int32),
            "nan": torch.full_like(old, float("nan")),
            "huge": torch.full_like(old, 3e38),
        }[way]
    save_file(tensors, path, metadata)
    return f"tensor {name}: {way}"


class _HangError(Exception):
    pass


def _too_long(*_: object) -> None:
    raise _HangError


def outcome(stage: str) -> tuple[str, str]:
    """Run a stage in the working folder; return one of NAMES, and what it said."""
    from tests.stage_project import execute

    before, said = _state(), StringIO()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        with redirect_stderr(said), redirect_stdout(StringIO()), warnings.catch_warnings():
            execute(stage)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            raise KeyboardInterrupt from ended
        return _of_error(ended.code, said.getvalue(), before), said.getvalue()
    except _HangError:
        return "hang", said.getvalue()
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    page = Path("reports/index.html")
    is_unsafe = stage == "report" and PAYLOAD in page.read_text(encoding="utf-8")
    return ("unescaped" if is_unsafe else "correct run"), said.getvalue()


def _of_error(code: object, said: str, before: dict[str, tuple[int, int]]) -> str:
    if _state() != before:
        return "half-written"
    return "clear error" if code == 1 and "error: " in said and "Traceback" not in said else "no message"


def _state() -> dict[str, tuple[int, int]]:
    """Return what lies in the project, by size and time."""
    found = (path for folder in ("artifacts", "reports", "data") for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found} | (
        {"owned": (0, 0)} if Path("owned").exists() else {}
    )


def run(finished: Path, num: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Run all cases on copies of a finished project; return the tally by kind and outcome, and the faults."""
    tally: Counter[tuple[str, str]] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(num, seed):
            project = Path(folder) / "project"
            shutil.copytree(finished, project)
            with chdir(project):
                how = spoil(case.path, np.random.default_rng([seed, case.number, 1]))
                name, said = outcome(case.stage)
            tally[case.kind, name] += 1
            if name in FAULTS:
                faults.append(f"{case.number}: {name}: {case.stage} with {case.path}, {how}: {said.strip()[:600]}")
                print(faults[-1], file=sys.stderr, flush=True)
            shutil.rmtree(project)
    return tally, faults


def table(tally: Counter[tuple[str, str]]) -> str:
    """Return the tally as a Markdown table with a last line for all."""
    lines = ["| spoiled | cases | " + " | ".join(NAMES) + " |", "|---|---:" + "|---:" * len(NAMES) + "|"]
    kinds = sorted({kind for kind, _ in tally})
    for kind in [*kinds, "all"]:
        counts = [sum(n for (k, o), n in tally.items() if o == name and kind in (k, "all")) for name in NAMES]
        lines.append(f"| {kind} | {sum(counts)} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def make_finished(folder: Path) -> None:
    """Make the project that is spoiled."""
    from tests.stage_project import make_project

    make_project(folder, PROJECT)
    for path, source in PREPARED.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / source, folder / path)
    preset = next((folder / "data/concepts").glob("*.yaml"))
    content = yaml.safe_load(preset.read_text())
    content["draw"] |= {"prompt_files": [Path(path).stem for path in PREPARED]}
    preset.write_text(yaml.safe_dump(content))


def main(
    num: Annotated[int, typer.Option(min=1, help="Cases.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed spoils otherwise.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the tally.")] = None,
) -> None:
    """Spoil inputs and tell how the stages end."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REALERA_SCRATCH"] = str(Path(folder) / "scratch")
        os.environ["HF_HUB_OFFLINE"] = "1"
        finished = Path(folder) / "finished"
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            make_finished(finished)
        tally, faults = run(finished, num, seed)
    typer.echo(table(tally))
    if out is not None:
        write_json({"tally": {f"{k}: {o}": n for (k, o), n in sorted(tally.items())}, "faults": faults}, out)
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
