"""Write sets of numbers and of words in few characters, in a way that covers nothing else."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import Final

MANY: Final = 4
"""Number of names that differ in a number inside a segment from which on they are written as one."""

Range = tuple[int, int]
"""Whole numbers from the first one up to, and without, the second."""

_NUMBERED: Final = re.compile(r"^([^0-9]+)(0|[1-9][0-9]{0,17})([^0-9]*)$")
_SET: Final = re.compile(r"(?<!\\)\{")


def numbered_forms(names: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Find names that differ only in a number inside a segment, such as `expert7`, where there are many of them.

    Args:
        names: Names as segments.

    Returns:
        For each name the form that it shares with at least `MANY` others, with `#` for the number; else itself.

    Examples:
        >>> set(numbered_forms([(f"expert{i}", "w") for i in range(8)]).values())
        {('expert#', 'w')}
    """
    forms = {name: tuple(_NUMBERED.sub(r"\1#\3", segment) for segment in name) for name in names}
    counts = Counter(forms.values())
    return {name: form if counts[form] >= MANY else name for name, form in forms.items()}


def exact_pattern(key: str) -> str:
    r"""Write the pattern that matches one key and nothing else.

    Examples:
        >>> print(exact_pattern("lm_head.weight"), exact_pattern("q{0}.w"))
        ^lm_head.weight$ ^q\{0\}.w$
    """
    return f"^{literally(key)}$"


def literally(text: str) -> str:
    """Write part of a key so that a pattern reads it as it stands."""
    return re.sub(r"([^\w.])", r"\\\1", text)


def divide_boxes(points: set[tuple[int, ...]]) -> list[tuple[tuple[int, ...], ...]]:
    """Divide a set of index tuples into full products, each a tuple of sorted index sets, one per slot."""
    if () in points:
        return [()]
    rests: defaultdict[int, set[tuple[int, ...]]] = defaultdict(set)
    for first, *rest in points:
        rests[first].add(tuple(rest))
    alike: defaultdict[frozenset[tuple[int, ...]], list[int]] = defaultdict(list)
    for first in sorted(rests):
        alike[frozenset(rests[first])].append(first)
    return [(tuple(firsts), *box) for rest, firsts in alike.items() for box in divide_boxes(set(rest))]


def spell_numbers(numbers: tuple[int, ...]) -> str:
    """Write numbers in order as ranges and single ones, in braces if there are several."""
    return spell_ranges(ranges_of(numbers))


def ranges_of(numbers: Iterable[int]) -> list[Range]:
    """Return numbers in order as ranges.

    Examples:
        >>> ranges_of([0, 1, 2, 5])
        [(0, 3), (5, 6)]
    """
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return [(run[0], run[-1] + 1) for run in runs]


def spell_ranges(ranges: Collection[Range]) -> str:
    """Write ranges of numbers, in order and apart from each other, as `spell_numbers` writes the numbers.

    Examples:
        >>> spell_ranges([(0, 300_000_000), (300_000_001, 300_000_002)])
        '{0..299999999,300000001}'
    """
    # two neighbours are as short as a list, three and more are a range
    spelled = [
        f"{start}..{stop - 1}" if stop - start > 2 else ",".join(map(str, range(start, stop))) for start, stop in ranges
    ]
    text = ",".join(spelled)
    return "{" + text + "}" if sum(stop - start for start, stop in ranges) > 1 else text


def gaps(present: Iterable[int], stop: int) -> list[Range]:
    """Return the numbers from 0 to `stop` that are not there, as ranges: as few as there are numbers, and one more.

    Examples:
        >>> gaps({1, 2, 300_000_000}, 300_000_001)
        [(0, 1), (3, 300000000)]
    """
    found, start = [], 0
    for number in sorted(number for number in present if number < stop):
        if number > start:
            found.append((start, number))
        start = number + 1
    return [*found, (start, stop)] if start < stop else found


def _is_word(segment: str) -> bool:
    return not _SET.search(segment) and not segment.isdecimal()


def _spell_words(words: list[str]) -> str:
    if len(words) == 1:
        return words[0]
    numbered = [_NUMBERED.fullmatch(word) for word in words]
    around = {(found[1], found[3]) if found is not None else None for found in numbered}
    if len(words) >= MANY and len(around) == 1 and None not in around:
        ((before, after),) = {(found[1], found[3]) for found in numbered if found is not None}
        return before + spell_numbers(tuple(sorted(int(found[2]) for found in numbered if found is not None))) + after
    return "{" + ",".join(sorted(words)) + "}"


def merge_words(lines: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Join lines that differ in one word, from the last segment to the first."""
    for back in range(1, max(map(len, lines), default=0) + 1):
        grouped: defaultdict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
        for line in lines:
            at = len(line) - back
            word = line[at] if at >= 0 and _is_word(line[at]) else ""
            rest = (line[:at], line[at + 1 :]) if word else (line, ())
            grouped[(*rest, ("word",) if word else ())].append(word)
        lines = [line for rest, words in grouped.items() for line in _spell_line(rest, words)]
    return lines


def _spell_line(rest: tuple[tuple[str, ...], ...], words: list[str]) -> Iterator[tuple[str, ...]]:
    left, right, kind = rest
    if not kind:
        yield left
    else:
        yield (*left, _spell_words(words), *right)
