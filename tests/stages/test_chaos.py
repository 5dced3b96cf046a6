"""Killed, starved and set back: what is left at any moment, and that the next run makes it whole."""

import ast
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from realera.store.artifacts import atomic_path, write_json
from realera.store.scratch import scratch, scratch_root
from tests.kit.dvc_repository import Repository
from tools import chaos

KEY = "0123456789abcdef" * 4
DAY_S = 86_400
ORIGINALS, TRAIN = (next(s for s in chaos.UNDER_TEST if s.name == name) for name in ("originals", "train"))

WRITE_AND_WAIT = """
import sys, time
from realera.store.artifacts import atomic_path
with atomic_path(sys.argv[1]) as target:
    if sys.argv[2] == "folder":
        target.mkdir()
        target = target / "weights"
    target.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@contextmanager
def writer(repository, target, kind):
    """A process that is in the middle of writing `target`."""
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(target), kind]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def temporary(folder):
    return sorted(path.name.split("-", 2)[2] for path in folder.glob(".tmp-*"))


# --- what a killed writer leaves


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_write_removes_what_a_killed_one_has_left_and_nothing_else(repository, tmp_path, kind):
    """Of another artifact nothing is touched, dead or alive, nor of the same one while its writer lives."""
    target, other = tmp_path / "lora", tmp_path / "a-lora"
    with writer(repository, target, kind), writer(repository, other, kind):
        pass
    assert temporary(tmp_path) == ["a-lora", "lora"]
    with writer(repository, target, kind):
        write_json([1], target)
        assert temporary(tmp_path) == ["a-lora", "lora"], "the dead one's is gone, the living one's is there"
    write_json([2], target)
    assert temporary(tmp_path) == ["a-lora"]
    write_json([3], other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-lora", "lora"]
    assert json.loads(target.read_text()) == [2]


def test_one_killed_between_two_renames_of_a_folder_leaves_nothing_for_good(tmp_path):
    """A folder can't be put over another in one go: the old one waits in the temporary folder."""
    left = tmp_path / ".tmp-01234567-lora"
    (left / "lora.old").mkdir(parents=True)
    (left / "lora").mkdir()
    (left / "lora.old/weights").write_text("old")
    with atomic_path(tmp_path / "lora") as target:
        target.mkdir()
        (target / "weights").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]
    assert (tmp_path / "lora/weights").read_text() == "new"


def test_scratch_removed_by_halves_is_removed_for_good():
    """It is renamed first, so that one killed meanwhile leaves all of its work or none."""
    left = scratch_root() / ".tmp-0123"
    left.mkdir(parents=True)
    (left / "part-00001.parquet").touch()
    with scratch("train", KEY) as folder:
        assert list(folder.iterdir()) == []
    assert list(scratch_root().iterdir()) == []


# --- the tool


def test_moments_are_the_seeds():
    plans = [chaos.draw_plan(TRAIN, 10.0, 0, index) for index in range(40)]
    assert plans == [chaos.draw_plan(TRAIN, 10.0, 0, index) for index in range(40)]
    assert plans != [chaos.draw_plan(TRAIN, 10.0, 1, index) for index in range(40)]
    assert sum(plan.signal == signal.SIGKILL for plan in plans) == 20
    assert {plan.at for plan in plans} == {"moment", "writing", "checkpoint"}
    assert all(0 <= plan.seconds <= 10 for plan in plans)
    assert {plan.clock_s for plan in plans} == {-DAY_S, 0, DAY_S}
    assert sum(stage.share for stage in chaos.UNDER_TEST) == 100


def test_the_tally_says_what_must_not_be():
    reference = chaos.Reference({"a": "1"}, 5.0, 40, 2)
    kill = chaos.Kill("train", "SIGKILL", "moment", kept_before=4, repeated=2.5)
    late = replace(kill, signal="SIGTERM", problem="drew on")
    ends = [chaos.End("train", 1, True, [], [], ""), chaos.End("train", 1, False, ["a"], [".tmp-1-a"], "exit code 1")]
    good = chaos.Tally(ORIGINALS, reference, [kill], ends[:1])
    bad = chaos.Tally(TRAIN, reference, [kill, late], ends)
    assert good.problems() == []
    assert bad.problems() == ["train: drew on", "train: exit code 1", "train: a differs", "train: .tmp-1-a is left"]
    row = bad.row()
    assert (row["SIGKILL"], row["SIGTERM"], row["resumed"], row["mismatches"], row["stale"]) == (1, 1, 3, 1, 1)
    assert row["repeated at most"] == "2.50 step"
    lines = chaos.table([good, bad]).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith("| all |  | 2 | 1 |")


