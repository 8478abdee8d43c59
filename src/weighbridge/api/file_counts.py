r"""Numbers of files that a configuration says: `rank_{r:0..world_size-1}.pt`.

A set of numbers in a path may end in a name of the configuration, moved by a number. It stands for what is there, so
that the last file can be missed, and one too many is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from weighbridge.api.settings import WatchedConfig
from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.operations.configuration import read_config

_SET: Final = re.compile(r"\{(\w+):([^{}]*)\}")
_NAMED: Final = re.compile(r"(\d+)\.\.([A-Za-z_][\w.]*)([+-]\d+)?(?=,|\Z)")


class Bound(NamedTuple):
    """A path whose sets are numbers.

    Args:
        text: The path.
        any_text: The same with any numbers in the sets that the configuration ends.
        last: The last number of each of these sets, by what it captures.
        asked: Names of the configuration that were asked for.
    """

    text: str
    any_text: str = ""
    last: Mapping[str, int] = {}
    asked: frozenset[str] = frozenset()


def has_names(text: str) -> bool:
    """Tell whether a path has a set that ends in a name.

    Examples:
        >>> has_names("rank_{r:0..world_size-1}.pt"), has_names("rank_{r:0..7}.pt"), has_names("a..b/{r}.pt")
        (True, False, False)
    """
    return any(_NAMED.search(body) for _, body in _SET.findall(text))


def bind_numbers(text: str, config: Any) -> Bound:
    """Put numbers in the place of a configuration's names.

    Args:
        text: A path with patterns.
        config: The configuration.

    Raises:
        LayoutError: `operation-config` for a name that the configuration does not have.
        CheckpointError: `index-mismatch` where no number is left.

    Examples:
        >>> bind_numbers("rank_{r:0..world_size-1}.pt", {"world_size": 8})[:2]
        ('rank_{r:0..7}.pt', 'rank_{r:int}.pt')
    """
    last: dict[str, int] = {}

    def bound(match: re.Match[str]) -> str:
        numbers = _NAMED.sub(lambda found: f"{found[1]}..{_last(text, config, found)}", match[2])
        if numbers != match[2]:
            last[match[1]] = int(numbers.rpartition("..")[2])
        return f"{{{match[1]}:{numbers}}}"

    made = _SET.sub(bound, text)
    any_text = _SET.sub(lambda match: f"{{{match[1]}:int}}" if match[1] in last else match[0], text)
    return Bound(made, any_text, last, frozenset(config.asked if isinstance(config, WatchedConfig) else ()))


def _last(text: str, config: Any, found: re.Match[str]) -> int:
    try:
        count = read_config(config, found[2], default_to_text=True)
    except WeighbridgeError as problem:
        raise problem.with_context(where=text) from None
    number = count + int(found[3] or 0)
    if number < int(found[1]):
        what, got = "there are no such files, by the configuration", f"{found[2]} is {count}"
        raise CheckpointError("index-mismatch", what, where=text, got=got)
    return number
