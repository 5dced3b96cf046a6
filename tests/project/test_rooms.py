"""The rooms of the package import down only, in the order that its docstring gives, and as each of them says."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "realera"
ALLOWED: dict[str, set[str]] = {}
"""File -> rooms that it imports against the rule."""


@cache
def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


@cache
def imports(path: Path) -> frozenset[str]:
    """The dotted names that a file imports: in functions and for the type checker too; of `from a import b` a.b."""
    return frozenset(_names(path))


def _names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def order() -> tuple[str, ...]:
    """The rooms from the lowest to the highest, as realera/__init__.py lists them."""
    return tuple(
        re.findall(r"[a-z]+", docstring(PACKAGE / "__init__.py").partition("down only:")[2].replace(" and", ""))
    )


ROOMS = order()
FILES = sorted(path for room in ROOMS for path in (PACKAGE / room).rglob("*.py"))


def rooms_of(path: Path) -> set[str]:
    """The other rooms that a file imports from."""
    parts = [name.split(".") for name in imports(path)]
    found = {names[1] for names in parts if names[0] == "realera" and (PACKAGE / names[1]).is_dir()}
    return found - {path.relative_to(PACKAGE).parts[0]} - ALLOWED.get(name_of(path), set())


def stated(room: str) -> set[str]:
    """The rooms that a room says it may import: a list of names, `a` to `b`, or every room."""
    text = re.sub(r"\s+", " ", docstring(PACKAGE / room / "__init__.py")).partition("May import: ")[2]
    taken, _, left_out = re.split(r"[.;]", text)[0].partition(" not ")
    names = re.findall(r"`(\w+)`", taken)
    if " to " in taken:
        first, last = map(ROOMS.index, names)
        names = list(ROOMS[first : last + 1])
    return (set(ROOMS) if "every room" in taken else set(names)) - set(re.findall(r"`(\w+)`", left_out)) - {room}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_folder_is_a_room_with_its_place():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert len(ROOMS) == len(set(ROOMS))
    assert set(ROOMS) == folders
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_is_in_it_and_what_it_may_import(room):
    text = docstring(PACKAGE / room / "__init__.py")
    assert not text.startswith("May import:")
    assert re.search(r"^May import: \S", text, re.MULTILINE)
    assert stated(room) <= set(ROOMS[: ROOMS.index(room)])


def test_imports_run_down_only():
    upward = {
        name_of(path): rooms_of(path) - set(ROOMS[: ROOMS.index(path.relative_to(PACKAGE).parts[0])]) for path in FILES
    }
    assert not {name: rooms for name, rooms in upward.items() if rooms}


def test_a_room_imports_no_other_than_it_says():
    unsaid = {name_of(path): rooms_of(path) - stated(path.relative_to(PACKAGE).parts[0]) for path in FILES}
    assert not {name: rooms for name, rooms in unsaid.items() if rooms}


def test_a_method_imports_no_other_method():
    methods = {path.name for path in (PACKAGE / "methods").iterdir() if path.is_dir()} - {"common", "__pycache__"}
    for folder in (*methods, "common"):
        others = tuple(f"realera.methods.{name}" for name in methods - {folder})
        for path in (PACKAGE / "methods" / folder).rglob("*.py"):
            assert not [
                name for name in imports(path) if f"{name}.".startswith(tuple(f"{each}." for each in others))
            ], path


def test_the_package_runs_without_dvc():
    files = [PACKAGE / "__init__.py", *FILES]
    assert not [name_of(path) for path in files for name in imports(path) if re.match(r"dvc(\.|$)", name)]
