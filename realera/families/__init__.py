"""The model families: how a checkpoint is opened, which matrices read text, schedulers.

One module a family.

May import: `settings` to `text`.
"""
