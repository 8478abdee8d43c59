"""Files of a plan's targets: a directory of safetensors files, laid out anew or as it was, or a single torch file.

Comes in: a plan, the checkpoint that it reads, and how files are to be written. Goes out: a place with a receipt.
May use: base, algebra, storage, planning, running.
"""
