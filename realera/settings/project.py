"""Find the project's files from any working folder."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
"""The folder beside the package: the repository, when installed with `pip install -e`."""


def find(path: str | Path) -> Path | None:
    """Return `path` as seen from the working folder, else from the project, else None.

    A notebook elsewhere finds `data/models/tiny-sd` in this way.
    """
    candidates = (Path(path).expanduser(), PROJECT / path)
    return next((candidate for candidate in candidates if candidate.exists()), None)
