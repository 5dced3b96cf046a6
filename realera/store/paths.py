"""Where a concept's artifacts lie, and those of all concepts together."""

from pathlib import Path

from realera.settings.presets import check_name

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
