"""Keys as text: families of keys that differ only in their indices, natural order, short display, nearest names.

A *template* stands for a family of keys. Each whole segment that is a canonical decimal integer becomes one
placeholder character, `chr(0xE000 + slot)`, where `slot` counts the key's collapsed indices from the left; a rule that
moves an index adds one more character behind it, `chr(0xEC00 + offset)`. Both lie in Unicode's private-use area, U+E000
to U+EFFF.
A rule is matched once against a template instead of once against each of its keys.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple

from weighbridge.base.errors import PatternError
from weighbridge.base.nearby import LikeTexts
from weighbridge.base.spelling import divide_boxes, merge_words, numbered_forms, spell_numbers

FIRST_SLOT: Final = 0xE000
SLOT_COUNT: Final = 0x800
NO_OFFSET: Final = 0xEC00
INDEX_DIGITS: Final = 18
"""The most digits of an index: it fits 63 bits."""

OFFSET_LIMIT: Final = 0x3FF
"""Largest sum of offsets that a template can carry, in either direction."""

RESERVED: Final = "\ue000-\uefff"
"""The private-use characters that templates are made with, as the inside of a character class."""

INDEX: Final = f"(?:0|[1-9][0-9]{{0,{INDEX_DIGITS - 1}}})"
"""A canonical decimal integer, as a regular expression."""

_CANONICAL: Final = re.compile(INDEX)
_RESERVED: Final = re.compile(f"[{RESERVED}]")
_PLACEHOLDER: Final = re.compile("([\ue000-\ue7ff])([\ue800-\uefff]?)")
_SHIFTED: Final = re.compile("[\ue000-\ue7ff][\ue800-\uefff]")
_TOUCHING: Final = re.compile(f"[0-9][\ue000-\ue7ff]|[{RESERVED}][0-9]|[{RESERVED}][\ue000-\ue7ff]")
_SPECIAL: Final = re.compile(r"([\\{},])")
_FIRST_NUMBER: Final = re.compile(r"\{([0-9]++)[^{}]*+\}")

MOST_SLOTS: Final = 16
"""A key with more indices than this is shown as it is: no name has so many."""

WRAPPERS: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names that wrappers give to the module inside, and nobody else does."""

_WRAPPED: Final = re.compile("|".join(WRAPPERS))

Member = tuple[str, tuple[int, ...]]
"""A key and the indices that its template leaves out, by slot."""


class Families(NamedTuple):
    """Keys by template.

    `templates` holds the members of each template. `literal` holds the keys that contain a reserved character: they
    have no template, and a pattern must be told to read them as they are (`match(key, literal=True)`).
    """

    templates: dict[str, list[Member]]
    literal: list[str]


def layout_path(path: str) -> str:
    """Leave out of a path, or a key, the names that wrappers give to the module inside.

    Examples:
        >>> layout_path("layers.3._orig_mod.mlp")
        'layers.3.mlp'
    """
    if _WRAPPED.search(path) is None:
        return path
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)


@lru_cache(maxsize=64)
def _index_splitter(keep: frozenset[str]) -> Callable[[str], list[str]]:
    kept = "|".join(sorted(map(re.escape, keep)))
    unless = rf"(?!(?:{kept})(?![^.]))" if kept else ""
    return re.compile(rf"\.{unless}({INDEX})(?=\.|\Z)").split


def _template(texts: tuple[str, ...]) -> str:
    marks = ["." + chr(FIRST_SLOT + slot) for slot in range(len(texts) - 1)]
    return "".join(text + mark for text, mark in zip(texts, [*marks, ""], strict=True))[1:]


