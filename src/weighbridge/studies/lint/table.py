"""Check all mappings of a registry; those that are the same under several names once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.registry import Registry
from weighbridge.studies.lint.findings import FINDINGS, LintReport, count_codes
from weighbridge.studies.lint.linter import lint


class Entry(NamedTuple):
    """One mapping of a registry, checked.

    Args:
        names: All names that it has, in alphabetical order.
        report: What was found; it bears the first name.
    """

    names: tuple[str, ...]
    report: LintReport

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"names": list(self.names), **self.report.to_dict()}


def lint_registry(registry: Registry) -> list[Entry]:
    """Check every mapping of a registry, by names alone.

    Args:
        registry: The registry.

    Returns:
        One entry for each different mapping, by its first name in alphabetical order.

    Raises:
        RegistryError: As `Registry.find`.

    Examples:
        >>> registry = Registry(use_entry_points=False)
        >>> _ = registry.register("bert", [])
        >>> registry.alias("electra", of="bert")
        >>> [entry.names for entry in lint_registry(registry)]
        [('bert', 'electra')]
    """
    names: dict[Any, list[str]] = {}
    mappings: dict[Any, Mapping] = {}
    for name in registry:
        mapping = registry.find(name)
        same = mapping.transforms, mapping.drop, mapping.carry, mapping.initialise
        names.setdefault(same, []).append(name)
        mappings.setdefault(same, mapping)
    return [
        Entry(tuple(names[same]), lint(replace(mapping, name=names[same][0]))) for same, mapping in mappings.items()
    ]


def table_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the numbers of all findings, then the findings themselves."""
    entries = list(entries)
    found = [finding for entry in entries for finding in entry.report.findings]
    names = sum(len(entry.names) for entry in entries)
    yield f"{len(entries):,} mappings under {names:,} names: {len(found):,} findings"
    for code, count in count_codes(found).items():
        owners = sum(code in entry.report.counts() for entry in entries)
        yield f"  {count:>5,}  {code:<15} in {owners:,} of the mappings: {FINDINGS[code]}"
    for entry in entries:
        if entry.report.findings:
            yield ""
            yield from entry.report.lines()
            if len(entry.names) > 1:
                yield f"  also      {', '.join(entry.names[1:])}"
