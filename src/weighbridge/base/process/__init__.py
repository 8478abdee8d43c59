"""The process that runs us: its modules, its garbage collector, the machine that it is on, and others beside it.

Comes in: names, paths, sections of work. Goes out: modules loaded late, pauses, locks.
May use: base.
"""
