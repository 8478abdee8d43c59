"""Read JSON strictly: UTF-8, no name twice, no NaN, no runaway nesting, no broken characters.

The standard library's parser keeps the last of two equal names and accepts `NaN`; safetensors forbids both
(https://github.com/huggingface/safetensors#format), and a file that two programs read differently is not safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

_KINDS: Final = {
    dict: "an object",
    tuple: "an object",
    list: "a list",
    str: "a text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}
Pairs = list[tuple[str, Any]]
"""Names and values of one JSON object, in the order of the text."""


class JsonError(ValueError):
    """Say in a short clause what is wrong with a text; `duplicate` tells a name that stands twice."""

    def __init__(self, cause: str, *, duplicate: bool = False) -> None:
        super().__init__(cause)
        self.duplicate = duplicate


def unique_object(pairs: Pairs) -> dict[str, Any]:
    """Build the dict of one JSON object.

    Raises:
        JsonError: A name stands twice.

    Examples:
        >>> unique_object([("a", 1), ("b", 2)])
        {'a': 1, 'b': 2}
    """
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise JsonError(f"{shorten(twice)} stands twice", duplicate=True)
    return table


MOST_VALUES: Final = 12_000_000
"""The most values of a text: what is made of them takes many times the text's memory. The largest header has fewer."""


