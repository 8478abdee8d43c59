"""The structural inverse of a rule: source and target change places, captures and references with them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from weighbridge.base.errors import PatternError
from weighbridge.pattern.compile import (
    ANCHORED,
    CLOSED,
    EMPTY,
    OPEN,
    SEGMENT_END,
    SEGMENT_START,
    bind_halves,
    edge_signs,
)
from weighbridge.pattern.indices import PLAIN, Form
from weighbridge.pattern.matching import Pattern, check_rewrite
from weighbridge.pattern.syntax import (
    WORD,
    Capture,
    Chars,
    Choice,
    Edge,
    Guard,
    Maybe,
    Node,
    Nodes,
    Reference,
    Signs,
    Text,
    can_be_empty,
    merge_texts,
    render,
)


def is_one_way(source: Pattern, target: Pattern, free_stars: bool = False) -> str:
    """Give the reason why a rule has no inverse; an empty text if it has one.

    Args:
        source: What is matched.
        target: What is written in its place.
        free_stars: Whether stars on one side only are allowed: indices that an operation makes or merges.

    Raises:
        PatternError: As `check_rewrite`.

    Examples:
        >>> is_one_way(Pattern.parse("(encoder|decoder).norm"), Pattern.parse("norm"))
        'the target does not mention `1`'
        >>> is_one_way(Pattern.parse("attn"), Pattern.parse("self_attn"))
        ''
    """
    check_rewrite(source, target, free_stars)
    reason = _lost(source, target, free_stars)
    if reason:
        return reason
    found = _swap(source, target)
    return found if isinstance(found, str) else ""


def invert(source: Pattern, target: Pattern, free_stars: bool = False) -> tuple[Pattern, Pattern]:
    r"""Make the rule that takes a rewritten key back.

    Args:
        source: What is matched.
        target: What is written in its place.
        free_stars: As in `is_one_way`.

    Returns:
        The new source, with each reference as the kind of capture that it refers to, and the new target.

    Raises:
        PatternError: `pattern-one-way` if something of the key would be lost, else as `check_rewrite`.

    Examples:
        >>> new_source, new_target = invert(Pattern.parse(r"^h.(\d+).ln_{i}"), Pattern.parse(r"layers.\1.norm{i}"))
        >>> print(new_source, new_target)
        ^layers.(\d+).norm{i} h.\1.ln_{i}
        >>> print(*invert(Pattern.parse("^"), Pattern.parse("model.")))
        ^model.(.+) \1
    """
    check_rewrite(source, target, free_stars)
    found = _lost(source, target, free_stars) or _swap(source, target)
    if isinstance(found, str):
        hint = "write in the target what the way back needs, or mark a rule of former names as legacy"
        raise PatternError("pattern-one-way", found, got=f"{source.text} -> {target.text}", hint=hint)
    return found


def names_written(source: Pattern, target: Pattern) -> Pattern:
    r"""Make the pattern of the names that a rule writes, whether or not it has an inverse.

    Args:
        source: What is matched.
        target: What is written in its place.

    Examples:
        >>> str(names_written(Pattern.parse(r"layers.(\d+).norm_{i}"), Pattern.parse("norm.{i}")))
        'norm.{i}'
    """
    turned = _turn_target(source, target, _new_names(source, target))
    return Pattern.parse(render(_anchor(source.nodes, turned)))


def _lost(source: Pattern, target: Pattern, free_stars: bool) -> str:
    """Give the first part of a source that its target does not keep."""
    for node in source.nodes:
        match node:
            case Chars() | Choice() | Maybe():
                return f"the source does not capture {render((node,))}"
            case Capture(name) if name not in target.mentions and not (free_stars and node.is_star):
                return f"the target does not mention `{name}`"
            case _:
                continue
    return ""


def _swap(source: Pattern, target: Pattern) -> tuple[Pattern, Pattern] | str:
    names = _new_names(source, target)
    turned = _turn_target(source, target, names)
    reason = _lost_in_forms(turned)
    if reason:
        return reason
    if _has_touching(bind_halves(turned)):
        return "two captures touch in the target, so that the way back cannot tell them apart"
    if _has_digits_beside_index(bind_halves(turned)):
        return "an index touches other digits in the target, so that the way back cannot tell them apart"
    turned = _anchor(source.nodes, turned)
    if can_be_empty(turned) and not any(isinstance(node, Edge) for node in turned):
        return "the target may be empty, so that the way back has no place to begin"
    if all(isinstance(node, Guard | Edge) for node in source.nodes):
        return _taken_away(turned)
    for at_end in (False, True):
        walled = _wall(source.nodes, turned, at_end)
        if isinstance(walled, str):
            return walled
        turned = walled
    new_target = merge_texts(_turn_source(node, names) for node in source.nodes if not isinstance(node, Guard | Edge))
    return Pattern.parse(render(turned)), Pattern.parse(render(new_target))


def _lost_in_forms(turned: Nodes) -> str:
    """Give the first index of a turned target that stands there in forms which do not say what it was."""
    forms: dict[str, list[Form]] = {}
    for node in turned:
        if isinstance(node, Capture | Reference):
            known = forms.setdefault(node.name, [])
            known += [node.form] * (node.form not in known)
    for name, (first, *others) in forms.items():
        if first.divisor and not others:
            return f"the target has a part of `{name}` only"
        if others and not (len(others) == 1 and first.is_half_of(others[0])):
            return "the target names an index with two offsets"
    return ""


def _taken_away(turned: Nodes) -> tuple[Pattern, Pattern] | str:
    r"""Make the rule that takes away what a rule without a text of its own has put in: the rest is what is left.

    Returns:
        For `^ -> model.`, the rule `^model.(.+) -> \1`; the reason why there is none, if nothing says where it began,
        or if it does not end where a segment does, so that `^ -> a` would be taken out of `attention`.
    """
    match turned:
        case (Edge(at_end=False), *_, Text(text)) if text.endswith("."):
            return Pattern.parse(f"{render(turned)}(.+)"), Pattern.parse(r"\1")
        case (Text(text), *_, Edge(at_end=True)) if text.startswith("."):
            return Pattern.parse(f"(.+){render(turned)}"), Pattern.parse(r"\1")
        case _:
            return "the source has no text, so that the way back does not know what is left"


def _new_names(source: Pattern, target: Pattern) -> dict[str, str]:
    """Name the captures anew: groups are numbered by their place in the target; one with an offset needs a name."""
    names: dict[str, str] = {}
    numbered = 0
    pieces = _references(target)
    for piece in pieces:
        if piece.name in names:
            continue
        if piece.name.isdigit() and any(other.form != PLAIN for other in pieces if other.name == piece.name):
            names[piece.name] = _unused(f"n{piece.name}", source)
        elif piece.name.isdigit():
            numbered += 1
            names[piece.name] = str(numbered)
        else:
            names[piece.name] = piece.name
    # a star that only the source has keeps its place among the source's stars
    return {capture.name: capture.name for capture in source.captures if capture.is_star} | names


def _unused(name: str, source: Pattern) -> str:
    while name in source.mentions:
        name += "_"
    return name


def _references(target: Pattern) -> list[Capture | Reference]:
    return [node for node in target.nodes if isinstance(node, Capture | Reference)]


def _turn_target(source: Pattern, target: Pattern, names: dict[str, str]) -> Nodes:
    bound = {capture.name: capture for capture in source.captures}
    seen: set[str] = set()
    turned: list[Node] = []
    last = len(target.nodes) - 1
    for at, node in enumerate(target.nodes):
        if not isinstance(node, Capture | Reference):
            turned.append(node)
        elif node.name in seen:
            turned.append(Reference(names[node.name], node.form))
        elif node.name not in bound:  # a free star
            turned.append(node)
        else:
            seen.add(node.name)
            body = _plain(bound[node.name].body, keep_start=at == 0, keep_end=at == last)
            turned.append(Capture(names[node.name], body, node.form))
    return tuple(turned)


def _plain(body: Nodes, keep_start: bool, keep_end: bool) -> Nodes:
    """Take guards out of a capture, and the key's edges where the capture no longer stands there."""

    def stays(node: Node) -> bool:
        return not isinstance(node, Guard) and (not isinstance(node, Edge) or (keep_end if node.at_end else keep_start))

    def plain(node: Node) -> Node:
        match node:
            case Choice(branches):
                return Choice(tuple(_plain(branch, keep_start, keep_end) for branch in branches))
            case Maybe(inner):
                return Maybe(_plain(inner, keep_start, keep_end))
            case _:
                return node

    return merge_texts(plain(node) for node in body if stays(node))


