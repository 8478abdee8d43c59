"""Checkpoints whose tensors lie in chunks: directories of torch.distributed.checkpoint, and files of its ranks.

Comes in: a directory. Goes out: a checkpoint of whole tensors, each of which is read from where its chunks lie.
May use: base, storage.remote, storage.places, storage.formats, and the protocol and the errors of a checkpoint beside
this folder.
"""
