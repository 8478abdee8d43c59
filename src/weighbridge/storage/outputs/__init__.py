"""New directories that appear whole or not at all, and the files in them.

Comes in: pieces of new files. Goes out: a finished directory, or an unfinished one that a later run goes on with.
May use: base, storage.remote, storage.places, storage.formats, and the protocol of a checkpoint beside this folder.
"""
