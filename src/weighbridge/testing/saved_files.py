"""Write a checkpoint, send it through a plan, save it, and compare the files byte for byte."""

from __future__ import annotations

import copy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from weighbridge import api
from weighbridge.base.errors import VerifyError
from weighbridge.base.file_names import RECEIPT_NAME
from weighbridge.planning.plan import Plan
from weighbridge.testing.sampling import make_values
from weighbridge.testing.subjects import Subject


def check_model(subject: Subject, plan: Plan, place: Path) -> None:
    """Load a published checkpoint into a copy of the model, save the copy, and compare.

    Raises:
        PlanError: The codes of loading and saving.
        VerifyError: `verify-failed`.
    """
    target = subject.target_header
    published = publish(plan, place / "published", dict(target.ties) if target is not None else {})
    model = copy.deepcopy(subject.target)
    subject.plan(published).load_into(model)
    compare_files(published, api.save(model, place / "saved"))


def check_files(plan: Plan, place: Path) -> None:
    """Convert a published checkpoint into files, revert these, and compare.

    Raises:
        VerifyError: `verify-failed`.
    """
    place.mkdir()
    published = publish(plan, place / "published", {})
    source = api.open(published)
    bound = api.Plan.bind(replace(plan, source_files=source.files), source)
    compare_files(published, api.revert(bound.write(place / "converted"), place / "back"))


def publish(plan: Plan, directory: Path, ties: dict[str, str]) -> Path:
    """Write a plan's sources, with made-up values, as a checkpoint of a few shards.

    Args:
        plan: Its sources are written.
        directory: Directory to make.
        ties: Targets that share their storage; what fills them gets equal values.
    """
    values = make_values(plan, ties)
    shard_bytes = max(1, sum(spec.size_bytes for spec in plan.source.values()) // 3)
    api.plan(values).write(directory, max_shard_size=shard_bytes)
    (directory / RECEIPT_NAME).unlink()
    return directory


def compare_files(first: Path, second: Path) -> None:
    """Compare two directories, receipts left out: first tensor by tensor, then byte by byte.

    Raises:
        VerifyError: `verify-failed`.
    """
    api.verify(first, second).require_equal()
    sides = [_digests(first), _digests(second)]
    names = sorted(name for name in sides[0].keys() | sides[1].keys() if sides[0].get(name) != sides[1].get(name))
    if names:
        raise VerifyError(
            "verify-failed",
            "the tensors are equal, the files are not",
            where=names[0],
            expected=f"the files {', '.join(sides[0])}, byte for byte",
            got=f"{', '.join(sides[1])}; {len(names)} not the same",
        )


def _digests(directory: Path) -> dict[str, str]:
    paths = sorted(path for path in directory.iterdir() if path.name != RECEIPT_NAME)
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in paths}
