"""Laws of key families, their display and the search for near names."""

from __future__ import annotations

import random
import re
from itertools import product

import pytest
from hypothesis import given, settings, strategies as st

from weighbridge.base.errors import PatternError
from weighbridge.base.keys import (
    collapse,
    collapse_by_name,
    expand,
    expander,
    families,
    index_of,
    index_set,
    is_sound,
    natural_key,
    nearest,
    shift_index,
)

laws = settings(max_examples=1000, deadline=None)
segments = st.sampled_from(
    ["a", "b", "w_1", "0", "1", "2", "3", "10", "007", "", "x%d", "{", "a,b", "}\\", "é", "\ue000", "\uec01"]
)
keys = st.lists(segments, min_size=1, max_size=4).map(".".join)
key_sets = st.sets(keys, max_size=30)


@laws
@given(key_sets, st.frozensets(st.sampled_from(["0", "1", "10", "7"])))
def test_families_expand_to_the_keys(names: set[str], keep: frozenset[str]) -> None:
    """Every key is in one family, which gives it back; kept integers stay in the template."""
    found = families(names, keep)
    members = [(template, *member) for template, listed in found.templates.items() for member in listed]
    assert sorted([key for _, key, _ in members] + found.literal) == sorted(names)
    for template, key, indices in members:
        assert expand(template, indices) == expander(template)(indices) == key
        assert not {str(index) for index in indices} & keep
        assert len(template.split(".")) == len(key.split("."))
    assert all(re.search("[\ue000-\uefff]", key) for key in found.literal)


@laws
@given(key_sets)
def test_families_join_keys_that_differ_in_indices_only(names: set[str]) -> None:
    def shape(key: str) -> str:
        return ".".join("#" if re.fullmatch("0|[1-9][0-9]*", part) else part + "!" for part in key.split("."))

    for template, members in families(names).templates.items():
        assert len({shape(key) for key, _ in members}) == 1, template
    assert len(families(names).templates) == len({shape(k) for k in names if not re.search("[\ue000-\uefff]", k)})


def test_families_do_not_depend_on_order() -> None:
    names = [f"layers.{i}.{name}" for i in range(5) for name in ("up", "down")]
    shuffled = random.Random(3).sample(names, len(names))
    first, second = families(names).templates, families(shuffled).templates
    assert {t: sorted(m) for t, m in first.items()} == {t: sorted(m) for t, m in second.items()}


def test_families_leave_what_is_no_canonical_index() -> None:
    long = "9" * 40
    found = families([f"a.007.{long}.b1.-1.٣"])
    assert found.templates == {f"a.007.{long}.b1.-1.٣": [(f"a.007.{long}.b1.-1.٣", ())]}


def test_families_set_apart_keys_with_too_many_indices() -> None:
    key = ".".join(["1"] * 3000)
    assert families([key]) == ({}, [key])


@laws
@given(st.integers(0, 10**6), st.lists(st.integers(-256, 256), max_size=3))
def test_shifted_index_expands_to_the_sum(index: int, offsets: list[int]) -> None:
    placeholder, total = "\ue000", sum(offsets)
    for offset in offsets:
        placeholder = shift_index(placeholder, offset) or ""
    expected = str(index + total) if index + total >= 0 else None
    assert expand(f"a.{placeholder}", (index,)) == (f"a.{expected}" if expected else None)
    assert shift_index(str(index), total) == expected


def test_shift_index_refuses_what_it_cannot_hold() -> None:
    assert shift_index("007", 1) is shift_index("x", 1) is shift_index("\ue000a", 1) is None
    with pytest.raises(PatternError) as caught:
        shift_index(shift_index("\ue000", 1000) or "", 256)
    assert caught.value.code == "pattern-syntax"


def test_expand_reorders_and_repeats_slots() -> None:
    assert expand("\ue001.100%.\ue000.\ue001\uec02", (3, 4)) == "4.100%.3.6"
    assert expand("\ue001.w", (3, 4)) == "4.w"
    assert expand("w", (3, 4)) == "w"


def test_index_of_and_index_set() -> None:
    assert (index_of("\ue003"), index_of("\ue003\uebff"), index_of("3"), index_of("")) == (3, 3, None, None)
    assert index_set([2, 0, 1, 1]) == "{0..2}"
    assert index_set([5]) == "5"


@pytest.mark.parametrize(
    ("template", "sound"),
    [
        ("a.\ue000.b", True),
        ("a\ue000\uec01.1", True),
        ("1\ue000", False),
        ("\ue0001", False),
        ("\ue000\uec011", False),
        ("\ue000\ue001", False),
        ("\ue000\uec01\ue001", False),
    ],
)
def test_is_sound_sees_touching_digits(template: str, sound: bool) -> None:
    assert is_sound(template) == sound


def test_is_sound_sees_a_shifted_index_that_a_rule_may_name() -> None:
    assert is_sound("a.\ue000", frozenset({"1"}))
    assert is_sound("a.\ue000\uec01")
    assert not is_sound("a.\ue000\uec01", frozenset({"1"}))


# ------------------------------------------------------------------------------------------------ display


def spread(line: str) -> list[str]:
    """Expand a display line: the independent reading of what `collapse` writes."""
    parts = re.findall(r"((?:\\.|[^\\{}])+)|\{((?:\\.|[^\\{}])*)\}", line, re.DOTALL)
    options = [[unescape(text)] if text else braces(inner) for text, inner in parts]
    return ["".join(chosen) for chosen in product(*options)]


