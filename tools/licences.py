"""The licences of what the lock installs and of what is embedded: the tables of docs/dependencies.md.

python -m tools.licences --page docs/dependencies.md
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from realera.runtime.console import one_line_errors
from realera.settings.errors import ArtifactError
from tools.run_fullsize import put_into

PROJECT = Path(__file__).resolve().parent.parent
LOCK = PROJECT / "requirements.lock"
CARDS = tuple(sorted((PROJECT / "data/models").glob("*/README.md")))

STATED = {"resvg-py": "MIT"}
"""Packages whose metadata name no licence -> the one in their licence file."""

_VAGUE = ("", "Dual License", "UNKNOWN")
_LONGEST = 60
"""Letters of a licence's name; what is longer is its text."""

_SCOPES = ("", "its own files", "itself, if it can be replaced", "itself, not what links to it", "the whole program")
"""What must stay under a copyleft licence, from nothing to all."""

_COPYLEFT = (
    (re.compile(r"linking exception", re.IGNORECASE), _SCOPES[3]),
    (re.compile(r"LGPL"), _SCOPES[2]),
    (re.compile(r"GPL"), _SCOPES[4]),
    (re.compile(r"MPL|EPL|Mozilla|Eclipse"), _SCOPES[1]),
)
"""What a licence names -> its scope, the first that fits."""

_BOTH = re.compile(r" AND (?![^(]*\))")
_CHOICE = re.compile(r" OR |\|")


def read_lock(path: Path = LOCK) -> list[Requirement]:
    """Return the lock's lines, in their order."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def served() -> dict[str, list[Requirement]]:
    """Return what the project asks for and the lock serves: "run" and the extras that `make setup` installs."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    setup = re.search(r"--editable '\.\[([\w,-]+)\]'", (PROJECT / "Makefile").read_text(encoding="utf-8"))
    if setup is None:
        raise ArtifactError("Makefile: found no --editable '.[...]'; accepted: the line that installs the project")
    wanted = {"run": project["dependencies"]}
    wanted |= {extra: project["optional-dependencies"][extra] for extra in setup[1].split(",")}
    return {name: [Requirement(text) for text in texts] for name, texts in wanted.items()}


def needs(requirement: Requirement) -> Iterator[Requirement]:
    """Yield what an installed package asks for on this machine, with the extras that are asked of it.

    Raises:
        ArtifactError: it is not installed.
    """
    for text in _distribution(requirement.name).requires or ():
        needed = Requirement(text)
        environments = [{"extra": extra} for extra in ("", *sorted(requirement.extras))]
        if needed.marker is None or any(needed.marker.evaluate(each) for each in environments):
            yield needed


def reached(requirements: Iterable[Requirement]) -> set[str]:
    """Return the names of packages that requirements lead to, directly or not."""
    seen, open_ones = set(), list(requirements)
    while open_ones:
        requirement = open_ones.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            open_ones += needs(requirement)
    return {name for name, _ in seen}


def licence(name: str) -> str:
    """Return a package's licence: its SPDX expression, else its own short name of it, else its classifiers.

    Raises:
        ArtifactError: it is not installed, or says nothing.
    """
    said = _distribution(name).metadata
    classifiers = [text.rpartition(" :: ")[2] for text in said.get_all("Classifier") or () if _is_licence(text)]
    (expression,), (own,) = ((said.get_all(key) or [""])[:1] for key in ("License-Expression", "License"))
    is_name = own not in _VAGUE and len(own) <= _LONGEST and "\n" not in own
    named = (expression, own if is_name else "", ", ".join(classifiers), STATED.get(canonicalize_name(name)))
    if text := next(filter(None, named), None):
        return text
    raise ArtifactError(f"{name}: its metadata name no licence; accepted: one in STATED of tools/licences.py")


def copyleft(text: str) -> str:
    """Return what has to stay under a licence; of several that one may choose from, the least. Empty: nothing."""

    def scope_of(name: str) -> str:
        return next((scope for form, scope in _COPYLEFT if form.search(name)), _SCOPES[0])

    parts = [min(map(scope_of, _CHOICE.split(part)), key=_SCOPES.index) for part in _BOTH.split(text)]
    return max(parts, key=_SCOPES.index)


def sources(card: Path) -> list[tuple[str, str, str]]:
    """Return name, address and licence of the drawings that an embedded model's card lists.

    Raises:
        ArtifactError: it lists none.
    """
    row = re.compile(r"^\| \w+ \| \[(.+?)\]\((\S+)\), .+? \| ([\w.-]+) \| [^|]+ \|$", re.MULTILINE)
    if not (found := row.findall(card.read_text(encoding="utf-8"))):
        raise ArtifactError(f"{card}: found no table of sets; accepted: a card with one")
    return found


def tables() -> str:
    """Return both tables as Markdown, copyleft licences first."""
    return "\n".join(["### Packages", "", *_packages(), "", "### Embedded models", "", *_models()])


def main(
    page: Annotated[Path | None, typer.Option(help="A Markdown page whose tables are replaced.")] = None,
) -> None:
    """Print the licences of installed packages and of embedded models."""
    with one_line_errors():
        text = tables()
        typer.echo(text)
        if page is not None:
            put_into(page, text)


def _packages() -> Iterator[str]:
    users = _users(served())
    rows = []
    for requirement in read_lock():
        text = licence(requirement.name)
        pinned = next(iter(requirement.specifier)).version
        used = ", ".join(users.get(canonicalize_name(requirement.name), ()))
        rows.append((requirement.name, pinned, text.replace("|", "or"), copyleft(text), used))
    yield "| package | version | licence | copyleft: what stays under it | needed by |"
    yield "|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: (not row[3], row[0].lower())):
        yield f"| {' | '.join(row)} |"


def _users(wanted: Mapping[str, Iterable[Requirement]]) -> dict[str, list[str]]:
    """Return for each package the parts of the project that lead to it: "run" alone, else the extras."""
    found: dict[str, list[str]] = defaultdict(list)
    for part, requirements in wanted.items():
        for name in reached(requirements):
            if found[name] != ["run"]:
                found[name].append(part)
    return found


def _models() -> Iterator[str]:
    yield "| folder | licence | drawings it was trained or tested on |"
    yield "|---|---|---|"
    for card in CARDS:
        text = card.read_text(encoding="utf-8")
        own = re.search(r"^license: (\S+)$", text, re.MULTILINE)
        if own is None:
            raise ArtifactError(f"{card}: found no line license: ...; accepted: a card with one")
        by_licence: dict[str, list[str]] = defaultdict(list)
        for name, _, its_licence in sources(card):
            by_licence[its_licence].append(name)
        origin = "; ".join(f"{each}: {', '.join(names)}" for each, names in sorted(by_licence.items()))
        folder = card.parent.relative_to(PROJECT).as_posix()
        yield f"| [{folder}](../{folder}/README.md) | {own[1]} | {origin} |"


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise ArtifactError(f"{name}: found no such package; accepted: the lock installed by make setup") from error


def _is_licence(classifier: str) -> bool:
    return classifier.startswith("License :: ") and not classifier.endswith(":: OSI Approved")


if __name__ == "__main__":
    typer.run(main)
