r"""Read the mapping table of the installed transformers library into weighbridge mappings.

The library keeps, for each class name or model type, a list of rules that turn a published layout into its runtime
layout. Here each list becomes a `Mapping` that does the same:

    order       the library runs all renames of a list before its converters, and so does the imported mapping
    boundaries  its patterns are searched anywhere in a key, and bounded by the end of a word alone; ours match whole
                segments. So each pattern that may begin or end inside a segment has a group there for the rest of it,
                `(\w*)`. Those that end with an index, or with a guard, end with the segment all the same
    dots        an unescaped dot is any character there, and a dot here
    undoing     a key that its rules would give a name which the model lacks keeps its own, if the model has that one:
                each imported rule is `if_wanted`
    the way     back is recorded by a plan, never taken from the library's own reverse

Whatever cannot be expressed is an error that names it. Where that is an operation which gives its tensors another name
or another shape, the error waits until a checkpoint has such a tensor: all others are read, and so is one that is in
the runtime layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping as MappingOf
from dataclasses import replace
from typing import Any, Final

from weighbridge.base.errors import RegistryError
from weighbridge.mappings.library_parts import OLDEST, UNDERSTOOD, library_module, library_name
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.registry import Registry
from weighbridge.mappings.transforms import GroupWeightRename, PrefixChange, Transform, WeightConverter, WeightRenaming
from weighbridge.operations.groupings import Concatenate
from weighbridge.operations.ops import OPERATIONS, Operation


def registry(*, as_shipped: bool = False) -> Registry:
    """Return the installed library's own table, as a registry.

    Args:
        as_shipped: Without what was registered with the library's own function.

    Returns:
        A registry that has every name of the table, imported when it is asked for. What was registered with the
        library's own function counts as registered; the rest is built in.

    Raises:
        RegistryError: `integration-version` if the library does not have the table where it is known to be; when a
            name is looked up, if its rules hold something unknown.

    Examples:
        >>> [type(transform).__name__ for transform in registry().find("mixtral")][-2:]
        ['WeightConverter', 'WeightConverter']
    """
    table, own = _read_table()
    if as_shipped and own:
        build = library_name(library_module("conversion_mapping"), "_build_checkpoint_conversion_mapping")
        table, own = build(), set()
    made = Registry(use_entry_points=False)
    theirs = "transformers.conversion_mapping"
    made.provide(table.keys() - own, lambda name: import_entry(name, table[name]), lambda name: theirs)
    for name in sorted(table.keys() & own):
        made.register(name, import_entry(name, table[name]))
    return made


def import_entry(name: str, entry: Any) -> Mapping:
    """Turn the library's list of rules into a mapping.

    Args:
        name: What to call the mapping.
        entry: The library's transforms.

    Raises:
        RegistryError: `integration-version` for a transform or an operation that is not known.
        PatternError: `pattern-syntax` for a pattern that cannot be read.
    """
    rules = dict.fromkeys(import_transform(rule) for rule in entry)
    return Mapping(in_order(rules), name=name)


def in_order(rules: MappingOf[Transform, Any] | list[Transform]) -> Iterator[Transform]:
    """Yield rules in the order in which the library runs them: renames first, then converters."""
    yield from (rule for rule in rules if not isinstance(rule, WeightConverter))
    yield from (rule for rule in rules if isinstance(rule, WeightConverter))


def _read_table() -> tuple[dict[str, list[Any]], set[str]]:
    """Fetch the table and the names that were registered by hand; its cache is filled by the first look-up."""
    module = library_module("conversion_mapping")
    library_name(module, "get_checkpoint_conversion_mapping")("")
    table: dict[str, list[Any]] = library_name(module, "_checkpoint_conversion_mapping_cache")
    return dict(table), set(library_name(module, "USER_REGISTERED_MAPPINGS"))


def _unknown(got: str) -> RegistryError:
    """Make the error for something in the table; an older version would not have the model at all."""
    import transformers

    return RegistryError(
        "integration-version",
        "the table of transformers has something that weighbridge does not understand",
        expected=f"what transformers {OLDEST} to {UNDERSTOOD} have there",
        got=f"{transformers.__version__}: {got}",
        hint="give a mapping of your own; an empty list if the checkpoint has the model's own names",
    )


# ---- transforms ----


def import_transform(rule: Any) -> Transform:
    """Turn one of the library's transforms into ours.

    Raises:
        RegistryError: `integration-version` for a kind that is not known; a subclass may do anything, so it is not
            taken for what it is derived from.
    """
    kind = type(rule).__name__
    if kind not in _TRANSFORMS:
        raise _unknown(f"a transform called {kind}")
    return _TRANSFORMS[kind](rule)


_WORD: Final = re.compile(r"[A-Za-z0-9]|\(\?<")
_GROUP: Final = re.compile(r"\((?!\?)(?P<body>[^()]*)\)")
_LOOSE_END: Final = re.compile(r"_$|\([^()?]*\|[^()?]*\w\)$")


def _sides(rule: Any) -> tuple[list[str], list[str]]:
    """Return the patterns of a rule, with a group for the rest where a source may begin or end inside a segment."""
    return _open_end(*_open_start(list(rule.source_patterns), list(rule.target_patterns)))


def _open_start(sources: list[str], targets: list[str]) -> tuple[list[str], list[str]]:
    """Let sources that begin with a word match inside a segment, where the library finds them as well.

    A group that both sides begin with takes what stands before it in its segment; else that is a group of its own.
    """
    groups = [_GROUP.match(source) for source in sources]
    if any(target.startswith(r"\1") for target in targets):
        is_shared = all(groups) and all(target.startswith(r"\1") for target in targets)
        return ([_widened(source) for source in sources], targets) if is_shared else (sources, targets)
    pairs = zip(sources, groups, strict=True)
    if not all(_WORD.match(source) or (found and "^" not in found["body"]) for source, found in pairs):
        return sources, targets
    moved = [re.sub(r"\\(\d)", lambda found: f"\\{int(found[1]) + 1}", target) for target in targets]
    return [rf"(\w*){source}" for source in sources], [rf"\1{target}" for target in moved]


def _widened(source: str) -> str:
    """Let each alternative of the group that a source begins with, but for the start of the key, begin anywhere."""
    found = _GROUP.match(source)
    assert found is not None
    branches = (branch if branch.startswith("^") else rf"\w*{branch}" for branch in found["body"].split("|"))
    return f"({'|'.join(branches)}){source[found.end() :]}"


def _open_end(sources: list[str], targets: list[str]) -> tuple[list[str], list[str]]:
    """Let sources go on inside a segment behind `_` or a choice: the library bounds a letter or a digit alone."""
    if not all(map(_LOOSE_END.search, sources)):
        return sources, targets
    number = max(re.compile(source).groups for source in sources) + 1
    return [rf"{source}(\w*)" for source in sources], [rf"{target}\{number}" for target in targets]


def _renaming(rule: Any) -> Transform:
    """Read a renaming; a star in it is no index, as nothing is merged, but any segment, whatever that is called."""
    sources, targets = _sides(rule)
    return WeightRenaming([source.replace("*.", "[^.]+.") for source in sources], targets[0], if_wanted=True)


def _offset_renaming(rule: Any) -> Transform:
    r"""Write the library's offset into the target: `layers.\1` becomes `layers.{1+1}`."""
    sources, targets = _sides(rule)
    index = re.compile(sources[0]).groups
    return WeightRenaming(sources, targets[0].replace(rf"\{index}", f"{{{index}{rule.offset:+d}}}"), if_wanted=True)


