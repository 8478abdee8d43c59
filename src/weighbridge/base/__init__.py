"""What every room may use: error codes, specs and headers, keys, names of files, strict JSON, and workers.

Comes in: texts, numbers, bytes. Goes out: values that name what is wrong, what a tensor is, and what a file is called.
May use: no other room.
"""