def _turn_source(node: Node, names: dict[str, str]) -> Node:
    match node:
        case Capture(name) if node.is_star:
            return node
        case Capture(name, _, form) if names[name].isdigit():
            return Reference(names[name], form)
        case Capture(name, _, form):
            return Capture(names[name], WORD, form)
        case Reference(name, form):
            return Reference(names[name], form)
        case _:
            return node


def _has_touching(nodes: Nodes) -> bool:
    return any(
        isinstance(left, Capture) and isinstance(right, Capture) and _is_loose(left) and _is_loose(right)
        for left, right in pairwise(nodes)
    )


def _has_digits_beside_index(nodes: Nodes) -> bool:
    texts = zip((Text(""), *nodes), nodes, (*nodes[1:], Text("")), strict=False)
    return any(
        isinstance(node, Capture)
        and (node.kind == "int" or node.form != PLAIN)
        and (_edge_char(before, -1).isdigit() or _edge_char(after, 0).isdigit())
        for before, node, after in texts
    )


def _edge_char(node: Node, at: int) -> str:
    return node.text[at] if isinstance(node, Text) and node.text else ""


def _is_loose(capture: Capture) -> bool:
    return capture.kind != "choice" or capture.form != PLAIN


def _anchor(old: Nodes, new: Nodes) -> Nodes:
    start, end = Edge(at_end=False), Edge(at_end=True)
    new = (start, *new) if start in old and start not in new else new
    return (*new, end) if end in old and end not in new else new


