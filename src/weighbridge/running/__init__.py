"""Move bytes: from where a source has them to where a plan wants them, in threads, within a budget.

Comes in: a plan and the checkpoint that it reads. Goes out: tensors, or a directory with its receipt.
May use: base, algebra, mappings, storage, planning.
"""
