"""The way back from a live model: the inverse of the plan it was loaded through, in the dtypes that it has now."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from weighbridge.base.errors import DestinationError, PlanError
from weighbridge.base.keys import collapse, counted
from weighbridge.base.specs import Header
from weighbridge.base.spelling import exact_pattern
from weighbridge.mappings.exception_rules import Drop
from weighbridge.mappings.transforms import PrefixChange, WeightConverter, rename_key
from weighbridge.models.changed_models import OTHER_SIZE, steps_by_the_rules, what_stands
from weighbridge.models.holdings import Holdings, take_stock
from weighbridge.models.model_sources import open_model
from weighbridge.models.modules import module_header
from weighbridge.models.read_back import prove_read_back
from weighbridge.models.without_plans.loaded_models import recall
from weighbridge.models.wrappers import unwrap
from weighbridge.planning.companions import find_groups
from weighbridge.planning.names.wanting import Wanted
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Program
from weighbridge.planning.readings import Names, without_change
from weighbridge.planning.steps import Fated, Step
from weighbridge.planning.way_back.inverting import proven_steps
from weighbridge.planning.way_back.origins import invert_rules, unstable_names
from weighbridge.planning.way_back.recasting import in_dtypes, step_in_dtype

if TYPE_CHECKING:
    import torch

    from weighbridge.running.by_ranks.held_source import HeldSource
    from weighbridge.storage.protocol import Checkpoint


class WayBack(NamedTuple):
    """The plan that takes a model's weights back, the checkpoint that they came from, and what is to be said of it."""

    plan: Plan
    origin: Checkpoint
    notes: tuple[str, ...]


def recorded_way_back(model: torch.nn.Module, *, lossy: bool = False, held: HeldSource | None = None) -> WayBack | None:
    """Return the plan that takes a model's weights back to where they came from; None if it came through no plan.

    What has another shape now is taken back by the rules that made it, and what is gone is left out; see
    `changed_models`. Weights that were initialised go in under the names that the mapping's rules, run backwards, give
    them, if the mapping turns these into theirs again; under their own names otherwise, as a new head does that no rule
    speaks of. They are left out where the rule that declares them says that no file has them. Tensors that the model
    has gained since it was loaded go in as well, and extra state as it is now.

    Args:
        model: The model, with or without wrappers.
        lossy: Accept that part of the source is lost: what a rule dropped, for example.
        held: The model as a source, where it is spread over ranks.

    Raises:
        PlanError: `inverse-lossy`, `inverse-unproven`, `dtype-mismatch`; `usage` for a model that holds parts.
        CheckpointError, RegistryError: As `take_stock`.
    """
    inner = unwrap(model)
    loaded = recall(inner)
    if loaded is None:
        return None
    in_stages = held is not None and held.in_stages
    there = loaded.plan if loaded.whole is None or not in_stages else loaded.whole
    if there.portion is not None:
        what = "this model was filled with parts of tensors, which go back with those of the other processes alone"
        hint = 'layout="as is" saves it under its own names, as if the parts were tensors'
        raise PlanError("usage", what, hint=hint)
    source = open_model(model) if held is None else held
    if in_stages:
        _refuse_missing_stages(there, source.header)
    stock = take_stock(model)
    config = loaded.config if loaded.config is not None else getattr(inner, "config", None)
    numbers = _of_this_size(replace(there, computed=()))  # weights are saved as they are, and nothing of them lost
    current, gone = _as_it_is_now(in_dtypes(numbers, source.header), source.header, stock)
    standing = what_stands(current, source)
    again = steps_by_the_rules(current, standing, source.header, config)
    kept, strays = _without_strays(standing.plan, source.header)
    with _naming_stages(is_piece=loaded.whole is not None):
        back, named = _back(kept, source.header, again, config, lossy=lossy)
    if back.target.specs.keys() != there.source.specs.keys():
        prove_read_back(back, current, source.header if in_stages else stock.header(source.header), config)
    changes = (*(f"{key}: extra state that is no tensor now, not saved" for key in gone), *standing.notes)
    notes = (*source.notes, *changes, *strays, *named)
    return WayBack(replace(back, notes=(*back.notes, *notes)), loaded.checkpoint, notes)


def _refuse_missing_stages(plan: Plan, header: Header) -> None:
    """Refuse to save stages that lack, all together, what was loaded: a stage may have been left out.

    Raises:
        DestinationError: `ranks-disagree`.
    """
    loaded = [key for step in plan.steps if step.fate != "carried" for key in step.targets]
    gone = [key for key in (*loaded, *(fated.key for fated in plan.initialised)) if key not in header]
    if gone:
        raise DestinationError(
            "ranks-disagree",
            "no rank holds these tensors, which the whole model was loaded with",
            where=", ".join(collapse(gone)[:4]),
            expected=counted(len(loaded), "tensor"),
            got=f"{counted(len(header), 'tensor')} on all ranks together",
            hint="call save on the processes of every stage, or give a mapping: save(model, out, mapping, stages=True)",
        )


