"""The process: devices and dtypes, several processes, one-line errors, a clean end.

May import: `settings`, `store`.
"""
