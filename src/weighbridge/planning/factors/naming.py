"""How the tensors of a new adapter are called, where a dialect's names say all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from weighbridge.base.errors import PlanError
from weighbridge.mappings.lora.named_dialects import Dialect
from weighbridge.planning.factors.named_modules import WEIGHT, Module
from weighbridge.planning.factors.rectangles import inexact


@dataclass(slots=True)
class Naming:
    """The names of a new adapter's tensors.

    Args:
        dialect: How they are called.
        parts: For each part of the old adapter, what its names begin with in the new one, and what its modules' names
            may begin with in a model.
        configured: The parts of the old adapter whose strengths a configuration says in the new one.
        modules: What has been named: the module of the model that each name means.
    """

    dialect: Dialect
    parts: Mapping[str, tuple[str, tuple[str, ...]]]
    configured: Collection[str] = ()
    modules: dict[Module, str] = field(default_factory=dict)

    def says(self, part: str) -> bool:
        """Tell whether tensors say how strong the modules of a part are."""
        return part not in self.configured

    def write(self, key: str, kind: str, part: str, role: str) -> str:
        """Return the name of a tensor that belongs to a weight.

        Args:
            key: The weight, by its name in the model.
            kind: The kind of its module, as `Adapted` has it.
            part: The part that it belongs to in the old adapter.
            role: What the tensor is.

        Raises:
            PlanError: `adapter-inexact` for what has no name; `adapter-module` for a name that another module has.
        """
        if kind not in ("linear", "conv"):
            raise inexact(f"{self.dialect.name} has no names for the factors of such a weight", f"{kind} {key}")
        if not self.dialect.has(role):
            raise inexact(f"{self.dialect.name} has no name for the {role} of a module")
        prefix, module = self.place(key, part)
        spelt = prefix, self.dialect.spell(module)
        self._refuse_other(spelt, key)
        self.modules[spelt] = key
        return self.dialect.write(prefix, module, role)

    def check_apart(self, keys: Iterable[str]) -> None:
        """Check that no other weight of the new model has a name that has been written.

        Raises:
            PlanError: `adapter-module`.
        """
        for key in keys:
            for part in self.parts if key.endswith(WEIGHT) else ():
                prefix, module = self.place(key, part)
                self._refuse_other((prefix, self.dialect.spell(module)), key)

    def _refuse_other(self, spelt: Module, key: str) -> None:
        other = self.modules.get(spelt, key)
        if other != key:
            what = "two modules would have one name in this dialect"
            raise PlanError("adapter-module", what, where="".join(spelt), got=f"{other}, {key}")

    def place(self, key: str, part: str) -> Module:
        """Return a weight's part in the new adapter, and its module as it is called in that."""
        prefix, places = self.parts[part]
        module = key.removesuffix(WEIGHT)
        place = max((place for place in places if module.startswith(place)), key=len, default="")
        return prefix, module.removeprefix(place)