def _wall(old: Nodes, new: Nodes, at_end: bool) -> Nodes | str:
    """Let the new source match at the boundaries of the old one, and nowhere else."""
    if Edge(at_end) in new or _same_capture(old, new, at_end):
        return new
    before, after = _boundary(old, at_end), _boundary(new, at_end)
    if before >= OPEN and after >= CLOSED:
        side = "end" if at_end else "start"
        return f"the source's {side} is open and the target's is not, so that its text joins that of its neighbour"
    if before == CLOSED and after >= OPEN:
        return (*new, SEGMENT_END) if at_end else (SEGMENT_START, *new)
    return new


def _boundary(nodes: Nodes, at_end: bool) -> Signs:
    signs = edge_signs(nodes, at_end)
    closed = CLOSED if signs & ANCHORED else frozenset[str]()  # the key's edge bounds a segment
    opened = OPEN if signs & EMPTY else frozenset[str]()  # a new text between two characters joins its neighbour
    return (signs - ANCHORED - EMPTY) | closed | opened


def _same_capture(old: Nodes, new: Nodes, at_end: bool) -> bool:
    left = [node for node in old if not isinstance(node, Guard)]
    right = [node for node in new if not isinstance(node, Guard)]
    pair = (left[-1], right[-1]) if at_end else (left[0], right[0])
    one, two = pair
    return isinstance(one, Capture) and isinstance(two, Capture) and replace(one, name="") == replace(two, name="")
