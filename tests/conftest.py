"""Fixtures shared by all tests: the embedded models, and scratch work that stays in the test."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of the libraries: no test asks the hub

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_scratch(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("REALERA_SCRATCH", str(tmp_path_factory.mktemp("scratch")))


@pytest.fixture(scope="module")
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_sd() -> Path:
    return _model_folder("tiny-sd")


@pytest.fixture(scope="session")
def tiny_clip() -> Path:
    return _model_folder("tiny-clip")


@pytest.fixture(scope="session")
def pipe(tiny_sd):
    from realera.families.stable_diffusion import open_pipeline

    return open_pipeline(tiny_sd, device="cpu")


@pytest.fixture(scope="session")
def judge(tiny_clip):
    from realera.judges.clip import open_clip

    return open_clip(tiny_clip, device="cpu")


@pytest.fixture(scope="module")
def workspace(repository, tmp_path_factory):
    """A project with the artifacts of an erasure."""
    from tests.kit.erasure_project import make_workspace

    folder = tmp_path_factory.mktemp("workspace")
    make_workspace(folder, repository)
    return folder


@pytest.fixture
def run(workspace, monkeypatch):
    """Run the command line in that project."""
    from realera.commands.cli import app
    from realera.settings import project

    monkeypatch.chdir(workspace)
    monkeypatch.setattr(project, "PROJECT", workspace)  # the repository may hold artifacts of its own
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def own(workspace):
    """Where the files of RealEra's erasure lie in that project."""
    from realera.store.paths import Place

    return Place(workspace / "artifacts" / "airplane").of("realera")


def pytest_sessionfinish(session, exitstatus):
    """With REALERA_FAIL_ON_SKIP a skipped test fails the run: CI has what every test needs."""
    if os.environ.get("REALERA_FAIL_ON_SKIP") and exitstatus == 0 and _num_skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if os.environ.get("REALERA_FAIL_ON_SKIP") and (num := _num_skipped(config)):
        terminalreporter.write_line(f"REALERA_FAIL_ON_SKIP: {num} skipped, which counts as failed")


def _num_skipped(config) -> int:
    return len(config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", []))


def _model_folder(name: str) -> Path:
    folder = REPOSITORY / "data" / "models" / name
    if not folder.is_dir():
        pytest.fail(f"the embedded model is missing: {folder.relative_to(REPOSITORY)}")
    return folder
