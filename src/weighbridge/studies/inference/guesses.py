"""Guess from names and shapes alone which tensors of one layout could be which of another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Final, NamedTuple

from weighbridge.base.specs import Header, Shape
from weighbridge.operations.groupings import Concatenate, MergeModulelist
from weighbridge.operations.movements import Transpose
from weighbridge.operations.ops import Operation, invert
from weighbridge.studies.inference.likeness import TRIADS, mask_likeness
from weighbridge.studies.inference.tensor_facts import Fact, Lane, indices_of, is_index, mask

_LEAST: Final = 0.5
"""Least likeness, of 1, that makes a guess."""

_LIKELY: Final = 0.75
"""Likeness from which on a name is taken for the same tensor's, before anything is taken for a part."""


_TURNED: Final = 0.1
"""What a guess loses in likeness where it needs a transposition."""


_CLOSE: Final = 0.05
"""Difference in likeness below which either of two guesses could be the right one."""


_SAME_WORDS: Final = {
    "tok": "embed_tokens",
    "tok_embeddings": "embed_tokens",
    "wte": "embed_tokens",
    "unembed": "lm_head",
    "final_norm": "norm",
    "ln_f": "norm",
    "scale": "weight",
    "gamma": "weight",
    "beta": "bias",
}
"""Segments that layouts have for one thing, each with the word that it is compared as."""


_NAMED: Final = 0.3
"""What a guess gains where the whole is named after all of its parts."""


class Guess(NamedTuple):
    """A finding that no value supports.

    Args:
        facts: What is guessed: the same for all layers.
        why: What speaks for it.
        likeness: How alike the names are, from 0 to 1.
    """

    facts: tuple[Fact, ...]
    why: str
    likeness: float


@dataclass(frozen=True, slots=True)
class _Kin:
    """Keys that differ only in their indices, with a shape for each tuple of indices."""

    mask: str
    keys: dict[tuple[int, ...], str]
    shapes: dict[tuple[int, ...], Shape]

    @property
    def shape(self) -> Shape:
        return next(iter(self.shapes.values()))

    @property
    def last_word(self) -> str:
        """The last segment that names a module: neither an index nor `weight` or `bias`."""
        words = [part for part in self.mask.split(".") if part != "#"]
        return words[-2] if len(words) > 1 and words[-1] in ("weight", "bias") else words[-1]


def guess(source: Header, target: Header) -> list[Guess]:
    """Guess what makes what, the likeliest first; each tensor is used once, and one that keeps its name first of all.

    Args:
        source: Specs of the layout that is there.
        target: Specs of the layout that is wanted.
    """
    kept = [key for key in source if key in target and source[key].shape == target[key].shape]
    found = [Guess(tuple(Fact.rename(key, key) for key in kept), "kept", 1.0)] if kept else []
    sources = _gather(source, set(kept))
    targets = _gather(target, set(kept))
    for step in (_same_names, _likely_renames, _likely_joins, _renames):
        for made in step(sources, targets):
            found.append(made)
            _use(made, sources, targets)
    return found


def _gather(header: Header, without: set[str]) -> dict[str, _Kin]:
    kin: dict[str, _Kin] = {}
    for key, spec in header.items():
        if key not in without:
            one = kin.setdefault(mask(key), _Kin(mask(key), {}, {}))
            one.keys[indices_of(key)] = key
            one.shapes[indices_of(key)] = spec.shape
    return kin


def _use(made: Guess, sources: dict[str, _Kin], targets: dict[str, _Kin]) -> None:
    for fact in made.facts:
        for side, keys in ((sources, fact.source_keys), (targets, fact.target_keys)):
            for key in keys:
                side.pop(mask(key), None)


def _same_names(sources: dict[str, _Kin], targets: dict[str, _Kin]) -> Iterator[Guess]:
    """Guess that a tensor of the same name whose axes are exchanged was transposed."""
    for name in [name for name in sources if name in targets]:
        one, two = sources[name], targets[name]
        swap = _transposition(one.shape, two.shape)
        if swap is not None and one.keys.keys() == two.keys.keys():
            facts = tuple(Fact((Lane((k,)),), (Lane((two.keys[i],)),), (swap,)) for i, k in one.keys.items())
            yield Guess(facts, "the same names, with two axes exchanged", 1.0)


