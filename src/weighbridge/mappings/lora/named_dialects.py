"""Adapters whose tensors say all by their names: those of kohya and of diffusers.

    kohya      lora_unet_<module>.lora_down.weight   [r, in]    .lora_up.weight [out, r]    .alpha []
    diffusers  transformer.<module>.lora_A.weight    [r, in]    .lora_B.weight  [out, r]    .alpha []

A name begins with the part of a pipeline that it belongs to. Kohya writes the dots of a module as underscores, so that
only a model's own names tell which module is meant. The change of a weight is `alpha / r * B @ A`, and `B @ A` without
an alpha.

Sources: `networks/lora.py` and `networks/lora_flux.py` of sd-scripts; `utils/state_dict_utils.py` and
`loaders/lora_base.py` of diffusers 0.42, which reads the older ends of names, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.mappings.lora.adapter_names import NO_FACTOR, PREFIX, STRANGE, read_name
from weighbridge.mappings.lora.peft_configs import WEIGHTS_STEM

METADATA: Final = "lora_adapter_metadata"
"""The pair of a header's metadata in which diffusers has the configurations of PEFT, each under its part's name."""


class End(NamedTuple):
    """The end of a tensor's name.

    Args:
        text: The end.
        role: ``A``, ``B``, ``alpha``, ``bias`` of B, or ``magnitude``.
        module: What it says of the module besides.
        part: What the name begins with, where the end is read in that part alone.
    """

    text: str
    role: str
    module: str = ""
    part: str = ""


class Named(NamedTuple):
    """What a name says: the part, the module as it stands there, and what the tensor is of it."""

    part: str
    module: str
    role: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the tensors of an adapter are called.

    Args:
        name: Whose names these are.
        parts: What names begin with, and for each what the names of that part's modules may begin with in a model.
        ends: What names end in; the first one for a role is written.
        stem: The name of a new weight file without its ending, as its readers look for it.
        is_flat: Whether the dots of a module are underscores.
    """

    name: str
    parts: Mapping[str, tuple[str, ...]]
    ends: tuple[End, ...]
    stem: str
    is_flat: bool = False

    def read(self, key: str) -> Named:
        """Tell what a tensor is, by its name.

        Raises:
            PlanError: `adapter-invalid` for another beginning than those; `adapter-inexact` for another end.

        Examples:
            >>> DIFFUSERS.read("unet.mid_block.attn1.processor.to_out_lora.down.weight")
            Named(part='unet.', module='mid_block.attn1.to_out.0', role='A')
            >>> KOHYA.read("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha")
            Named(part='lora_te1_', module='text_model_encoder_layers_0_mlp_fc1', role='alpha')
        """
        part = next((part for part in self.parts if key.startswith(part)), None)
        if part is None:
            hint = "keep in the file only the adapter's own tensors"
            expected = f"a name that begins with {', '.join(self.parts)}"
            raise PlanError("adapter-invalid", STRANGE, where=key, expected=expected, hint=hint)
        end = next((end for end in self.ends if key.endswith(end.text) and part.startswith(end.part)), None)
        if end is None:
            raise PlanError("adapter-inexact", NO_FACTOR, where=key)
        module = key.removeprefix(part).removesuffix(end.text) + end.module
        return Named(part, module.replace(".processor.", "."), end.role)

    def spell(self, module: str) -> str:
        """Return a module as it stands in names.

        Examples:
            >>> KOHYA.spell("double_blocks.0.img_attn.qkv"), DIFFUSERS.spell("mid_block.attn1.to_q")
            ('double_blocks_0_img_attn_qkv', 'mid_block.attn1.to_q')
        """
        return module.replace(".", "_") if self.is_flat else module

    def has(self, role: str) -> bool:
        """Tell whether there is a name for a role."""
        return any(end.role == role for end in self.ends)

    def write(self, part: str, module: str, role: str) -> str:
        """Return the name of a tensor.

        Examples:
            >>> KOHYA.write("lora_unet_", "mid_block.attn1.to_q", "B")
            'lora_unet_mid_block_attn1_to_q.lora_up.weight'
        """
        return part + self.spell(module) + next(end.text for end in self.ends if end.role == role)

    def is_of(self, keys: Iterable[str]) -> bool:
        """Tell whether these are the names of an adapter in this dialect, and not of a model that has one in it."""
        known, parts = list(keys), tuple(self.parts)
        if self.is_flat:
            return any(key.startswith(parts) for key in known)
        downs = tuple(end.text for end in self.ends if end.role == "A")
        has_factors = any(key.startswith(parts) and key.endswith(downs) for key in known)
        return has_factors and all("lora" in key or key.endswith(".alpha") for key in known)


