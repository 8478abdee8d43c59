"""Quantised weights made and read one element at a time, in numpy and Python's integers: what the formats' texts say.

Nothing here is shared with what is tested. Each maker gives a configuration, tensors by name as torch ones, the name of
the plain weight, and its values as floats that hold them exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


class Quantised(NamedTuple):
    """What a maker gives."""

    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    name: str
    values: np.ndarray
    dtype: torch.dtype = torch.float32

    @property
    def weight(self) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.values.astype(np.float32))).to(self.dtype)


def e4m3(stored: int) -> float:
    """Read a float of 8 bits: sign, 4 of exponent with bias 7, 3 of mantissa; no infinity."""
    code = int(stored)
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def e2m1(code: int) -> float:
    return -E2M1[code & 7] if code & 8 else E2M1[code & 7]


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round to 8 bits of mantissa, to even."""
    raw = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((raw + 0x7FFF + ((raw >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def elementwise(shape: tuple[int, ...], value: Callable[..., Any]) -> np.ndarray:
    made = np.empty(shape, np.float32)
    for place in np.ndindex(*shape):
        made[place] = value(*place)
    return made


def words_of(codes: np.ndarray, bits: int) -> np.ndarray:
    """Lay numbers side by side from the lowest bit on, each line of them in words of 32 bits."""
    lines = []
    for line in codes.reshape(-1, codes.shape[-1]):
        number = sum(int(code) << (place * bits) for place, code in enumerate(line))
        count = -(-len(line) * bits // 32)
        lines.append(np.frombuffer(number.to_bytes(4 * count, "little"), np.int32))
    return np.stack(lines).reshape(*codes.shape[:-1], -1)


def floats(chance: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(chance.uniform(0.01, 2, shape).astype(np.float32)).to(dtype)


def fp8_codes(chance: np.random.Generator, *shape: int) -> tuple[np.ndarray, torch.Tensor]:
    codes = chance.integers(0, 256, shape, dtype=np.uint8)
    codes[codes & 127 == 127] = 0
    return codes, torch.from_numpy(codes).view(torch.float8_e4m3fn)


def fp8_block(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    high, wide = int(chance.integers(1, 9)), int(chance.integers(1, 9))
    codes, stored = fp8_codes(chance, 2, rows, columns)
    scales = floats(chance, 2, -(-rows // high), -(-columns // wide))
    s = scales.numpy()
    values = elementwise(codes.shape, lambda e, o, i: np.float32(e4m3(codes[e, o, i])) * s[e, o // high, i // wide])
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [high, wide]}}
    return Quantised(config, {"up": stored, "up_scale_inv": scales}, "up", values)


def fp8_powers(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    """Scales that are powers of two, as bytes."""
    codes, stored = fp8_codes(chance, rows, columns)
    powers = chance.integers(110, 140, (-(-rows // 4), -(-columns // 8)), dtype=np.uint8)
    values = elementwise(codes.shape, lambda o, i: e4m3(codes[o, i]) * 2.0 ** (int(powers[o // 4, i // 8]) - 127))
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 8]}}
    tensors = {"q.weight": stored, "q.weight_scale_inv": torch.from_numpy(powers)}
    return Quantised(config, tensors, "q.weight", values)


def modelopt_fp8(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    codes, stored = fp8_codes(chance, rows, columns)
    scale = floats(chance).reshape(())
    values = elementwise(codes.shape, lambda o, i: np.float32(e4m3(codes[o, i])) * scale.numpy())
    tensors = {"q.weight": stored, "q.weight_scale": scale, "q.input_scale": torch.tensor(0.5)}
    return Quantised(
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, tensors, "q.weight", values
    )


def modelopt_nvfp4(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    columns = -(-columns // 16) * 16
    codes = chance.integers(0, 16, (rows, columns))
    grid, stored = fp8_codes(chance, rows, columns // 16)
    whole = floats(chance).reshape(())
    values = elementwise(
        codes.shape,
        lambda o, i: np.float32(e2m1(int(codes[o, i]))) * (np.float32(e4m3(grid[o, i // 16])) * whole.numpy()),
    )
    packed = torch.from_numpy((codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8))
    tensors = {"q.weight": packed, "q.weight_scale": stored, "q.weight_scale_2": whole}
    config = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    return Quantised({"quantization_config": config}, tensors, "q.weight", values)


def modelopt_int4(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    rows, columns = rows + rows % 2, -(-columns // 8) * 8
    codes = chance.integers(-8, 8, (rows, columns))
    scales = floats(chance, rows, columns // 8)
    values = elementwise(codes.shape, lambda o, i: np.float32(codes[o, i]) * scales.numpy()[o, i // 8])
    packed = torch.from_numpy(((codes[::2] & 15) | (codes[1::2] & 15) << 4).astype(np.uint8))
    config = {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 8}
    tensors = {"q.weight": packed, "q.weight_scale": scales}
    return Quantised({"quantization_config": config}, tensors, "q.weight", values)


def packed(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    """compressed-tensors: numbers of any width, with zero points packed along the rows, or without."""
    bits, size = int(chance.choice([2, 3, 4, 5, 8])), int(chance.integers(2, 9))
    has_zeros = bool(chance.integers(2))
    half, groups = 1 << (bits - 1), -(-columns // size)
    codes = chance.integers(0, 1 << bits, (rows, columns))
    zeros = chance.integers(0, 1 << bits, (rows, groups)) if has_zeros else np.full((rows, groups), half)
    scales = floats(chance, rows, groups, dtype=torch.bfloat16)
    s = scales.float().numpy()
    values = to_bf16(
        elementwise(codes.shape, lambda o, i: np.float32(codes[o, i] - zeros[o, i // size]) * s[o, i // size])
    )
    tensors = {
        "q.weight_packed": torch.from_numpy(words_of(codes, bits)),
        "q.weight_scale": scales,
        "q.weight_shape": torch.tensor([rows, columns]),
    }
    if has_zeros:
        tensors["q.weight_zero_point"] = torch.from_numpy(np.ascontiguousarray(words_of(zeros.T, bits).T))
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": size, "symmetric": not has_zeros}
    config = {"config_groups": {"one": {"targets": ["Linear"], "weights": weights}}, "format": "pack-quantized"}
    config["quant_method"] = "compressed-tensors"
    return Quantised({"quantization_config": config}, tensors, "q.weight", values, torch.bfloat16)


def int8_channel(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    codes = chance.integers(-128, 128, (rows, columns), dtype=np.int8)
    scales = floats(chance, rows, 1, dtype=torch.bfloat16)
    values = to_bf16(elementwise(codes.shape, lambda o, i: np.float32(codes[o, i]) * scales.float().numpy()[o, 0]))
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
    config = {"config_groups": {"one": {"targets": ["Linear"], "weights": weights}}, "format": "int-quantized"}
    config["quant_method"] = "compressed-tensors"
    tensors = {"q.weight": torch.from_numpy(codes), "q.weight_scale": scales}
    return Quantised({"quantization_config": config}, tensors, "q.weight", values, torch.bfloat16)


def nvfp4(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    made = modelopt_nvfp4(chance, rows, columns)
    whole = made.tensors["q.weight_scale_2"]
    codes = made.tensors["q.weight"].numpy()
    grid = made.tensors["q.weight_scale"].view(torch.uint8).numpy()
    values = elementwise(
        made.values.shape,
        lambda o, i: (
            np.float32(e2m1(int(codes[o, i // 2]) >> 4 * (i % 2) & 15))
            * (np.float32(e4m3(grid[o, i // 16])) / whole.numpy())
        ),
    )
    tensors = {
        "q.weight_packed": made.tensors["q.weight"],
        "q.weight_scale": made.tensors["q.weight_scale"],
        "q.weight_global_scale": whole.reshape(1),
    }
    weights = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    group = {"targets": ["Linear"], "weights": weights, "format": "nvfp4-pack-quantized"}
    config = {"quant_method": "compressed-tensors", "config_groups": {"one": group}}
    return Quantised({"quantization_config": config}, tensors, "q.weight", values)


def mxfp4(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    """gpt-oss: blocks of 32 columns in 16 bytes, stacked; read with the columns first."""
    groups = -(-columns // 32)
    blocks = chance.integers(0, 256, (3, rows, groups, 16), dtype=np.uint8)
    scales = chance.integers(110, 140, (3, rows, groups), dtype=np.uint8)

    def value(e: int, i: int, o: int) -> float:
        code = int(blocks[e, o, i // 32, i % 32 // 2]) >> 4 * (i % 2) & 15
        return e2m1(code) * 2.0 ** (int(scales[e, o, i // 32]) - 127)

    values = elementwise((3, groups * 32, rows), value)
    tensors = {"up_blocks": torch.from_numpy(blocks), "up_scales": torch.from_numpy(scales)}
    return Quantised({"quantization_config": {"quant_method": "mxfp4"}}, tensors, "up", values)


def gptq(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    bits, version = int(chance.choice([2, 3, 4, 8])), str(chance.choice(["gptq", "gptq_v2"]))
    rows, columns = -(-rows // 32) * 32, -(-columns // 32) * 32
    size = int(chance.choice([16, 32]))
    codes = chance.integers(0, 1 << bits, (columns, rows))
    zeros = chance.integers(0, 1 << bits, (columns // size, rows))
    scales = floats(chance, columns // size, rows, dtype=torch.float16)
    order = chance.integers(0, columns // size, columns) if chance.integers(2) else np.arange(columns) // size
    more = 1 if version == "gptq" else 0
    values = elementwise(
        (rows, columns),
        lambda o, i: np.float32(codes[i, o] - zeros[order[i], o] - more) * scales.float().numpy()[order[i], o],
    )
    tensors = {
        "q.qweight": torch.from_numpy(np.ascontiguousarray(words_of(codes.T, bits).T)),
        "q.qzeros": torch.from_numpy(words_of(zeros, bits)),
        "q.scales": scales,
        "q.g_idx": torch.from_numpy(order.astype(np.int32)),
    }
    config = {"quant_method": "gptq", "bits": bits, "group_size": size, "checkpoint_format": version}
    return Quantised({"quantization_config": config}, tensors, "q.weight", values)


def awq(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    rows, columns, size = -(-rows // 8) * 8, -(-columns // 16) * 16, 16
    codes, zeros = (chance.integers(0, 16, (count, rows)) for count in (columns, columns // size))
    scales = floats(chance, columns // size, rows, dtype=torch.float16)

    def words(numbers: np.ndarray) -> torch.Tensor:
        """Of eight numbers, those with even places come first."""
        places = [0, 2, 4, 6, 1, 3, 5, 7]
        laid = numbers.reshape(len(numbers), -1, 8)[..., places].reshape(numbers.shape)
        return torch.from_numpy(words_of(laid, 4))

    s = scales.numpy()
    values = elementwise(
        (rows, columns),
        lambda o, i: np.float16(codes[i, o] - zeros[i // size, o]) * s[i // size, o],
    )
    config = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm"}
    tensors = {"q.qweight": words(codes), "q.qzeros": words(zeros), "q.scales": scales}
    return Quantised({"quantization_config": config}, tensors, "q.weight", values, torch.float16)


def mlx(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    bits, size = int(chance.choice([2, 4, 8])), 32
    columns = -(-columns // size) * size
    codes = chance.integers(0, 1 << bits, (rows, columns))
    scales, biases = (floats(chance, rows, columns // size, dtype=torch.bfloat16) for _ in range(2))
    s, b = scales.float().numpy(), biases.float().numpy()
    products = to_bf16(elementwise(codes.shape, lambda o, i: np.float32(codes[o, i]) * s[o, i // size]))
    values = to_bf16(elementwise(codes.shape, lambda o, i: products[o, i] + b[o, i // size]))
    stored = torch.from_numpy(words_of(codes, bits).view(np.uint32))
    config = {"quantization": {"bits": bits, "group_size": size}}
    tensors = {"q.weight": stored, "q.scales": scales, "q.biases": biases}
    return Quantised(config, tensors, "q.weight", values, torch.bfloat16)


def bnb_int8(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    codes = chance.integers(-128, 128, (rows, columns), dtype=np.int8)
    scales = floats(chance, rows)
    values = elementwise(codes.shape, lambda o, i: np.float32(codes[o, i]) * scales.numpy()[o] / np.float32(127))
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    tensors = {
        "q.weight": torch.from_numpy(codes),
        "q.SCB": scales,
        "q.weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    return Quantised(config, tensors, "q.weight", values)


def bnb_nf4(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    """Blocks of the flat weight, of which the last one may be partial, and scales that may be codes themselves."""
    block, nested_block, count = 16, 4, rows * columns
    codes = chance.integers(0, 16, count)
    table = np.sort(chance.uniform(-1, 1, 16)).astype(np.float32)
    blocks = -(-count // block)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": [rows, columns]}
    padded = np.append(codes, 0)[: count + count % 2]
    tensors = {
        "q.weight": torch.from_numpy((padded[::2] << 4 | padded[1::2]).astype(np.uint8)).reshape(-1, 1),
        "q.weight.quant_map": torch.from_numpy(table),
    }
    if chance.integers(2):
        outer = floats(chance, -(-blocks // nested_block))
        inner, places = floats(chance, 256), chance.integers(0, 256, blocks, dtype=np.uint8)
        offset = np.float32(0.25)
        state |= {"nested_blocksize": nested_block, "nested_offset": float(offset), "nested_dtype": "float32"}
        tensors |= {"q.weight.absmax": torch.from_numpy(places), "q.weight.nested_absmax": outer}
        tensors["q.weight.nested_quant_map"] = inner
        scales = [outer.numpy()[n // nested_block] * inner.numpy()[places[n]] + offset for n in range(blocks)]
    else:
        tensors["q.weight.absmax"] = floats(chance, blocks)
        scales = list(tensors["q.weight.absmax"].numpy())
    raw = json.dumps(state).encode()
    tensors["q.weight.quant_state.bitsandbytes__nf4"] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    flat = np.array([table[codes[n]] * scales[n // block] for n in range(count)], np.float32)
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    values = to_bf16(flat).reshape(rows, columns)
    return Quantised({"quantization_config": config}, tensors, "q.weight", values, torch.bfloat16)


MAKERS = (
    *(fp8_block, fp8_powers, modelopt_fp8, modelopt_nvfp4, modelopt_int4, packed, int8_channel, nvfp4, mxfp4),
    *(gptq, awq, mlx, bnb_int8, bnb_nf4),
)
