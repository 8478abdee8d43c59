"""Take the plan of a model's weights to the steps of an adapter: each weight's program acts on its factors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import NamedTuple

from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.specs import Shape, TensorSpec
from weighbridge.mappings.lora.adapter_names import factor_key, parameter_modules, whole_key
from weighbridge.mappings.lora.ranks import Strength
from weighbridge.planning.factors.adapted import Adapted
from weighbridge.planning.factors.adapter_tensors import Held
from weighbridge.planning.factors.alphas import alphas_of, without_alphas
from weighbridge.planning.factors.factor_copies import Made, factors_of
from weighbridge.planning.factors.factor_steps import Target, join_steps
from weighbridge.planning.factors.naming import Naming
from weighbridge.planning.factors.rectangles import Matrix, Share, inexact, shares
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Program
from weighbridge.planning.steps import Step

_TAILS = {
    "embedding": {"A": "lora_embedding_A", "B": "lora_embedding_B"},
    "other": {
        "A": "lora_A.weight",
        "B": "lora_B.weight",
        "bias": "lora_B.bias",
        "magnitude": "lora_magnitude_vector",
    },
}


@dataclass(slots=True)
class Moved:
    """Where an adapter's tensors go.

    Args:
        steps: What becomes of them.
        linear: The modules that will have factors, with their strength.
        parameters: The same of parameters that are no weight of a module of their own.
        whole: For each tensor that is saved whole, its name in the new model.
        rounded: The weights whose alpha is the nearest number to one that would say their strength exactly.
    """

    steps: list[Step] = field(default_factory=list)
    linear: dict[str, Strength] = field(default_factory=dict)
    parameters: dict[str, Strength] = field(default_factory=dict)
    whole: dict[str, list[str]] = field(default_factory=dict)
    rounded: list[str] = field(default_factory=list)


def move_adapter(
    weights: Plan, held: Held, naming: Naming | None = None, *, is_turned: bool = False, is_blockwise: bool = False
) -> Moved:
    """Move the tensors of an adapter as a plan moves the weights that they belong to.

    Args:
        weights: A plan of the model's weights, in which tensors without a part in the adapter do not count.
        held: What the adapter holds.
        naming: How its tensors are called, if not as PEFT does it.
        is_turned: Whether linear weights of the new model have a row for each input.
        is_blockwise: Whether weights with different factors are joined as blocks on the diagonal.

    Raises:
        PlanError: `plan-failed`, with each `adapter-inexact` and `adapter-module`.
    """
    kinds = {key: kind for step in weights.steps for key, kind in _kinds(step, held)}
    nested = parameter_modules(key for key, kind in kinds.items() if kind == "parameter")
    known = _Targets(kinds, nested, naming, is_turned, is_blockwise)
    moved, specs, problems = Moved(), held.specs(), list[WeighbridgeError]()
    for step in weights.steps:
        try:
            targets = list(_factor_targets(step, held, known, moved))
            moved.steps += join_steps(targets, specs, step.rules)
            moved.steps += _whole_steps(step, held, known, moved)
        except PlanError as problem:
            rules = "\n".join(weights.mapping.rule_name(rule) for rule in step.rules)
            problems.append(problem.with_context(where=", ".join(step.writes), because=rules))
    if naming is not None and not problems:
        naming.check_apart(weights.target)
    if problems:
        raise PlanError("plan-failed", "the mapping has no exact equivalent for this adapter", problems=problems)
    programs: dict[Program, Program] = {}
    shared = (replace(step, program=programs.setdefault(step.program, step.program)) for step in moved.steps)
    moved.steps = sorted(shared, key=lambda step: step.targets)
    return moved


def _kinds(step: Step, held: Held) -> Iterator[tuple[str, str]]:
    """Yield the targets of a step whose weights have factors, and the kind of module that each is of."""
    found = {held.adapted[key].kind for key in step.sources if key in held.adapted}
    for key, output in zip(step.targets, step.program.targets, strict=True) if found else ():
        axes, is_weight = len(output.layout.shape), key.endswith(".weight")
        is_conv = is_weight and axes > (2 if "conv" in found else 3)
        plain = "conv" if is_conv else "linear" if is_weight and axes == 2 else "parameter"
        yield key, "embedding" if "embedding" in found else plain


class _Targets(NamedTuple):
    """What is known of the new weights with factors.

    Args:
        kinds: Of what kind each is.
        nested: The modules that parameters are named after in the file.
        naming: How tensors are called, if not as PEFT does it.
        is_turned: Whether linear weights have a row for each input.
        is_blockwise: Whether weights with different factors are joined as blocks on the diagonal.
    """

    kinds: Mapping[str, str]
    nested: Mapping[str, str]
    naming: Naming | None
    is_turned: bool
    is_blockwise: bool

    def named(self, key: str, part: str, made: Made) -> str:
        """Return what a tensor of a weight's factors is called."""
        if self.naming is not None:
            return self.naming.write(key, self.kinds[key], part, made.what)
        module = self.nested[key] if self.kinds[key] == "parameter" else key.removesuffix(".weight")
        return factor_key(module, _tail(self.kinds[key], made))

    def shares(self, key: str, layout: Layout, sources: Sequence[Matrix]) -> tuple[Matrix, list[Share]]:
        """Cut the layout of a weight into shares. The inputs of experts stay inputs, whichever way they are stored."""
        kind = self.kinds[key]
        is_turned = kind == "embedding" or (kind == "linear" and self.is_turned)
        shape = (layout.shape[0], prod(layout.shape[1:])) if kind == "conv" else layout.shape
        target = Matrix.of(shape, is_turned=is_turned)
        found = shares(layout, sources, target)
        if kind == "parameter" and len(layout.shape) == 3 and all(share.is_crossed for share in found):
            target = target._replace(is_turned=True)
            found = shares(layout, sources, target)
        return target, found


