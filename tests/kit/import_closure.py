"""What a script imports of the project, directly and through others; read from the sources, nothing is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("realera", "stages")


def import_closure(script: Path, root: Path) -> set[Path]:
    """Return the project's files whose code a script may run, itself included, relative to `root`.

    Imports inside functions count as those at the top; those under `if TYPE_CHECKING` do not run and do not count.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [other for name in _imports(path) for other in _files(name, root)]
    return {path.relative_to(root) for path in found}


def _imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports; of `from a import b` both a and a.b, since b may be a module."""
    for node in _running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _running(node)


def _files(name: str, root: Path) -> Iterator[Path]:
    """Yield the file of a module and the __init__ of each package above it, as far as they are the project's."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return
    for end in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:end])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path
