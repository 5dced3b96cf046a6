"""An erasure leaves the project: as a checkpoint, as weights, as a LoRA, as one file, with its card.

May import: `settings` to `scores`, not `report`.
"""
