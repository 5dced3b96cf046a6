"""What a user can do wrong: one base class, so that the command line prints one line for it."""


class RealEraError(ValueError):
    """Bad input; the message names the key or file, what was found and what is accepted."""


class ConfigError(RealEraError):
    """A parameter file that is missing, unreadable or holds a value that is not accepted."""


class ArtifactError(RealEraError):
    """A file that a stage needs is missing or corrupt."""


class ModelError(RealEraError):
    """A model that is missing, corrupt or of another kind."""
