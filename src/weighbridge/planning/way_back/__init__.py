"""The way back of a mapping that nothing recorded: which names and sizes it leads to, and whether it could be others.

Comes in: a mapping, names, steps. Goes out: origins of names, steps of the inverse, and proofs of what they give.
May use: base, pattern, algebra, operations, mappings, and the modules of planning below compiling.
"""
