"""Make the configuration of a model small: few layers and experts, and where bytes are wanted, narrow ones as well.

Nothing is known of a class but the names of its configuration's values. So what is made is a guess, which counts only
if the library makes a model of it that has every kind of tensor that the model of the default configuration has.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple
from unittest import mock

from sweeping.recipes import recipe
from weighbridge.base.keys import by_name

COUNTS: Final = re.compile(r"(^|_)(layers?|blocks|depth|levels)$")
FIRST: Final = re.compile(r"(first_k_dense_replace|moe_layer_start_index|num_dense_layers)$")
EXPERTS: Final = re.compile(r"experts$")
ENTRIES: Final = re.compile(r"vocab_size|num_embeddings$|max_position_embeddings$|n_positions$")
WIDTHS: Final = re.compile(r"hidden|dim|width|channels|inner|intermediate|rank|size|d_model|d_ff|ffn|n_embd|features")
KEPT: Final = re.compile(
    r"patch|kernel|image|vocab|window|stride|temporal|merge|group|block|chunk|crop|bias|pool|rope|grid|max_|topk|top_k"
)


class Small(NamedTuple):
    """How much smaller a configuration is made.

    Args:
        layers: The most layers of each stack.
        divisor: What widths are divided by; 1 leaves them as they are.
    """

    layers: int
    divisor: int = 1


LAYERS: Final = (2, 4, 8)
QUICK: Final = Small(4)
DIVISORS: Final = (32, 16, 8, 4, 2, 1)
EXPERTS_AT_MOST: Final = 4
ENTRIES_AT_MOST: Final = 512


@contextmanager
def uninitialised() -> Iterator[None]:
    """Let models be made without first values: nobody looks at them, and they take most of the time."""
    import torch
    from transformers import PreTrainedModel

    names = [
        "kaiming_uniform_",
        "uniform_",
        "normal_",
        "xavier_uniform_",
        "trunc_normal_",
        "constant_",
        "ones_",
        "zeros_",
    ]
    same = {name: lambda tensor, *_, **__: tensor for name in names}
    with (
        mock.patch.multiple(torch.nn.init, **same),
        mock.patch.object(PreTrainedModel, "initialize_weights"),
    ):
        yield


def make(kind: Any, config: Any, device: str = "meta") -> Any:
    """Make a model, on the meta device unless another is named."""
    import torch

    with uninitialised(), torch.device(device):
        return kind(config).eval()


def build(kind: Any, *, quick: bool = False) -> tuple[Any, Small | None]:
    """Make a model of few layers that has every kind of tensor that the one of the default configuration has.

    Args:
        kind: The class.
        quick: Take a few layers to be enough, and do not make the default one to compare.

    Returns:
        The model, on the meta device, and how small it is; None where it is as large as by default.
    """
    config = recipe(kind)
    if quick:
        with suppress(Exception):
            return make(kind, checked(reduced(config, QUICK))), QUICK
    model = make(kind, config)
    wanted = set(by_name(model.state_dict()))
    for small in map(Small, LAYERS):
        with suppress(Exception):
            made = make(kind, checked(reduced(config, small)))
            if set(by_name(made.state_dict())) == wanted:
                return made, small
    return model, None


def narrow(kind: Any, model: Any, small: Small | None, most_bytes: int) -> Iterator[Any]:
    """Yield configurations of a few sizes, the smallest first, whose models have the tensors of one that is given.

    Args:
        kind: The class.
        model: The model, on the meta device.
        small: How small it is.
        most_bytes: The most that a model may hold.
    """
    wanted = set(model.state_dict())
    layers = small.layers if small else 10**6
    for divisor in DIVISORS:
        with suppress(Exception):
            config = checked(reduced(recipe(kind), Small(layers, divisor)))
            state = make(kind, config).state_dict()
            if set(state) == wanted and sum(tensor.nbytes for tensor in state.values()) <= most_bytes:
                yield config


def reduced(config: Any, small: Small) -> Any:
    """Return a smaller copy of a configuration, and of all that lie in it."""
    made = copy.deepcopy(config)
    for part in parts(made):
        _reduce(vars(part), small)
    return made


def checked(config: Any) -> Any:
    """Return a configuration that the library would save; one whose values contradict each other is refused."""
    for part in parts(config):
        getattr(part, "validate", lambda: None)()
    return config


def parts(config: Any) -> Iterator[Any]:
    """Yield a configuration and all that lie in it."""
    from transformers import PretrainedConfig

    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PretrainedConfig):
            yield from parts(value)


def _reduce(values: dict[str, Any], small: Small) -> None:
    """Make the values of one configuration smaller, and cut the lists that have an entry for each layer."""
    counts: set[int] = set()
    for name, value in list(values.items()):
        if name.startswith("_") or isinstance(value, bool) or not isinstance(value, int):
            continue
        values[name] = _smaller(name, value, small)
        if COUNTS.search(name) and values[name] < value:
            counts.add(value)
    for name, value in list(values.items()):
        if isinstance(value, list | tuple) and len(value) in counts:
            values[name] = type(value)(value[: small.layers])
        elif small.divisor > 1 and isinstance(value, list) and WIDTHS.search(name) and not KEPT.search(name):
            values[name] = [_narrower(each, small) if isinstance(each, int) else each for each in value]


def _smaller(name: str, value: int, small: Small) -> int:
    if FIRST.search(name):
        return min(value, 1)
    if COUNTS.search(name):
        return min(value, small.layers)
    if EXPERTS.search(name):
        return min(value, EXPERTS_AT_MOST)
    if small.divisor > 1 and ENTRIES.search(name):
        return min(value, ENTRIES_AT_MOST)
    return _narrower(value, small) if WIDTHS.search(name) and not KEPT.search(name) else value


def _narrower(value: int, small: Small) -> int:
    """Divide a width, if that leaves a whole number that is no trifle."""
    divided, rest = divmod(value, small.divisor)
    return value if rest or divided < 4 else divided
