"""The hub: huggingface_hub says what a name means, which commit it is at, what lies in it, and who may read it.

A revision that moves, such as a branch, is pinned to its commit by the first request, and everything after that names
the commit. What the hub's cache has at that commit is taken from there; nothing is put into it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.storage.remote.client_faults import Fault, certificate_fault, error_for
from weighbridge.storage.remote.clients import Client, FaultError, connect_server
from weighbridge.storage.remote.traffic import count_request
from weighbridge.storage.remote.transfers import asking_again

_GRAMMAR = "hf://org/name[@revision][/folder]"


class Repository(NamedTuple):
    """A repository of the hub at one commit.

    Args:
        where: Its address with the commit, and with the path in it that was named.
        root: Its address with the commit.
        commit: The commit.
        path: The path in it that was named; empty for all of it.
        sizes: Size of each file by its path in the repository.
        cached: The files that the hub's cache has at this commit.
        client: Who moves the bytes of the others.
    """

    where: str
    root: str
    commit: str
    path: str
    sizes: Mapping[str, int]
    cached: Mapping[str, Path]
    client: Client


def find_repository(text: str, token: str = "") -> Repository:
    """Ask the hub for a repository: its commit, and the names and sizes of its files.

    Args:
        text: The address, `hf://…`.
        token: A token; empty for the one that the hub's library finds.

    Raises:
        CheckpointError: `checkpoint-not-found`, `remote-denied`, `read-failed`.
        WeighbridgeError: `integration-version` where huggingface_hub is not installed.
    """
    hub = _library()
    try:
        uri = hub.utils.parse_hf_uri(text)
    except ValueError:
        what = "this is no address of the hub"
        raise CheckpointError("checkpoint-not-found", what, where=text, expected=_GRAMMAR) from None
    if uri.type not in ("model", "dataset", "space"):
        what, expected = "only repositories of the hub are read", _GRAMMAR
        raise CheckpointError("checkpoint-not-found", what, where=text, expected=expected, got=f"a {uri.type}")
    endpoint = os.environ.get("HF_ENDPOINT") or hub.constants.ENDPOINT
    plain = hub.hf_hub_url(uri.id, "x", repo_type=uri.type, revision="main", endpoint=endpoint)
    asking = Client(text, None, plain.rpartition("/")[0])
    asked = hub.HfApi(endpoint=endpoint, token=token or None)
    info = _asked(
        text,
        asking,
        lambda: asked.repo_info(uri.id, repo_type=uri.type, revision=uri.revision, files_metadata=True),
    )
    commit = str(info.sha)
    sizes = {each.rfilename: int(each.size) for each in info.siblings or () if each.size is not None}
    kind = "" if uri.type == "model" else f"{uri.type}s/"
    root = f"hf://{kind}{uri.id}@{commit}"
    base = hub.hf_hub_url(uri.id, "x", repo_type=uri.type, revision=commit, endpoint=endpoint).rpartition("/")[0]
    path = uri.path_in_repo.strip("/")
    within = {name: size for name, size in sizes.items() if not path or name == path or name.startswith(f"{path}/")}
    cached = _cached(hub, uri, commit, within)
    where = f"{root}/{path}" if path else root
    return Repository(where, root, commit, path, within, cached, connect_server(root, base, _token_header(hub, token)))


def _token_header(hub: Any, token: str) -> dict[str, str]:
    headers = hub.utils.build_hf_headers(token=token or None)
    return {name: value for name, value in headers.items() if name.lower() == "authorization"}


def _cached(hub: Any, uri: Any, commit: str, sizes: Mapping[str, int]) -> dict[str, Path]:
    """Return the files that the hub's cache has at a commit, and that are as large as the hub says."""
    found: dict[str, Path] = {}
    for name, size_bytes in sizes.items():
        at = hub.try_to_load_from_cache(uri.id, name, revision=commit, repo_type=uri.type)
        path = Path(os.path.realpath(at)) if isinstance(at, str) else None
        if path is not None and path.is_file() and path.stat().st_size == size_bytes:
            found[name] = path
    return found


def _asked(where: str, client: Client, request: Callable[[], Any]) -> Any:
    """Return what the hub answers, asked again while it is busy, and its refusals in our own words."""

    def once() -> Any:
        count_request()
        try:
            return request()
        except Exception as problem:
            raise _fault(problem, where) from None

    try:
        return asking_again(client, "config.json", where, once)
    except FaultError as problem:
        raise error_for(problem.fault, where) from None


def _fault(problem: Exception, where: str) -> Exception:
    """Return what an error of huggingface_hub means; its own text is never shown."""
    from huggingface_hub import errors

    status = getattr(getattr(problem, "response", None), "status_code", 0) or 0
    if isinstance(problem, errors.GatedRepoError):
        return FaultError(Fault("denied", "a gated repository", status))
    if isinstance(problem, errors.RevisionNotFoundError):
        what, hint = "the repository has no such revision", f"name a branch, a tag or a commit: {_GRAMMAR}"
        return CheckpointError("checkpoint-not-found", what, where=where, hint=hint)
    if isinstance(problem, errors.RepositoryNotFoundError):
        what = "the hub has no such repository, or does not show it to you"
        hint = "look for misspellings; for a private one log in (hf auth login), or set HF_TOKEN"
        return CheckpointError("checkpoint-not-found", what, where=where, hint=hint)
    if isinstance(problem, errors.OfflineModeIsEnabled):
        what, hint = (
            "the hub is not asked, for HF_HUB_OFFLINE is set",
            "unset it, or open the cached files by their path",
        )
        return CheckpointError("read-failed", what, where=where, hint=hint)
    if status in (401, 403):
        return FaultError(Fault("denied", f"status {status}", status))
    unproven = None if status else certificate_fault(str(problem))
    if unproven is not None:
        return FaultError(unproven)
    if status in (408, 429) or status >= 500 or not status:
        return FaultError(Fault("busy", f"status {status}" if status else "there is no connection", status))
    return FaultError(Fault("final", f"status {status}", status))


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        what, hint = "huggingface_hub is not installed, and it knows the hub", "pip install 'weighbridge[remote]'"
        raise WeighbridgeError("integration-version", what, hint=hint) from None
    import huggingface_hub.constants
    import huggingface_hub.utils

    return huggingface_hub
