"""Patterns as values: match a key, fill a target, rewrite."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from weighbridge.base.errors import PatternError
from weighbridge.base.json_text import shorten
from weighbridge.pattern import compile as compiling, positions
from weighbridge.pattern.indices import LITERAL, PADDED, PLAIN, TEMPLATE, Form, Reading
from weighbridge.pattern.parse import parse
from weighbridge.pattern.syntax import (
    WORD,
    Capture,
    Edge,
    Guard,
    Node,
    Nodes,
    Reference,
    Text,
    bind_names,
    can_be_empty,
    merge_texts,
    render,
    walk,
)


class Match(NamedTuple):
    """Where a pattern matched a key, half-open, and what its captures hold by name."""

    start: int
    stop: int
    captures: dict[str, str]


@dataclass(frozen=True)
class Pattern:
    r"""A key pattern, for either side of a rule.

    Two patterns are equal if their trees are: `a\.b` equals `a.b`. `str` gives the canonical text, `text` the given
    one.

    Examples:
        >>> pattern = Pattern.parse(r"layers.{layer:int}.(q|k)_proj")
        >>> pattern.match("model.layers.3.q_proj.weight")
        Match(start=6, stop=21, captures={'layer': '3', '1': 'q'})
        >>> Pattern.parse(r"blocks.{layer}.\1").fill({"layer": "3", "1": "q"})
        'blocks.3.q'
    """

    nodes: Nodes
    text: str = field(compare=False)

    @staticmethod
    def parse(text: str) -> Pattern:
        """Read a pattern; the same text gives the same object.

        Raises:
            PatternError: `pattern-syntax`, with a caret under the place that cannot be read.
        """
        return _parse(text)

    def __str__(self) -> str:
        return render(self.nodes)

    def match(self, key: str, *, literal: bool = False) -> Match | None:
        """Find the leftmost match of whole segments.

        Args:
            key: A key, or a template of `keys.families`; a placeholder counts as an integer.
            literal: Whether `key` is a key that contains reserved characters, so that they stand for themselves.

        Raises:
            PatternError: `pattern-reference` or `pattern-syntax` if the pattern cannot be a source; `pattern-costly`.
        """
        return self._read(self._search(key, LITERAL if literal else TEMPLATE))

    def later_matches(self, key: str, first: Match) -> Iterator[Match]:
        """Yield the leftmost match that begins behind the one before it, over and over; arguments as for a literal key.

        Of a pattern and a key of which that could take long, there is no more than the first.

        Examples:
            >>> pattern = Pattern.parse("b")
            >>> [match.start for match in pattern.later_matches("a.b.b", pattern.match("a.b.b"))]
            [4]
        """
        if self._is_costly(key):
            return
        start = first.start
        while (found := self._regex(LITERAL).search(key, start + 1)) is not None:
            start = found.start()
            read = self._read(self._named(found))
            if read is not None:
                yield read

    def _read(self, found: Match | None) -> Match | None:
        """Turn the digits of each index into its number; None where they are not those of its form."""
        if found is None:
            return None
        for name, form in self._forms:
            text = found.captures[name]
            index = form.join(text, found.captures.pop(name + compiling.HALF)) if form.divisor else form.read(text)
            if index is None:
                return None
            found.captures[name] = index
        return found

    def _search(self, key: str, reading: Reading) -> Match | None:
        """Find the leftmost match, each index as it stands: by a regular expression, unless that could take long."""
        if self._needle not in key:
            return None
        if self._is_costly(key):
            if not self._looseness.refers:
                placed = positions.find(self._bounded, key, reading)
                return None if placed is None else Match(*placed)
            self._refuse_costly(key)
        found = self._regex(reading).search(key)
        return found and self._named(found)

    def _named(self, found: re.Match[str]) -> Match:
        return Match(found.start(), found.end(), dict(zip(self._names, found.groups(), strict=True)))

    def _is_costly(self, key: str) -> bool:
        """Tell whether a regular expression may have to try many ways."""
        return len(key) > self._quick_length and self._looseness.bound(key) > positions.QUICK

    def _refuse_costly(self, key: str) -> None:
        if self._looseness.bound(key) > positions.MOST:
            raise PatternError(
                "pattern-costly",
                "matching this pattern against this key could take very long",
                where=shorten(key),
                got=self.text,
                hint="give the part that is repeated a narrower kind, such as {i:int}, or anchor the pattern with ^",
            )

    def fill(self, captures: dict[str, str]) -> str | None:
        r"""Write the text that a target stands for; anchors and guards write nothing.

        Args:
            captures: Text of each capture: `layer`, `1` for `\1`, `*1` for the first star.

        Returns:
            The text; None where an index would be negative, or is not canonical and has a form: see `fault`.

        Raises:
            PatternError: `pattern-reference` if a capture has no text, or a part does not say what to write.
        """
        parts: list[str] = []
        for piece in self._pieces:
            if isinstance(piece, str):
                parts.append(piece)
                continue
            value = captures.get(piece.name)
            if value is None:
                raise _unbound(self, piece.name, captures)
            written = value if piece.form == PLAIN else piece.form.write(value)
            if written is None:
                return None
            parts.append(written)
        return "".join(parts)

    def fault(self, captures: dict[str, str]) -> str:
        """Say why `fill` writes nothing: which index it cannot move; empty where it writes something.

        Examples:
            >>> Pattern.parse("layers.{i-1}").fault({"i": "0"})
            "'0', for {i-1}, would become negative"
        """
        pieces = (piece for piece in self._pieces if not isinstance(piece, str) and piece.form != PLAIN)
        return _first_fault((piece, captures[piece.name], piece.form.write_fault) for piece in pieces)

    def near_fault(self, key: str, match: Match | None) -> str:
        """Say which index alone keeps this source from matching, as its digits are not those of the form it has here.

        Args:
            key: The key.
            match: What the source matches; such an index counts only if it stands before that.

        Examples:
            >>> Pattern.parse("layer_{i+1}").near_fault("layer_02.w", None)
            "'02', for {i+1}, has leading zeros, which could not be written back"
        """
        found = self._search(key, PADDED)
        if found is None or (match is not None and match.start <= found.start):
            return ""
        formed = (node for node in self._groups if node.form != PLAIN and not node.words)
        return _first_fault((node, found.captures[node.name], node.form.read_fault) for node in formed)

    @cached_property
    def captures(self) -> tuple[Capture, ...]:
        """The captures in order, each with its `name` and `kind`."""
        return tuple(node for node in walk(self.nodes, guards=False) if isinstance(node, Capture))

    @cached_property
    def mentions(self) -> tuple[str, ...]:
        """The names that the pattern binds or refers to, each once, in order."""
        nodes = (node for node in walk(self.nodes, guards=False) if isinstance(node, Capture | Reference))
        return tuple(dict.fromkeys(node.name for node in nodes))

    @cached_property
    def stars(self) -> int:
        """Number of indices written `*`, named `*1`, `*2`, ... from the left."""
        return sum(capture.is_star for capture in self.captures)

    @cached_property
    def literal_indices(self) -> frozenset[str]:
        """Every run of digits that the pattern names literally; `keys.families` must keep them."""
        return compiling.literal_indices(self.nodes)

    @cached_property
    def collapsible(self) -> bool:
        """Whether a match never depends on the digits of an index, so that the pattern may match templates."""
        return compiling.is_collapsible(self.nodes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The numbers of a configuration that the offsets of its indices are."""
        forms = (node.form for node in walk(self.nodes) if isinstance(node, Capture | Reference))
        return tuple(dict.fromkeys(form.named[1:] for form in forms if form.named))

    def bind(self, find: Callable[[str], int]) -> Pattern:
        """Return the pattern with numbers in the place of `names`.

        Args:
            find: Returns the number of a name.

        Raises:
            PatternError: `pattern-syntax` for a number that is too large for an offset.

        Examples:
            >>> str(Pattern.parse("layers.{i+num_layers}").bind({"num_layers": 12}.get))
            'layers.{i+12}'
        """
        return Pattern.parse(render(bind_names(self.nodes, find))) if self.names else self

    @cached_property
    def fills_templates(self) -> bool:
        """Whether a target can be filled with a template's placeholders: it has no index in a form but an offset."""
        return all(node.form.is_offset for node in walk(self.nodes) if isinstance(node, Capture | Reference))

    @property
    def is_anchored(self) -> bool:
        """Whether every match begins at the start of the key."""
        return Edge(at_end=False) in self.nodes

    @cached_property
    def only_key(self) -> str | None:
        """The one key that the pattern matches, if there is but one by the way it is written; else None."""
        match self.nodes:
            case (Edge(at_end=False), Text(text), Edge(at_end=True)):
                return text
            case _:
                return None

    @cached_property
    def _bounded(self) -> Nodes:
        try:
            compiling.check_references(self.nodes)
            return compiling.bounded(compiling.bind_halves(self.nodes))
        except PatternError as error:
            raise error.with_context(got=self.text) from None

    def _regex(self, reading: Reading) -> re.Pattern[str]:
        if reading not in self._regexes:
            self._regexes[reading] = compiling.to_regex(self._bounded, reading)
        return self._regexes[reading]

    @cached_property
    def _regexes(self) -> dict[Reading, re.Pattern[str]]:
        return {}

    @cached_property
    def _looseness(self) -> positions.Looseness:
        return positions.looseness(self._bounded)

    @cached_property
    def _quick_length(self) -> int:
        return self._looseness.quick_length

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(capture.name for capture in self._groups)

    @cached_property
    def _groups(self) -> tuple[Capture, ...]:
        """The captures that are matched: those of the pattern, and the second half of each that is divided."""
        return tuple(node for node in walk(self._bounded, guards=False) if isinstance(node, Capture))

    @cached_property
    def _forms(self) -> tuple[tuple[str, Form], ...]:
        """The form of each capture that has one."""
        return tuple((capture.name, capture.form) for capture in self.captures if capture.form != PLAIN)

    @cached_property
    def _needle(self) -> str:
        """The longest text that every match contains; most keys are turned away by it."""
        return max((node.text for node in self._bounded if isinstance(node, Text)), key=len, default="")

    @cached_property
    def _pieces(self) -> tuple[str | Capture | Reference, ...]:
        written = merge_texts(node for node in self.nodes if not isinstance(node, Edge | Guard))
        return tuple(_piece(self, node) for node in written)


