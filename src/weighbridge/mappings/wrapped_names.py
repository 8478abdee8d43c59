"""Names that wrappers leave in the keys of a file: taken out by rules in front of the mapping's own.

A state dict that was taken from a compiled model, or from one with a compiled part, has `_orig_mod` in its keys. Nobody
else gives such a name, so that no reading is chosen by leaving it out. The rules count among those for old files: no
model is saved with such names unless it came with them.

One of a data-parallel or an averaged model has `module` before every key, and the latter a counter beside. Others may
call a part of a model so: it is taken out where every key has it, and no rule speaks of it. A target says itself
whether it is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from weighbridge.base.keys import WRAPPERS, layout_path
from weighbridge.base.specs import Header
from weighbridge.mappings.exception_rules import Carry
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
    if mapping.forward is not None or (target is not None and any(_most(target).values())):
        return mapping
    rules = [rule for name, most in found.items() for rule in _rules(name, most)]
    is_held = _is_held(source)
    if is_held and target is None and mapping.transforms and not _speaks_of(mapping, HOLDER):
        rules.append(_OFF)
    counter = (_COUNTED,) if is_held and COUNTER in source and (target is None or COUNTER not in target) else ()
    if not rules and not counter:
        return mapping
    return replace(
        mapping,
        transforms=(*rules, *mapping.transforms),
        legacy=(*rules, *mapping.legacy),
        carry=(*mapping.carry, *counter),
    )


HOLDER: Final = "module"
"""The name under which DataParallel and AveragedModel hold the model inside."""

COUNTER: Final = "n_averaged"
"""A number that AveragedModel keeps beside it."""

_OFF: Final = WeightRenaming(f"^{HOLDER}.{{after:**}}", "{after}")
_COUNTED: Final = Carry(f"^{COUNTER}$", "the counter of AveragedModel, which is no part of the model inside")


def _is_held(source: Header) -> bool:
    """Tell whether every key, but for the counter, has the holder's name in front, those of other wrappers left out."""
    keys = [key for key in source if key != COUNTER]
    return bool(keys) and all(layout_path(key).startswith(f"{HOLDER}.") for key in keys)


def _speaks_of(mapping: Mapping, name: str) -> bool:
    word = re.compile(rf"(?<![A-Za-z0-9_]){name}(?![A-Za-z0-9_])")
    return any(word.search(text) for rule in mapping.transforms for text in (rule.scope, *rule.source_patterns))


def own_rules(mapping: Mapping) -> tuple[Transform, ...]:
    """Return the transforms of a mapping without those that `look_through` may have put before them."""
    put = {_OFF, *(rule for name in WRAPPERS for rule in _rules(name, MOST_NESTED))}
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