@contextmanager
def _naming_stages(*, is_piece: bool) -> Iterator[None]:
    """Let the error that part of the source is lost say what to do where the model has a piece of it, as a stage."""
    try:
        yield
    except PlanError as problem:
        if is_piece and problem.code == "inverse-lossy":
            problem.hint += "\nor stages=True where other processes hold the rest, and save it together with this one"
        raise


def _of_this_size(plan: Plan) -> Plan:
    """Forget the tensors that were left in the checkpoint as the model has them in another size: it is saved in its."""
    kept = tuple(fated for fated in plan.dropped if not fated.by.startswith(OTHER_SIZE))
    if kept == plan.dropped:
        return plan
    rules = tuple(rule for rule in plan.mapping.drop if not rule.why.startswith(OTHER_SIZE))
    return replace(plan, dropped=kept, mapping=replace(plan.mapping, drop=rules), source_files=None)


def refuse_lost_codes(model: torch.nn.Module) -> None:
    """Refuse a model whose codes have become something else while what gives them their meaning is still there.

    A library may turn codes into numbers where they are, on the first forward pass: with the scales beside them, they
    would be read as codes again.

    Args:
        model: The model, with or without wrappers.

    Raises:
        PlanError: `model-mismatch`.
    """
    inner = unwrap(model)
    loaded = recall(inner)
    planned = Header({}) if loaded is None else loaded.plan.target
    groups = find_groups(planned)
    header = module_header(inner).specs if groups else {}
    for group in groups:
        was, now = planned[group.codes], header.get(group.codes)
        left = [key for key in group.beside if key in header]
        if left and (now is None or now.dtype != was.dtype):
            raise PlanError(
                "model-mismatch",
                "codes that were loaded have become something else, and what belongs to them is still there",
                where=group.codes,
                expected=str(was),
                got=f"{now or 'nothing'}, beside {', '.join(left)}",
                hint="save the model before its first forward pass, or load the numbers that the codes stand for",
            )


def _as_it_is_now(plan: Plan, header: Header, held: Holdings) -> tuple[Plan, list[str]]:
    """Let extra state, and what hooks make, have the shape that it has now; return also what is no tensor any more."""
    steps: list[Step] = []
    gone: list[str] = []
    for step in plan.steps:
        key, spec = step.targets[0], step.program.targets[0].spec
        is_loose = (key in held.extra or key in held.computed) and step.program.is_identity
        if is_loose and key in held.extra and key not in header:
            gone.append(key)
            continue
        is_other = is_loose and header.specs.get(key, spec) != spec
        steps.append(replace(step, program=Program.identity(header[key])) if is_other else step)
    if steps == list(plan.steps):
        return plan, gone
    return replace(plan, steps=tuple(steps), source_files=None), gone


def _without_strays(plan: Plan, header: Header) -> tuple[Plan, tuple[str, ...]]:
    """Leave out what a partial load accepted without a place: nobody asked for it, and the class could not read it.

    What a rule carries is written back, and the receipt has the rule.
    """
    carried = [step.sources[0] for step in plan.steps if step.fate == "carried"]
    mapping, change = without_change(plan.mapping, plan.reading)
    names = {(rename_key(change, key) if change is not None else None) or key: key for key in carried}
    own, changed = Names(carried), Names(names)
    asked = {key for rule in mapping.carry for key in own.matching(rule.pattern, rule.scope)}
    asked |= {names[name] for rule in mapping.carry for name in changed.matching(rule.pattern, rule.scope)}
    strays = {key for key in carried if key not in header and key not in asked}
    if not strays:
        return plan, ()
    steps = tuple(step for step in plan.steps if step.fate != "carried" or step.sources[0] not in strays)
    told = f"{', '.join(collapse(strays)[:4])}: without a place in the model when it was loaded, and not saved"
    note = f"{told}; carry=[...] on loading keeps what it names"
    return replace(plan, steps=steps, source_files=None), (note,)


def _back(
    plan: Plan, header: Header, again: tuple[Step, ...], config: Any, *, lossy: bool
) -> tuple[Plan, tuple[str, ...]]:
    """Invert a plan, and add the weights that no file gave, unless their rule says that no file has them.

    Args:
        plan: The plan, as far as it holds for the model.
        header: The model's specs.
        again: Steps back that were made anew.
        config: The model's configuration.
        lossy: As for `recorded_way_back`.
    """
    absent = {rule.why or f'"{rule.pattern}"' for rule in plan.mapping.initialise if not rule.saved}
    twins = _twins({fated.key for fated in plan.initialised}, header)
    new = tuple(fated for fated in plan.initialised if fated.by not in absent and fated.key not in twins)
    left = tuple(fated._replace(by=f"not in the file: {fated.by}") for fated in plan.initialised if fated not in new)
    known = dict(plan.target_fates()).keys() | {key for step in again for key in step.sources}
    gained = tuple(Fated(key, spec, "new since loading") for key, spec in header.items() if key not in known)
    back = replace(plan, initialised=new + gained).inverse(lossy=lossy, keep_initialised=True)
    anew = sorted((_step_back_in(step, header) for step in again), key=lambda step: step.targets)
    back = replace(back, steps=tuple(sorted((*back.steps, *anew), key=lambda step: step.targets)))
    named, notes = _under_published_names(back, [*new, *gained], config)
    named.check()
    return replace(named, dropped=named.dropped + left), notes