def _first_fault(indices: Iterable[tuple[Capture | Reference, str, Callable[[str], str]]]) -> str:
    found = ((node, index, fault_of(index)) for node, index, fault_of in indices)
    named = ((render((node,)).replace(compiling.HALF, ""), index, fault) for node, index, fault in found if fault)
    return next((f"{shorten(index, 40)}, for {form}, {fault}" for form, index, fault in named), "")


@lru_cache(maxsize=16384)
def _parse(text: str) -> Pattern:
    return Pattern(parse(text), text)


def _piece(pattern: Pattern, node: Node) -> str | Capture | Reference:
    match node:
        case Text(text):
            return text
        case Reference():
            return node
        case Capture(name) if not name.isdigit():
            return node
        case _:
            raise PatternError(
                "pattern-reference",
                "this part of a target does not say what to write",
                expected="literals and references",
                got=f"{render((node,))} in {pattern.text}",
                hint=r"write \1 for the text of the source's first group, or a name in braces",
            )


def _unbound(target: Pattern, name: str, bound: dict[str, str] | tuple[str, ...]) -> PatternError:
    return PatternError(
        "pattern-reference",
        f"the target refers to `{name}`, which nothing binds",
        got=target.text,
        expected="one of " + ", ".join(bound) if bound else "no reference: the source captures nothing",
        hint=f"capture it in the source as {{{name}}}" + (", or take one of the names above" if bound else ""),
    )