def families(keys: Iterable[str], keep: frozenset[str] = frozenset()) -> Families:
    r"""Group keys that differ only in their indices.

    Args:
        keys: The keys, in any order; members keep it.
        keep: Integers, as text, that stay as they are: those that a rule names literally.

    Returns:
        The members of each template, and the keys that cannot have one.

    Examples:
        >>> for template, members in families(["layers.0.w", "layers.12.w", "norm"]).templates.items():
        ...     print(ascii(template), members)
        'layers.\ue000.w' [('layers.0.w', (0,)), ('layers.12.w', (12,))]
        'norm' [('norm', ())]
    """
    split = _index_splitter(keep)
    by_texts: defaultdict[tuple[str, ...], list[Member]] = defaultdict(list)
    literal: list[str] = []
    for key in keys:
        if not key.isascii() and _RESERVED.search(key):
            literal.append(key)
            continue
        parts = split("." + key)  # the added dot lets every index begin with one, which is quicker to look for
        by_texts[tuple(parts[::2])].append((key, tuple(map(int, parts[1::2]))))
    crowded = [texts for texts in by_texts if len(texts) > SLOT_COUNT]
    literal.extend(key for texts in crowded for key, _ in by_texts.pop(texts))
    return Families({_template(texts): members for texts, members in by_texts.items()}, literal)


def _format_from(template: str) -> tuple[str, list[tuple[int, int]]]:
    places = [
        (ord(slot) - FIRST_SLOT, ord(offset) - NO_OFFSET if offset else 0)
        for slot, offset in _PLACEHOLDER.findall(template)
    ]
    return _PLACEHOLDER.sub("%d", template.replace("%", "%%")), places


@lru_cache(maxsize=4096)
def expander(template: str) -> Callable[[tuple[int, ...]], str | None]:
    r"""Prepare `expand` for many members of one template.

    Examples:
        >>> expander("layers.\ue000.w")((7,))
        'layers.7.w'
    """
    form, places = _format_from(template)
    slots = [slot for slot, _ in places]
    if any(offset for _, offset in places):

        def shifted(indices: tuple[int, ...]) -> str | None:
            values = tuple(indices[slot] + offset for slot, offset in places)
            return None if any(value < 0 for value in values) else form % values

        return shifted
    if slots == list(range(len(slots))):
        return lambda indices: form % indices[: len(slots)]
    chosen = itemgetter(*slots)
    return lambda indices: form % chosen(indices)


def expand(template: str, indices: tuple[int, ...]) -> str | None:
    r"""Put indices into a template.

    Args:
        template: A template of `families`, as it is or rewritten.
        indices: The member's indices, by slot.

    Returns:
        The key; None if an offset makes one of its indices negative, so that the rule does not hold for this member.

    Examples:
        >>> expand("layers.\ue000.w", (7,)), expand("layers.\ue000\uebff.w", (0,))
        ('layers.7.w', None)
    """
    return expander(template)(indices)


def is_sound(template: str, keep: frozenset[str] = frozenset()) -> bool:
    r"""Tell whether a rewritten template still stands for its keys in every rule to come.

    A rule such as `a.{i}` -> `a1{i}` makes one number out of two. One such as `a.{i}` -> `a.{i+1}` may make an integer
    that a later rule names. From there on each key must be rewritten alone.

    Args:
        template: A template, rewritten by some rules.
        keep: The integers that the rules to come name literally.

    Examples:
        >>> is_sound("norm\ue000.w"), is_sound("norm1\ue000.w")
        (True, False)
        >>> is_sound("norm.\ue000\uec01"), is_sound("norm.\ue000\uec01", frozenset("0"))
        (True, False)
    """
    if template.isascii():
        return True
    return _TOUCHING.search(template) is None and not (keep and _SHIFTED.search(template))


def is_index(text: str) -> bool:
    """Tell whether a text is a canonical decimal integer, without zeros in front."""
    return _CANONICAL.fullmatch(text) is not None


