"""Which model family a checkpoint is of."""


def family_of(id: str, revision: str | None = None) -> str:
    """Return the family's name."""
    return "stable_diffusion"
