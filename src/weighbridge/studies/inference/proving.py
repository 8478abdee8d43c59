"""Run what is proposed, and compare every tensor with the one it should be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import Transform, WeightConverter
from weighbridge.planning.drafts import Draft
from weighbridge.planning.fitting import draft_reading
from weighbridge.planning.plan_options import Options
from weighbridge.planning.readings import Reading
from weighbridge.planning.tracing import prepare, spell, trace_keys
from weighbridge.running.execute import run_step
from weighbridge.running.results import stream
from weighbridge.running.taken_values import holds_conditions
from weighbridge.studies.inference.by_value.fingerprints import bits_of
from weighbridge.studies.inference.tensor_facts import Fact, Lane, starred

if TYPE_CHECKING:
    import torch

    from weighbridge.planning.plan import Plan
    from weighbridge.planning.steps import Step
    from weighbridge.storage.protocol import Checkpoint
    from weighbridge.studies.inference.by_value.evidence import Evidence


def draft(rules: Sequence[Transform], source: Checkpoint, target: Checkpoint) -> Draft:
    """Compile rules as far as they go; what does not fit is listed in the draft, not raised."""
    options = Options(partial=True, dtype="target", allow_overflow=True)
    return draft_reading(Reading("mapped", Mapping(rules)), source.header, target.header, options)


def predict(rules: Sequence[Transform], evidence: Evidence) -> list[Fact]:
    """Follow rules to tensors that they were not learned from, and take over what holds when it is run.

    Args:
        rules: The rules.
        evidence: What is known; findings are added to it.

    Returns:
        The findings that were added.
    """
    found: list[Fact] = []
    for step in draft(rules, evidence.source, evidence.target).plan.steps:
        fact = _fact_of(step, rules) if step.fate != "carried" and _is_open(step, evidence) else None
        if fact is not None and _holds(step, evidence) and evidence.add(fact):
            found.append(fact)
    return found


def names_by(rules: Sequence[Transform], keys: Iterable[str]) -> dict[str, str]:
    """Return what rules call keys that no converter takes, whether the target has such a name or not."""
    traced = trace_keys(prepare(Mapping(rules)), keys, [])
    return {
        key: spell(trace.name, indices) if trace.fired else key
        for trace, members in traced
        if trace.hit is None
        for key, indices in members
    }


def _is_open(step: Step, evidence: Evidence) -> bool:
    header = evidence.target.header.specs
    return (
        all(key in evidence.open_sources for key in step.sources)
        and all(key in evidence.open_targets for key in step.targets)
        and all(header[key] == output.spec for key, output in zip(step.targets, step.program.targets, strict=True))
    )


def _fact_of(step: Step, rules: Sequence[Transform]) -> Fact | None:
    """Read a step as a finding."""
    converter = next((rule for n in step.rules if isinstance(rule := rules[n], WeightConverter)), None)
    if converter is None:
        return Fact.rename(step.sources[0], step.targets[0])
    sources = _lanes(step.reads, len(converter.source_patterns), converter.arity.merges > 0)
    targets = _lanes(tuple(step.writes), len(converter.target_patterns), converter.arity.splits > 0)
    return None if sources is None or targets is None else Fact(sources, targets, converter.operations)


def _lanes(keys: Sequence[str], count: int, indexed: bool) -> tuple[Lane, ...] | None:
    size = len(keys) // count
    if not indexed:
        return tuple(Lane((key,)) for key in keys)
    if size == 1:
        return None
    return starred([keys[lane * size : (lane + 1) * size] for lane in range(count)])


def _holds(step: Step, evidence: Evidence) -> bool:
    """Run one step and compare what it gives; what it takes for granted of its sources has to be so."""
    if not holds_conditions(step, evidence.source):
        return False
    return all(is_equal(value, evidence.target, key) for key, value in run_step(step, evidence.source))


def is_equal(value: torch.Tensor, checkpoint: Checkpoint, key: str) -> bool:
    """Tell whether a tensor has the dtype, the shape and the bits of one of a checkpoint."""
    other = checkpoint.tensor(key).detach().to("cpu").contiguous()
    same = value.dtype == other.dtype and value.shape == other.shape
    return same and bits_of(value.contiguous()).equal(bits_of(other))


def find_strays(rules: Sequence[Transform], evidence: Evidence) -> set[str] | None:
    """Compare what rules come to with the findings.

    Args:
        rules: The rules.
        evidence: The findings; for a target that rules lead to without one, it is noted from where.

    Returns:
        Open sources that have to be kept from the rules, since they would end in a tensor of other values; None where
        the rules do not come to the findings.
    """
    made = draft(rules, evidence.source, evidence.target)
    steps = _ends(made.plan)
    wanted = {(fact.source_keys, fact.target_keys) for fact in evidence.facts}
    stray = steps - wanted
    if not wanted <= steps or any(not evidence.open_sources.keys() >= set(sources) for sources, _ in stray):
        return None
    for sources, targets in sorted(stray):
        reason = (
            f"the rules lead here from {', '.join(sources[:3])}, which hold{'s' * (len(sources) == 1)} other values"
        )
        evidence.tried |= {key: reason for key in targets if key in evidence.open_targets}
    carried = {key for step in made.plan.steps if step.fate == "carried" for key in step.sources}
    return {key for key in evidence.open_sources if key not in carried or key in evidence.target.header}


def unstated(rules: Sequence[Transform], evidence: Evidence) -> set[str]:
    """Return the targets of the findings that rules do not come to; of all findings if they do something else too."""
    made = draft(rules, evidence.source, evidence.target)
    steps = _ends(made.plan)
    missing = [fact for fact in evidence.facts if (fact.source_keys, fact.target_keys) not in steps]
    return {key for fact in missing or evidence.facts for key in fact.target_keys}


def _ends(plan: Plan) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return what each step that rules made reads and writes."""
    return {(step.reads, tuple(step.writes)) for step in plan.steps if step.fate != "carried"}


def wrong_targets(plan: Plan, source: Checkpoint, target: Checkpoint) -> set[str]:
    """Run a plan and compare all that it gives.

    Args:
        plan: The plan.
        source: What it reads.
        target: What it should give.

    Returns:
        Keys of the target whose tensors came out otherwise.

    Raises:
        CheckpointError: The codes of reading.
    """
    broken = {key for step in plan.steps if not holds_conditions(step, source) for key in step.targets}
    if broken:
        return broken  # such a plan does not run
    return {key for key, value in stream(plan, source) if key in target.header and not is_equal(value, target, key)}
