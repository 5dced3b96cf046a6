"""Spoil what a stage reads, a thousand ways, and see how the stage ends.

    python -m tools.fuzz --num 1000 --seed 0
    python -m tools.fuzz --case 123 --seed 0        # one of them again, with its traceback

Each case spoils one file of a small finished project (parameters, preset, word lists, prompt file, predictions,
artifact, weights of a model) or asks for a concept of a hostile name, and runs one stage or command that reads it:
in this process, some in one of their own. It may end in lines `error: ...`, exit code 1 and every file as before, or
in a correct run. A traceback, a hang, a changed file after an error, a temporary file, weights that are not finite or
markup of ours that reaches the page is a fault, and the exit code is 1.
"""

import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml

from realera.store.artifacts import write_json
from realera.store.paths import REALERA
from tools.spoil import PAYLOAD, one_of, spoil

PROJECT = Path(__file__).resolve().parent.parent
SECONDS = 300
MEMORY = 12 * 2**30
"""Bytes that a case may hold: one that asks for more is to end as one without memory, and leave the machine alone."""

INTERRUPTED = 130
NAMES = (
    *("clear error", "correct run"),
    *("traceback", "hang", "half-written", "unescaped", "not finite", "unclear message"),
)
FAULTS = NAMES[2:]
ONE_IN = 50
"""Cases that run in a process of their own, which takes seconds to start."""

QUICK = ("plan", "task", "encode", "mine", "solve", "judge", "score", "report")
PREPARED = {"data/prompt_files/i2p.csv": "tests/data/i2p.csv", "data/prompt_files/coco.csv": "tests/data/coco.csv"}
PREDICTIONS = "data/predictions.csv"
MODELS = {"model": "data/models/tiny-sd", "judge": "data/models/tiny-clip"}
"""Section of the parameters -> the model that its copy, in a folder of that name, is made of."""

ANY_NAME = "concept name"
CONCEPT_NAMES = (
    *("../airplane", "../../tmp/x", "/etc/x", "a/b", "a\\b", "..", ".", "", " ", "x" * 300, "a\0b", "Airplane"),
    *("shared", "average", "airplane\n", "-h", "~", "\u202e", "air plane", "{name}", PAYLOAD, "$(touch owned)", "none"),
)
READERS: dict[str, tuple[str, ...]] = {
    "params.yaml": (*QUICK, "results"),
    "data/concepts/airplane.yaml": ("plan", "task", "encode", "mine", "judge", "score", "report", "manifest"),
    "data/prompts/words.yaml": ("plan", "encode", "judge", "score"),
    "data/prompts/templates.yaml": ("encode",),
    **{path: ("plan", f"data add {path}") for path in PREPARED},
    PREDICTIONS: ("judge", "score"),
    "model/unet/diffusion_pytorch_model.safetensors": ("solve", "train", "erase by uce", "originals"),
    "model/vae/diffusion_pytorch_model.safetensors": ("latents", "originals"),
    "model/text_encoder/model.safetensors": ("encode", "erase by uce", "originals"),
    "model/model_index.json": ("encode", "task", "solve", "originals"),
    "model/vocabulary.json": ("encode", "erase by uce"),
    "judge/model.safetensors": ("judge", "score"),
    "reports/figures.csv": ("results",),
    ANY_NAME: (
        *("task", "encode", "mine", "solve", "train", "erase", "erase by uce"),
        *("originals", "judge", "generate", "score", "export", "manifest"),
    ),
}
"""File -> stages and commands that read it, beside the artifacts that `tests.kit.stage_project` names."""

MORE_READERS = {
    "scores.json": ("export",),
    "scores.parquet": ("diff",),
    "erasure.json": ("export",),
    "overlay.safetensors": ("export",),
    "adapter/pytorch_lora_weights.safetensors": ("export",),
    "images.parquet": ("manifest",),
}
TIMES = {"params.yaml": 6, "data/concepts/airplane.yaml": 6, ANY_NAME: 2, PREDICTIONS: 3, **dict.fromkeys(PREPARED, 2)}
"""How often a file is taken where others are taken once."""

