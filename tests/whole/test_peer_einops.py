"""Patterns of axes against einops, whose notation they are: the same are taken, and they move elements alike."""

from __future__ import annotations

import random
import re
import warnings
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings, strategies as st

import weighbridge as wb

einops = pytest.importorskip("einops", reason="needs the extra `test`")

many = settings(max_examples=max(1000, settings().max_examples), deadline=None)

NAMES = ("a", "b", "c", "h", "two", "x1", "a_b", "B")
ODD = (
    "1",
    "2",
    "0",
    "...",
    "..",
    ".",
    "(",
    ")",
    "()",
    "->",
    "-",
    "_",
    "_a",
    "a_",
    "1a",
    "a1",
    "...a",
    "a...",
    "é",
    ",",
)
SPACES = (" ", " ", " ", "  ", "")

STRICTER = (
    ("an axis is a name, 1, ...", lambda pattern: not pattern.isascii()),  # a name is of ASCII letters
)
"""What ours refuses and einops does not: words of the message, and what the pattern has in it."""

LOOSER = re.compile(r"(?<!\w)_|_(?!\w)")
"""What ours takes and einops does not: a name that begins or ends with an underscore."""


def draw_pattern(chance: random.Random) -> tuple[str, dict[str, int], tuple[int, ...]]:
    """Draw a good pattern, lengths, and a shape that they fit."""
    names = chance.sample(NAMES, chance.randint(1, 4))
    sizes = {name: chance.choice((1, 2, 3, 5)) for name in names}
    left, right = group(chance, names), group(chance, chance.sample(names, len(names)))
    shape = [prod(sizes[name] for name in axis) for axis in left]
    if chance.random() < 0.3:
        at, extra = chance.randint(0, len(left)), [chance.choice((2, 4)) for _ in range(chance.randint(0, 2))]
        left.insert(at, ["..."])
        if right and chance.random() < 0.4:
            chance.choice(right).insert(0, "...")  # joined with what stands in that axis
        else:
            right.insert(chance.randint(0, len(right)), ["..."])
        shape[at:at] = extra
    given_ = {name for axis in left for name in axis[1:] if name != "..."}
    more = {name for name in names if chance.random() < 0.2}
    lengths = {name: sizes[name] for name in sorted(given_ | more)}
    return f"{spell(chance, left)}->{spell(chance, right)}", lengths, tuple(shape)


def group(chance: random.Random, names: list[str]) -> list[list[str]]:
    """Divide names into axes; some axes have none."""
    axes: list[list[str]] = []
    for name in names:
        if axes and axes[-1] and chance.random() < 0.4:
            axes[-1].append(name)
        else:
            axes.append([name])
    return axes


def spell(chance: random.Random, axes: list[list[str]]) -> str:
    texts = [axis[0] if len(axis) == 1 and chance.random() < 0.9 else f"({' '.join(axis)})" for axis in axes]
    return " " + " ".join(texts) + " "


def bend(chance: random.Random, pattern: str, lengths: dict[str, int]) -> tuple[str, dict[str, int]]:
    """Change a good pattern a little, so that it mostly is none."""
    for _ in range(chance.choice((1, 1, 2))):
        at = chance.randint(0, len(pattern))
        match chance.choice(("insert", "insert", "lose", "one", "length", "name", "swap")):
            case "name":
                old, new = (
                    chance.choice(NAMES),
                    chance.choice(("_a", "a_", "é", "1a", "a1", "_", "A", "class", "a-b", "2")),
                )
                pattern = re.sub(rf"\b{old}\b", new, pattern)
                lengths = {new if name == old else name: size for name, size in lengths.items()}
            case "insert":
                odd = chance.choice((*ODD, *NAMES))
                pattern = pattern[:at] + chance.choice(SPACES) + odd + chance.choice(SPACES) + pattern[at:]
            case "lose":
                pattern = pattern[:at] + pattern[at + 1 :]
            case "one":
                pattern = pattern.replace(" ", " 1 ", chance.randint(0, 2))
            case "length" if lengths:
                lengths = lengths | {chance.choice(sorted(lengths)): chance.choice((1, 2, 3, 7))}
            case _:
                words = pattern.split(" ")
                chance.shuffle(words)
                pattern = " ".join(words) if chance.random() < 0.3 else pattern
    return pattern, lengths


def theirs(pattern: str, lengths: dict[str, int], values: np.ndarray) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return einops.rearrange(values, pattern, **lengths)
        except (einops.EinopsError, ValueError):  # the second one where there is no arrow, or more than one
            return None


def ours(pattern: str, lengths: dict[str, int], values: np.ndarray) -> Any:
    """Run the pattern as the operation of a converter; return the error if it is refused."""
    try:
        rule = [wb.WeightConverter("old", "new", [wb.Rearrange(pattern, **lengths)])]
        return wb.plan({"old": torch.from_numpy(values)}, rule).state_dict()["new"].numpy()
    except wb.WeighbridgeError as refused:
        return refused


@many
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_pattern_is_taken_as_einops_takes_it(seed, bent):
    chance = random.Random(seed)
    pattern, lengths, shape = draw_pattern(chance)
    if bent:
        pattern, lengths = bend(chance, pattern, lengths)
    values = np.arange(prod(shape)).reshape(shape)
    expected, found = theirs(pattern, lengths, values), ours(pattern, lengths, values)
    if isinstance(found, wb.WeighbridgeError):
        event("refused")
        known = any(words in str(found) and fits(pattern) for words, fits in STRICTER)
        assert expected is None or known, str(found)
        return
    event("taken")
    if expected is None and LOOSER.search(pattern):
        return
    assert expected is not None, f"einops refuses {pattern!r} {lengths} for {shape}"
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "pattern", ["1a b -> b 1a", "...pre b -> b ...pre", "a 1b -> 1b a", "a...-> a...", "a1 1 -> 1a1"]
)
def test_e_words_that_touch_are_no_names(pattern):
    """They were read as two: `1` and `a`."""
    with pytest.raises(wb.LayoutError) as caught:
        wb.Rearrange(pattern)
    assert caught.value.code == "operation-argument"
    assert theirs(pattern, {}, np.zeros((1, 2))) is None


@pytest.mark.parametrize("pattern", ["b ... -> b (...)", "a ... c -> c (... a)", "... -> (...)", "a ... -> (a ...) 1"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 5, 7)])
def test_e_further_axes_are_joined_in_a_bracket(pattern, shape):
    values = np.arange(prod(shape)).reshape(shape)
    expected = theirs(pattern, {}, values)
    assert expected is not None
    np.testing.assert_array_equal(ours(pattern, {}, values), expected)
    plan = wb.plan({"old": torch.from_numpy(values)}, [wb.WeightConverter("old", "new", [wb.Rearrange(pattern)])])
    np.testing.assert_array_equal(plan.inverse().state_dict()["old"].numpy(), values)


def test_e_joined_further_axes_cannot_be_divided_without_a_record():
    assert theirs("b (...) -> b ...", {}, np.zeros((2, 6))) is None
    with pytest.raises(wb.LayoutError) as caught:
        wb.Rearrange("b (...) -> b ...")
    assert caught.value.code == "operation-argument"
    with pytest.raises(wb.LayoutError) as caught:
        wb.WeightConverter("old", "new", [wb.Rearrange("b ... -> b (...)")]).inverse()
    assert caught.value.code == "operation-one-way"
    assert wb.WeightConverter("old", "new", [wb.Rearrange("b c d -> b (c d)", c=3)]).inverse()
