"""What a comparison of two checkpoints found: by tensor, and in few lines with like tensors in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import VerifyError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import TensorSpec

KINDS: Final = ("equal", "cast", "reshaped", "padded", "transposed", "permuted", "different")
"""How two tensors of one name can be related."""

SHOWN_GROUPS: Final = 40
"""Groups of like tensors that a printed comparison shows."""


class Numbers(NamedTuple):
    """By how much two tensors differ.

    Args:
        differing: Number of elements that differ.
        largest: Largest absolute difference; elements of which one is NaN are left out.
        relative: That difference by the greatest finite absolute value of the first tensor; None where that is 0.
        place: Coordinates of the largest difference, or of the first one where no number differs.
        values: Both values there.
        nan: Number of NaNs in the first tensor and in the second.
    """

    differing: int
    largest: float
    relative: float | None
    place: tuple[int, ...]
    values: tuple[Any, Any]
    nan: tuple[int, int]


class Relation(NamedTuple):
    """How two tensors are related.

    Args:
        kind: One of `KINDS`.
        detail: Which axes, which dtypes, or what of the specs differs.
        numbers: By how much they differ, for a kind `different` of one shape.
    """

    kind: str
    detail: str = ""
    numbers: Numbers | None = None


class Compared(NamedTuple):
    """One tensor that both sides have."""

    key: str
    first_spec: TensorSpec
    second_spec: TensorSpec
    relation: Relation

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; what is no JSON number is a text."""
        numbers = self.relation.numbers
        return {
            "key": self.key,
            "kind": self.relation.kind,
            "detail": self.relation.detail,
            "first_spec": str(self.first_spec),
            "second_spec": str(self.second_spec),
            "numbers": None if numbers is None else _numbers_form(numbers),
        }


def _numbers_form(numbers: Numbers) -> dict[str, Any]:
    return {
        "differing": numbers.differing,
        "largest": json_number(numbers.largest),
        "relative": json_number(numbers.relative),
        "place": list(numbers.place),
        "values": [json_number(value) for value in numbers.values],
        "nan": list(numbers.nan),
    }


def json_number(value: Any) -> Any:
    """Return a value that JSON has; other numbers, such as NaN, become texts.

    Examples:
        >>> json_number(1.5), json_number(float("nan")), json_number(True)
        (1.5, 'nan', True)
    """
    is_plain = value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value))
    return value if is_plain else str(value)


