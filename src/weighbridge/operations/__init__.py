"""What a converter does to tensors, as frozen values: shapes in, shapes out, the layout between, and the inverse.

Comes in: lanes of values and what they may know of their place. Goes out: lanes of values with their layouts.
May use: base, pattern, algebra.
"""
