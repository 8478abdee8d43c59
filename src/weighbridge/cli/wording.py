"""Say what the library says in the words of the command: its arguments are the command's options."""

from __future__ import annotations

import re
from typing import Final

PANEL: Final = "Options of the plan"
"""The heading of options that say how a plan is made."""

_WORDS: Final = (
    (r"pass lossy=True \(revert --lossy\)", "give --lossy to revert"),
    (r"carry=\[\.\.\.\] or drop=\[\.\.\.\], or partial=True \((--carry), (--drop), (--partial)\)", r"\1 or \2, or \3"),
    (r"initialise=\[\.\.\.\], or partial=True \(--initialise, --partial\)", "--initialise or --partial"),
    (r'layout="mapped" or layout="as is"', '--layout mapped or --layout "as is"'),
    (r'layout="(mapped|auto)"', r"--layout \1"),
    (r'layout="as is"', '--layout "as is"'),
    (r"--(resume|digests),? \(?(?:or )?\1=True\)?", r"--\1"),
    (r"\b(digests|partial|lossy|resume|reverse|direct)=True\b", r"--\1"),
    (r"\b(drop|carry|initialise)=\[\.\.\.\]", r"--\1 PATTERN"),
    (r"plan\.inverse\(\), or weighbridge revert", "weighbridge revert"),
    (r'companions=(?:"refine"|False) \((--[\w-]+)\)', r"\1"),
    (r'dtype="(\w+)" \(--dtype \1\)', r"--dtype \1"),
    (r"\b\w+=(?:None)? \((--[\w -]+)\)", r"\1"),
    (
        r"(?:add|correct) (\S+) (?:to|in) the model's configuration, or pass config= with it",
        r"give --set \1=NUMBER, or --config with a file that has it",
    ),
    (r"or pass config=", "or give --config or --set"),
    (r"list\(checkpoint\.header\) has all", "weighbridge inspect --full lists all"),
    (r"… the error's `problems` are all of them", "… weighbridge plan --full lists all of them"),
    (r" \(in Python: .*\)(?=, which shows every rule)", ""),
    (r"weighbridge\.register\(name, transforms\), or give a mapping file", "give a mapping file"),
)
"""What an error may say, as regular expressions, and what the command says instead."""


def in_options(text: str) -> str:
    """Replace the library's arguments in a text by the command's options.

    Examples:
        >>> in_options("declare the load partial: partial=True")
        'declare the load partial: --partial'
    """
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return text
