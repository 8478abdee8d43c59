"""What a check is about: a mapping, a header, and the model or layout that the header is to fit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from weighbridge import api
from weighbridge.api import Plan
from weighbridge.base.errors import MappingError
from weighbridge.base.specs import Header
from weighbridge.mappings.finding import AnyMapping, find_mapping
from weighbridge.mappings.mapping import Mapping, as_mapping

Place = Any
"""A `Header`, a path (of an inventory, such as a ``header.json.gz``, or of a checkpoint), or a dict of tensors."""

Model = Any
"""A model, a function without arguments that makes one, a `Header`, a path; None for no target."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A mapping with the header and the target that it is checked on.

    Args:
        mapping: The mapping.
        source: Specs of the published tensors.
        target: The model, or the layout, to reach; None to take whatever the mapping gives.
        options: As for `weighbridge.plan`.
    """

    mapping: Mapping
    source: Header
    target: Any
    options: dict[str, Any]

    @property
    def target_header(self) -> Header | None:
        """Specs of the target's tensors."""
        if self.target is None or isinstance(self.target, Header):
            return self.target
        if not is_model(self.target):
            return api.open(self.target).header
        from weighbridge.models.modules import module_header

        return module_header(self.target)

    def plan(self, source: Place = None) -> Plan:
        """Compile the plan, strictly unless the options say otherwise.

        Args:
            source: Read this checkpoint instead of the header.

        Raises:
            PlanError: As `weighbridge.plan`.
        """
        return api.plan(self.source if source is None else source, self.mapping, self.target, **self.options)

    def shuffled(self, seed: int) -> Subject:
        """Return the same subject with the keys of both sides in another order."""
        target = self.target_header
        config = {"config": getattr(self.target, "config", None)} | self.options
        mixed = None if target is None else _shuffle(target, seed + 1)
        return replace(self, source=_shuffle(self.source, seed), target=mixed, options=config)


def make_subject(mapping: AnyMapping | None, header: Place, model: Model, options: dict[str, Any]) -> Subject:
    """Put a subject together from what an author writes.

    Args:
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file; None for what
            is registered for the model.
        header: What is published.
        model: What it is to fit. A function is called with torch's default device set to meta.
        options: As for `weighbridge.plan`.

    Raises:
        RegistryError: `mapping-not-found`.
        MappingError: `usage` where there is neither a mapping nor a model.
        CheckpointError: As `weighbridge.open`.
    """
    source = api.open(header).header
    target = _make_model(model) if _is_factory(model) else model
    if mapping is not None:
        found = find_mapping(mapping)
    elif is_model(target):
        from weighbridge.models.resolve import resolve

        found = resolve(target, required=True)
    else:
        raise MappingError("usage", "without a mapping, a check needs the model that one is registered for")
    return Subject(as_mapping(found), source, target, options)


def is_model(target: Any) -> bool:
    """Tell whether a target is a module of torch, without importing it."""
    return hasattr(target, "named_parameters")


def _is_factory(model: Any) -> bool:
    return callable(model) and (isinstance(model, type) or not is_model(model))


def _make_model(make: Callable[[], Any]) -> Any:
    import torch

    with torch.device("meta"):
        return make()


def _shuffle(header: Header, seed: int) -> Header:
    listed = list(header.specs.items())
    random.Random(seed).shuffle(listed)
    return Header(dict(listed), header.metadata, header.ties)
