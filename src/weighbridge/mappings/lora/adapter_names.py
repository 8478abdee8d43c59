"""What the tensors of an adapter are called in a file that PEFT wrote.

    base_model.model.<module>.lora_A.weight        [r, in]       base_model.model.<module>.lora_embedding_A   [r, rows]
    base_model.model.<module>.lora_B.weight        [out, r]      base_model.model.<module>.lora_embedding_B   [width, r]
    base_model.model.<module>.lora_B.bias          [out]
    base_model.model.<module>.lora_magnitude_vector [out]

All else in it is a tensor of the model itself, trained or resized and saved whole; that of a module which has factors
besides lies under `base_layer`. Source: `peft/utils/save_and_load.py` and `peft/tuners/lora/layer.py` of PEFT 0.21.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from weighbridge.base.errors import PlanError

PREFIX: Final = "base_model.model."
"""What PEFT puts before the name of each module of the model."""

BASE_LAYER: Final = ".base_layer"

AS_ADAPTER: Final = ", as an adapter"
"""What the reading of a plan goes on with, where a model's mapping is read as one of its adapter."""

NO_FACTOR: Final = "this tensor of an adapter is no factor of a change"
STRANGE: Final = "this is no tensor of an adapter"

_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<tail>lora_(?P<embedding>embedding_)?(?P<role>[AB])(?(embedding)|\.weight)"
    r"|(?P<bias>lora_B\.bias)|(?P<magnitude>lora_magnitude_vector(\.weight)?))"
)


class Named(NamedTuple):
    """What the name of an adapter's tensor says.

    Args:
        module: The module that it belongs to; for a tensor that is saved whole, its own name in the model.
        role: ``A``, ``B``, ``bias``, ``magnitude``, or ``whole``.
        tail: The end of the name, behind the module's.
    """

    module: str
    role: str
    tail: str = ""

    @property
    def is_embedding(self) -> bool:
        """Whether it is a factor of an embedding, whose weight has an entry of the input in each row."""
        return self.tail.startswith("lora_embedding")


def read_name(key: str) -> Named:
    """Tell what an adapter's tensor is, by its name.

    Raises:
        PlanError: `adapter-invalid` for a name without PEFT's prefix; `adapter-inexact` for a tensor that is no factor,
            and no tensor of the model either.

    Examples:
        >>> read_name("base_model.model.layers.0.q_proj.lora_A.weight")
        Named(module='layers.0.q_proj', role='A', tail='lora_A.weight')
        >>> read_name("base_model.model.embed.base_layer.weight").module
        'embed.weight'
    """
    if not key.startswith(PREFIX):
        hint = "keep in the directory only the adapter's own files"
        raise PlanError("adapter-invalid", STRANGE, where=key, expected=PREFIX, hint=hint)
    name = key.removeprefix(PREFIX)
    found = _FACTOR.fullmatch(name)
    if found is not None:
        role = found["role"] or ("bias" if found["bias"] else "magnitude")
        return Named(found["module"], role, found["tail"])
    if ".lora_" in name or "trainable_tokens" in name:
        raise PlanError("adapter-inexact", NO_FACTOR, where=key)
    return Named(name.replace(BASE_LAYER, ""), "whole")


def is_of_adapter(reading: str) -> bool:
    """Tell by the reading of a plan whether it moves an adapter."""
    return AS_ADAPTER in reading


def factor_key(module: str, tail: str) -> str:
    """Return the name in the file of a tensor that belongs to a module's factors."""
    return f"{PREFIX}{module}.{tail}"


def whole_key(key: str, *, is_adapted: bool) -> str:
    """Return the name in the file of a tensor of the model that is saved whole.

    Args:
        key: Its name in the model.
        is_adapted: Whether its module has factors besides.

    Examples:
        >>> whole_key("embed.weight", is_adapted=True), whole_key("lm_head.weight", is_adapted=False)
        ('base_model.model.embed.base_layer.weight', 'base_model.model.lm_head.weight')
    """
    module, _, last = key.rpartition(".")
    return f"{PREFIX}{module}{BASE_LAYER}.{last}" if is_adapted else PREFIX + key


_NESTED: Final[tuple[str, ...]] = ("gate_up_proj", "down_proj")
"""Parameters of fused experts in the order in which the modules have them: the first lies innermost."""


def parameter_modules(keys: Iterable[str]) -> dict[str, str]:
    """Return the name in the file, up to the factors, of each parameter that is no weight of a module of its own.

    PEFT wraps a module once for each of its parameters that has factors, and names say only how deep they lie.

    Args:
        keys: All parameters with factors, by their names in the model.

    Raises:
        PlanError: `adapter-inexact` for several parameters of a module whose order is not known.

    Examples:
        >>> parameter_modules(["experts.down_proj", "experts.gate_up_proj"])
        {'experts.down_proj': 'experts', 'experts.gate_up_proj': 'experts.base_layer'}
    """
    owned: dict[str, list[str]] = {}
    for key in sorted(keys):
        module, _, last = key.rpartition(".")
        owned.setdefault(module, []).append(last)
    named: dict[str, str] = {}
    for module, lasts in owned.items():
        if len(lasts) > 1 and not set(lasts) <= set(_NESTED):
            what = "the order in which a module has these parameters is not known, and its adapter's names depend on it"
            raise PlanError("adapter-inexact", what, where=module, got=", ".join(lasts))
        order = [last for last in _NESTED if last in lasts] or lasts
        named |= {f"{module}.{last}": module + BASE_LAYER * (len(order) - 1 - order.index(last)) for last in lasts}
    return named
