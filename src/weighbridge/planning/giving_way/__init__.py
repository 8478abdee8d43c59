"""Rules that give way to the target: which outcomes they could have on a name, and which of these is wanted.

Comes in: names that rules lead to, the target. Goes out: the one outcome that fits, if there is one.
May use: base.
"""
