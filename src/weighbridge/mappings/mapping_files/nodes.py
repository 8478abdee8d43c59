"""YAML to a tree of nodes that know where they stand.

Only what a mapping file needs is read. Tags, values of other types, texts over several lines and doubled keys are
errors, so that nothing means something else than it looks like; aliases are resolved, and counted each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping as MappingOf
from dataclasses import dataclass
from typing import Any, Final

import yaml

from weighbridge.base.errors import MappingError
from weighbridge.mappings.mapping_files.documents import Document, Place

MAX_DEPTH: Final = 50
MAX_NODES: Final = 200_000
"""Nodes of a document, aliases counted as what they stand for."""

Plain = str | int | bool | None
"""What a scalar may be."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value.

    Args:
        place: Where it starts.
        text: What is written, quotes and escapes resolved.
        value: What it means.
        inner: Column at which the text itself stands, behind a quote; 0 where escapes make it differ from the source.
    """

    place: Place
    text: str
    value: Plain
    inner: int
    size: int = 1


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of nodes; `size` counts it and all below it."""

    place: Place
    items: tuple[Node, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """Nodes by name; `keys` holds the scalars that the names are written as."""

    place: Place
    items: MappingOf[str, Node]
    keys: MappingOf[str, Scalar]
    size: int


Node = Scalar | Sequence | Record


def read_nodes(document: Document) -> Record:
    """Read a document, which must hold one record.

    Raises:
        MappingError: `mapping-file`.
    """
    try:
        composer = _Composer(document, yaml.parse(document.text, Loader=yaml.SafeLoader))
        node = composer.whole()
    except yaml.MarkedYAMLError as problem:
        raise _unreadable(document, problem) from None
    except yaml.reader.ReaderError as problem:
        place = _place_at(document, problem.position)
        what = f"the character U+{ord(document.text[problem.position]):04X} cannot stand in a file"
        raise document.complain(place, what, hint=r'write it as an escape, "\u…"') from None
    if not isinstance(node, Record):
        raise document.complain(node.place, "this file holds no mapping", expected="fields such as transforms:")
    return node


def data_of(node: Node) -> Any:
    """Return what a node says, without the places."""
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [data_of(item) for item in node.items]
        case Record():
            return {name: data_of(item) for name, item in node.items.items()}


def scalars(node: Node) -> Iterator[Scalar]:
    """Yield all scalars of a tree, names included, in the order of the text."""
    match node:
        case Scalar():
            yield node
        case Sequence():
            for item in node.items:
                yield from scalars(item)
        case Record():
            for name, item in node.items.items():
                yield node.keys[name]
                yield from scalars(item)


class _Composer:
    """The events of a document that are not read yet, and what has been named by anchors."""

    def __init__(self, document: Document, events: Iterator[Any]) -> None:
        self.document = document
        self.events = events
        self.anchors: dict[str, Node] = {}
        self.count = 0

    def whole(self) -> Node:
        """Read the only document."""
        node: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if node is not None:
                    raise self.complain(event, "a mapping file holds one document")
                node = self.node(next(self.events), 0)
        if node is None:
            raise self.document.complain(Place(1, 1, 0), "this file is empty", expected="fields such as transforms:")
        return node

    def complain(self, event: Any, what: str, **parts: str) -> MappingError:
        return self.document.complain(_place(event.start_mark), what, **parts)

    def node(self, event: Any, depth: int) -> Node:
        """Read one node, of which the first event is given."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag is not None:
            hint = "quote a text that begins with !"
            raise self.complain(event, "YAML tags have no meaning here", hint=hint)
        if depth > MAX_DEPTH:
            raise self.complain(event, "this is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
        self._count(event, 1)
        node = self._node(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items = tuple(self.node(item, depth + 1) for item in self._until(yaml.SequenceEndEvent))
            return Sequence(_place(event.start_mark), items, 1 + sum(item.size for item in items))
        return self._record(event, depth)

    def _until(self, end: type[Any]) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield event

    def _count(self, event: Any, nodes: int) -> None:
        self.count += nodes
        if self.count > MAX_NODES:
            raise self.complain(event, "this file says too much", expected=f"at most {MAX_NODES:,} values")

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self.anchors:
            what = f"*{event.anchor} is an alias, and no &{event.anchor} stands before it"
            raise self.complain(event, what, hint="quote a text that begins with *")
        node = self.anchors[event.anchor]
        self._count(event, node.size)
        return node

    def _record(self, event: Any, depth: int) -> Record:
        items: dict[str, Node] = {}
        keys: dict[str, Scalar] = {}
        for key_event in self._until(yaml.MappingEndEvent):
            key = self.node(key_event, depth + 1)
            if not isinstance(key, Scalar) or not isinstance(key.value, str):
                raise self.complain(key_event, "a name must be a text", hint="quote it, or what holds the { } in it")
            if key.value in keys:
                first = f"only that of line {keys[key.value].place.line}"
                raise self.complain(key_event, f"`{key.value}` stands twice", expected=first)
            keys[key.value] = key
            items[key.value] = self.node(next(self.events), depth + 1)
        size = 1 + len(keys) + sum(item.size for item in items.values())
        return Record(_place(event.start_mark), items, keys, size)

    def _scalar(self, event: Any) -> Scalar:
        place = _place(event.start_mark)
        source = self.document.text[event.start_mark.index : event.end_mark.index]
        if event.start_mark.line != event.end_mark.line or event.style in ("|", ">"):
            is_field = event.style is None and _is_deeper_field(self.document.text, event.start_mark)
            hint = _INDENTED if is_field else "close the bracket or the quote before it, if one is open"
            raise self.complain(event, "a text must stand on one line", hint=hint)
        if event.style is None:
            value = read_plain(event.value)
            if value is Ellipsis:
                raise self._unclear(event)
        else:
            value = event.value
        before = len(source) - len(event.value) - (event.style is not None)
        inner = place.column + before if source[before : before + len(event.value)] == event.value else 0
        return Scalar(place, event.value, value, inner)

    def _unclear(self, event: Any) -> MappingError:
        text = event.value
        if text.lower() in _WORDS:
            return self.complain(
                event,
                f"some readers take {text} for a truth value, others for a text",
                expected="true, false, null, or a text in quotes",
                hint=f"quote it: '{text}'",
            )
        expected = "a whole number in decimal, or a text in quotes"
        return self.complain(event, f"YAML takes {text} for no text", expected=expected, hint=f"quote it: '{text}'")


# Scalars without quotes

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,999})")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,999})\.[0-9]{1,999}(?:e[-+][0-9]{1,4})?")
_NUMBER_12: Final = re.compile(
    r"[-+]?(?:0o[0-7]+|0x[0-9a-fA-F]+|(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
"""What YAML 1.2 takes for a number (https://yaml.org/spec/1.2.2/, 10.3.2), and PyYAML in part for a text."""

_CONSTANTS: Final[MappingOf[str, Plain]] = {"true": True, "false": False, "null": None, "~": None, "": None}
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off"})
_RESOLVER: Final[Any] = yaml.resolver.Resolver()


def read_plain(text: str) -> Any:
    """Return what a scalar without quotes means, or `...` where readers of YAML take it for different things.

    Examples:
        >>> [read_plain(text) for text in ("12", "0.5", "true", "null", "model.layers", "on", "010", "1e3", "1_0")]
        [12, 0.5, True, None, 'model.layers', Ellipsis, Ellipsis, Ellipsis, Ellipsis]
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    is_text = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str"
    return text if is_text and not _NUMBER_12.fullmatch(text) else ...


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1, mark.index - mark.column)


def _place_at(document: Document, index: int) -> Place:
    before = document.text[:index].splitlines(keepends=True)
    is_new = not before or before[-1].endswith(("\n", "\r", "\x85", "\u2028", "\u2029"))
    column = 0 if is_new else len(before[-1])
    return Place(len(before) + is_new, column + 1, index - column)


_INDENTED: Final = "check the indentation: the items of a list start in one column, and so do the fields of an item"
_FIELD: Final = re.compile(r"( *)[\w-]+:(?:\s|$)")
_QUOTED: Final = "quote a text that begins with one of * & ! % @ ` [ ] { } # | > or holds `: ` or ` #`"


def _unreadable(document: Document, problem: yaml.MarkedYAMLError) -> MappingError:
    mark = problem.problem_mark or problem.context_mark
    place = _place(mark) if mark is not None else Place(1, 1, 0)
    what = ", ".join(part for part in (problem.context, problem.problem) if part)
    return document.complain(place, f"this is no YAML: {what}", hint=_repair(problem))


def _repair(problem: yaml.MarkedYAMLError) -> str:
    """Say what to try, by what the parser stumbled over."""
    what = problem.problem or ""
    opened = f" that line {problem.context_mark.line + 1} opens" if problem.context_mark is not None else ""
    hints = (
        (r"\\t", "indent with spaces: YAML takes no tabs there"),
        ("expected <block end>", _INDENTED),
        (r"expected ',' or '[\]}]'", f"close the bracket{opened}"),
        ("unexpected end of stream", f"close the quote{opened}"),
        ("could not find expected ':'", "write a space behind the colon, and check the indentation"),
    )
    return next((hint for pattern, hint in hints if re.search(pattern, what)), _QUOTED)


def _is_deeper_field(text: str, mark: Any) -> bool:
    """Whether the line behind a value is a field that stands deeper than the value's own."""
    line, *rest = text.splitlines()[mark.line :]
    after = _FIELD.match(rest[0]) if rest else None
    return after is not None and len(after[1]) > len(line) - len(line.lstrip(" -"))
