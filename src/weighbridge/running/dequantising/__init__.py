"""Quantised weights as the numbers that they stand for: a source that computes them while it is read.

blocks.py            parts of stored tensors, by rows and columns
codings.py           numbers out of packed elements
values.py            a part of a weight, by its format's formula
flat_values.py       the same for the flat blocks of bitsandbytes
computed_source.py   a checkpoint that has each group under its plain name
found_groups.py      which weights of a checkpoint can be computed, and why others cannot
"""
