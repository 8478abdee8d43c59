"""Let a known layout settle the way back: run the mapping forwards from it, and turn every step round.

What a derived inverse could only guess (which of two rules made a name, whether the name was there already, how long
the parts of a joined tensor were) the names and shapes of the layout to reach say without a doubt.
"""

from __future__ import annotations

from dataclasses import replace

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.specs import Header
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.fitting import draft_reading
from weighbridge.planning.plan_options import Options
from weighbridge.planning.program import Program
from weighbridge.planning.readings import Names, Reading
from weighbridge.planning.steps import Step
from weighbridge.planning.way_back.origins import invert_rules
from weighbridge.planning.way_back.recasting import in_dtypes


def steps_from_target(
    reading: Reading, source: Header, target: Header | None, options: Options
) -> tuple[Step, ...] | None:
    """Make the steps of a way back from the layout that it is to reach.

    Args:
        reading: The inverse of a mapping, with the exceptions that were declared.
        source: What is there.
        target: What is to be reached, if that is known.
        options: What was declared.

    Returns:
        The steps; None where the mapping, run forwards from the target, does not give exactly what is there. In a
        partial way back, what it does not give has no place in the target, and keeps its name.
    """
    inverse = reading.mapping
    forward = inverse.forward
    if forward is None or target is None or source.ties or target.ties:
        return None
    live = Header({key: source.specs[key] for key in reading.live(source)})
    apart = source.specs.keys() - live.specs.keys()
    names = Names(target)
    apart |= {key for rule in inverse.initialise for key in names.matching(rule.pattern, rule.scope)}
    wanted = Header({key: spec for key, spec in target.specs.items() if key not in apart})
    plain = replace(forward, refuse=(), initialise=())
    known = Options(config=options.config, partial=options.partial)
    there = draft_reading(Reading("mapped", plain), wanted, live, known)
    made = [step for step in there.plan.steps if not live.specs.keys().isdisjoint(step.targets)]
    cast = [step for step in made if step.program.casts]
    if not there.fits or not all(_makes(step, live) for step in cast):
        return None
    others = replace(there.plan, steps=tuple(step for step in made if not step.program.casts), initialised=())
    try:
        back = [step.inverse() for step in (*in_dtypes(others, live).steps, *cast)]
    except WeighbridgeError:  # a cast that rounds has no inverse
        return None
    kept = [Step((key,), (key,), Program.identity(live[key]), "moved") for key in there.missing]
    return tuple(_numbered(step, inverse) for step in (*back, *kept))


def _makes(step: Step, live: Header) -> bool:
    """Tell whether a step that casts gives the dtypes that are there."""
    return all(live[key].dtype == output.dtype for key, output in zip(step.targets, step.program.targets, strict=True))


def _numbered(step: Step, inverse: Mapping) -> Step:
    """Give a step the numbers that its rules have in the inverse of the mapping."""
    assert inverse.forward is not None
    places = {number: place for place, number in enumerate(invert_rules(inverse.forward).numbers)}
    rules = sorted(places[number] for number in step.rules if number in places)
    return replace(step, rules=tuple(rules))
