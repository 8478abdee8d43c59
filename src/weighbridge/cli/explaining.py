"""Explain a key of a plan that could not be made: that is when one most needs to know what the rules did to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import nearest
from weighbridge.base.specs import Header
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.fitting import draft_reading
from weighbridge.planning.plan import Plan
from weighbridge.planning.plan_options import Options
from weighbridge.planning.readings import Reading
from weighbridge.reporting.explanation import Explanation, Tried, explain, try_rules
from weighbridge.reporting.membership import missing_members


def explain_unfit(mapping: Mapping, source: Header, target: Header | None, key: str) -> Explanation:
    """Explain a key though the mapping does not fit.

    The mapping is run without a target, so that the names it gives are known wherever it gives any.

    Args:
        mapping: The mapping.
        source: Specs of the checkpoint's tensors.
        target: Specs of the tensors that are wanted, if any.
        key: A key of either side, or one that is nowhere.

    Returns:
        What the rules make of the key. `nearest` names what it, or what it becomes, was perhaps meant to be.
    """
    draft = draft_reading(Reading("mapped", mapping), source, None, Options()).plan
    found = _try_explain(draft, key)
    sides = (("source", source), ("target", target or ()))
    return Explanation(
        key,
        tuple(name for name, header in sides if key in header),
        (),
        found.sources,
        found.targets,
        found.tried,
        found.copies,
        tuple(dict.fromkeys(near for near in _near(key, found, source, target, draft) if near != key))[:6],
        missing_members(mapping, source, key),
        found.diagrams,
        found.origins,
        weight=found.weight,
        stored_as=found.stored_as,
    )


def _try_explain(draft: Plan, key: str) -> Explanation:
    try:
        return explain(draft, key)
    except WeighbridgeError as problem:
        return Explanation(key, (), (), (), (), _tried(draft, key, problem), (), ())


def _tried(draft: Plan, key: str, problem: WeighbridgeError) -> tuple[Tried, ...]:
    """Keep the rules that could be tried before one of them failed."""
    tried: list[Tried] = []
    try:
        tried.extend(try_rules(draft, key))
    except WeighbridgeError as failure:
        problem = failure
    return (*tried, Tried(problem.headline, "failed", key, ()))


def _near(key: str, found: Explanation, source: Header, target: Header | None, draft: Plan) -> Iterable[str]:
    """Yield names like the key: those that it could have come from, and those that it could have become."""
    for origin in found.origins[:1]:
        yield from nearest(origin, source)
    if key not in source:
        yield from nearest(key, _produced(draft))
        yield from nearest(key, source)
    for name in found.targets or (key,):
        if target is not None and name not in target:
            yield from nearest(name, target)


def _produced(draft: Plan) -> Collection[str]:
    return draft.step_of_target