KINDS = {
    "params.yaml": "params.yaml",
    "airplane.yaml": "preset",
    **dict.fromkeys(("words.yaml", "templates.yaml"), "word lists"),
    **dict.fromkeys(("i2p.csv", "coco.csv"), "prompt file"),
    "predictions.csv": "predictions",
    "pytorch_lora_weights.safetensors": "LoRA",
    **dict.fromkeys(("kv_patch.safetensors", "overlay.safetensors"), "K/V weights"),
    **dict.fromkeys(("solved.json", "trained.json", "erasure.json"), "erasure.json"),
    **dict.fromkeys(("base.parquet", "originals.parquet", "images.parquet"), "images.parquet"),
}


@dataclass(frozen=True)
class Case:
    """One spoiled file, or hostile name, and the stage that reads it."""

    number: int
    path: str
    stage: str

    @property
    def kind(self) -> str:
        """The name under which it is counted."""
        head, _, name = self.path.rpartition("/")
        return "model" if head.split("/")[0] in MODELS else KINDS.get(name, name)


def places() -> list[tuple[str, tuple[str, ...]]]:
    """Return [(file, stages that read it)]; a file stands there as often as it shall be taken."""
    from tests.kit.stage_project import INPUTS, place

    readers = {path: list(stages) for path, stages in READERS.items()}
    for stage, name in INPUTS:
        path = str(place(name))
        readers.setdefault(path, _more_readers(path)).append(stage)
    return [(path, tuple(stages)) for path, stages in readers.items() for _ in range(TIMES.get(path, 1))]


def _more_readers(path: str) -> list[str]:
    return [stage for name, stages in MORE_READERS.items() if path.endswith(f"/{name}") for stage in stages]


def cases(num: int, seed: int) -> list[Case]:
    """Return the cases: every file in turn, with one of its stages."""
    found, all_places = [], places()
    for number in range(num):
        path, stages = all_places[number % len(all_places)]
        random = np.random.default_rng([seed, number, 0])
        found.append(Case(number, path, one_of(stages, random)))
    return found


def prepare(case: Case, seed: int) -> tuple[str, str]:
    """Spoil what a case spoils, in the working folder; return how, and the concept that is asked for."""
    from tests.kit.stage_project import CONCEPT

    random = np.random.default_rng([seed, case.number, 1])
    if case.path == ANY_NAME:
        name = one_of(CONCEPT_NAMES, random)
        return f"the concept {name[:60]!a}", name
    section = Path(case.path).parts[0]
    if section in MODELS:
        _copy_model(section, Path(case.path))
    return spoil(Path(case.path), random), CONCEPT


def _copy_model(section: str, spoiled: Path) -> None:
    """Make a model of links to the embedded one's files, but for the file that will be spoiled."""
    source = PROJECT / MODELS[section]
    for file in (path for path in source.rglob("*") if path.is_file()):
        target = Path(section) / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target == spoiled:
            shutil.copyfile(file, target)
        else:
            target.symlink_to(file)
    params = yaml.safe_load(Path("params.yaml").read_text())
    params[section]["id"] = section
    Path("params.yaml").write_text(yaml.safe_dump(params))


class _HangError(BaseException):
    """Nothing that a loader would take for an error of its own."""


def _too_long(*_: object) -> None:
    raise _HangError


def outcome(stage: str, concept: str = "airplane") -> tuple[str, str]:
    """Run a stage or a command in the working folder; return one of NAMES, and what it said."""
    before, said = _state(), StringIO()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        with redirect_stderr(said), redirect_stdout(StringIO()), warnings.catch_warnings():
            _start(stage, concept)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            raise KeyboardInterrupt from ended
        return _of_error(ended.code, said.getvalue(), before), said.getvalue()
    except _HangError:
        return "hang", said.getvalue()
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        signal.alarm(0)
    return _of_success(stage), said.getvalue()


def outcome_of_process(stage: str, concept: str = "airplane") -> tuple[str, str]:
    """Do the same with a process of its own; commands have none here."""
    before = _state()
    command = _command(stage, concept)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        return "hang", str(error.stderr)
    if done.returncode == 0:
        return _of_success(stage), done.stderr
    return ("traceback" if done.returncode < 0 else _of_error(done.returncode, done.stderr, before)), done.stderr


