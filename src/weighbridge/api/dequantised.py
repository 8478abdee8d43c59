"""Read a checkpoint's quantised weights as the numbers that they stand for, where a dtype is asked for all tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from weighbridge.api.configurations import config_beside
from weighbridge.base.keys import counted
from weighbridge.base.specs import DTYPES, Header
from weighbridge.mappings.schemes.quantisation import find_quantisation
from weighbridge.mappings.schemes.said import BESIDE, SAID
from weighbridge.operations.configuration import UnreadConfig
from weighbridge.planning import plan as planned
from weighbridge.planning.casts.dtype_policies import ALL, TARGET, DtypePolicy
from weighbridge.planning.companions import find_groups, holds_codes

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint


def read_codes(
    source: Checkpoint, options: Mapping[str, Any], wanted: Header | None
) -> tuple[Checkpoint, tuple[str, ...]]:
    """Return what a plan is to read, with numbers in the place of codes if they are asked for, and what to say of it.

    Args:
        source: The opened checkpoint.
        options: What was declared, of which `dtype` and `config` are read.
        wanted: Specs of the target's tensors; None for any.

    Raises:
        CheckpointError: As `compute_codes`.
    """
    if not _asks_for_values(options["dtype"], wanted):
        return source, ()
    return compute_codes(source, options["config"])


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


def compute_codes(source: Checkpoint, config: Any) -> tuple[Checkpoint, tuple[str, ...]]:
    """Return a checkpoint with its quantised weights as the numbers that they stand for, and what is to be said of it.

    Args:
        source: The opened checkpoint.
        config: The configuration that was given for it, or found; where it does not speak of quantisation, the
            `config.json` beside the weights does.

    Raises:
        CheckpointError: `scheme-conflict`, and the codes of reading.
    """
    if not any(holds_codes(spec.dtype) for spec in source.header.values()):
        return source, ()
    beside = {
        name: found for name in BESIDE if not isinstance(found := config_beside(source, name), UnreadConfig | None)
    }
    found = find_quantisation(source.header, _saying(config, source), beside)
    if found is None:
        count = len(find_groups(source.header))
        return source, ((_left(count, "no configuration says how it is stored"),) if count else ())
    from weighbridge.running.dequantising.computed_source import compute_weights, said_of_left_out
    from weighbridge.running.dequantising.found_groups import find_groups_to_compute

    groups = find_groups_to_compute(source, found)
    kept = tuple(_left(len(stems), reason) for reason, stems in groups.kept.items())
    return compute_weights(source, groups), (*said_of_left_out(groups), *kept)


def _left(count: int, reason: str) -> str:
    stays = "stays as it is" if count == 1 else "stay as they are"
    return f"{counted(count, 'quantised weight')} {stays}: {reason}"


def _saying(config: Any, source: Checkpoint) -> Any:
    """Return the configuration that speaks of quantisation."""
    if isinstance(config, Mapping) and any(name in config for name in SAID):
        return {name: _plain(config[name]) for name in SAID if name in config}
    own = config_beside(source)
    return None if isinstance(own, UnreadConfig) else own


def _plain(value: Any) -> Any:
    """Return a nested configuration as plain values, however it came."""
    return {name: _plain(inner) for name, inner in value.items()} if isinstance(value, Mapping) else value


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
    return compute_codes(found, config)[0]