def shift_index(text: str, offset: int) -> str | None:
    """Add to an index: a canonical integer, or a template's placeholder.

    Returns:
        The index, or None where it would be negative or the text is no canonical integer (`007` would not come back).

    Raises:
        PatternError: `pattern-syntax` if a template's offsets add up to more than `OFFSET_LIMIT`.

    Examples:
        >>> shift_index("7", 1), shift_index("0", -1), shift_index("007", 1)
        ('8', None, None)
    """
    placeholder = _PLACEHOLDER.fullmatch(text)
    if placeholder is None:
        shifted = int(text) + offset if is_index(text) else -1
        return str(shifted) if shifted >= 0 else None
    slot, mark = placeholder.groups()
    total = (ord(mark) - NO_OFFSET if mark else 0) + offset
    if abs(total) > OFFSET_LIMIT:
        raise PatternError("pattern-syntax", "offsets of an index add up to too much", got=str(total))
    return slot + (chr(NO_OFFSET + total) if total else "")


def index_fault(text: str, offset: int) -> str:
    """Say why an index cannot be moved by an offset; empty if it can.

    Examples:
        >>> index_fault("02", 1), index_fault("0", -1), index_fault("7", 1)
        ('has leading zeros, which could not be written back', 'would become negative', '')
    """
    if shift_index(text, offset) is not None:
        return ""
    if len(text.lstrip("0")) > INDEX_DIGITS:
        return f"has more than {INDEX_DIGITS} digits"
    return "would become negative" if is_index(text) else "has leading zeros, which could not be written back"


def index_of(text: str) -> int | None:
    r"""Give the slot of a template's index; None for a text that holds no placeholder.

    Examples:
        >>> index_of("\ue002\uec01"), index_of("7")
        (2, None)
    """
    placeholder = _PLACEHOLDER.fullmatch(text)
    return ord(placeholder[1]) - FIRST_SLOT if placeholder else None


def index_set(numbers: Iterable[int]) -> str:
    """Write a set of indices as `collapse` does.

    Examples:
        >>> index_set({0, 1, 2, 3, 5, 7, 8}), index_set({17})
        ('{0..3,5,7,8}', '17')
    """
    return spell_numbers(tuple(sorted(set(numbers))))


def natural_key(key: str) -> tuple[tuple[int, int, str], ...]:
    """Give the sort key that orders index segments as numbers, before words.

    Examples:
        >>> sorted(["layers.10.w", "layers.9.w", "layers.norm"], key=natural_key)
        ['layers.9.w', 'layers.10.w', 'layers.norm']
    """
    return tuple(
        (0, int(segment), "") if _CANONICAL.fullmatch(segment) else (1, 0, segment) for segment in key.split(".")
    )


def collapse(keys: Iterable[str]) -> list[str]:
    r"""Write a set of keys in few lines, in natural order.

    `{0..3,5}` stands for each of these integers, `expert{0..7}` for a word with each of them behind it, and `{down,up}`
    for each of these words, in every combination: a line
    never covers a key that is not in the set. `\` stands before a brace, a comma or a `\` of the keys themselves.

    Examples:
        >>> collapse(["layers.0.up", "layers.1.up", "layers.3.up", "layers.0.down", "norm"])
        ['layers.0.down', 'layers.{0,1,3}.up', 'norm']
        >>> collapse(f"layers.{i}.{name}" for i in range(32) for name in ("up", "down"))
        ['layers.{0..31}.{down,up}']
    """
    found = families(dict.fromkeys(keys))
    alone = list(found.literal)
    lines: list[tuple[str, ...]] = []
    for template, members in found.templates.items():
        segments = [segment if _PLACEHOLDER.match(segment) else _escape(segment) for segment in template.split(".")]
        slots = [at for at, segment in enumerate(segments) if _PLACEHOLDER.match(segment)]
        if len(slots) > MOST_SLOTS:
            alone += [key for key, _ in members]
            continue
        for box in divide_boxes({indices for _, indices in members}):
            for at, numbers in zip(slots, box, strict=True):
                segments[at] = spell_numbers(numbers)
            lines.append(tuple(segments))
    lines += [tuple(map(_escape, key.split("."))) for key in alone]
    return sorted((".".join(line) for line in merge_words(lines)), key=_display_order)