def braces(inner: str) -> list[str]:
    found: list[str] = []
    for item in re.findall(r"(?:\\.|[^\\,])+|(?<=,)(?=,)|^(?=,)|(?<=,)$", inner, re.DOTALL):
        numbers = re.fullmatch(r"([0-9]+)\.\.([0-9]+)", item)
        found.extend(map(str, range(int(numbers[1]), int(numbers[2]) + 1)) if numbers else [unescape(item)])
    return found


def unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


@laws
@given(key_sets)
def test_collapse_expands_to_exactly_the_keys(names: set[str]) -> None:
    spelled = sorted(key for line in collapse(names) for key in spread(line))
    assert spelled == sorted(names)


@laws
@given(key_sets, st.randoms(use_true_random=False))
def test_collapse_does_not_depend_on_order(names: set[str], rng: random.Random) -> None:
    assert collapse(rng.sample(sorted(names), len(names))) == collapse(names)


def test_collapse_writes_ranges_and_words() -> None:
    experts = [f"layers.{i}.experts.{j}.{name}.weight" for i in range(4) for j in range(8) for name in ("up", "down")]
    assert collapse(experts) == ["layers.{0..3}.experts.{0..7}.{down,up}.weight"]
    assert collapse(f"layers.{i}.w" for i in (0, 1, 2, 3, 5, 7, 8, 9)) == ["layers.{0..3,5,7..9}.w"]
    missing_one = [key for key in experts if key != "layers.2.experts.5.up.weight"]
    assert collapse(missing_one) == [
        "layers.{0..3}.experts.{0..7}.down.weight",
        "layers.{0,1,3}.experts.{0..7}.up.weight",
        "layers.2.experts.{0..4,6,7}.up.weight",
    ]
    assert collapse(["layers.10.w", "layers.2.v"]) == ["layers.2.v", "layers.10.w"]


def test_collapse_writes_many_numbers_inside_a_segment_as_a_range() -> None:
    experts = [f"l.{i}.expert{j}.{name}.w" for i in range(8) for j in range(64) for name in ("up", "down")]
    assert collapse(experts) == ["l.{0..7}.expert{0..63}.{down,up}.w"]
    assert collapse_by_name(experts) == ["l.{0..7}.expert{0..63}.up.w", "l.{0..7}.expert{0..63}.down.w"]
    assert collapse(f"stage{i}.k{j}" for i in (0, 1, 2, 5) for j in range(4)) == ["stage{0..2,5}.k{0..3}"]
    assert collapse(["x.w1", "x.w2", "x.w3"]) == ["x.{w1,w2,w3}"], "a few are names, not indices"
    assert collapse_by_name(["x.w1", "y", "x.w2"]) == ["x.w1", "y", "x.w2"]
    assert collapse([*(f"x{i}" for i in range(3)), "x03"]) == ["{x0,x03,x1,x2}"], "03 is no index"
    huge = [f"x{'9' * 30}{i}" for i in range(4)]
    assert sorted(key for line in collapse(huge) for key in spread(line)) == sorted(huge)


@laws
@given(st.sets(st.from_regex(r"[ab]{0,1}[0-9]{1,2}[ab]{0,1}(\.[a]{0,1}[0-9])?", fullmatch=True), max_size=40))
def test_numbers_inside_segments_expand_to_exactly_the_keys(names: set[str]) -> None:
    assert sorted(key for line in collapse(names) for key in spread(line)) == sorted(names)
    assert sorted(key for line in collapse_by_name(names) for key in spread(line)) == sorted(names)


@laws
@given(key_sets)
def test_natural_key_orders_numbers_as_numbers(names: set[str]) -> None:
    """Distinct keys have distinct sort keys, and an index comes before a larger one."""
    assert len({natural_key(key) for key in names}) == len(names)
    assert natural_key("a.9.b") < natural_key("a.10.a") < natural_key("a.b")


# ------------------------------------------------------------------------------------------------ nearest


def test_nearest_finds_the_meant_name() -> None:
    names = [
        f"layers.{i}.{name}" for i in range(40) for name in ("attn.q_proj.weight", "attn.k_proj.weight", "norm.weight")
    ]
    assert nearest("layers.7.attn.q_prj.weight", names, 1) == ["layers.7.attn.q_proj.weight"]
    assert nearest("layers.40.attn.q_proj.weight", names, 1) == ["layers.39.attn.q_proj.weight"]
    assert nearest("layers.3.norm.weight", names)[0] == "layers.3.norm.weight"
    assert nearest("zzz", ["a.b"]) == []
    assert nearest("a", []) == []


@laws
@given(keys, key_sets, st.integers(1, 4))
def test_nearest_names_candidates_only(key: str, names: set[str], count: int) -> None:
    found = nearest(key, names, count)
    assert set(found) <= names
    assert len(set(found)) == len(found) <= count
    if key in names:
        assert found[0] == key


@given(st.permutations(["h.0.w", "h.2.w", "h.4.w", "h.2.b", "\ue000.w"]))
def test_nearest_keys_are_the_same_in_whatever_order_there_are(keys: list[str]) -> None:
    assert nearest("h.3.w", keys)[:2] == ["h.2.w", "h.2.b"]
    assert nearest("h.1.w", keys)[0] == "h.0.w"
