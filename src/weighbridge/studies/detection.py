"""Say which known family of models a checkpoint's names belong to, and in which layout they stand.

What is compared are names without their indices: those of the checkpoint with those that are known of each model type,
as published and at runtime. A configuration's `model_type` decides between types whose names fit, and nothing but names
that fit for certain is taken for another type. The rules of a type's mapping are evidence for the reader: on how many
keys would they fire?
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping as MappingOf, Sequence
from dataclasses import dataclass, replace
from math import fsum, log1p
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import by_name, collapse
from weighbridge.base.specs import Header
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.registry import Registry, default_registry
from weighbridge.mappings.schemes.endings import KNOWN
from weighbridge.mappings.schemes.said import SAID
from weighbridge.mappings.transforms import describe
from weighbridge.models.resolve import resolve_config
from weighbridge.planning.tracing import prepare, trace_keys
from weighbridge.studies.known_names import BOTH, PUBLISHED, RUNTIME, Layout, count_holders, known_layouts, known_types

ENOUGH: Final = 0.65
"""Least score of a family that is named."""

SURE: Final = 0.98
"""Least score of a family that is named without "perhaps" by its names alone.

Held against transformers 5.23, the base model of each of its types as it is at runtime and as published: of 98 lists of
names of types that are in the table, 92 reach it (the others are made by default with fewer kinds of layers). Of 430 of
other types, 44 have all the names of one in the table and no other, which only a configuration can tell, one reaches it
beside these, 137 are called "perhaps", and 248 do not reach `ENOUGH`.
"""

SHOWN: Final = 4
"""How many names, rules or families a printed line lists."""

COMPUTED: Final = re.compile(r"(?:^|\.)(?:inv_freq|position_ids|scales)$")
"""Names of tensors that are computed, or come with quantisation in most checkpoints that have them."""


OLD_LEAVES: Final = {"gamma": "weight", "beta": "bias"}
"""What `LayerNorm` called its parameters in files that came from TensorFlow, as BERT's first ones did."""


class RuleUse(NamedTuple):
    """A rule of a family's mapping, and the number of keys that it would fire on."""

    rule: str
    keys: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A family that a checkpoint may belong to.

    Args:
        name: Its model type, or the name that its mapping is registered under.
        layout: `PUBLISHED`, `RUNTIME` or `BOTH`.
        score: How well the names agree, from 0 to 1: twice the names in common, by the names of both sides, each name
            by how few types have it.
        known: Number of the checkpoint's names, indices aside, that the family has.
        unknown: The checkpoint's names that it does not have.
        missing: Names that all its known checkpoints have, and this one has not.
        rules: The rules of its mapping that would fire, for the way from this layout to the other one.
        by_config: Whether the configuration names it.
    """

    name: str
    layout: str
    score: float
    known: int = 0
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    rules: tuple[RuleUse, ...] = ()
    by_config: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {layout_text(self.layout)}"

    def reasons(self) -> Iterator[tuple[str, str]]:
        """Yield what speaks ``for`` and ``against`` it, each with its text."""
        if self.known + len(self.unknown):
            yield "for", f"{self.known:,} of {self.known + len(self.unknown):,} names, indices aside, are known of it"
        for use in self.rules[:SHOWN]:
            yield "for", f"{use.rule} would fire on {use.keys:,} key{'s' * (use.keys != 1)}"
        if self.by_config:
            yield "for", "config.json names it"
        for words, names in (("not known of it", self.unknown), ("that it always has, not here", self.missing)):
            if names:
                yield "against", f"{len(names):,} name{'s' * (len(names) != 1)} {words}: {_listed(names)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "layout": self.layout,
            "score": round(self.score, 4),
            "known": self.known,
            "unknown": list(self.unknown),
            "missing": list(self.missing),
            "rules": [use._asdict() for use in self.rules],
            "by_config": self.by_config,
        }


@dataclass(frozen=True, slots=True)
class Detection:
    """Which family a checkpoint belongs to; true if one is known.

    Args:
        candidates: Families in order, the likeliest first.
        tied: Names of the families that agree with the checkpoint just as well as the first one.
        config_type: The configuration's `model_type`; empty where there is none.
        notes: What else there is to say, one sentence each.
    """

    candidates: tuple[Candidate, ...]
    tied: tuple[str, ...] = ()
    config_type: str = ""
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate | None:
        """The likeliest family; None where no known one is likely, or where the configuration names one that is not."""
        found = self.candidates[0] if self.candidates else None
        if found is None or found.score < ENOUGH:
            return None
        against = bool(self.config_type) and not found.by_config
        is_certain = found.score >= SURE and self.config_type in known_types()
        return None if against and not is_certain else found

    @property
    def name(self) -> str:
        """The likeliest family's name, or an empty text."""
        return self.best.name if self.best is not None else ""

    @property
    def layout(self) -> str:
        """The layout of the names, or an empty text."""
        return self.best.layout if self.best is not None else ""

    def __bool__(self) -> bool:
        return self.best is not None

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def summary(self) -> str:
        """Say it in one line, with how well the names agree if that is not sure; an empty text for no known family."""
        best = self.best
        if best is None:
            return f"{self.config_type}, by config.json alone" if self.config_type else ""
        others = f"; or {_listed(self.tied)}" if self.tied else ""
        said = f"{best.name}{others}: {layout_text(best.layout)}"
        if best.score >= SURE:
            return said
        return f"{'' if best.by_config else 'perhaps '}{said} (agrees {best.score:.0%})"

    def lines(self) -> Iterator[str]:
        """Yield the answer as text, with the reasons."""
        best = self.best
        yield self.summary() or "no known family"
        for number, candidate in enumerate(self.candidates[:2]):
            if number or best is None:
                yield f"{'next' if number else 'nearest':<9} {candidate}: {candidate.score:.0%}"
            else:
                yield f"{'agrees':<9} {candidate.score:.0%}"
            yield from (f"  {word:<7} {text}" for word, text in candidate.reasons())
        if self.tied:
            yield f"{'tied':<9} {_listed(self.tied, 12)}: their names agree just as well; the configuration would tell"
        yield from (f"{'note':<9} {note}" for note in self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name or None,
            "layout": self.layout or None,
            "tied": list(self.tied),
            "config_type": self.config_type or None,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "notes": list(self.notes),
        }