def collapse_by_name(keys: Iterable[str]) -> list[str]:
    """Write a set of keys in few lines, a name at a time, in the order in which the names come.

    Examples:
        >>> collapse_by_name(["h.0.up", "h.0.down", "h.1.up", "h.1.down"])
        ['h.{0,1}.up', 'h.{0,1}.down']
    """
    by_name: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for key in keys:
        by_name[tuple(part for part in key.split(".") if not part.isdigit())].append(key)
    forms = numbered_forms(by_name)
    together: dict[tuple[str, ...], list[str]] = {}
    for name, alike in by_name.items():
        together.setdefault(forms[name], []).extend(alike)
    return [line for alike in together.values() for line in collapse(alike)]


def by_name(keys: Iterable[str]) -> dict[str, list[str]]:
    """Group keys that differ only in their indices, under a name with `*` for each index.

    Examples:
        >>> by_name(["layers.0.up", "layers.1.up", "norm"])
        {'layers.*.up': ['layers.0.up', 'layers.1.up'], 'norm': ['norm']}
    """
    found = families(keys)
    alike = {_PLACEHOLDER.sub("*", name): [key for key, _ in members] for name, members in found.templates.items()}
    return alike | {key: [key] for key in found.literal}


def _escape(segment: str) -> str:
    return _SPECIAL.sub(r"\\\1", segment) if _SPECIAL.search(segment) else segment


def _display_order(line: str) -> tuple[tuple[int, int, str], ...]:
    return natural_key(_FIRST_NUMBER.sub(r"\1", line) if "{" in line else line)


def counted(count: int, noun: str) -> str:
    """Write a number with its noun.

    Examples:
        >>> counted(1, "tensor"), counted(1200, "tensor")
        ('1 tensor', '1,200 tensors')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def nearest(key: str, candidates: Collection[str], count: int = 3, least: float = 0.4) -> list[str]:
    """Find the existing keys that look most like `key`, best first.

    Candidates are compared by family, so that 90,000 of them take a fraction of a second; of each family, the member
    with the nearest indices is named.

    Args:
        key: The key that is not there.
        candidates: The keys that are.
        count: How many to return at most.
        least: The likeness below which a key is not named, from 0 to 1.

    Examples:
        >>> nearest("layers.3.self_attn.q_prj", ["layers.3.self_attn.q_proj", "layers.2.self_attn.q_proj", "norm"], 1)
        ['layers.3.self_attn.q_proj']
    """
    return NearKeys(candidates).find(key, count, least)


class NearKeys:
    """Keys that are searched for the nearest ones to many others; see `nearest`.

    Args:
        candidates: The keys that there are.
    """

    def __init__(self, candidates: Collection[str]) -> None:
        found = families(candidates)
        alone: dict[str, list[Member]] = {text: [(text, ())] for text in found.literal}
        self._members = alone | found.templates
        self._templates = LikeTexts(self._members)

    def find(self, key: str, count: int = 3, least: float = 0.4) -> list[str]:
        """Find the keys that look most like another one, best first; if none does, those that it is a part of."""
        ((wanted, indices),) = _shape(key)
        found = self._templates.find(wanted, count, least) or self._templates.holding(wanted, count)
        return [_closest(self._members[other], indices) for other in found]


def _shape(key: str) -> list[tuple[str, tuple[int, ...]]]:
    found = families([key])
    return [(template, members[0][1]) for template, members in found.templates.items()] or [(key, ())]


def _closest(members: list[Member], indices: tuple[int, ...]) -> str:
    """Return the member with the nearest indices; of several, the one with the least."""

    def rank(member: Member) -> tuple[list[int], tuple[int, ...]]:
        return [abs(a - b) for a, b in zip(member[1], indices, strict=False)], member[1]

    return min(members, key=rank)[0]
