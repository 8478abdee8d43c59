"""The factors of an adapter, moved by what a mapping does to the weights that they change.

Comes in: a plan of the weights, and which of them have factors. Goes out: the steps of the factors.
May use: base, algebra, mappings, planning.
"""
