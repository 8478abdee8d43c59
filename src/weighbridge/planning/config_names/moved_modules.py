"""Which modules of a plan's target the modules of its source become.

A module is what a tensor's name has before its last segment. Where it has tensors of two axes or more these tell what
it becomes, as they are what is quantised: a norm that is folded into a linear module makes no norm of that.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from weighbridge.mappings.schemes.endings import BELOW_WEIGHT, STATE
from weighbridge.planning.names.prepared import prepare
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step
from weighbridge.planning.tracing import trace_ends

_BELOW_WEIGHT = ".weight."
_BELOW_PARAMETER = re.compile(rf"\.(?:{'|'.join(sorted(BELOW_WEIGHT))}|{STATE}\.\w+)\Z")
"""Finds the end of a name that stands behind that of a parameter."""


@dataclass(frozen=True, slots=True)
class MovedModules:
    """Modules of both sides of a plan.

    Args:
        kept: Those that keep their names, and become nothing else.
        origins: All others of the target, each with those that it is made of.
        left: Those of the source that become no module.
        plan: The plan.
    """

    kept: frozenset[str]
    origins: Mapping[str, tuple[str, ...]]
    left: frozenset[str]
    plan: Plan

    @property
    def sources(self) -> set[str]:
        """All modules of the source."""
        return {*self.kept, *self.left, *(source for sources in self.origins.values() for source in sources)}

    def has(self, module: str) -> bool:
        """Tell whether the target has a module."""
        return module in self.kept or module in self.origins

    def stays(self, module: str) -> bool:
        """Tell whether a module of the source becomes no other one."""
        return module in self.kept or module in self.left

    def rename(self, modules: Iterable[str]) -> dict[str, str]:
        """Say what the rules would call modules that have no tensors here, such as a head that is tied away."""
        keys = {f"{module}.weight": module for module in modules}
        if not keys or self.plan.is_back:
            return {}
        ends = trace_ends(prepare(self.plan.mapping), list(keys))
        return {keys[key]: module_of(names[0]) for key, names, _ in ends if len(names) == 1}


def module_of(key: str) -> str:
    """Return the module that a tensor belongs to.

    Examples:
        >>> [module_of(key) for key in ("a.q.weight", "a.q.weight.absmax", "a.experts.up_scales", "experts.up.absmax")]
        ['a.q', 'a.q', 'a.experts', 'experts']
    """
    cut = key.find(_BELOW_WEIGHT)
    return key[:cut] if cut > 0 else _BELOW_PARAMETER.sub("", key).rpartition(".")[0]


def moved_modules(plan: Plan) -> MovedModules | None:
    """Tell what becomes of modules; None where all tensors keep their names."""
    if all(step.sources == step.targets for step in plan.steps):
        return None
    matrices: defaultdict[str, dict[str, None]] = defaultdict(dict)
    others: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for step in plan.steps:
        is_matrix = any(len(spec.shape) > 1 for spec in step.program.sources)
        for target, sources in _pairs(step):
            (matrices if is_matrix else others)[target].update(dict.fromkeys(sources))
    made = {target: tuple(matrices.get(target) or others[target]) for target in {**matrices, **others}}
    uses: defaultdict[str, int] = defaultdict(int)
    for origin in made.values():
        for source in origin:
            uses[source] += 1
    kept = frozenset(target for target, origin in made.items() if origin == (target,) and uses[target] == 1)
    origins = {target: origin for target, origin in made.items() if target not in kept}
    every = {module_of(key) for key in plan.source}
    return MovedModules(kept, origins, frozenset(every - uses.keys()), plan)


def _pairs(step: Step) -> Iterator[tuple[str, list[str]]]:
    """Yield the module of each target with those of the sources that it is made of."""
    owners = [module_of(key) for key in step.sources]
    for number, key in enumerate(step.targets):
        slots = step.program.slots_read([number]) if len(step.targets) > 1 else range(len(owners))
        yield module_of(key), [owners[slot] for slot in slots if slot < len(owners)]