def _factor_targets(step: Step, held: Held, known: _Targets, moved: Moved) -> Iterator[Target]:
    """Yield the tensors of the factors of the weights that a step makes."""
    lacking = [key for key in step.reads if key not in held.adapted]
    if len(lacking) == len(step.reads):
        return
    if lacking:
        got = f"none for {', '.join(lacking[:3])}"
        raise inexact("the adapter has factors for some of the weights that become one, and not for others", got)
    sources = [held.adapted[key] for key in step.sources]
    if len({each.kind == "embedding" for each in sources}) > 1:
        raise inexact("embeddings and other weights become one")
    for key, output in zip(step.targets, step.program.targets, strict=True):
        kind = known.kinds[key]
        target, found = known.shares(key, output.layout, [each.matrix for each in sources])
        joined = factors_of(found, sources, target, is_blockwise=known.is_blockwise)
        if kind == "parameter" and any(each.what not in "AB" for each in joined.made):
            raise inexact("PEFT has no bias and no magnitude for such a parameter")
        moved.rounded += [key] if joined.is_rounded else []
        _note(moved.parameters if kind == "parameter" else moved.linear, key, kind, joined.strength)
        part, used = _part_of(sources), [sources[share.slot] for share in found]
        made = [_windowed(each, output.layout.shape) if kind == "conv" else each for each in joined.made]
        if known.naming is not None and known.naming.says(part):
            made += alphas_of(used, joined.strength)
        else:
            made = without_alphas(made, used)
        yield from (Target(known.named(key, part, each), each) for each in made)


def _part_of(sources: Sequence[Adapted]) -> str:
    """Return what the names of all sources begin with."""
    parts = sorted({each.part for each in sources})
    if len(parts) > 1:
        raise inexact("weights of several parts of a pipeline become one", ", ".join(parts))
    return parts[0]


def _windowed(made: Made, shape: Shape) -> Made:
    """Give the factors of a convolution the axes that they have in a file."""
    size, window = made.spec.shape, shape[1:]
    axes = {"A": (size[0], *window), "B": (*size, *(1 for _ in window[1:]))}
    return made._replace(spec=TensorSpec(made.spec.dtype, axes.get(made.what, size)))


def _note(known: dict[str, Strength], key: str, kind: str, strength: Strength) -> None:
    """Note the strength of a target; one that is made in several ways must have the same in all of them."""
    name = key if kind == "parameter" else key.removesuffix(".weight")
    if known.setdefault(name, strength) != strength:
        raise inexact("weights that become one have other ranks or strengths")


def _tail(kind: str, made: Made) -> str:
    tails = _TAILS["embedding" if kind == "embedding" else "other"]
    if made.what not in tails:
        raise inexact(f"PEFT has no {made.what} for an embedding")
    return tails[made.what]


def _whole_steps(step: Step, held: Held, known: _Targets, moved: Moved) -> Iterator[Step]:
    """Yield the step of tensors that are saved whole: what becomes of those of the model becomes of them."""
    lacking = [key for key in step.reads if key not in held.whole]
    if len(lacking) == len(step.reads):
        return
    if lacking:
        got = f"not {', '.join(lacking[:3])}"
        raise inexact("the adapter has some of the tensors that become one whole, and not others", got)
    if known.naming is not None:
        raise inexact(f"{known.naming.dialect.name} has no names for tensors that are saved whole")
    for key in step.reads:
        moved.whole[key] = list(step.writes)
    sources = tuple(held.whole[key][0] for key in step.sources)
    targets = tuple(whole_key(key, is_adapted=key in known.kinds) for key in step.targets)
    yield Step(sources, targets, step.program, step.fate, step.rules)
