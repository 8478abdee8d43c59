"""Formats of weights: safetensors, torch files, shard indices, headers as JSON, and tensors in memory.

Comes in: files that were opened by `places`. Goes out: checkpoints with checked headers, and heads of new files.
May use: base, storage.remote, storage.places, and the protocol and the errors of a checkpoint beside this folder.
"""
