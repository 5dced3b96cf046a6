import re
import shutil

import pytest
import yaml

from realera.settings.config import Section, load_params, load_yaml
from realera.settings.errors import ConfigError


class Inner(Section):
    lr: float
    names: tuple[str, ...] = ()


class Outer(Section):
    inner: Inner
    rates: list[float] = []
    mixed: float | None = None
    steps: int = 1
    table: dict[str, Inner] = {}


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "p.yaml"
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
        return path

    return write


def message(path, schema=Outer):
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, schema)
    return str(caught.value).replace(f"{path}: ", "")


def test_project_params_load_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_params().model.id == "data/models/tiny-sd"


def test_every_project_param_has_a_comment(repository):
    for line in (repository / "params.yaml").read_text().splitlines():
        if re.match(r"\s+\w+:", line):
            assert "# " in line, line


@pytest.mark.parametrize("text", ["1e-05", "'1e-05'", "0.00001", "1.0e-5"])
def test_numbers_as_dvc_writes_them(write, text):
    assert load_yaml(write(f"inner: {{lr: {text}}}"), Outer).inner.lr == 1e-5


def test_params_load_as_dvc_rewrites_them(repository, tmp_path):
    from dvc.utils.hydra import apply_overrides  # what `dvc exp run -S` does to params.yaml

    path = shutil.copy(repository / "params.yaml", tmp_path)
    apply_overrides(path, ["model.id=elsewhere", "lora.learning_rate=1.0e-5", "solver.enabled=false"])
    before, after = load_params(repository / "params.yaml"), load_params(path)
    assert (after.model.id, after.lora.learning_rate, after.solver.enabled) == ("elsewhere", 1e-5, False)
    assert after.lora.mixed_precision == "no"
    assert (after.sampler, after.generate) == (before.sampler, before.generate)


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "Yes", "y", "truly"])
def test_only_true_and_false_are_truth_values(write, text):
    assert load_yaml(write(f"inner: {{lr: 1, names: [{text}]}}"), Outer).inner.names == (text,)


def test_repaired_numbers_in_lists_unions_and_tables(write):
    path = write("{inner: {lr: 1}, rates: [1e-3, 2], mixed: 1e3, table: {a: {lr: 5e-1}}}")
    loaded = load_yaml(path, Outer)
    assert (loaded.rates, loaded.mixed, loaded.table["a"].lr) == ([0.001, 2.0], 1000.0, 0.5)


def test_lists_become_tuples(write):
    assert load_yaml(write("inner: {lr: 1, names: [a, b]}"), Outer).inner.names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inner: {lr: high}", 'inner.lr: found "high"; accepted: number'),
        ("inner: {lr: true}", "inner.lr: found true; accepted: number"),
        ("inner: {lr: .inf}", "inner.lr: found Infinity; accepted: finite number"),
        ("inner: {lr: 'nan'}", "inner.lr: found NaN; accepted: finite number"),
        ("inner: {lr: 1}\nsteps: 2.0", "steps: found 2.0; accepted: integer"),
        ("inner: {lr: 1}\nsteps: '2'", 'steps: found "2"; accepted: integer'),
        ("inner: {}", "inner.lr: missing; it is needed"),
        ("inner: {lr: 1, lrr: 2}", "inner.lrr: unknown key; did you mean lr? accepted: lr, names"),
        ("table: {a: {lr: 1, x: 2}}\ninner: {lr: 1}", "table.a.x: unknown key; accepted: lr, names"),
        ("[1]", "found [1]; accepted: keys with values"),
        ("", "found null; accepted: keys with values"),
        ("inner: {lr: 1}\ninner: {lr: 2}", "not YAML: the key 'inner' is given twice"),
        ("inner: [", "not YAML: while parsing"),
    ],
)
def test_one_line_says_what_is_wrong(write, text, expected):
    assert message(write(text)).startswith(expected)
    assert "\n" not in message(write(text))


def test_one_line_a_problem(write):
    lines = message(write("{inner: {lr: x}, steps: y}")).splitlines()
    assert [line.split(":")[0] for line in lines] == ["inner.lr", "steps"]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_yaml(tmp_path / "none.yaml", Outer)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_yaml(tmp_path, Outer)


def test_not_text_is_named(tmp_path):
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00a: 1")
    assert message(tmp_path / "p.yaml").startswith("not YAML")


def test_loaded_params_do_not_change(write):
    loaded = load_yaml(write("inner: {lr: 1}"), Outer)
    with pytest.raises(ValueError, match="frozen"):
        loaded.inner.lr = 2
