"""Both sides of a plan, as rules see them: where nothing is told of quantised weights, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.specs import Header
from weighbridge.planning.grouped.described import follow_names
from weighbridge.planning.grouped.weights import Grouped, Saying, group_weights
from weighbridge.planning.plan import Plan
from weighbridge.planning.readings import Reading


@dataclass(frozen=True, slots=True)
class Sides:
    """The source, and the target where one is known, with their quantised weights.

    Args:
        source: Specs of the checkpoint's tensors.
        target: Specs of the wanted tensors.
        groups: The source's quantised weights; None where none are told.
        wanted: Those of the target; where the source has some and the target none, its groups are empty.
    """

    source: Header
    target: Header | None
    groups: Grouped | None = None
    wanted: Grouped | None = None

    @property
    def seen(self) -> tuple[Header, Header | None]:
        """What rules see of both."""
        source = self.source if self.groups is None else self.groups.seen
        return source, (self.target if self.wanted is None else self.wanted.seen)

    def names(self) -> tuple[Header, Header | None]:
        """Return headers with all names that an exception may name: those that rules see, and all others."""
        if self.groups is None:
            return self.source, self.target
        both = Header({**self.groups.seen.specs, **self.source.specs})
        if self.target is None or self.wanted is None:
            return both, self.target
        return both, Header({**self.wanted.seen.specs, **self.target.specs})

    def refuse_contradictions(self, readings: Sequence[Reading]) -> None:
        """Refuse to move weights of which the configuration says something else than their tensors, or than of others.

        Raises:
            PlanError: `plan-failed`, with each.
        """
        if self.groups is None:
            return
        from weighbridge.planning.grouped.own_names import contradictions, unlike

        problems = contradictions(readings, self.groups) or list(unlike(readings, self.groups))
        if problems:
            raise PlanError("plan-failed", "the mapping does not fit", problems=problems)

    def write_out(self, plan: Plan, reading: Reading, *, may_refine: bool) -> Plan:
        """Write a plan out for all tensors of each quantised weight.

        Args:
            plan: The plan, with the names that rules see.
            reading: The reading that it was made with.
            may_refine: Whether blocks that are cut may be made finer.

        Raises:
            PlanError: `plan-failed`, with every tensor that cannot go along with its weight.
        """
        problems: list[WeighbridgeError] = []
        if self.groups is None:
            made = replace(plan, metadata=follow_names(plan, self.source, problems))
        else:
            from weighbridge.planning.grouped.expanding import expand_plan
            from weighbridge.planning.grouped.own_names import disagreements, strays

            made = expand_plan(plan, self.groups, self.wanted, may_refine=may_refine)
            problems += [*strays(made, reading, self.groups, self.target), *disagreements(made, self.groups)]
        if problems:
            raise PlanError("plan-failed", "the mapping does not fit", problems=problems)
        return made


def see(source: Header, target: Header | None, saying: Saying | None) -> Sides:
    """Return both sides of a plan, with the quantised weights that are told.

    Args:
        source: Specs of the checkpoint's tensors.
        target: Specs of the wanted tensors, if they are known.
        saying: What is said of them; the target's are stored as the source's are, at most in finer blocks.
    """
    of_target = saying
    if target is not None and saying is not None:
        of_target = replace(saying, states=saying.wanted_states)
        # Rules see the same of both: bytes where nothing tells the rows of one of them.
        saying = replace(saying, states=saying.states if saying.wanted_states else {})
    groups = group_weights(source, saying)
    if groups is None or target is None:
        return Sides(source, target, groups)
    wanted = group_weights(target, of_target, has_open_sizes=True)
    return Sides(source, target, groups, Grouped(target, target, {}) if wanted is None else wanted)
