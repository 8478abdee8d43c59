"""A folder that lies elsewhere: what is in it, each file with its size and version, and which of them are here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Final, TypeVar

from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_names import (
    INDEX_SUFFIX,
    RECEIPT_NAME,
    SAFETENSORS_SUFFIX,
    check_name,
)
from weighbridge.base.json_text import shorten
from weighbridge.base.workers import run_all
from weighbridge.storage.remote.addresses import HUB, SERVERS, Address, read_address
from weighbridge.storage.remote.client_faults import error_for
from weighbridge.storage.remote.clients import Client, FaultError, connect
from weighbridge.storage.remote.hub import find_repository
from weighbridge.storage.remote.remote_files import FIRST_BYTES, Location, RemoteFile
from weighbridge.storage.remote.traffic import count_bytes
from weighbridge.storage.remote.transfers import asking_again

Found = TypeVar("Found")

_STEMS: Final = ("model", "diffusion_pytorch_model", "adapter_model")
LIKELY: Final = (
    *(stem + SAFETENSORS_SUFFIX + INDEX_SUFFIX for stem in _STEMS),
    *(stem + SAFETENSORS_SUFFIX for stem in _STEMS),
    RECEIPT_NAME,
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "README.md",
    "LICENSE",
)
"""Names that a server is asked for which lists nothing."""

_REMEMBERED: Final = 16
"""How many folders are remembered, so that what lies beside opened weights is found without asking again."""

_PROBING: Final = 16
"""How many names are asked for at once."""


@dataclass(slots=True, eq=False)
class RemoteFolder:
    """What lies in a folder elsewhere.

    Args:
        where: Its address, without secrets, with the commit that a revision meant.
        client: Who moves its bytes.
        files: Each file that is known, by its path in the folder: elsewhere, or on this disk.
        is_listed: Whether these are all that there are; a server is asked for single names.
        absent: The names that a server was asked for and has not.
    """

    where: str
    client: Client
    files: dict[str, Location] = field(default_factory=dict)
    is_listed: bool = True
    absent: set[str] = field(default_factory=set)

    def find(self, name: str) -> Location | None:
        """Return a file, or None where there is none of this name.

        Raises:
            CheckpointError: `path-unsafe`, and the codes of reading.
        """
        check_name(name, self.where)
        if name not in self.files and not self.is_listed:
            self.look_for([name])
        return self.files.get(name)

    def look_for(self, names: Iterable[str], *, may_be_denied: bool = False) -> None:
        """Ask a server which of some files it has; a folder that was listed is known already.

        Args:
            names: The names.
            may_be_denied: Whether a file that may not be read counts as none: some servers hide so what is not there.

        Raises:
            CheckpointError: `path-unsafe`, and the codes of reading.
        """
        if self.is_listed:
            return
        new = [name for name in names if name not in self.files and name not in self.absent]
        run_all((partial(self._ask_for, name, may_be_denied) for name in new), min(_PROBING, max(1, len(new))))

    def _ask_for(self, name: str, may_be_denied: bool) -> None:
        check_name(name, self.where)
        url = f"{self.where}/{name}"
        try:
            found = asking_again(self.client, name, url, partial(_first_answer, self.client, name, url))
        except FaultError as problem:
            if problem.fault.kind == "absent" or (may_be_denied and problem.fault.kind == "denied"):
                self.absent.add(name)
                return
            raise error_for(problem.fault, url) from None
        self.files[name] = found


def _first_answer(client: Client, name: str, url: str) -> RemoteFile:
    """Ask a server for the beginning of a file that may have a header, or for all of a small one."""
    is_weights = name.endswith(SAFETENSORS_SUFFIX)
    try:
        answer = client.get(name, (0, FIRST_BYTES) if is_weights else None)
    except FaultError as problem:
        if not (is_weights and problem.fault.status == 416):
            raise
        answer = client.get(name, None)
    kept: list[bytes] = []
    if is_weights or answer.size_bytes <= FIRST_BYTES:
        content = b"".join(answer.chunks)
        count_bytes(len(content))
        kept = [content] if len(content) == min(answer.size_bytes, FIRST_BYTES) else []
    return RemoteFile(url, answer.size_bytes, answer.version, answer.version, name, client, kept)


_remembered: OrderedDict[str, RemoteFolder] = OrderedDict()
_lock: Final = Lock()


def open_folder(address: Address) -> RemoteFolder:
    """Ask what lies in a folder.

    Raises:
        CheckpointError: `checkpoint-not-found`, `checkpoint-ambiguous`, `remote-denied`, `read-failed`.
        WeighbridgeError: `integration-version` where a client is not installed.
    """
    found = _of_hub(address) if address.scheme == HUB else _of_client(address)
    with _lock:
        _remembered[found.where] = found
        _remembered.move_to_end(found.where)
        while len(_remembered) > _REMEMBERED:
            _remembered.popitem(last=False)
    return found


def folder_at(where: str) -> RemoteFolder:
    """Return the folder of an address that something was opened at, or else ask for it.

    Raises:
        CheckpointError: As `open_folder`.
    """
    address = read_address(where)
    with _lock:
        known = _remembered.get(address.folder)
    return open_folder(address) if known is None else known


def find_beside(where: str, name: str) -> Location | None:
    """Return a file beside weights that were opened at an address; None where there is none.

    Raises:
        CheckpointError: As `open_folder`.
    """
    return folder_at(where).find(name)


def _of_hub(address: Address) -> RemoteFolder:
    found = find_repository(address.folder, address.user)
    prefix = f"{found.path}/" if found.path else ""
    files: dict[str, Location] = {}
    for path, size_bytes in found.sizes.items():
        name = path.removeprefix(prefix)
        if not _is_clean(name, found.where):
            continue
        at = found.cached.get(path)
        url = f"{found.root}/{path}"
        files[name] = at or RemoteFile(url, size_bytes, found.commit, "", path, found.client)
    if not files:
        what = "there is no such folder in the repository" if found.path else "the repository is empty"
        raise CheckpointError("checkpoint-not-found", what, where=found.where)
    return RemoteFolder(found.where, found.client, files)


def _is_clean(name: str, where: str) -> bool:
    """Tell whether a listed name stays in the folder; stores allow names that no file has, and they are no files."""
    try:
        check_name(name, where)
    except CheckpointError:
        return False
    return True


def _of_client(address: Address) -> RemoteFolder:
    client = connect(address)
    if address.scheme in SERVERS or address.file_name:
        return RemoteFolder(address.folder, client, is_listed=False)
    try:
        listed = asking_again(client, "", address.folder, lambda: list(client.list_files()))
    except FaultError as problem:
        raise error_for(problem.fault, address.folder) from None
    files: dict[str, Location] = {
        name: RemoteFile(f"{address.folder}/{name}", size_bytes, version, version, name, client)
        for name, size_bytes, version in listed
        if _is_clean(name, address.folder)
    }
    if not files:
        what, got = "nothing lies under this address", f"no file whose name begins so: {shorten(address.folder)}"
        hint = "look for misspellings; names in a store have large and small letters"
        raise CheckpointError("checkpoint-not-found", what, where=address.folder, got=got, hint=hint)
    return RemoteFolder(address.folder, client, files)


def read_together(reads: Sequence[Callable[[], Found]]) -> list[Found]:
    """Return what each of several reads gives, as many at a time as suits what answers after a while.

    Raises:
        CheckpointError: The first one that fails.
    """
    found: dict[int, Found] = {}

    def run(number: int) -> None:
        found[number] = reads[number]()

    run_all((partial(run, number) for number in range(len(reads))), min(_PROBING, max(1, len(reads))))
    return [found[number] for number in range(len(reads))]
