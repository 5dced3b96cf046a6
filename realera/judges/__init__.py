"""Who reads the images: one file a judge, how it is opened and what it says.

Their answers are raw rows, before anything is counted.

May import: `settings` to `methods`.
"""
