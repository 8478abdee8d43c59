"""Key patterns: one language for both sides of a rule, read by our own parser into a small tree.

Comes in: the text of a pattern, and keys. Goes out: matches, keys that are written anew, the inverse of a pattern.
May use: base.

parse.py      text to tree
indices.py    the forms in which a number stands in a key
syntax.py     the nodes, and their canonical text
compile.py    tree to regular expression; whether templates may stand for keys
positions.py  matching in a bounded time, where a regular expression could take long
matching.py   Pattern: match, fill
rewriting.py  rewrite
inverse.py    the way back, or the reason why there is none
expressions.py  regular expressions that others wrote, in a bounded time
"""

from __future__ import annotations

from weighbridge.pattern.inverse import invert, is_one_way, names_written
from weighbridge.pattern.matching import Match, Pattern, check_rewrite
from weighbridge.pattern.rewriting import rewrite
from weighbridge.pattern.syntax import Capture, Kind

__all__ = ["Capture", "Kind", "Match", "Pattern", "check_rewrite", "invert", "is_one_way", "names_written", "rewrite"]
