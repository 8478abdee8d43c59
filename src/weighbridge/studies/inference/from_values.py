"""Infer a mapping: gather evidence, state it as rules, run them, and keep only what came out right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.base.keys import collapse_by_name
from weighbridge.base.specs import widens_exactly
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import Transform, describe
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan import Plan
from weighbridge.planning.plan_options import read_options
from weighbridge.studies.inference.by_value.equal_classes import say_of_all, set_aside
from weighbridge.studies.inference.by_value.equal_matching import doubt_followed, doubt_twins, match_equals
from weighbridge.studies.inference.by_value.evidence import Evidence
from weighbridge.studies.inference.by_value.padded_rows import match_padded
from weighbridge.studies.inference.by_value.told import Told
from weighbridge.studies.inference.commented import Commented
from weighbridge.studies.inference.inverse_proof import inverse_faults
from weighbridge.studies.inference.leftovers import Leftovers, settle_leftovers
from weighbridge.studies.inference.open_choices import OpenChoice, open_choices
from weighbridge.studies.inference.proving import find_strays, names_by, predict, unstated, wrong_targets
from weighbridge.studies.inference.rules import exact_rules, general_rules

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_ROUNDS: Final = 6
"""How often a proposal that came out wrong is made again without what was wrong."""


class Unexplained(NamedTuple):
    """A tensor that no proven rule accounts for.

    Args:
        key: Its key.
        side: ``source`` or ``target``.
        spec: Its dtype and shape, as text.
        tried: What came near, or that nothing did.
    """

    key: str
    side: str
    spec: str
    tried: str


@dataclass(frozen=True, slots=True)
class Inferred:
    """A mapping that was inferred from two checkpoints, with the proof that it holds.

    Args:
        mapping: The rules.
        plan: The plan from the one checkpoint to the other; it was run, and gave the other one's bytes. Where something
            is unexplained, it is the plan of a partial load.
        unexplained: Tensors of either side that the mapping leaves open.
        notes: What to check, as in `open_choices`, then casts, what one side alone has, what else values do not tell,
            and where the way back does not hold.
        options: Options that planning with the mapping needs beside the target, such as ``dtype``.
        open_choices: Where other rules would have given the same values, so that a look is needed.
        inverse_faults: Why the mapping's inverse does not give the first checkpoint back; none if it does, which was
            tried.
    """

    mapping: Mapping
    plan: Plan = field(repr=False)
    unexplained: tuple[Unexplained, ...] = ()
    notes: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    open_choices: tuple[OpenChoice, ...] = ()
    inverse_faults: tuple[str, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether the values, and what follows from them, leave no choice."""
        return not self.open_choices

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of both sides is accounted for."""
        return not self.unexplained

    def explained_by(self) -> list[int]:
        """Return for each rule the number of targets that it has a part in."""
        counts: Counter[int] = Counter()
        for step in self.plan.steps:
            for rule in step.rules:
                counts[rule] += len(step.writes)
        return [counts[number] for number in range(len(self.mapping))]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yield the result as text."""
        moved, total = self._counts()
        rules = f"{len(self.mapping):,} rule{'s' * (len(self.mapping) != 1)}"
        yield f"inferred  {moved:,} of {total:,} targets by {rules}; run, and equal bit for bit"
        for transform, count in zip(self.mapping, self.explained_by(), strict=True):
            yield f"{count:>8,}  {describe(transform)}"
        yield from (f"CHECK     {choice}" for choice in self.open_choices)
        for kind in ("drop", "carry", "initialise"):
            for rule in getattr(self.mapping, kind):
                yield f"{kind:<10}  {rule.pattern}  ({rule.why})"
        yield from (f"note      {note}" for note in self._other_notes())
        yield from (f"option    {name}={value}" for name, value in self.options.items())
        for side in ("target", "source"):
            yield from self._open_lines(side)

    def _other_notes(self) -> tuple[str, ...]:
        """Return the notes without those that say what to check."""
        return self.notes[len(self.open_choices) :]

    def _counts(self) -> tuple[int, int]:
        """Count the targets that the plan fills, and all of them."""
        moved = sum(len(step.writes) for step in self.plan.steps if step.fate != "carried")
        return moved, moved + len(self.plan.tied_targets) + len(self.plan.initialised)

    def _head(self) -> Iterator[str]:
        """Yield what was proven, and with which options."""
        if self.is_complete:
            yield "Inferred from two checkpoints; its plan was run, and gave the second one's tensors bit for bit."
        else:
            moved, total = self._counts()
            yield f"Inferred from two checkpoints, and not complete: its plan was run, and gave {moved:,} of the second"
            yield f"one's {total:,} tensors bit for bit. What is open stands at the end; a strict plan will not pass."
        if self.options:
            yield "That was proven with these options beside the target; without them, planning gives something else:"
            yield from (f"  --{name} {value}" for name, value in self.options.items())

    def _open_lines(self, side: str) -> Iterator[str]:
        reasons: dict[str, list[str]] = {}
        for each in self.unexplained:
            if each.side == side:
                reasons.setdefault(each.tried, []).append(each.key)
        for reason, keys in reasons.items():
            yield from (f"unexplained {side}  {line}: {reason}" for line in collapse_by_name(keys))

    def to_file(self) -> str:
        """Return a mapping file with comments: what each rule accounts for, what to check, notes, what is open."""
        return self.commented().to_yaml()

    def commented(self) -> Commented:
        """Return the mapping with what is to be said in its file, in whichever form it is written."""
        remarks = [f"{count:,} tensor{'s' * (count != 1)}" for count in self.explained_by()]
        for choice in self.open_choices:
            for rule in choice.rules:
                remarks[rule] += f"\nCHECK: {choice}"
        rest = [f"CHECK: {choice}" for choice in self.open_choices if not choice.rules]
        rest += [f"note: {note}" for note in self._other_notes()]
        rest += [line for side in ("target", "source") for line in self._open_lines(side)]
        return Commented(self.mapping, tuple(remarks), tuple(self._head()), ("", *rest) if rest else ())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "mapping": self.mapping.to_dict(),
            "explained_by": self.explained_by(),
            "complete": self.is_complete,
            "unexplained": [each._asdict() for each in self.unexplained],
            "notes": list(self.notes),
            "options": dict(self.options),
            "open_choices": [choice.to_dict() for choice in self.open_choices],
            "inverse_faults": list(self.inverse_faults),
        }


