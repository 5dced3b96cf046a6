"""The erasure methods, one module or folder each, behind one seam (`realera.methods.seam`).

May import: `settings` to `drawing`; a method imports no other method.
"""
