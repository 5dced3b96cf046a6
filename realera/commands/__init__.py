"""The command line: what each command does, doctor, the difference of two experiments.

May import: every room.
"""
