"""What `weighbridge inspect` shows of a checkpoint: rows, trees, statistics, signs of quantisation.

Comes in: an opened checkpoint. Goes out: values that print as text, tables and JSON.
May use: everything but the commands.
"""
