"""Every rule of the installed transformers' table against the library's own renaming, on generated keys, both ways.

Keys are spelled from the library's patterns: alone, and with more before and behind, by whole segments and inside one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache
from re import _constants as sre, _parser as parser
from typing import Any

import pytest

import weighbridge as wb
from weighbridge.mappings.transformers_table import NOT_UNDERSTOOD, _read_table, import_entry, import_transform
from weighbridge.mappings.transforms import pairs

transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")
core = pytest.importorskip("transformers.core_model_loading")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the library's own, of which it has many
    pytest.mark.skipif(
        not transformers.__version__.startswith(("5.23", "5.24")), reason="needs transformers 5.23 or 5.24"
    ),
]

WHOLE = ("{}", "pre.{}", "{}.post", "m.0.{}.post")
BEGINS_INSIDE = ("m.pre_{}.post", "pre{}")
ENDS_INSIDE = ("m.{}_post", "{}post")

BROKEN_THERE = {"MtpModel"}
"""Entries whose own reverse writes what is left of a pattern (`layers.3..)`) into the names."""

WITHOUT_INVERSE = {
    ("esm", "pattern-one-way"),
    ("legacy", "pattern-one-way"),
}
"""Entries with a rule that has no inverse of ours, and why: an index is lost, or two sources share a target."""


# ---- keys ----


def spell(tree: Any, chance: random.Random, groups: dict[int, str]) -> str:
    """Write a text that a parsed expression matches; a dot that is no class is a dot, a star an index."""
    return "".join(_spell(kind, value, chance, groups) for kind, value in tree)


def _spell(kind: Any, value: Any, chance: random.Random, groups: dict[int, str]) -> str:
    match kind:
        case sre.LITERAL:
            return chr(value)
        case sre.ANY:
            return "."
        case sre.IN:
            return _pick(value, chance)
        case sre.MAX_REPEAT | sre.MIN_REPEAT:
            low, _, inner = value
            if next(iter(inner))[0] is sre.ANY:
                return chance.choice(("3", "12", "mid", "mid.7"))
            return "".join(spell(inner, chance, groups) for _ in range(max(low, chance.choice((1, 1, 2)))))
        case sre.SUBPATTERN:
            number, _, _, inner = value
            text = spell(inner, chance, groups)
            groups[number or 0] = text
            return text
        case sre.BRANCH:
            return spell(chance.choice(value[1]), chance, groups)
        case sre.GROUPREF:
            return groups[value]
        case sre.AT | sre.ASSERT | sre.ASSERT_NOT:
            return ""
    raise NotImplementedError(kind)


def _pick(items: Any, chance: random.Random) -> str:
    pool: list[str] = []
    for kind, value in items:
        if kind is sre.LITERAL:
            pool.append(chr(value))
        elif kind is sre.RANGE:
            pool += map(chr, range(value[0], value[1] + 1))
        elif kind is sre.CATEGORY:
            pool += "123456789" if value is sre.CATEGORY_DIGIT else "ab_1"
    is_negated = items[0][0] is sre.NEGATE
    return chance.choice([char for char in "abc01_" if char not in pool] if is_negated else pool)


@cache
def texts_of(source: str) -> tuple[str, ...]:
    """Some texts that one of the library's source patterns matches."""
    chance = random.Random(source)
    indexed = source.replace("*.", "<index>.")
    texts = {
        spell(parser.parse(indexed), chance, {}).replace("<index>", chance.choice(("0", "7", "31"))) for _ in "123"
    }
    return tuple(sorted(texts))


def keys_of(rule: Any, shapes: tuple[str, ...]) -> Iterator[str]:
    for source in rule.source_patterns:
        for text in texts_of(source):
            yield from (shape.format(text) for shape in shapes)


# ---- both engines ----


def rules_of_the_table() -> Iterator[tuple[str, Any]]:
    for name, entry in _read_table()[0].items():
        for rule in entry:
            if not is_of_its_own(rule):
                yield name, rule


def is_of_its_own(rule: Any) -> bool:
    """Tell whether a rule does more than its patterns say: it computes indices, or waits for an operation of ours."""
    operations = {type(operation).__name__ for operation in getattr(rule, "operations", ())}
    return type(rule).__name__ == "LayerPairCollapse" or not operations.isdisjoint(NOT_UNDERSTOOD)


