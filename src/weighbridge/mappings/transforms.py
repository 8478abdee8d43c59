"""What a mapping says: renames, converters, and the ordered list of both.

All of these are frozen values. A transform never remembers what it matched; that is the plan's to know.

Four kinds of transform, a closed union:

    WeightRenaming      one name for another
    GroupWeightRename   several at once: no pair sees what another pair wrote
    PrefixChange        a prefix added to, or removed from, every key in scope
    WeightConverter     tensors joined, divided or re-ordered by operations

They run in list order. A scope is a mount: a scoped transform sees only the keys under its path, without that path,
and puts it back afterwards. At most one converter fires per key; renames keep running after it.

A transform that is `if_wanted` leaves a key alone whose new name the target lacks, where it has the one without that
transform. The library `transformers` reads every rule of its table so. Without a target it fires as it is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from weighbridge.base.errors import MappingError, PatternError, WeighbridgeError
from weighbridge.base.keys import counted
from weighbridge.mappings.given_sides import Patterns, check_flag, check_path, read_sides
from weighbridge.operations.arity import Arity
from weighbridge.operations.ops import OPERATIONS, Operation, invert as invert_operations
from weighbridge.pattern import Pattern, check_rewrite, invert

Pair = tuple[Pattern, Pattern]


def _mount(scope: str, inner: str) -> str:
    return ".".join(part for part in (scope, inner) if part)


def _set(transform: Transform, **values: object) -> None:
    """Set the fields of a new frozen value."""
    for name, value in values.items():
        object.__setattr__(transform, name, value)


def _set_sides(transform: Transform, sources: Patterns, targets: Patterns, scope: str, if_wanted: bool) -> None:
    """Set what all transforms with patterns have in common, and check it."""
    sides = read_sides(sources, targets)
    if scope != "":
        check_path("scope", scope)
    check_flag("if_wanted", if_wanted)
    _set(transform, **sides, scope=scope, if_wanted=if_wanted)


@dataclass(frozen=True, slots=True, init=False)
class WeightRenaming:
    r"""Give keys that match `source_patterns` the name `target_patterns`.

    Args:
        source_patterns: One pattern or several alternatives; a key may match only one of them.
        target_patterns: The one pattern that replaces the matched part of the key.
        scope: Path of the sub-module whose keys this transform sees; empty for all keys.
        if_wanted: Leave a key alone whose new name the target lacks, where it has the name without this rule.

    Raises:
        PatternError: `pattern-syntax`, `pattern-reference`.
        MappingError: `mapping-invalid`.

    Examples:
        >>> rename = WeightRenaming(r"^language_model\.model", "model.language_model")
        >>> rename_key(rename, "language_model.model.norm.weight")
        'model.language_model.norm.weight'
        >>> rename.inverse().source_patterns
        ('^model.language_model',)
    """

    source_patterns: tuple[str, ...]
    target_patterns: tuple[str, ...]
    scope: str
    if_wanted: bool

    def __init__(
        self, source_patterns: Patterns, target_patterns: Patterns, scope: str = "", if_wanted: bool = False
    ) -> None:
        _set_sides(self, source_patterns, target_patterns, scope, if_wanted)
        if len(self.target_patterns) != 1:
            raise MappingError(
                "mapping-invalid",
                "a renaming has one target",
                got=repr(self.target_patterns),
                hint="use GroupWeightRename to rename several names at once",
            )
        for source, target in pairs(self):
            check_rewrite(source, target)

    def inverse(self) -> WeightRenaming:
        """Return the renaming that takes the new names back.

        Raises:
            PatternError: `pattern-one-way`.
        """
        if len(self.source_patterns) > 1:
            raise _one_way(self, "several sources share one target")
        source, target = invert(*pairs(self)[0])
        return WeightRenaming(source.text, target.text, self.scope, self.if_wanted)


@dataclass(frozen=True, slots=True, init=False)
class GroupWeightRename:
    """Rename several names at once; pair `i` turns source pattern `i` into target pattern `i`.

    Every pair looks at the key as it was before the group, so `norm0 -> norm1` with `norm1 -> norm2` never runs
    twice over one key, whatever the order of the pairs or of the keys.

    Args:
        source_patterns: Patterns, one for each pair.
        target_patterns: Patterns, as many.
        scope: Path of the sub-module whose keys this transform sees.
        if_wanted: Leave a key alone whose new name the target lacks, where it has the name without this rule.

    Raises:
        PatternError: `pattern-syntax`, `pattern-reference`.
        MappingError: `mapping-invalid`.

    Examples:
        >>> swap = GroupWeightRename(["norm0", "norm1"], ["norm1", "norm2"])
        >>> [rename_key(swap, key) for key in ("norm1.weight", "norm0.weight")]
        ['norm2.weight', 'norm1.weight']
    """

    source_patterns: tuple[str, ...]
    target_patterns: tuple[str, ...]
    scope: str
    if_wanted: bool

    def __init__(
        self, source_patterns: Patterns, target_patterns: Patterns, scope: str = "", if_wanted: bool = False
    ) -> None:
        _set_sides(self, source_patterns, target_patterns, scope, if_wanted)
        if len(self.source_patterns) != len(self.target_patterns):
            raise MappingError(
                "mapping-invalid",
                "a group renames name by name",
                expected=counted(len(self.source_patterns), "target"),
                got=str(len(self.target_patterns)),
            )
        for source, target in pairs(self):
            check_rewrite(source, target)

    def inverse(self) -> GroupWeightRename:
        """Return the group that takes the new names back.

        Raises:
            PatternError: `pattern-one-way`.
        """
        if len(set(self.target_patterns)) != len(self.target_patterns):
            raise _one_way(self, "two pairs share one target")
        back = [invert(*pair) for pair in pairs(self)]
        sources, targets = [source.text for source, _ in back], [target.text for _, target in back]
        return GroupWeightRename(sources, targets, self.scope, self.if_wanted)


@dataclass(frozen=True, slots=True)
class PrefixChange:
    """Add a prefix to every key in scope that lacks it, or remove it from every key that has it.

    Args:
        prefix_to_add: Dotted path to put in front; give this or the other one.
        prefix_to_remove: Dotted path to take away.
        model_prefix: Dotted path below the scope after which the prefix stands; none by default.
        scope: Path of the sub-module whose keys this transform sees.
        if_wanted: Leave a key alone whose new name the target lacks, where it has the name without this rule.

    Raises:
        MappingError: `mapping-invalid`.

    Examples:
        >>> rename_key(PrefixChange(prefix_to_add="vision_model"), "encoder.weight")
        'vision_model.encoder.weight'
        >>> rename_key(PrefixChange(prefix_to_add="model"), "model_b.weight")
        'model.model_b.weight'
    """

    prefix_to_add: str | None = None
    prefix_to_remove: str | None = None
    model_prefix: str | None = None
    scope: str = ""
    if_wanted: bool = False

    def __post_init__(self) -> None:
        prefixes = [prefix for prefix in (self.prefix_to_add, self.prefix_to_remove) if prefix is not None]
        if len(prefixes) != 1:
            raise MappingError(
                "mapping-invalid",
                "a prefix change either adds one prefix or removes one",
                got=f"prefix_to_add={self.prefix_to_add!r}, prefix_to_remove={self.prefix_to_remove!r}",
            )
        check_path("the prefix", prefixes[0])
        for name in ("model_prefix", "scope"):
            if getattr(self, name) not in (None, ""):
                check_path(name, getattr(self, name))
        check_flag("if_wanted", self.if_wanted)

    @property
    def source_patterns(self) -> tuple[str, ...]:
        """The pattern that this change stands for."""
        mount = f"{self.model_prefix}." if self.model_prefix else ""
        if self.prefix_to_add is not None:
            return (f"^{mount}(?!{self.prefix_to_add}\\.)(.+)",)
        return (f"^{mount}{self.prefix_to_remove}\\.(.+)",)

    @property
    def target_patterns(self) -> tuple[str, ...]:
        """The pattern that replaces the matched part of the key."""
        mount = f"{self.model_prefix}." if self.model_prefix else ""
        added = f"{self.prefix_to_add}." if self.prefix_to_add is not None else ""
        return (f"{mount}{added}\\1",)

    def inverse(self) -> PrefixChange:
        """Return the change that takes this one back."""
        return PrefixChange(self.prefix_to_remove, self.prefix_to_add, self.model_prefix, self.scope, self.if_wanted)


@dataclass(frozen=True, slots=True, init=False)
class WeightConverter:
    """Turn the tensors that match `source_patterns` into those named `target_patterns`, by operations.

    The keys that match form groups: those which agree in everything but the index `*`, or several of them, and the
    pattern they matched. Within a group the indices in the key decide a tensor's place, never the order of arrival.

    Args:
        source_patterns: Patterns of the tensors that are read, in the operations' order.
        target_patterns: Patterns of the tensors that are written, in the operations' order.
        operations: What to do, first to last.
        scope: Path of the sub-module whose keys this transform sees.
        if_wanted: Leave a key alone whose new name the target lacks, where it has the name without this rule; and one
            that an earlier converter claims.

    Raises:
        PatternError: `pattern-syntax`, `pattern-reference`.
        MappingError: `mapping-invalid`.

    Examples:
        >>> from weighbridge.operations.groupings import Concatenate, MergeModulelist
        >>> experts = WeightConverter(
        ...     ["experts.*.gate_proj.weight", "experts.*.up_proj.weight"],
        ...     "experts.gate_up_proj",
        ...     [MergeModulelist(dim=0), Concatenate(dim=1)],
        ... )
        >>> experts.inverse().operations
        (Chunk(dim=1, num_shards_attribute=None, chunks=None), SplitModulelist(dim=0))
    """

    source_patterns: tuple[str, ...]
    target_patterns: tuple[str, ...]
    operations: tuple[Operation, ...]
    scope: str
    if_wanted: bool

    def __init__(
        self,
        source_patterns: Patterns,
        target_patterns: Patterns,
        operations: Iterable[Operation] = (),
        scope: str = "",
        if_wanted: bool = False,
    ) -> None:
        _set_sides(self, source_patterns, target_patterns, scope, if_wanted)
        if not isinstance(operations, Iterable):
            raise MappingError("mapping-invalid", "operations come as a list", got=repr(operations))
        _set(self, operations=tuple(operations))
        if not self.operations:
            raise MappingError("mapping-invalid", "a converter needs an operation", hint="names alone: WeightRenaming")
        strange = [operation for operation in self.operations if not isinstance(operation, OPERATIONS)]
        if strange:
            raise MappingError("mapping-invalid", "this is no operation", got=repr(strange[0]))
        self.arity.check()
        for source in map(Pattern.parse, self.source_patterns):
            for target in map(Pattern.parse, self.target_patterns):
                check_rewrite(source, target, free_stars=self.arity.splits > 0)

    @property
    def arity(self) -> Arity:
        """What the patterns and operations say about indices."""
        return Arity(self.source_patterns, self.target_patterns, self.operations)

    def inverse(self) -> WeightConverter:
        """Return the converter that undoes this one, its operations inverted in reverse order.

        Raises:
            PatternError: `pattern-one-way`.
            LayoutError: `operation-one-way`.
        """
        try:
            sources, targets = _inverted_patterns(self)
            return WeightConverter(sources, targets, invert_operations(self.operations), self.scope, self.if_wanted)
        except WeighbridgeError as problem:
            raise problem.with_context(where=describe(self)) from None


Transform = WeightRenaming | GroupWeightRename | PrefixChange | WeightConverter
TRANSFORMS: Final[tuple[type[Any], ...]] = (WeightRenaming, GroupWeightRename, PrefixChange, WeightConverter)


def pairs(transform: Transform) -> tuple[Pair, ...]:
    """Return the source patterns of a transform, each with the target pattern that replaces it first."""
    targets = transform.target_patterns
    grouped = isinstance(transform, GroupWeightRename)
    return tuple(
        (Pattern.parse(source), Pattern.parse(targets[number if grouped else 0]))
        for number, source in enumerate(transform.source_patterns)
    )


def rename_key(transform: Transform, key: str) -> str | None:
    """Rewrite one key by a rename, scope included; None where the rename does not match.

    Raises:
        MappingError: `rule-overlap` when two alternatives of the rename match the key.
    """
    inner = strip_scope(transform.scope, key)
    if inner is None:
        return None
    found = [(match, target) for source, target in pairs(transform) if (match := source.match(inner)) is not None]
    if not found:
        return None
    if len(found) > 1:
        what = "two patterns of one rename match this key"
        raise MappingError("rule-overlap", what, where=key, because=describe(transform))
    match, target = found[0]
    filled = target.fill(match.captures)
    if filled is None:
        return None
    return _mount(transform.scope, inner[: match.start] + filled + inner[match.stop :])


def strip_scope(scope: str, key: str) -> str | None:
    """Return the part of `key` below `scope`, or None for a key outside it."""
    if not scope:
        return key
    prefix = scope + "."
    return key.removeprefix(prefix) if key.startswith(prefix) else None


def _inverted_patterns(converter: WeightConverter) -> tuple[list[str], list[str]]:
    """Turn a converter's patterns round: each target becomes a source that binds what the old sources bound."""
    sources = [Pattern.parse(text) for text in converter.source_patterns]
    targets = [Pattern.parse(text) for text in converter.target_patterns]
    free = converter.arity.merges + converter.arity.splits > 0
    new_sources = [invert(sources[0], target, free_stars=free)[0].text for target in targets]
    new_targets = [invert(source, targets[0], free_stars=free)[1].text for source in sources]
    return new_sources, new_targets


