"""Quantised weights and what belongs to them: codes are no numbers, and mean nothing without their scales.

A rule may rename a whole group. It may join, cut or turn the codes where another rule does the very same to what
belongs to them, and the blocks that share an entry stay whole. Whoever casts the codes, or leaves a scale behind under
its old name, would get other weights than were published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping as MappingOf, Sequence
from typing import Any, Final, NamedTuple

from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import PlanError
from weighbridge.base.specs import DTYPES, Header, Shape, TensorSpec
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.schemes.endings import (
    BELOW_WEIGHT,
    CODES,
    OF_CODES,
    OF_MODULE,
    SCALES_INVERSE,
    STATE,
    TAILS,
)
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.operations.groupings import Chunk, Concatenate, MergeModulelist, SplitModulelist
from weighbridge.operations.movements import Permute, Transpose
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Program
from weighbridge.planning.steps import Fated, Step

_BEHIND_STATE: Final = f".{STATE}."
_MOST_FREQUENT: Final = frozenset({"weight", "bias"})
"""Last segments that say nothing, and are not looked at any further."""

_BLOCKWISE: Final = (MergeModulelist, SplitModulelist, Concatenate, Chunk, Transpose, Permute)
"""Operations that do to a grid of blocks what they do to the weight, where every part has whole blocks."""


class Group(NamedTuple):
    """The tensors of one quantised weight: what their names have in common, that of the codes, and the others."""

    stem: str
    codes: str
    beside: tuple[str, ...]


def find_groups(header: Header) -> list[Group]:
    """Find the quantised weights of a checkpoint by their names and dtypes.

    A group has a tensor of codes, which are integers of 8 or 32 bits, packed, or floats of 8 bits at most, and
    something beside it.

    Examples:
        >>> specs = {"q.weight": ("F8_E4M3", (4, 4)), "q.weight_scale_inv": ("F32", (1, 1)), "n.weight": ("F32", (4,))}
        >>> find_groups(Header({key: TensorSpec(*spec) for key, spec in specs.items()}))
        [Group(stem='q', codes='q.weight', beside=('q.weight_scale_inv',))]
    """
    coded = _coded(header)
    return _groups(header.specs, header.specs, coded) if coded else []


def quantised_keys(header: Header) -> set[str]:
    """Return the keys of all quantised weights, and of what belongs to them."""
    return {key for group in find_groups(header) for key in (group.codes, *group.beside)}


def _coded(header: Header) -> frozenset[str]:
    return frozenset(filter(holds_codes, {spec.dtype for spec in header.specs.values()}))


def _groups(keys: Iterable[str], specs: MappingOf[str, TensorSpec], coded: frozenset[str]) -> list[Group]:
    """Group the keys that only a quantised weight has beside it, each group with its codes."""
    named: dict[str, list[str]] = {}
    for key in keys:
        if key[key.rfind(".") + 1 :] in _MOST_FREQUENT and _BEHIND_STATE not in key:
            continue
        stem = _stem(key)
        if stem is not None:
            named.setdefault(stem, []).append(key)
    found = (_group(stem, keys, specs, coded) for stem, keys in named.items())
    return [group for group in found if group is not None]


def _stem(key: str) -> str | None:
    """Return what the names of a group have in common, by one of those that only a quantised weight has."""
    dot = key.rfind(".")
    last = key[dot + 1 :]
    if last in OF_MODULE:
        return key[:dot] if dot > 0 else None
    if last in BELOW_WEIGHT:
        return key[:dot].removesuffix(".weight")
    if last.endswith(TAILS):
        return next(key.removesuffix(ending) for ending in TAILS if last.endswith(ending))
    owner, found, _ = key.rpartition(_BEHIND_STATE)
    return owner.removesuffix(".weight") if found else None


def _group(stem: str, keys: list[str], specs: MappingOf[str, TensorSpec], coded: frozenset[str]) -> Group | None:
    weight = specs.get(f"{stem}.weight")
    if len(keys) == 1 and weight is not None and weight.dtype in coded:  # by far the most frequent form
        return Group(stem, f"{stem}.weight", tuple(keys))
    there = dict.fromkeys(keys)
    there |= dict.fromkeys(name for name in (f"{stem}.weight", stem) if name in specs)
    if len(there) < 2:
        return None
    codes = next((name for tail in CODES if (name := stem + tail) in there and specs[name].dtype in coded), None)
    if codes is None:
        codes = min((key for key in there if specs[key].dtype in coded), default=None)
    return None if codes is None else Group(stem, codes, tuple(sorted(key for key in there if key != codes)))


def holds_codes(dtype: str) -> bool:
    """Tell whether tensors of a dtype can hold codes."""
    kind = DTYPES[dtype]
    return kind.kind == "packed" or (kind.kind == "float" and kind.bits <= 8) or dtype in ("I8", "U8", "I32", "U32")


def companion_faults(
    mapping: Mapping, header: Header, steps: Sequence[Step], dropped: Iterable[Fated]
) -> Iterator[PlanError]:
    """Yield an error for each quantised weight that is not moved together with all that belongs to it.

    Args:
        mapping: The mapping, for the operations of the steps' rules.
        header: Specs of the checkpoint's tensors.
        steps: What becomes of them.
        dropped: Those that are left out.
    """
    coded = _coded(header)
    known: dict[Any, bool] = {}
    if not coded or not _groups(_parted(mapping, header, steps, coded, known), header.specs, coded):
        return
    left_out = {fated.key for fated in dropped}
    step_of = {key: step for step in steps for key in step.sources}
    for group in _groups(header.specs, header.specs, coded):
        if left_out.issuperset((group.codes, *group.beside)):
            continue
        apart = [key for key in group.beside if not _is_along(mapping, group, key, step_of, known)]
        if apart:
            yield _apart(group, apart, step_of)


def _parted(
    mapping: Mapping, header: Header, steps: Sequence[Step], coded: frozenset[str], known: dict[Any, bool]
) -> Iterator[str]:
    """Yield the keys of a checkpoint, but for what is moved as the codes of its weight are: whole steps at a time."""
    first = {step.sources[0]: step for step in steps if step.sources}
    along: set[str] = set()
    for key, beside in first.items():
        stem, _, last = key.rpartition(".")
        codes = first.get(stem + CODES[0]) if last in OF_MODULE else None
        if codes is None or not _are_codes(codes, coded, known):
            continue
        if _are_alike(mapping, codes, beside, (CODES[0], f".{last}"), known):
            along.update(beside.sources)
    return (key for key in header.specs if key not in along)


def _are_codes(step: Step, coded: frozenset[str], known: dict[Any, bool]) -> bool:
    """Tell whether all that a step reads has codes, under the likeliest of their names."""
    look = id(step.program), "codes"
    if look not in known:
        known[look] = all(spec.dtype in coded for spec in step.program.sources)
    return known[look] and all(key.endswith(CODES[0]) for key in step.sources)


def _is_along(
    mapping: Mapping,
    group: Group,
    key: str,
    step_of: MappingOf[str, Step],
    known: dict[Any, bool],
) -> bool:
    """Tell whether what belongs to a weight is moved as its codes are, to the name that belongs to theirs."""
    codes, beside = step_of.get(group.codes), step_of.get(key)
    if codes is None or beside is None:
        return False
    tails = group.codes.removeprefix(group.stem), key.removeprefix(group.stem)
    look = id(codes), id(beside), tails[1]
    if look not in known:
        known[look] = _are_alike(mapping, codes, beside, tails, known)
    return known[look]


def _are_alike(mapping: Mapping, codes: Step, beside: Step, tails: tuple[str, str], known: dict[Any, bool]) -> bool:
    """Tell whether a step does to what belongs to some weights what another one does to their codes, names included."""
    if codes.program.casts or beside.program.casts:
        return False
    return _go_alike(mapping, codes, beside, tails, known)


def _go_alike(mapping: Mapping, codes: Step, beside: Step, tails: tuple[str, str], known: dict[Any, bool]) -> bool:
    """Tell whether two steps are alike, but for casts that each may have."""
    names = _beside(codes.sources, *tails) == beside.sources and _beside(codes.targets, *tails) == beside.targets
    return names and _is_known_alike(mapping, codes, beside, known)


def _is_known_alike(mapping: Mapping, codes: Step, beside: Step, known: dict[Any, bool]) -> bool:
    """Look at each pair of programs once: all layers share them."""
    look = id(codes.program), id(beside.program), codes.rules, beside.rules
    if look not in known:
        known[look] = _moves_alike(mapping, codes, beside)
    return known[look]


def _beside(keys: Sequence[str], of_codes: str, of_other: str) -> tuple[str, ...]:
    """Name what belongs to tensors of codes: `x.weight` has `x.weight_scale`, and `fused` has `fused_scale`."""
    more = of_other.removeprefix(of_codes) if of_codes and of_other.startswith(of_codes) else None
    return tuple(key + more if more is not None else key.removesuffix(of_codes) + of_other for key in keys)


def _moves_alike(mapping: Mapping, codes: Step, beside: Step) -> bool:
    """Tell whether two steps leave their tensors as they are, or do the same to both, in whole blocks."""
    if _is_whole(codes.program) and _is_whole(beside.program):
        return True
    operations = [_operations(mapping, step) for step in (codes, beside)]
    if operations[0] != operations[1] or not all(isinstance(operation, _BLOCKWISE) for operation in operations[0]):
        return False
    sides = [[*step.program.sources, *(output.spec for output in step.program.targets)] for step in (codes, beside)]
    return _has_whole_blocks([spec.shape for spec in sides[0]], [spec.shape for spec in sides[1]])


def _is_whole(program: Program) -> bool:
    """Tell whether one tensor becomes one of the same shape, in the same order."""
    (first, *more), (made, *others) = program.slots, program.outputs
    return not more and not others and made.layout == Layout.of(0, first.shape)


def _has_whole_blocks(weights: Sequence[Shape], grids: Sequence[Shape]) -> bool:
    """Tell whether all tensors of a step have whole blocks of one size along each axis on which their sizes differ.

    On the others nothing is cut or joined, so that a last block may be smaller. Axes are counted from the last one, as
    stacking adds one in front.
    """
    if any(len(weight) != len(grid) for weight, grid in zip(weights, grids, strict=True)):
        return False
    ranks = set(map(len, weights))
    for axis in range(1, max(ranks) + 1):
        sides = zip(weights, grids, strict=True)
        pairs = {(weight[-axis], grid[-axis]) for weight, grid in sides if len(weight) >= axis}
        blocks = {_block(*pair) for pair in pairs}
        if len(pairs) > 1 and (len(blocks) > 1 or None in blocks):
            return False
    return True


def _block(size: int, count: int) -> int | None:
    """Return the size of the blocks along one axis; None where they are not whole."""
    return size // count if count and size % count == 0 else None


def _operations(mapping: Mapping, step: Step) -> tuple[object, ...]:
    rules = (mapping.transforms[number] for number in step.rules)
    return tuple(operation for rule in rules if isinstance(rule, WeightConverter) for operation in rule.operations)


def scales_left(plan: Plan, seen: Header) -> Iterator[PlanError]:
    """Yield an error for each weight that is no code, and is moved apart from what only codes have beside them.

    Either the weight was read as numbers and its scales were left, or a configuration is missing that says how it is
    stored: moved on alone, the two would be of different weights.

    Args:
        plan: The plan.
        seen: What rules see of the checkpoint, without the tensors that go along with others.
    """
    last = {key[key.rfind(".") + 1 :] for key in seen.specs}
    names = {name for name in last if name in OF_CODES or name in BELOW_WEIGHT or name.endswith(SCALES_INVERSE)}
    beside = [key for key in seen.specs if key[key.rfind(".") + 1 :] in names] if names else []
    if not beside:
        return
    coded, floats = _coded(seen), frozenset(filter(_holds_numbers, {spec.dtype for spec in seen.specs.values()}))
    step_of = {key: step for step in plan.steps for key in step.sources}
    known: dict[Any, bool] = {}
    for group in _groups(beside, seen.specs, floats):
        is_plain = group.codes.removeprefix(group.stem) in CODES
        if not is_plain or any(seen.specs[key].dtype in coded for key in group.beside):
            continue
        apart = [key for key in group.beside if key in step_of and not _is_beside(plan, group, key, step_of, known)]
        if group.codes in step_of and apart:
            yield _left(group, seen.specs[group.codes], apart, step_of)


def _holds_numbers(dtype: str) -> bool:
    return DTYPES[dtype].kind == "float" and DTYPES[dtype].bits > 8


def _is_beside(plan: Plan, group: Group, key: str, step_of: MappingOf[str, Step], known: dict[Any, bool]) -> bool:
    """Tell whether no rule is about a weight and what is beside it, or all of them are about both."""
    weight, beside = step_of[group.codes], step_of[key]
    tails = group.codes.removeprefix(group.stem), key.removeprefix(group.stem)
    return not (weight.rules or beside.rules) or _go_alike(plan.mapping, weight, beside, tails, known)


def _left(group: Group, spec: TensorSpec, apart: Sequence[str], step_of: MappingOf[str, Step]) -> PlanError:
    return PlanError(
        "companion-unknown",
        "a weight that holds no codes is moved apart from what only codes have beside them",
        where=group.stem,
        expected=f"codes, or the same for {', '.join(key.removeprefix(group.stem) for key in apart[:5])}",
        got="\n".join([f"{group.codes}: {spec}", *(_line(key, step_of.get(key)) for key in (group.codes, *apart[:3]))]),
        hint="rename the whole module, leave out what numbers have no use for: drop (--drop),\n"
        "or plan by names only, where these are parameters like any other: companions=False (--no-companions)",
    )


def _apart(group: Group, apart: Sequence[str], step_of: MappingOf[str, Step]) -> PlanError:
    tails = ", ".join(key.removeprefix(group.stem) for key in (group.codes, *group.beside[:5]))
    return PlanError(
        "companion-unknown",
        "the codes of a quantised weight are not moved together with what belongs to them",
        where=group.stem,
        expected=f"the same for {tails}, and no cast",
        got="\n".join(_line(key, step_of.get(key)) for key in (group.codes, *apart[:3])),
        hint="give the configuration that says how they are stored: config (--config), rename the whole module,\n"
        "give its scales a rule with the same operations, or read the weights as numbers,\n"
        'which takes the configuration as well: dtype="bfloat16" (--dtype bfloat16)',
    )


def _line(key: str, step: Step | None) -> str:
    if step is None:
        return f"{key}: left out"
    cast = "".join(f", cast to {after}" for _, after in step.program.casts)
    return f"{key} -> {', '.join(step.targets[:2])}{cast}"