def layout_text(layout: str) -> str:
    """Say a layout in words.

    Examples:
        >>> layout_text(PUBLISHED)
        'published layout'
    """
    return "published layout, which is the runtime's" if layout == BOTH else f"{layout} layout"


def _listed(names: Iterable[str], most: int = SHOWN) -> str:
    lines = collapse(names)
    return ", ".join(lines[:most]) + (f", … and {len(lines) - most} more" if len(lines) > most else "")


# Comparing


def detect(
    header: Header,
    config: Any = None,
    *,
    registry: Registry = default_registry,
    others: MappingOf[str, Mapping] | None = None,
    reasons: bool = True,
) -> Detection:
    """Find the family and the layout of a header.

    Args:
        header: Specs of the checkpoint's tensors.
        config: The content of its `config.json`, if there is one.
        registry: Where the mappings of the families are looked up.
        others: Further mappings by name, judged by their rules alone: what users registered, or another library's
            table. Those of types whose names are known are left aside.
        reasons: Whether to find out which rules would fire.

    Returns:
        The families that come into question, and why.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> keys = [f"h.{i}.{name}.{part}" for i in range(2) for part in ("weight", "bias")
        ...         for name in ("ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
        >>> keys += ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"]
        >>> detect(Header({key: TensorSpec("F32", (2,)) for key in keys})).name
        'gpt2'
    """
    alike = by_name(_as_rules_see(header, config))
    config_type = _model_type(config)
    best = _best([name for name in alike if not (KNOWN.search(name) or COMPUTED.search(name))], config_type)
    samples = {keys[0]: len(keys) for keys in alike.values()}
    ranked = [*best.values(), *_by_rules(others or {}, samples, config_type)]
    ranked.sort(key=lambda candidate: (not _is_likely(candidate), -candidate.score, candidate.name))
    first = ranked[0] if ranked else None
    tied = tuple(each.name for each in ranked[1:] if first and _is_tied(first, each))
    shown = tuple(_with_rules(each, config, registry, samples) if reasons else each for each in ranked[: 2 + len(tied)])
    return Detection(shown, tied, config_type, tuple(_notes(ranked, config_type)))


def _as_rules_see(header: Header, config: Any) -> Header:
    """Return a header with one tensor for each quantised weight, where a configuration says how these are stored."""
    if not isinstance(config, MappingOf) or not any(name in config for name in SAID):
        return header
    from weighbridge.planning.grouped.weights import Saying, group_weights

    groups = group_weights(header, Saying(config))
    return header if groups is None else groups.seen


def _best(names: Collection[str], config_type: str) -> dict[str, Candidate]:
    """Compare names with every type's; of each type, keep the layout that agrees better."""
    best: dict[str, Candidate] = {}
    for layout in known_layouts():
        candidate = _compare(layout, names, config_type)
        other = best.get(layout.model_type)
        if other is not None and candidate.score == other.score:
            best[layout.model_type] = replace(other, layout=BOTH)
        elif candidate.known and (other is None or candidate.score > other.score):
            best[layout.model_type] = candidate
    return best


