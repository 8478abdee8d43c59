"""The steps of a new adapter: tensors that are made of the same ones are made together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from weighbridge.algebra.copies import Copy, fuse, swapped
from weighbridge.algebra.coverage import coverage
from weighbridge.algebra.layout import Layout
from weighbridge.base.forms.elements import Constant
from weighbridge.base.specs import DTYPES, TensorSpec
from weighbridge.planning.factors.factor_copies import ONE, Made
from weighbridge.planning.program import Cut, Output, Program
from weighbridge.planning.steps import Step, fate_of


class Target(NamedTuple):
    """A tensor of the new adapter under its name."""

    key: str
    made: Made


def join_steps(targets: Iterable[Target], specs: Mapping[str, TensorSpec], rules: tuple[int, ...]) -> Iterator[Step]:
    """Make the steps of tensors that one step of the weights leads to.

    Args:
        targets: The tensors, each as often as there are ways of making it.
        specs: Specs of the adapter's tensors.
        rules: Numbers of the rules that fired.
    """
    for group in _connected(list(targets)):
        slots = _slots(group, specs)
        outputs: list[Output] = []
        blanks: list[Constant] = []
        cuts: list[Cut] = []
        for number, target in enumerate(group):
            own = {slot.key: place for place, slot in enumerate(slots) if number in slot.users}
            own[""] = len(slots) + len(blanks)  # of the output's own zeros
            copies = [piece.copy._replace(source=own[piece.key]) for piece in target.made.pieces]
            zeros = sum(piece.copy.numel for piece in target.made.pieces if not piece.key)
            if zeros:
                dtype = target.made.spec.dtype
                element = target.made.blank or bytes(DTYPES[dtype].itemsize)
                blanks.append(Constant(TensorSpec(dtype, (zeros,)), element))
            cuts += [
                Cut(Output(spec.dtype, Layout.of(own[key], spec.shape)), held)
                for key, spec, held in target.made.instead
            ]
            outputs.append(Output(target.made.spec.dtype, Layout(target.made.spec.shape, fuse(copies))))
        sources = tuple(slot.key for slot in slots)
        program = Program(
            tuple(specs[key] for key in sources), (), tuple(outputs), constants=tuple(blanks), cuts=tuple(cuts)
        )
        names = tuple(target.key for target in group)
        yield Step(sources, names, program, fate_of(sources, names, program), rules)


def _connected(targets: list[Target]) -> list[list[Target]]:
    """Sort tensors into groups that share a source, or are the same tensor."""
    groups: list[tuple[set[str], list[Target]]] = []
    for target in targets:
        names = {f"> {target.key}", *target.made.keys, *filter(None, [target.made.beside])}
        members = [target]
        for group in [group for group in groups if not names.isdisjoint(group[0])]:
            groups.remove(group)
            names, members = names | group[0], [*group[1], *members]
        groups.append((names, members))
    return [sorted(members, key=lambda target: target.key) for _, members in groups]


class _Slot(NamedTuple):
    """A source of a step, with what is read of it, and the numbers of the outputs that read it."""

    key: str
    read: list[Copy]
    users: set[int]


def _slots(group: Sequence[Target], specs: Mapping[str, TensorSpec]) -> list[_Slot]:
    """List the sources of a step: a tensor of which the same elements are read several times stands there as often."""
    found: dict[str, list[_Slot]] = {}
    for number, target in enumerate(group):
        used: dict[str, list[Copy]] = {}
        for piece in target.made.pieces:
            used.setdefault(piece.key, []).append(swapped(piece.copy))
        for scalar in target.made.instead:
            used.setdefault(scalar.key, []).append(ONE)
        for key, copies in used.items():
            slots = found.setdefault(key, []) if key else []
            free = (slot for slot in slots if not _overlap(slot.read, copies, specs[key].numel))
            slot = next(free, None)
            if slot is None:
                slots.append(slot := _Slot(key, [], set()))
            slot.read.extend(copies)
            slot.users.add(number)
    return [slot for slots in found.values() for slot in slots]


def _overlap(some: Sequence[Copy], others: Sequence[Copy], numel: int) -> bool:
    """Tell whether copies touch an element of a tensor that others touch."""
    spans = [(copy.target_start, copy.target_last) for copy in others]
    start, stop = min(first for first, _ in spans), max(last for _, last in spans)
    near = [copy for copy in some if copy.target_start <= stop and start <= copy.target_last]
    return bool(near) and coverage([*near, *others], numel).multiple > 0
