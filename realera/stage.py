"""What every stage does alike: one line for what the user did wrong, quiet libraries, paths."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from realera.errors import RealEraError

ARTIFACTS = Path("artifacts")
SHARED = ARTIFACTS / "shared"


def artifact(concept: str, name: str) -> Path:
    """Return where a concept's artifact lies."""
    return ARTIFACTS / concept / name


@contextmanager
def stage_errors() -> Iterator[None]:
    """Print an error of the user's, or a full disk, as one line and exit with 1; warnings likewise."""
    _quiet_libraries()
    with warnings.catch_warnings():
        warnings.showwarning = _print_warning
        try:
            yield
        except (RealEraError, OSError, MemoryError) as error:
            sys.exit(f"error: {str(error) or type(error).__name__}")
        except KeyboardInterrupt:
            sys.exit("interrupted; start the stage again and it goes on from its last checkpoint")


def _quiet_libraries() -> None:
    """Hide loading bars and advice of the libraries that are imported; errors and our warnings stay."""
    for name in ("diffusers.utils", "transformers.utils"):
        if name in sys.modules:
            logging = sys.modules[name].logging  # type: ignore[attr-defined]
            logging.set_verbosity_error()
            logging.disable_progress_bar()


def _print_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        print("warning: " + re.sub(r"\s+", " ", str(message)), file=sys.stderr)
