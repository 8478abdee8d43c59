"""Formats of weights: safetensors, torch files, shard indices, and headers as JSON.

Comes in: files that were opened by `places`. Goes out: checkpoints with checked headers, and heads of new files.
May use: base, storage.places.
"""
