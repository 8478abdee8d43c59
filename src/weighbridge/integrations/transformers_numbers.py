"""Read a quantised checkpoint for the library: codes as they are where its model has them, else the numbers."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weighbridge.api.configurations import config_beside, saying_of
from weighbridge.api.dequantised import compute_codes
from weighbridge.base.errors import RegistryError
from weighbridge.base.specs import DTYPES, Header
from weighbridge.mappings.library_parts import library_module, library_name
from weighbridge.mappings.schemes.said import QUANTISATION

if TYPE_CHECKING:
    from weighbridge.planning.grouped.weights import Saying
    from weighbridge.storage.protocol import Checkpoint


class LibraryInput(NamedTuple):
    """What the library is to load.

    Args:
        checkpoint: The checkpoint, perhaps with numbers in the place of codes.
        config: Its configuration; None for what the library reads. It does not speak of quantisation beside numbers.
        dtype: The dtype to load it in.
        note: What is to be said of it.
        saying: What is said of the weights that are quantised still.
    """

    checkpoint: Checkpoint
    config: Any
    dtype: Any
    note: str = ""
    saying: Saying | None = None


def read_for_library(
    checkpoint: Checkpoint, directory: Path | None, config: Any, dtype: Any, *, dequantize: bool, device_map: Any = None
) -> LibraryInput:
    """Decide how a checkpoint's quantised weights are read, if it has any.

    Args:
        checkpoint: The opened checkpoint.
        directory: Where its configuration is, if none is given.
        config: The library's configuration, which stays as it is; None to read it.
        dtype: The dtype that was asked for; None for the configuration's, or that of the other weights.
        dequantize: Whether numbers are asked for; they are also read where the library would compute them itself.
        device_map: Where the library is to put the weights; None for the CPU.

    Raises:
        CheckpointError: As `compute_codes`.
        RegistryError: `integration-unsupported` where part of its weights cannot be computed; `integration-version`.
    """
    own = config_beside(checkpoint) if config is None else _values_of(config)
    said = own.get(QUANTISATION) if isinstance(own, dict) else None
    said = said if isinstance(said, dict) or hasattr(said, "to_dict") else None  # of anything else the library speaks
    if dequantize or (said is not None and _is_computed_by_library(said, device_map)):
        return _read_as_numbers(checkpoint, directory, config, dtype)
    saying = saying_of(checkpoint, {QUANTISATION: _form(said)} if said else None)
    return LibraryInput(checkpoint, config, dtype, saying=saying)


def _values_of(config: Any) -> dict[str, Any]:
    """Return what a configuration says, which may be given by its path or its name on the hub."""
    from transformers import PreTrainedConfig

    is_named = isinstance(config, str | Path)
    values: dict[str, Any] = PreTrainedConfig.get_config_dict(config)[0] if is_named else vars(config)
    return values


def _form(said: Any) -> Any:
    return said if isinstance(said, dict) else said.to_dict()


def _is_computed_by_library(said: Any, device_map: Any) -> bool:
    """Tell whether the library computes numbers of such codes, as nothing here computes with the codes.

    Args:
        said: What the configuration says of them.
        device_map: Where the library is to put the weights.
    """
    kinds = library_name(library_module("quantizers"), "AutoHfQuantizer")
    form = deepcopy(said)
    if not kinds.supports_quant_method(form):
        return False
    try:
        quantizer = kinds.from_config(form, pre_quantized=True)
        quantizer.validate_environment(device_map=device_map)
    except (ImportError, RuntimeError, ValueError):
        return False  # the library says itself what it lacks
    return bool(getattr(quantizer.quantization_config, "dequantize", False))


def _read_as_numbers(checkpoint: Checkpoint, directory: Path | None, config: Any, dtype: Any) -> LibraryInput:
    """Take the numbers that a quantised checkpoint's codes stand for, if it has any."""
    from transformers import AutoConfig

    place = directory if config is None else config
    own: Any = AutoConfig.from_pretrained(place) if isinstance(place, str | Path) else place
    said = getattr(own, QUANTISATION, None)
    plain = type(own).from_dict({name: value for name, value in own.to_dict().items() if name != QUANTISATION})
    wanted = dtype if dtype not in (None, "auto") else plain.dtype or _dtype_of(checkpoint.header)
    if said is None:
        return LibraryInput(checkpoint, plain, wanted)
    made, _, notes = compute_codes(checkpoint, saying_of(checkpoint, {QUANTISATION: _form(said)}))
    left = [note for note in notes if "quantised weight" in note]
    if left:
        what = "part of this checkpoint's weights cannot be computed"
        raise RegistryError("integration-unsupported", what, where=checkpoint.where, got="\n".join(left))
    return LibraryInput(made, plain, wanted, "; ".join(notes))


def _dtype_of(header: Header) -> Any:
    """Return torch's dtype of the first weight that is a plain float."""
    import torch

    floats = (DTYPES[spec.dtype] for spec in header.values())
    found = next((kind for kind in floats if kind.kind == "float" and kind.bits > 8), None)
    return torch.float32 if found is None else getattr(torch, found.torch_name or "float32")
