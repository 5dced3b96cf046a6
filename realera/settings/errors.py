"""What a user can do wrong: one base class, so that the command line prints one line for it."""


class RealEraError(ValueError):
    """Bad input; the message names the key or file, what was found and what is accepted."""


class ConfigError(RealEraError):
    """A parameter file that is missing, unreadable or holds a value that is not accepted."""


class ArtifactError(RealEraError):
    """A file that a stage needs is missing or corrupt."""


class ModelError(RealEraError):
    """A model that is missing, corrupt or of another kind."""


class MiningError(RealEraError):
    """Thresholds under which Algorithm 1 would never, or hardly ever, accept a sample.

    Attributes:
        suggestions: changes of the thresholds, nearest first, each of which is feasible.
    """

    def __init__(self, message: str, suggestions: tuple[dict[str, float | str], ...] = ()) -> None:
        super().__init__(message)
        self.suggestions = suggestions


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """Write out what would change a message's line itself: control characters, text from right to left."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
