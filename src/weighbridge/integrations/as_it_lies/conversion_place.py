"""The two places in the library's loading that a load of ours takes: the table of rules, and the conversion by them.

Both are asked once for each model, the rules first. Other threads' loads, and loads inside of one, are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from weighbridge.base.process.context_values import set_to
from weighbridge.integrations.as_it_lies.stand_ins import StandIn
from weighbridge.mappings.library_parts import library_module, library_name

Conversion = Callable[..., Any]
"""Called with the library's own conversion, the model, the tensors of the checkpoint, what the library was told, and
what lies on the disk; returns what the library's own would."""

MayHaveRules = Callable[[Any], bool]
"""Tells of a model whether the library may have rules for its checkpoints."""

_converting: ContextVar[Conversion | None] = ContextVar("weighbridge_converting", default=None)
_sparing: ContextVar[MayHaveRules | None] = ContextVar("weighbridge_sparing", default=None)


@contextmanager
def taking_over(convert: Conversion) -> Iterator[None]:
    """Let a function take the place of the library's conversion in this thread.

    Args:
        convert: The function.

    Raises:
        RegistryError: `integration-version`.
    """
    with _CONVERSION.installed(), set_to(_converting, convert):
        yield


def _convert(original: Any, model: Any, state_dict: Any, load_config: Any, disk_offload_index: Any = None) -> Any:
    """Stand where the library's conversion stands."""
    convert = _converting.get()
    if convert is None:
        return original(model, state_dict, load_config, disk_offload_index)
    with set_to(_converting, None):  # another one of ours may stand behind what somebody else put in front of it
        return convert(original, model, state_dict, load_config, disk_offload_index)


class SparedRules(list[Any]):
    """Stands for the rules of a model, which are not made before somebody needs them.

    Args:
        find: Makes them.
    """

    def __init__(self, find: Callable[[], list[Any]]) -> None:
        super().__init__()
        self.find = find


@contextmanager
def sparing_rules(may_have: MayHaveRules) -> Iterator[None]:
    """Let the library not build its whole table in this thread, where nothing in it can be for the model.

    Args:
        may_have: Tells of a model whether there may be rules; without it, the library is given `SparedRules`.

    Raises:
        RegistryError: `integration-version`.
    """
    with _RULES.installed(), set_to(_sparing, may_have):
        yield


def _find_rules(original: Any, model: Any, key_mapping: Any = None, hf_quantizer: Any = None, **more: Any) -> Any:
    """Stand where the library looks for the rules of a model."""
    may_have = _sparing.get()
    is_own = original is library_name(library_module("conversion_mapping"), "get_model_conversion_mapping")
    is_plain = is_own and key_mapping is hf_quantizer is None and not more
    if may_have is None or not is_plain or may_have(model):
        return original(model, key_mapping, hf_quantizer, **more)
    return SparedRules(lambda: original(model))


_CONVERSION: Final = StandIn("modeling_utils", "convert_and_load_state_dict_in_model", _convert)
_RULES: Final = StandIn("modeling_utils", "get_model_conversion_mapping", _find_rules)
