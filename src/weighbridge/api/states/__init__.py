"""States of optimizers beside the weights that they are of: they go where their weights go, by the same rules.

Comes in: the header of a training checkpoint, and what compiles the weights. Goes out: one plan for all of it.
May use: base, planning.
"""
