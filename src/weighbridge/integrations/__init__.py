"""Bridges to other libraries, one module each; none is imported before it is asked for.

Comes in: a library's models and names of checkpoints. Goes out: its models, loaded and saved through plans.
May use: every room before it.
"""
