"""Print the page docs/transformers-table.md: what the linter finds in the table of the installed transformers.

make lint-table writes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from weighbridge.integrations import transformers as integration
from weighbridge.studies.lint import FINDINGS, Entry, Finding, count_codes, lint_registry

HEAD = """# Lint of the transformers table

transformers {version} keeps a table of conversion rules: for a class name or a model type, how a published checkpoint's
names and tensors become those of the model. This page is what [the linter](lint.md) finds in it; `make lint-table`
writes it anew for the version that is installed.

No checkpoint is involved: the keys are made from the patterns. So an error is certain, and a warning says what would
happen to a key of that name. Many of them will never meet such a key, and an explicit order may be meant. The rules are
read as [our patterns](patterns.md), renames first and converters last, as the library runs them.

{mappings} different mappings stand under {names} names. {clean} are clean.
"""


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    import transformers

    entries = lint_registry(integration.registry())
    clean = sum(not entry.report.findings for entry in entries)
    names = sum(len(entry.names) for entry in entries)
    yield from HEAD.format(version=transformers.__version__, mappings=len(entries), names=names, clean=clean).split(
        "\n"
    )
    yield from overview(entries)
    for entry in entries:
        if entry.report.findings:
            yield from section(entry)


def overview(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield a table of the findings by code."""
    found = [finding for entry in entries for finding in entry.report.findings]
    counts = count_codes(found)
    yield "| finding | errors | warnings | mappings | meaning |"
    yield "|---|---|---|---|---|"
    for code, meaning in FINDINGS.items():
        errors = sum(finding.code == code and finding.severity == "error" for finding in found)
        owners = sum(code in entry.report.counts() for entry in entries)
        yield f"| `{code}` | {errors} | {counts.get(code, 0) - errors} | {owners} | {meaning} |"


def section(entry: Entry) -> Iterator[str]:
    """Yield one mapping's findings."""
    first, *others = entry.names
    yield from ("", f"## {first}", "")
    if others:
        yield from (f"Also {', '.join(others)}.", "")
    yield "```text"
    for finding in entry.report.findings:
        yield from lines(finding)
    yield "```"


def lines(finding: Finding) -> Iterator[str]:
    """Yield a finding without the hint, which is the same for all of its kind."""
    yield from (line for line in finding.lines() if not line.startswith("  try "))


if __name__ == "__main__":
    print("\n".join(page()))