def _group(rule: Any) -> Transform:
    return GroupWeightRename(*_sides(rule), if_wanted=True)


def _prefix(rule: Any) -> Transform:
    return PrefixChange(rule.prefix_to_add, rule.prefix_to_remove, rule.model_prefix or None, if_wanted=True)


_KEYS: Final = "linear_num_key_heads*linear_key_head_dim"
_VALUES: Final = "linear_num_value_heads*linear_value_head_dim"

UNEQUAL: Final[MappingOf[tuple[str, ...], tuple[str, ...]]] = {
    tuple(f"linear_attn.{part}_conv1d.weight" for part in "qkv"): (_KEYS, _KEYS, _VALUES),
    ("wte.embedding", "wte.new_embedding"): ("vocab_size", "additional_vocab_size"),
}
"""Tensors that the library joins, and cuts into equal parts when it saves, though they are none: what the configuration
calls their sizes, as the library's models are made of them. By the patterns of the sources."""


def _converter(rule: Any) -> Transform:
    strange = next((name for one in rule.operations if (name := type(one).__name__) in NOT_UNDERSTOOD), "")
    if strange:
        return _refusing(rule, strange)
    operations = [made for one in rule.operations for made in import_operation(one)]
    sizes = UNEQUAL.get(tuple(rule.source_patterns))
    if sizes is not None:
        operations = [replace(one, sizes=sizes) if isinstance(one, Concatenate) else one for one in operations]
    return WeightConverter(*_sides(rule), operations, if_wanted=True)


