"""RealEra: mine neighbor and beyond samples, solve the closed form with them, align the noise predictions.

May import: `settings` to `drawing`, `methods.common`.
"""

FAMILIES = frozenset({"stable_diffusion"})
