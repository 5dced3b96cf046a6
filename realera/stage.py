"""What every stage does alike: where its artifacts lie, and how it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from realera.concepts import check_name
from realera.console import one_line_errors, quiet_libraries

ARTIFACTS = Path("artifacts")
REPORTS = Path("reports")
SHARED = ARTIFACTS / "shared"


def artifact(concept: str, name: str) -> Path:
    """Return where a concept's artifact lies.

    Raises:
        ConfigError: the concept's name could leave the folder.
    """
    check_name(concept)
    return ARTIFACTS / concept / name


@contextmanager
def stage_errors() -> Iterator[None]:
    """Print an error of the user's, or a full disk, as one line and exit with 1; warnings likewise."""
    quiet_libraries()
    with one_line_errors("interrupted; start the stage again and it goes on from its last checkpoint"):
        yield
