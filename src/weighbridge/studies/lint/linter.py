"""Put the checks together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import families, natural_key
from weighbridge.base.specs import Header
from weighbridge.mappings.bound_offsets import bind_offsets
from weighbridge.mappings.finding import AnyMapping, find_mapping
from weighbridge.mappings.mapping import Mapping, as_mapping
from weighbridge.mappings.one_way import one_way_reason
from weighbridge.mappings.transforms import Transform, WeightConverter
from weighbridge.planning.names.wanting import Wanted
from weighbridge.planning.readings import matching
from weighbridge.planning.tracing import Rule, Rules, prepare
from weighbridge.studies.lint.counting import check_uncounted
from weighbridge.studies.lint.findings import FINDINGS, Finding, LintReport
from weighbridge.studies.lint.idling import check_idle
from weighbridge.studies.lint.rule_checks import (
    WALK_CHECKS,
    Subject,
    Trip,
    check_collisions,
    check_never,
    check_one_way,
    check_unused,
    report_round_trip,
)
from weighbridge.studies.lint.settling import Settled, collisions, settle
from weighbridge.studies.lint.walking import Walk, follow_key
from weighbridge.studies.lint.witnesses import Witness, witnesses

_CODE_ORDER: Final = {code: number for number, code in enumerate(FINDINGS)}


def lint(
    mapping: AnyMapping, header: Header | None = None, target: Header | None = None, *, config: Any = None
) -> LintReport:
    """Check a mapping.

    With a header, the rules run over its real keys, and what goes wrong is an error. Without one they run over keys
    that are made from the patterns, and what may go wrong is a warning where a checkpoint may well not have such keys.

    Args:
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file.
        header: Keys of a checkpoint that the mapping is for.
        target: Keys of the layout that it leads to; their way back and forth is checked.
        config: The model's configuration, for indices that are moved by a number of it; some number if left out.

    Returns:
        All findings, errors first.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> print(lint([WeightRenaming("^vision", "model.vision"), WeightRenaming("^vision.norm", "model.norm")]))
        mapping: 2 rules, 4 made-up keys: 1 error
        error    never: this rule never matches: the rules before it rewrite all that it could @ vision.norm.weight
          because   rule 2: WeightRenaming(^vision.norm -> model.norm)
          try       put it before them, or write it with the names that they give
    """
    checked = bind_offsets(as_mapping(find_mapping(mapping)), config or _Numbers())
    rules = prepare(checked, Wanted(target) if target is not None else None)
    legacy = frozenset(number for number, rule in enumerate(checked) if rule in checked.legacy)
    subject = Subject(rules, dict(_inverses(checked)), legacy, real=header is not None)
    if header is None:
        keys, found = _lint_made_up(subject)
    else:
        keys, found = _lint_real(subject, header)
    found += [*check_one_way(subject), *check_idle(subject), *check_uncounted(subject)]
    if target is not None:
        found += _lint_target(subject, target)
    return LintReport(checked.name, len(checked), keys, subject.real, _sorted_once(found))


class _Numbers:
    """Stands for a configuration that knows every number; they are all the same."""

    def __getattr__(self, name: str) -> int:
        return 1


def _inverses(mapping: Mapping) -> Iterator[tuple[int, Rule]]:
    for number, transform in enumerate(mapping):
        if not isinstance(transform, WeightConverter) and not one_way_reason(transform):
            yield number, prepare(Mapping([transform.inverse()])).rules[0]


def _sorted_once(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Keep the first finding of each kind about the same rules; errors first, then by code and rule."""
    first: dict[tuple[object, ...], Finding] = {}
    for finding in findings:
        first.setdefault(
            (finding.code, finding.rules, finding.words, finding.key if not finding.rules else ""), finding
        )
    return tuple(
        sorted(first.values(), key=lambda one: (one.severity != "error", _CODE_ORDER[one.code], one.rules, one.words))
    )


# ---- without a header ----