def _twins(keys: Container[str], header: Header) -> set[str]:
    """Return which of some weights are one with another of these that comes first; a file holds such a weight once."""
    first: dict[str, str] = {}
    return {key for key in header if key in keys and first.setdefault(header.ties.get(key, key), key) != key}


def _under_published_names(back: Plan, new: Sequence[Fated], config: Any) -> tuple[Plan, tuple[str, ...]]:
    """Give weights that no file had the names that the rules have for them; say which keep another name."""
    if not new or not back.mapping.transforms:
        return back, ()
    header = Header({fated.key: fated.spec for fated in new})
    taken = {key for key in back.target if key not in header}
    found = _steps_back(back, header, config)
    proven = [step for step in found if taken.isdisjoint(step.targets)]
    named = [_step_back_in(step, header) for step in _free_of(proven, header)]
    done = {key for step in named for key in step.sources}
    steps = [step for step in back.steps if done.isdisjoint(step.sources)]
    made = replace(back, steps=tuple(sorted([*steps, *named], key=lambda step: step.targets)))
    others = [key for key in header if key not in done]
    changed = unstable_names(back.mapping, others, Wanted(back.source))
    unled = {*changed, *unstable_names(invert_rules(back.mapping).mapping, others)}
    made.check()
    keys = ", ".join(collapse(unled)[:4])
    note = f"{keys}: saved under the model's own name, as the rules lead back to no other one that can be relied on"
    return made, ((note,) if unled else ())


def _steps_back(back: Plan, header: Header, config: Any) -> list[Step]:
    """Make the steps that take weights back by all rules, or else by the renames, or by the reading's change alone.

    A prefix that no key of the file had, or that all had, is not changed: it was there or not for the whole file.
    """
    rules, fired = back.mapping.transforms, {number for step in back.steps for number in step.rules}
    idle = {n for n, rule in enumerate(rules) if isinstance(rule, PrefixChange) and not rule.scope} - fired
    live = [number for number, rule in enumerate(rules) if number not in idle and rule not in back.mapping.legacy]
    renames = [number for number, rule in enumerate(rules) if not isinstance(rule, WeightConverter)]
    beside, change = without_change(back.mapping, back.reading)
    found: list[Step] = []
    for numbers in (live, renames, [] if change is None else [rules.index(change)]):
        left = _left_of(header, found)
        found += proven_steps(back.mapping, left, config, rules=numbers, whole=back.source)
    if change is None:
        return found
    # A path that the reading puts before the keys is not put before a part that has its place beside it; the rules are.
    left, others = _left_of(header, found), [number for number in live if rules[number] != change]
    moved = Header({key: left[key] for key in unstable_names(beside, left, Wanted(back.source))})
    return [*found, *proven_steps(back.mapping, moved, config, rules=others, whole=back.source, ahead=beside)]


def _left_of(header: Header, steps: Iterable[Step]) -> Header:
    done = {key for step in steps for key in step.sources}
    return Header({key: spec for key, spec in header.items() if key not in done})


def _free_of(steps: list[Step], header: Header) -> list[Step]:
    """Leave out steps that would write the name of a weight which keeps its own."""
    while True:
        moved = {key for step in steps for key in step.sources}
        free = [step for step in steps if all(key in moved or key not in header for key in step.targets)]
        if len(free) == len(steps):
            return free
        steps = free


def tied_names(model: torch.nn.Module, held: HeldSource | None = None) -> list[Drop]:
    """Return the rules that leave out the second names of tied weights, for a model that was never loaded.

    Args:
        model: The model.
        held: The model as a source, where it is spread over ranks.
    """
    names = second_names(model) if held is None else held.second_names
    return [Drop(exact_pattern(key), "tied") for key in names]


def second_names(model: torch.nn.Module, ties: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the names of tied weights that a file has under another name alone.

    A published file holds such a weight once. Which of its names that is, a model of transformers says
    (`all_tied_weights_keys`); of a model that does not say it, every name is kept. So is a name whose weight is another
    tensor now, against what the model says.

    Args:
        model: The model, without wrappers.
        ties: Which of its tensors are one, if that is known.
    """
    said: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    if said and ties is None:
        ties = module_header(model).ties
    return tuple(key for key, twin in said.items() if ties and key in ties and ties[key] == ties.get(twin, twin))


def _step_back_in(step: Step, header: Header) -> Step:
    """Return a step of the way back without casts: what it makes has the dtype that the model has."""
    dtypes = {header[key].dtype for key in step.sources}
    return step_in_dtype(step, dtypes.pop()) if len(dtypes) == 1 else step
