"""Two people share what they have computed through a real S3 server on this machine (moto's), and git."""

import subprocess

import pytest
import yaml
from typer.testing import CliRunner

from tests.kit.dvc_repository import Repository
from tests.stages.test_pipeline import SOURCES, hashes, set_param, shrink
from tools import ablations

pytestmark = pytest.mark.slow

BUCKET = "shared-artifacts"


@pytest.fixture(scope="module")
def endpoint():
    """The address of a running S3 server with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
        yield address
    server.stop()


@pytest.fixture(scope="module")
def first(repository, endpoint, tmp_path_factory):
    """The first person: has run the pipeline, and pushed to both remotes."""
    root, origin = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("origin")
    subprocess.check_call(["git", "init", "--quiet", "--bare", str(origin)])
    person = Repository(root, repository, tmp_path_factory.mktemp("home"), [*SOURCES, "pretrain"])
    person.origin = origin
    shrink(root)
    person.run("dvc", "remote", "add", "--default", "storage", f"s3://{BUCKET}/realera")
    person.run("dvc", "remote", "modify", "storage", "endpointurl", endpoint)
    assert person.reproduce().ran
    publish(person, "the first run")
    return person


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """The second person: has cloned and pulled, though nobody here has made the models of pretrain/."""
    root = tmp_path_factory.mktemp("clones") / "second"
    person = Repository.clone(first.origin, root, tmp_path_factory.mktemp("home"))
    assert not (root / ".dvc/cache").exists()
    person.run("dvc", "pull", "--run-cache")
    return person


def publish(person: Repository, message: str) -> None:
    person.run("git", "add", "--all")
    person.run("git", "commit", "--quiet", "--message", message)
    person.run("git", "push", "--quiet", str(person.origin), "HEAD:refs/heads/main")
    person.run("git", "--git-dir", str(person.origin), "symbolic-ref", "HEAD", "refs/heads/main")
    person.run("dvc", "push", "--run-cache")


def test_nothing_runs_in_a_second_clone(first, second):
    assert second.reproduce().ran == []
    assert hashes(second.root) == hashes(first.root)
    assert (second.root / "artifacts/airplane/realera/images.parquet").exists()


def test_of_a_setting_that_a_colleague_has_pushed_only_the_report_runs(first, second):
    set_param(first, sampler__M=3)
    assert "mine@airplane" in first.reproduce().ran
    first.run("dvc", "push", "--run-cache")

    set_param(second, sampler__M=3)
    second.run("dvc", "fetch", "--run-cache")
    assert second.reproduce("--pull").ran == ["report"]  # its metrics are in git, not in the cache
    assert hashes(second.root) == hashes(first.root)


def assert_is_in_tables(person: Repository, name: str, monkeypatch) -> None:
    """The tool for ablations reads an experiment's figures from its commit."""
    with monkeypatch.context() as patch:
        patch.chdir(person.root)
        for variable, value in person.environment.items():
            patch.setenv(variable, value)
        done = CliRunner().invoke(ablations.app, ["table", "airplane", name])
    assert done.exit_code == 0, done.output
    assert f"| {name} | probability | " in done.output


def test_an_experiment_travels_through_git_and_the_remote(first, second, monkeypatch):
    first.run("git", "remote", "add", "origin", str(first.origin))
    first.run("dvc", "exp", "run", "--name", "few-resamples", "-S", "score.num_resamples=100")
    first.run("dvc", "exp", "push", "--run-cache", "origin", "few-resamples")
    assert_is_in_tables(first, "few-resamples", monkeypatch)

    second.run("git", "checkout", "--quiet", "--force", "main")
    assert "few-resamples" in second.run("dvc", "exp", "list", "origin")
    second.run("dvc", "exp", "pull", "--run-cache", "origin", "few-resamples")
    second.run("dvc", "exp", "apply", "few-resamples")
    assert yaml.safe_load((second.root / "params.yaml").read_text())["score"]["num_resamples"] == 100
    assert second.reproduce().ran == []
    assert hashes(second.root) == hashes(first.root)
