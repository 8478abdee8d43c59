"""Hypothesis strategies: mappings, keys and headers that fit a mapping, and checkpoints of small real tensors.

They need the package `hypothesis`, which is loaded when a strategy is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weighbridge.base.errors import MappingError, RegistryError
from weighbridge.base.specs import Header, TensorSpec, dtype_named
from weighbridge.mappings.finding import AnyMapping, find_mapping
from weighbridge.mappings.mapping import Mapping, as_mapping
from weighbridge.mappings.transforms import GroupWeightRename, PrefixChange, Transform, WeightConverter, WeightRenaming
from weighbridge.operations.chosen_parts import On
from weighbridge.operations.declaring.padding import InsertConstant, Pad, RemoveConstant, Trim
from weighbridge.operations.groupings import Chunk, Concatenate, MergeModulelist, Split
from weighbridge.operations.movements import Interleave, Transpose
from weighbridge.operations.ops import Operation
from weighbridge.operations.reordering import Reorder
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan_options import Options
from weighbridge.testing.groups import Group, groups_of, try_plan
from weighbridge.testing.sampling import make_values

if TYPE_CHECKING:
    import torch
    from hypothesis.strategies import DrawFn, SearchStrategy

DTYPES = ("F32", "BF16", "F16")
"""Dtypes that are drawn unless others are asked for."""


def _strategies() -> Any:
    try:
        from hypothesis import strategies
    except ImportError as problem:
        raise RegistryError(
            "integration-version",
            "the strategies need the package hypothesis",
            got=str(problem),
            hint='pip install "weighbridge[testing]"',
        ) from None
    return strategies


def keys(mapping: AnyMapping, *, config: Any = None) -> SearchStrategy[str]:
    """Draw keys that a mapping's rules change: the names that a checkpoint would have.

    Args:
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file.
        config: The model's configuration, for operations that read it.

    Raises:
        MappingError: `mapping-invalid` where no such keys are found.
        RegistryError: `integration-version` without hypothesis.

    Examples:
        >>> from weighbridge.pattern import Pattern
        >>> found = keys([WeightRenaming("norm.gamma", "norm.weight")])
        >>> type(found).__name__
        'SampledFromStrategy'
    """
    found = _groups(as_mapping(find_mapping(mapping)), config)
    named: Any = _strategies().sampled_from(sorted({key for group in found for key, _ in group}))
    return named  # type: ignore[no-any-return]


def headers(
    mapping: AnyMapping, *, config: Any = None, dtypes: Sequence[str] = DTYPES, max_groups: int = 6
) -> SearchStrategy[Header]:
    """Draw headers that a mapping can be planned on, with complete groups of small tensors and some that no rule knows.

    Args:
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file.
        config: The model's configuration, for operations that read it; pass it to `weighbridge.plan` as well.
        dtypes: Dtypes to draw from; a group has one.
        max_groups: Most groups, each made for one rule.

    Raises:
        MappingError: `mapping-invalid` where no keys and shapes are found that any rule fits.
        CheckpointError: `dtype-unknown`.
        RegistryError: `integration-version` without hypothesis.
    """
    st = _strategies()
    whole = as_mapping(find_mapping(mapping))
    found = _groups(whole, config)
    codes = [dtype_named(name).code for name in dtypes]

    @st.composite  # type: ignore[untyped-decorator]
    def drawn(draw: DrawFn) -> Header:
        specs: dict[str, TensorSpec] = {}
        for group in draw(st.lists(st.sampled_from(found), min_size=1, max_size=max_groups, unique=True)):
            specs = _joined(whole, specs, group, draw(st.sampled_from(codes)), config)
        for number in range(draw(st.integers(0, 2))):
            extra = {f"unrelated_{number}.table": TensorSpec(draw(st.sampled_from(codes)), (2, number))}
            specs = specs | extra if try_plan(whole, Header(specs | extra), config) else specs
        return Header({key: specs[key] for key in draw(st.permutations(list(specs)))})

    made: SearchStrategy[Header] = drawn()
    return made


def checkpoints(
    mapping: AnyMapping, *, config: Any = None, dtypes: Sequence[str] = DTYPES, max_groups: int = 6
) -> SearchStrategy[dict[str, torch.Tensor]]:
    """Draw checkpoints that a mapping can be planned on: small tensors of random bits by key.

    Args:
        mapping: As for `headers`, like the others.
        config: The model's configuration.
        dtypes: Dtypes to draw from.
        max_groups: Most groups.

    Raises:
        MappingError, CheckpointError, RegistryError: As `headers`.
    """
    drawn = headers(mapping, config=config, dtypes=dtypes, max_groups=max_groups)
    whole = as_mapping(find_mapping(mapping))
    return drawn.map(lambda header: make_values(compile_plan(header, whole, options=Options(config=config))))


def mappings(max_rules: int = 4) -> SearchStrategy[Mapping]:
    """Draw small mappings of every kind of transform, some of them scoped; their rules may run into each other.

    Args:
        max_rules: Most transforms.

    Raises:
        RegistryError: `integration-version` without hypothesis.
    """
    st = _strategies()
    words = st.sampled_from(("attn", "mlp", "norm", "proj", "gate", "up", "layers"))
    scopes = st.sampled_from(("", "", "model", "model.tower"))
    pairs = st.lists(words, min_size=2, max_size=2, unique=True)
    transforms = st.builds(_transform, st.integers(0, 15), pairs, scopes)
    lists = st.lists(transforms, max_size=max_rules, unique=True)
    made: SearchStrategy[Mapping] = st.builds(Mapping, lists, st.sampled_from(("", "drawn")))
    return made


def _transform(kind: int, words: list[str], scope: str) -> Transform:
    first, second = words
    both, chain = f"{first}_{second}.weight", list[Operation]()
    match kind:
        case 0:
            return WeightRenaming(first, second, scope)
        case 1:
            return PrefixChange(prefix_to_add=first, scope=scope)
        case 2:
            return PrefixChange(prefix_to_remove=first, scope=scope)
        case 3:
            return GroupWeightRename(words, [second, first], scope)
        case 4:
            return WeightConverter(f"experts.*.{first}.weight", f"experts.{first}", [MergeModulelist(dim=0)], scope)
        case 5:
            return WeightConverter([f"{first}.weight", f"{second}.weight"], both, [Concatenate(dim=0)], scope)
        case 6:
            return WeightConverter(f"{both}.once", [f"{first}.again", f"{second}.again"], [Repeat()], scope)
        case 7:
            return WeightConverter(f"replicas.*.{both}", f"{both}.all", [MergeEqual(2)], scope)
        case 8:
            return WeightConverter(f"{both}.in", f"{both}.out", [Reorder(0, (1, 0))], scope)
        case 9:
            chain = [Chunk(0, chunks=3), On((1,), Interleave(0)), Concatenate(0)]
            return WeightConverter(both, f"{both}.out", chain, scope)
        case 10:
            parts = [f"{first}.in", f"{second}.in"]
            return WeightConverter(parts, f"{both}.all", [On((0,), Reorder(0, (1, 0))), Concatenate(0)], scope)
        case 11:
            return WeightConverter(f"{both}.short", f"{both}.long", [Pad(0, 48, value=-1, source_size=12)], scope)
        case 12:
            return WeightConverter(f"{both}.long", f"{both}.short", [Trim(0, 10, multiple_of=4)], scope)
        case 13:
            chain = [InsertConstant(1, (6,)), Concatenate(0, sizes=(12, 6, 12))]
            return WeightConverter([f"{first}.bias", f"{second}.bias"], f"{both}.bias", chain, scope)
        case 14:
            chain = [Split(0, (4, 6, 2)), RemoveConstant(1, (6,))]
            return WeightConverter(f"{both}.bias", [f"{first}.bias", f"{second}.bias"], chain, scope)
    parts = [f"{first}.weight", f"{second}.weight"]
    return WeightConverter(both, parts, [Chunk(dim=0), Transpose(dim0=0, dim1=1)], scope)


def _groups(mapping: Mapping, config: Any) -> list[Group]:
    found = list(dict.fromkeys(group for _, group in groups_of(mapping, config)))
    if not found:
        raise MappingError(
            "mapping-invalid",
            "no keys and shapes were found that a rule of this mapping fits",
            where=mapping.name,
            hint="weighbridge lint says which rules never match; operations may need config=...",
        )
    return found


def _joined(
    mapping: Mapping, specs: dict[str, TensorSpec], group: Group, dtype: str, config: Any
) -> dict[str, TensorSpec]:
    """Add a group to a header, unless the two do not go together."""
    if any(key in specs for key, _ in group):
        return specs
    both = specs | {key: TensorSpec(dtype, shape) for key, shape in group}
    return both if try_plan(mapping, Header(both), config) is not None else specs
