"""The documentation agrees with the code: keys, paths, options, presets."""

import re
from pathlib import Path

import pytest
import typer
import yaml

from realera.commands.cli import app
from realera.drawing.subjects import GROUPS
from realera.judges.raw import SCORES
from realera.methods.realera import samples, sampling
from realera.settings import presets as concepts
from realera.settings.config import Params
from realera.store import images
from realera.text import prompt_table

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "pretrain/README.md", *(REPOSITORY / "docs").glob("*.md")])
SECTIONS = tuple(name for name in Params.model_fields if name not in ("concepts", "methods", "realera"))
EXAMPLE = "data/concepts/violin.yaml"
"""A file that the pages tell the reader to write."""

MADE_LATER = ("artifacts/", "reports/", "pretrain/work/")
"""What a run makes; the rest of what looks like a path must be there."""

KEY = re.compile(rf"(?<![\w/.*\\-])((?:{'|'.join(SECTIONS)})(?:\.[A-Za-z_]\w*)+)")
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|yaml|toml|lock))`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#([\w-]+))?\)")
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def page_id(path):
    return str(path.relative_to(REPOSITORY))


def of_project(path):
    """Pretrain's own page speaks of pretrain/params.yaml."""
    return not page_id(path).startswith("pretrain")


def keys_of(values, prefix=""):
    found = set()
    for key, value in values.items():
        found.add(prefix + key)
        if isinstance(value, dict):
            found |= keys_of(value, f"{prefix}{key}.")
    return found


def console_lines(text):
    """Every command in the console blocks, continued lines joined, comments left out."""
    blocks = [body.replace("\\\n", " ") for language, body in FENCE.findall(text) if language == "console"]
    lines = [line.removeprefix("$ ") for body in blocks for line in body.splitlines()]
    return [re.sub(r"\s{2,}#.*|\s# .*", "", line).strip() for line in lines]


def anchors_of(path):
    """The names that a page's headings have in links."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [page for page in PAGES if of_project(page)], ids=page_id)
def test_named_parameters_exist(page):
    known = keys_of(yaml.safe_load((REPOSITORY / "params.yaml").read_text()))
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"`([^`\n]+)`", text) + console_lines(text)
    named = {key for part in code for key in KEY.findall(part)}
    assert not {key for key in named - known if not is_file_name(key)}


def is_file_name(key):
    """A stage and a section have one name: score.py, solve.json."""
    return key.rpartition(".")[2] in ("py", "json", "yaml", "parquet", "safetensors", "csv")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_paths_exist(page):
    named = set(PATH.findall(page.read_text(encoding="utf-8")))
    roots = [REPOSITORY, page.parent]
    top = {path.name for path in REPOSITORY.iterdir()}
    missing = [
        path
        for path in sorted(named)
        if (path.partition("/")[0] in top or "/" not in path)
        and not path.startswith(MADE_LATER)
        and not any((root / path).exists() for root in roots)
        and path != EXAMPLE
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    for target, heading in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        assert path.exists(), target
        assert not heading or heading in anchors_of(path), f"{target}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_have_the_options_that_are_shown(page):
    group = typer.main.get_command(app)
    lines = [line for line in console_lines(page.read_text(encoding="utf-8")) if line.startswith("realera ")]
    for line in lines:
        command = group.commands[line.split()[1]]
        command = command.commands[line.split()[2]] if hasattr(command, "commands") else command
        options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        unknown = set(re.findall(r"(?<= )--[\w-]+", line)) - options
        assert not unknown, line


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_exist(page):
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([\w-]+)", "\n".join(console_lines(page.read_text("utf-8"))), re.MULTILINE)
    assert set(named) <= set(targets)


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("prompts.parquet", prompt_table.SCHEMA.names),
        ("samples.parquet", samples.SCHEMA.names),
        ("moments.parquet", sampling.MOMENTS.names),
        ("images.parquet", [*images.SCHEMA.names, *GROUPS]),
        ("scores.parquet", [name for name in SCORES.names if name not in images.SCHEMA.names]),
    ],
)
def test_columns_of_the_tables_are_explained(file, names):
    rows = (REPOSITORY / "docs/method.md").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in rows if re.match(rf"\| [^|]*`{file}`", row)]
    assert set(names) <= set(re.findall(r"\w+", row.partition(" | ")[2]))


def test_every_parameter_has_a_comment():
    lines = (REPOSITORY / "params.yaml").read_text().splitlines()
    bare = [line for line in lines if re.match(r"\s+\w+:", line) and "#" not in line]
    sections = [line for line in bare if line.rstrip().endswith(":")]
    assert not set(bare) - set(sections)


@pytest.fixture
def project_copy(tmp_path, monkeypatch):
    """The parameter files in a folder of their own."""
    for file in ["params.yaml", *(path.relative_to(REPOSITORY) for path in (REPOSITORY / "data/concepts").iterdir())]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((REPOSITORY / file).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if of_project(page)], ids=page_id)
def test_settings_of_each_command_are_accepted(page, project_copy):
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps  # what `dvc exp run -S` does

    for line in console_lines(page.read_text(encoding="utf-8")):
        by_file = {}
        for setting in re.findall(r"-S ('[^']*'|\S+)", line):
            name, key, value = re.fullmatch(r"(?:([^=:]+):)?([^=:]+)=(.*)", setting.strip("'")).groups()
            if "..." not in value:
                by_file.setdefault(name or "params.yaml", []).append(f"{key}={value}")
        for overrides in get_hydra_sweeps(by_file) if by_file else []:
            for file, values in overrides.items():
                before = (REPOSITORY / file).read_bytes()
                apply_overrides(file, values)
                schema = Params if file == "params.yaml" else concepts.Preset
                concepts.load_yaml(project_copy / file, schema)
                (project_copy / file).write_bytes(before)


@pytest.mark.parametrize("page", ["README.md", "docs/presets.md"])
def test_example_preset_is_accepted(page, tmp_path, monkeypatch):
    blocks = [body for language, body in FENCE.findall((REPOSITORY / page).read_text("utf-8")) if language == "yaml"]
    example = next(body for body in blocks if body.startswith("task:"))
    assert len(example.splitlines()) <= 10
    path = tmp_path / "data/concepts/violin.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(example)
    monkeypatch.chdir(tmp_path)
    preset = concepts.load_preset("violin")
    assert preset.pairs() == [("violin", "star")]
    assert concepts.load_templates(preset.templates)
    assert concepts.load_words(preset.classes)
    assert "violin" not in concepts.preserved_words(preset, ["violin", "fiddle", "moon"])
