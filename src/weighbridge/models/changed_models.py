"""What of a model's recorded way back still stands when the model has changed since it was loaded.

A step whose tensors have the shapes that they had stands as it is, and one that moves a tensor whole holds for any
shape. Of other steps the rules still apply: they are run back over what is there now, and what comes of it counts only
if the mapping, run forwards, gives the model's tensors again. What is gone from the model is not saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping as MappingOf
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from weighbridge.base.errors import PlanError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Program
from weighbridge.planning.steps import Fated, Step
from weighbridge.planning.way_back.inverting import proven_steps, takes_equal_parts
from weighbridge.running.ties import broken_ties

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint


OTHER_SIZE: Final = "of another size"
"""Begins the names of rules that leave a tensor in its checkpoint, as the model has that weight in another size."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a plan still holds for the model that was loaded through it.

    Args:
        plan: The plan without what does not.
        changed: By the name of a tensor that is there and lost its step: that step.
        notes: What has changed, one sentence each.
    """

    plan: Plan
    changed: MappingOf[str, Step]
    notes: tuple[str, ...]


def what_stands(plan: Plan, model: Checkpoint) -> Standing:
    """Tell what of a plan holds for the model that was loaded through it, as that is now.

    Args:
        plan: The plan.
        model: The model, opened.
    """
    header = model.header
    kept: list[Step] = []
    lost: list[Step] = []
    for step in plan.steps:
        now = _as_it_is_now(step, header)
        if now is None:
            lost.append(step)
        else:
            kept.append(now)
    written = {key for step in kept for key in step.targets}
    untied = set(broken_ties(plan.tied_targets, model))
    tied = tuple(one for one in plan.tied_targets if _still_tied(one, header, written) and one.key not in untied)
    started = tuple(one for one in plan.initialised if one.key in header)
    if (kept, tied, started) == (list(plan.steps), plan.tied_targets, plan.initialised):
        return Standing(plan, {}, ())
    now_tied = tuple(one._replace(spec=header[one.key]) for one in tied)
    left = replace(plan, steps=tuple(kept), tied_targets=now_tied, initialised=started, twins=(), source_files=None)
    changed = {key: step for step in lost for key in step.targets if key in header}
    had = [key for step in lost for key in step.targets] + [one.key for one in (*plan.tied_targets, *plan.initialised)]
    gone = [key for key in had if key not in header]
    others = [key for key in header if key in plan.target.specs and header[key].shape != plan.target[key].shape]
    return Standing(left, changed, tuple(_said(gone, others, sorted(untied & header.specs.keys()))))


def _said(gone: list[str], others: list[str], untied: list[str]) -> Iterator[str]:
    for keys, words in (
        (gone, "gone since loading, not saved"),
        (others, "another shape than when loaded, saved by the rules that still apply"),
        (untied, "no longer tied, saved beside what it was tied to"),
    ):
        if keys:
            yield f"{', '.join(collapse(keys)[:4])}: {words}"


def _as_it_is_now(step: Step, header: Header) -> Step | None:
    """Return a step for the shapes that its tensors have now; None where it says nothing of these."""
    there = [key for key in step.targets if key in header]
    if not there and step.fate == "carried":
        return step  # the model never had a place for it
    planned = dict(zip(step.targets, step.program.targets, strict=True))
    if len(there) < len(step.targets):
        return None
    if all(header[key].shape == output.layout.shape for key, output in planned.items()):
        return step
    program = step.program
    if not program.is_identity or program.sources[0].shape != program.targets[0].layout.shape:
        return None
    return replace(step, program=Program.identity(header[step.targets[0]]))


def _still_tied(fated: Fated, header: Header, written: Iterable[str]) -> bool:
    return fated.key in header and fated.by in written and header[fated.key] == header.specs.get(fated.by)


def steps_by_the_rules(plan: Plan, standing: Standing, header: Header, config: Any) -> tuple[Step, ...]:
    """Make the steps back of tensors that lost their own, by the rules that made them when they were loaded.

    Args:
        plan: The plan that the model was loaded through, for its mapping.
        standing: What of it stands.
        header: The model's specs.
        config: The model's configuration.

    Raises:
        PlanError: `inverse-unproven` where the rules do not take a tensor back, or only by guessing a size.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for key, step in standing.changed.items():
        groups.setdefault(step.rules, []).append(key)
    made: list[Step] = []
    for rules, keys in groups.items():
        specs = Header({key: header[key] for key in keys})
        found = proven_steps(plan.mapping, specs, config, rules=rules) if rules else ()
        good = [step for step in found if _is_known(plan.mapping, step, standing.changed)]
        done = {key for step in good for key in step.sources}
        left = [key for key in keys if key not in done]
        if left:
            raise _unproven(plan.mapping, left, standing.changed[left[0]], header)
        made += good
    return tuple(made)


def _is_known(mapping: Mapping, step: Step, before: MappingOf[str, Step]) -> bool:
    """Tell whether a step goes to names that the tensors came from, and needs no size that nobody said.

    More or fewer tensors may be joined now, such as experts; the names of those that were there say which they are.
    """
    old = before[step.sources[0]]
    names, former = set(step.targets), set(old.sources)
    was_equal = len({spec.shape for spec in old.program.sources}) == 1
    return (names <= former or former <= names) and (
        was_equal or not any(takes_equal_parts(mapping.transforms[number]) for number in step.rules)
    )


def _unproven(mapping: Mapping, keys: list[str], before: Step, header: Header) -> PlanError:
    return PlanError(
        "inverse-unproven",
        "these tensors have another shape than when they were loaded, and their rules do not take them back",
        where=", ".join(collapse(keys)[:4]),
        expected=", ".join(collapse(before.sources)[:4]),
        got=f"{keys[0]}: {header[keys[0]]}",
        because="\n".join(mapping.rule_name(number) for number in before.rules),
        hint='layout="as is" saves the model under its own names, and save(model, out, mapping) through other rules',
    )