def _transposition(one: Shape, two: Shape) -> Operation | None:
    places = [axis for axis, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]]
    if len(one) != len(two) or len(places) != 2:
        return None
    first, second = places
    return Transpose(first, second) if one[first] == two[second] and one[second] == two[first] else None


def _likely_renames(sources: dict[str, _Kin], targets: dict[str, _Kin]) -> Iterator[Guess]:
    """Pair what is called nearly the same, before it could be taken for a part of something else."""
    yield from _renames(sources, targets, _LIKELY)


def _renames(sources: dict[str, _Kin], targets: dict[str, _Kin], least: float = _LEAST) -> Iterator[Guess]:
    """Pair what has the same shapes at the same indices, the likeliest names first."""
    alike = (pair for pair in product(sources.values(), targets.values()) if pair[0].shapes == pair[1].shapes)
    scored = [(_score(one.mask, two.mask), one.mask, two.mask) for one, two in alike]
    scored.sort(key=lambda scored: (-scored[0], *scored[1:]))
    won: dict[tuple[str, str], float] = {}
    for score, first, second in scored:
        if score >= least and first in sources and second in targets:
            one, two = sources[first], targets[second]
            note = _rival_note(score, _best_rival(scored, first, second, won))
            facts = tuple(Fact.rename(key, two.keys[indices]) for indices, key in one.keys.items())
            won |= {("source", first): score, ("target", second): score}
            yield Guess(facts, f"names alike, shapes equal{note}", score)


def _best_rival(
    scored: Iterable[tuple[float, str, str]], first: str, second: str, won: dict[tuple[str, str], float]
) -> float:
    """Score the likeliest other pair of one of two names; one whose other name is clearly liker another is no rival."""
    others = (
        (s, ("target", t) if f == first else ("source", f)) for s, f, t in scored if (f == first) != (t == second)
    )
    return max((score for score, name in others if score > won.get(name, 0.0) - _CLOSE), default=0.0)


def _rival_note(score: float, rival: float) -> str:
    if rival <= score - _CLOSE:
        return ""
    return f"; another name is {'as' if rival >= score else 'nearly as'} like"


def _score(one: str, two: str) -> float:
    return min(1.0, max(mask_likeness(one, two), mask_likeness(_in_one_tongue(one), _in_one_tongue(two))) / 3)


@cache
def _in_one_tongue(name: str) -> str:
    """Replace the words of a name that other layouts have another word for."""
    return ".".join(_SAME_WORDS.get(word, word) for word in name.split("."))


def _whole_score(part: str, whole: str) -> float:
    """Score how alike the names of a part and a whole are; their ends differ by nature."""
    same_end = part.split(".")[-1] == whole.split(".")[-1]
    return min(1.0, (mask_likeness(part, whole) - same_end) / 2)


def _likely_joins(sources: dict[str, _Kin], targets: dict[str, _Kin]) -> Iterator[Guess]:
    """Guess what was stacked or concatenated by the sums of shapes, and by words such as q, k and v."""
    for wholes, parts, is_split in ((targets, sources, False), (sources, targets, True)):
        for name in list(wholes):
            made = _best_join(wholes[name], parts) if name in wholes else None
            if made is not None:
                yield _turned(made) if is_split else made


def _turned(made: Guess) -> Guess:
    facts = tuple(Fact(fact.targets, fact.sources, invert(fact.operations)) for fact in made.facts)
    return Guess(facts, made.why.replace("sum up", "are what it divides into"), made.likeness)


def _best_join(whole: _Kin, parts: dict[str, _Kin]) -> Guess | None:
    found = [made for lanes in _candidates(whole, parts) for made in _fitted(whole, lanes)]
    return max(found, key=lambda made: made.likeness, default=None)


def _candidates(whole: _Kin, parts: dict[str, _Kin]) -> Iterator[list[_Kin]]:
    """Yield what could be joined: single kinds of tensors with an index more, and kinds whose words go together."""
    deeper = len(next(iter(whole.keys))) + 1
    yield from ([one] for one in parts.values() if len(next(iter(one.keys))) == deeper)
    by_word: defaultdict[str, list[_Kin]] = defaultdict(list)
    for one in parts.values():
        by_word[one.last_word].append(one)
    for triad in TRIADS:
        for word, kin in list(by_word.items()):
            for first in kin if triad[0] in word.split("_") or word == triad[0] else ():
                others = [first.mask.replace(word, _exchanged(word, triad[0], other)) for other in triad[1:]]
                if all(other in parts for other in others):
                    yield [first, *(parts[other] for other in others)]