def _lint_made_up(subject: Subject) -> tuple[int, list[Finding]]:
    made = list(witnesses(subject.rules, subject.inverses))
    seen = list(dict.fromkeys(witness.key for witness in made))
    original = list(dict.fromkeys(witness.original for witness in made))
    every = list(dict.fromkeys([*original, *seen]))
    walks = [walked for key in every for walked in follow_key(subject.rules, key)]
    found = [finding for walked in walks for check in WALK_CHECKS for finding in check(subject, walked)]
    found += _dead(subject, made, walks)
    problems: list[WeighbridgeError] = []
    settled = settle(subject.rules, original, problems)
    found += (_refused(subject, problem) for problem in problems if problem.code == "index-out-of-range")
    found += _made_up_collisions(subject, settled, settle(subject.rules, seen, []))
    found += _lint_way_back(subject, settled)
    return len(every), found


def _made_up_collisions(subject: Subject, original: list[Settled], seen: list[Settled]) -> Iterator[Finding]:
    """Find collisions among the original keys, and among those that the rules see: both at once would never exist."""
    known = list(check_collisions(subject, collisions(original)))
    yield from known
    for finding in check_collisions(subject, collisions(seen)):
        if not any(set(finding.rules) <= set(other.rules) for other in known):
            yield finding


def _dead(subject: Subject, made: list[Witness], walks: list[Walk]) -> Iterator[Finding]:
    tried: dict[tuple[int, int], str] = {}
    for witness in made:
        tried.setdefault((witness.rule, witness.lane), witness.key)
    fired = {(f.rule.number, f.lane) for walked in walks for f in (*walked.firings, *walked.clash)}
    return check_never(subject, fired, tried)


# ---- with a header ----


def _lint_real(subject: Subject, header: Header) -> tuple[int, list[Finding]]:
    live, carried, found = _split_declared(subject, header)
    problems: list[WeighbridgeError] = []
    settled = settle(subject.rules, live, problems)
    walks = [walked for key in _representatives(subject.rules, live) for walked in follow_key(subject.rules, key)]
    found += (finding for walked in walks for check in WALK_CHECKS for finding in check(subject, walked))
    refused = [problem for problem in problems if problem.code != "rule-overlap"]
    found += (_refused(subject, problem) for problem in refused)
    overlaps = [problem for problem in problems if problem.code == "rule-overlap"]
    found += _overlaps(subject, overlaps, set(live), any(walked.clash for walked in walks))
    stay = [Settled(key, (key,), ()) for key in carried]
    found += check_collisions(subject, collisions([*settled, *stay]))
    lanes = {(f.rule.number, f.lane) for walked in walks for f in (*walked.firings, *walked.clash)}
    fired = {number for number, _ in lanes} | {number for one in settled for number in one.fired}
    stopped = {number for problem in refused for number in _blamed(subject, problem)}
    found += check_unused(subject, fired, lanes, stopped)
    found += _lint_way_back(subject, settled)
    return len(header), found


def _split_declared(subject: Subject, header: Header) -> tuple[list[str], list[str], list[Finding]]:
    """Take out the keys that are dropped or carried; a declaration that names none is a finding."""
    found: list[Finding] = []
    taken: dict[str, set[str]] = {"drop": set(), "carry": set()}
    for kind, keys in taken.items():
        for rule in getattr(subject.mapping, kind):
            named = matching(rule.pattern, header)
            keys.update(named)
            if not named:
                words = f"the {kind} rule {rule.pattern} matches no key of the header"
                found.append(subject.find("never", "warning", (), words))
    live = [key for key in header if key not in taken["drop"] and key not in taken["carry"]]
    return live, sorted(taken["carry"]), found


def _representatives(rules: Rules, keys: Iterable[str]) -> list[str]:
    """Choose keys that stand for all: of each family the first one and the last one."""
    grouped = families(keys, rules.keep)
    chosen = list(grouped.literal)
    for members in grouped.templates.values():
        ordered = sorted(members, key=lambda member: member[1])
        chosen += [ordered[0][0], ordered[-1][0]]
    return sorted(dict.fromkeys(chosen), key=natural_key)


