"""Divide keys into sub-trees by their paths, as deep as it takes to make each of one kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

MOST_SEGMENTS: Final = 8
"""How deep a sub-tree is divided."""


def subtrees(
    keys: Iterable[str], is_mixed: Callable[[list[str]], bool], depth: int = 1
) -> Iterator[tuple[str, list[str]]]:
    """Yield sub-trees by their paths, with their keys: those of the first segment, divided where they are mixed.

    Args:
        keys: The keys, each once.
        is_mixed: Tells of some keys whether they are of more than one kind.
        depth: How many segments the paths have at first.

    Examples:
        >>> keys = ["extractor.weight", "extractor.layers.0.weight", "norm.weight"]
        >>> for path, inside in subtrees(keys, lambda keys: len({key.count(".") > 1 for key in keys}) > 1):
        ...     print(path, len(inside))
        extractor.weight 1
        extractor.layers 1
        norm 1
    """
    trees: dict[str, list[str]] = {}
    for key in keys:
        trees.setdefault(".".join(key.split(".")[:depth]), []).append(key)
    for path, inside in trees.items():
        if len(inside) > 1 and depth < MOST_SEGMENTS and is_mixed(inside):
            yield from subtrees(inside, is_mixed, depth + 1)
        else:
            yield path, inside
