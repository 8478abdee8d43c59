"""What a measured process runs: `python -m bench.child ACTION ARGUMENT...`.

Each action is the function of that name in one of the modules beside this one. The first argument of those that keep a
clock is the number of bytes to touch before it starts; the others compare results and print nothing if they agree.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from bench import (
    work_devices,
    work_distributed,
    work_files,
    work_models,
    work_plans,
    work_ranks,
    work_remote,
    work_tensors,
)

TIMED: dict[str, Callable[..., Any]] = {
    action.__name__: action
    for action in (
        work_devices.pinned,
        work_devices.to_device,
        work_distributed.convert_from_dcp,
        work_distributed.convert_to_dcp,
        work_distributed.dcp_to_torch,
        work_distributed.torch_to_dcp,
        work_files.convert,
        work_files.convert_huge,
        work_files.convert_in_processes,
        work_files.copy,
        work_files.dequantise,
        work_files.dequantise_plainly,
        work_files.read,
        work_files.revert,
        work_files.write,
        work_models.load,
        work_models.load_only,
        work_models.resave,
        work_models.save,
        work_models.save_theirs,
        work_plans.cut,
        work_plans.group,
        work_plans.plan,
        work_ranks.load_by_dcp,
        work_ranks.load_by_ranks,
        work_ranks.load_by_transformers,
        work_ranks.read_by_ranks,
        work_ranks.save_by_dcp,
        work_ranks.save_by_ranks,
        work_ranks.write_by_ranks,
        work_remote.fetch,
        work_remote.load_remote,
        work_tensors.fuse,
        work_tensors.load_huge,
        work_tensors.load_small,
    )
}
CHECKS: dict[str, Callable[..., Any]] = {
    action.__name__: action
    for action in (
        work_devices.compare_on_device,
        work_distributed.read_dcp,
        work_models.compare,
        work_ranks.bytes_of_ranks,
        work_remote.count_traffic,
        work_tensors.compare_fused,
        work_tensors.compare_huge,
        work_tensors.compare_small,
    )
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    if name in CHECKS:
        CHECKS[name](*arguments)
    else:
        TIMED[name](int(arguments[0]), *arguments[1:])
