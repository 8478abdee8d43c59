"""Files of a plan's targets: safetensors files, laid out anew or as they were, a torch file, a distributed checkpoint.

Comes in: a plan, the checkpoint that it reads, and how files are to be written. Goes out: a place with a receipt.
May use: base, algebra, mappings, storage, planning, running.
"""
