"""Take the place of transformers' own weight conversion, for one load, and prove what its finishing touches left.

The library makes the model, converts and sets the weights, and then initialises, ties and finishes. Its conversion is
one function, called with the model (on the meta device still), the checkpoint's tensors and the conversion rules. Here
that function is given what a plan writes, under the model's own names, and no rules. All else stays the library's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping as MappingOf
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple

import torch

from weighbridge.api.conversions import compile_by_receipt
from weighbridge.api.dequantised import say_computed
from weighbridge.base.errors import PlanError, RegistryError
from weighbridge.base.specs import Header
from weighbridge.base.spelling import exact_pattern
from weighbridge.integrations.as_it_lies.conversion_place import taking_over
from weighbridge.integrations.library_reading import remember_rules, report_unseen
from weighbridge.integrations.transformers_arguments import Asked
from weighbridge.integrations.transformers_choice import plan_by_either
from weighbridge.integrations.transformers_excuses import excused, expected_left_over, may_be_missing
from weighbridge.integrations.transformers_names import equal_ones
from weighbridge.integrations.transformers_placing import share_on_disk, start_on_devices, stored_on_disk
from weighbridge.integrations.transformers_ranks import (
    check_stage,
    cut_already,
    plan_of_stage,
    say_made_apart,
    say_mesh,
    whole_model,
)
from weighbridge.integrations.transformers_sizes import SIZE_FAULTS, find_other_sizes, refuse_spread
from weighbridge.integrations.transformers_ties import declared_ties, header_with_ties, settle_ties, split_ties
from weighbridge.integrations.transformers_weights import Pending, prove
from weighbridge.mappings.bound_offsets import bind_offsets
from weighbridge.mappings.exception_rules import Carry, Drop, Initialise, exception_rules
from weighbridge.mappings.mapping import Mapping as NameMapping, MappingLike, as_mapping
from weighbridge.mappings.wrapped_names import look_through
from weighbridge.models.changed_models import OTHER_SIZE
from weighbridge.models.held_portions import held_portion
from weighbridge.models.holdings import Holdings, take_stock
from weighbridge.models.modules import module_header
from weighbridge.models.spread_sources import is_stage
from weighbridge.models.without_plans.loaded_models import Loaded, remember
from weighbridge.planning.casts.asked_casts import rounded_lines
from weighbridge.planning.companions import quantised_keys
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.grouped.weights import Saying
from weighbridge.planning.plan import Plan
from weighbridge.planning.plan_options import Options
from weighbridge.running.results import mapped_files
from weighbridge.running.taken_values import check_conditions, refuse_own
from weighbridge.running.ties import value_classes
from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger("weighbridge")


class Filled(NamedTuple):
    """What the library is told.

    Args:
        tensors: Those that it is to set.
        on_disk: Where those are that stay on the disk; None where none do.
        left_over: Tensors of the checkpoint without a place that it is to report.
        dropped: Those that a rule of the caller's left out.
    """

    tensors: dict[str, Pending | torch.Tensor]
    on_disk: dict[str, Any] | None = None
    left_over: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(slots=True)
class Load:
    """One load through the library.

    Args:
        checkpoint: What to read.
        mapping: The mapping, or None to ask `find_mapping` once the model is there.
        find_mapping: Gives the mapping of a model.
        find_theirs: Gives the library's own rules for a model, for a file that its mapping does not fit; None without.
        options: What the caller declares.
        copy: Give every tensor memory of its own; otherwise one that a file holds as it is wanted is mapped.
        note: What is to be said of the plan.
        saying: What is said of how the checkpoint's weights are quantised.
        asked: What the library's own arguments ask.
        compare: Compares the plan and what it reads with those of other processes, before a tensor is read.
    """

    checkpoint: Checkpoint
    mapping: MappingLike | None
    find_mapping: Callable[[Any], MappingLike]
    options: Options
    copy: bool = False
    find_theirs: Callable[[Any], MappingLike] | None = None
    note: str = ""
    saying: Saying | None = None
    asked: Asked = field(default_factory=Asked)
    compare: Callable[[Plan, Callable[[], Checkpoint]], None] = lambda plan, opened: None
    tensors: dict[str, Pending] = field(default_factory=dict)
    states: dict[str, Pending] = field(default_factory=dict)
    plan: Plan | None = None
    whole: Plan | None = None
    header: Header = field(default_factory=lambda: Header({}))
    declared_ties: MappingOf[str, str] = field(default_factory=dict)

    def run(self, model_class: Any, path: Any, **arguments: Any) -> Any:
        """Let the library load a model, prove it, and return what the library returns.

        Args:
            model_class: The class.
            path: Where the library looks for settings.
            arguments: What else the library is given.
        """
        with converted_by(self.fill):
            found = model_class.from_pretrained(path, **arguments)
        self.finish(found[0] if self.asked.info else found, arguments.get("device_mesh"))
        return found

    def fill(self, model: Any, load_config: Any) -> Filled:
        """Plan the load for the library's model, and return what the plan writes.

        Args:
            model: The model, on the meta device.
            load_config: What the library was told.

        Raises:
            PlanError: `layout-ambiguous`, `plan-failed`;
                the latter with a `tie-differs` for a weight that is tied to two values alike.
            RegistryError: `integration-unsupported` for a class that loads more models than one, and for what the disk
                cannot hold.
            WeighbridgeError: `usage` for weights that go to the disk without a folder for them.
        """
        if self.plan is not None:
            raise RegistryError("integration-unsupported", "this class loads several models", got=type(model).__name__)
        whole = whole_model(model, load_config.dtype)
        own = held = take_stock(model)
        if whole is not model:
            held = take_stock(whole)
            check_stage(model, held.header(), own.header())
        plan, other, header = self.plan_whole(whole, held)
        refuse_spread(other, own)
        self.plan, self.whole = plan_of_stage(plan, model, own.header()), plan
        self.compare(plan, lambda: self.checkpoint)
        portion = held_portion(self.plan, own.places_for(self.plan.target))
        mapped = mapped_files(self.checkpoint, copy=self.copy)
        for step in portion.steps:
            if step.fate != "carried":
                found = (Pending(step, key, self.checkpoint, mapped) for key in step.writes if key in header)
                self.tensors |= {pending.key: pending for pending in found}
        self.states = {key: self.tensors.pop(key) for key in own.extra if key in self.tensors}
        on_disk = stored_on_disk(self.tensors, model, header, load_config)
        start_on_devices(self.tensors, model, load_config)
        others = {key: tensor for key, tensor in other.items() if key in own.places}
        return Filled({**self.tensors, **others}, on_disk, *self._left_over(plan))

    def plan_whole(self, model: Any, held: Holdings) -> tuple[Plan, dict[str, torch.Tensor], Header]:
        """Plan the load of a whole model, which the library has not tied yet.

        Args:
            model: The model.
            held: What it holds.

        Returns:
            The plan, what the library is to find in another size, and the specs that the plan was made for first.

        Raises:
            PlanError: As `fill`.
        """
        header, self.declared_ties = header_with_ties(model, held.header(self.checkpoint.header)), declared_ties(model)
        self.options = replace(self.options, carry=(*exception_rules(Carry, self.options.carry), *self._made_by(held)))
        plan, other = self._settle(model, header)
        return plan, other, header

    def _settle(self, model: Any, header: Header) -> tuple[Plan, dict[str, torch.Tensor]]:
        """Plan for the whole model, with the ties that the values bear out; and say what is there in another size.

        Values are compared as wholes, also where a process holds parts: what is one must be one in every process.
        """
        plan, other = self._compile_sized(model, header)
        check_conditions(plan, self.checkpoint)
        refuse_own(plan)
        differing = [classes for classes in value_classes(plan, self.checkpoint, header.ties) if len(classes) > 1]
        if differing:
            # The library leaves these untied, whatever the configuration says; a tie is a matter of values.
            header = replace(header, ties=split_ties(model, differing))
            plan = self._compile(model, header)
        self.header = header
        return plan, other

    def _made_by(self, held: Holdings) -> Iterator[Carry]:
        """Yield a rule for each tensor of the checkpoint that a hook of the model makes anew."""
        found = (key for key in held.computed if key in self.checkpoint.header)
        yield from (Carry(exact_pattern(key), "made by a hook of the model") for key in found)

    def finish(self, model: Any, mesh: Any = None) -> Plan:
        """Prove the loaded weights, and let the model remember its plan.

        Args:
            model: The model.
            mesh: The device mesh that the library was given, if it was given one.
        """
        if self.plan is None or self.whole is None:
            raise RegistryError(
                "integration-version", "this transformers loads models in a way that weighbridge does not know"
            )
        settle_ties(model, self.header.ties, self.tensors, self.declared_ties)
        prove(model, self.tensors, allow_overflow=self.options.allow_overflow)
        extra = take_stock(model).extra if self.states else {}
        for key, pending in self.states.items():
            extra[key].module.set_extra_state(pending.make())
        self.checkpoint.check_unchanged()
        plan, whole = self._in_dtypes_of(model, self.plan, self.whole)
        for line in rounded_lines(plan):
            _LOG.warning("%s, the dtype that the library loads this model in", line)
        remember(model, Loaded(plan, self.checkpoint, whole=whole if is_stage(model) else None))
        say_made_apart(model, (fated.key for fated in plan.initialised))
        say_mesh(model, mesh)
        return plan

    def _compile_sized(self, model: Any, header: Header) -> tuple[Plan, dict[str, torch.Tensor]]:
        """Plan the load, and return what the library is to find in another size; nothing unless sizes are ignored."""
        try:
            return self._compile(model, header), {}
        except PlanError as problem:
            if not self.asked.ignores_sizes or SIZE_FAULTS.isdisjoint(problem.codes):
                raise
            other = find_other_sizes(partial(self._compile, model), header, problem)
        drop = (*exception_rules(Drop, self.options.drop), *other.drop)
        initialise = (*exception_rules(Initialise, self.options.initialise), *other.initialise)
        self.options = replace(self.options, drop=drop, initialise=initialise)
        return self._compile(model, header), other.in_their_place(header)

    def _left_over(self, plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the tensors of the checkpoint without a place, and those that a rule leaves out, if they are told."""
        if not self.asked.info:
            return (), ()
        kept = [key for step in plan.steps if step.fate == "carried" for key in step.sources]
        dropped = [fated.key for fated in plan.dropped if not fated.by.startswith(OTHER_SIZE)]
        return tuple(kept), tuple(dropped)

    def _compile(self, model: Any, header: Header) -> Plan:
        """Plan by the model's mapping, or by the library's own rules where its names do not fit."""
        self.options = replace(self.options, config=model.config)
        if self.mapping is not None:
            return self._compile_by(self.mapping, model, header, self.note)
        ours, find_theirs = as_mapping(self.find_mapping(model)), partial(self.find_theirs or self.find_mapping, model)
        compile_by = partial(self._compile_by, model=model, header=header)
        return plan_by_either(compile_by, ours, find_theirs, header, is_partial=self.options.partial)

    def _compile_by(self, mapping: MappingLike, model: Any, header: Header, note: str = "") -> Plan:
        """Plan strictly; if that fails, once more with the exceptions that the library's class declares itself."""
        before = self.mapping, self.note, self.options
        self.mapping, self.note = mapping, note
        try:
            try:
                return self._plan(header, self.options)
            except PlanError as problem:
                self._carry_equal_ones(problem, header)
                declared = None if self.options.partial else self._declared(model, header)
                if declared is None and "target-collision" not in problem.codes:
                    raise
            self.options = declared or self.options
            return self._plan(header, self.options)
        except PlanError:
            self.mapping, self.note, self.options = before
            raise

    def _carry_equal_ones(self, problem: PlanError, header: Header) -> None:
        """Let one of several equal tensors stand for all where a renaming gives them one name."""
        if "target-collision" in problem.codes:
            found = equal_ones(self._mapping_of(header), self.checkpoint)
            self.options = replace(self.options, carry=(*exception_rules(Carry, self.options.carry), *found))

    def _plan(self, header: Header, options: Options) -> Plan:
        source = self.checkpoint
        plan = compile_by_receipt(
            lambda rules, chosen: compile_plan(
                source.header, rules, header, files=source.files, options=chosen, saying=self.saying
            ),
            self._mapping_of(header),
            source,
            options,
        )
        return say_computed(replace(plan, notes=(*plan.notes, *filter(None, [self.note]))), source)

    def _mapping_of(self, header: Header) -> NameMapping:
        assert self.mapping is not None
        mapping = bind_offsets(as_mapping(self.mapping), self.options.config)
        if self.asked.renames:
            mapping = replace(mapping, transforms=tuple(dict.fromkeys((*self.asked.renames, *mapping.transforms))))
        return look_through(mapping, self.checkpoint.header, header)

    def _declared(self, model: Any, header: Header) -> Options | None:
        """Add what the library's class says may be left over, and which weights may be missing, as it makes them."""
        try:
            plan = self._plan(header, replace(self.options, partial=True))
        except PlanError:
            return None
        left = [key for step in plan.steps if step.fate == "carried" for key in step.sources if key not in header]
        carry = excused(left, expected_left_over(model), model, list(self.checkpoint.header))
        initialise = list(may_be_missing([fated.key for fated in plan.initialised], model, list(header)))
        if not carry and not initialise:
            return None
        return replace(
            self.options,
            carry=[*exception_rules(Carry, self.options.carry), *(Carry(*rule) for rule in carry)],
            initialise=[*exception_rules(Initialise, self.options.initialise), *initialise],
        )

    def _in_dtypes_of(self, model: Any, plan: Plan, whole: Plan) -> tuple[Plan, Plan]:
        """Plan again with the dtypes that the library gave the parameters, so that the plans say what happened."""
        made = module_header(model)
        header = made if not is_stage(model) else replace(self.header, specs={**self.header.specs, **made.specs})
        if all(header.specs.get(key, spec).dtype == spec.dtype for key, spec in whole.target.items()):
            return plan, whole
        again = self._plan(header, replace(self.options, dtype="target"))
        return plan_of_stage(again, model, made), again


