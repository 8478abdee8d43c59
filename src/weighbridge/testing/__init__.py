"""For authors of mappings: the laws as checks, as separate tests of pytest, and hypothesis strategies.

Comes in: a mapping, and a header or a model that it is for. Goes out: an error with a code where a law is broken.
May use: every room before it.

    subjects.py    what a check is about: a mapping, a header, a model
    sampling.py    parts of a plan that real values are sent through, and these values
    saved_files.py files that are written, loaded, saved and compared
    laws.py        one function for each law
    law_tests.py   the laws as one parametrised test
    groups.py      keys and shapes that a mapping's rules fit
    strategies.py  hypothesis strategies

The plugin that pytest loads is the module `_weighbridge_pytest` beside the package: the marker of these tests, and
short failures. No torch is loaded before a check reads or makes values, and hypothesis only by the strategies.
"""

from __future__ import annotations

from weighbridge.storage.formats.inventory import write_inventory
from weighbridge.testing.law_tests import LAWS, weighbridge_check
from weighbridge.testing.laws import (
    check_coverage,
    check_inverse,
    check_lint,
    check_order_independence,
    check_round_trip,
    check_save_back,
)
from weighbridge.testing.strategies import checkpoints, headers, keys, mappings

__all__ = [
    "LAWS",
    "check_coverage",
    "check_inverse",
    "check_lint",
    "check_order_independence",
    "check_round_trip",
    "check_save_back",
    "checkpoints",
    "headers",
    "keys",
    "mappings",
    "weighbridge_check",
    "write_inventory",
]