@dataclass(frozen=True, slots=True)
class Diff:
    """The result of `weighbridge.diff`; true if both sides are equal.

    Args:
        first: What the first side is called.
        second: What the second side is called.
        tensors: Every tensor that both have, in natural order.
        only_first: Specs of the tensors that only the first has, by key.
        only_second: Specs of the tensors that only the second has.
    """

    first: str
    second: str
    tensors: tuple[Compared, ...]
    only_first: tuple[tuple[str, TensorSpec], ...]
    only_second: tuple[tuple[str, TensorSpec], ...]

    @property
    def equal(self) -> bool:
        """Whether both hold the same keys with the same dtypes, shapes and bytes."""
        return not (self.only_first or self.only_second) and all(one.relation.kind == "equal" for one in self.tensors)

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        return "\n".join(self.lines())

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors of each kind."""
        found = Counter(one.relation.kind for one in self.tensors)
        sides = {"only_first": len(self.only_first), "only_second": len(self.only_second)}
        return {kind: found[kind] for kind in KINDS} | sides

    def require_equal(self) -> None:
        """Raise if anything differs.

        Raises:
            VerifyError: `verify-failed`.
        """
        if not self.equal:
            raise VerifyError("verify-failed", "the checkpoints differ", got=str(self))

    def lines(self, *, full: bool = False) -> Iterator[str]:
        """Yield the result as text; `full` gives each tensor a line of its own, equal ones too."""
        counts = {name.replace("_", " in the "): count for name, count in self.counts.items() if count}
        yield f"{'equal' if self.equal else 'different'}: " + ", ".join(
            f"{count:,} {name}" for name, count in counts.items()
        )
        if " through " in self.first:
            yield f"first       {self.first}"
        groups = [[one] for one in self.tensors] if full else self.groups()
        for group in groups if full else groups[:SHOWN_GROUPS]:
            yield from _group_lines(group)
        if not full and len(groups) > SHOWN_GROUPS:
            yield f"… and {len(groups) - SHOWN_GROUPS:,} more groups of tensors"
        for word, entries in (("only in the first", self.only_first), ("only in the second", self.only_second)):
            yield from _only_lines(word, entries, full)

    def groups(self) -> list[list[Compared]]:
        """Group the tensors that are not equal: those whose keys differ only in indices and that differ alike."""
        found: dict[Any, list[Compared]] = {}
        for one in self.tensors:
            if one.relation.kind != "equal":
                names = tuple(part for part in one.key.split(".") if not part.isdigit())
                alike = names, one.first_spec, one.second_spec, one.relation[:2]
                found.setdefault(alike, []).append(one)
        return list(found.values())

    def to_dict(self, *, full: bool = False) -> dict[str, Any]:
        """Return the JSON form; without `full`, equal tensors are only counted."""
        shown = [one for one in self.tensors if full or one.relation.kind != "equal"]
        return {
            "equal": self.equal,
            "first": self.first,
            "second": self.second,
            "counts": self.counts,
            "only_first": [key for key, _ in self.only_first],
            "only_second": [key for key, _ in self.only_second],
            "groups": [_group_form(group) for group in self.groups()],
            "tensors": [one.to_dict() for one in shown],
        }


def _only_lines(word: str, entries: Sequence[tuple[str, TensorSpec]], full: bool) -> Iterator[str]:
    by_spec: dict[TensorSpec, list[str]] = {}
    for key, spec in entries:
        by_spec.setdefault(spec, []).append(key)
    for spec, keys in by_spec.items():
        yield from (f"{word}  {line}   {spec}" for line in (keys if full else collapse(keys)))


def _worst(group: Sequence[Compared]) -> Compared | None:
    """Return the tensor of a group with the largest difference."""
    measured = [one for one in group if one.relation.numbers is not None]
    return max(measured, key=lambda one: one.relation.numbers.largest) if measured else None  # type: ignore[union-attr]


def _group_lines(group: Sequence[Compared]) -> Iterator[str]:
    kind, detail, _ = group[0].relation
    specs = dict.fromkeys((str(group[0].first_spec), str(group[0].second_spec)))
    beside = f" ({detail})" if detail else ""
    for line in collapse(one.key for one in group):
        yield f"{kind:<10}  {line}   {' against '.join(specs)}{beside}"
    worst = _worst(group)
    if worst is not None:
        yield " " * 12 + _numbers_text(group, worst)


def _numbers_text(group: Sequence[Compared], worst: Compared) -> str:
    found = [one.relation.numbers for one in group if one.relation.numbers is not None]
    numbers = worst.relation.numbers
    assert numbers is not None
    differing, numel = sum(one.differing for one in found), sum(one.first_spec.numel for one in group)
    key = f"{worst.key} " if len(group) > 1 else ""
    relative = f" (relative {numbers.relative:.3g})" if numbers.relative else ""
    one, other = (_value_text(value) for value in numbers.values)
    place = f"at {key}[{', '.join(map(str, numbers.place))}]: {one} against {other}"
    nans = sum(one.nan[0] for one in found), sum(one.nan[1] for one in found)
    counted = f"; NaN: {nans[0]:,} against {nans[1]:,}" if any(nans) else ""
    return f"{differing:,} of {numel:,} elements, largest {numbers.largest:.6g}{relative} {place}{counted}"


def _value_text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _group_form(group: Sequence[Compared]) -> dict[str, Any]:
    worst = _worst(group)
    return {
        "keys": collapse(one.key for one in group),
        "tensors": len(group),
        "kind": group[0].relation.kind,
        "detail": group[0].relation.detail,
        "first_spec": str(group[0].first_spec),
        "second_spec": str(group[0].second_spec),
        "largest_key": worst.key if worst is not None else None,
        "largest": json_number(worst.relation.numbers.largest) if worst and worst.relation.numbers else None,
    }
