"""Files that are written whole or not at all, with bytes that repeat.

Also scratch folders for resumable work, seeds, checkpoints, and where artifacts lie.

May import: `settings`.
"""
