"""What a checkpoint's configuration says of its quantisation, and the files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

CONFIG: Final = "config.json"
HF_QUANT: Final = "hf_quant_config.json"
QUANTIZE: Final = "quantize_config.json"
QUANTISATION: Final = "quantization_config"
SAID: Final = (QUANTISATION, "quantization")
"""Members of a configuration that speak of quantised weights; the second is MLX's."""

BESIDE: Final = (HF_QUANT, QUANTIZE)
"""Files of ModelOpt and of GPTQ that say the same as a `config.json`, or stand alone in older checkpoints."""

_PARTS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    CONFIG: tuple((name,) for name in SAID),
    QUANTIZE: ((),),
}
"""What leads to the parts of each file that say the size of blocks, which stands at the same place of all of them."""

_OF_ITS_OWN: Final = {HF_QUANT: ("quantization",)}
"""What leads to the part of a file that says it directly, wherever the configuration has it."""


def places_in(name: str, place: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the names that lead to a setting in a file beside the weights, wherever it may stand there.

    Args:
        name: The file's name.
        place: Names that lead from a part that speaks of quantised weights to the setting.

    Examples:
        >>> places_in("quantize_config.json", ("group_size",)), places_in("tokenizer.json", ("group_size",))
        ([('group_size',)], [])
        >>> places_in("hf_quant_config.json", ("config_groups", "group_0", "weights", "group_size"))
        [('quantization', 'group_size')]
    """
    if name in _OF_ITS_OWN:
        return [(*_OF_ITS_OWN[name], place[-1])]
    return [(*part, *place) for part in _PARTS.get(name, ())]


_NVFP4: Final = {"weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}}

BY_NAMES: Final[Mapping[str, Mapping[str, Any]]] = {
    "_blocks": {"quant_method": "mxfp4"},
    ".weight_scale_2": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
    ".weight_global_scale": {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": _NVFP4},
    },
    ".SCB": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "._weight_qdata": {"quant_method": "torchao"},
}
"""What the end of a name says by itself: formats with one size of a group, or none, which is a fact of the format; or
with all sizes in the metadata of the file."""


class Said(NamedTuple):
    """What is said.

    Args:
        method: The format's name for itself, such as ``gptq``, in lower case.
        config: The part of the configuration that is about quantisation.
        metadata: The metadata of the weights' own file.
    """

    method: str
    config: Mapping[str, Any]
    metadata: Mapping[str, str]


def read_said(config: Any, metadata: Mapping[str, str], beside: Mapping[str, Any]) -> tuple[Said | None, list[str]]:
    """Return what is said of quantisation, and a sentence for each file that says otherwise.

    MLX writes `quantization`, without a name; all others write `quantization_config` with a `quant_method`.

    Args:
        config: The content of the `config.json`.
        metadata: The metadata of the weights' own file.
        beside: The content of each other file of `BESIDE` that there is.

    Examples:
        >>> said, problems = read_said({"quantization_config": {"quant_method": "gptq", "bits": 4}}, {}, {})
        >>> said.method, problems
        ('gptq', [])
        >>> read_said({"model_type": "llama"}, {}, {})
        (None, [])
    """
    first = _of_config(config)
    others = [(name, found) for name in BESIDE if (found := _of_file(name, beside.get(name))) is not None]
    if first is None:
        first = others[0][1] if others else None
    if first is None:
        return None, []
    problems = [problem for name, other in others for problem in _differences(name, first, other)]
    return Said(*first, metadata), problems


_Part = tuple[str, Mapping[str, Any]]


def parts_of(name: str, content: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield each part of a file that speaks of quantisation: the member that holds it, the format's name, and the part.

    MLX writes the same twice, of which the second has no name of a format.

    Args:
        name: The file's name.
        content: What it holds.

    Examples:
        >>> said = {"bits": 4, "lm_head": False}
        >>> [part[:2] for part in parts_of("config.json", {"quantization": said, "quantization_config": said})]
        [('quantization_config', 'mlx'), ('quantization', 'mlx')]
    """
    first = _of_file(name, content) if name in BESIDE else _of_config(content)
    if first is None:
        return
    if name == QUANTIZE:
        yield ("", *first)
        return
    parts = ((member, content.get(member)) for member in SAID)
    yield from ((member, first[0], part) for member, part in parts if isinstance(part, Mapping))


def _of_config(config: Any) -> _Part | None:
    if not isinstance(config, Mapping):
        return None
    found, unnamed = (config.get(name) for name in SAID)
    if isinstance(found, Mapping) and isinstance(found.get("quant_method"), str):
        return found["quant_method"].lower(), found
    if isinstance(unnamed, Mapping) and "bits" in unnamed:
        return "mlx", unnamed
    return ("", found) if isinstance(found, Mapping) else None


def _of_file(name: str, content: Any) -> _Part | None:
    if not isinstance(content, Mapping):
        return None
    if name == QUANTIZE:
        return ("gptq", content) if "bits" in content else None
    found = content.get("quantization")
    return ("modelopt", found) if isinstance(found, Mapping) else None


def _differences(name: str, first: _Part, other: _Part) -> Iterator[str]:
    """Yield what a second file says otherwise, of what decides the tensors' sizes."""
    if first[0] != other[0]:
        yield f"{name} is of {other[0]}, the configuration of {first[0] or 'something without a name'}"
        return
    for field in ("quant_algo", "bits", "group_size", "desc_act", "checkpoint_format"):
        said = [part[1].get(field) for part in (first, other)]
        if None not in said and said[0] != said[1]:
            yield f"{field} is {said[1]} in {name}, and {said[0]} in the configuration"


def whole(value: Any) -> int | None:
    """Return a positive whole number; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def block_sizes(value: Any) -> tuple[int, int] | None:
    """Return the rows and columns of a block; None for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    found = [whole(size) for size in value]
    return None if None in found else (found[0] or 0, found[1] or 0)
