"""Say what went wrong elsewhere in our own words: what a client says may hold a signature, a password or a token."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from weighbridge.base.errors import CheckpointError, DestinationError

_STATUS: Final = re.compile(r"non-2xx status code: (\d{3})|status: (\d{3})|Client error with status (\d{3})")
_EXPIRED: Final = re.compile(r"ExpiredToken|RequestExpired|TokenRefreshRequired|token (?:has |is )?expired", re.I)
_CERTIFICATE: Final = re.compile(r"certificate|UnknownIssuer|invalid peer", re.I)
_NO_CREDENTIALS: Final = re.compile(
    r"InstanceMetadata|instance metadata|169\.254\.169\.254|metadata\.google|Account must be specified|"
    r"Invalid Access Key|Unable to (?:open|decode) service account file",
    re.I,
)

_ACCESS: Final = {
    "hf": "log in (hf auth login), or set HF_TOKEN to a token that may read this repository; a gated one is asked for\n"
    "on its page",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL), or\n"
    "AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "set GOOGLE_SERVICE_ACCOUNT to the file of an account that may read the bucket",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or another credential of the account",
    "https": "put user and password before the host, or fetch the file with a program that can log in there",
}


class Fault(NamedTuple):
    """What went wrong with a request.

    Args:
        kind: ``"absent"``, ``"denied"``, ``"expired"``, ``"no-ranges"``, ``"changed"``, ``"exists"``,
            ``"unsafe"`` for a name, ``"busy"`` for what may be right the next time, ``"final"`` for what will not.
        said: What happened, without secrets.
        status: The server's status; 0 where there was none.
    """

    kind: str
    said: str
    status: int = 0

    @property
    def may_pass(self) -> bool:
        """Whether the same request may be answered the next time."""
        return self.kind == "busy"


def fault_of(problem: BaseException) -> Fault:
    """Tell what an error of the client means.

    Args:
        problem: What obstore raised; its text is looked at, and never shown.
    """
    text = str(problem)
    match = _STATUS.search(text)
    status = int(next(filter(None, match.groups()))) if match is not None else 0
    name = type(problem).__name__
    if _EXPIRED.search(text):
        return Fault("expired", "the credentials have expired", status)
    if name == "PermissionDeniedError" or name == "UnauthenticatedError" or status in (401, 403, 407):
        return Fault("denied", f"status {status or 403}", status or 403)
    if isinstance(problem, FileNotFoundError) or status == 404 or "InvalidBlockList" in text:
        return Fault("absent", "there is nothing of this name", 404)
    if name == "NotSupportedError" or "non-partial response" in text:
        return Fault("no-ranges", "the server sends whole files alone", 200)
    if name == "PreconditionError" or status == 412:
        return Fault("changed", "it was replaced", 412)
    if isinstance(problem, FileExistsError) or name == "AlreadyExistsError" or status == 409:
        return Fault("exists", "something is there already", status)
    if name == "InvalidPathError" or "Error parsing Path" in text or "Encountered object with invalid path" in text:
        return Fault("unsafe", "a name that no file can have")
    return certificate_fault(text) or _of_status(status, text)


def certificate_fault(text: str) -> Fault | None:
    """Return the fault of a server whose certificate does not verify, if a client's words say so.

    Args:
        text: The words; they are not shown.
    """
    return Fault("final", "the server's certificate does not verify") if _CERTIFICATE.search(text) else None


def _of_status(status: int, text: str) -> Fault:
    if status in (408, 425, 429) or status >= 500:
        return Fault("busy", f"status {status}", status)
    if status:
        return Fault("final", f"status {status}", status)
    if "configured region" in text:
        return Fault("final", "the bucket lies in another region than AWS_REGION says", 301)
    if _NO_CREDENTIALS.search(text):
        return Fault("denied", "no credentials were found")
    for sign, said in _SIGNS:
        if sign in text:
            return Fault("busy", said)
    return Fault("final", "the client refused the request")


_SIGNS: Final = (
    ("Requested ", "it sent another range than was asked for"),
    ("timed out", "there was no answer in time"),
    ("Timeout", "there was no answer in time"),
    ("dns error", "the host has no address"),
    ("request or response body error", "the connection was cut"),
    ("IncompleteBody", "the connection was cut"),
    ("error sending request", "there is no connection"),
    ("error decoding response body", "the connection was cut"),
    ("HTTP error", "the connection failed"),
    ("Wrapped stream", "the connection failed"),
)
"""What the client's words for failures of the network mean."""


def error_for(fault: Fault, where: str, *, is_open: bool = False) -> CheckpointError:
    """Make the error for a fault that is final.

    Args:
        fault: What went wrong.
        where: The address, without secrets.
        is_open: Whether this was found before, so that it has changed where it is there no more.
    """
    if fault.kind in ("denied", "expired"):
        scheme = where.partition("://")[0].replace("http:", "https:")
        renewed = "the credentials have expired: renew them; " if fault.kind == "expired" else ""
        hint = renewed + _ACCESS.get(scheme, _ACCESS["https"])
        return CheckpointError("remote-denied", "this may not be read", where=where, got=fault.said, hint=hint)
    if fault.kind == "absent" and not is_open:
        return CheckpointError("checkpoint-not-found", "there is nothing at this address", where=where)
    if fault.kind in ("absent", "changed"):
        got = "it is there no more" if fault.kind == "absent" else fault.said
        return changed_elsewhere(where, got)
    if fault.kind == "unsafe":
        what, hint = "a name in this folder leaves it", "name the index, or the file, that is meant"
        expected = "names without '..', and without an empty part"
        return CheckpointError("path-unsafe", what, where=where, expected=expected, hint=hint)
    if fault.kind == "no-ranges":
        what, hint = "the server does not send parts of a file", "fetch the file, and open it here"
        return CheckpointError(
            "remote-no-ranges", what, where=where, expected="status 206", got="status 200", hint=hint
        )
    return CheckpointError("read-failed", "this cannot be read from elsewhere", where=where, got=fault.said)


def writing_error_for(fault: Fault, where: str) -> DestinationError:
    """Make the error for a fault of writing.

    Args:
        fault: What went wrong.
        where: The address, without secrets.
    """
    if fault.kind in ("denied", "expired"):
        read = error_for(fault, where)
        return DestinationError("remote-denied", "this may not be written", where=where, got=fault.said, hint=read.hint)
    if fault.kind in ("exists", "changed"):
        return DestinationError("destination-exists", "something is there already", where=where)
    got, hint = fault.said, "try again later; with resume=True (--resume) one run goes on where another was stopped"
    if fault.kind == "absent":
        got, hint = "there is no such bucket, or the upload is there no more", "look for misspellings; make the bucket"
    return DestinationError("write-failed", "this cannot be written", where=where, got=got, hint=hint)


def changed_elsewhere(where: str, got: str) -> CheckpointError:
    """Make the error for what is not what was opened."""
    hint = "open the checkpoint again, and plan again"
    return CheckpointError("source-changed", "the file is not what was opened", where=where, got=got, hint=hint)
