"""Explain one key of a plan: every rule that was tried, what fired, its copies, the nearest names for a miss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from weighbridge.algebra.regions import region
from weighbridge.base.errors import PlanError
from weighbridge.base.keys import collapse, nearest
from weighbridge.base.specs import Header
from weighbridge.mappings.lora.named_dialects import weight_name
from weighbridge.mappings.transforms import describe
from weighbridge.planning.config_names.moved_modules import module_of
from weighbridge.planning.config_names.said_of_modules import ChangedText, said_of_modules
from weighbridge.planning.names.wanting import Wanted
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Condition, Fate, Step
from weighbridge.planning.tracing import Rules, last_stars, match_rule, prepare, require_name, trace_key
from weighbridge.planning.way_back.origins import find_origins
from weighbridge.reporting.belonging import Belonging, find_belongings
from weighbridge.reporting.conditions import condition_lines
from weighbridge.reporting.diagrams import draw_step
from weighbridge.reporting.membership import missing_members, near_miss

SHOWN_LINES = 40
"""Lines of copies that a printed explanation shows."""


class Tried(NamedTuple):
    """One rule that was tried on a key: its name, whether it fired, and what the key was before and after."""

    rule: str
    outcome: str
    before: str
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a key goes where it goes; `str` gives it as text.

    Args:
        key: What was asked about.
        sides: ``source``, ``target``, both, or neither for a key that the plan does not know.
        fates: The key's fate on each of its sides.
        tried: Every rule in order, for the key itself or, for a target, for its first source or origin.
        copies: The strided copies that touch the key, in words.
        nearest: Existing names like it, for a key that the plan does not know, or that a partial load does not fill.
        group: The incomplete group that the key belongs to, and what is missing of it.
        diagrams: The copies as pictures, in lines of text.
        origins: Names that the rules would make the key of, for one that nothing fills.
        conditions: Which sources must be equal, and what is cut off, where the key is one of them, or made of them.
        weight: What rules call the quantised weight that the key belongs to; empty for any other tensor.
        stored_as: The tensors of that weight, the codes first.
        configurations: What configurations that change say of its module, and of what that becomes.
    """

    key: str
    sides: tuple[str, ...]
    fates: tuple[Fate, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    tried: tuple[Tried, ...]
    copies: tuple[str, ...]
    nearest: tuple[str, ...]
    group: tuple[str, ...] = ()
    diagrams: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    weight: str = ""
    stored_as: tuple[str, ...] = ()
    configurations: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        known = " and ".join(self.sides) or "in neither layout"
        fates = ", ".join(fate.name + (f" ({fate.by})" if fate.by else "") for fate in self.fates)
        yield f"{self.key}   {known}" + (f": {fates}" if fates else "")
        if self.weight:
            yield f"  weight   {self.weight}, stored as {', '.join(collapse(self.stored_as))}"
        if self.origins:
            yield f"  origin   {', '.join(self.origins)}: not in the source; the rules would make the key of it"
        if self.nearest:
            yield f"  nearest  {', '.join(self.nearest)}"
        if self.sources:
            yield f"  from     {', '.join(collapse(self.sources))}"
            yield f"  to       {', '.join(collapse(self.targets))}"
        yield from (f"  if equal {condition}" for condition in self.conditions)
        yield from (f"  config   {said}" for said in self.configurations)
        yield from (f"  {'group' if number == 0 else '':<8} {line}" for number, line in enumerate(self.group))
        for tried in self.tried:
            yield f"  {tried.rule}"
            yield f"      {tried.outcome}" + (f": {tried.before} -> {', '.join(tried.after)}" if tried.after else "")
        yield from (f"  {copy}" for copy in self.copies[:SHOWN_LINES])
        if len(self.copies) > SHOWN_LINES:
            yield f"  … and {len(self.copies) - SHOWN_LINES:,} more"
        if self.diagrams:
            yield ""
            yield from (f"  {line}" for line in self.diagrams)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "key": self.key,
            "sides": list(self.sides),
            "fates": [fate._asdict() for fate in self.fates],
            "sources": list(self.sources),
            "targets": list(self.targets),
            "rules": [tried._asdict() for tried in self.tried],
            "copies": list(self.copies),
            "nearest": list(self.nearest),
            "group": list(self.group),
            "diagrams": list(self.diagrams),
            "origins": list(self.origins),
            "conditions": list(self.conditions),
            "weight": self.weight,
            "stored_as": list(self.stored_as),
            "configurations": list(self.configurations),
        }


