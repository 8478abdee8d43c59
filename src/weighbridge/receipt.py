"""The receipt that lies in every output: the plan that made it, and what the plan read and wrote.

    weighbridge.json
      {"format": "weighbridge-receipt", "version": 1, "weighbridge": package version, "plan_hash": SHA-256,
       "mapping": name, "source": {"where", "files": [{"name", "size_bytes", "mtime_ns", "head_sha256"}]},
       "plan": the plan's JSON form, files of the source included}

With it, `revert` needs nothing else. The mapping and the layout of the source's files are inside the plan.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from weighbridge._version import __version__
from weighbridge.errors import CheckpointError, WeighbridgeError
from weighbridge.forms import table, text
from weighbridge.plan import Plan
from weighbridge.storage.protocol import RECEIPT_NAME, Checkpoint

RECEIPT_FORMAT: Final = "weighbridge-receipt"
RECEIPT_VERSION: Final = 1


class Receipt(NamedTuple):
    """What a receipt says: the plan, the source's fingerprints, and the package's version at the time."""

    plan: Plan
    source: dict[str, Any]
    package_version: str


def receipt_text(plan: Plan, checkpoint: Checkpoint) -> bytes:
    """Write a receipt for what a plan makes from a checkpoint."""
    form = {
        "format": RECEIPT_FORMAT,
        "version": RECEIPT_VERSION,
        "weighbridge": __version__,
        "plan_hash": plan.hash,
        "mapping": plan.mapping.name,
        "source": {"where": checkpoint.where, "files": checkpoint.fingerprint()},
        "plan": plan.to_dict(),
    }
    return json.dumps(form, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n"


def read_receipt(directory: Path) -> Receipt:
    """Read the receipt of an output, and prove its plan again.

    Args:
        directory: The output, or one of the files in it.

    Raises:
        CheckpointError: `receipt-invalid`, `path-unsafe`.
    """
    path = directory / RECEIPT_NAME if directory.is_dir() else directory.parent / RECEIPT_NAME
    try:
        form = json.loads(path.read_bytes())
        found = form["format"], form["version"]
        if found != (RECEIPT_FORMAT, RECEIPT_VERSION):
            what = "this is no receipt of a known version"
            raise CheckpointError("receipt-invalid", what, where=str(path), got=repr(found))
        receipt = Receipt(Plan.from_dict(form["plan"]), table(form["source"]), text(form["weighbridge"]))
        if (form["plan_hash"], form["mapping"]) != (receipt.plan.hash, receipt.plan.mapping.name):
            raise CheckpointError("receipt-invalid", "the receipt belongs to another plan", where=str(path))
        return receipt
    except FileNotFoundError:
        raise CheckpointError(
            "receipt-invalid",
            "there is no receipt here, so the way back is not recorded",
            where=str(path),
            hint="give the mapping: weighbridge convert --reverse SOURCE DESTINATION MAPPING",
        ) from None
    except (OSError, KeyError, TypeError, ValueError, RecursionError, WeighbridgeError) as problem:
        if isinstance(problem, CheckpointError):
            raise
        plain = f"{type(problem).__name__}: {problem}"[:200]
        got = problem.headline if isinstance(problem, WeighbridgeError) else plain
        raise CheckpointError("receipt-invalid", "this is no receipt", where=str(path), got=got) from None
