"""UCE, Unified Concept Editing (Gandikota et al. 2024): one closed form on the names alone.

May import: `settings` to `drawing`, `methods.common`, `methods.seam`.
"""

FAMILIES = frozenset({"stable_diffusion"})
