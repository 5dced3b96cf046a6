"""An erasure as one folder: read, write, put into a pipeline, take out again.

All that draws, exports or judges knows only this.

May import: `settings` to `families`.
"""
