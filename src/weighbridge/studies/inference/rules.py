"""Write findings as a mapping: renames first, then converters, each with the shortest patterns that find its tensors.

Converters run last, so that what they write is the target's own name and no rename touches it again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping as MappingOf, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import GroupWeightRename, Transform, WeightConverter
from weighbridge.operations.ops import Operation
from weighbridge.pattern import Pattern
from weighbridge.planning.tracing import FREE, prepare, trace_name
from weighbridge.studies.inference.kin import Family, find_families, name_variables, pattern_text, read_variable
from weighbridge.studies.inference.renaming import Naming, learn_renames
from weighbridge.studies.inference.tensor_facts import STAR, Fact, is_index, mask

_PLAIN_ENDS: Final = frozenset({"weight", "bias"})
"""Last segments that a pattern may leave open, so that one rule serves them all."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A converting family, and what its sources are called after the renames."""

    family: Family
    sources: tuple[str, ...]


class _Expected(NamedTuple):
    """What a converter must do with a name: by which operations, as which of its sources, and what it writes."""

    operations: tuple[Operation, ...]
    lane: int
    targets: tuple[str, ...]


def general_rules(facts: Iterable[Fact], others: Iterable[str] = ()) -> list[Transform]:
    """State findings by few rules.

    Args:
        facts: The findings.
        others: Further keys of the source, which the rules may rename as they like.

    Returns:
        Renames and converters, in order.

    Examples:
        >>> from weighbridge.mappings.transforms import describe
        >>> facts = [Fact.rename(f"h.{i}.ln.weight", f"layers.{i}.ln.weight") for i in range(3)]
        >>> [describe(rule) for rule in general_rules(facts)]
        ['WeightRenaming(^h -> layers)']
    """
    families = find_families(facts)
    plain = [family for family in families if not family.operations]
    converting = [family for family in families if family.operations]
    names = [Naming(family.sources[0], family.targets[0]) for family in plain]
    sources = [[Naming(name, None) for name in family.sources] for family in converting]
    one_of_each = {mask(key): key for key in sorted(others, reverse=True)}
    loose = [*_examples(plain), *(Naming(key, None) for _, key in sorted(one_of_each.items()))]
    renames = learn_renames([*names, *(name for lanes in sources for name in lanes), *loose])
    placed = [
        _Placed(family, tuple(name.current for name in lanes))
        for family, lanes in zip(converting, sources, strict=True)
    ]
    return [*renames, *_converters(placed, [name.current for name in names])]


def _examples(families: Sequence[Family]) -> list[Naming]:
    """Name members of each family where a rule that speaks of a certain index could take a variable for it."""
    if not any(is_index(part) and not read_variable(part) for one in families for part in one.sources[0].split(".")):
        return []
    ends = [fact for one in families for fact in (one.facts[0], one.facts[-1])]
    found = {fact.source_keys[0]: fact.target_keys[0] for fact in ends}
    known = {one.sources[0] for one in families}
    return [Naming(source, target) for source, target in found.items() if source not in known]


def exact_rules(facts: Iterable[Fact]) -> list[Transform]:
    """State findings by one rule for each family, from whole name to whole name; none can touch another's keys."""
    families = find_families(facts)
    pairs: dict[str, str] = {}
    converters: list[Transform] = []
    for family in families:
        if family.operations:
            found = _whole_converter(family, family.sources)
            converters += [found] if found is not None else []
        elif family.sources != family.targets:
            source, target = family.sources[0].split("."), family.targets[0].split(".")
            named = name_variables([source], [target]) or {}
            pairs[f"^{pattern_text(source, named)}$"] = pattern_text(target, named)
    return [*([GroupWeightRename(list(pairs), list(pairs.values()))] if pairs else []), *converters]


def _converters(placed: Sequence[_Placed], plain: Sequence[str]) -> Iterator[Transform]:
    """Choose for each family the shortest patterns that find its tensors and no others."""
    expected: dict[str, _Expected] = {}
    for each in placed:
        for lane, name in enumerate(each.sources):
            expected[name] = _Expected(each.family.operations, lane, each.family.targets)
    done: set[str] = set()
    made: list[WeightConverter] = []
    for each in placed:
        if each.sources[0] in done:
            continue
        converter = _shortest(each, expected, plain)
        if converter is None:
            continue
        made.append(converter)
        done |= {name for name in expected if _hit(converter, name) is not None}
    yield from made


def _shortest(each: _Placed, expected: MappingOf[str, _Expected], plain: Sequence[str]) -> WeightConverter | None:
    names = [name.split(".") for name in (*each.sources, *each.family.targets)]
    least = min(map(len, names))
    ends = {name[-1] for name in names}
    has_plain_end = least > 1 and len(ends) == 1 and ends <= _PLAIN_ENDS
    for end in (1, 0) if has_plain_end else (0,):
        starts = min(_common(name[: len(name) - end] for name in names), least - 1 - end)
        for start in _starts(names, starts, end):
            try:
                converter = _converter(each.family, each.sources, start, end)
            except WeighbridgeError:
                continue
            if _finds_only(converter, each.family.operations, expected, plain):
                return converter
    return _whole_converter(each.family, each.sources)


