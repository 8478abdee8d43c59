"""Sketch a mapping from two headers: what could be meant, marked as guesses, for a person to go on with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from weighbridge.base.keys import collapse_by_name
from weighbridge.base.specs import Header
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import Transform, describe
from weighbridge.planning.drafts import Draft
from weighbridge.planning.fitting import draft_reading
from weighbridge.planning.plan_options import Options
from weighbridge.planning.readings import Reading
from weighbridge.studies.inference.commented import Commented
from weighbridge.studies.inference.guesses import Guess, facts_of, guess
from weighbridge.studies.inference.rules import exact_rules, general_rules


@dataclass(frozen=True, slots=True)
class Sketch:
    """A mapping that was guessed from names and shapes.

    Args:
        mapping: The rules.
        remarks: For each rule, what speaks for it.
        unfilled: Targets that no rule reaches.
        left_over: Sources that no rule brings to a target.
    """

    mapping: Mapping
    remarks: tuple[str, ...]
    unfilled: tuple[str, ...]
    left_over: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield the result as text."""
        yield f"sketched  {len(self.mapping):,} rule{'s' * (len(self.mapping) != 1)}, guessed from names and shapes"
        for transform, remark in zip(self.mapping, self.remarks, strict=True):
            yield f"  {describe(transform)}"
            yield f"      {remark}"
        yield from self._open_lines()

    def _open_lines(self) -> Iterator[str]:
        for what, keys in (("not filled", self.unfilled), ("left over", self.left_over)):
            yield from (f"{what}: {line}" for line in collapse_by_name(keys))

    def to_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "mapping": self.mapping.to_dict(),
            "remarks": list(self.remarks),
            "unfilled": list(self.unfilled),
            "left_over": list(self.left_over),
        }

    def to_file(self) -> str:
        """Return a mapping file with what speaks for each rule, and what is left to do, as comments."""
        return self.commented().to_yaml()

    def commented(self) -> Commented:
        """Return the mapping with what is to be said in its file, in whichever form it is written."""
        head = ["Sketched from names and shapes alone: check each guess, then what `weighbridge plan` says."]
        left = [f"  {line}" for line in self._open_lines()]
        return Commented(self.mapping, self.remarks, tuple(head), ("", "Left to do:", *left) if left else ())


def sketch_mapping(source: Header, target: Header, name: str = "") -> Sketch:
    r"""Sketch the mapping from one layout to another.

    Args:
        source: Specs of the layout that is there.
        target: Specs of the layout that is wanted.
        name: The mapping's name.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> there = Header({f"h.{i}.ln.weight": TensorSpec("F32", (4,)) for i in range(3)})
        >>> wanted = Header({f"layers.{i}.ln.weight": TensorSpec("F32", (4,)) for i in range(3)})
        >>> print(*sketch_mapping(there, wanted).lines(), sep="\n")
        sketched  1 rule, guessed from names and shapes
          WeightRenaming(^h -> layers)
              guess: names alike, shapes equal (likeness 0.84); 3 tensors, such as h.0.ln.weight -> layers.0.ln.weight
    """
    guesses = guess(source, target)
    facts = facts_of(guesses)
    known = {key for fact in facts for key in fact.source_keys}
    rules = general_rules(facts, [key for key in source if key not in known])
    made = _draft(rules, source, target)
    if not _states(made, guesses):
        rules = exact_rules(facts)
        made = _draft(rules, source, target)
    filled = {key for step in made.plan.steps if step.fate != "carried" for key in step.targets}
    used = {key for step in made.plan.steps if step.fate != "carried" for key in step.sources}
    return Sketch(
        Mapping(rules, name=name),
        _remarks(rules, made, guesses),
        tuple(sorted(key for key in target if key not in filled)),
        tuple(sorted(key for key in source if key not in used)),
    )


def _draft(rules: list[Transform], source: Header, target: Header) -> Draft:
    reading = Reading("mapped", Mapping(rules))
    return draft_reading(reading, source, target, Options(partial=True))


def _states(made: Draft, guesses: list[Guess]) -> bool:
    steps = {(step.sources, step.targets) for step in made.plan.steps}
    return not made.faults and all((fact.source_keys, fact.target_keys) in steps for fact in facts_of(guesses))


def _remarks(rules: list[Transform], made: Draft, guesses: list[Guess]) -> tuple[str, ...]:
    """Say of each rule what it does, and of the weakest guess that it rests on why it was made."""
    by_target = {fact.target_keys[0]: one for one in guesses for fact in one.facts}
    counts: Counter[int] = Counter()
    examples: dict[int, str] = {}
    weakest: dict[int, Guess] = {}
    for step in made.plan.steps:
        for rule in step.rules:
            counts[rule] += len(step.targets)
            examples.setdefault(rule, f"{step.sources[0]} -> {step.targets[0]}")
            one = by_target.get(step.targets[0])
            if one is not None and one.likeness <= weakest.get(rule, one).likeness:
                weakest[rule] = one
    return tuple(_remark(weakest.get(n), counts[n], examples.get(n, "")) for n in range(len(rules)))


def _remark(weakest: Guess | None, count: int, example: str) -> str:
    if weakest is None:
        return "guess: fires on nothing that is known"
    tensors = f"{count:,} tensor{'s' * (count != 1)}, such as {example}"
    return f"guess: {weakest.why} (likeness {weakest.likeness:.2f}); {tensors}"
