"""Say why the tensors of a group cannot be moved along with their weight."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import gcd

from weighbridge.algebra.quotient import Seam
from weighbridge.base.errors import PlanError
from weighbridge.base.specs import TensorSpec
from weighbridge.mappings.schemes.scheme import Formula, Member
from weighbridge.planning.grouped.dividing import Undivided
from weighbridge.planning.grouped.weights import Weight
from weighbridge.planning.program import Program

_AXES = ("rows", "columns")
_APART = "narrow the rule to other weights, or pass these through as they are: carry (--carry)"
_REFINE = 'make blocks finer in the whole checkpoint: companions="refine" (--refine)'
_NUMBERS = 'read the weights as numbers: dtype="bfloat16" (--dtype bfloat16)'
_SAID = "give the configuration that says how they are stored: config (--config)"
_ELSEWHERE = "dequantise the checkpoint with the library that wrote it, and convert that"


def _remedies(weight: Weight, *ways: str) -> str:
    """Return what helps, with what always does at the end: to move numbers in the place of codes."""
    is_computed = isinstance(weight.scheme.formula, Formula) and weight.kind.has_values
    numbers = _ELSEWHERE if not is_computed else _NUMBERS if weight.kind.is_said else f"{_SAID},\nand {_NUMBERS}"
    return ",\n".join([*ways, f"or {numbers}" if ways else numbers])


def not_divided(found: Undivided, weights: Sequence[Weight], *, can_be_finer: bool = False) -> PlanError:
    """Say which block of which tensor a movement cuts, or whose order it would change.

    Args:
        found: What does not divide.
        weights: The weights that are moved.
        can_be_finer: Whether finer blocks would help.
    """
    member, seam = found
    weight = weights[0 if seam is None else min(seam.source, len(weights) - 1)]
    key = weight.stem + member.ending
    if seam is not None and seam.role is not None and not seam.is_order:
        return _misaligned(weight, member, seam, can_be_finer=can_be_finer)
    if weight.kind.shape is None or seam is None:
        (_, codes), (beside, entries), *_ = weight.kind.parts
        counts = f"{codes.size_bytes:,} bytes of codes, {entries.numel:,} {beside.what}"
        reason = weight.scheme.as_it_is or f"{member.what} follow a weight that keeps its rows and columns"
        why = f"{weight.scheme.title}, {counts}: {reason}"
    elif weight.kind.state is not None:
        state = weight.kind.state
        blocks = f"blocks of {state.block} elements over rows of {state.shape[-1]}"
        why = f"{weight.scheme.title}, {blocks}: {member.what} do not stay as they are"
    elif seam.is_order:
        why = f"{weight.scheme.title}: {member.what} would have to be packed anew"
    else:
        why = f"{weight.scheme.title}: {member.what} do not stay in whole blocks"
    what = "a rule would move elements within what is stored as one"
    return PlanError(
        "companion-fixed",
        what,
        expected="renames, and movements of whole units",
        got=f"{key}: {why}",
        hint=_remedies(weight, _APART),
    )


def _misaligned(weight: Weight, member: Member, seam: Seam, *, can_be_finer: bool) -> PlanError:
    axis = _AXES[seam.role or 0] if weight.kind.state is None else "elements"
    blocks = Fraction(seam.at, seam.block)
    packed = any(isinstance(each.elements, Fraction) for each in member.along or () if each.axis.value == axis)
    is_packed = packed or member.kind == "codes"
    fine = f"{member.what} are packed" if is_packed else f"blocks of {gcd(seam.at, seam.block)} would fit"
    side = "of the result" if seam.is_target else f"of {weight.base}"
    return PlanError(
        "companion-misaligned",
        "a rule cuts, or joins, within a block of what belongs to a weight",
        expected=f"parts of whole blocks: multiples of {seam.block} {axis}, but for the last one",
        got=f"{weight.stem}{member.ending}: one entry for {seam.block} {axis}; the seam at {axis[:-1]} {seam.at}"
        f" of {seam.size} {side} is {_decimal(blocks)} blocks in\n{fine}",
        hint=_remedies(weight, *([_REFINE] if can_be_finer else []), _APART),
    )


def cannot_be_finer(why: str) -> PlanError:
    """Say why blocks are not made finer, which the configuration says of all weights alike."""
    return PlanError(
        "companion-misaligned",
        "blocks can only be made finer in the whole checkpoint, and that cannot be done",
        got=why,
        hint=f'leave out companions="refine" (--refine), and {_APART}',
    )


def is_of_other_blocks(name: str, spec: TensorSpec, wanted: TensorSpec) -> PlanError:
    """Say that a target has blocks of another size than the largest that no seam cuts."""
    return PlanError(
        "companion-misaligned",
        "the target says how large blocks are, and these are not the largest that a rule does not cut",
        where=name,
        expected=str(wanted),
        got=f"{spec}, with blocks made finer",
        hint=f'leave out companions="refine" (--refine), and {_APART}',
    )


def _decimal(blocks: Fraction) -> str:
    return f"{float(blocks):.4g}"


def is_cast(weight: Weight, program: Program) -> PlanError:
    """Say that codes are no numbers."""
    casts = ", ".join(f"to {after}" for _, after in program.casts)
    got = f"{weight.keys[0]}: a cast {casts}"
    return PlanError(
        "companion-fixed", "the codes of a quantised weight are no numbers", got=got, hint=_remedies(weight)
    )


def is_declared(weight: Weight) -> PlanError:
    """Say that a declared value has no scales."""
    what = "a value that is put in, or cut off, has no place in a quantised weight"
    return PlanError("companion-fixed", what, got=f"{weight.base}: {weight.scheme.title}", hint=_remedies(weight))


def not_alike(one: Weight, other: Weight) -> PlanError:
    """Say that weights which are to be joined are not stored alike."""
    return PlanError(
        "companion-missing",
        "weights that a rule moves together are not stored alike",
        expected=f"{one.base}: {_stored(one)}",
        got=f"{other.base}: {_stored(other)}",
        hint=_remedies(one, _APART),
    )


def _stored(weight: Weight) -> str:
    return f"{', '.join(weight.kind.likeness)} ({weight.scheme.title})"


def lacks_a_part(key: str, weight: Weight, where: str) -> PlanError:
    """Say that a weight lacks what others, or the target, have with theirs."""
    what = "a tensor that belongs to a quantised weight is missing"
    expected = f"a group like that of {weight.base}: {', '.join(weight.keys)}"
    return PlanError("companion-missing", what, where=where, expected=expected, got=f"not so for {key}", hint=_APART)


def is_plain(key: str, weight: Weight, where: str) -> PlanError:
    """Say that a weight is quantised, and another one that is to be moved with it is not."""
    what = "a quantised weight is to be moved together with one that is not"
    return PlanError(
        "companion-missing",
        what,
        where=where,
        expected=f"a group like that of {weight.base}: {', '.join(weight.keys)}",
        got=f"{key} alone",
        hint=_remedies(weight, _APART),
    )


def has_no_place(name: str, weight: Weight) -> PlanError:
    """Say that a target takes a weight without what belongs to it."""
    what = "the target has no place for what belongs to a quantised weight"
    got = f"{weight.base} is stored as {_stored(weight)}"
    return PlanError(
        "companion-missing", what, where=name, expected=f"{name} in the target", got=got, hint=_remedies(weight)
    )


def is_otherwise(name: str, spec: TensorSpec, wanted: TensorSpec, weight: Weight) -> PlanError:
    """Say that a target stores a weight otherwise."""
    what = "the target stores a quantised weight otherwise"
    got = f"{spec}, of {weight.base} ({weight.scheme.title})"
    return PlanError("companion-missing", what, where=name, expected=str(wanted), got=got, hint=_remedies(weight))


def is_described_apart(keys: Sequence[str], where: str) -> PlanError:
    """Say that the metadata says different things of what is to become one, or nothing that would hold of it."""
    return PlanError(
        "companion-fixed",
        "the file's metadata says how these are stored, and nothing that it says holds of the result",
        where=where,
        got=", ".join(keys[:3]),
        hint=f"{_APART},\nor {_NUMBERS}",
    )
