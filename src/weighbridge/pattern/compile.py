r"""Turn a source's tree into a regular expression, and decide whether it can be matched against templates.

A match covers whole segments. Where the first consuming part is not a literal that begins with a dot or `_`, the match
must begin where a segment does; the same at its end. This is written into the tree as guards before it is compiled.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Final

from weighbridge.base.errors import PatternError
from weighbridge.base.keys import RESERVED
from weighbridge.pattern.indices import PLAIN, Reading
from weighbridge.pattern.syntax import (
    INT,
    Capture,
    Chars,
    Choice,
    Edge,
    Guard,
    Leaf,
    Maybe,
    Node,
    Nodes,
    Reference,
    Signs,
    Text,
    bodies,
    can_be_empty,
    digits_of,
    facing,
    facings,
    walk,
)

CLOSED: Final[Signs] = frozenset({"closed"})
OPEN: Final[Signs] = frozenset({"open"})
ANCHORED: Final[Signs] = frozenset({"anchored"})
EMPTY: Final[Signs] = frozenset({"empty"})

_NOT_DOT: Final = Chars("[^.]")
SEGMENT_START: Final = Guard((_NOT_DOT,), ahead=False, negative=True)
"""Holds where a segment begins."""
SEGMENT_END: Final = Guard((_NOT_DOT,), ahead=True, negative=True)
"""Holds where a segment ends."""

HALF: Final = "~"
"""Ends the name of the capture that holds the second half of a divided index; no name in a pattern does."""

_DIGIT: Final = frozenset({"digit"})
_DOT: Final = frozenset({"dot"})
_LETTER: Final = frozenset({"letter"})
_ANYTHING: Final = _DIGIT | _DOT | _LETTER


def edge_signs(nodes: Nodes, at_end: bool) -> Signs:
    """Tell how a pattern ends on one side: `closed`, `open`, `anchored`, or `empty` where it consumes nothing."""
    return facing(nodes, at_end, EMPTY, lambda leaf: _edge_sign(leaf, at_end))


def _edge_sign(leaf: Leaf, at_end: bool) -> Signs:
    match leaf:
        case Edge():
            return ANCHORED
        case Text(text):
            return OPEN if text[-1 if at_end else 0] in "._" else CLOSED
        case _:
            return CLOSED


def bounded(nodes: Nodes) -> Nodes:
    """Write the boundaries of whole-segment matching into a tree.

    Raises:
        PatternError: `pattern-syntax` where a part that may be missing leaves the boundary open to both readings.
    """
    return _bound(_bound(nodes, EMPTY, False), OPEN, True)


def _bound(nodes: Nodes, beyond: Signs, at_end: bool) -> Nodes:
    """Add the boundaries on one side, `beyond` being what shows there if the sequence consumes nothing."""
    outside = list(takewhile(lambda node: _consumes_nothing(node, at_end), nodes[::-1] if at_end else nodes))
    count = len(outside)
    inner = _bound_inside(nodes[: len(nodes) - count] if at_end else nodes[count:], beyond, at_end)
    return (*inner, *outside[::-1]) if at_end else (*outside, *inner)


def _consumes_nothing(node: Node, at_end: bool) -> bool:
    return isinstance(node, Guard) or (isinstance(node, Edge) and node.at_end != at_end)


def _bound_inside(nodes: Nodes, beyond: Signs, at_end: bool) -> Nodes:
    if not nodes:
        return _boundary(beyond, at_end)
    node, rest = (nodes[-1], nodes[:-1]) if at_end else (nodes[0], nodes[1:])

    def put(*near: Node, far: Nodes = rest) -> Nodes:
        return (*far, *near[::-1]) if at_end else (*near, *far)

    wall = SEGMENT_END if at_end else SEGMENT_START
    after = facing(rest, at_end, beyond, lambda leaf: _edge_sign(leaf, at_end))
    match node:
        case Edge():
            return nodes
        case Chars(members, "?" | "*" as repeat) if after != CLOSED:
            some: Nodes = (Chars(members, "+" if repeat == "*" else ""),)
            walled = (*some, wall) if at_end else (wall, *some)
            return put(Choice((walled, _boundary(after, at_end))))
        case Choice(branches):
            return put(Choice(tuple(_bound(branch, after, at_end) for branch in branches)))
        case Capture(name, body, form) if form == PLAIN:  # one with a form has its walls outside of its expression
            return put(Capture(name, _bound(body, after, at_end)))
        case Maybe(body):
            return put(Choice((_bound(body, after, at_end), _boundary(after, at_end))))
        case _:
            is_open = isinstance(node, Text) and _edge_sign(node, at_end) == OPEN
            return nodes if is_open else put(wall, node)


def _boundary(signs: Signs, at_end: bool) -> Nodes:
    if signs == CLOSED:
        return (SEGMENT_END if at_end else SEGMENT_START,)
    if signs <= OPEN | ANCHORED:
        return ()
    if signs == EMPTY:  # nothing is consumed at all: such a match has its place at a segment's start or the key's end
        return (Choice(((SEGMENT_START,), (Edge(at_end=True),))),)
    side = "ends" if at_end else "begins"
    raise PatternError(
        "pattern-syntax",
        f"it is unclear whether this pattern {side} at a segment's boundary",
        hint="a part that may be missing stands beside alternatives that differ there: write two patterns",
    )


def check_references(nodes: Nodes) -> None:
    """Check that a source refers only to captures before the reference.

    Raises:
        PatternError: `pattern-reference` for a name that is not bound, `pattern-syntax` for one with two offsets.
    """
    bound: dict[str, Capture] = {}
    for node in walk(nodes):
        if isinstance(node, Capture):
            bound[node.name] = node
        elif isinstance(node, Reference):
            first = bound.get(node.name)
            if first is None:
                what = f"the source refers to `{node.name}` before it is bound"
                raise PatternError("pattern-reference", what, hint="move the capture before what refers to it")
            if first.form != node.form and not first.form.is_half_of(node.form):
                raise PatternError("pattern-syntax", f"`{node.name}` has two offsets in one source")
            if can_be_empty(first.body):
                raise PatternError(
                    "pattern-syntax", f"`{node.name}` may be empty, so that nothing can refer to it here"
                )
    for capture in bound.values():
        if capture.form.divisor:
            _check_halves(capture, nodes)


def _check_halves(capture: Capture, nodes: Nodes) -> None:
    """Check that a source has both halves of a divided index."""
    others = (node.form for node in walk(nodes) if isinstance(node, Reference) and node.name == capture.name)
    if not any(capture.form.is_half_of(form) for form in others):
        raise PatternError(
            "pattern-syntax",
            f"a source with `{capture.name}{capture.form}` alone does not say which index it is",
            hint=f"write {{{capture.name}{capture.form.other_half}}} as well",
        )


def bind_halves(nodes: Nodes) -> Nodes:
    """Let the second half of a divided index be a capture of its own, whose name ends in `HALF`."""
    first = {node.name: node.form for node in walk(nodes) if isinstance(node, Capture) and node.form.divisor}
    bound: set[str] = set()

    def bind(node: Node) -> Node:
        if not isinstance(node, Reference) or not first.get(node.name, PLAIN).is_half_of(node.form):
            return node
        name = node.name + HALF
        if name in bound:
            return Reference(name, node.form)
        bound.add(name)
        return Capture(name, INT, node.form)

    return tuple(map(bind, nodes)) if first else nodes


def to_regex(nodes: Nodes, reading: Reading) -> re.Pattern[str]:
    """Compile a source, with its boundaries."""
    numbers: dict[str, int] = {}
    for node in walk(nodes):
        if isinstance(node, Capture):
            numbers[node.name] = len(numbers) + 1
    return re.compile(_regex(nodes, numbers, reading), re.DOTALL)


def _regex(nodes: Nodes, numbers: dict[str, int], reading: Reading) -> str:
    return "".join(_node_regex(node, numbers, reading) for node in nodes)


def _node_regex(node: Node, numbers: dict[str, int], reading: Reading) -> str:
    inside = [_regex(body, numbers, reading) for body in bodies(node)]
    match node:
        case Text(text):
            return re.escape(text)
        case Chars(members, repeat):
            return class_regex(members, reading) + repeat
        case Choice():
            return f"(?:{'|'.join(inside)})"
        case Maybe():
            return f"(?:{inside[0]})?"
        case Capture(form=form):
            return f"({inside[0] if form == PLAIN else index_regex(node, reading)})"
        case Reference(name):
            return f"(?:\\{numbers[name]})"
        case Edge(at_end):
            return r"\Z" if at_end else r"\A"
        case Guard(body, ahead, negative):
            if not ahead and len(body) == 1 and isinstance(body[0], Choice):
                inside = [_regex(branch, numbers, reading) for branch in body[0].branches]
            return _guard_regex(inside, ahead, negative)


def _guard_regex(branches: list[str], ahead: bool, negative: bool) -> str:
    opening = f"(?{'' if ahead else '<'}{'!' if negative else '='}"
    # one look behind has one width, so its alternatives become several: none of them holds, or one of them does
    looks = [f"{opening}{branch})" for branch in branches]
    return "".join(looks) if negative else f"(?:{'|'.join(looks)})"


def class_regex(members: str, reading: Reading) -> str:
    """Write the class of one character as a regular expression."""
    return _with_reserved(members) if reading.templates else _ascii_digits(members)


def _ascii_digits(members: str) -> str:
    return "[0-9]" if members == r"\d" else members.replace(r"\d", "0-9")


def _with_reserved(members: str) -> str:
    """Let a class that accepts every digit accept a placeholder, and no other class."""
    plain = _ascii_digits(members)
    if plain == ".":
        return plain
    negated = plain.startswith("[^")
    if negated == (len(digits_of(plain)) == 10):
        return plain
    return f"[{plain}{RESERVED}]" if plain == r"\w" else f"{plain[:-1]}{RESERVED}]"


def index_regex(capture: Capture, reading: Reading) -> str:
    """Match a whole run of digits that an index with a form may have been written as."""
    if not capture.words:
        return capture.form.regex(reading)
    written = filter(None, map(capture.form.write, capture.words))
    return f"(?:(?<![0-9])(?:{'|'.join(written) or '(?!)'})(?![0-9]))"


def literal_indices(nodes: Nodes) -> frozenset[str]:
    """Give every run of digits that a pattern names literally."""
    texts = [node.text for node in walk(nodes) if isinstance(node, Text)]
    return frozenset(run for text in texts for run in re.findall("[0-9]+", text))


def is_collapsible(nodes: Nodes) -> bool:
    """Tell whether a match cannot depend on the digits of an index, so that templates may stand for keys.

    It can where two parts share one run of digits, where a class takes only some digits or only one, where an index is
    compared with another one, and where it is compared with an offset.
    """
    return _parts_collapse(nodes, _DOT, _DOT)


def _parts_collapse(nodes: Nodes, before: Signs, after: Signs) -> bool:
    lefts = facings(nodes, True, before, lambda leaf: _char_sign(leaf, True))
    rights = facings(nodes, False, after, lambda leaf: _char_sign(leaf, False))
    return all(map(_part_collapses, nodes, lefts[:-1], rights[1:]))


def _part_collapses(node: Node, left: Signs, right: Signs) -> bool:
    match node:
        case Text(text):
            return not (text[0].isdigit() and left & _DIGIT) and not (text[-1].isdigit() and right & _DIGIT)
        case Chars(members, repeat):
            digits = digits_of(members)
            return not digits or (len(digits) == 10 and repeat in ("+", "*") and not (left | right) & _DIGIT)
        case Reference():
            return False
        case Capture(form=form) if form.compares or (form != PLAIN and node.words):
            return False
        case Guard(body, ahead):
            return _guard_collapses(body, _ANYTHING if not ahead else left, _ANYTHING if ahead else right)
        case _:
            return all(_parts_collapse(body, left, right) for body in bodies(node))


def _guard_collapses(body: Nodes, left: Signs, right: Signs) -> bool:
    if len(body) == 1 and isinstance(body[0], Chars) and not body[0].repeat:
        return len(digits_of(body[0].members)) in (0, 10)  # one digit of an index is as good as another
    return _parts_collapse(body, left, right)


def _char_sign(leaf: Leaf, at_end: bool) -> Signs:
    match leaf:
        case Edge():
            return _DOT
        case Text(text):
            char = text[-1 if at_end else 0]
            return _DIGIT if char.isdigit() else _DOT if char == "." else _LETTER
        case Chars(members):
            return _LETTER | (_DIGIT if digits_of(members) else frozenset()) | (_DOT if members == "." else frozenset())
        case Reference():
            return _ANYTHING