NOT_UNDERSTOOD: Final = ("Inkling2LoopDequantizeExperts", "Inkling2LoopMergeMessageQueries", "Inkling2UnpadVocab")
"""Operations that cannot be said here, and that never leave a tensor both the name and the shape that it has."""


def _refusing(rule: Any, operation: str) -> Transform:
    """Stand for a converter that is not understood: it gives its tensors names that no model has, so that no plan fits.

    A checkpoint without such tensors is read all the same, and one in the runtime layout fits as it is.
    """
    sources, targets = _sides(rule)
    name = f"{targets[0].removesuffix('.')}.{operation}_is_not_understood"
    return GroupWeightRename(sources, [f"{name}_{number}" for number, _ in enumerate(sources)])


MOST_LAYERS: Final = 128
"""How many layers a model may have whose checkpoints hold two blocks for each."""

_BLOCKS: Final = (
    (0, "mixer", "self_attn"),
    (0, "attn_alpha", "lambda_1"),
    (1, "mixer", "mlp"),
    (1, "mlp_alpha", "lambda_2"),
)
"""Which of a layer's two blocks has a name, that name, and the layer's own."""


def _layer_pairs(rule: Any) -> Transform:
    """Name the attention block and the mlp block of each layer, which are counted through in a checkpoint."""
    del rule  # it says nothing but its kind
    names = [
        (rf"layers\.{2 * layer + block}\.{theirs}", f"layers.{layer}.{ours}")
        for layer in range(MOST_LAYERS)
        for block, theirs, ours in _BLOCKS
    ]
    return GroupWeightRename([source for source, _ in names], [target for _, target in names], if_wanted=True)


_TRANSFORMS: Final[MappingOf[str, Callable[[Any], Transform]]] = {
    "WeightRenaming": _renaming,
    "Inkling2IndexOffsetWeightRename": _offset_renaming,
    "GroupWeightRename": _group,
    "LayerPairCollapse": _layer_pairs,
    "PrefixChange": _prefix,
    "WeightConverter": _converter,
}


# ---- operations ----


def import_operation(operation: Any) -> list[Operation]:
    """Turn one of the library's operations into ours; two of them stand for a pair.

    Raises:
        RegistryError: `integration-version`.
    """
    kind, values = type(operation).__name__, vars(operation)
    ours: dict[str, Any] = {known.__name__: known for known in OPERATIONS}
    if kind in _PAIRS:
        return [ours[name](**_arguments(values[part])) for name, part in _PAIRS[kind]]
    if kind not in ours:
        raise _unknown(f"an operation called {kind}")
    return [ours[kind](**_arguments(operation))]


_PAIRS: Final[MappingOf[str, tuple[tuple[str, str], ...]]] = {
    "VisionFuseAndPermuteForRope": (("PermuteForRope", "permute_op"), ("Concatenate", "concat_op")),
    "VisionUnfuseAndPermuteForRope": (("Chunk", "chunk_op"), ("PermuteForRope", "permute_op")),
}


def _arguments(operation: Any) -> dict[str, Any]:
    """Return the arguments that an operation of the library was made with; lists become tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in vars(operation).items()}