def explain(
    plan: Plan, key: str, changed: Iterable[ChangedText] = (), weights: Mapping[str, str] | None = None
) -> Explanation:
    """Explain one key of either side of a plan.

    Args:
        plan: The plan to look in.
        key: A source's or a target's key; any other text is explained as a miss, with the nearest names.
        changed: The configurations that change: the name of each, and its text before and after.
        weights: For tensors of an adapter, the weights that they belong to, where their names do not tell it.

    Returns:
        Everything that is known about the key.
    """
    fates = {"source": dict(plan.source_fates()), "target": dict(plan.target_fates())}
    sides = tuple(side for side, known in fates.items() if key in known)
    numbers = dict.fromkeys(fates[side][key].step for side in sides)
    steps = [plan.steps[number] for number in numbers if number is not None]
    origins = () if steps or "source" in sides else _missing_origins(plan, key)
    lacks = not sides or any(fates[side][key] == Fate("initialised", by="partial=True") for side in sides)
    group = missing_members(plan.mapping, plan.source, key) if _is_left_out(plan, steps) else ()
    near = _near(plan, origins, key) if lacks and not (sides and group) else ()
    traced = key if "source" in sides else next(iter([*(s for step in steps for s in step.sources), *origins]), key)
    ruled = (weights or {}).get(traced) or (weight_name(traced) if plan.is_of_adapter else traced)
    own = find_belongings(plan.source if "source" in sides else plan.target).get(key)
    read = own if traced == key else find_belongings(plan.source).get(traced)
    return Explanation(
        key,
        sides,
        tuple(fates[side][key] for side in sides),
        tuple(source for step in steps for source in step.reads),
        tuple(target for step in steps for target in step.writes),
        run_rules(plan, ruled, read, steps) if ruled is not None else (),
        tuple(line for step in steps for line in _copy_lines(step, key)),
        near,
        group,
        tuple(line for step in steps for line in draw_step(step, key)),
        origins,
        tuple(condition_lines(each for step in steps for each in step.conditions() if _is_about(each, key))),
        own.weight if own else "",
        own.tensors if own else (),
        tuple(line for each in changed for line in said_of_modules(each, *_modules(steps))),
    )


def _modules(steps: Iterable[Step]) -> tuple[list[str], list[str]]:
    """Return the modules that steps read, and those that they write."""
    sources = dict.fromkeys(module_of(key) for step in steps for key in step.reads)
    targets = dict.fromkeys(module_of(key) for step in steps for key in step.writes)
    return list(sources), list(targets)


def _is_about(condition: Condition, key: str) -> bool:
    return key == condition.target or any(key in way for way in condition.ways)


def _missing_origins(plan: Plan, key: str) -> tuple[str, ...]:
    """Name what the rules would make a key of, where none of that is there: what is there has made something else."""
    found = find_origins(plan.mapping, [key]).get(key)
    return () if found is None or any(name in plan.source for name in found.sources) else found.sources


def _near(plan: Plan, origins: tuple[str, ...], key: str) -> tuple[str, ...]:
    like_origin = [name for origin in origins[:1] for name in nearest(origin, list(plan.source), 2)]
    like_key = nearest(key, list(dict.fromkeys([*plan.source, *plan.target])), 5)
    return tuple(dict.fromkeys([*like_key[:1], *like_origin, *like_key]))[:5]


def _is_left_out(plan: Plan, steps: Iterable[Step]) -> bool:
    """Whether a key may belong to a group that a partial plan leaves out: carried, filled by nothing, or unknown."""
    return bool(plan.mapping.converters) and all(step.fate == "carried" for step in steps)


def run_rules(plan: Plan, key: str, weight: Belonging | None, steps: Sequence[Step]) -> tuple[Tried, ...]:
    """Run every rule over a key, by the name that those which fired know it by: its own, or that of its weight.

    Args:
        plan: The plan.
        key: The key.
        weight: The quantised weight that it belongs to, if any.
        steps: The steps that read it.
    """
    names = dict.fromkeys((key, *(() if weight is None else (weight.weight,))))
    runs = [tuple(try_rules(plan, name)) for name in names]
    return next((run for run in runs if steps and fired_in(run) == steps[0].rules), runs[0])


