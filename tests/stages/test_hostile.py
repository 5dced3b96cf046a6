"""A sample of `make fuzz`: spoiled files end in a clear error or a correct run; and the fuzzer sees faults."""

from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest

from realera.settings.errors import ConfigError
from tests.kit.stage_project import STAGES
from tools import fuzz
from tools.spoil import spoil

pytestmark = pytest.mark.slow

NUM, SEED = 60, 7
OF_THE_PROJECT = sorted({path for path, _ in fuzz.places() if path.startswith(("artifacts/", "data/", "params.yaml"))})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    fuzz.make_finished(folder)
    return folder


def test_spoiled_files_end_in_a_clear_error_or_a_correct_run(finished):
    tally, faults = fuzz.run(finished, fuzz.cases(NUM, SEED), SEED)
    assert faults == []
    assert sum(tally.values()) == NUM
    assert sum(number for (_, name), number in tally.items() if name == "clear error") > NUM / 4


@pytest.mark.parametrize("path", OF_THE_PROJECT)
def test_every_file_is_spoiled_as_the_seed_says(finished, path, tmp_path):
    spoiled = []
    for name in ("a", "b"):
        copy = tmp_path / name / Path(path).name
        copy.parent.mkdir()
        copy.write_bytes((finished / path).read_bytes())
        spoil(copy, np.random.default_rng(3))
        spoiled.append(copy.read_bytes())
    assert spoiled[0] == spoiled[1] != (finished / path).read_bytes()


def half_write() -> None:
    Path("artifacts/airplane/.tmp-mining.json").write_text("{")
    raise SystemExit(1)


def fail_silently() -> None:
    raise SystemExit(1)


def crash() -> None:
    raise KeyError("sampler")


def crash_as_an_error() -> None:
    raise ConfigError("error: not printed by a stage")


@pytest.mark.parametrize(
    ("stage", "found"),
    [
        (half_write, "half-written"),
        (fail_silently, "unclear message"),
        (crash, "traceback"),
        (crash_as_an_error, "traceback"),
    ],
)
def test_the_fuzzer_sees_faults(finished, tmp_path, monkeypatch, stage, found):
    """Its power: stages that end badly are told from those that end well."""
    monkeypatch.setitem(STAGES, "plan", (stage, [], []))
    (tmp_path / "artifacts/airplane").mkdir(parents=True)
    with chdir(tmp_path):
        assert fuzz.outcome("plan")[0] == found
