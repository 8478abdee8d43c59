"""How the tensors of quantised weights are called, in one list: for all who tell them by their names alone.

The names are those that the formats' own writers give: FP8 of DeepSeek, Qwen and Mistral, compressed-tensors, ModelOpt,
GPTQ and AWQ, bitsandbytes, torchao, HQQ, AQLM, MLX, and the MXFP4 of gpt-oss. The schemes have the same ones, each with
what it is; a test holds the two together.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Companions(NamedTuple):
    """Names that tell one kind of format.

    Args:
        what: What they are.
        names: Last segments of names, behind the module's.
        below: Last segments behind the weight's own name.
        tails: What last segments end with, behind the name of a parameter.
    """

    what: str
    names: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()

    @property
    def pattern(self) -> str:
        """A regular expression that is found in such names."""
        names = "|".join((*self.names, *self.below))
        tails = "|".join(self.tails)
        return "|".join([rf"(?:^|\.)(?:{names})$"] * bool(names) + [rf"(?:{tails})$"] * bool(tails))


STATE: Final = "quant_state"
"""The segment behind a weight's name that leads to the state of bitsandbytes, under the name of its format."""

SCALES_INVERSE: Final = "_scale_inv"
"""What the scales of a parameter end with that no plain checkpoint has."""

COMPANIONS: Final = (
    Companions(
        "scales of blocks, as of FP8",
        ("weight_scale_inv", "activation_scale", "qscale_weight", "qscale_act"),
        tails=(SCALES_INVERSE,),
    ),
    Companions("packed integers with zero points and groups, as of GPTQ and AWQ", ("qweight", "qzeros", "g_idx")),
    Companions(
        "packed weights of compressed-tensors", ("weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx")
    ),
    Companions(
        "scales of weights, activations or caches",
        (
            *("weight_scale", "weight_scale_2", "weight_global_scale"),
            *("input_scale", "input_global_scale", "pre_quant_scale", "k_scale", "v_scale"),
        ),
    ),
    Companions(
        "state of bitsandbytes",
        ("SCB", "weight_format"),
        ("absmax", "quant_map", "nested_absmax", "nested_quant_map", rf"{STATE}\.\w+"),
    ),
    Companions(
        "tensors of torchao",
        (
            *("_weight_qdata", "_weight_scale", "_weight_zero_point"),
            *("_weight_scale_and_zero", "weight_scale_and_zero"),
        ),
    ),
    Companions("blocks with scales, as of MXFP4", tails=("_blocks", "_scales")),
)
"""Names that no plain checkpoint has."""

COMMON: Final = ("scales", "biases", "scale", "zero", "W_q", "codes", "codebooks")
"""Last segments that a quantised weight of AWQ, MLX, HQQ or AQLM has beside it, and a plain checkpoint elsewhere."""

COMMON_TAILS: Final = ("_scale",)
"""What last segments may end with behind the name of a parameter, and in a plain checkpoint elsewhere."""

CACHES: Final = ("k_scale", "v_scale")
"""Scales of what a module keeps, and not of a weight."""

CODES: Final = (".weight", "", ".qweight", ".weight_packed", "_blocks", ".W_q", ".codes", "._weight_qdata")
"""How the tensor of codes is called behind what the names of a group begin with, likeliest first."""

OF_CODES: Final = frozenset(name for kind in COMPANIONS for name in kind.names if name not in CACHES)
"""Last segments that no tensor of a plain module has, whatever lies beside it."""

OF_MODULE: Final = OF_CODES | {*COMMON}
"""Last segments of names that only a quantised weight has, beside the module's own."""

BELOW_WEIGHT: Final = frozenset(name for kind in COMPANIONS for name in kind.below if "." not in name)
"""Those behind the weight's own name."""

TAILS: Final = (*(tail for kind in COMPANIONS for tail in kind.tails), *COMMON_TAILS)
"""What those behind the name of a parameter end with."""

KNOWN: Final = re.compile("|".join(kind.pattern for kind in COMPANIONS))
"""Finds the names that no plain checkpoint has."""

LIKELY: Final = re.compile(r"(?:scale|scales|scale_inv|zero_point|zeros|zp|g_idx|absmax)\Z")
"""Finds what belongs to a quantised weight if it stands beside one, whichever format it is of."""