def fired_in(run: Sequence[Tried]) -> tuple[int, ...]:
    """Return the numbers of the rules that fired."""
    return tuple(number for number, each in enumerate(run) if each.outcome == "fired")


def try_rules(plan: Plan, key: str) -> Iterator[Tried]:
    """Run every rule of a plan's mapping over a key, and say what each of them did."""
    rules = prepare(plan.mapping)
    spared = _spared_rules(plan, key)
    name, converted = key, False
    for rule in rules.rules:
        label = f"rule {rule.number + 1}  {describe(plan.mapping.transforms[rule.number])}"
        if rule.converts and converted:
            yield Tried(label, "not tried: a converter has fired", name, ())
            continue
        try:
            written = _write(rules, rule.number, name)
        except PlanError as problem:
            if problem.code != "index-out-of-range":
                raise
            yield Tried(label, f"cannot be used: {problem.got}", name, ())
            continue
        if not written:
            outside = rule.scope and not name.startswith(rule.scope + ".")
            near = "" if outside else near_miss(rule, name)
            unmatched = "no match" + (f": nearly, but {near}" if near else "")
            yield Tried(label, f"outside scope {rule.scope}" if outside else unmatched, name, ())
            continue
        if rule.number in spared:
            yield Tried(label, "left alone, as its result is not in the target", name, written)
            continue
        yield Tried(label, "fired", name, written)
        name, converted = written[0], converted or rule.converts


def _spared_rules(plan: Plan, key: str) -> frozenset[int]:
    """Return the numbers of the rules that gave way on a key to what the target has."""
    if not any(rule.if_wanted for rule in plan.mapping):
        return frozenset()
    reached = Header({**plan.target.specs, **{fated.key: fated.spec for fated in plan.initialised}})
    try:
        return trace_key(prepare(plan.mapping, Wanted(reached, plan.source)), key).spared
    except PlanError:
        return frozenset()


def _write(rules: Rules, number: int, name: str) -> tuple[str, ...]:
    rule = rules.rules[number]
    matched = match_rule(rules, rule, name)
    if matched is None:
        return ()
    lane, match, inner = matched
    if not rule.converts:
        return (require_name(rules, rule, rule.pairs[lane][1], match, match.captures, inner),)
    captures = dict(match.captures)
    for star in last_stars(rule.pairs[lane][0], rule.merges):
        captures.pop(star)
    free = [dict.fromkeys(last_stars(target, rule.splits), "*") for target in rule.targets]
    sides = zip(rule.targets, free, strict=True)
    return tuple(require_name(rules, rule, target, match, captures | star, inner) for target, star in sides)


def _copy_lines(step: Step, key: str) -> Iterator[str]:
    """Yield the copies that touch a key, target region first, each source region beside it."""
    program = step.program
    names, written = step.slot_names, len(program.temporaries) + len(step.targets)
    outputs = [*names[program.first_temporary :], *step.targets, *step.cut_names]
    made = list(zip(outputs, program.outputs, strict=True))
    temporaries = set(names[program.first_temporary :])
    before, after = {key}, {key}  # with the temporaries that the key is made of, and that are made of it
    reads = [(name, {names[copy.source] for copy in output.layout.copies}) for name, output in made]
    for name, parts in reads:
        after |= {name} & temporaries if parts & after else set()
    for name, parts in reversed(reads):
        before |= parts & temporaries if name in before else set()
    for number, (name, output) in enumerate(made):
        sign = "==" if number < written and name in outputs[:number] else "<-"
        for copy in output.layout.copies:
            if name not in before and names[copy.source] not in after:
                continue
            source = program.slots[copy.source]
            target_box = region(copy, output.layout.shape, of_target=True)
            is_declared = len(step.sources) <= copy.source < program.first_temporary
            source_box = "" if is_declared else region(copy, source.shape, of_target=False)
            cast = f"  cast {source.dtype} to {output.dtype}" if source.dtype != output.dtype else ""
            yield f"{name}{target_box} {sign} {names[copy.source]}{source_box}{cast}"
