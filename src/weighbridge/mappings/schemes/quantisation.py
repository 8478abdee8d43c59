"""Find how a checkpoint's weights are quantised: what its configuration says, held against its tensors.

The configuration names the schemes; names and dtypes say which weights have one; shapes only confirm it. Where several
schemes are said, each weight has the one whose exact targets name it, or the only one that its tensors fit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping as MappingOf, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any, Final, NamedTuple

from weighbridge.base.specs import Header, Shape, TensorSpec
from weighbridge.mappings.schemes.dialects import READ_BY_TRANSFORMERS, NamesAt
from weighbridge.mappings.schemes.said import BY_NAMES, Said, read_said
from weighbridge.mappings.schemes.scheme import (
    WEIGHT,
    Form,
    Member,
    Scheme,
    fused_ending,
    is_fused,
    read_shape,
    with_open_sizes,
)
from weighbridge.mappings.schemes.torchao import LISTED, listed_names

FORMATS: Final = (
    *("fp8_block", "compressed_tensors", "modelopt", "mxfp4", "gptq", "awq", "bitsandbytes", "torchao", "hqq", "mlx"),
)
"""The modules that know a format, each by the `METHOD` that a configuration calls it: `read` gives the schemes that one
says, and `NAMES` is where it names modules."""


class Stored(NamedTuple):
    """How some weights are stored alike: their scheme, the tensors that each of them has, and the specs of these.

    Args:
        scheme: The scheme.
        members: What the tensors are, the codes first.
        specs: Their specs.
    """

    scheme: Scheme
    members: Form
    specs: tuple[TensorSpec, ...]


class QuantisedWeight(NamedTuple):
    """The tensors of one weight, as a scheme names them.

    Args:
        stem: What their names begin with.
        stored: How it is stored; one value for all weights that are stored alike.
    """

    stem: str
    stored: Stored

    @property
    def scheme(self) -> Scheme:
        """Its scheme."""
        return self.stored.scheme

    @property
    def keys(self) -> tuple[tuple[Member, str], ...]:
        """Its tensors, the codes first, each with what it is."""
        return tuple((member, self.stem + member.ending) for member in self.stored.members)


class SchemeFault(NamedTuple):
    """What contradicts a configuration.

    Args:
        code: What kind of an error it is where a rule moves the weight.
        text: What it is.
        stem: What the names of the weight's tensors begin with; empty for what is about the whole checkpoint.
        keys: The weight's tensors.
        is_of_names: Whether it is about names in the file's metadata, which would have to follow those of tensors.
    """

    code: str
    text: str
    stem: str = ""
    keys: tuple[str, ...] = ()
    is_of_names: bool = False

    def __str__(self) -> str:
        return f"{self.stem}: {self.text}" if self.stem else self.text


@dataclass(slots=True)
class Quantisation:
    """What is known of a checkpoint's quantised weights.

    Args:
        method: The format's name in the configuration.
        weights: The weights, in the order of their codes.
        faults: What contradicts the configuration: files, and weights with the tensors that they have.
    """

    method: str
    weights: list[QuantisedWeight] = field(default_factory=list)
    faults: list[SchemeFault] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """A sentence for each fault."""
        return [str(fault) for fault in self.faults]


def find_quantisation(
    header: Header, config: Any, beside: MappingOf[str, Any] = MappingProxyType({}), *, has_open_sizes: bool = False
) -> Quantisation | None:
    """Find the quantised weights that a configuration speaks of; None if it speaks of none.

    Args:
        header: Specs of the tensors, and the metadata of their file.
        config: The content of the `config.json`.
        beside: The content of each other file of `said.BESIDE` that lies beside it, by name.
        has_open_sizes: Whether blocks may be of any size, where the configuration has one place for that.

    Examples:
        >>> tensors = {"q.weight": TensorSpec("F8_E4M3", (80, 32)), "q.weight_scale_inv": TensorSpec("F32", (3, 1))}
        >>> said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}
        >>> found = find_quantisation(Header(tensors), said)
        >>> [(weight.stem, weight.scheme.title) for weight in found.weights], found.problems
        ([('q', 'FP8 in blocks of 32 x 32')], [])
        >>> said["quantization_config"]["weight_block_size"] = [8, 8]
        >>> find_quantisation(Header(tensors), said).problems
        ['q: scales have [3, 1] entries, and 10 are expected for 80 rows, 8 each']
    """
    said, problems = read_said(config, header.metadata, beside)
    if said is None:
        return None
    schemes = tuple(_said_schemes(said))
    schemes = tuple(map(with_open_sizes, schemes)) if has_open_sizes else schemes
    found = Quantisation(said.method, faults=[SchemeFault("scheme-conflict", problem) for problem in problems])
    if not schemes:
        text = f"no scheme is known for what the configuration says of {said.method or 'quantisation'}"
        found.faults.append(SchemeFault("companion-unknown", text))
        return found
    taken: set[str] = set()
    for form in {_endings(form): form for scheme in schemes for form in scheme.forms}.values():
        _collect(header.specs, schemes, form, taken, found)
    fused = tuple(filter(None, map(_fused, schemes)))
    for form in {_endings(form): form for scheme in fused for form in scheme.forms}.values():
        _collect(header.specs, fused, form, taken, found, is_whole=True)
    if len({weight.stored.members[0].ending for weight in found.weights}) > 1:
        order = {key: number for number, key in enumerate(header.specs)}
        found.weights.sort(key=lambda weight: order[weight.stem + weight.stored.members[0].ending])
    texts = [*_absent(schemes, found.weights), *_mixed_scalars(found.weights)]
    found.faults += [SchemeFault("scheme-conflict", text) for text in texts]
    found.faults += [SchemeFault("scheme-conflict", t, is_of_names=True) for t in _unstored(schemes, found, header)]
    return found


def find_by_names(header: Header) -> Quantisation | None:
    """Find the quantised weights of a checkpoint that no configuration speaks of, where names alone say how it is.

    Returns:
        The weights; None unless the names are those of one format, and no tensor contradicts it.

    Examples:
        >>> tensors = {"up_blocks": TensorSpec("U8", (6, 2, 16)), "up_scales": TensorSpec("U8", (6, 2))}
        >>> [weight.scheme.title for weight in find_by_names(Header(tensors)).weights]
        ['MXFP4 in blocks of 32 columns']
    """
    if LISTED not in header.metadata and not any(spec.dtype in ("U8", "I8") for spec in header.specs.values()):
        return None
    marks = tuple(BY_NAMES)
    marked = {mark for key in header.specs if key.endswith(marks) for mark in marks if key.endswith(mark)}
    if len(marked) != 1:
        return None
    found = find_quantisation(header, {"quantization_config": BY_NAMES[marked.pop()]})
    is_told = found is not None and found.weights and all(fault.is_of_names for fault in found.faults)
    return found if is_told else None


def _said_schemes(said: Said) -> Iterator[Scheme]:
    for module in _formats():
        yield from module.read(said)


def _formats() -> Iterator[ModuleType]:
    return (import_module(f"weighbridge.mappings.schemes.{name}") for name in FORMATS)


def names_in(method: str) -> tuple[NamesAt, ...]:
    """Return where the configuration of a format names modules; of formats that are not known, what transformers reads.

    Examples:
        >>> [names.place for names in names_in("compressed-tensors")][:2], [names.place for names in names_in("quanto")]
        (['ignore', 'config_groups.*.targets'], ['modules_to_not_convert'])
    """
    return next((module.NAMES for module in _formats() if method == module.METHOD), READ_BY_TRANSFORMERS)


def _fused(scheme: Scheme) -> Scheme | None:
    """Return a scheme with the names of groups that are called by parameters; None if it has such a form itself."""
    if any(map(is_fused, scheme.forms)):
        return None
    forms = [tuple(replace(member, ending=fused_ending(member.ending)) for member in form) for form in scheme.forms]
    return replace(scheme, forms=(*forms, *scheme.forms), targets=())


_Pair = tuple[Scheme, Form]


def _endings(form: Form) -> tuple[str, ...]:
    return tuple(member.ending for member in form)


def _collect(
    specs: MappingOf[str, TensorSpec],
    schemes: Sequence[Scheme],
    form: Form,
    taken: set[str],
    found: Quantisation,
    *,
    is_whole: bool = False,
) -> None:
    """Find the groups of one form among the tensors that no other one has taken; alike ones are judged once.

    With `is_whole`, only those that lack nothing.
    """
    endings = _endings(form)
    able = [(scheme, each) for scheme in schemes for each in scheme.forms if _endings(each) == endings]
    named = {
        target: [pair for pair in able if target in pair[0].targets] for scheme, _ in able for target in scheme.targets
    }
    known: dict[Any, Stored | _Judged] = {}
    stems = _stems(specs, form, taken, is_whole=is_whole)
    columns = [[stem + ending for stem in stems] for ending in endings]
    there = [[None if key in taken else specs.get(key) for key in column] for column in columns]
    looks = zip(*map(_looks, there), strict=True)
    for number, (stem, look) in enumerate(zip(stems, looks, strict=True)):
        place = (stem if stem in named else None, look) if named else look
        judged = known.get(place)
        if judged is None:
            judged = known[place] = _judge(named.get(stem, able), _row(endings, there, number))
        if isinstance(judged, Stored):
            found.weights.append(QuantisedWeight(stem, judged))
        else:
            present = tuple(stem + ending for ending in _row(endings, there, number))
            found.faults.append(SchemeFault(*judged, stem, present))
    for keys, held in zip(columns, there, strict=True):
        taken.update(key for key, spec in zip(keys, held, strict=True) if spec is not None)


def _row(endings: Sequence[str], there: Sequence[Sequence[TensorSpec | None]], number: int) -> dict[str, TensorSpec]:
    """Return the specs that one group has, by the endings of their names."""
    pairs = zip(endings, there, strict=True)
    return {ending: spec for ending, held in pairs if (spec := held[number]) is not None}


def _looks(specs: Sequence[TensorSpec | None]) -> list[tuple[str, Shape] | None]:
    """Return specs as plain values, which are quicker to look up."""
    return [None if spec is None else (spec.dtype, spec.shape) for spec in specs]


def _absent(schemes: Sequence[Scheme], weights: Sequence[QuantisedWeight]) -> Iterator[str]:
    """Yield a sentence for each module that is named exactly and has no such weight; a name says nothing of a class."""
    there = {weight.stem for weight in weights}
    for scheme in schemes:
        for target in scheme.targets if not scheme.in_metadata else ():
            if "." in target and not target.startswith("re:") and target not in there:
                yield f"{target}: has no tensors of {scheme.title}"


def _unstored(schemes: Sequence[Scheme], found: Quantisation, header: Header) -> Iterator[str]:
    """Yield a sentence for each tensor that the file's metadata names, and the file does not have."""
    if not any(scheme.in_metadata for scheme in schemes):
        return
    titles = {target: scheme.title for scheme in schemes for target in scheme.targets}
    there = {weight.stem for weight in found.weights} | {fault.stem for fault in found.faults}
    try:
        names = [*listed_names(header.metadata), *titles]
    except ValueError as problem:
        yield f"the list of names in the metadata cannot be read: {str(problem)[:80]}"
        return
    for name in dict.fromkeys(name.removesuffix(WEIGHT) for name in names):
        if name not in there and not {name, name + WEIGHT} & header.specs.keys():
            what = f"has no tensors of {titles[name]}" if name in titles else "has no tensor"
            yield f"{name}: {what}, and the metadata of the file names it"


