"""Load a quantised checkpoint into the library's plain model: weights as numbers, and a configuration that is plain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weighbridge.api.configurations import saying_of
from weighbridge.api.dequantised import compute_codes
from weighbridge.base.errors import RegistryError
from weighbridge.base.specs import DTYPES, Header

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_SAID = "quantization_config"


class Numbers(NamedTuple):
    """What the library is to load.

    Args:
        checkpoint: The checkpoint, with numbers in the place of codes.
        config: Its configuration, which does not speak of quantisation.
        dtype: The dtype to load it in.
        note: What is to be said of it.
    """

    checkpoint: Checkpoint
    config: Any
    dtype: Any
    note: str


def read_as_numbers(checkpoint: Checkpoint, directory: Path, config: Any, dtype: Any) -> Numbers:
    """Take the numbers that a quantised checkpoint's codes stand for, if it has any.

    Args:
        checkpoint: The opened checkpoint.
        directory: Where its configuration is.
        config: The library's configuration, which stays as it is; None to read it.
        dtype: The dtype that was asked for; None for the configuration's, or that of the other weights.

    Raises:
        CheckpointError: As `compute_codes`.
        RegistryError: `integration-unsupported` where part of its weights cannot be computed.
    """
    from transformers import AutoConfig

    own = AutoConfig.from_pretrained(directory) if config is None else config
    said = getattr(own, _SAID, None)
    plain = type(own).from_dict({name: value for name, value in own.to_dict().items() if name != _SAID})
    wanted = dtype if dtype not in (None, "auto") else plain.dtype or _dtype_of(checkpoint.header)
    if said is None:
        return Numbers(checkpoint, plain, wanted, "")
    saying = saying_of(checkpoint, {_SAID: said if isinstance(said, dict) else said.to_dict()})
    made, _, notes = compute_codes(checkpoint, saying)
    left = [note for note in notes if "quantised weight" in note]
    if left:
        what = "part of this checkpoint's weights cannot be computed"
        raise RegistryError("integration-unsupported", what, where=checkpoint.where, got="\n".join(left))
    return Numbers(made, plain, wanted, "; ".join(notes))


def _dtype_of(header: Header) -> Any:
    """Return torch's dtype of the first weight that is a plain float."""
    import torch

    floats = (DTYPES[spec.dtype] for spec in header.values())
    found = next((kind for kind in floats if kind.kind == "float" and kind.bits > 8), None)
    return torch.float32 if found is None else getattr(torch, found.torch_name or "float32")
