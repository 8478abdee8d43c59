"""The tensors that say alpha, in adapters that have one for each module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weighbridge.base.errors import LayoutError
from weighbridge.base.forms.elements import element_bytes
from weighbridge.base.specs import TensorSpec
from weighbridge.mappings.lora.ranks import Strength
from weighbridge.planning.factors.adapted import Adapted, Scalar
from weighbridge.planning.factors.factor_copies import ONE, Made, Piece, one_dtype
from weighbridge.planning.factors.rectangles import inexact


def alphas_of(used: Sequence[Adapted], strength: Strength) -> Iterator[Made]:
    """Yield every way of making the tensor that says alpha; none where a module is as strong without one.

    One that stays is copied, and those of weights that become one must be equal. At another rank alpha is another
    number: that is declared, and the old ones must hold what was read of them.

    Args:
        used: The weights that one is made of.
        strength: How strong it is.

    Raises:
        PlanError: `adapter-inexact` for a number that the dtype does not have, or that would not be as strong;
            `dtype-mismatch` for tensors of several dtypes.
    """
    known = _known(used)
    if known and _is_kept(used, strength):
        yield from (Made("alpha", known[0].spec, (Piece(scalar.key, ONE),)) for scalar in known)
    elif known or strength.scaling != 1:
        spec = TensorSpec(one_dtype({scalar.spec.dtype for scalar in known}), known[0].spec.shape) if known else _PLAIN
        beside = "" if known else used[0].keys[0]
        yield Made("alpha", spec, (Piece("", ONE),), _element(used[0].strength, strength, spec.dtype), known, beside)


_PLAIN = TensorSpec("F32", ())


def without_alphas(made: Sequence[Made], used: Sequence[Adapted]) -> list[Made]:
    """Let a factor stand for the tensors that say alpha, where a configuration says it in their place."""
    known = _known(used)
    first = next(number for number, each in enumerate(made) if each.what == "B")
    return [each._replace(instead=known) if number == first else each for number, each in enumerate(made)]


def _known(used: Sequence[Adapted]) -> tuple[Scalar, ...]:
    return tuple({each.alpha.key: each.alpha for each in used if each.alpha is not None}.values())


def _is_kept(used: Sequence[Adapted], strength: Strength) -> bool:
    """Tell whether the tensor of any of the weights says the right thing of what they become."""
    elements = {each.alpha and (each.alpha.spec.dtype, each.alpha.element) for each in used}
    return len(elements) == 1 and {each.strength for each in used} == {strength}


def _element(old: Strength, strength: Strength, dtype: str) -> bytes:
    """Return the bytes that say how strong a module is, which must be as strong as it was."""
    plain = strength.divided()
    if not plain.is_as_strong(old):
        raise inexact(f"no alpha says its strength, {old.scaling:.9g}, at rank {plain.rank}")
    try:
        return element_bytes(plain.alpha, dtype)
    except LayoutError:
        raise inexact(f"alpha would be {plain.alpha!r}, which {dtype} does not have") from None