def _mixed_scalars(weights: Sequence[QuantisedWeight]) -> Iterator[str]:
    """Yield a sentence for each kind of single values that are written in several shapes."""
    shapes: defaultdict[str, set[Shape]] = defaultdict(set)
    for stored in {id(weight.stored): weight.stored for weight in weights}.values():
        for member, spec in zip(stored.members, stored.specs, strict=True):
            if member.kind == "shared" and spec.numel == 1:
                shapes[member.ending].add(spec.shape)
    for ending, found in shapes.items():
        if len(found) > 1:
            yield f"{ending}: single values have the shapes {' and '.join(str(list(shape)) for shape in sorted(found))}"


def _stems(specs: MappingOf[str, TensorSpec], form: Form, taken: set[str], *, is_whole: bool) -> list[str]:
    """Return what the names of the groups begin with: those with all their needed companions, or with codes.

    With `is_whole`, only those with both.
    """
    codes, *others = form
    needed = tuple(member.ending for member in others if member.is_needed)
    every, has_codes = (1 << len(needed)) - 1, 1 << len(needed)
    narrow = {dtype for dtype in codes.dtypes if _is_narrow(dtype)}
    found: dict[str, int] = {}
    for key, spec in specs.items():
        if key in taken:
            continue
        for number, ending in enumerate(needed):
            if key.endswith(ending):
                stem = key.removesuffix(ending)
                found[stem] = found.get(stem, 0) | 1 << number
        if spec.dtype in narrow and key.endswith(codes.ending):
            stem = key.removesuffix(codes.ending)
            found[stem] = found.get(stem, 0) | has_codes
    if is_whole:
        return [stem for stem, bits in found.items() if bits == every | has_codes]
    return [stem for stem, bits in found.items() if bits & has_codes or bits == every]


