"""The parts of a plan: steps that join tensors by a program, and tensors that no step touches.

Every source and every target has exactly one fate:

    source   moved      its bytes go into targets, re-ordered at most
             computed   its values are cast on the way
             shared     each of its bytes goes into several targets, or to several places of one
             checked    it must equal another source, bit for bit: both are to become the same target
             trimmed    its bytes go into targets but for some that are cut off, and must hold a declared value
             carried    it passes through under its own name
             tied       its bytes must equal those of another source, which moves in its place
             dropped    a named rule leaves it out
    target   filled     a step writes every element of it once
             padded     a step does, and some of its elements are a declared value, and not those of a source
             declared   a step does, and all of its elements are such values
             tied       it shares its storage with another target, which is filled
             initialised  a named rule, or a declared partial load, leaves it as the model made it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from weighbridge.algebra.regions import region_text
from weighbridge.base.forms.elements import spell_element
from weighbridge.base.specs import TensorSpec
from weighbridge.planning.program import Cut, Program

STEP_FATES: Final = ("moved", "computed", "shared", "checked", "trimmed", "carried", "tied")
"""What a step may say of its sources."""

EQUAL_FATES: Final = ("shared", "checked")
"""What is said of the sources of a step in which a key stands more than once."""

FATED_FIELDS: Final = ("dropped", "initialised", "tied_sources", "tied_targets")
"""Names of a plan's lists of tensors that no step touches."""


class Condition(NamedTuple):
    """What must hold of the values of a source before a plan runs.

    Whichever way a target is made, it is the same; or what is cut off of its sources holds a declared value.

    Args:
        target: The target.
        ways: For each way of making it, the sources that it is made of; they lie at the same places of each other. Of
            what is cut off, the sources that it is part of.
        part: Which elements are cut off; empty where several ways are compared.
        value: What they must hold.
    """

    target: str
    ways: tuple[tuple[str, ...], ...]
    part: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Some sources, the program that reads them, and the targets it writes.

    A source that is read several times stands here as often, and so does a target that several sources make: all of
    them must make the same of it. The inverse of one is the other, and the program moves each element exactly once.

    Args:
        sources: Keys that are read; their position is the program's slot.
        targets: Keys that are written, in the program's order.
        program: The copies.
        fate: What becomes of the sources: one of `STEP_FATES`.
        rules: Numbers of the mapping's rules that fired, in order.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    program: Program
    fate: str
    rules: tuple[int, ...] = ()

    def inverse(self, *, lossy: bool = False) -> Step:
        """Return the step back; see `Program.inverse`."""
        back = self.program.inverse(lossy=lossy)
        return Step(self.targets, self.sources, back, self.fate, self.rules).fated()

    def fated(self) -> Step:
        """Return the step with what is left of its fate, turned round or cut: tied and equal ones may be gone."""
        if self.fate in (*EQUAL_FATES, "trimmed") or self.program.cuts:
            return replace(self, fate=fate_of(self.sources, self.targets, self.program))
        return replace(self, fate="moved") if self.fate == "tied" else self

    @property
    def reads(self) -> tuple[str, ...]:
        """Each source once."""
        return self.sources if self.fate not in EQUAL_FATES else tuple(dict.fromkeys(self.sources))

    @property
    def writes(self) -> dict[str, int]:
        """Each target once, with the number of the first output that makes it: that is the one to write."""
        found: dict[str, int] = {}
        for number, key in enumerate(self.targets):
            found.setdefault(key, number)
        return found

    def conditions(self) -> Iterator[Condition]:
        """Yield what must hold of the values that it reads."""
        made: dict[str, list[tuple[str, ...]]] = {}
        for number, key in enumerate(self.targets if self.fate == "checked" else ()):
            slots = [slot for slot in self.program.slots_read([number]) if slot < len(self.sources)]
            made.setdefault(key, []).append(tuple(dict.fromkeys(self.sources[slot] for slot in slots)))
        yield from (Condition(key, tuple(ways)) for key, ways in made.items())
        yield from (self._cut_condition(cut) for cut in self.program.cuts if cut.element)

    def _cut_condition(self, cut: Cut) -> Condition:
        layout, spec = cut.output.layout, cut.output.spec
        keys = dict.fromkeys(self.sources[slot] for slot in self.program.slots_of([layout]) if slot < len(self.sources))
        first = layout.copies[0] if len(layout.copies) == 1 else None
        box = None
        if first is not None and first.source < len(self.sources):
            box = region_text(first, self.program.sources[first.source].shape, of_target=False)
        part = box or f"{spec.numel:,} elements"
        return Condition(next(iter(self.targets), ""), (tuple(keys),), part, spell_element(cut.element, spec.dtype))

    def target_fate(self, number: int) -> str:
        """Return the fate of a target: whether its elements come from sources, or are declared."""
        program = self.program
        if not program.constants:
            return "filled"
        first, stop = len(program.sources), program.first_temporary
        slots = [slot for slot in program.slots_read([number]) if slot < stop]
        if all(slot < first for slot in slots):
            return "filled"
        return "padded" if any(slot < first for slot in slots) else "declared"

    @property
    def slot_names(self) -> list[str]:
        """Name everything that the copies read: sources, declared values, temporaries."""
        program = self.program
        declared = (
            f"declared {spell_element(element, spec.dtype)}" if element else "the model's own"
            for spec, element in program.constants
        )
        return [*self.sources, *declared, *(f"temporary {number}" for number in range(len(program.temporaries)))]

    @property
    def cut_names(self) -> list[str]:
        """Name what is cut off, each by the value that it must hold."""
        cuts = self.program.cuts
        return [f"cut off, if {spell_element(element, output.dtype)}" for output, element in cuts]


def fate_of(sources: Sequence[str], targets: Sequence[str], program: Program) -> str:
    """Return the fate of a step's sources, as its keys and its program say it."""
    if len(set(targets)) < len(targets):
        return "checked"
    if len(set(sources)) < len(sources):
        return "shared"
    if program.cuts:
        return "trimmed"
    return "computed" if program.casts else "moved"


class Refinement(NamedTuple):
    """Blocks of quantised weights that are made finer: every entry is repeated, and the configuration says so.

    Args:
        place: Names that lead to the setting, from what speaks of quantisation in the configuration.
        before: The rows and columns of a block, or its columns alone.
        after: The same, of the finer blocks, each of which divides that before.
    """

    place: tuple[str, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def inverse(self) -> Refinement:
        """Return the way back, where entries are equal and become one."""
        return Refinement(self.place, self.after, self.before)

    def __str__(self) -> str:
        sizes = " to ".join(" x ".join(map(str, blocks)) for blocks in (self.before, self.after))
        return f"{'.'.join(self.place)} from {sizes}"


class Fated(NamedTuple):
    """A tensor that no step touches: its key, its spec, and the rule (or the key) that accounts for it."""

    key: str
    spec: TensorSpec
    by: str


class Fate(NamedTuple):
    """What became of one tensor: the word for it, and the step, rule or key that is responsible."""

    name: str
    step: int | None = None
    by: str = ""