def infer_mapping(source: Checkpoint, target: Checkpoint, name: str = "") -> Inferred:
    """Infer the mapping that gives one checkpoint from another one of the same model.

    Args:
        source: What the mapping is to read.
        target: What it is to give.
        name: The mapping's name.

    Returns:
        The mapping with its proof, and what it leaves open.

    Raises:
        CheckpointError: `data-missing` for a header without values, and the codes of reading.
        PlanError: `target-missing` when the two have nothing in common.
    """
    evidence = Evidence(source, target)
    _gather(evidence)
    for _ in range(_ROUNDS):
        if not evidence.facts:
            break
        rules, strays = _choose_rules(evidence)
        if strays is None:
            evidence.withdraw(unstated(rules, evidence))
            continue
        found = _propose(evidence, rules, settle_leftovers(evidence, strays), name)
        wrong = wrong_targets(found.plan, source, target)
        if not wrong:
            return _with_way_back(found, evidence, name)
        evidence.withdraw(wrong)
    raise PlanError(
        "target-missing",
        "the two checkpoints have no tensor in common",
        where=target.where,
        hint="give two checkpoints of the same model, with the same values",
    )


def _gather(evidence: Evidence) -> None:
    """Take over what values tell, then what follows from it, then what is left to be chosen."""
    evidence.read_all()
    replicas = set_aside(evidence)
    evidence.match_unique()
    evidence.match_moved()
    evidence.match_joined()
    match_padded(evidence)
    evidence.match_joined(has_gap=True)
    say_of_all(evidence, replicas)
    evidence.told = Told(list(evidence.facts))
    rules = _general(evidence)
    doubt_twins(evidence)
    followed = predict(rules, evidence)
    doubt_followed(evidence, followed)
    evidence.followed |= {key for fact in followed for key in fact.target_keys}
    if evidence.open_targets:
        match_equals(evidence, names_by(rules, evidence.open_sources))
        evidence.match_moved(told=False)
        evidence.match_joined(told=False)
        match_padded(evidence, told=False)
        evidence.match_joined(told=False, has_gap=True)


def _general(evidence: Evidence) -> list[Transform]:
    return general_rules(evidence.facts, evidence.open_sources)


def _choose_rules(evidence: Evidence) -> tuple[list[Transform], set[str] | None]:
    """State the evidence in general rules, or name by name where these come to something else; see `find_strays`."""
    rules = _general(evidence)
    strays = find_strays(rules, evidence)
    if strays is None:
        rules = exact_rules(evidence.facts)
        strays = find_strays(rules, evidence)
    return rules, strays


