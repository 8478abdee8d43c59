"""Models as sources and as destinations, and the mapping that a model's checkpoints have.

Comes in: an `nn.Module`, a plan, a checkpoint. Goes out: a filled module and a record of its plan; a resolved mapping.
May use: base, algebra, mappings, storage, planning, running.
"""
