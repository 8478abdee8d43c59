"""Open a checkpoint, the step that comes before all others; who only looks at headers loads nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weighbridge.api.joined_files import open_source

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

Place = Any
"""A path, an opened checkpoint, a dict of tensors, a model or a `Header`."""


def open(place: Place, *, direct: bool = False, entry: str | None = None, config: Any = None) -> Checkpoint:
    """Open a checkpoint by its headers; no tensor data is read.

    Args:
        place: A directory (that of a distributed checkpoint, too, see `docs/dcp.md`), a safetensors or torch file, an
            index, a JSON inventory, a dict of tensors, a model (what it holds, see `docs/composite.md`), or a `Header`.
            Several files as one: a path with patterns in it, such as
            ``"consolidated.{r}.pth"``, whose keys begin with the names of their files, ``"consolidated.0."``; or a dict
            of such paths with what the keys are to begin with, ``{"rank_{r}.pt": "{r}.", "ema.pt": "ema."}``; see
            `docs/formats.md`.
        direct: Read tensors past the page cache, so that a large checkpoint neither fills it nor drives out what is in
            it; for safetensors files alone. Nothing is mapped then. Where the file system refuses, the log says so.
        entry: Which dict of a torch file is meant, such as ``"model"``, or ``"model.encoder"`` for one inside of that;
            an empty one for the outermost; of a distributed checkpoint, too, where ``"**"`` means all dicts. A path may
            end in it instead, ``"ckpt.pt::model"``, in every function and command. Without it, the one dict that can
            hold the weights is chosen, which the `notes` say.
        config: Configuration that says how many files there are, as in ``"rank_{r:0..world_size-1}.pt"``, or its place,
            as for `plan`; None for the `config.json` beside them.

    Returns:
        The opened checkpoint; its `header` holds the spec of every tensor.

    Raises:
        CheckpointError: `checkpoint-not-found`, `checkpoint-ambiguous`, and a code for each kind of damage.

    Examples:
        >>> from weighbridge import Header, TensorSpec
        >>> open(Header({"weight": TensorSpec("F32", (2, 3))})).header["weight"].size_bytes
        24
    """
    return open_source(place, direct=direct, entry=entry, config=config)
