"""Pack what repeats: numbers as runs of equal differences, keys as a tree whose like branches are stored once.

A model's layers and experts repeat, so 90,000 keys come to a few kilobytes; keys without any pattern stay as long as
they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from weighbridge.base.keys import natural_key

MAX_DEPTH: Final = 64
"""Levels of a tree; what a key has beyond them stays one name, whatever dots it holds."""

MIN_RUN: Final = 3
"""How many like neighbours with ascending indices become one row."""

_INDEXED: Final = re.compile(r"(0|[1-9]\d{0,8})(\..*)?", re.DOTALL)


def pack_numbers(numbers: Iterable[int]) -> list[int]:
    """Write whole numbers as the first one, then pairs: a difference, and how often it follows.

    Examples:
        >>> pack_numbers([5, 7, 9, 11, 11])
        [5, 2, 3, 0, 1]
        >>> pack_numbers([])
        []
    """
    packed: list[int] = []
    last = 0
    for number in numbers:
        if not packed:
            packed.append(number)
        elif len(packed) > 1 and packed[-2] == number - last:
            packed[-1] += 1
        else:
            packed += [number - last, 1]
        last = number
    return packed


@dataclass(frozen=True, slots=True)
class PackedTree:
    """A tree of keys whose like branches are stored once.

    Args:
        nodes: For each module its children: name and reference in turn. A name is a text, or (first index, count,
            suffix) for that many like children in a row. A reference is the number of a module, or -1 - k for a tensor
            of kind k.
        root: The children of the whole, in the same form.
        keys: All keys in the order in which a walk through the tree meets them; not part of the JSON form.
    """

    nodes: tuple[list[Any], ...]
    root: list[Any]
    keys: tuple[str, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"nodes": list(self.nodes), "root": self.root}


_Branch = dict[tuple[str, bool], Any]
"""A module while the tree is built: by name, and whether it is a tensor; a tensor is its (key, kind)."""


def pack_tree(kinds: Mapping[str, int]) -> PackedTree:
    """Pack keys into a tree, in natural order.

    Args:
        kinds: For each key a number for its kind; only tensors of one kind are alike.

    Examples:
        >>> packed = pack_tree({f"layers.{i}.{name}": 0 for i in range(4) for name in ("a", "b")} | {"norm.weight": 1})
        >>> packed.nodes
        (['a', -1, 'b', -1], [(0, 4, ''), 0])
        >>> packed.root
        ['layers', 1, 'norm.weight', -2]
    """
    root: _Branch = {}
    for key, kind in kinds.items():
        *path, name = key.split(".", MAX_DEPTH - 1)
        branch = root
        for part in path:
            branch = branch.setdefault((part, False), {})
        branch[name, True] = key, kind
    packing = _Packing({}, [])
    children = packing.children(root)
    return PackedTree(tuple(list(node) for node in packing.numbers), list(children), tuple(packing.keys))


@dataclass(slots=True)
class _Packing:
    """The work on one tree: the modules met so far, each with its number, and the keys in the order of the walk."""

    numbers: dict[tuple[Any, ...], int]
    keys: list[str]

    def children(self, branch: _Branch) -> tuple[Any, ...]:
        ordered = sorted(branch, key=lambda name: (natural_key(name[0]), not name[1]))
        return tuple(_join_runs([self._child(name, branch[name]) for name in ordered]))

    def _child(self, name: tuple[str, bool], child: Any) -> tuple[str, int]:
        """Return a child's name and reference; a module with a single child is one row with it."""
        text, is_tensor = name
        while not is_tensor and len(child) == 1:
            [((part, is_tensor), child)] = child.items()
            text = f"{text}.{part}"
        if is_tensor:
            key, kind = child
            self.keys.append(key)
            return text, -1 - kind
        return text, self.numbers.setdefault(self.children(child), len(self.numbers))


def _join_runs(children: list[tuple[str, int]]) -> list[Any]:
    """Return names and references in turn, with like neighbours of ascending indices as one."""
    runs: list[tuple[int | None, str, int, list[str]]] = []
    for name, reference in children:
        found = _INDEXED.fullmatch(name)
        index, suffix = (int(found[1]), found[2] or "") if found else (None, name)
        if runs and index is not None:
            first, *like, names = runs[-1]
            if first is not None and like == [suffix, reference] and first + len(names) == index:
                names.append(name)
                continue
        runs.append((index, suffix, reference, [name]))
    joined: list[Any] = []
    for first, suffix, reference, names in runs:
        if len(names) >= MIN_RUN:
            joined += [(first, len(names), suffix), reference]
        else:
            joined += [part for name in names for part in (name, reference)]
    return joined