def _propose(evidence: Evidence, rules: list[Transform], leftovers: Leftovers, name: str) -> Inferred:
    """Make a mapping of rules and compile it."""
    mapping = Mapping(rules, name, drop=leftovers.drop, carry=leftovers.carry, initialise=leftovers.initialise)
    plan, options = _compile(evidence, mapping, leftovers)
    choices = open_choices(plan, evidence.choices)
    notes = (*map(str, choices), *_notes(evidence, plan), *leftovers.notes)
    return Inferred(mapping, plan, _unexplained(evidence, leftovers), notes, options, choices)


def _with_way_back(found: Inferred, evidence: Evidence, name: str) -> Inferred:
    """Prove the inverse of a proposal that holds; where it does not, prefer rules name by name whose inverse does."""
    faults = inverse_faults(found.mapping, found.plan, evidence.source, evidence.target)
    if not faults:
        return found
    rules = exact_rules(evidence.facts)
    strays = find_strays(rules, evidence)
    if strays is not None and tuple(rules) != found.mapping.transforms:
        other = _propose(evidence, rules, settle_leftovers(evidence, strays), name)
        held = not wrong_targets(other.plan, evidence.source, evidence.target)
        if held and not inverse_faults(other.mapping, other.plan, evidence.source, evidence.target):
            return other
    said = f"the way back does not hold: {faults[0]}" + f", and {len(faults) - 1} more" * (len(faults) > 1)
    return replace(found, inverse_faults=faults, notes=(*found.notes, said))


def _compile(evidence: Evidence, mapping: Mapping, leftovers: Leftovers) -> tuple[Plan, dict[str, str]]:
    """Compile the mapping as a user would; where the names alone would fit as well, the layout must be declared."""
    options: dict[str, str] = {"dtype": "target"} if _casts(evidence) else {}
    is_open = bool(leftovers.open_sources or leftovers.open_targets)
    source, target = evidence.source, evidence.target
    for layout in ({}, {"layout": "mapped"}):
        try:
            chosen = read_options({"partial": is_open, "allow_overflow": True, **options, **layout})
            plan = compile_plan(source.header, mapping, target.header, files=source.files, options=chosen)
        except PlanError as problem:
            if problem.code != "layout-ambiguous" or layout:
                raise
            continue
        return plan, options | layout
    raise AssertionError("the second try returns or raises")


def _casts(evidence: Evidence) -> dict[tuple[str, str], int]:
    """Count the casts from one dtype to another."""
    pairs: Counter[tuple[str, str]] = Counter()
    for fact in evidence.facts:
        pair = evidence.source.header[fact.source_keys[0]].dtype, evidence.target.header[fact.target_keys[0]].dtype
        pairs[pair] += len(fact.target_keys)
    return {pair: count for pair, count in pairs.items() if pair[0] != pair[1]}


def _notes(evidence: Evidence, plan: Plan) -> list[str]:
    notes = [*_followed_notes(evidence)]
    for (before, after), count in sorted(_casts(evidence).items()):
        kind = "exact: each value stays" if widens_exactly(before, after) else "rounded: the way back is lossy"
        are = "target is" if count == 1 else "targets are"
        notes.append(f"{count:,} {are} cast from {before} to {after} ({kind})")
    if plan.tied_targets:
        count = len(plan.tied_targets)
        notes.append(f"{count:,} target{'s share' if count > 1 else ' shares'} the storage of another one")
    return notes


def _followed_notes(evidence: Evidence) -> Iterator[str]:
    """Say how many targets have their place by the rules that others gave, with an example."""
    keys = sorted(key for key in evidence.followed if key not in evidence.choices and key not in evidence.open_targets)
    if keys:
        follow = "1 target is" if len(keys) == 1 else f"{len(keys):,} targets are"
        shown = collapse_by_name(keys)
        others = ", …" * (len(shown) > 1)
        yield f"{follow} not told by values; the rules of others, or names that stay, lead there: {shown[0]}{others}"


def _unexplained(evidence: Evidence, leftovers: Leftovers) -> tuple[Unexplained, ...]:
    sides = (
        ("target", leftovers.open_targets, evidence.target.header),
        ("source", leftovers.open_sources, evidence.source.header),
    )
    return tuple(
        Unexplained(key, side, str(header[key]), evidence.tried.get(key, _NOTHING[side]))
        for side, keys, header in sides
        for key in keys
    )


_NOTHING: Final = {
    "target": "no tensor of the source, or part of one, holds its values",
    "source": "no tensor of the target, or part of one, holds its values",
}
