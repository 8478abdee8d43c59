"""What the weights of a quantised checkpoint are: each format's formula, of our own writing, over any stack of weights.

The oracles in `shared/formats` were made by the formats' own readers; a test holds this to them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Tensors = Mapping[str, torch.Tensor]

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1 = torch.cat([E2M1, -E2M1])
STATE = "quant_state"
AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]
"""Where each of eight rows lies in a word of AWQ."""


def weights_of(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the numbers of each quantised weight, [..., rows, columns], by the weight's own name."""
    said = config.get("quantization_config") or config.get("quantization") or {}
    method = said.get("quant_method", "mlx")
    return dict(FORMULAS[method](tensors, said))


def _named(tensors: Tensors, codes: str, ending: str) -> Iterator[tuple[str, Callable[[str], Any]]]:
    """Yield each weight that has codes and a tensor of this ending, and what finds the tensors of its group."""
    for key in tensors:
        for base, named in ((".weight", str), ("", _fused)):
            stem = key.removesuffix(named(ending))
            if key.endswith(named(ending)) and stem + named(codes) in tensors:
                yield stem + base, lambda other, stem=stem, named=named: tensors.get(stem + named(other))


def _fused(ending: str) -> str:
    return ending.removeprefix(".weight") if ending.startswith(".weight") else f"_{ending[1:]}"


def _spread(entries: torch.Tensor, rows: int | None, columns: int | None, like: torch.Tensor) -> torch.Tensor:
    """Repeat the entries of a grid over the elements of a weight; None is for one entry for all."""
    for axis, block in ((-2, rows), (-1, columns)):
        if block is not None:
            entries = entries.repeat_interleave(block, axis).narrow(axis, 0, like.shape[axis])
    return entries


def _unpacked(words: torch.Tensor, bits: int, axis: int) -> torch.Tensor:
    """Read a dense little-endian stream of bits along one axis."""
    width = 8 * words.element_size()
    words = words.movedim(axis, -1).to(torch.int64) & (2**width - 1)
    stream = ((words[..., None] >> torch.arange(width)) & 1).flatten(-2)
    count = stream.shape[-1] // bits
    codes = (stream[..., : count * bits].unflatten(-1, (count, bits)) << torch.arange(bits)).sum(-1)
    return codes.movedim(-1, axis)


