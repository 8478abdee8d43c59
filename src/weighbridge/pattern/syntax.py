"""The syntax tree of key patterns: frozen nodes, what they can match at their edges, and their canonical text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from weighbridge.base.keys import is_index
from weighbridge.pattern.indices import PLAIN, Form


@dataclass(frozen=True, slots=True)
class Text:
    """Characters that stand for themselves, dots included."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    r"""One character of a class, or several.

    `members` is `.` (any character), `\d`, `\w` or a class in brackets; `repeat` is empty, `?`, `+` or `*`.
    """

    members: str
    repeat: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several branches, the first that fits."""

    branches: tuple[Nodes, ...]


@dataclass(frozen=True, slots=True)
class Maybe:
    """A part that may be missing."""

    body: Nodes


@dataclass(frozen=True, slots=True)
class Capture:
    """A named part. Numbered groups are named `1`, `2`, ..., stars `*1`, `*2`, ...

    An index with a `form` stands for what is made of the number: `{i+1}` matches 5 and binds i = 4.
    """

    name: str
    body: Nodes
    form: Form = PLAIN

    @property
    def kind(self) -> Kind:
        """What the capture holds: an integer, part of a segment, any text, one of some literals, or a mixture."""
        return _KINDS.get(self.body) or ("choice" if _is_literal_choice(self.body) else "mixed")

    @property
    def is_number(self) -> bool:
        """Whether it holds an integer: any, or one of some."""
        return self.kind == "int" or (self.kind == "choice" and all(map(is_index, self.words)))

    @property
    def words(self) -> tuple[str, ...]:
        """The literals of a choice between some; empty for any other kind."""
        if not _is_literal_choice(self.body):
            return ()
        return tuple("".join(node.text for node in branch if isinstance(node, Text)) for branch in _branches(self.body))

    @property
    def is_star(self) -> bool:
        """Whether this is an index written `*`."""
        return self.name.startswith("*")


@dataclass(frozen=True, slots=True)
class Reference:
    """The text of an earlier capture, or in a target of one of the source's captures, in a form of its own."""

    name: str
    form: Form = PLAIN


@dataclass(frozen=True, slots=True)
class Guard:
    """A look at the text ahead or behind, which consumes nothing."""

    body: Nodes
    ahead: bool
    negative: bool


@dataclass(frozen=True, slots=True)
class Edge:
    """The start or the end of the key."""

    at_end: bool


Node = Text | Chars | Choice | Maybe | Capture | Reference | Guard | Edge
Nodes = tuple[Node, ...]
Kind = Literal["int", "word", "any", "choice", "mixed"]

INT: Final[Nodes] = (Chars(r"\d", "+"),)
WORD: Final[Nodes] = (Chars("[^.]", "+"),)
ANY: Final[Nodes] = (Chars(".", "+"),)
_KINDS: Final[dict[Nodes, Kind]] = {INT: "int", WORD: "word", ANY: "any"}


def _branches(body: Nodes) -> tuple[Nodes, ...]:
    return body[0].branches if len(body) == 1 and isinstance(body[0], Choice) else (body,)


def _is_literal_choice(body: Nodes) -> bool:
    return all(isinstance(node, Text) for branch in _branches(body) for node in branch)


def merge_texts(nodes: Iterable[Node]) -> Nodes:
    """Merge neighbouring texts, so that equal patterns have equal trees."""
    merged: list[Node] = []
    for node in nodes:
        last = merged[-1] if merged else None
        if isinstance(node, Text) and isinstance(last, Text):
            merged[-1] = Text(last.text + node.text)
        elif node != Text(""):
            merged.append(node)
    return tuple(merged)


def bodies(node: Node) -> tuple[Nodes, ...]:
    """Give the sequences that a node is made of."""
    match node:
        case Choice(branches):
            return branches
        case Maybe(body) | Capture(body=body) | Guard(body=body):
            return (body,)
        case _:
            return ()


def walk(nodes: Nodes, *, guards: bool = True) -> Iterator[Node]:
    """Visit every node, outer before inner, left to right; `guards=False` leaves out guards and what is in them."""
    for node in nodes:
        if guards or not isinstance(node, Guard):
            yield node
            for body in bodies(node):
                yield from walk(body, guards=guards)


def bind_names(nodes: Nodes, find: Callable[[str], int]) -> Nodes:
    """Put numbers in the place of the names that indices are moved by.

    Args:
        nodes: A sequence.
        find: Returns the number of a name.
    """

    def bind(node: Node) -> Node:
        match node:
            case Capture() | Reference():
                return replace(node, form=node.form.bound(find))
            case Maybe(body) | Guard(body=body):
                return replace(node, body=bind_names(body, find))
            case Choice(branches):
                return Choice(tuple(bind_names(branch, find) for branch in branches))
            case _:
                return node

    return tuple(map(bind, nodes))


def can_be_empty(nodes: Nodes) -> bool:
    """Tell whether a sequence can match without consuming a character."""
    return all(_node_can_be_empty(node) for node in nodes)


def _node_can_be_empty(node: Node) -> bool:
    match node:
        case Guard() | Edge() | Maybe():
            return True
        case Chars(repeat=repeat):
            return repeat in ("?", "*")
        case Choice() | Capture():
            return any(can_be_empty(body) for body in bodies(node))
        case _:
            return False


