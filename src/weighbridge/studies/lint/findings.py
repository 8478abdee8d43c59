"""What the linter finds: a closed set of codes, findings, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from weighbridge.base.errors import MappingError

Severity = Literal["error", "warning"]

FINDINGS: Final[dict[str, str]] = {
    "overlap": "two patterns of one rule, or two converters, claim one key",
    "collide": "two keys end under one name",
    "index-out-of-range": "a rule cannot count or move an index of a key",
    "name-too-long": "a rule would write a name that is too long to be handled",
    "never": "a rule never matches",
    "one-way": "a rule has no inverse",
    "round-trip": "a name does not come back to where it came from",
    "repeats": "a rename matches what it wrote, or its inverse matches an original name",
    "order": "a rename matches what another one wrote, so that their order decides",
    "after-converter": "a rename changes the name that a converter in its scope gave",
    "second-converter": "a converter matches what another one wrote, and never sees it",
    "idle": "a converter leaves its tensors as they are, or names all parts where it names some",
    "uncounted": "how many tensors there are, or how long an axis is, is not said, in one direction",
    "places": "a pattern matches at several places of one key; the first one counts",
}
"""Each code with its one-line meaning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a mapping, or is usually a mistake.

    Args:
        code: One of `FINDINGS`.
        severity: ``error`` if it is wrong for some key that the mapping is for, ``warning`` if it may be meant.
        rules: Numbers of the rules that it is about, from 1, as reports count them.
        words: What it is, as a short clause.
        key: A key that shows it; empty where none is needed.
        got: What becomes of the key.
        because: The rules, in words.
        hint: One concrete thing to try.

    Examples:
        >>> print(Finding("never", "error", (2,), "rule 1 rewrites all that this rule could match", key="a.weight"))
        error    never: rule 1 rewrites all that this rule could match @ a.weight
    """

    code: str
    severity: Severity
    rules: tuple[int, ...]
    words: str
    key: str = ""
    got: str = ""
    because: tuple[str, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yield the headline, then what is known beside it."""
        yield f"{self.severity:<8} {self.code}: {self.words}" + (f" @ {self.key}" if self.key else "")
        details = ("got", self.got.splitlines()), ("because", self.because), ("try", (self.hint,) if self.hint else ())
        for name, texts in details:
            for number, text in enumerate(texts):
                yield f"  {name if number == 0 else '':<9} {text}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "code": self.code,
            "severity": self.severity,
            "rules": list(self.rules),
            "words": self.words,
            "key": self.key,
            "got": self.got,
            "because": list(self.because),
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class LintReport:
    """All findings about one mapping; `str` gives them as text.

    Args:
        mapping: Name of the mapping.
        rules: Number of its rules.
        keys: Number of the keys that were tried.
        real: Whether these were the keys of a header, and not ones made from the patterns.
        findings: What was found, errors first.
    """

    mapping: str
    rules: int
    keys: int
    real: bool
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __bool__(self) -> bool:
        """Tell whether the mapping is clean."""
        return not self.findings

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def counts(self) -> dict[str, int]:
        """Return the number of findings by code, for the codes that there are."""
        return count_codes(self.findings)

    def without(self, codes: Iterable[str]) -> LintReport:
        """Return the report without the findings of some codes.

        Raises:
            MappingError: `usage` for a code that is not one of `FINDINGS`.
        """
        left_out = frozenset(codes)
        unknown = sorted(left_out - FINDINGS.keys())
        if unknown:
            raise MappingError("usage", "no finding has this code", expected=", ".join(FINDINGS), got=unknown[0])
        kept = tuple(finding for finding in self.findings if finding.code not in left_out)
        return LintReport(self.mapping, self.rules, self.keys, self.real, kept)

    def lines(self) -> Iterator[str]:
        """Yield the summary, then the findings."""
        yield f"{self.mapping or 'mapping'}: {self.summary()}"
        for finding in self.findings:
            yield from finding.lines()

    def summary(self) -> str:
        """Say in one line what was tried and how much was found."""
        tried = f"{_count(self.rules, 'rule')}, {_count(self.keys, 'real key' if self.real else 'made-up key')}"
        errors = len(self.errors)
        warnings = len(self.findings) - errors
        found = [_count(number, word) for number, word in ((errors, "error"), (warnings, "warning")) if number]
        return f"{tried}: {', '.join(found) or 'clean'}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "mapping": self.mapping,
            "rules": self.rules,
            "keys": self.keys,
            "real": self.real,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def count_codes(findings: Iterable[Finding]) -> dict[str, int]:
    """Count findings by code, in the order of `FINDINGS`."""
    codes = [finding.code for finding in findings]
    return {code: codes.count(code) for code in FINDINGS if code in codes}


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
