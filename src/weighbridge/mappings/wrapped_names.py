"""Names that wrappers leave in the keys of a file: taken out by rules in front of the mapping's own.

A state dict that was taken from a compiled model, or from one with a compiled part, has `_orig_mod` in its keys. Nobody
else gives such a name, so that no reading is chosen by leaving it out. The rules count among those for old files: no
model is saved with such names unless it came with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from weighbridge.base.keys import WRAPPERS
from weighbridge.base.specs import Header
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import Transform, WeightRenaming

MOST_NESTED: Final = 8
"""How many wrappers of one kind are taken out of one key."""


def look_through(mapping: Mapping, source: Header, target: Header | None = None) -> Mapping:
    """Put rules before a mapping that take the names of wrappers out of a checkpoint's keys.

    Args:
        mapping: The mapping.
        source: The checkpoint's header.
        target: What is to be reached; where it has such names itself, they stay.

    Returns:
        The mapping as it is where there is nothing to take out, or where it is the inverse of another one.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> source = Header({"layers.0._orig_mod.weight": TensorSpec("F32", (2,))})
        >>> from weighbridge.mappings.transforms import rename_key
        >>> rename_key(look_through(Mapping(), source).transforms[0], "layers.0._orig_mod.weight")
        'layers.0.weight'
    """
    found = _most(source)
    if not any(found.values()) or mapping.forward is not None or (target is not None and any(_most(target).values())):
        return mapping
    rules = tuple(rule for name, most in found.items() for rule in _rules(name, most))
    return replace(mapping, transforms=(*rules, *mapping.transforms), legacy=(*rules, *mapping.legacy))


def own_rules(mapping: Mapping) -> tuple[Transform, ...]:
    """Return the transforms of a mapping without those that `look_through` may have put before them."""
    put = {rule for name in WRAPPERS for rule in _rules(name, MOST_NESTED)}
    return tuple(rule for rule in mapping.transforms if rule not in put)


def _most(header: Header) -> dict[str, int]:
    """Return how often each wrapper's name stands in a key at most."""
    text = "\n".join(header.specs)  # one look at all keys, most of which have no such name
    there = [name for name in WRAPPERS if name in text]
    return {name: max((key.split(".").count(name) for key in header if name in key), default=0) for name in there}


def _rules(name: str, most: int) -> Iterator[Transform]:
    for number in range(min(most, MOST_NESTED)):
        yield WeightRenaming(
            f"{{before{number}:**}}.{name}.{{after{number}:**}}", f"{{before{number}}}.{{after{number}}}"
        )
    if most:
        yield WeightRenaming(f"^{name}.{{after:**}}", "{after}")