def _start(stage: str, concept: str) -> None:
    from tests.kit.stage_project import execute

    if stage in COMMANDS:
        COMMANDS[stage](concept)
    else:
        execute(stage, concept)


def _command(stage: str, concept: str) -> list[str]:
    """Return the command of a stage; what is no option of it stands behind --, so that the concept may begin with -."""
    script, *arguments = {
        "base": ["generate", "base"],
        "originals": ["generate", "originals", concept],
        "generate": ["generate", "erased", concept, REALERA],
        "score": ["score", concept, REALERA],
        "task": ["task", REALERA, concept],
        "erase": ["erase", REALERA, concept],
        "erase by uce": ["erase", "uce", concept],
    }.get(stage, [stage] if stage in ("plan", "report") else [stage, concept])
    return [sys.executable, str(PROJECT / f"stages/{script}.py"), "--", *arguments]


def _results(_: str) -> None:
    from realera.commands import cli

    cli.results()


def _diff(concept: str) -> None:
    from realera.commands import cli

    cli.diff("workspace", concept=[concept])


def _export(concept: str) -> None:
    from realera.commands import cli

    cli.export(concept, Path("out"), cli.Format.kv)


def _manifest(concept: str) -> None:
    from realera.commands import cli

    cli.manifest(concept, Path("out"))


def _add(path: str, _: str) -> None:
    from realera.commands import cli

    kind = cli.PromptFileKind(Path(path).stem)
    cli.add_prompt_file(Path(path), kind, name=f"other-{kind.value}")


COMMANDS: dict[str, Callable[[str], None]] = {
    "results": _results,
    "diff": _diff,
    "export": _export,
    "manifest": _manifest,
    **{f"data add {path}": partial(_add, path) for path in PREPARED},
}


def _of_error(code: object, said: str, before: dict[str, tuple[int, int]]) -> str:
    if _state() != before:
        return "half-written"
    if "Traceback (most recent call last)" in said:
        return "traceback"
    lines = [line for line in said.splitlines() if line.strip() and "%|" not in line]  # a bar is no message
    is_clear = all(line.startswith(("error: ", "warning: ")) and line.isprintable() for line in lines)
    return "clear error" if code == 1 and is_clear and "error: " in said else "unclear message"


def _of_success(stage: str) -> str:
    """Look at what a run has written."""
    from tests.kit.stage_project import STAGES, place

    if any(".tmp-" in path for path in _state()) or Path("owned").exists():
        return "half-written"
    written = [place(name) for name in STAGES.get(stage, ("", (), ()))[2]]
    files = [file for path in written for file in (path.rglob("*") if path.is_dir() else [path])]
    if not all(_is_finite(file) for file in files if file.suffix == ".safetensors"):
        return "not finite"
    page = Path("reports/index.html")
    return "correct run" if stage != "report" or is_safe(page.read_text(encoding="utf-8")) else "unescaped"


def _is_finite(path: Path) -> bool:
    from safetensors.torch import load_file

    return all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())


def is_safe(page: str) -> bool:
    """Say whether a page holds no markup but the template's: one script, no handlers, no address elsewhere."""
    parser = _Parser()
    parser.feed(page)
    is_addressed = all(value.startswith(("data:", "#")) for value in parser.addresses)
    return PAYLOAD not in page and parser.num_scripts == 1 and not parser.handlers and is_addressed


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.num_scripts, self.handlers, self.addresses = 0, list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.num_scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def _state() -> dict[str, tuple[int, int]]:
    """Return what lies in the project and what has been made beside it, by size and time."""
    found = [path for path in Path().rglob("*") if path.is_file()]
    beside = {str(path): (0, 0) for path in Path("..").iterdir()}
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found} | beside


