"""Stages that start as forks of a process with the libraries loaded: run as they would alone, ended as they would."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from realera.runtime import warm

# Runs commands one after the other, as DVC does, and tells how each has ended.
DVC = """
import json, os, subprocess, sys
for line in sys.stdin:
    asked = json.loads(line)
    environment = os.environ | {"DVC_STAGE": "stage"} | asked.get("environment", {})
    command = [sys.executable, "-m", "realera.runtime.warm", *asked["arguments"]]
    process = subprocess.Popen(
        command, cwd=asked["folder"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if asked.get("leave"):
        print(json.dumps(process.pid), flush=True)
        continue
    out, err = process.communicate()
    print(json.dumps([process.returncode, out, err]), flush=True)
"""

SCRIPT = """
import os, sys, time
was_loaded = "torch" in sys.modules and "diffusers" in sys.modules
what, *rest = sys.argv[1:]
if what == "tell":
    import other
    print(was_loaded, rest, os.getcwd(), os.environ.get("TOLD"), __name__, other.WORD, "realera" in sys.modules)
    print("to stderr", file=sys.stderr)
elif what == "exit":
    sys.exit(int(rest[0]))
elif what == "say":
    sys.exit("said at the end")
elif what == "raise":
    raise KeyError("a problem")
elif what == "sleep":
    open(rest[0], "w").write(str(os.getpid()))
    time.sleep(60)
elif what == "interrupt":
    open(rest[0], "w").write(str(os.getpid()))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
elif what == "processes":
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
"""


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


class Run:
    """A stand-in for DVC, which runs stages in a folder."""

    def __init__(self, folder, repository):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "REALERA_WARM"))}
        environment["PYTHONPATH"] = str(repository)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", DVC], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def stage(self, *arguments, **options):
        asked = {"arguments": ["stages/script.py", *arguments], "folder": str(self.folder), **options}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def server(self):
        """Return the process that waits, or None."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if path.read_bytes().split(b"\0")[2:6] == [
                    b"realera.runtime.warm",
                    b"--serve",
                    str(self.process.pid).encode(),
                    warm._status(self.process.pid)[19].encode(),
                ]:
                    return int(path.parent.name)
        return None

    def end(self):
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="module")
def run(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("project")
    (folder / "stages").mkdir()
    (folder / "stages/script.py").write_text(SCRIPT)
    (folder / "stages/other.py").write_text("WORD = 'one'\n")
    found = Run(folder, repository)
    try:
        first = found.stage("tell", "a b")
        assert first[1].startswith("False ['a b']"), "nobody waits for the first stage"
        until(lambda: found.stage("tell")[1].startswith("True"), 120)
        yield found
    finally:
        found.end()


def is_there(pid):
    try:
        return warm._status(pid)[0] != "Z"
    except OSError:
        return False


def read_pid(path):
    until(lambda: path.exists() and path.read_text(), 30)
    return int(path.read_text())


def test_a_fork_runs_a_script_as_python_does(run):
    code, out, err = run.stage("tell", "x", "--y=z", environment={"TOLD": "this"})
    assert (code, err) == (0, "to stderr\n")
    assert out == f"True ['x', '--y=z'] {run.folder} this __main__ one False\n"


def test_the_project_s_code_is_read_anew(run):
    (run.folder / "stages/other.py").write_text("WORD = 'another one'\n")
    assert "another one" in run.stage("tell")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["exit", "0"], 0, ""), (["exit", "3"], 3, ""), (["say"], 1, "said at the end"), (["raise"], 1, "KeyError")],
)
def test_exit_codes_are_the_script_s(run, arguments, code, said):
    found, _, err = run.stage(*arguments)
    assert found == code
    assert said in err
    assert run.stage("tell")[1].startswith("True")


def test_a_fork_may_start_processes_of_its_own(run):
    assert run.stage("processes") == [0, "[1, 2]\n", ""]


def test_sigterm_is_passed_on(run, tmp_path):
    asked = run.stage("sleep", str(tmp_path / "pid"), leave=True)
    worker = read_pid(tmp_path / "pid")
    os.kill(asked, signal.SIGTERM)
    until(lambda: not is_there(worker), 10)
    until(lambda: not is_there(asked), 10)


def test_ctrl_c_reaches_the_fork(run, tmp_path):
    asked = run.stage("interrupt", str(tmp_path / "pid"), leave=True)
    worker = read_pid(tmp_path / "pid")
    assert os.getpgid(worker) == os.getpgid(asked), "a terminal tells both"
    os.kill(asked, signal.SIGINT)
    time.sleep(0.2)
    assert is_there(asked), "who asked waits for the fork's own end"
    os.kill(worker, signal.SIGINT)
    until(lambda: not is_there(worker) and not is_there(asked), 10)


def test_a_fork_ends_with_who_asked(run, tmp_path):
    asked = run.stage("sleep", str(tmp_path / "pid"), leave=True)
    worker = read_pid(tmp_path / "pid")
    os.kill(asked, signal.SIGKILL)
    until(lambda: not is_there(worker), 10)


def test_nobody_is_asked_where_it_is_switched_off_or_no_dvc_runs(run):
    assert run.stage("tell", environment={"REALERA_WARM": "0"})[1].startswith("False")
    command = [sys.executable, "-m", "realera.runtime.warm", "stages/script.py", "tell"]
    environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    done = subprocess.run(command, cwd=run.folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False")


@pytest.mark.parametrize(
    ("platform", "stage", "gpu", "expected"),
    [("linux", True, False, True), ("darwin", True, False, False), ("linux", False, False, False),
     ("linux", True, True, False)],
)  # fmt: skip
def test_when_a_fork_is_asked_for(platform, stage, gpu, expected, monkeypatch, tmp_path):
    monkeypatch.delenv("REALERA_WARM", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(warm.sys, "platform", platform)
    monkeypatch.setattr(warm, "GPUS", (str(tmp_path),) if gpu else ())
    if stage:
        monkeypatch.setenv("DVC_STAGE", "encode@airplane")
    assert warm.is_wanted() is expected


def test_a_server_that_was_killed_is_no_loss(run):
    os.kill(run.server(), signal.SIGKILL)
    until(lambda: run.server() is None, 10)
    assert run.stage("tell")[1].startswith("False")
    until(lambda: run.stage("tell")[1].startswith("True"), 120)


def test_the_server_ends_with_its_run_of_dvc(run):
    server = run.server()
    assert is_there(server)
    run.end()
    until(lambda: not is_there(server), 15)