def _one_way(transform: Transform, reason: str) -> PatternError:
    return PatternError("pattern-one-way", f"this rule has no inverse: {reason}", where=describe(transform))


_SHOWN: Final = 6
"""Number of patterns of one side that a report shows; of more, it shows half as many."""


def describe(transform: Transform, *, full: bool = False) -> str:
    """Write a transform on one line, for reports.

    Args:
        transform: The transform.
        full: Whether to write all its patterns, however many there are.

    Examples:
        >>> describe(PrefixChange(prefix_to_add="model", scope="tower"))
        'PrefixChange(add model) in tower'
        >>> describe(GroupWeightRename([f"a{n}" for n in range(44)], [f"b{n}" for n in range(44)]))
        'GroupWeightRename(a0, a1, a2, … of 44 -> b0, b1, b2, … of 44)'
    """
    if isinstance(transform, PrefixChange):
        change = f"add {transform.prefix_to_add}" if transform.prefix_to_add else f"remove {transform.prefix_to_remove}"
        text = f"PrefixChange({change})"
    else:
        sides = (_listed(side, full=full) for side in (transform.source_patterns, transform.target_patterns))
        text = f"{type(transform).__name__}({' -> '.join(sides)})"
    if isinstance(transform, WeightConverter):
        text += f" by {', '.join(map(str, transform.operations))}"
    return text + (f" in {transform.scope}" if transform.scope else "") + (", if wanted" if transform.if_wanted else "")


def _listed(patterns: tuple[str, ...], *, full: bool) -> str:
    shown = patterns if full or len(patterns) <= _SHOWN else (*patterns[: _SHOWN // 2], f"… of {len(patterns)}")
    return ", ".join(shown)


def scoped(transform: Transform, prefix: str) -> Transform:
    """Mount a transform under a path; a scope that it already has lies below.

    Examples:
        >>> scoped(WeightRenaming("a", "b", scope="tower"), "model").scope
        'model.tower'
    """
    return replace(transform, scope=_mount(prefix, transform.scope))
