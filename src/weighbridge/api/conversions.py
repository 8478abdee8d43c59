"""What the receipt beside a checkpoint says of the mapping that it is to be planned with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.file_names import names_torch_file
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import PrefixChange, Transform
from weighbridge.mappings.wrapped_names import own_rules
from weighbridge.planning.readings import without_change

if TYPE_CHECKING:
    from weighbridge.planning.plan import Plan
    from weighbridge.planning.plan_options import Options
    from weighbridge.storage import Checkpoint


def find_conversion(source: Checkpoint, mapping: Mapping) -> Plan | None:
    """Return the plan that made a checkpoint by this very mapping, or by the one that this is the inverse of.

    A receipt proves the layout that a checkpoint is in, which its names and shapes may leave open.

    Args:
        source: The opened checkpoint.
        mapping: What it is to be planned with.

    Returns:
        The recorded plan; None where there is no receipt, where it names other rules, and where the checkpoint was made
        by a way back, which leads to the layout that the rules read.
    """
    rules = (mapping.forward or mapping).transforms
    if not rules or not _has_receipt(source):
        return None
    from weighbridge.running.receipt import read_recorded_mapping

    try:
        form, reading = read_recorded_mapping(source.where)
        if _direction(Mapping.from_dict(form), reading, rules) is None:
            return None  # most receipts are of something else, and proving one takes longer than planning
    except WeighbridgeError:
        return None
    recorded = _recorded(source)
    if recorded is None or not recorded.reading.startswith("mapped"):
        return None
    direction = _direction(recorded.mapping, recorded.reading, rules)
    is_back = False if recorded.is_back is None and mapping.forward is not None else recorded.is_back
    return recorded if is_back is not None and is_back == (direction == "inverse") else None


def _direction(made_with: Mapping, reading: str, rules: tuple[Transform, ...]) -> str | None:
    """Tell whether a mapping that was run is made of these rules, or derived from them as their inverse, or neither.

    Rules that are their own inverse look the same in both directions: the mapping knows which of them it is.

    Args:
        made_with: The mapping, as a plan has it.
        reading: What the plan's reading is called.
        rules: The rules.
    """
    if made_with.forward is not None and made_with.forward.transforms == rules:
        return "inverse"
    ran = own_rules(without_change(made_with, reading)[0])
    return "forward" if rules in (ran, made_with.transforms) else None


def _is_made_back(source: Checkpoint, mapping: Mapping) -> bool:
    """Tell whether a checkpoint was made by the inverse of a mapping: it is in the layout that the mapping reads.

    Args:
        source: The opened checkpoint.
        mapping: What it is to be planned with.
    """
    recorded = _recorded(source) if mapping.transforms and mapping.forward is None else None
    if recorded is None or recorded.is_back is None or not recorded.reading.startswith("mapped"):
        return False
    plain = tuple(rule for rule in mapping.transforms if not isinstance(rule, PrefixChange))
    found = (_direction(recorded.mapping, recorded.reading, rules) for rules in (mapping.transforms, plain) if rules)
    return next((recorded.is_back == (way == "forward") for way in found if way is not None), False)


def _recorded(source: Checkpoint) -> Plan | None:
    """Return the plan that a checkpoint's receipt records, if there is one that can be read."""
    if not _has_receipt(source):
        return None
    from weighbridge.running.receipt import read_receipt

    try:
        return read_receipt(source.where).plan
    except WeighbridgeError:
        return None


def compile_by_receipt(
    compiled: Callable[[Mapping, Options], Plan], mapping: Mapping, source: Checkpoint, options: Options
) -> Plan:
    """Compile a mapping; what that leaves open, or over, the receipt beside the checkpoint may settle.

    Where names and shapes fit two layouts, the receipt knows in which one the checkpoint was written. And what is left
    over, or does not suit a rule, may be what was carried into it: a model that is saved has such tensors written
    beside its own, past all rules, and its class has no place for them when they are read.

    Args:
        compiled: Compiles a mapping with options.
        mapping: The mapping.
        source: The opened checkpoint.
        options: What was declared.

    Raises:
        PlanError: As `compiled`, without the receipt.
    """
    try:
        return compiled(mapping, options)
    except PlanError as refused:
        if mapping.forward is not None:
            raise
        if refused.code == "layout-ambiguous" and _is_made_back(source, mapping):
            return compiled(mapping, replace(options, layout="mapped"))
        recorded = _recorded(source)
        rules = tuple(rule for rule in recorded.mapping.carry if rule not in mapping.carry) if recorded else ()
        if not rules:
            raise
        try:
            made = compiled(replace(mapping, carry=(*mapping.carry, *rules)), options)
        except PlanError:
            raise refused from None
        names = ", ".join(f'"{rule.pattern}"' for rule in rules[:4])
        return replace(made, notes=(*made.notes, f"{names}: carried, as the receipt beside the checkpoint says"))


def _has_receipt(source: Checkpoint) -> bool:
    """Tell whether a checkpoint is an output of ours; one that is in memory, or a header, is none."""
    if source.files is None and not names_torch_file(source.where):
        from weighbridge.storage.sharded.chunked import ChunkedCheckpoint

        if not isinstance(source, ChunkedCheckpoint):
            return False
    from weighbridge.running.receipt import has_receipt

    return has_receipt(source.where)
