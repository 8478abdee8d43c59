"""Cut a plan to what one process holds: of what it writes, or of what it reads.

A cut plan does for the parts what the whole plan does for the whole: to run it is to run the whole and slice the
result, and what is not needed for that is not read. Beside its parts stands the whole plan, whose hash it keeps, and
whose way back is cut on the other side. Whether anything is lost on the way is told of all processes together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from weighbridge.algebra.held_parts import Part
from weighbridge.base.errors import LayoutError, PlanError, WeighbridgeError
from weighbridge.base.keys import nearest
from weighbridge.base.process.collecting import without_collection
from weighbridge.base.specs import DTYPES, Header, TensorSpec
from weighbridge.planning.plan import Plan, Portion
from weighbridge.planning.portions.cut_programs import cut_sources, cut_targets
from weighbridge.planning.portions.read_slots import without_unread
from weighbridge.planning.program import Program
from weighbridge.planning.steps import Fated, Step

Parts = Mapping[str, Part]
"""What is held of each tensor, by key."""

BY_PARTS: Final = "--parts"
"""The rule by which a cut plan leaves out a source that its parts do not need."""


@without_collection()
def cut(plan: Plan, target: Parts | None = None, *, source: Parts | None = None) -> Plan:
    """Cut a plan to parts of its targets, of its sources, or of both.

    Args:
        plan: The whole plan.
        target: The part of each target that is written. Keys that the plan does not write are passed over.
        source: The part of each source that is there to be read; targets are then written as far as these go.

    Returns:
        A plan whose targets, or whose sources, are the parts alone. A source of which nothing is needed is dropped, by
        a rule that is called `--parts`.

    Raises:
        PlanError: `parts-mismatch` for a tensor without a part, or with one of another shape; `usage` for a plan that
            is cut already, and without parts; `plan-failed` with a `layout-fragmented` for each part that falls into
            too many copies.
    """
    if plan.portion is not None or (target is None and source is None):
        what = "this plan is cut already" if plan.portion is not None else "there are no parts to cut a plan to"
        raise PlanError("usage", what, hint="cut the whole plan, to the parts of its targets or of its sources")
    written, read = _parts_of(plan, target, source)
    steps = tuple(_cut_steps(plan, written, read))
    kept = {key for step in steps for key in step.sources}
    tied = tuple(_held(fated, read) for fated in plan.tied_sources if fated.by in kept)
    accounted = kept | {fated.key for fated in (*tied, *plan.dropped)}
    unread = [Fated(key, spec, BY_PARTS) for key, spec in plan.source.specs.items() if key not in accounted]
    made = replace(
        plan,
        steps=steps,
        dropped=tuple(sorted((*plan.dropped, *unread))),
        tied_sources=tied,
        tied_targets=tuple(_held(fated, written) for fated in plan.tied_targets),
        target_files=None,
        portion=Portion(plan, written, read),
    )
    made.check()
    return made


def written_steps(plan: Plan, parts: Parts, written: Collection[str], *, declares: bool) -> tuple[Step, ...]:
    """Cut the steps of a plan to what one process of several writes, where others may hold the same.

    Args:
        plan: The whole plan.
        parts: The part of each source that is there to be read.
        written: The sources of which it writes all that it holds; of others it writes nothing.
        declares: Whether it writes the declared values.

    Returns:
        A step for each of the plan's, in their order; what they write of the targets is disjoint from what others do.

    Raises:
        PlanError: As `cut`.
    """
    _, read = _parts_of(plan, None, parts)
    return tuple(_cut_steps(plan, None, read, (frozenset(written), declares)))


def check_makes_whole(plan: Plan) -> None:
    """Refuse to make tensors by a plan that is cut to parts of its sources, which fill them in places only.

    Raises:
        PlanError: `usage`.
    """
    if plan.portion is not None and plan.portion.source is not None:
        what = "this plan is cut to parts of its sources, which are pieces of its targets and no tensors"
        raise PlanError("usage", what, hint="run the whole plan, or cut it to parts of its targets")


def recut(plan: Plan, change: Callable[[Plan], Plan], *, is_turned: bool = False) -> Plan:
    """Change the whole plan behind a cut one, and cut what comes of it to the same parts.

    Args:
        plan: A cut plan.
        change: What to do with the whole plan.
        is_turned: Whether that exchanges sources and targets.
    """
    portion = plan.portion
    assert portion is not None
    sides = (portion.source, portion.target) if is_turned else (portion.target, portion.source)
    return cut(change(portion.whole), sides[0], source=sides[1])


def _held(fated: Fated, parts: Parts | None) -> Fated:
    """Return a tied tensor as it is held: the twin that it follows is held alike."""
    if parts is None:
        return fated
    return fated._replace(spec=TensorSpec(fated.spec.dtype, parts[fated.key].held))


# ---- whether parts fit ----


def _parts_of(plan: Plan, target: Parts | None, source: Parts | None) -> tuple[Parts | None, Parts | None]:
    """Return the parts of the tensors that a plan moves, if they fit."""
    read = {key for step in plan.steps for key in step.sources} | {fated.key for fated in plan.tied_sources}
    sides = (("target", target, plan.target, set(plan.target)), ("source", source, plan.source, read))
    problems = [
        problem
        for side, parts, specs, keys in sides
        if parts is not None
        for problem in (*_misfits(side, parts, specs, keys), *_split_ties(plan, side, parts))
    ]
    if problems:
        hint = "take the parts of all tensors of this plan, or restrict it to those that are held: plan.restrict(keys)"
        raise PlanError("parts-mismatch", "the parts are not those of this plan", hint=hint, problems=problems)
    kept = [None if parts is None else {key: parts[key] for key in specs if key in keys}
            for _, parts, specs, keys in sides]  # fmt: skip
    return kept[0], kept[1]


def _misfits(side: str, parts: Parts, specs: Header, keys: Iterable[str]) -> Iterator[PlanError]:
    for key in sorted(keys):
        part = parts.get(key)
        if part is None:
            near = ", ".join(nearest(key, list(parts), 3))
            got = f"parts of {len(parts):,} tensors" + (f", such as {near}" if near else "")
            yield PlanError("parts-mismatch", f"nothing says which part of this {side} is held", where=key, got=got)
        elif part.shape != specs[key].shape:
            expected, got = str(list(specs[key].shape)), f"a part of {list(part.shape)}"
            yield PlanError("parts-mismatch", "this is a part of another tensor", where=key, expected=expected, got=got)
        elif DTYPES[specs[key].dtype].kind == "packed" and part.numel and not part.is_whole:
            what, expected = "elements below a byte cannot be told apart", "all of this tensor, or nothing of it"
            yield PlanError("dtype-mismatch", what, where=key, expected=expected, got=f"a part, of {specs[key].dtype}")


def _split_ties(plan: Plan, side: str, parts: Parts) -> Iterator[PlanError]:
    """Yield an error for each tensor that shares its storage with one of which another part is held."""
    tied = plan.tied_sources if side == "source" else plan.tied_targets
    pairs = [(fated.key, fated.by) for fated in tied] + (list(plan.twins) if side == "target" else [])
    for key, twin in pairs:
        if key in parts and twin in parts and parts[key] != parts[twin]:
            what = "of two tensors that are one, different parts are held"
            yield PlanError("parts-mismatch", what, where=key, expected=f"the part of {twin}")


# ---- steps ----


_Writing = tuple[frozenset[str], bool]
"""The sources of which a process writes what it holds, and whether it writes the declared values."""


def _cut_steps(
    plan: Plan, target: Parts | None, source: Parts | None, writing: _Writing | None = None
) -> Iterator[Step]:
    """Yield the steps, cut; those that share a program and the same parts share what it is cut to."""
    known: dict[tuple[object, ...], tuple[Program, tuple[int, ...]]] = {}
    problems: list[WeighbridgeError] = []
    for step in plan.steps:
        written = None if target is None else tuple([target[key] for key in step.targets])
        read = None if source is None else tuple([source[key] for key in step.sources])
        unread = () if writing is None else _unread_slots(step, *writing)
        name = id(step.program), written, read, unread
        try:
            found = known.get(name)
            if found is None:
                found = known[name] = _cut_program(step.program, written, read, unread)
        except LayoutError as problem:
            problems.append(problem.with_context(where=", ".join(step.targets[:1])))
            continue
        program, slots = found
        made = replace(step, program=program, sources=tuple([step.sources[slot] for slot in slots]))
        yield made if step.fate == "tied" else made.fated()
    if problems:
        raise PlanError("plan-failed", "the plan cannot be cut to these parts", problems=problems)


def _unread_slots(step: Step, written: frozenset[str], declares: bool) -> tuple[int, ...]:
    sources = [slot for slot, key in enumerate(step.sources) if key not in written]
    first = len(step.sources)
    return (*sources, *(() if declares else range(first, step.program.first_temporary)))


def _cut_program(
    program: Program, target: tuple[Part, ...] | None, source: tuple[Part, ...] | None, unread: tuple[int, ...]
) -> tuple[Program, tuple[int, ...]]:
    made = program if source is None else cut_sources(program, source, unread)
    made = made if target is None else cut_targets(made, target)
    return (made, tuple(range(len(made.sources)))) if made is program else without_unread(made)