def _single(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Give single values, one for each weight of a stack, the axes of the weights."""
    return value.reshape(*like.shape[:-2], 1, 1)


def _exponents(entries: torch.Tensor) -> torch.Tensor:
    return (entries.view(torch.uint8).float() - 127).exp2()


def _fp8(tensors: Tensors, said: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    rows, columns = said["weight_block_size"]
    for base, part in _named(tensors, ".weight", ".weight_scale_inv"):
        codes, scales = part(".weight"), part(".weight_scale_inv")
        yield base, codes.float() * _spread(scales.float(), rows, columns, codes)


def _compressed(tensors: Tensors, said: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    (group,) = said["config_groups"].values()
    weights, form = group["weights"], group.get("format") or said["format"]
    codes_of = ".weight_packed" if "pack" in form else ".weight"
    for base, part in _named(tensors, codes_of, ".weight_scale"):
        scales = part(".weight_scale")
        if form in ("nvfp4-pack-quantized", "mxfp4-pack-quantized"):
            packed = part(".weight_packed")
            codes = E2M1[_unpacked(packed, 4, -1)]
            if form[0] == "n":
                yield (
                    base,
                    codes * _spread(scales.float() / _single(part(".weight_global_scale"), codes), None, 16, codes),
                )
            else:
                yield base, codes * _spread(_exponents(scales), None, 32, codes)
        elif form == "pack-quantized":
            yield base, _packed_integers(weights, part, scales)
        else:
            stored = part(".weight")
            yield base, (stored.to(scales.dtype) * _by_strategy(weights, scales, stored)).float()


def _packed_integers(weights: Mapping[str, Any], part: Callable[[str], Any], scales: torch.Tensor) -> torch.Tensor:
    bits, shape = weights["num_bits"], part(".weight_shape").reshape(-1, 2)[0].tolist()
    codes = _unpacked(part(".weight_packed"), bits, -1)[..., : shape[1]] - 2 ** (bits - 1)
    assert list(codes.shape[-2:]) == shape
    zeros = part(".weight_zero_point")
    if zeros is not None:
        zeros = _unpacked(zeros, bits, -2).narrow(-2, 0, shape[0]) - 2 ** (bits - 1)
        codes = codes - _by_strategy(weights, zeros, codes)
    return (codes.to(scales.dtype) * _by_strategy(weights, scales, codes)).float()


def _by_strategy(weights: Mapping[str, Any], entries: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    match weights["strategy"]:
        case "block":
            return _spread(entries, *weights["block_structure"], codes)
        case "group":
            return _spread(entries, None, weights["group_size"], codes)
        case "tensor":
            return _single(entries, codes)
    return entries


def _modelopt(tensors: Tensors, said: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for base, part in _named(tensors, ".weight", ".weight_scale"):
        codes, scales = part(".weight"), part(".weight_scale")
        match said["quant_algo"]:
            case "FP8":
                yield base, codes.float() * _single(scales, codes)
            case "NVFP4":
                numbers = E2M1[_unpacked(codes, 4, -1)]
                yield (
                    base,
                    numbers * _spread(scales.float() * _single(part(".weight_scale_2"), numbers), None, 16, numbers),
                )
            case _:
                nibbles = torch.stack([codes & 15, codes >> 4], -2).flatten(-3, -2).to(torch.int8)
                numbers = torch.where(nibbles > 7, nibbles - 16, nibbles).float()
                yield base, numbers * _spread(scales, None, numbers.shape[-1] // scales.shape[-1], numbers)


def _mxfp4(tensors: Tensors, said: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """As published, [..., rows, columns]; the oracle of gpt-oss has columns first."""
    for key, blocks in tensors.items():
        if key.endswith("_blocks"):
            scales = tensors[key.removesuffix("_blocks") + "_scales"]
            numbers = E2M1[_unpacked(blocks, 4, -1)] * _exponents(scales)[..., None]
            yield key.removesuffix("_blocks"), numbers.flatten(-2)


def _gptq(tensors: Tensors, said: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    bits = said["bits"]
    for base, part in _named(tensors, ".qweight", ".qweight"):
        words, zeros, scales, groups = (part(ending) for ending in (".qweight", ".qzeros", ".scales", ".g_idx"))
        codes, zero = _unpacked(words, bits, -2), _unpacked(zeros, bits, -1) + 1
        index = groups.long()[..., None].expand(codes.shape)
        yield base, ((codes - zero.gather(-2, index)).float() * scales.float().gather(-2, index)).mT


def _awq(tensors: Tensors, said: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for base, part in _named(tensors, ".qweight", ".qweight"):
        words, zeros, scales = (part(ending) for ending in (".qweight", ".qzeros", ".scales"))
        codes, zero = (
            _unpacked(each, 4, -1).unflatten(-1, (-1, 8))[..., AWQ_ORDER].flatten(-2) for each in (words, zeros)
        )
        size = said["group_size"]
        yield base, ((codes - _spread(zero, size, None, codes)).half() * _spread(scales, size, None, codes)).mT


def _bitsandbytes(tensors: Tensors, said: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Rows of eight bits, or four bits in blocks of the flat weight, the first of two numbers in the high bits."""
    states = (key for key in tensors if f".{STATE}." in key)
    for base, state in ((key.partition(f".{STATE}.")[0], key) for key in states):
        told = json.loads(bytes(tensors[state].tolist()))
        numel, codes = math.prod(told["shape"]), tensors[base].flatten()
        numbers = tensors[f"{base}.quant_map"][torch.stack([codes >> 4, codes & 15], 1).flatten()[:numel].long()]
        scales = tensors[f"{base}.absmax"].repeat_interleave(told["blocksize"])[:numel]
        yield base, (numbers * scales).reshape(told["shape"]).to(getattr(torch, told["dtype"]))
    for base, part in _named(tensors, ".weight", ".SCB"):
        codes, scales = part(".weight"), part(".SCB")
        yield base, codes.float() * scales[..., None] / 127


def _torchao(tensors: Tensors, said: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for base, part in _named(tensors, "._weight_qdata", "._weight_scale"):
        codes, scales = part("._weight_qdata"), part("._weight_scale")
        zeros = part("._weight_zero_point")
        numbers = codes.float() - (0 if zeros is None else zeros.float())
        yield base, (numbers * scales.float()).to(scales.dtype)


def _mlx(tensors: Tensors, said: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    bits, size = said["bits"], said["group_size"]
    for base, part in _named(tensors, ".weight", ".scales"):
        words, scales, biases = part(".weight"), part(".scales"), part(".biases")
        codes = _unpacked(words, bits, -1)
        if biases is None:
            yield base, E2M1[codes] * _spread(_exponents(scales), None, size, codes)
        else:
            yield base, codes.to(scales.dtype) * _spread(scales, None, size, codes) + _spread(biases, None, size, codes)


FORMULAS: dict[str, Callable[[Tensors, Mapping[str, Any]], Iterator[tuple[str, torch.Tensor]]]] = {
    "fp8": _fp8,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "mxfp4": _mxfp4,
    "gptq": _gptq,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "torchao": _torchao,
    "mlx": _mlx,
}