# ---- the way into the library ----

_NUMBERS: Final = "with dequantize, the numbers that the codes stand for are loaded into the plain model"
"""What helps where a model of the library has no place for a checkpoint's codes."""


@contextmanager
def converted_by(fill: Callable[[Any, Any], Filled]) -> Iterator[None]:
    """Let `fill` take the place of the library's conversion in this thread; other threads' loads are not touched.

    Args:
        fill: Called with the library's model, on the meta device, and with what the library was told.

    Raises:
        RegistryError: `integration-version`.
    """
    with taking_over(partial(convert_by, fill)):
        yield


def convert_by(
    fill: Callable[[Any, Any], Filled],
    original: Any,
    model: Any,
    state_dict: Any,
    load_config: Any,
    on_disk: Any = None,
) -> Any:
    """Give the library's conversion what a plan writes, under the model's own names, and no rules.

    Args:
        fill: As for `converted_by`.
        original: The library's conversion.
        model: The library's model.
        state_dict: The tensors of the checkpoint, as the library found them.
        load_config: What the library was told.
        on_disk: What it would leave on the disk, which `fill` decides.

    Raises:
        PlanError, RegistryError: As `fill`; `integration-unsupported` for codes that the model has no place for.
    """
    del on_disk
    quantizer = load_config.hf_quantizer
    if quantizer is not None and not _keeps_codes(quantizer):
        what = "the library has no place for this checkpoint's codes that could be filled by a plan"
        raise RegistryError("integration-unsupported", what, got=type(model).__name__, hint=_NUMBERS)
    # What it is given are the model's own tensors, which leaves nothing for a quantizer to do.
    left = replace(load_config, weight_mapping=[], hf_quantizer=None)
    try:
        filled = fill(model, load_config)
        with cut_already(model):
            found = original(model, filled.tensors, left, filled.on_disk)
        share_on_disk(filled.on_disk, model)
        report_unseen(found[0], filled.left_over, filled.dropped, load_config.weight_mapping or [], model)
    except PlanError as problem:
        if quantizer is not None and _is_about_codes(problem, model):
            problem.hint = _NUMBERS
        raise
    remember_rules(model, load_config.weight_mapping or [], sorted(state_dict))
    return found


def _is_about_codes(problem: PlanError, model: Any) -> bool:
    keys = quantised_keys(module_header(model))
    return any(one.code.startswith("companion-") or one.where in keys for one in problem.problems)


def _keeps_codes(quantizer: Any) -> bool:
    """Tell whether the library's model has the codes of a checkpoint as weights, and reads them as they are."""
    is_computed = getattr(quantizer.quantization_config, "dequantize", False)
    return bool(quantizer.pre_quantized) and not is_computed and not quantizer.get_weight_conversions()
