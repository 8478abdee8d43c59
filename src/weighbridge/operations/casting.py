"""Give tensors another dtype."""

from __future__ import annotations

from dataclasses import dataclass, replace

from weighbridge.base.errors import LayoutError, WeighbridgeError
from weighbridge.base.specs import dtype_named, widens_exactly
from weighbridge.operations.values import Arguments, Context, Lane, Value


@dataclass(frozen=True, slots=True)
class Cast(Arguments):
    """Give each tensor another dtype; the copies convert what they move.

    Args:
        dtype: The new dtype: a safetensors code or a torch name.
        source_dtype: The dtype before, needed for the inverse alone.

    Examples:
        >>> Cast("float32", "bfloat16").inverse()
        Cast(dtype='BF16', source_dtype='F32')
    """

    dtype: str
    source_dtype: str | None = None

    def __post_init__(self) -> None:
        Arguments.__post_init__(self)
        for name in ("dtype", "source_dtype"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _code(given))

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Change each value's dtype."""
        return tuple(replace(lane, values=tuple(map(self._cast, lane.values))) for lane in lanes)

    def _cast(self, value: Value) -> Value:
        if self.source_dtype not in (None, value.dtype):
            raise LayoutError(
                "dtype-mismatch", "the tensor has another dtype", expected=str(self.source_dtype), got=value.dtype
            )
        if value.dtype == self.dtype:
            return value
        if value.is_rounded:
            raise LayoutError("operation-argument", "a second cast would lose the first one's rounding; use lower()")
        return Value(value.layout, self.dtype, is_rounded=not widens_exactly(value.dtype, self.dtype))

    def inverse(self) -> Cast:
        """Return the cast back to `source_dtype`.

        Raises:
            LayoutError: `operation-one-way`.
        """
        if self.source_dtype is None:
            raise LayoutError(
                "operation-one-way", "a cast does not know what it came from", hint="give it a source_dtype"
            )
        return Cast(self.source_dtype, self.dtype)


def _code(name: str) -> str:
    try:
        return dtype_named(name).code
    except WeighbridgeError as error:
        raise LayoutError("operation-argument", "this is no dtype", expected=error.expected, got=repr(name)) from None
