"""From headers, a mapping and a target to a plan: a frozen value that was proven before it could run.

Comes in: headers and a mapping. Goes out: a `Plan`: steps, fates, the way back, a hash, JSON. Nothing is read or run.
May use: base, pattern, algebra, operations, mappings, storage.
"""