_UNET: Final = "model.diffusion_model."
_CLIP: Final = "cond_stage_model.transformer."
_CLIP_XL: Final = "conditioner.embedders.0.transformer."

KOHYA: Final = Dialect(
    "kohya",
    {
        "lora_unet_": ("unet.", "transformer.", _UNET, ""),
        "lora_transformer_": ("transformer.", _UNET, ""),
        "lora_te_": ("text_encoder.", _CLIP, ""),
        "lora_te1_": ("text_encoder.", _CLIP_XL, ""),
        "lora_te2_": ("text_encoder_2.", ""),
        "lora_te3_": ("text_encoder_3.", "text_encoder_2.", ""),
    },
    (End(".lora_down.weight", "A"), End(".lora_up.weight", "B"), End(".alpha", "alpha")),
    stem="model",
    is_flat=True,
)

_OLD_NAMES: Final[dict[str, dict[str, str]]] = {
    "text_encoder": {"to_q": ".q_proj", "to_k": ".k_proj", "to_v": ".v_proj", "to_out": ".out_proj"},
    "": {"to_q": ".to_q", "to_k": ".to_k", "to_v": ".to_v", "to_out": ".to_out.0"},
}
"""Projections that diffusers once named otherwise, for each beginning of a part; the text encoders come first."""


def _old_ends() -> Iterator[End]:
    for role, word in (("A", "down"), ("B", "up")):
        yield End(f".lora.{word}.weight", role)
        yield End(f".lora_linear_layer.{word}.weight", role)
        for part, names in _OLD_NAMES.items():
            yield from (End(f".{name}_lora.{word}.weight", role, module, part) for name, module in names.items())


DIFFUSERS: Final = Dialect(
    "diffusers",
    {
        "transformer.": ("transformer.", _UNET, ""),
        "transformer_2.": ("transformer_2.", ""),
        "unet.": ("unet.", _UNET, ""),
        "text_encoder.": ("text_encoder.", _CLIP, _CLIP_XL, ""),
        "text_encoder_2.": ("text_encoder_2.", ""),
        "text_encoder_3.": ("text_encoder_3.", ""),
    },
    (
        End(".lora_A.weight", "A"),
        End(".lora_B.weight", "B"),
        End(".alpha", "alpha"),
        End(".lora_B.bias", "bias"),
        End(".lora_magnitude_vector", "magnitude"),
        *_old_ends(),
    ),
    stem="pytorch_lora_weights",
)

DIALECTS: Final = (KOHYA, DIFFUSERS)
"""The dialects that need no file beside the tensors."""

PEFT: Final = Dialect(
    "PEFT",
    {PREFIX: ("",)},
    (
        End(".lora_A.weight", "A"),
        End(".lora_B.weight", "B"),
        End(".lora_B.bias", "bias"),
        End(".lora_magnitude_vector", "magnitude"),
    ),
    stem=WEIGHTS_STEM,
)
"""The part of PEFT's names that others have as well; `adapter_names` has all of them."""


def find_dialect(keys: Iterable[str]) -> Dialect | None:
    """Return the dialect in which an adapter names its tensors; None for tensors that are none of these.

    Examples:
        >>> find_dialect(["unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"]).name
        'diffusers'
        >>> find_dialect(["unet.conv_in.lora_A.weight", "unet.conv_in.weight"])
    """
    known = list(keys)
    return next((dialect for dialect in DIALECTS if dialect.is_of(known)), None)


def dialect_of(part: str) -> Dialect | None:
    """Return the dialect whose names begin so."""
    return next((dialect for dialect in (*DIALECTS, PEFT) if part in dialect.parts), None)


def names_peft(*headers: Iterable[str]) -> bool:
    """Tell whether any of these are names of PEFT, which mean nothing without its configuration."""
    return any(key.startswith(PREFIX) for keys in headers for key in keys)


def weights_stem(keys: Iterable[str]) -> str:
    """Return the name of an adapter's weight file without its ending, as the readers of its names look for it."""
    return (find_dialect(keys) or PEFT).stem


def weight_name(key: str) -> str | None:
    """Return the name of the weight that a tensor of an adapter belongs to, as rules of the model see it.

    None where the name alone does not tell it, as where a model may have the name of a part before its modules or not.

    Examples:
        >>> weight_name("base_model.model.layers.0.q_proj.lora_A.weight")
        'layers.0.q_proj.weight'
        >>> weight_name("unet.conv_in.lora_A.weight")
    """
    if any(key.startswith(tuple(dialect.parts)) for dialect in DIALECTS):
        return None
    try:
        named = read_name(key)
    except PlanError:
        return key
    return named.module if named.role == "whole" else f"{named.module}.weight"
