"""A copy of the project's sources under git and DVC, to run pipelines in without touching the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace


def own_environment(home: Path) -> dict[str, str]:
    """Return an environment with scratch, caches and settings in `home`."""
    binaries = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": os.pathsep.join([binaries, os.environ["PATH"]]),
        "REALERA_SCRATCH": str(home / "scratch"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-cache"),
        "DVC_NO_ANALYTICS": "1",
        **{f"GIT_{who}_{what}": "tests" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    environment.pop("PYTHONPATH", None)
    return environment


class Repository:
    """Has scratch, caches and settings of its own; `paths` are what is copied."""

    def __init__(self, root: Path, source: Path, home: Path, paths: list[str]):
        self.root, self.environment = root, own_environment(home)
        listed = subprocess.check_output(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *paths], cwd=source
        )
        for name in sorted(set(listed.decode().split("\0")) - {""}):
            if (source / name).is_file() and not name.endswith("dvc.lock"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / name, root / name)
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet")

    @classmethod
    def clone(cls, url: Path, root: Path, home: Path) -> "Repository":
        """Return a git clone, as a second person has it: with nothing cached."""
        subprocess.check_call(["git", "clone", "--quiet", str(url), str(root)])
        repository = cls.__new__(cls)
        repository.root, repository.environment = root, own_environment(home)
        return repository

    def run(self, *command: str, folder: str = ".") -> str:
        where = {"cwd": self.root / folder, "env": self.environment, "stdin": subprocess.DEVNULL}
        done = subprocess.run(command, **where, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def reproduce(self, *arguments: str, folder: str = ".") -> SimpleNamespace:
        """Run `dvc repro` in a folder; return its output and the names of the stages that it ran, in order."""
        output = self.run("dvc", "repro", *arguments, folder=folder)
        ran = re.findall(r"Running stage '(?:[^':]*:)?([\w@-]+)'", output)
        return SimpleNamespace(output=output, ran=ran)
