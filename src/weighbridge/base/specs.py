"""What a tensor is, apart from its values: dtype and shape, and the header that names many of them.

The dtypes are those of the safetensors format (https://github.com/huggingface/safetensors, `Dtype` of the reference
implementation), under its codes. No torch here: a torch dtype is looked up by its name, elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import frexp, prod
from types import MappingProxyType
from typing import Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import shorten

Shape = tuple[int, ...]
"""Sizes of a tensor's axes, in elements."""


MAX_KEY_CHARACTERS: Final = 4096
MAX_KEY_SEGMENTS: Final = 256
MAX_AXES: Final = 64
"""Limits of what is handled: no model comes near them, and work on a name may take the square of its length."""


def check_keys(keys: Collection[str], where: str = "") -> None:
    """Refuse names that are too long to be handled.

    Args:
        keys: The names.
        where: What they are in, for the message.

    Raises:
        CheckpointError: `name-too-long`.

    Examples:
        >>> check_keys(["model.layers.0.weight"])
    """
    if max(map(len, keys), default=0) < MAX_KEY_SEGMENTS:  # with so few characters there cannot be more segments
        return
    for key in keys:
        segments = key.count(".") + 1
        if len(key) > MAX_KEY_CHARACTERS or segments > MAX_KEY_SEGMENTS:
            raise CheckpointError(
                "name-too-long",
                "a tensor's name is too long to be handled",
                where=(f"{where}: " if where else "") + shorten(key, 60),
                expected=f"at most {MAX_KEY_CHARACTERS:,} characters and {MAX_KEY_SEGMENTS} segments",
                got=f"{len(key):,} characters, {segments:,} segments",
                hint="rename the tensor where it was written",
            )


def coordinates(flat: int, shape: Shape) -> tuple[int, ...]:
    """Turn a flat row-major index into one for each axis.

    Examples:
        >>> coordinates(7, (2, 5))
        (1, 2)
    """
    found = []
    for size in reversed(shape):
        flat, place = divmod(flat, size or 1)
        found.append(place)
    return tuple(reversed(found))


class DType(NamedTuple):
    """One dtype of the safetensors format.

    `exponent_bits` and `mantissa_bits` (without the implicit one) describe a float; both are 0 for others.
    """

    code: str
    bits: int
    torch_name: str
    kind: str
    exponent_bits: int = 0
    mantissa_bits: int = 0

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 1 where several share a byte, whose tensors are moved whole."""
        return max(1, self.bits // 8)


DTYPES: Final[Mapping[str, DType]] = MappingProxyType(
    {
        d.code: d
        for d in (
            DType("BOOL", 8, "bool", "bool"),
            DType("U8", 8, "uint8", "unsigned"),
            DType("I8", 8, "int8", "signed"),
            DType("U16", 16, "uint16", "unsigned"),
            DType("I16", 16, "int16", "signed"),
            DType("U32", 32, "uint32", "unsigned"),
            DType("I32", 32, "int32", "signed"),
            DType("U64", 64, "uint64", "unsigned"),
            DType("I64", 64, "int64", "signed"),
            DType("F4", 4, "float4_e2m1fn_x2", "packed", 2, 1),
            DType("F6_E2M3", 6, "", "packed", 2, 3),
            DType("F6_E3M2", 6, "", "packed", 3, 2),
            DType("F8_E4M3", 8, "float8_e4m3fn", "float", 4, 3),
            DType("F8_E5M2", 8, "float8_e5m2", "float", 5, 2),
            DType("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", "float", 4, 3),
            DType("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", "float", 5, 2),
            DType("F8_E8M0", 8, "float8_e8m0fnu", "float", 8, 0),
            DType("F16", 16, "float16", "float", 5, 10),
            DType("BF16", 16, "bfloat16", "float", 8, 7),
            DType("F32", 32, "float32", "float", 8, 23),
            DType("F64", 64, "float64", "float", 11, 52),
            DType("C64", 64, "complex64", "complex"),
        )
    }
)
"""Every dtype by its code."""


def dtype_named(name: str) -> DType:
    """Find a dtype by its safetensors code or its torch name.

    Raises:
        CheckpointError: `dtype-unknown`.

    Examples:
        >>> dtype_named("BF16") is dtype_named("bfloat16") is dtype_named("torch.bfloat16")
        True
    """
    found = DTYPES.get(name)
    if found is None:
        wanted = name.removeprefix("torch.").lower()
        aliases = {"half": "float16", "float": "float32", "double": "float64"}
        wanted = aliases.get(wanted, wanted)
        found = next((d for d in DTYPES.values() if wanted in (d.torch_name, d.code.lower())), None)
    if found is None:
        raise CheckpointError(
            "dtype-unknown", "this is no dtype", where=name, expected="one of " + ", ".join(DTYPES), got=repr(name)
        )
    return found


def widens_exactly(source: str, target: str) -> bool:
    """Tell whether every value of dtype `source` has its exact twin in dtype `target`, so that a cast can be undone.

    Examples:
        >>> widens_exactly("BF16", "F32"), widens_exactly("F32", "BF16"), widens_exactly("F16", "BF16")
        (True, False, False)
    """
    a, b = DTYPES[source], DTYPES[target]
    if source == target:
        return True
    if a.kind == b.kind == "float":
        special = {"F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
        wide = b.exponent_bits >= a.exponent_bits and b.mantissa_bits >= a.mantissa_bits and b.bits > a.bits
        return wide and source not in special and target in ("F16", "BF16", "F32", "F64")
    return a.kind == b.kind and a.kind in ("signed", "unsigned") and b.bits >= a.bits


_LARGEST: Final = {"F8_E4M3": 448.0, "F8_E4M3FNUZ": 240.0, "F8_E5M2FNUZ": 57344.0, "F8_E8M0": 2.0**127}
"""Largest finite values that the exponent's width does not tell."""


