"""Ranks that write one output together, each its own bytes: what they say to each other, who writes what, the writing.

Comes in: a plan, and what this rank holds of the tensors that it reads. Goes out: a directory that all of them filled.
May use: base, algebra, mappings, storage, planning, running.
"""
