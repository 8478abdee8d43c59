"""Files that lie on no disk here: their names, who moves their bytes, and how the bytes arrive right or not at all.

Comes in: the address of a repository, a store or a server. Goes out: files with a size and a version, and their bytes.
May use: base. huggingface_hub and obstore are imported when the first address is opened.
"""