def test_an_unknown_stage_is_refused(repository):
    command = [sys.executable, "tools/chaos.py", "--stage", "trian"]
    done = subprocess.run(command, cwd=repository, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --stage: found 'trian'; accepted: mine, solve, latents, train")


def test_a_run_that_goes_wrong_is_found(tmp_path):
    """The comparison itself: a differing output, a leftover, and passes that were not needed."""
    laboratory = chaos.Laboratory(tmp_path)
    output = laboratory.root / "artifacts/airplane/originals.parquet"
    output.parent.mkdir(parents=True)
    output.write_text("a")
    reference = chaos.Reference(laboratory.outputs(ORIGINALS), 1.0, 8, 4)
    (laboratory.passes / "1").write_text("." * 8)
    assert chaos.compare(laboratory, ORIGINALS, reference, 1, 0) == chaos.End("originals", 1, False, [], [], "")
    output.write_text("b")
    (output.parent / ".tmp-01234567-originals.parquet").mkdir()
    (laboratory.scratch / "originals-0").mkdir()
    end = chaos.compare(laboratory, ORIGINALS, reference, 1, 1)
    assert end.mismatches == ["airplane/originals.parquet"]
    assert [Path(path).name for path in end.stale] == [".tmp-01234567-originals.parquet", "originals-0"]
    assert end.problem == "8 passes in the last run, 4 were missing"
    output.unlink()
    assert chaos.compare(laboratory, ORIGINALS, reference, 1, 0).mismatches == ["airplane/originals.parquet"]


@pytest.mark.slow
def test_killed_stages_end_with_the_same_bytes(tmp_path):
    """`make chaos` does this 100 times, for every stage."""
    tallies = list(chaos.run(tmp_path, [TRAIN, ORIGINALS], 6, random.randrange(10**6)))
    print(chaos.table(tallies))
    assert [problem for tally in tallies for problem in tally.problems()] == []
    assert sum(len(tally.kills) for tally in tallies) == 6


@pytest.mark.slow
def test_processes_that_were_just_starting_do_not_draw_for_a_stage_that_was_killed(tmp_path):
    """Torch ends them with their parent only once they run: until then they load libraries, for seconds."""
    laboratory = chaos.Laboratory(tmp_path)
    process = laboratory.start(ORIGINALS)
    try:
        until(lambda: len(chaos.members(process.pid)) > chaos.SETTINGS["generate"]["num_processes"])
        process.kill()
        process.wait()
        assert chaos.until_alone(process.pid) < chaos.PATIENCE_S
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert laboratory.count_passes() == 0
    assert laboratory.units(ORIGINALS) == 0


def until(condition, seconds=1200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


# --- a clock that jumps


def test_nothing_asks_for_the_time_of_day(repository):
    """Durations are measured by the monotonic clock; what is resumed is found by its content's hash."""
    asking = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
    asking |= {"time.gmtime", "time.localtime", "time.ctime", "time.strftime"}
    files = {"getmtime", "getctime", "getatime", "st_mtime", "st_ctime", "st_atime", "st_mtime_ns", "st_ctime_ns"}
    found = []
    for path in sorted([*repository.glob("realera/**/*.py"), *repository.glob("stages/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (node.attr in files or ast.unparse(node) in asking):
                found.append(f"{path.relative_to(repository)}:{node.lineno}: {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                names = {name.name for name in node.names} & {"time", "time_ns", "datetime", "date"}
                found += [f"{path.relative_to(repository)}:{node.lineno}: import of {name}" for name in names]
    assert found == []


# --- a full disk


def draw_in_one_process(root):
    """It starts faster."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["generate"]["num_processes"] = 1
    (root / "params.yaml").write_text(yaml.safe_dump(params))


@contextmanager
def small_disk(folder):
    """Let only some kilobytes fit into a folder: a real small disk where it may be mounted, else no file over 1 kB.

    Yields options for the process that writes, and what makes room.
    """
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))}
        yield limit, lambda: None
        return
    try:
        yield {}, lambda: subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_stage_goes_on_when_a_full_disk_has_room_again(tmp_path):
    """One line names the file; what was finished before is kept, and only the rest is drawn."""
    laboratory = chaos.Laboratory(tmp_path)
    draw_in_one_process(laboratory.root)
    reference = chaos.measure(laboratory, ORIGINALS)
    laboratory.remove_outputs(ORIGINALS)
    with small_disk(laboratory.scratch) as (options, make_room):
        command = [sys.executable, "stages/generate.py", "originals", "airplane"]
        done = subprocess.run(
            command, cwd=laboratory.root, env=laboratory.environment, capture_output=True, text=True, **options
        )
        assert done.returncode == 1
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert re.search(r"/part-\d+\.parquet: cannot be written: (No space left on device|File too large)$", errors[0])
        assert not laboratory.temporary_files()
        kept = laboratory.units(ORIGINALS)
        assert 0 < kept < reference.passes // reference.passes_a_unit or "preexec_fn" in options
        make_room()
        end = chaos.let_end(laboratory, ORIGINALS, reference, 1)
    assert (end.mismatches, end.stale, end.problem) == ([], [], "")
    assert end.resumed == (kept > 0)


# --- DVC's cache, and two experiments at once


@pytest.fixture
def dvc_project(repository, tmp_path):
    for name in ("repository", "home"):
        (tmp_path / name).mkdir()
    paths = ["realera", "stages", "data", "params.yaml", "dvc.yaml", ".gitignore"]
    project = Repository(tmp_path / "repository", repository, tmp_path / "home", paths)
    project.environment |= {
        f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return project


@pytest.mark.slow
def test_a_damaged_object_in_dvcs_cache(dvc_project, tmp_path):
    """DVC trusts an object that is read-only, as it makes them; it looks into one that is not.

    So a damaged read-only object is put into the workspace without a word (the next stage names the file
    that it can't read). `chmod -R u+w .dvc/cache` makes DVC look: damaged objects are removed, and
    `dvc repro` runs their stages again. For a remote, `dvc remote modify NAME verify true` does the same.
    """
    assert dvc_project.reproduce("plan").ran == ["plan"]
    out = dvc_project.root / "artifacts/shared/subjects.json"
    whole = out.read_bytes()
    digest = hashlib.md5(whole).hexdigest()
    cached = dvc_project.root / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"
    assert cached.read_bytes() == whole

    damage(cached)
    out.unlink()
    dvc_project.run("dvc", "checkout", "plan")
    assert out.read_bytes() == whole[:100], "the damaged object is trusted"
    command = [sys.executable, "stages/generate.py", "base"]
    done = subprocess.run(command, cwd=dvc_project.root, env=dvc_project.environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: artifacts/shared/subjects.json: not readable as JSON" in done.stderr

    for path in (dvc_project.root / ".dvc/cache").rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)
    out.unlink()
    assert dvc_project.reproduce("plan").ran == ["plan"]
    assert out.read_bytes() == cached.read_bytes() == whole

    remote = tmp_path / "remote"
    dvc_project.run("dvc", "remote", "add", "--default", "shared", str(remote))
    dvc_project.run("dvc", "push", "plan")
    damage(remote / cached.relative_to(dvc_project.root / ".dvc/cache"))
    dvc_project.run("dvc", "remote", "modify", "shared", "verify", "true")
    cached.unlink()
    out.unlink()
    pull = subprocess.run(
        ["dvc", "pull", "plan"], cwd=dvc_project.root, env=dvc_project.environment, capture_output=True, text=True
    )
    assert pull.returncode != 0
    assert not out.exists(), "what does not have its hash is not put into the workspace"
    assert dvc_project.reproduce("plan").ran == ["plan"]
    assert out.read_bytes() == whole


def damage(path):
    """Cut a file off, keeping its mode, as a failing disk does."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:100])
    path.chmod(mode)


@pytest.mark.slow
def test_two_experiments_at_once_draw_what_one_after_the_other_draws(dvc_project):
    """Both need the same images and share the scratch folder: the second waits for the first.

    DVC locks the repository while it sets an experiment up and while it takes up its results. One that
    finds it locked for 3 seconds says so and ends; nothing is lost, and it is started again.
    """
    root, scratch_folder = dvc_project.root, Path(dvc_project.environment["REALERA_SCRATCH"])
    chaos.shrink(root)
    draw_in_one_process(root)
    dvc_project.run("git", "add", ".")
    dvc_project.run("git", "commit", "--quiet", "--message", "project")
    first = experiment(dvc_project, "one", 100)
    until(lambda: list(scratch_folder.glob("originals-*")) or first.poll() is not None)
    assert first.poll() is None, first.communicate()[0]
    said = "Unable to acquire lock"
    while "Unable to acquire lock" in said:
        second = experiment(dvc_project, "two", 200)
        said, _ = second.communicate(timeout=600)
    assert second.returncode == 0, said
    said, _ = first.communicate(timeout=600)
    assert first.returncode == 0, said
    locks = [yaml.safe_load(dvc_project.run("git", "show", f"{commit}:dvc.lock")) for commit in commits(dvc_project)]
    assert len(locks) == 2
    assert dvc_project.reproduce("--no-run-cache", "originals@airplane").ran == ["originals@airplane"]
    alone = yaml.safe_load((root / "dvc.lock").read_text())["stages"]["originals@airplane"]["outs"]
    assert [lock["stages"]["originals@airplane"]["outs"] for lock in locks] == [alone, alone]
    assert not list(scratch_folder.iterdir())


def experiment(project, name, num_resamples):
    settings = ["--name", name, "-S", f"score.num_resamples={num_resamples}"]
    command = ["dvc", "exp", "run", "--temp", *settings, "originals@airplane"]
    output = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=project.root, env=project.environment, **output)


def commits(project):
    """The commits of the experiments."""
    listed = project.run("git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")
    return [line.split()[0] for line in listed.splitlines() if line.rsplit("/", 1)[-1] in ("one", "two")]
