"""dvc.yaml misses no change: what a stage's script may run is among its dependencies, and nothing else is."""

import shutil
from pathlib import Path

import pytest
import yaml

from realera.methods.seam import method_names
from realera.store.paths import REALERA
from tests.kit.import_closure import import_closure

REPOSITORY = Path(__file__).resolve().parents[2]

CANNOT_CHANGE_A_RESULT = {
    "realera/__init__.py": "version and a log filter",
    "realera/runtime/__init__.py": "a docstring",
    "realera/methods/__init__.py": "a docstring",
    "realera/drawing/__init__.py": "a docstring; whoever lists one file of the room runs it too",
    "realera/runtime/console.py": "how errors and warnings are printed",
    "realera/runtime/warm.py": "how a stage's process is started",
}
"""File -> why a change of it needs no stage to run again. No folder stands here."""


def stages() -> dict[str, dict]:
    return yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]


def scripts(name: str, stage: dict) -> list[tuple[str, Path, list[str]]]:
    """Return (stage and method, the script, the dependencies) for each method of a stage, or for the stage itself."""
    script = REPOSITORY / next(word for word in stage["cmd"].split() if word.endswith(".py"))
    methods = method_names() if "method" in stage.get("matrix", {}) else ("",)
    return [(f"{name} {m}".strip(), script, [d.replace("${item.method}", m) for d in stage["deps"]]) for m in methods]


ALL = [each for name, stage in stages().items() for each in scripts(name, stage)]


def code_of(name: str, script: Path, root: Path) -> set[str]:
    """Return the files that a stage may run: its script's imports and, in `erase`, the method that it asks for."""
    found = import_closure(script, root)
    stage, _, method = name.partition(" ")
    if stage == "erase" and method != REALERA:
        found |= import_closure(root / f"realera/methods/{method}/method.py", root)
    if stage in ("erase", "task"):
        found.add(Path(f"realera/methods/{method}/__init__.py"))
    if stage == "erase":  # a method's module is not another's; the one of RealEra is run by no other
        others = {m for m in method_names() if m != method}
        found = {path for path in found if not any(path.is_relative_to(f"realera/methods/{m}") for m in others)}
    return {path.as_posix() for path in found} - set(CANNOT_CHANGE_A_RESULT)


def missed(name: str, script: Path, deps: list[str], root: Path) -> set[str]:
    """Return what a stage may run and does not depend on."""
    covered = [Path(dependency) for dependency in deps]
    return {p for p in code_of(name, script, root) if not any(Path(p).is_relative_to(dep) for dep in covered)}


@pytest.mark.parametrize(("name", "script", "deps"), ALL, ids=[name for name, _, _ in ALL])
def test_a_stage_depends_on_all_code_that_it_may_run(name, script, deps):
    assert missed(name, script, deps, REPOSITORY) == set()


@pytest.mark.parametrize("stage", stages())
def test_a_stage_depends_on_no_code_that_none_of_its_methods_runs(stage):
    idle = set()
    for name, script, deps in scripts(stage, stages()[stage]):
        used = {Path(path) for path in code_of(name, script, REPOSITORY)}
        code = {dependency for dependency in deps if dependency.startswith(("realera", "stages"))}
        unused = {dependency for dependency in code if not any(path.is_relative_to(dependency) for path in used)}
        idle = unused if not idle else idle & unused
        if not unused:
            return
    assert idle == set()


def test_the_check_fails_where_a_module_imports_one_more(tmp_path):
    """An edit as a developer would make it: something moves to a new module outside of the listed rooms."""
    for folder in ("realera", "stages"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    samples = tmp_path / "realera/methods/realera/samples.py"
    samples.write_text(f"from realera.tolerances import anchor_ratio\n{samples.read_text()}")
    (tmp_path / "realera/tolerances.py").write_text("anchor_ratio = 1.0\n")
    broken = {
        name for name, script, deps in ALL if missed(name, tmp_path / script.relative_to(REPOSITORY), deps, tmp_path)
    }
    assert broken == {"mine", "solve", "train"}


def test_what_cannot_change_a_result_is_a_file_that_is_there():
    assert all(reason for reason in CANNOT_CHANGE_A_RESULT.values())
    assert all((REPOSITORY / path).is_file() for path in CANNOT_CHANGE_A_RESULT)
