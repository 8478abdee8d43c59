"""Ranks that do something at once, while one process keeps the clock: forks of it, which are ready when it starts."""

from __future__ import annotations

import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.clock import run_timed

RANKS: Final = 4

Parts = Sequence[Callable[[], Any]]
"""What a rank does under the clock, one after the other; all ranks begin each part together."""


def run_ranks(prepare: Callable[[int], Parts], parts: int, *, touch_bytes: int, reads: Sequence[Path] = ()) -> None:
    """Fork ranks of one process group, let each prepare, and time what they do then, until the last one has ended.

    Args:
        prepare: Called in each rank, with its number; returns what is timed.
        parts: How many parts that has.
        touch_bytes: As for `run_timed`.
        reads: As there.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = [_Rank(rank, prepare, Path(folder) / "store") for rank in range(RANKS)]
        for rank in ranks:
            rank.hear()
        run_timed(*[partial(_do_part, ranks)] * parts, touch_bytes=touch_bytes, reads=reads)
        for rank in ranks:
            os.waitpid(rank.pid, 0)


def _do_part(ranks: Sequence[_Rank]) -> None:
    for rank in ranks:
        os.write(rank.speaking, b".")
    for rank in ranks:
        rank.hear()


class _Rank:
    """One rank, as the process has it that forked it."""

    def __init__(self, rank: int, prepare: Callable[[int], Parts], store: Path) -> None:
        heard, said = os.pipe()
        order, self.speaking = os.pipe()
        self.listening = heard
        self.pid = os.fork()
        if not self.pid:
            _become(rank, prepare, store, order, said)
        os.close(said)
        os.close(order)

    def hear(self) -> None:
        """Wait until it is done with what it does."""
        if os.read(self.listening, 1) != b".":
            raise SystemExit("a rank has failed")


def _become(rank: int, prepare: Callable[[int], Parts], store: Path, order: int, said: int) -> None:
    import torch
    import torch.distributed as dist

    try:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        dist.init_process_group("gloo", store=dist.FileStore(str(store), RANKS), rank=rank, world_size=RANKS)
        work = prepare(rank)
        dist.barrier()
        os.write(said, b".")
        for part in work:
            os.read(order, 1)
            part()
            os.write(said, b".")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # the threads of gloo may not have ended when the interpreter takes their group apart