def width(nodes: Nodes) -> int | None:
    """Give the number of characters that a sequence consumes; None if that varies."""
    total = 0
    for node in nodes:
        size = _node_width(node)
        if size is None:
            return None
        total += size
    return total


def _node_width(node: Node) -> int | None:
    match node:
        case Text(text):
            return len(text)
        case Chars(repeat=""):
            return 1
        case Guard() | Edge():
            return 0
        case Choice(branches):
            widths = {width(branch) for branch in branches}
            return widths.pop() if len(widths) == 1 else None
        case _:
            return None


Leaf = Text | Chars | Reference | Edge


Signs = frozenset[str]
"""What a side of a sequence can show, as a set of names."""


def facing(nodes: Nodes, at_end: bool, beyond: Signs, leaf: Callable[[Leaf], Signs]) -> Signs:
    """Collect what a sequence can show on one side.

    Args:
        nodes: The sequence.
        at_end: Whether to look at it from its end.
        beyond: What shows where the sequence consumes nothing.
        leaf: What one consuming node, or the key's own edge on this side, shows.
    """
    return facings(nodes, at_end, beyond, leaf)[-1 if at_end else 0]


def facings(nodes: Nodes, at_end: bool, beyond: Signs, leaf: Callable[[Leaf], Signs]) -> list[Signs]:
    """Collect what each beginning of a sequence can show at its end, or each end at its beginning; see `facing`.

    Returns:
        With `at_end`, number `i` is for the first `i` nodes; otherwise it is for those from `i` on.
    """
    shown = [beyond]
    for node in nodes if at_end else nodes[::-1]:  # from the far side to the near one
        shown.append(_node_facing(node, at_end, shown[-1], leaf))
    return shown if at_end else shown[::-1]


def _node_facing(node: Node, at_end: bool, beyond: Signs, leaf: Callable[[Leaf], Signs]) -> Signs:
    match node:
        case Guard():
            return beyond
        case Edge(side):
            return leaf(node) if side == at_end else beyond
        case Choice() | Capture() | Maybe():
            inside = [facing(body, at_end, beyond, leaf) for body in bodies(node)]
            return frozenset[str]().union(*inside, beyond if isinstance(node, Maybe) else ())
        case _:
            return leaf(node) | (beyond if _node_can_be_empty(node) else frozenset())


@lru_cache(maxsize=256)
def digits_of(members: str) -> frozenset[str]:
    """Give the decimal digits that a class accepts."""
    accepts = re.compile(members).fullmatch
    return frozenset(digit for digit in "0123456789" if accepts(digit))


_META: Final = re.compile(r"([\\^$*+?()\[\]{}|])")
_KIND_SUFFIX: Final[dict[Kind, str]] = {"int": ":int", "word": "", "any": ":**"}


def render(nodes: Nodes, *, grouped: bool = False) -> str:
    """Write a sequence as canonical pattern text; `grouped` says that it stands in parentheses."""
    near = zip(nodes, (*nodes[1:], None), (*nodes[2:], None, None), strict=False)
    return "".join(_render_beside(node, following, then, grouped) for node, following, then in near)


def _render_beside(node: Node, following: Node | None, then: Node | None, grouped: bool) -> str:
    text = _render_node(node, grouped)
    match node, following:
        case Text(), Capture(is_star=True) if text.endswith(".") and (grouped or not _lets_star_be(then)):
            return text[:-1] + r"\."
        case Reference(name), Text(after) if name.isdigit() and after[0].isdigit():
            return f"(?:{text})"  # the digit would become part of the group's number
        case _:
            return text


def _lets_star_be(node: Node | None) -> bool:
    """Tell whether `.*` before this node reads as an index."""
    match node:
        case Text(text):
            return text.startswith(".")
        case Edge(at_end):
            return at_end
        case _:
            return node is None


def render_inner(body: Nodes) -> str:
    """Write a sequence that stands in parentheses; a lone choice needs none of its own."""
    if len(body) == 1 and isinstance(body[0], Choice):
        return "|".join(render(branch, grouped=True) for branch in body[0].branches)
    return render(body, grouped=True)


def _render_node(node: Node, grouped: bool) -> str:
    match node:
        case Text(text):
            return _META.sub(r"\\\1", text)
        case Chars(".", "*") if not grouped:
            return "(?:.*)"
        case Chars(members, repeat):
            return members + repeat
        case Choice():
            return f"(?:{render_inner((node,))})"
        case Maybe(body):
            return f"(?:{render_inner(body)})?"
        case Capture():
            return _render_capture(node)
        case Reference(name, form):
            return f"\\{name}" if name.isdigit() and form == PLAIN else f"{{{name}{form}{_padding(form)}}}"
        case Guard(body, ahead, negative):
            return f"(?{'' if ahead else '<'}{'!' if negative else '='}{render_inner(body)})"
        case Edge(at_end):
            return "$" if at_end else "^"


def _render_capture(capture: Capture) -> str:
    if capture.is_star:
        return "*"
    if capture.name.isdigit():
        return f"({render_inner(capture.body)})"
    if capture.kind == "choice":
        return f"{{{capture.name}{capture.form}:{render_inner(capture.body)}}}"
    suffix = _KIND_SUFFIX[capture.kind] if capture.form == PLAIN else _padding(capture.form)
    return f"{{{capture.name}{capture.form}{suffix}}}"


def _padding(form: Form) -> str:
    return f":0{form.digits}" if form.digits else ""