def check_rewrite(source: Pattern, target: Pattern, free_stars: bool = False) -> None:
    """Check that a source and a target make a rule.

    Args:
        source: What is matched.
        target: What is written in its place.
        free_stars: Whether the target may have stars beyond the source's: indices that an operation makes.

    Raises:
        PatternError: `pattern-reference` if the target refers to what the source does not bind, or to something of
            another kind; `pattern-syntax` if the pattern cannot be a source.

    Examples:
        >>> check_rewrite(Pattern.parse("experts.*.w1"), Pattern.parse("experts.w1.*"))
    """
    _ = source._bounded
    if can_be_empty(source.nodes) and not any(isinstance(node, Edge) for node in source.nodes):
        raise PatternError(
            "pattern-syntax", "this source matches nothing, everywhere", got=source.text, hint="write ^ to add a prefix"
        )
    bound = {capture.name: capture for capture in source.captures}
    for piece in target._pieces:
        if isinstance(piece, str) or (free_stars and piece.name.startswith("*") and piece.name not in bound):
            continue
        if piece.name not in bound:
            raise _unbound(target, piece.name, tuple(bound))
        _check_kind(target, piece, bound[piece.name])


def _check_kind(target: Pattern, piece: Capture | Reference, bound: Capture) -> None:
    has_form, is_index = piece.form != PLAIN, bound.is_number and (piece.form.is_offset or not bound.words)
    other_kind = isinstance(piece, Capture) and piece.body not in (WORD, bound.body) and not (has_form and is_index)
    if (has_form and not is_index) or other_kind:
        raise PatternError(
            "pattern-reference",
            f"the target takes `{piece.name}` for another kind of capture than it is",
            expected=f"{bound.kind}: {render((bound,))}",
            got=f"{render((piece,))} in {target.text}",
        )
