"""See each quantised weight as one tensor: under the weight's name, in the shape of the elements that it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping as MappingOf
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Final, NamedTuple

from weighbridge.base.specs import Header, Shape, TensorSpec
from weighbridge.mappings.schemes.bitsandbytes import State
from weighbridge.mappings.schemes.quantisation import (
    QuantisedWeight,
    SchemeFault,
    Stored,
    find_by_names,
    find_quantisation,
)
from weighbridge.mappings.schemes.scheme import WEIGHT, Axis, Member, Scheme, is_fused, read_shape

SEEN_DTYPE: Final = "U8"
"""The dtype that rules see: codes are no numbers, and an integer is never cast."""


@dataclass(frozen=True, slots=True)
class Saying:
    """What is said of a checkpoint's quantisation, beside its weights.

    Args:
        config: The content of its `config.json`.
        beside: The content of each other file of `said.BESIDE`, by name.
        states: What stands beside weights of bitsandbytes' 4 bits, by its key, where data could be read.
        wanted_states: The same of the target's weights.
    """

    config: Any
    beside: MappingOf[str, Any] = field(default_factory=dict)
    states: MappingOf[str, State] = field(default_factory=dict)
    wanted_states: MappingOf[str, State] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Kind:
    """What weights have in common that are stored alike.

    Args:
        stored: Their scheme, and the members of their groups with their specs.
        shape: The shape of the weight; None for a format that only moves as it is.
        is_said: Whether a configuration says how they are stored, and not their names alone.
        state: What stands beside them, where their blocks are of the flat weight.
    """

    stored: Stored
    shape: Shape | None
    is_said: bool = True
    state: State | None = None

    @cached_property
    def seen(self) -> TensorSpec:
        """What rules see of such a weight."""
        return TensorSpec(SEEN_DTYPE, self.stored.specs[0].shape if self.shape is None else self.shape)

    @property
    def parts(self) -> list[tuple[Member, TensorSpec]]:
        """What the tensors of a group are, the codes first, and their specs."""
        return list(zip(self.stored.members, self.stored.specs, strict=True))

    @cached_property
    def endings(self) -> tuple[str, ...]:
        """What the names of the tensors of a group end with."""
        return tuple(member.ending for member in self.stored.members)

    @property
    def has_values(self) -> bool:
        """Whether what they stand for is theirs alone: no tensor acts on what comes into the module."""
        return all(member.role != "apart" for member in self.stored.members)

    @property
    def likeness(self) -> list[str]:
        """What weights that are moved together must have alike: which tensors, of which dtypes, and single values."""
        said = [(self.state.before + self.state.after).decode("utf-8", "replace")] if self.state is not None else []
        return said + [
            f"{member.ending or 'the codes'} {spec if member.kind == 'shared' else spec.dtype}"
            for member, spec in self.parts
        ]


class Weight(NamedTuple):
    """A quantised weight as one tensor.

    Args:
        base: What rules call it.
        stem: What the names of its tensors begin with.
        kind: How it is stored.
    """

    base: str
    stem: str
    kind: Kind

    @property
    def scheme(self) -> Scheme:
        """Its scheme."""
        return self.kind.stored.scheme

    @property
    def keys(self) -> list[str]:
        """The keys of its tensors, the codes first."""
        return [self.stem + ending for ending in self.kind.endings]

    @property
    def fated(self) -> list[tuple[str, TensorSpec]]:
        """Its tensors' keys and specs."""
        return list(zip(self.keys, self.kind.stored.specs, strict=True))

    def name(self, base: str, member: Member) -> str:
        """Name a tensor of its group where the weight gets a new name."""
        return self.scheme.name(base, self.kind.stored.members, member)


@dataclass(frozen=True)
class Grouped:
    """A header, and what rules see of it.

    Args:
        header: The specs of all tensors.
        seen: The same, with one tensor for each quantised weight.
        weights: The weights by the names that rules see.
        faults: What contradicts the configuration; the tensors of such a weight are seen as they are.
    """

    header: Header
    seen: Header
    weights: dict[str, Weight]
    faults: tuple[SchemeFault, ...] = ()

    @cached_property
    def own_keys(self) -> tuple[str, ...]:
        """The keys of the tensors that rules do not see by name."""
        pairs = ((base, weight.stem + end) for base, weight in self.weights.items() for end in weight.kind.endings)
        return tuple([key for base, key in pairs if key != base])

    @cached_property
    def base_of(self) -> dict[str, str]:
        """The weight that each tensor of a group belongs to."""
        return {key: base for base, weight in self.weights.items() for key in weight.keys}


