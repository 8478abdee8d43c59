"""Say of each rule what values have not told: what else would have given the same bytes, and what decided."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping as MappingOf, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from weighbridge.base.keys import collapse
from weighbridge.studies.inference.by_value.choices import BY_MODULE, BY_PLAINNESS, Choice
from weighbridge.studies.inference.tensor_facts import mask

if TYPE_CHECKING:
    from weighbridge.planning.plan import Plan
    from weighbridge.planning.steps import Step

_SHOWN = 4
"""Number of other possibilities that a line names."""


class OpenChoice(NamedTuple):
    """A choice among findings that would all give the same values.

    Args:
        rules: Numbers of the rules that state it, from 0; none where names stay as they are.
        targets: The targets, in few lines.
        sources: What they are made from, in few lines.
        others: What would have given the same: other sources, other targets, or operations.
        by: What decided.
    """

    rules: tuple[int, ...]
    targets: tuple[str, ...]
    sources: tuple[str, ...]
    others: tuple[str, ...]
    by: str

    def __str__(self) -> str:
        made, given = (", ".join(lines[:_SHOWN]) for lines in (self.targets, self.sources))
        allowed = ", ".join(self.others[:_SHOWN]) + ", …" * (len(self.others) > _SHOWN)
        return f"{made} from {given}: not told by values, which allow {allowed} too; chosen by {self.by}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


def open_choices(plan: Plan, choices: MappingOf[str, Choice]) -> tuple[OpenChoice, ...]:
    """Gather what was left open into one entry for each kind of tensors.

    Args:
        plan: The plan of what is proposed.
        choices: For a target, what else would have given its values.
    """
    told = {rule for step in plan.steps if choices.keys().isdisjoint(step.targets) for rule in step.rules}
    alike: dict[object, list[Step]] = {}
    for step in plan.steps:
        found = next((choices[key] for key in step.targets if key in choices), None)
        if found is not None and step.fate != "carried":
            rules = _own_rules(step, told)
            kinds = () if rules else tuple(map(mask, step.targets))
            alike.setdefault((rules, kinds, found.operations), []).append(step)
    return tuple(_gathered(steps, choices, _own_rules(steps[0], told)) for steps in alike.values())


def _own_rules(step: Step, told: set[int]) -> tuple[int, ...]:
    """Return the rules of a step that no value supports; the last one where values support them all."""
    return tuple(rule for rule in step.rules if rule not in told) or step.rules[-1:]


def _gathered(steps: Sequence[Step], choices: MappingOf[str, Choice], rules: tuple[int, ...]) -> OpenChoice:
    found = [choices[key] for step in steps for key in step.targets if key in choices]
    targets = [key for step in steps for key in step.targets]
    sources = [key for step in steps for key in step.sources]
    others = (*_others(found, sources, targets), *dict.fromkeys(text for each in found for text in each.operations))
    return OpenChoice(rules, tuple(collapse(targets)), tuple(collapse(sources)), others, _reason(found))


def _reason(found: Sequence[Choice]) -> str:
    if not any(choice.sources or choice.targets for choice in found):
        return BY_PLAINNESS
    reasons = dict.fromkeys(choice.by for choice in found)
    if len(reasons) > 1:
        reasons.pop(BY_MODULE, None)  # which was chosen by the others
    return ", ".join(reasons)


def _others(found: Sequence[Choice], sources: Collection[str], targets: Collection[str]) -> Iterator[str]:
    """Write what other tensors would have fitted; other sources say of the targets all there is."""
    others = {key for choice in found for key in choice.sources}
    used, instead = (sources, "") if others else (targets, " instead")
    others = others or {key for choice in found for key in choice.targets}
    yield from (f"{line}{instead}" for line in collapse(others.difference(used)))
    yield from (f"{line} in another order" for line in collapse(others.intersection(used)))
