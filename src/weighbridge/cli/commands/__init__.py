"""Commands beside the main ones, each a module: detect, diff, infer, new, lint, mapping.

Comes in: arguments. Goes out: what is printed, and the status that the command ends with.
May use: everything but the command's own `app`.
"""
