"""Regular expressions that others wrote: the same answers as Python's matcher, in a bounded time."""

from __future__ import annotations

import re
from typing import Final

import pytest
from bounded import run_bounded
from hypothesis import assume, given, settings, strategies as st

from weighbridge import PatternError
from weighbridge.mappings.schemes.dialects import COMPRESSED_TENSORS
from weighbridge.pattern import expressions
from weighbridge.pattern.expressions import QUICK, Expression, Steps, _effort
from weighbridge.planning.config_names.meanings import find_meanings

ATOMS: Final = st.sampled_from([*"ab1_.^$", r"\.", r"\d", "[ab]", "[^a]", r"[^\d.]", r"\w", r"\W", r"\s", r"\S", r"\D"])
PLACES: Final = st.sampled_from([r"\b", r"\B", r"\A", r"\Z", "(?<=a)", r"(?<![ab]\.)", "(?<=a|b)"])
COUNTS: Final = st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}", "{2,}", "{,2}?"])
NAMES: Final = st.text("aab1._ \n", max_size=9)


def grow(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(smaller, max_size=3)
    return (
        st.builds("({})".format, lists.map("".join))
        | st.builds("(?:{})".format, st.lists(lists.map("".join), min_size=2, max_size=3).map("|".join))
        | st.builds("(?{}{})".format, st.sampled_from("=!"), lists.map("".join))
        | st.builds("(?:{}){}".format, smaller, COUNTS)
    )


EXPRESSIONS: Final = st.lists(st.recursive(ATOMS | PLACES, grow, max_leaves=8), max_size=4).map("".join)


@settings(max_examples=1000, deadline=None)
@given(EXPRESSIONS, st.lists(NAMES, min_size=1, max_size=6))
def test_what_is_asked_for_all_ends_at_once_answers_as_python_does(text: str, names: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expressions, "QUICK", -1)
        found = Expression(text)
        for name in names:
            assert found.starts(name) == (re.match(text, name) is not None)
            assert found.is_whole(name) == (re.fullmatch(text, name) is not None)
    assert found._quick_length == 0


HOSTILE: Final = {
    "(a+)+$": ("a" * 500 + "b", False),
    "(?:a?){60}a{60}": ("a" * 59, False),
    "((a|aa)+)+c": ("a" * 150, False),
    "(?:(?:a|b)*(?:b|a)*)*c": ("ab" * 150, False),
    r"^(?=(a*)*b)a": ("a" * 200, False),
    ".*.*.*.*.*x": ("a" * 500, False),
    "(?:a{1,65535}){1,65535}b": ("a" * 200 + "b", True),
    "(" * 40 + "a*" + ")*" * 40 + "b": ("a" * 200, False),
    "(?:x?x?x?x?x?)*y": ("x" * 300 + "y", True),
}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_expressions_are_answered_in_a_bounded_time(text: str) -> None:
    name, answer = HOSTILE[text]
    imports = "from weighbridge.pattern.expressions import Expression"
    assert (
        run_bounded("import sys\nreturn Expression(sys.argv[1]).starts(sys.argv[2])", text, name, imports=imports).value
        is answer
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (r"(a*)*\1b", "a" * 50),
        ("(?i)(A+)+$", "a" * 50 + "b"),
        ("(?i:(A+)+)$", "a" * 50 + "b"),
        ("(?:(?>a*)a?)*b", "a" * 50),
    ],
)
def test_what_would_take_long_and_cannot_be_asked_otherwise_is_refused(text: str, name: str) -> None:
    body = "import sys\nExpression(sys.argv[1]).starts(sys.argv[2])"
    imports = "from weighbridge.pattern.expressions import Expression"
    assert run_bounded(body, text, name, imports=imports).codes[0] == "pattern-costly"


def test_expressions_share_their_steps() -> None:
    steps = Steps(2_000)
    one, other = Expression("(a+)+b", steps), Expression("(a*)*c", steps)
    assert not one.starts("a" * 20)
    with pytest.raises(PatternError, match="pattern-costly"):
        [other.starts("a" * length) for length in range(20, 60)]
    with pytest.raises(PatternError, match="pattern-costly"):
        one.starts("a" * 20)
    assert Expression("(a+)+b").starts("a" * 20 + "b")


@pytest.mark.parametrize(
    "text",
    [
        r"^(?!.*visual).*\.(q|k|v)_proj$",
        r"^(language_model(?=\.).*\.(o_proj|q_proj|k_proj|v_proj|gate_proj|up_proj|down_proj))$",
        r"model\.layers\.\d+\..*_proj",
        r"(?:(?:model|layers|\d+)\.)*proj(?:\.(?:model|layers|\d+))*\Z",
        r".*\.experts\.\d+\.(?:\w+\.)*(?:gate|up|down)_proj$",
        r"(.*\.)?(layers\.\d+\.self_attn\.q_proj)$",
    ],
)
def test_expressions_as_people_write_them_are_left_to_python(text: str) -> None:
    assert _effort(Expression(text)._tree, 64).steps <= QUICK


@pytest.mark.parametrize("text", ["(", "a**", "[b", "(?P<1>a)", "(" * 5000 + ")" * 5000, "a{99999999999}"])
def test_what_is_no_expression_is_said(text: str) -> None:
    with pytest.raises(PatternError, match="pattern-syntax"):
        Expression(text)


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, st.lists(NAMES, min_size=1, max_size=6))
def test_entries_of_a_configuration_mean_what_python_says(text: str, names: list[str]) -> None:
    assume(text)
    found = find_meanings([f"re:{text}"], COMPRESSED_TENSORS, names)
    assert {name for name in names if re.match(text, name)} == set(found.of_module)


def test_a_hostile_entry_of_a_configuration_is_answered() -> None:
    body = """
tensors = {f"model.layers.{i}.{'a' * 60}.weight": torch.zeros(2) for i in range(20)}
said = {"quant_method": "compressed-tensors", "config_groups": {}, "ignore": ["re:.*(a+)+b$"]}
config = {"quantization_config": said}
plan = wb.plan(tensors, [wb.WeightRenaming("^model", "outer")], config=config)
return len(plan.target)
"""
    assert run_bounded(body, imports="import torch").value == 20
