"""Groups: the keys that one use of a converter takes together, and what such a group lacks.

Comes in: traced keys. Goes out: groups with each key at its place, the places that are missing, an error that says so.
May use: base, operations, and of planning what is before groups are lowered.
"""