def parse_json(
    raw: bytes, build: Callable[[Pairs], Any] = unique_object, *, unsigned: bool = False, surrogates: bool = False
) -> Any:
    """Parse a JSON text.

    Args:
        raw: The text as UTF-8.
        build: Makes a value of each object, innermost first.
        unsigned: Refuse numbers with a minus sign, `-0` included.
        surrogates: Accept what no UTF-8 may hold but paths of some systems do: half a surrogate pair.

    Raises:
        JsonError: The text is not valid.

    Examples:
        >>> parse_json(b'{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    try:
        _check_count(raw)
        text = raw.decode("utf-8", "surrogatepass" if surrogates else "strict")
        # Only `-0` needs a look at the digits: every other negative number is seen in its value, for less time.
        parse_int = _parse_unsigned if unsigned and "-0" in text else None
        return json.loads(text, object_pairs_hook=build, parse_constant=_refuse_constant, parse_int=parse_int)
    except UnicodeDecodeError as error:
        raise JsonError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise JsonError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg.removesuffix(' at')} at character {error.pos}") from None
    except JsonError:
        raise
    except ValueError:
        raise JsonError("a number has too many digits") from None


def _check_count(raw: bytes) -> None:
    """Refuse a text of more values than anybody writes, before any of them is made."""
    if _count_marks(raw) > MOST_VALUES and sum(map(_count_marks, _outside_strings(raw))) > MOST_VALUES:
        raise JsonError(f"it holds more than {MOST_VALUES:,} values")


def _count_marks(raw: bytes) -> int:
    """Count what stands before each value but the first: within a string it stands for nothing."""
    return sum(raw.count(mark) for mark in (b",", b"[", b"{"))


def _outside_strings(raw: bytes) -> Iterator[bytes]:
    """Yield what stands outside of strings, some of it at a time: there may be very many of them."""
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")  # no quote is left that does not begin or end a string
    inside = 0
    for start in range(0, len(plain), 2**20):
        parts = plain[start : start + 2**20].split(b'"')
        yield b" ".join(parts[inside::2])
        inside = (inside + len(parts) - 1) % 2


def check_characters(texts: Iterable[str]) -> None:
    r"""Refuse texts that no UTF-8 file can hold: half a surrogate pair, escaped as `\ud800`.

    Raises:
        JsonError: A text has such a character.
    """
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError as error:
        raise JsonError(f"half a surrogate pair: {error.object[error.start]!a}") from None


def shorten(text: str, limit: int = 120) -> str:
    """Quote a text for a message: escaped, and cut in the middle if it is long.

    Examples:
        >>> shorten("weight")
        "'weight'"
        >>> shorten("x" * 500, limit=20)
        "'xxxxxxxxx…xxxxxxxxx'"
    """
    half = limit // 2 - 1
    return ascii(text) if len(text) <= limit else f"{ascii(text[:half])[:-1]}…{ascii(text[-half:])[1:]}"


def shorten_number(number: int) -> str:
    """Write a number for a message; a huge one by its first digits and their count.

    Examples:
        >>> shorten_number(2**63), shorten_number(10**30)
        ('9,223,372,036,854,775,808', '10000000… (31 digits)')
    """
    digits = str(number)
    return f"{number:,}" if len(digits) <= 20 else f"{digits[:8]}… ({len(digits)} digits)"


def join_keys(keys: Iterable[str], limit: int = 5) -> str:
    """List keys for a message: the first few, and how many more there are.

    Examples:
        >>> join_keys(["a", "b", "c"], limit=2)
        "'a', 'b' and 1 more"
    """
    names = sorted(keys)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shorten, names[:limit])) + more


def kind_of(value: object) -> str:
    """Name a JSON value's kind.

    Examples:
        >>> kind_of([1]), kind_of(True), kind_of(None)
        ('a list', 'a boolean', 'null')
    """
    return _KINDS.get(type(value), "null")


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not JSON")


def _parse_unsigned(digits: str) -> int:
    if digits.startswith("-"):
        raise JsonError(f"{digits[:20]} is negative")
    return int(digits)


def without_members(raw: bytes, names: Collection[str]) -> bytes:
    """Take members out of the outermost object of a JSON text, and leave all other bytes as they are.

    Args:
        raw: The text as UTF-8, which is valid JSON.
        names: Names of the members; those that are not there change nothing.

    Examples:
        >>> without_members(b'{"a": 1, "b": {"a": 2}, "c": 3}', ["b"])
        b'{"a": 1, "c": 3}'
        >>> without_members(b'{"a": 1, "b": 2}', ["b"])
        b'{"a": 1}'
    """
    text = raw.decode("utf-8")
    start = text.index("{") + 1
    members, end = _members_of(text, start)
    kept = [text[first:last] for name, first, last in members if name not in names]
    if len(kept) == len(members):
        return raw
    # What stands before the first member, and behind the last, stays there.
    inside = [part.rstrip() for part in kept]
    tail = text[members[-1][2] : end] if members else ""
    last = text[members[-1][1] : members[-1][2]]
    tail = last[len(last.rstrip()) :] + tail
    return (text[:start] + ",".join(inside) + tail + text[end:]).encode()


def with_numbers(raw: bytes, path: Sequence[str], numbers: Sequence[int]) -> bytes:
    r"""Write other whole numbers at one place of a JSON text, and leave all other bytes as they are.

    Args:
        raw: The text as UTF-8, which is valid JSON.
        path: Names that lead from the outermost object to a number, or to a list of numbers.
        numbers: As many numbers as stand there.

    Examples:
        >>> with_numbers(b'{"a": {"b": [128,\n 128], "c": 128}}', ["a", "b"], [64, 128])
        b'{"a": {"b": [64,\n 128], "c": 128}}'
    """
    text = raw.decode("utf-8")
    start, end = _span(text, path)
    left = map(str, numbers)
    return (text[:start] + re.sub(r"\d+", lambda _: next(left), text[start:end]) + text[end:]).encode()


def _members_of(text: str, start: int) -> tuple[list[tuple[str, int, int]], int]:
    """Return the name of each member of an object, and where it lies with the white space around; then the end."""
    decoder = json.JSONDecoder()
    members: list[tuple[str, int, int]] = []
    at = start
    while True:
        first = at
        at = _past_space(text, at)
        if text[at] == "}":
            return members, at
        name, at = decoder.raw_decode(text, at)
        at = _past_space(text, _past_space(text, at) + 1)
        _, at = decoder.raw_decode(text, at)
        last = _past_space(text, at)
        members.append((name, first, last))
        at = last + 1
        if text[last] == "}":
            return members, last


def _past_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


JsonPath = tuple[str | int, ...]
"""Where a value stands in a JSON text: names of members, and numbers of elements."""


def with_values(text: str, values: Mapping[JsonPath, Any]) -> str:
    r"""Put other values into a JSON text, and leave all that stands around them as it is.

    A value that was written over several lines is so again, and indented alike.

    Args:
        text: The text, which is valid JSON.
        values: The values by their places, of which none lies in another.

    Examples:
        >>> with_values('{"a": {"b": [1,  2]},"c":0}', {("a", "b"): ["x"]})
        '{"a": {"b": ["x"]},"c":0}'
        >>> with_values('{\n "a": [\n  1\n ]\n}', {("a",): [2, 3]})
        '{\n "a": [\n  2,\n  3\n ]\n}'
    """
    spans = sorted((*_span(text, path), path) for path in values)
    for start, stop, path in reversed(spans):
        text = text[:start] + _write_alike(values[path], text, start, stop) + text[stop:]
    return text


def _span(text: str, path: Sequence[str | int]) -> tuple[int, int]:
    """Return where the value at a place begins and ends."""
    at = _past_space(text, 0)
    for part in path:
        at = _member(text, at, part) if isinstance(part, str) else _element(text, at, part)
    _, stop = json.JSONDecoder().raw_decode(text, at)
    return at, stop


def _member(text: str, at: int, name: str) -> int:
    """Return where the value of an object's member begins; of several of one name the last one counts."""
    members, _ = _members_of(text, at + 1)
    first = next(first for found, first, _ in reversed(members) if found == name)
    _, behind = json.JSONDecoder().raw_decode(text, _past_space(text, first))
    return _past_space(text, _past_space(text, behind) + 1)


def _element(text: str, at: int, number: int) -> int:
    """Return where an element of a list begins."""
    at = _past_space(text, at + 1)
    for _ in range(number):
        _, at = json.JSONDecoder().raw_decode(text, at)
        at = _past_space(text, _past_space(text, at) + 1)
    return at


def _write_alike(value: Any, text: str, start: int, stop: int) -> str:
    """Write a value as the one that stands there is written."""
    lines = text[start:stop].split("\n")
    if len(lines) == 1:
        return json.dumps(value)
    outer, inner = (line[: len(line) - len(line.lstrip())] for line in (lines[-1], lines[1]))
    return json.dumps(value, indent=inner.removeprefix(outer) or None).replace("\n", "\n" + outer)