def run(
    finished: Path, todo: list[Case], seed: int, one_in: int = ONE_IN
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Run cases on copies of a finished project; return the tally by kind and outcome, and the faults.

    Args:
        finished: from `make_finished`.
        todo: from `cases`.
        seed: of the spoiling, with a case's number.
        one_in: of so many stages one runs in a process of its own; 0: none.
    """
    tally: Counter[tuple[str, str]] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for case in todo:
            project = Path(folder) / "project"
            shutil.copytree(finished, project)
            with chdir(project):
                how, concept = prepare(case, seed)
                is_process = one_in and case.number % one_in == 0 and case.stage not in COMMANDS and "\0" not in concept
                name, said = (outcome_of_process if is_process else outcome)(case.stage, concept)
            tally[case.kind, name] += 1
            if name in FAULTS:
                faults.append(f"{case.number}: {name}: {case.stage} with {case.path}, {how}: {_last(said)}")
                print(faults[-1], file=sys.stderr, flush=True)
                print(f"  again: python -m tools.fuzz --seed {seed} --case {case.number}", file=sys.stderr, flush=True)
            shutil.rmtree(project)
    return tally, faults


def _last(said: str) -> str:
    lines = said.strip().splitlines()
    return ascii(lines[-1])[:300] if lines else "nothing was said"


def table(tally: Counter[tuple[str, str]]) -> str:
    """Return the tally as a Markdown table with a last line for all."""
    lines = ["| spoiled | cases | " + " | ".join(NAMES) + " |", "|---|---:" + "|---:" * len(NAMES) + "|"]
    kinds = sorted({kind for kind, _ in tally})
    for kind in [*kinds, "all"]:
        counts = [sum(n for (k, o), n in tally.items() if o == name and kind in (k, "all")) for name in NAMES]
        lines.append(f"| {kind} | {sum(counts)} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def make_finished(folder: Path) -> None:
    """Make the project that is spoiled: every judge that needs no network, predictions of a detector, prompt files."""
    from tests.kit.stage_project import CONCEPT, execute, make_project

    make_project(folder, PROJECT)
    for path, source in PREPARED.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / source, folder / path)
    preset, params = folder / f"data/concepts/{CONCEPT}.yaml", folder / "params.yaml"
    files = {"prompt_files": [Path(path).stem for path in PREPARED]}
    _change(preset, "draw", files)
    _change(preset, "judged", {"by": ["classes", "identity", "clip_score", "distance"]})
    _change(params, "judge", {"identity": PREDICTIONS})
    with chdir(folder):
        _write_predictions(CONCEPT)
        execute("judge")
        execute("score")
        execute("report")


def _change(path: Path, section: str, values: dict) -> None:
    content = yaml.safe_load(path.read_text())
    content[section] |= values
    path.write_text(yaml.safe_dump(content))


def _write_predictions(concept: str) -> None:
    from realera.judges.pictures import named, read_erased, read_originals
    from realera.judges.predictions import COLUMNS
    from realera.settings.presets import load_preset

    preset = load_preset(concept)
    images = [*read_originals(concept, preset), read_erased(concept, preset, REALERA)]
    names = [named(each, image) for each in images for image in each.table["image_id"].to_pylist()]
    with Path(PREDICTIONS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index, name in enumerate(dict.fromkeys(names)):
            writer.writerow([name, 0, "airplane", 0.25 * (index % 4)] if index % 3 else [name, "", "", ""])


def main(
    num: Annotated[int, typer.Option(min=1, help="Cases.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed spoils otherwise.")] = 0,
    case: Annotated[int | None, typer.Option(min=0, help="Only the case of this number.")] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the tally.")] = None,
) -> None:
    """Spoil inputs and tell how the stages end."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    todo = cases(num, seed) if case is None else cases(case + 1, seed)[case:]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REALERA_SCRATCH"] = str(Path(folder) / "scratch")
        os.environ["HF_HUB_OFFLINE"] = "1"
        finished = Path(folder) / "finished"
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            make_finished(finished)
        tally, faults = run(finished, todo, seed)
    typer.echo(table(tally))
    if out is not None:
        write_json({"tally": {f"{k}: {o}": n for (k, o), n in sorted(tally.items())}, "faults": faults}, out)
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