def _refused(subject: Subject, problem: WeighbridgeError) -> Finding:
    """Turn what planning refuses of one key into a finding of the same name."""
    code = problem.code if problem.code in FINDINGS else "index-out-of-range"
    got = "\n".join(filter(None, (problem.expected, problem.got)))
    rules = _blamed(subject, problem)
    return subject.find(code, subject.when_real, rules, problem.what, key=problem.where, got=got, hint=problem.hint)


def _blamed(subject: Subject, problem: WeighbridgeError) -> list[int]:
    """Return the numbers of the rules that a problem of planning names."""
    lines = problem.because.splitlines()
    return [number for number in range(len(subject.mapping)) if subject.mapping.rule_name(number) in lines]


def _overlaps(subject: Subject, problems: list[WeighbridgeError], keys: set[str], known: bool) -> Iterator[Finding]:
    """Turn overlaps into findings that no representative showed: a rule may depend on the digits of an index."""
    for problem in problems:
        walks = list(follow_key(subject.rules, problem.where)) if problem.where in keys else []
        found = [finding for walked in walks for finding in WALK_CHECKS[0](subject, walked)]
        yield from found
        if not found and not known:
            yield Finding(
                "overlap", "error", (), problem.what, problem.where, problem.got, tuple(problem.because.splitlines())
            )


# ---- the way back ----


def _lint_way_back(subject: Subject, settled: list[Settled]) -> Iterator[Finding]:
    """Find keys that come back from their last names under another name, or not through the same converter."""
    numbers, back = _way_back(subject)
    one_way = set(range(len(subject.mapping))) - set(numbers)
    sent = [one for one in settled if one.is_first and one_way.isdisjoint(one.fired)]
    undone = {number: at for at, number in enumerate(numbers)}
    for trip in _trips(sent, back, undone):
        fired = (*trip.fired, *(numbers[number] for number in _fired(back, trip.middle)))
        yield report_round_trip(subject, replace(trip, fired=fired), from_target=False)


def _lint_target(subject: Subject, target: Header) -> Iterator[Finding]:
    """Find names of the target that the inverse leads to a key which the mapping does not bring back."""
    for rule in subject.mapping.initialise:
        if not matching(rule.pattern, target):
            words = f"the initialise rule {rule.pattern} matches no key of the target"
            yield subject.find("never", "warning", (), words)
    numbers, back = _way_back(subject)
    sent = [one for one in settle(back, target, []) if one.is_first]
    for trip in _trips(sent, subject.rules, dict(enumerate(numbers))):
        fired = (*(numbers[number] for number in trip.fired), *_fired(subject.rules, trip.middle))
        yield report_round_trip(subject, replace(trip, fired=fired), from_target=True)


def _way_back(subject: Subject) -> tuple[list[int], Rules]:
    """Invert the rules that have an inverse and belong to it; also return their numbers, in the inverse's order."""
    listed: list[tuple[int, Transform]] = list(enumerate(subject.mapping))
    inverted: dict[Transform, int] = {}
    for number, transform in reversed(listed):
        if number not in subject.legacy and not one_way_reason(transform):
            # two rules may have one inverse: what the second of them would do, the first has done
            inverted.setdefault(transform.inverse(), number)
    return list(inverted.values()), prepare(Mapping(inverted, name=subject.mapping.name))


def _trips(sent: list[Settled], rules: Rules, undone: dict[int, int]) -> Iterator[Trip]:
    """Send last names back by other rules; yield those which do not lead to where they came from.

    Args:
        sent: Names that were sent, with what they became.
        rules: The rules that lead back.
        undone: For each converter that may have fired, the number of the one that undoes it.
    """
    ends = {one.key: one for one in settle(rules, dict.fromkeys(name for one in sent for name in one.names), [])}
    for one in sent:
        for name in one.names:
            found = ends.get(name)
            names = found.names if found is not None else ()
            same = found is not None and found.converter == undone.get(one.converter, -1)
            if one.key not in names or not same:
                yield Trip(one.key, name, names, one.fired)


def _fired(rules: Rules, name: str) -> list[int]:
    walks = list(follow_key(rules, name))
    return [firing.rule.number for walked in walks for firing in (*walked.firings, *walked.clash)]
