"""The tree of a checkpoint's modules, with modules that are alike in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from weighbridge.base.keys import index_set, natural_key
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.reporting.costs import format_bytes

MAX_DEPTH: Final = 64
"""Segments of a key that make levels; what is left of a longer key is one name."""


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    spec: TensorSpec | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """One line of the tree: modules or tensors that are alike.

    Args:
        names: Their own names, those of modules with nothing else inside joined.
        count: How many modules or tensors the line stands for.
        spec: The spec of each, for tensors.
        tensors: Number of tensors inside all of them together.
        size_bytes: Size of these tensors.
        branches: What is in each of them.
    """

    names: str
    count: int
    spec: TensorSpec | None
    tensors: int
    size_bytes: int
    branches: tuple[Branch, ...]

    def lines(self, depth: int = 0) -> Iterator[str]:
        """Yield the branch and what is inside as indented text."""
        many = f"{self.count:,} x " if self.count > 1 else ""
        plural = "s" * (self.tensors != 1)
        inside = "" if self.spec is not None else f"{self.tensors:,} tensor{plural}, {format_bytes(self.size_bytes)}"
        spec = f"{many}{self.spec}" if self.spec is not None else inside
        yield f"{'  ' * depth}{self.names}   {spec}"
        for branch in self.branches:
            yield from branch.lines(depth + 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        spec = None if self.spec is None else {"dtype": self.spec.dtype, "shape": list(self.spec.shape)}
        return {
            "names": self.names,
            "count": self.count,
            "spec": spec,
            "tensors": self.tensors,
            "size_bytes": self.size_bytes,
            "branches": [branch.to_dict() for branch in self.branches],
        }


def module_tree(header: Header) -> tuple[Branch, ...]:
    """Write a header as a tree of modules.

    Args:
        header: Specs of the tensors.

    Returns:
        The branches at the top, in natural order.

    Examples:
        >>> specs = {f"layers.{i}.{name}": TensorSpec("F32", (2, 3)) for i in range(3) for name in ("up", "gate")}
        >>> specs |= {f"layers.{i}.down": TensorSpec("F32", (3, 2)) for i in range(3)}
        >>> for line in tree_lines(module_tree(Header(specs))):
        ...     print(line)
        layers.{0..2}   9 tensors, 216 B
          down   F32 [3, 2]
          {gate,up}   2 x F32 [2, 3]
    """
    root = _Node()
    for key, spec in header.items():
        node = root
        for name in key.split(".", MAX_DEPTH - 1):
            node = node.children.setdefault(name, _Node())
        node.spec = spec
    return _branches(root)


def _branches(node: _Node) -> tuple[Branch, ...]:
    """Group the children that are alike: of the same kind of name, with the same inside."""
    alike: dict[Any, list[str]] = {}
    for name in sorted(node.children, key=natural_key):
        child = node.children[name]
        kind = name.isascii() and name.isdecimal() and str(int(name)) == name
        alike.setdefault((kind, child.spec, _branches(child)), []).append(name)
    return tuple(_branch(names, *inside) for inside, names in alike.items())


def _branch(names: list[str], is_index: bool, spec: TensorSpec | None, inside: tuple[Branch, ...]) -> Branch:
    shown = index_set(map(int, names)) if is_index else _spell(names)
    if spec is None and len(inside) == 1:
        (only,) = inside
        tensors, size_bytes = only.tensors * len(names), only.size_bytes * len(names)
        name, count = f"{shown}.{only.names}", only.count * len(names)
        return replace(only, names=name, count=count, tensors=tensors, size_bytes=size_bytes)
    tensors = len(names) * (sum(branch.tensors for branch in inside) + (spec is not None))
    own = spec.size_bytes if spec is not None else 0
    size_bytes = len(names) * (sum(branch.size_bytes for branch in inside) + own)
    return Branch(shown, len(names), spec, tensors, size_bytes, inside)


def _spell(names: list[str]) -> str:
    return names[0] if len(names) == 1 else "{" + ",".join(names) + "}"


def tree_lines(branches: Iterable[Branch]) -> Iterator[str]:
    """Yield the whole tree as text."""
    for branch in branches:
        yield from branch.lines()
