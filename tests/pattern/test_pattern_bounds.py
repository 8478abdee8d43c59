"""Matching takes a bounded time, whatever a pattern captures, and finds what a regular expression would find first."""

from __future__ import annotations

import pytest
from bounded import run_bounded
from hypothesis import assume, example, given, settings, strategies as st

import weighbridge as wb
from weighbridge.pattern import Pattern, positions
from weighbridge.pattern.compile import to_regex
from weighbridge.pattern.indices import LITERAL, PADDED, TEMPLATE, Reading

# The twin: the regular expression

LOOSE = ["{%s:**}", "{%s}", "{%s:int}", "{%s+1}", "{%s-1}", "(.+)", r"(\d+)", "(a|ab|.b)", "(a+|[^.]*)", "*"]
PLAIN = [
    "a",
    "b",
    "ab",
    ".",
    "_",
    "1",
    ".a.",
    "[^.]+",
    "[ab]*",
    r"\d*",
    r"\w+",
    "(?:.*)",
    "(?:.+)",
    "(?:a.)?",
    "(?:b|.1)",
]
GUARDS = ["(?=.a)", "(?!b)", "(?=(?:.*)b(?:.*)a)", "(?<!a)", "(?<=a|_)", "(?<!1|b.)", r"(?!(?:.+)\.1)", "^", "$"]


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    """A source without references."""
    parts = draw(st.lists(st.sampled_from([*LOOSE, *LOOSE, *PLAIN, *GUARDS]), min_size=1, max_size=6))
    text = "".join(part % f"x{n}" if "%s" in part else part for n, part in enumerate(parts))
    try:
        parsed = Pattern.parse(text)
        assert parsed._bounded is not None
    except wb.PatternError:
        assume(False)
        raise
    return parsed


KEYS = st.text("aab11._", max_size=14) | st.lists(
    st.sampled_from(["a", "b", "ab", "0", "1", "07", "12", "a1", "_", "\ue000", "\ue001\uec01"]), max_size=6
).map(".".join)


def by_regex(pattern: Pattern, key: str, reading: Reading) -> tuple[int, int, dict[str, str]] | None:
    found = to_regex(pattern._bounded, reading).search(key)
    names = [capture.name for capture in pattern.captures]
    return found and (*found.span(), dict(zip(names, found.groups(), strict=True)))


@settings(max_examples=3000)
@given(patterns(), KEYS, st.sampled_from([LITERAL, TEMPLATE, PADDED]))
@example(Pattern.parse("{a:**}.{b:**}"), "x.y.z", LITERAL)
@example(Pattern.parse("(a|ab)(.+)$"), "abab", LITERAL)
def test_positions_give_the_match_that_the_regular_expression_finds(
    pattern: Pattern, key: str, reading: Reading
) -> None:
    assert positions.find(pattern._bounded, key, reading) == by_regex(pattern, key, reading)


def test_long_keys_are_matched_by_positions_and_short_ones_as_before() -> None:
    pattern = Pattern.parse("{a:**}.{b:**}.{c:**}.w")
    for count in (3, 10, 40, 120):
        key = ".".join(["s"] * count) + ".w"
        match = pattern.match(key)
        assert match is not None
        assert match.captures == {"a": ".".join(["s"] * (count - 2)), "b": "s", "c": "s"}
        assert (match.start, match.stop) == (0, len(key))


# G14: the time

HARD = {
    "two": "{a:**}.{b:**}.z",
    "four": "{a:**}.{b:**}.{c:**}.{d:**}.z",
    "five": "{a:**}.{b:**}.{c:**}.{d:**}.{e:**}.z",
    "twelve": ".".join(f"{{x{n}:**}}" for n in range(12)) + ".z",
    "within a segment": "{a}_{b}_{c}_{d}_{e}!",
    "repeats without captures": "(?:.*)a(?:.*)a(?:.*)a(?:.*)a(?:.*)z!",
    "optional parts": "(?:s.)?" * 30 + "z!",
    "alternatives": "(?:s|s.|.s)" * 20 + "z!",
    "a guard": "(?=(?:.*)s(?:.*)s(?:.*)s(?:.*)s!)s",
    "a guard that forbids": "(?!(?:.*)s(?:.*)s(?:.*)s(?:.*)s!)s.z!",
    "groups": r"(.+)\.(.+)\.(.+)\.(.+)\.(\d+)z!",
    "words": r"(\w+)_(\w+)_(\w+)_(\w+)_(\w+)!",
}
LONG_KEYS = {
    "245 characters": "'s.' * 122 + 's'",
    "245 characters of one segment": "'s_' * 122 + 's'",
    "needle at the start": "'z.z!.' + 's.' * 120 + 's'",
    "needle at the end": "'s.' * 120 + 's!.zz!'",
    "4,096 characters": "'s_.' * 255 + 's_' * 1660 + '!'",
    "indices": "'1.' * 120 + 'z!'",
}