def _is_narrow(dtype: str) -> bool:
    """Tell whether a dtype is that of codes by itself; bitsandbytes may keep them in wide floats."""
    return dtype not in ("F32", "BF16", "F16")


_Judged = tuple[str, str]
"""The code of an error, and what is wrong."""


def _judge(able: Sequence[_Pair], there: MappingOf[str, TensorSpec]) -> Stored | _Judged:
    """Hold the tensors of a group, by the endings of their names, against each scheme that it may have."""
    fits: list[_Pair] = []
    problems: list[_Judged] = []
    for pair in able:
        held = [(member, there[member.ending]) for member in pair[1] if member.ending in there]
        missing = [member for member in pair[1] if member.is_needed and member.ending not in there]
        if missing:
            lacking = " and no ".join(f"{each.what} ({each.ending})" for each in missing)
            problem: _Judged | None = ("companion-missing", f"has no {lacking}")
        else:
            _, text = read_shape(held)
            problem = None if text is None else ("scheme-conflict", text)
        if problem is None:
            fits.append(pair)
        else:
            problems.append(problem)
    titles = dict.fromkeys(scheme.title for scheme, _ in fits)
    if len(titles) > 1:
        return "scheme-ambiguous", f"may be {' or '.join(titles)}"
    if not fits:
        return problems[0]
    scheme, form = fits[0]
    members = tuple(member for member in form if member.ending in there)
    return Stored(scheme, members, tuple(there[member.ending] for member in members))
