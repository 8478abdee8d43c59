"""Check a mapping: what never matches, overlaps, collides, cannot be inverted, or is usually meant otherwise.

    findings.py     the codes, a finding, the report
    walking.py      follow one key through the rules
    witnesses.py    make keys from the patterns, where no header gives real ones
    settling.py     run many keys to their last names
    rule_checks.py  one function for each kind of finding
    linter.py       put them together
    table.py        check all mappings of a registry

The function shares its name with this package: write ``from weighbridge.studies.lint import lint``.
"""

from __future__ import annotations

from weighbridge.studies.lint.findings import FINDINGS, Finding, LintReport, Severity, count_codes
from weighbridge.studies.lint.linter import lint
from weighbridge.studies.lint.table import Entry, lint_registry

__all__ = ["FINDINGS", "Entry", "Finding", "LintReport", "Severity", "count_codes", "lint", "lint_registry"]
