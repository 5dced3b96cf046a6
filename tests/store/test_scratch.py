import subprocess
import sys
import time
from pathlib import Path

import pytest

from realera.settings.config import Section
from realera.settings.errors import ArtifactError
from realera.store.scratch import fingerprint, scratch, scratch_root

KEY = "0123456789abcdef" * 4


class Settings(Section):
    steps: int
    lr: float


def test_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("REALERA_SCRATCH", str(tmp_path / "here"))
    assert scratch_root() == tmp_path / "here"
    monkeypatch.delenv("REALERA_SCRATCH")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert scratch_root() == tmp_path / "cache" / "realera"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert scratch_root() == Path.home() / ".cache" / "realera"


def test_a_place_where_nothing_can_be_written_names_what_to_set(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.delenv("REALERA_SCRATCH")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ArtifactError) as caught, scratch("train", KEY):
        pass
    assert str(caught.value) == (
        f"scratch folder {tmp_path / 'file' / 'realera'}: found Not a directory; "
        "accepted: a folder that can be written to, which REALERA_SCRATCH names"
    )


def test_kept_on_error_found_again_removed_on_success():
    with pytest.raises(RuntimeError), scratch("train", KEY) as folder:
        (folder / "step-5").touch()
        raise RuntimeError
    with scratch("train", KEY) as folder:
        assert folder.name == f"train-{KEY[:16]}"
        assert (folder / "step-5").exists()
    assert not folder.exists()


def test_stages_and_keys_do_not_share():
    with scratch("a", KEY) as one, scratch("b", KEY) as two, scratch("a", KEY[::-1]) as three:
        assert len({one, two, three}) == 3


def test_kept_when_killed_and_not_locked_afterwards(tmp_path, repository):
    program = (
        "import pathlib, sys, time\n"
        "from realera.store.scratch import scratch\n"
        f"with scratch('train', '{KEY}') as folder:\n"
        "    (folder / 'step-7').touch()\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=repository) as process:
        marker = scratch_root() / f"train-{KEY[:16]}" / "step-7"
        wait_for(marker.exists)
        process.kill()
    with scratch("train", KEY) as folder:
        assert (folder / "step-7").exists()


def test_second_process_waits_for_the_first(tmp_path, repository):
    program = (
        "from realera.store.scratch import scratch\n"
        f"with scratch('train', '{KEY}') as folder:\n"
        "    print(sorted(path.name for path in folder.iterdir()))\n"
    )
    with scratch("train", KEY) as folder:
        (folder / "mine").touch()
        command = [sys.executable, "-c", program]
        second = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=3)
    output, _ = second.communicate(timeout=60)
    assert output.strip() == "[]"


def test_fingerprint_of_params():
    assert fingerprint(Settings(steps=1, lr=0.5), []) == fingerprint({"lr": 0.5, "steps": 1}, [])
    assert fingerprint({"steps": 1}, []) != fingerprint({"steps": 2}, [])
    with pytest.raises(TypeError):
        fingerprint({"steps": object()}, [])


def test_fingerprint_of_files_and_folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.txt").write_text("a")
    one, two = tmp_path / "one", tmp_path / "two"
    before = fingerprint({}, [one])
    assert before == fingerprint({}, [two])
    assert before != fingerprint({}, [one, two])
    (two / "sub" / "a.txt").write_text("b")
    assert before != fingerprint({}, [two])
    (one / "sub" / "a.txt").rename(one / "sub" / "b.txt")
    assert before != fingerprint({}, [one])
    with pytest.raises(FileNotFoundError):
        fingerprint({}, [tmp_path / "missing"])


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
