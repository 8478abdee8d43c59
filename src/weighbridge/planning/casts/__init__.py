"""Casts that a caller asks for beside the mapping: which dtype each target is to be in, and what is said of it.

Comes in: a dtype, or several by patterns; steps, a target. Goes out: steps with casts, sentences.
May use: base, and of planning what is before a plan is fitted.
"""
