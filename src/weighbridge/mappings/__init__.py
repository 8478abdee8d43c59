"""What people say of two layouts: transforms, mappings, their files, registries, and the families that come along.

Comes in: patterns and operations, as Python, as YAML, or from an installed library's table. Goes out: a `Mapping`.
May use: base, pattern, operations.
"""