def their_name(rule: Any, key: str) -> str:
    if isinstance(rule, core.GroupWeightRename):
        rule._active = True  # it waits for its first pattern, in the order of a state dict
    return rule.rename_source_key(key)[0]


def our_name(rule: Any, key: str) -> str:
    """Rename by the first of the targets, as the library does; an index that operations make stays a star."""
    matches = [(found, target) for source, target in pairs(rule) if (found := source.match(key)) is not None]
    assert len(matches) < 2, key
    for found, target in matches:
        filled = target.fill({f"*{number}": "*" for number in range(1, 4)} | found.captures)
        return key if filled is None else key[: found.start] + filled + key[found.stop :]
    return key


def ends_with_its_segment(rule: Any) -> bool:
    """Tell whether a pattern ends with an index or a guard: the library does not bound it, and no real name goes on."""
    return any(re.search(r"\(\\d\+\)$|\(\?!.*\)$", source) for source in rule.source_patterns)


def takes_a_prefix_off(rule: Any) -> bool:
    """Tell whether a rule writes nothing but what follows: the rest of a segment would join it without a way back."""
    return list(rule.target_patterns) == [r"\1"]


def inverse_of(rule: Any) -> Any:
    """Return the inverse of a rule of ours, or the error that there is none."""
    try:
        return rule.inverse()
    except wb.WeighbridgeError as refused:
        return refused


def both_names(shapes: tuple[str, ...], back: bool) -> Iterator[tuple[str, Any, str, str, str]]:
    """Yield each generated key with the library's new name for it, and ours."""
    for entry, rule in rules_of_the_table():
        theirs, ours = rule, import_transform(rule)
        if back:
            theirs, ours = rule.reverse_transform(), inverse_of(ours)
        if isinstance(ours, wb.WeighbridgeError):
            continue
        for key in keys_of(theirs, shapes):
            yield entry, theirs, key, their_name(theirs, key), our_name(ours, key)


def test_few_rules_have_no_inverse():
    inverses = ((entry, inverse_of(import_transform(rule))) for entry, rule in rules_of_the_table())
    found = {(entry, back.code) for entry, back in inverses if isinstance(back, wb.WeighbridgeError)}
    assert found == WITHOUT_INVERSE


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
@pytest.mark.parametrize("shapes", [WHOLE, BEGINS_INSIDE, ENDS_INSIDE], ids=["whole", "begins inside", "ends inside"])
def test_h1_each_rule_gives_the_name_that_the_library_gives(shapes, back):
    renamed = 0
    for entry, rule, key, wanted, found in both_names(shapes, back):
        renamed += wanted != key
        if wanted not in ("", found) and not (back and entry in BROKEN_THERE):
            assert found == key, (entry, rule, key, wanted, found)
            ends = ends_with_its_segment(rule) and shapes is ENDS_INSIDE
            assert ends or takes_a_prefix_off(rule), (entry, rule, key, wanted, found)
    assert renamed > (6000 if shapes is WHOLE else 1000)


def test_whole_entries_give_the_names_that_the_library_gives():
    """All rules of an entry, one after the other, as on loading: renames in order, then one converter."""
    compared = 0
    for entry, theirs in _read_table()[0].items():
        theirs = [rule for rule in theirs if not is_of_its_own(rule)]
        renames = [rule for rule in theirs if isinstance(rule, core.WeightRenaming)]
        converters = [rule for rule in theirs if isinstance(rule, core.WeightConverter)]
        ours = import_entry(entry, theirs)
        for rule in theirs:
            for key in keys_of(rule, WHOLE):
                for each in renames:
                    their_name(each, "")  # so that groups are awake
                wanted = core.rename_source_key(key, renames, converters)[0]
                found = our_chain(ours, key)
                assert found == wanted, (entry, key, wanted, found)
                compared += 1
    assert compared > 7000


def our_chain(mapping: wb.Mapping, key: str) -> str:
    is_converted = False
    for rule in mapping:
        if isinstance(rule, wb.WeightConverter) and is_converted:
            continue
        name = our_name(rule, key)
        is_converted |= isinstance(rule, wb.WeightConverter) and name != key
        key = name
    return key
