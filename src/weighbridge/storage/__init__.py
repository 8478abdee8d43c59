"""Read and write checkpoints, here or elsewhere: safetensors, torch files, distributed ones, in memory, headers alone.

Comes in: a place that a user names, or pieces of new files. Goes out: a `Checkpoint`, or a finished directory.
May use: base. Within, each uses what stands before it: `remote`, `places`, `protocol` and `lookup`, `formats`,
`outputs`, `sharded`, `opening_elsewhere`, `opening`, `joined`. Nothing here imports torch before a tensor or a torch
file is asked for, nor a client before an address is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weighbridge.base.process.lazy_names import load_lazily as _load_lazily

if TYPE_CHECKING:
    from weighbridge.base.file_sets import FileImage
    from weighbridge.storage.formats.inventory import write_inventory
    from weighbridge.storage.formats.safetensors_write import (
        ShardPlan,
        build_image,
        index_text,
        parse_size,
        plan_shards,
    )
    from weighbridge.storage.opening import Place, open_checkpoint
    from weighbridge.storage.outputs.destination import OutputDirectory, copy_extras, staged_directory
    from weighbridge.storage.outputs.file_writer import FileWriter
    from weighbridge.storage.outputs.mending import MendingWriter
    from weighbridge.storage.outputs.sinks import FileOptions, Sink
    from weighbridge.storage.outputs.unfinished import Work
    from weighbridge.storage.outputs.vacancy import check_destination
    from weighbridge.storage.places.directory import Extra
    from weighbridge.storage.places.file_fingerprints import FileFingerprint
    from weighbridge.storage.protocol import Checkpoint, Extent, IndexText

__all__ = [
    "Checkpoint",
    "Extent",
    "Extra",
    "FileFingerprint",
    "FileImage",
    "FileOptions",
    "FileWriter",
    "IndexText",
    "MendingWriter",
    "OutputDirectory",
    "Place",
    "ShardPlan",
    "Sink",
    "Work",
    "build_image",
    "check_destination",
    "copy_extras",
    "index_text",
    "open_checkpoint",
    "parse_size",
    "plan_shards",
    "staged_directory",
    "write_inventory",
]

_PLACES = {
    "formats.inventory": "write_inventory",
    "formats.safetensors_write": "ShardPlan build_image index_text parse_size plan_shards",
    "opening": "Place open_checkpoint",
    "outputs.destination": "OutputDirectory copy_extras staged_directory",
    "outputs.file_writer": "FileWriter",
    "outputs.mending": "MendingWriter",
    "outputs.sinks": "FileOptions Sink",
    "outputs.unfinished": "Work",
    "outputs.vacancy": "check_destination",
    "places.directory": "Extra",
    "places.file_fingerprints": "FileFingerprint",
    "protocol": "Checkpoint Extent FileImage IndexText",
}
"""The modules that the names stand in."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = _load_lazily(__name__, _PLACES)
