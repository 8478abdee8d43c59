"""Find how a checkpoint's weights are quantised: what its configuration says, held against its tensors.

The configuration names the schemes; names and dtypes say which weights have one; shapes only confirm it. Where several
schemes are said, each weight has the one whose exact targets name it, or the only one that its tensors fit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping as MappingOf, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from weighbridge.base.specs import Header, Shape, TensorSpec
from weighbridge.mappings.schemes.said import Said, read_said
from weighbridge.mappings.schemes.scheme import Form, Member, Scheme, read_shape

FORMATS: Final = (
    *("fp8_block", "compressed_tensors", "modelopt", "mxfp4", "gptq", "awq", "bitsandbytes", "torchao", "hqq", "mlx"),
)
"""The modules that know a format; each has `read`, which gives the schemes that a configuration says."""


class QuantisedWeight(NamedTuple):
    """The tensors of one weight, as a scheme names them.

    Args:
        stem: What their names begin with.
        scheme: How it is stored.
        keys: Its tensors, the codes first, each with what it is.
    """

    stem: str
    scheme: Scheme
    keys: tuple[tuple[Member, str], ...]


@dataclass(slots=True)
class Quantisation:
    """What is known of a checkpoint's quantised weights.

    Args:
        method: The format's name in the configuration.
        weights: The weights, in the order of their codes.
        problems: A sentence for each weight, or tensor, that contradicts the configuration.
    """

    method: str
    weights: list[QuantisedWeight] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_quantisation(
    header: Header, config: Any, beside: MappingOf[str, Any] = MappingProxyType({})
) -> Quantisation | None:
    """Find the quantised weights that a configuration speaks of; None if it speaks of none.

    Args:
        header: Specs of the tensors, and the metadata of their file.
        config: The content of the `config.json`.
        beside: The content of each other file of `said.BESIDE` that lies beside it, by name.

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
    found = Quantisation(said.method, problems=problems)
    if not schemes:
        found.problems.append(f"no scheme is known for what the configuration says of {said.method or 'quantisation'}")
        return found
    taken: set[str] = set()
    for form in {_endings(form): form for scheme in schemes for form in scheme.forms}.values():
        _collect(header.specs, schemes, form, taken, found)
    order = {key: number for number, key in enumerate(header.specs)}
    found.weights.sort(key=lambda weight: order[weight.keys[0][1]])
    found.problems += _absent(schemes, found.weights)
    found.problems += _mixed_scalars(header.specs, found.weights)
    return found


def _said_schemes(said: Said) -> Iterator[Scheme]:
    for name in FORMATS:
        yield from import_module(f"weighbridge.mappings.schemes.{name}").read(said)


_Pair = tuple[Scheme, Form]


def _endings(form: Form) -> tuple[str, ...]:
    return tuple(member.ending for member in form)


def _collect(
    specs: MappingOf[str, TensorSpec], schemes: Sequence[Scheme], form: Form, taken: set[str], found: Quantisation
) -> None:
    """Find the groups of one form among the tensors that no other one has taken; alike ones are judged once."""
    endings = _endings(form)
    able = [(scheme, each) for scheme in schemes for each in scheme.forms if _endings(each) == endings]
    named = {
        target: [pair for pair in able if target in pair[0].targets] for scheme, _ in able for target in scheme.targets
    }
    known: dict[Any, tuple[_Pair | None, str | None]] = {}
    for stem in _stems(specs, form, taken):
        there = {ending: specs[stem + ending] for ending in endings if stem + ending in specs}
        there = {ending: spec for ending, spec in there.items() if stem + ending not in taken}
        look = stem if stem in named else None, tuple(there), tuple(there.values())
        if look not in known:
            known[look] = _judge(named.get(stem, able), there)
        pair, problem = known[look]
        taken.update(stem + ending for ending in there)
        if pair is None:
            found.problems.append(f"{stem}: {problem}")
        else:
            keys = tuple((member, stem + member.ending) for member in pair[1] if member.ending in there)
            found.weights.append(QuantisedWeight(stem, pair[0], keys))


def _absent(schemes: Sequence[Scheme], weights: Sequence[QuantisedWeight]) -> Iterator[str]:
    """Yield a sentence for each module that is named exactly and has no such weight; a name says nothing of a class."""
    there = {weight.stem for weight in weights}
    for scheme in schemes:
        for target in scheme.targets:
            if "." in target and not target.startswith("re:") and target not in there:
                yield f"{target}: has no tensors of {scheme.title}"


def _mixed_scalars(specs: MappingOf[str, TensorSpec], weights: Sequence[QuantisedWeight]) -> Iterator[str]:
    """Yield a sentence for each kind of single values that are written in several shapes."""
    shapes: defaultdict[str, set[Shape]] = defaultdict(set)
    for weight in weights:
        for member, key in weight.keys:
            if member.kind == "shared" and specs[key].numel == 1:
                shapes[member.ending].add(specs[key].shape)
    for ending, found in shapes.items():
        if len(found) > 1:
            yield f"{ending}: single values have the shapes {' and '.join(str(list(shape)) for shape in sorted(found))}"


def _stems(specs: MappingOf[str, TensorSpec], form: Form, taken: set[str]) -> list[str]:
    """Return what the names of the groups begin with: those with all their needed companions, or with codes."""
    codes, *others = form
    needed = {member.ending for member in others if member.is_needed}
    endings: defaultdict[str, set[str]] = defaultdict(set)
    for key, spec in specs.items():
        if key in taken:
            continue
        for ending in needed:
            if key.endswith(ending):
                endings[key.removesuffix(ending)].add(ending)
        if key.endswith(codes.ending) and spec.dtype in codes.dtypes and _is_narrow(spec):
            endings[key.removesuffix(codes.ending)].add(codes.ending)
    return [stem for stem, ends in endings.items() if codes.ending in ends or ends == needed]


def _is_narrow(spec: TensorSpec) -> bool:
    """Tell whether a dtype is that of codes by itself; bitsandbytes may keep them in wide floats."""
    return spec.dtype not in ("F32", "BF16", "F16")


def _judge(able: Sequence[_Pair], there: MappingOf[str, TensorSpec]) -> tuple[_Pair | None, str | None]:
    """Hold the tensors of a group, by the endings of their names, against each scheme that it may have."""
    fits, problems = [], []
    for pair in able:
        members = [(member, there[member.ending]) for member in pair[1] if member.ending in there]
        missing = [member for member in pair[1] if member.is_needed and member.ending not in there]
        if missing:
            problem: str | None = f"has no {' and no '.join(f'{each.what} ({each.ending})' for each in missing)}"
        else:
            _, problem = read_shape(members)
        if problem is None:
            fits.append(pair)
        else:
            problems.append(problem)
    titles = dict.fromkeys(scheme.title for scheme, _ in fits)
    if len(titles) > 1:
        return None, f"may be {' or '.join(titles)}"
    return (fits[0], None) if fits else (None, problems[0])