def group_weights(header: Header, saying: Saying | None, *, has_open_sizes: bool = False) -> Grouped | None:
    """Find the quantised weights that a checkpoint's configuration speaks of, or that its names alone tell.

    Args:
        header: Specs of the tensors.
        saying: What is said of them; None for nothing.
        has_open_sizes: Whether blocks may be of any size, whatever is said of it.

    Returns:
        The header with its groups; None where no tensor is told to be of one.

    Examples:
        >>> specs = {"q.weight": TensorSpec("F8_E4M3", (80, 32)), "q.weight_scale_inv": TensorSpec("F32", (3, 1))}
        >>> said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}
        >>> group_weights(Header(specs), Saying(said)).seen.specs
        {'q.weight': TensorSpec(dtype='U8', shape=(80, 32))}
    """
    if saying is None:
        found = find_by_names(header)
    else:
        found = find_quantisation(header, saying.config, saying.beside, has_open_sizes=has_open_sizes)
    if found is None or not (found.weights or any(fault.keys for fault in found.faults)):
        return None
    weights, faults = _weights(header, found.weights, saying)
    taken = {weight.stem + ending for weight in weights.values() for ending in weight.kind.endings}
    specs = {key: spec for key, spec in header.specs.items() if key not in taken}
    specs |= {base: weight.kind.seen for base, weight in weights.items()}
    ties = header.ties
    if ties:
        base_of = {weight.keys[0]: base for base, weight in weights.items()}
        pairs = ((base_of.get(key, key), base_of.get(of, of)) for key, of in ties.items())
        ties = {key: of for key, of in pairs if key in specs and of in specs}
    seen = replace(header, specs=specs, ties=ties)
    return Grouped(header, seen, weights, (*found.faults, *faults))


def _weights(
    header: Header, found: Iterable[QuantisedWeight], saying: Saying | None
) -> tuple[dict[str, Weight], list[SchemeFault]]:
    """Make a weight of each group, but where its name is already that of another tensor."""
    weights: dict[str, Weight] = {}
    faults: list[SchemeFault] = []
    kinds: dict[tuple[int, State | None], tuple[Kind, str, bool]] = {}
    states = saying.states if saying is not None else {}
    for stem, stored in found:
        state = _state(stem, stored, states) if states else None
        if isinstance(state, str):
            keys = tuple(stem + member.ending for member in stored.members)
            faults.append(SchemeFault("scheme-conflict", state, stem, keys))
            continue
        look = id(stored), state
        if look not in kinds:
            base = "" if is_fused(stored.members) else WEIGHT
            shape = _shape(stored) if state is None else state.shape
            kind = Kind(stored, shape, saying is not None, state)
            kinds[look] = kind, base, stored.members[0].ending == base
        kind, ending, is_codes = kinds[look]
        base = stem + ending
        weight = Weight(base, stem, kind)
        if is_codes or base not in header.specs:
            weights[base] = weight
        else:
            text = f"{base} is there as well, beside the codes in {weight.keys[0]}"
            faults.append(SchemeFault("scheme-conflict", text, stem, tuple(weight.keys)))
    return weights, faults


def _state(stem: str, stored: Stored, states: MappingOf[str, State]) -> State | str | None:
    """Return what stands beside a weight, or why it is not of its tensors; None where nothing says their sizes."""
    pairs = zip(stored.members, stored.specs, strict=True)
    specs = {member.role or member.kind: (member.ending, spec) for member, spec in pairs}
    if "state" not in specs or "nested scale" in specs or specs["codes"][1].dtype != SEEN_DTYPE:
        return None
    state = states.get(stem + specs["state"][0])
    if state is None:
        return None
    numel, found = prod(state.shape), tuple(specs[role][1].numel for role in ("codes", "scale"))
    wanted = -(-numel // 2), -(-numel // state.block)
    sizes = " x ".join(map(str, state.shape))
    text = f"its state says {sizes} in blocks of {state.block}: {wanted[0]:,} bytes of codes and {wanted[1]:,}"
    return state if found == wanted else f"{text} scales, where there are {found[0]:,} and {found[1]:,}"


def _shape(stored: Stored) -> Shape | None:
    """Return the shape of a weight; None where its format says nothing of how its tensors lie over it."""
    members = stored.members
    if any(member.along is None and member.role != "shape" for member in members):
        return None
    if any(along.axis is Axis.FLAT for member in members for along in member.along or ()):
        return None
    spans, _ = read_shape(list(zip(members, stored.specs, strict=True)))
    if not {Axis.ROWS, Axis.COLUMNS} <= spans.keys():
        return None
    codes = stored.specs[0]
    stack = codes.shape[: len(codes.shape) - len(members[0].along or ())]
    return (*stack, spans[Axis.ROWS].most, spans[Axis.COLUMNS].most)
