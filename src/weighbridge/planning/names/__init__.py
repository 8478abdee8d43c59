"""Names before anything is planned: rules that are ready to run over them, and the one outcome that a target wants.

Comes in: a mapping, names that rules lead to, a target. Goes out: prepared rules, traces, the outcome that fits.
May use: base, pattern, operations, mappings.
"""
