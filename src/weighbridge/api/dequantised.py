"""Read a checkpoint's quantised weights as the numbers that they stand for, where a dtype is asked for all tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.api.configurations import saying_of
from weighbridge.base.keys import counted
from weighbridge.base.specs import DTYPES, Header
from weighbridge.planning.casts.dtype_policies import ALL, TARGET, DtypePolicy
from weighbridge.planning.companions import find_groups, holds_codes

if TYPE_CHECKING:
    from weighbridge.planning import plan as planned
    from weighbridge.planning.grouped.weights import Saying
    from weighbridge.storage.protocol import Checkpoint


class Read(NamedTuple):
    """What a plan is to read.

    Args:
        source: The checkpoint, with numbers in the place of codes if they are asked for.
        saying: What is said of the weights that are quantised still.
        notes: What is to be said of it.
    """

    source: Checkpoint
    saying: Saying | None
    notes: tuple[str, ...] = ()


def read_codes(source: Checkpoint, options: Mapping[str, Any], wanted: Header | None, *, is_given: bool) -> Read:
    """Return what a plan is to read.

    Args:
        source: The opened checkpoint.
        options: What was declared, of which `dtype` and `config` are read.
        wanted: Specs of the target's tensors; None for any.
        is_given: Whether the configuration was given, and not found with the source, or with a target, which may be
            stored in other blocks.

    Raises:
        CheckpointError: As `compute_codes`.
    """
    if not _asks_for_values(options["dtype"], wanted):
        return Read(source, saying_of(source, options["config"], is_given=is_given))
    return compute_codes(source, saying_of(source, options["config"]))


def _asks_for_values(policy: DtypePolicy | None, wanted: Header | None) -> bool:
    """Tell whether a wish for dtypes is one for numbers in the place of codes.

    It is where all tensors are to be in a dtype of 16 bits or more; a pattern speaks of tensors as they are. Where
    they are to be in the target's dtypes, it is if the target has no codes.

    Args:
        policy: The dtypes that are asked for.
        wanted: Specs of the target's tensors; None for any.
    """
    for pattern, dtype in policy.rules if policy is not None else ():
        if pattern == ALL and dtype == TARGET:
            return wanted is not None and not any(holds_codes(spec.dtype) for spec in wanted.values())
        if pattern == ALL and dtype in DTYPES and DTYPES[dtype].bits > 8:
            return True
    return False


def compute_codes(source: Checkpoint, saying: Saying | None) -> Read:
    """Read a checkpoint's quantised weights as the numbers that they stand for, where it is said how they are stored.

    Args:
        source: The opened checkpoint.
        saying: What is said of its weights.

    Raises:
        CheckpointError: `scheme-conflict`, and the codes of reading.
    """
    if not any(holds_codes(spec.dtype) for spec in source.header.values()):
        return Read(source, saying)
    from weighbridge.mappings.schemes.quantisation import find_quantisation

    found = None if saying is None else find_quantisation(source.header, saying.config, saying.beside)
    if found is None:
        count = len(find_groups(source.header))
        return Read(source, saying, (_left(count, _UNSAID),) if count else ())
    from weighbridge.running.dequantising.computed_source import (
        compute_weights,
        said_of_configuration,
        said_of_left_out,
    )
    from weighbridge.running.dequantising.found_groups import find_groups_to_compute

    groups = find_groups_to_compute(source, found)
    kept = tuple(_left(len(stems), reason) for reason, stems in groups.kept.items())
    made = compute_weights(source, groups)
    notes = (*said_of_left_out(groups), *said_of_configuration(made), *kept)
    return Read(made, saying if kept else None, notes)


_UNSAID: Final = "no configuration says how; name the directory that has it beside the weights, or give it: config="


def _left(count: int, reason: str) -> str:
    stays = "stays as it is" if count == 1 else "stay as they are"
    return f"{counted(count, 'quantised weight')} {stays}: {reason}"


def say_computed(made: planned.Plan, source: Checkpoint) -> planned.Plan:
    """Record in a plan which of its sources are computed.

    Args:
        made: The plan.
        source: What it was made for.
    """
    weights = getattr(source, "weights", None)
    if not weights:
        return made
    by_title: dict[str, list[str]] = {}
    for key, weight in weights.items():
        by_title.setdefault(weight.title, []).append(key)
    computed = tuple((title, tuple(keys)) for title, keys in by_title.items())
    return replace(made, computed=computed)


def computed_source(found: Checkpoint, keys: Iterable[str], config: Any) -> Checkpoint:
    """Return what a plan with computed sources reads.

    Args:
        found: The opened checkpoint, which may have them already.
        keys: The sources that are computed.
        config: The configuration that the plan was made with.

    Raises:
        CheckpointError: As `compute_codes`.
    """
    if all(key in found.header and not holds_codes(found.header[key].dtype) for key in keys):
        return found
    return compute_codes(found, saying_of(found, config)).source
