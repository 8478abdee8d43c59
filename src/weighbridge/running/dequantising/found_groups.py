"""Which quantised weights of a checkpoint can be computed, under which names; and why others cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from weighbridge.base.specs import TensorSpec
from weighbridge.mappings.schemes.quantisation import Quantisation, QuantisedWeight
from weighbridge.mappings.schemes.scheme import WEIGHT, Axis, Formula, is_fused, read_shape
from weighbridge.running.dequantising.blocks import read_whole
from weighbridge.running.dequantising.flat_values import FlatGroup, read_flat_group
from weighbridge.running.dequantising.weight_values import Group, computed_dtype

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint


@dataclass(slots=True)
class ComputedWeight:
    """A weight that is computed when it is read.

    Args:
        group: Its tensors.
        spec: What it comes as.
        title: Its scheme.
        keys: The tensors that stand for it.
        left: What of them says nothing of its values, in words.
    """

    group: Group | FlatGroup
    spec: TensorSpec
    title: str
    keys: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(slots=True)
class FoundGroups:
    """What is found.

    Args:
        weights: The weights that can be computed, by their plain names.
        kept: Why others cannot, each reason with the weights.
        problems: Sentences on what contradicts itself.
    """

    weights: dict[str, ComputedWeight] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def find_groups_to_compute(checkpoint: Checkpoint, found: Quantisation) -> FoundGroups:
    """Find the weights that can be computed.

    Args:
        checkpoint: What holds the tensors.
        found: How its weights are quantised.

    Raises:
        CheckpointError: The codes of reading, for formats that write shapes beside the weights.
    """
    made = FoundGroups(problems=list(found.problems))
    for weight in found.weights:
        reason = _reason_to_keep(weight)
        if reason is not None:
            made.kept.setdefault(f"{weight.scheme.title}: {reason}", []).append(weight.stem)
            continue
        computed = _computed(weight, checkpoint)
        name = _plain_name(weight)
        if isinstance(computed, str):
            made.problems.append(computed)
        elif name in made.weights or (name in checkpoint.header and name not in computed.keys):
            made.problems.append(f"{name} is there beside the codes that stand for it")
        else:
            made.weights[name] = computed
    return made


def _reason_to_keep(weight: QuantisedWeight) -> str | None:
    if isinstance(weight.scheme.formula, str):
        return weight.scheme.formula
    apart = [member.what for member, _ in weight.keys if member.role == "apart"]
    return f"its {apart[0]} act on what comes in, not on the weight" if apart else None


def _plain_name(weight: QuantisedWeight) -> str:
    """Return the name of the weight where it is not quantised."""
    return weight.stem if is_fused(weight.stored.members) else weight.stem + WEIGHT


def _computed(weight: QuantisedWeight, checkpoint: Checkpoint) -> ComputedWeight | str:
    formula = weight.scheme.formula
    assert isinstance(formula, Formula)
    made = read_flat_group(weight, checkpoint) if formula.is_flat else _group(weight, formula, checkpoint)
    if isinstance(made, str):
        return made
    if isinstance(made, FlatGroup):
        spec = TensorSpec(made.dtype, made.shape)
    else:
        sides = (made.columns, made.rows) if formula.is_turned else (made.rows, made.columns)
        spec = TensorSpec(computed_dtype(made, checkpoint.header.specs), (*made.stack, *sides))
    keys = tuple(key for _, key in weight.keys)
    left = tuple(member.what for member, _ in weight.keys if member.kind == "shared" and not member.role)
    return ComputedWeight(made, spec, weight.scheme.title, keys, left)


def _group(weight: QuantisedWeight, formula: Formula, checkpoint: Checkpoint) -> Group | str:
    """Tell the sizes of a weight; packed elements leave some open, which a tensor beside them may say."""
    header = checkpoint.header
    spans, problem = read_shape([(member, header[key]) for member, key in weight.keys])
    if problem is not None:
        return f"{weight.stem}: {problem}"
    rows, columns = spans[Axis.ROWS], spans[Axis.COLUMNS]
    sizes = rows.most, columns.most
    shape_key = next((key for member, key in weight.keys if member.role == "shape"), None)
    if shape_key is not None:
        sizes = _read_sizes(checkpoint, shape_key)
        if not (rows.least <= sizes[0] <= rows.most and columns.least <= sizes[1] <= columns.most):
            return f"{shape_key} says {list(sizes)}, where the others have {rows.most} x {columns.most}"
    member, key = weight.keys[0]
    stack = header[key].shape[: len(header[key].shape) - len(member.along or ())]
    return Group(weight.keys, formula, stack, *sizes)


def _read_sizes(checkpoint: Checkpoint, key: str) -> tuple[int, int]:
    sizes = read_whole(checkpoint, key).flatten().tolist()
    return (int(sizes[0]), int(sizes[1])) if len(sizes) == 2 else (-1, -1)