def _is_likely(candidate: Candidate) -> bool:
    return candidate.by_config and candidate.score >= ENOUGH


def _is_tied(first: Candidate, other: Candidate) -> bool:
    return not _is_likely(first) and first.score >= ENOUGH and abs(first.score - other.score) < 1e-9


def _compare(layout: Layout, names: Iterable[str], config_type: str) -> Candidate:
    """Compare a checkpoint's names with those of one layout; both without the prefix of head models."""
    prefix = f"{layout.prefix}." if layout.prefix else ""
    bare = {_today(name).removeprefix(prefix): name for name in names}
    held = [name for name in bare if name in layout.common or name in layout.other]
    unknown = tuple(sorted(whole for name, whole in bare.items() if name not in layout.common | layout.other))
    missing = tuple(sorted(layout.common - bare.keys()))
    common = 2 * _weight(held)
    strange = (name for name in bare if name not in layout.common | layout.other)
    score = common / (common + _weight(strange) + _weight(missing)) if held else 0.0
    by_config = layout.model_type == config_type
    return Candidate(layout.model_type, layout.name, score, len(held), unknown, missing, (), by_config)


def _today(name: str) -> str:
    """Return a name with today's word for a norm's parts, which the files of the first checkpoints call otherwise."""
    front, _, leaf = name.rpartition(".")
    return f"{front}.{OLD_LEAVES[leaf]}" if leaf in OLD_LEAVES and front.endswith("LayerNorm") else name


def _weight(names: Iterable[str]) -> float:
    """Weigh names by how few types have them: one that all have tells nothing, one that none has much."""
    types, holders = count_holders()
    return fsum(log1p(types / holders.get(name, 1)) for name in names)


def _notes(ranked: Sequence[Candidate], config_type: str) -> Iterator[str]:
    if not config_type:
        return
    named = next((candidate for candidate in ranked if candidate.name == config_type), None)
    if named is None:
        known = config_type in known_types()
        yield f"config.json names {config_type!r}" + (
            "; no tensor has a name of that family" if known else ", a family of which no names are known here"
        )
    elif named is not ranked[0]:
        yield f"config.json names {config_type!r}, which agrees to {named.score:.0%}"


def _model_type(config: Any) -> str:
    found = config.get("model_type") if isinstance(config, MappingOf) else getattr(config, "model_type", None)
    return found if isinstance(found, str) else ""


# Rules


def _uses(mapping: Mapping, samples: MappingOf[str, int]) -> tuple[RuleUse, ...]:
    """Count the keys that each rule of a mapping would fire on, those with the most keys first."""
    counts: dict[int, int] = {}
    for trace, members in trace_keys(prepare(mapping), samples, []):
        for number in trace.fired:
            counts[number] = counts.get(number, 0) + sum(samples[key] for key, _ in members)
    uses = [RuleUse(f"rule {n + 1}, {describe(mapping.transforms[n])},", count) for n, count in counts.items()]
    return tuple(sorted(uses, key=lambda use: -use.keys))


def _with_rules(candidate: Candidate, config: Any, registry: Registry, samples: MappingOf[str, int]) -> Candidate:
    """Add the rules that would fire on the way from a candidate's layout to the other one."""
    if candidate.rules or candidate.layout == BOTH:
        return candidate
    asked = config if candidate.by_config else {"model_type": candidate.name}
    try:
        mapping = resolve_config(asked, registry)
        uses = _uses(mapping.inverse() if candidate.layout == RUNTIME else mapping, samples)
    except WeighbridgeError:
        return candidate  # without an inverse there are no rules to tell of
    return replace(candidate, rules=uses)


def _by_rules(others: MappingOf[str, Mapping], samples: MappingOf[str, int], config_type: str) -> Iterator[Candidate]:
    """Judge mappings whose names are not known: by the part of their rules that fire, and of the keys they reach."""
    for name, mapping in others.items():
        for layout in (PUBLISHED, RUNTIME) if name not in known_types() else ():
            try:
                uses = _uses(mapping.inverse() if layout == RUNTIME else mapping, samples)
            except WeighbridgeError:
                continue
            if uses:
                reached = min(sum(use.keys for use in uses) / sum(samples.values()), 1.0)
                score = (len(uses) / len(mapping.transforms) + reached) / 2
                yield Candidate(name, layout, score, rules=uses, by_config=name == config_type)