def largest(dtype: str) -> float:
    """Return the largest finite value of a floating dtype.

    Examples:
        >>> largest("F16"), largest("BF16") < largest("F32"), largest("F8_E5M2")
        (65504.0, True, 57344.0)
    """
    kind = DTYPES[dtype]
    top = 2 ** (kind.exponent_bits - 1) - 1
    return _LARGEST.get(dtype) or (2 - 2.0**-kind.mantissa_bits) * 2.0**top


def spacing(dtype: str) -> float:
    """Return how far apart the largest finite values of a floating dtype lie.

    Examples:
        >>> spacing("F16"), spacing("F8_E4M3")
        (32.0, 32.0)
    """
    return 2.0 ** (frexp(largest(dtype))[1] - 1 - DTYPES[dtype].mantissa_bits)


def may_overflow(source: str, target: str) -> bool:
    """Tell whether a finite value of one floating dtype can lie beyond the range of another one.

    Examples:
        >>> may_overflow("F32", "BF16"), may_overflow("BF16", "F16"), may_overflow("F16", "BF16")
        (True, True, False)
    """
    kinds = {DTYPES[source].kind, DTYPES[target].kind}
    return kinds == {"float"} and largest(source) > largest(target)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Dtype and shape of one tensor.

    Args:
        dtype: A code of `DTYPES`.
        shape: Sizes of the axes, in elements.

    Examples:
        >>> TensorSpec("BF16", (2, 3)).size_bytes
        12
    """

    dtype: str
    shape: Shape

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Size of the contiguous bytes; sub-byte dtypes are rounded up to whole bytes."""
        return (self.numel * DTYPES[self.dtype].bits + 7) // 8

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


class Placed(NamedTuple):
    """Where a tensor's bytes lie in its file; offset and size in bytes from the file's start."""

    key: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Header(Mapping[str, TensorSpec]):
    """The specs of a checkpoint's or a model's tensors by key; no values.

    Args:
        specs: Spec of each tensor by key. Iteration follows this order; no result depends on it.
        metadata: The free text pairs of a safetensors header (`__metadata__`).
        ties: For each key that shares its storage with another one, the key that stands for all of them.
        loose: Keys of what takes a tensor of any dtype and shape, such as the extra state of a module.

    Raises:
        CheckpointError: `name-too-long`.
    """

    specs: Mapping[str, TensorSpec]
    metadata: Mapping[str, str] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    loose: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_keys(self.specs)

    def __getitem__(self, key: str) -> TensorSpec:
        return self.specs[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    @property
    def size_bytes(self) -> int:
        """Sum of all tensors' bytes; tied ones are counted as often as they are named."""
        return sum(spec.size_bytes for spec in self.specs.values())

    def __str__(self) -> str:
        return f"{len(self):,} tensor{'s' * (len(self) != 1)}, {self.size_bytes:,} bytes"
