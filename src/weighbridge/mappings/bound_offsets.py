"""Put a configuration's numbers in the place of the names that a mapping's indices are moved by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import PrefixChange, Transform, describe
from weighbridge.operations.configuration import read_config
from weighbridge.pattern import Pattern


def bind_offsets(mapping: Mapping, config: Any) -> Mapping:
    """Return the mapping with numbers for names in its patterns, such as ``{i+num_hidden_layers}``.

    Args:
        mapping: The mapping; it is returned as it is where no pattern names a number.
        config: The model's configuration: attributes or items, those of a nested ``text_config`` among them.

    Raises:
        LayoutError: `operation-config` for a number that the configuration lacks.
        PatternError: `pattern-syntax` for one that is too large for an offset.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> mapping = Mapping([WeightRenaming("mtp.{i:int}", "layers.{i+num_hidden_layers}")])
        >>> bind_offsets(mapping, {"num_hidden_layers": 61}).transforms[0].target_patterns
        ('layers.{i+61}',)
    """
    listed = (*mapping.transforms, *mapping.legacy, *(mapping.forward.transforms if mapping.forward else ()))
    if not any(_names(transform) for transform in listed):
        return mapping

    def find(name: str) -> int:
        return read_config(config, name, default_to_text=True)

    return replace(
        mapping,
        transforms=tuple(_bind(transform, find) for transform in mapping.transforms),
        legacy=tuple(_bind(transform, find) for transform in mapping.legacy),
        forward=mapping.forward and bind_offsets(mapping.forward, config),
    )


def _names(transform: Transform) -> list[str]:
    sides = (*transform.source_patterns, *transform.target_patterns)
    return [name for text in sides for name in Pattern.parse(text).names]


def _bind(transform: Transform, find: Callable[[str], int]) -> Transform:
    if isinstance(transform, PrefixChange) or not _names(transform):
        return transform
    try:
        sources, targets = (
            tuple(Pattern.parse(text).bind(find).text for text in side)
            for side in (transform.source_patterns, transform.target_patterns)
        )
        return replace(transform, source_patterns=sources, target_patterns=targets)
    except WeighbridgeError as error:
        raise error.with_context(where=describe(transform)) from None