def _exchanged(word: str, old: str, new: str) -> str:
    return new if word == old else "_".join(new if part == old else part for part in word.split("_"))


def _fitted(whole: _Kin, lanes: Sequence[_Kin]) -> Iterator[Guess]:
    """Yield how lanes make a whole of its shape."""
    likeness = max(_whole_score(one.mask, whole.mask) for one in lanes)
    if len(lanes) > 1 and _is_named_after(whole.last_word, [one.last_word for one in lanes]):
        likeness = min(1.0, likeness + _NAMED)
    is_stack = len(next(iter(lanes[0].keys))) == len(next(iter(whole.keys))) + 1
    for fits, operations in _operations(whole.shape, [one.shape for one in lanes], is_stack):
        facts = _facts(whole, lanes, operations, is_stack) if fits else None
        if facts is not None and likeness >= _LEAST:
            why = "shapes sum up" if len(lanes) > 1 else "one for each index of an axis"
            turned = any(isinstance(operation, Transpose) for operation in operations)
            yield Guess(facts, why, likeness - _TURNED * turned)


def _is_named_after(whole: str, parts: Sequence[str]) -> bool:
    """Tell whether a name is made of what tells other names apart, as `qkv_proj` is of `q_proj` and the others."""
    common = set.intersection(*(set(part.split("_")) for part in parts))
    words = [[word for word in part.split("_") if word not in common] for part in parts]
    return all(words) and ("".join(word[0] for word in words) in whole or all(word[0] in whole for word in words))


def _operations(whole: Shape, parts: Sequence[Shape], is_stack: bool) -> Iterator[tuple[bool, tuple[Operation, ...]]]:
    if not whole:
        return
    shapes = [(whole[0], *shape) if is_stack else shape for shape in parts]
    first: tuple[Operation, ...] = (MergeModulelist(0),) if is_stack else ()
    for swap in ((), (Transpose(0, 1),)) if is_stack and {len(shape) for shape in parts} == {2} else ((),):
        turned = [(s[0], s[2], s[1]) if swap else s for s in shapes]
        if len(parts) == 1:
            yield turned[0] == whole and is_stack, (*swap, *first)
            continue
        for axis in range(int(is_stack), len(whole)):
            sizes = tuple(shape[axis] for shape in turned) if all(len(s) == len(whole) for s in turned) else ()
            rest = {(*s[:axis], *s[axis + 1 :]) for s in turned}
            fits = sum(sizes) == whole[axis] and rest == {(*whole[:axis], *whole[axis + 1 :])}
            join = Concatenate(axis, sizes=sizes if len(set(sizes)) > 1 else None)
            yield fits, (*swap, *first, join)


def _facts(
    whole: _Kin, lanes: Sequence[_Kin], operations: tuple[Operation, ...], is_stack: bool
) -> tuple[Fact, ...] | None:
    """State the join for every tuple of indices; None where tensors are missing or have other shapes."""
    facts: list[Fact] = []
    for indices, key in whole.keys.items():
        sources: list[Lane] = []
        for one in lanes:
            lane = _lane(one, indices, whole.shapes[indices][0] if is_stack else 0)
            if lane is None or whole.shapes[indices] != whole.shape:
                return None
            sources.append(lane)
        facts.append(Fact(tuple(sources), (Lane((key,)),), operations))
    complete = all(sum(len(fact.sources[n].keys) for fact in facts) == len(one.keys) for n, one in enumerate(lanes))
    return tuple(facts) if complete else None


def _lane(one: _Kin, indices: tuple[int, ...], count: int) -> Lane | None:
    if not count:
        return Lane((one.keys[indices],)) if one.shapes.get(indices) == one.shape else None
    keys = [one.keys.get((*indices, number), "") for number in range(count)]
    if not all(keys):
        return None
    places = [place for place, part in enumerate(keys[0].split(".")) if is_index(part)]
    return Lane(tuple(keys), (places[-1],))


def facts_of(guesses: Iterable[Guess]) -> list[Fact]:
    """Return all that is guessed."""
    return [fact for made in guesses for fact in made.facts]
