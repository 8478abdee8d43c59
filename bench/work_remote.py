"""What measured processes do with a checkpoint in a store: load it by ranges, or fetch its bytes alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import weighbridge as wb
from bench.clock import run_timed
from bench.ranges_server import BUCKET
from weighbridge.storage.remote.pace import RANGE_BYTES, pace_for
from weighbridge.storage.remote.traffic import Traffic, watched_traffic

PLACE = f"s3://{BUCKET}"


@contextmanager
def served(source: str, delay_s: str) -> Iterator[None]:
    """Serve a directory from a process of its own, where the clients of a store find it."""
    command = [sys.executable, "-m", "bench.ranges_server", source, delay_s]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        named = {
            "AWS_ENDPOINT_URL": process.stdout.readline().strip(),
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_REGION": "us-east-1",
        }
        before = {name: os.environ.get(name) for name in named}
        os.environ.update(named)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            process.communicate("")


def load_remote(touch_bytes: int, source: str, delay_s: str) -> None:
    """Load all tensors by ranges into memory of their own; headers and the plan are there when the clock starts."""
    import weighbridge.models.modules  # noqa: F401 - what makes tensors is imported before, as on the other side

    with served(source, delay_s):
        plan = wb.plan(PLACE)
        run_timed(lambda: plan.state_dict(copy=True), touch_bytes=touch_bytes, reads=[Path(source)])


def fetch(touch_bytes: int, source: str, delay_s: str) -> None:
    """Fetch the same bytes by the bare client into fresh memory, with as many requests in flight."""
    import obstore
    import torch
    from obstore.store import from_url

    opened = wb.open(source)
    spans = [
        (image.name, start, min(start + RANGE_BYTES, image.size_bytes))
        for image in opened.images
        for start in range(len(image.head), image.size_bytes, RANGE_BYTES)
    ]
    with served(source, delay_s):
        store = from_url(PLACE, client_options={"allow_http": True})

        def work() -> Any:
            room = torch.empty(sum(stop - start for _, start, stop in spans), dtype=torch.uint8)
            view, ends, done = memoryview(room.numpy()), [], 0
            for _, start, stop in spans:
                ends.append(done)
                done += stop - start

            def bring(number: int) -> None:
                name, start, stop = spans[number]
                found = obstore.get_range(store, name, start=start, end=stop)
                view[ends[number] : ends[number] + stop - start] = memoryview(found)

            with ThreadPoolExecutor(pace_for(float(delay_s)).in_flight) as pool:
                list(pool.map(bring, range(len(spans))))
            return room

        run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def count_traffic(source: str, delay_s: str) -> None:
    """Print the requests and bytes of opening, of loading, and of looking at a hundred files; compare all bytes."""
    with served(source, delay_s):
        with watched_traffic() as opening:
            plan = wb.plan(PLACE)
        with watched_traffic() as loading:
            state = plan.state_dict()
        wb.verify(state, source).require_equal()
    print(json.dumps([*_numbers(opening), *_numbers(loading)]))


def _numbers(traffic: Traffic) -> tuple[int, int]:
    return traffic.requests, traffic.read_bytes
