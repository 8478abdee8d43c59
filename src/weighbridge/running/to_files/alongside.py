"""Lay new files out as those of the source, so that they can share blocks with them, or be the same files.

File systems share whole blocks. So a tensor that moves as it is can stay where it is on the disk if it begins at the
same place within a block in both files. New files therefore follow the source's: one for each, the tensors in the
order of the source's bytes, and a header that ends in as many spaces as it takes. A file whose tensors all keep their
names, shapes and places has the very header of the source's. All that follows from the plan, not from the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from weighbridge.base.errors import DestinationError
from weighbridge.base.file_sets import FileImage, FileSet
from weighbridge.base.specs import DTYPES
from weighbridge.planning.plan import Plan
from weighbridge.storage import ShardPlan, build_image, index_text
from weighbridge.storage.formats.safetensors_write import shard_names
from weighbridge.storage.remote.remote_files import Location

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

LINKS: Final = ("never", "share", "hard")
"""What new files may have in common with the source's."""


def check_link(link: str) -> None:
    """Refuse what is no member of `LINKS`.

    Raises:
        DestinationError: `usage`.
    """
    if link not in LINKS:
        raise DestinationError("usage", "there is no such link", expected=", ".join(LINKS), got=repr(link)[:80])


def lay_out_alongside(plan: Plan, source: FileSet, weights_name: str) -> tuple[list[FileImage], ShardPlan]:
    """Lay out a plan's targets in files that follow those of its source.

    Args:
        plan: The plan.
        source: The source's files.
        weights_name: Name of a single file, from which the names of shards and index are made.

    Returns:
        The files, and how the tensors are spread over them.

    Raises:
        CheckpointError: `header-invalid`, `header-too-large`.
    """
    origins = _origins(plan, source)
    shares: dict[int, list[str]] = {}
    for key in sorted(plan.target.specs, key=lambda key: (*origins[key], key)):
        shares.setdefault(origins[key][0], []).append(key)
    count = len(shares)
    files = {name: tuple(keys) for name, keys in zip(shard_names(weights_name, count), shares.values(), strict=True)}
    images = [
        _image(name, keys, plan, source.images[number])
        for number, (name, keys) in zip(shares, files.items(), strict=True)
    ]
    index = index_text(weights_name, plan.target.specs, files) if count > 1 else None
    return images, ShardPlan(files, index)


def _origins(plan: Plan, source: FileSet) -> dict[str, tuple[int, int]]:
    """Return for each target the number of a file, and the place in it, where its first element comes from."""
    places = {key: (number, at) for number, image in enumerate(source.images) for key, at, _ in image.tensors}
    origins: dict[str, tuple[int, int]] = {}
    for step in plan.steps:
        for key, slot in step.writes.items():
            output = step.program.targets[slot]
            copy = min(output.layout.copies, key=lambda copy: copy.target_start, default=None)
            is_read = copy is not None and copy.source < len(step.sources)
            number, at = places[step.sources[copy.source if copy is not None and is_read else 0]]
            itemsize = DTYPES[step.program.sources[0].dtype].itemsize
            origins[key] = number, at + (copy.source_start * itemsize if copy is not None and is_read else 0)
    return origins | {fated.key: origins[fated.by] for fated in plan.tied_targets}


def _image(name: str, keys: tuple[str, ...], plan: Plan, source: FileImage) -> FileImage:
    specs = {key: plan.target.specs[key] for key in keys}
    if keys == tuple(key for key, _, _ in source.tensors) and all(
        plan.source.specs.get(key) == specs[key] for key in keys
    ):
        return source._replace(name=name)
    start = len(source.head)
    begin = start if start % 8 == 0 else None
    metadata = dict(plan.metadata) or {"format": "pt"}
    return build_image(name, specs, metadata, in_order=True, congruent_to=begin)


def find_twins(plan: Plan, images: Iterable[FileImage], checkpoint: Checkpoint) -> Mapping[str, Path]:
    """Find the new files that will hold exactly what a file of the source holds.

    Args:
        plan: The plan.
        images: The new files.
        checkpoint: What the plan reads.

    Returns:
        The source's files, by the new files' names.
    """
    heads = {(image.head, image.size_bytes) for image in checkpoint.images}
    return {
        image.name: path
        for image in images
        if (image.head, image.size_bytes) in heads and (path := _only_path(plan, image, checkpoint)) is not None
    }


def _only_path(plan: Plan, image: FileImage, checkpoint: Checkpoint) -> Path | None:
    """Return the file that holds all tensors of an image under their names, if none of them changes."""
    paths: set[Location] = set()
    for key, offset, _ in image.tensors:
        number = plan.step_of_target.get(key)
        if number is None or plan.steps[number].sources != (key,) or not plan.steps[number].program.is_identity:
            return None
        extent = checkpoint.extent(key)
        if extent is None or extent.offset != offset:
            return None
        paths.add(extent.path)
    only = paths.pop() if len(paths) == 1 else None
    return only if isinstance(only, Path) else None
