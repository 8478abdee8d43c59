"""Say why no reading of a checkpoint fits: which one is shown, what is wrong with it, and what would help.

Comes in: drafts that do not fit, headers. Goes out: one error with all problems.
May use: base, pattern, algebra, operations, mappings, and the modules of planning below compiling.
"""