def _whole_converter(family: Family, sources: Sequence[str]) -> WeightConverter | None:
    """State a family from whole name to whole name; None where no pattern can say it."""
    try:
        return _converter(family, sources, 0, 0, whole=True)
    except WeighbridgeError:
        return None


def _starts(names: Sequence[Sequence[str]], most: int, end: int) -> list[int]:
    """List how many segments a pattern leaves out at the start: a lone word gets the one before it to go with it."""
    alone = any(len(name) - end - most < 2 for name in names)
    after_index = most > 0 and read_variable(names[0][most - 1]) is not None
    fewer = list(range(most - 1, -1, -1))
    return [most, *fewer] if after_index and not alone else [*fewer, most]


def _common(names: Iterable[Sequence[str]]) -> int:
    """Count the segments that all names have in common at their start."""
    count = 0
    for column in zip(*names, strict=False):
        if len(set(column)) > 1 or STAR in column:
            break
        count += 1
    return count


def _converter(family: Family, sources: Sequence[str], start: int, end: int, *, whole: bool = False) -> WeightConverter:
    cut = [[name.split(".")[start:][: len(name.split(".")) - start - end] for name in side]
           for side in (sources, family.targets)]  # fmt: skip
    if not whole and any(side[0][0] == STAR or is_index(side[0][0]) for side in cut):
        raise _LeadingStarError("mapping-invalid", "a pattern that begins with an index says too little")
    named = name_variables(*cut)
    if named is None:
        raise _UnboundError("pattern-reference", "a target has an index that no source has")
    texts = [[pattern_text(name, named) for name in side] for side in cut]
    if whole:
        texts[0] = [f"^{text}$" for text in texts[0]]
    return WeightConverter(texts[0], texts[1], family.operations)


class _UnboundError(WeighbridgeError):
    """A name that no rule can write."""


class _LeadingStarError(WeighbridgeError):
    """A pattern that is too short to be read by a person."""


def _finds_only(
    converter: WeightConverter,
    operations: tuple[Operation, ...],
    expected: MappingOf[str, _Expected],
    plain: Sequence[str],
) -> bool:
    """Tell whether a converter takes no tensor that another rule has, and writes those names that it should."""
    if any(_hit(converter, name) is not None for name in plain):
        return False
    for name, wanted in expected.items():
        hit = _hit(converter, name)
        if hit is not None and (wanted.operations != operations or hit != (wanted.lane, wanted.targets)):
            return False
    return True


def _hit(converter: WeightConverter, name: str) -> tuple[int, tuple[str, ...]] | None:
    """Return the pattern of a converter that finds a name, and what it writes; None if none does."""
    concrete = name.replace(f".{STAR}", ".0")
    try:
        hit = trace_name(prepare(Mapping([converter])), concrete).hit
    except WeighbridgeError:
        return -1, ()
    if hit is None:
        return None
    return hit.lane, tuple(output.replace(FREE, STAR) for output in hit.outputs)


def shortest_patterns(keys: Iterable[str], others: Iterable[str]) -> list[str]:
    """Write patterns that find these keys and none of the others.

    Examples:
        >>> shortest_patterns(["h.0.attn.bias", "h.1.attn.bias"], ["h.0.attn.weight", "h.0.mlp.bias"])
        ['attn.bias']
        >>> shortest_patterns(["h.0.bias"], ["h.1.bias"])
        ['^h.0.bias$']
    """
    chosen = set(keys)
    kept = set(others) - chosen
    by_mask: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for family in find_families(Fact.rename(key, key) for key in sorted(chosen)):
        by_mask[family.sources].extend(key for fact in family.facts for key in fact.source_keys)
    patterns: list[str] = []
    for (name,), members in by_mask.items():
        if all(any(Pattern.parse(p).match(key) for p in patterns) for key in members):
            continue
        found = _shortest_pattern(name.split("."), kept) or _shortest_pattern(_with_constants(name, members), kept)
        patterns += [found] if found else [f"^{pattern_text(key.split('.'), {})}$" for key in sorted(members)]
    return patterns


def _shortest_pattern(segments: Sequence[str], kept: Iterable[str]) -> str:
    named = name_variables([segments], [])
    for count in range(min(2, len(segments)), len(segments) + 1):
        text = pattern_text(segments[-count:], named or {})
        for anchored in (f"^{text}$",) if count == len(segments) else (text,):
            pattern = Pattern.parse(anchored)
            begins_with_word = anchored != text or not (text[0] in "*{" or text[0].isdigit())
            if begins_with_word and not any(pattern.match(key) for key in kept):
                return anchored
    return ""


def _with_constants(name: str, members: Sequence[str]) -> list[str]:
    """Return a name's segments, with the number for each variable that is the same in all members."""
    columns = zip(*(key.split(".") for key in members), strict=True)
    pairs = zip(name.split("."), columns, strict=True)
    return [column[0] if len(set(column)) == 1 else segment for segment, column in pairs]
