"""Read values strictly: JSON forms, options by name, what was deflated.

Comes in: plain values that may come from anywhere. Goes out: values of the right types, or errors with codes.
May use: base.
"""
