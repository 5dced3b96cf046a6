"""What a user sets: params.yaml and presets, read strictly, and the errors that name what does not fit.

May import: nothing of the other rooms.
"""
