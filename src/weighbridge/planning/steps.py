"""The parts of a plan: steps that join tensors by a program, and tensors that no step touches.

Every source and every target has exactly one fate:

    source   moved      its bytes go into targets, re-ordered at most
             computed   its values are cast on the way
             carried    it passes through under its own name
             tied       its bytes must equal those of another source, which moves in its place
             dropped    a named rule leaves it out
    target   filled     a step writes every element of it once
             tied       it shares its storage with another target, which is filled
             initialised  a named rule, or a declared partial load, leaves it as the model made it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from weighbridge.base.specs import TensorSpec
from weighbridge.planning.program import Program

STEP_FATES: Final = ("moved", "computed", "carried", "tied")
"""What a step may say of its sources."""

FATED_FIELDS: Final = ("dropped", "initialised", "tied_sources", "tied_targets")
"""Names of a plan's lists of tensors that no step touches."""


@dataclass(frozen=True, slots=True)
class Step:
    """Some sources, the program that reads them, and the targets it writes.

    Args:
        sources: Keys that are read; their position is the program's slot.
        targets: Keys that are written, in the program's order.
        program: The copies.
        fate: What becomes of the sources: ``moved``, ``computed``, ``carried`` or ``tied``.
        rules: Numbers of the mapping's rules that fired, in order.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    program: Program
    fate: str
    rules: tuple[int, ...] = ()

    def inverse(self, *, lossy: bool = False) -> Step:
        """Return the step back; see `Program.inverse`."""
        fate = "moved" if self.fate == "tied" else self.fate
        return Step(self.targets, self.sources, self.program.inverse(lossy=lossy), fate, self.rules)


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
