"""Seeded generators: one for each purpose, step or process, none shared."""

import hashlib

import torch


def generator(*parts: object) -> torch.Generator:
    """Return a CPU generator of its own for each combination of parts, for instance (seed, step, rank).

    Hashed, because torch's CPU generator looks at the low 32 bits of its seed only.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
