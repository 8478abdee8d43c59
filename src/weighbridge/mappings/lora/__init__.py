"""Adapters of PEFT as data: what their tensors are called, and what their configuration says of each module.

Comes in: keys and the text of an `adapter_config.json`. Goes out: roles of tensors, ranks, and the text that follows.
May use: base, pattern.
"""
