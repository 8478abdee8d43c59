"""Regular files and directories: where a name may lead, what a file is, how its bytes are read.

Comes in: paths, offsets and buffers. Goes out: bytes, and errors with codes where a file is not what it was.
May use: base, storage.remote.
"""
