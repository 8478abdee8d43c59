"""Check a mapping: what never matches, overlaps, collides, cannot be inverted, or is usually meant otherwise.

Comes in: a mapping, and a header where there is one. Goes out: findings with codes, as a report.
May use: what studies may use. Within, each uses what stands before it:

    findings     the codes, a finding, the report
    walking      follow one key through the rules
    settling     run many keys to their last names
    witnesses    make keys from the patterns, where no header gives real ones
    rule_checks  one function for each kind of finding that patterns and names give
    idling       what a converter says without effect
    linter       put them together
    table        check all mappings of a registry

The function shares its name with this package: write ``from weighbridge.studies.lint import lint``.
"""

from __future__ import annotations

from weighbridge.studies.lint.findings import FINDINGS, Finding, LintReport, Severity, count_codes
from weighbridge.studies.lint.linter import lint
from weighbridge.studies.lint.table import Entry, lint_registry

__all__ = ["FINDINGS", "Entry", "Finding", "LintReport", "Severity", "count_codes", "lint", "lint_registry"]