@pytest.mark.parametrize("key", LONG_KEYS.values(), ids=LONG_KEYS)
@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_g14_no_pattern_takes_long_on_any_key(text: str, key: str) -> None:
    found = run_bounded(
        f"""
        from weighbridge.pattern import Pattern
        pattern, key = Pattern.parse({text!r}), {key}
        found = [pattern.match(key, literal=literal) for literal in (True, False)]
        return pattern._needle in key and all(match is not None for match in found)
        """,
        seconds=10,
    )
    assert found.value in (True, False)


@pytest.mark.parametrize("rule", ["WeightRenaming", "WeightConverter", "GroupWeightRename"])
def test_g14_planning_with_many_captures_takes_a_moment(rule: str) -> None:
    found = run_bounded(
        f"""
        source = ".".join(f"{{{{x{{n}}:**}}}}" for n in range(5)) + ".z"
        target = ".".join(f"{{{{x{{n}}}}}}" for n in range(5)) + ".y"
        more = [[wb.Transpose(0, 1)]] if {rule!r} == "WeightConverter" else []
        names = ["a." * 118 + f"z.layer_{{k}}.w" for k in range(100)] + ["a." * 50 + f"{{k}}.z" for k in range(100)]
        header = wb.Header({{name: wb.TensorSpec("F32", (2, 3)) for name in names}})
        return sum(name.endswith(".y") for name in wb.plan(header, [wb.{rule}(source, target, *more)]).target)
        """
    )
    assert found.value == 100


def test_g14_so_do_declared_exceptions() -> None:
    found = run_bounded("""
        header = wb.Header({"a." * 118 + f"z.k_{k}.w": wb.TensorSpec("F32", (2,)) for k in range(100)})
        drop = wb.Drop("{a:**}.{b:**}.{c:**}.{d:**}.{e:**}.w")
        return len(wb.plan(header, wb.Mapping([], drop=[drop])).dropped)
    """)
    assert found.value == 100


# References, which nothing but a regular expression can match


def test_g14_a_pattern_that_refers_to_itself_is_refused_where_it_could_take_long() -> None:
    found = run_bounded("""
        from weighbridge.pattern import Pattern
        return Pattern.parse("{a:**}.{b:**}.{c:**}.{a}.{c}!").match("s." * 120 + "s!")
    """)
    assert found.codes == ("pattern-costly",)


def test_a_pattern_that_refers_to_itself_matches_names_as_they_are() -> None:
    pattern = Pattern.parse(r"{a:**}.layers.{i:int}.(q|k|v)_{i}_\1")
    match = pattern.match("model.language_model.encoder.layers.11.q_11_q.weight")
    assert match is not None
    assert match.captures == {"a": "model.language_model.encoder", "i": "11", "1": "q"}


# The size of a pattern

LARGE = {
    "classes": "[ab]" * 4000,
    "stars": "a.*." * 1000,
    "alternatives": "(a|b)" * 1000,
    "words": "(" + "|".join(f"w{k}" for k in range(4000)) + ").x",
    "captures": "".join(f"{{x{k}}}." for k in range(1300)),
    "loose captures": ".".join(f"{{x{k}:**}}" for k in range(1300)),
    "guards": "(?<!a)" * 1900 + "s",
    "nested": "(?:" * 49 + "s" + ")?" * 49 + "_",
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_g14_a_large_pattern_is_read_and_matched_in_a_moment(text: str) -> None:
    found = run_bounded(f"""
        from weighbridge.pattern import Pattern
        pattern = Pattern.parse({text!r})
        matches = [pattern.match(key) for key in ("w3999.x", "s_." * 255 + "s_" * 1660 + "s_")]
        return [pattern.collapsible in (True, False), len(str(pattern)) > 100, len(matches)]
    """)
    assert found.value == [True, True, 2]


@pytest.mark.parametrize("text", ["a" * 70_000, "[ab]" * 5000, "*." * 2100], ids=["long", "classes", "stars"])
def test_a_pattern_has_a_limited_size(text: str) -> None:
    with pytest.raises(wb.PatternError) as caught:
        wb.WeightRenaming(text, "b")
    assert caught.value.code == "pattern-syntax"
    assert len(str(caught.value)) < 500
