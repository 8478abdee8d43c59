"""Open what an address names: headers first, a few hundred kilobytes of each file, and no tensor data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.base.file_names import INDEX_SUFFIX, RECORD_NAME, SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from weighbridge.base.json_text import join_keys
from weighbridge.storage.formats.inventory import INVENTORY_SUFFIXES, open_inventory
from weighbridge.storage.formats.safetensors_files import SafetensorsCheckpoint, open_elsewhere
from weighbridge.storage.formats.shard_index import MAX_INDEX_BYTES, parse_index
from weighbridge.storage.places.directory import choose_weights
from weighbridge.storage.places.extras_elsewhere import find_extras_elsewhere
from weighbridge.storage.places.file_fingerprints import AnySource
from weighbridge.storage.places.regular_files import SourceFile, read_small_file
from weighbridge.storage.protocol import Checkpoint
from weighbridge.storage.remote.addresses import HUB, Address, read_address
from weighbridge.storage.remote.folders import LIKELY, RemoteFolder, open_folder
from weighbridge.storage.remote.remote_files import Location, RemoteFile, RemoteSource
from weighbridge.storage.sharded.dcp_names import METADATA_NAME

_FETCH: Final = "fetch it first (hf download, aws s3 cp), and open it here"


def open_address(text: str, token: str = "") -> Checkpoint:
    """Open a checkpoint by its address.

    Args:
        text: The address of a folder, of a safetensors file, of an index, or of an inventory.
        token: For the hub, in the place of the one that its own library finds.

    Raises:
        CheckpointError: `checkpoint-not-found`, `checkpoint-ambiguous`, `remote-denied`, `remote-no-ranges`,
            `read-failed`, and the code of what is wrong with its files.
        WeighbridgeError: `usage` for an address with a question mark, `integration-version` where a client is missing.
    """
    address = read_address(text)
    name = address.file_name
    _refuse_others(name, address.text)
    folder = _finished_folder(address, token)
    if not name:
        return _open_folder(folder)
    file = folder.find(name)
    if file is None:
        raise CheckpointError("checkpoint-not-found", "there is no such file", where=address.text, got=_near(folder))
    where = f"{folder.where}/{name}"
    if name.endswith(INDEX_SUFFIX):
        return _open_index(folder, name, where)
    if name.endswith(INVENTORY_SUFFIXES):
        return open_inventory(file)
    return open_elsewhere(folder, [name], None, where=where)


def open_named_elsewhere(text: str, names: Sequence[str], token: str = "") -> Checkpoint:
    """Open the first of some files of weights, or indexes, as if it were all that a folder holds, with what is beside.

    Args:
        text: The folder's address.
        names: The names, the likeliest first.
        token: As for `open_address`.

    Raises:
        CheckpointError: As `open_address`; `checkpoint-not-found` where there is none of them.
    """
    folder = _finished_folder(read_address(text), token)
    folder.look_for(names, may_be_denied=True)
    name = next((name for name in names if name in folder.files), None)
    if name is None:
        what, expected = "there are no weights of this name", " or ".join(names)
        raise CheckpointError("checkpoint-not-found", what, where=folder.where, expected=expected, got=_near(folder))
    if name.endswith(INDEX_SUFFIX):
        return _open_index(folder, name, f"{folder.where}/{name}")
    folder.look_for(LIKELY, may_be_denied=True)
    extras, notes = find_extras_elsewhere(folder, (name,))
    return open_elsewhere(folder, [name], None, where=folder.where, extras=extras, notes=notes)


def _finished_folder(address: Address, token: str) -> RemoteFolder:
    """Ask what lies in a folder; one that is still being written is none."""
    folder = open_folder(address._replace(user=token) if token and address.scheme == HUB else address)
    if folder.is_listed and RECORD_NAME in folder.files:
        what, hint = "what is written here is not finished", "go on with the conversion (--resume), or wait for its end"
        raise CheckpointError("checkpoint-not-found", what, where=folder.where, got=RECORD_NAME, hint=hint)
    return folder


def _near(folder: RemoteFolder) -> str:
    names = [name for name in sorted(folder.files) if "/" not in name]
    return join_keys(names) if folder.is_listed and names else ""


def _refuse_others(name: str, where: str) -> None:
    """Refuse a file of a format that is read here alone."""
    if name and not name.endswith((SAFETENSORS_SUFFIX, *INVENTORY_SUFFIXES)):
        what, expected = "files of this format are not read from elsewhere", f"{SAFETENSORS_SUFFIX}, {INDEX_SUFFIX}"
        raise CheckpointError("checkpoint-not-found", what, where=where, expected=expected, hint=_FETCH)


def _open_folder(folder: RemoteFolder) -> SafetensorsCheckpoint:
    folder.look_for(LIKELY, may_be_denied=True)
    names = [name for name in sorted(folder.files) if "/" not in name and not name.startswith(".")]
    if not names and not folder.is_listed:
        folder.look_for(LIKELY[:1])
        what, hint = "no checkpoint is at this address", "name the index or the safetensors file itself"
        expected = "one of " + ", ".join(LIKELY[:2])
        raise CheckpointError("checkpoint-not-found", what, where=folder.where, expected=expected, hint=hint)
    if METADATA_NAME in folder.files:
        what, expected = "a distributed checkpoint is not read from elsewhere", f"{SAFETENSORS_SUFFIX} of whole tensors"
        where, got = folder.where, METADATA_NAME
        raise CheckpointError("checkpoint-not-found", what, where=where, expected=expected, got=got, hint=_FETCH)
    found = choose_weights(names, folder.where)
    if found.index_name is not None and not found.is_torch:
        return _open_index(folder, found.index_name, folder.where)
    if found.is_torch or found.is_of_ranks:
        got = join_keys(found.names) if found.names else str(found.index_name)
        what, expected = "weights of this format are not read from elsewhere", f"{SAFETENSORS_SUFFIX} of whole tensors"
        raise CheckpointError("checkpoint-not-found", what, where=folder.where, expected=expected, got=got, hint=_FETCH)
    extras, notes = find_extras_elsewhere(folder, found.names)
    return open_elsewhere(folder, found.names, None, where=folder.where, extras=extras, notes=notes)


def _open_index(folder: RemoteFolder, name: str, where: str) -> SafetensorsCheckpoint:
    at = folder.find(name)
    assert at is not None
    index = _read_index(name, at)
    weight_map = parse_index(index.head, f"{folder.where}/{name}")
    names = sorted(set(weight_map.values()))
    if any(each.endswith(TORCH_SUFFIXES) or not each.endswith(SAFETENSORS_SUFFIX) for each in names):
        what, expected = "the index names files of another format", SAFETENSORS_SUFFIX
        where, got = f"{folder.where}/{name}", join_keys(names)
        raise CheckpointError("index-invalid", what, where=where, expected=expected, got=got, hint=_FETCH)
    if not folder.is_listed:
        folder.look_for(LIKELY, may_be_denied=True)
    extras, notes = find_extras_elsewhere(folder, (name, *names))
    return open_elsewhere(folder, names, weight_map, where=where, index=index, extras=extras, notes=notes)


def _read_index(name: str, at: Location) -> AnySource:
    if isinstance(at, RemoteFile):
        return RemoteSource(name, at, at.read_all(MAX_INDEX_BYTES))
    text, stamp = read_small_file(at, MAX_INDEX_BYTES, is_resolved=True)
    return SourceFile(name, at, stamp, text)


def refuse_entry(entry: str | None, where: str) -> None:
    """Refuse an entry of a dict: what lies elsewhere has none.

    Raises:
        WeighbridgeError: `usage`.
    """
    if entry is not None:
        what = "only a torch file, or a directory of a distributed checkpoint, has entries"
        raise WeighbridgeError("usage", what, where=where, hint="leave out the entry")
