"""Stores that go wrong while they are written to: a run ends right, or in a named error and with nothing half-done.

The faults come at random requests, of whole conversions from store to store: at each step of an upload, at what is put
where nothing may be, at lists, at what is taken away, and at what is read meanwhile.
"""

from __future__ import annotations

import logging
import random
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest
from elsewhere import HURRIED, MAPPING, check_no_secret, contents, reached, serve_everywhere, write_tiny
from loopback import Asked, Wrong
from loopback_stores import LoopbackStores, loopback_stores

import weighbridge as wb
from weighbridge.storage.outputs import store_folder, store_sink
from weighbridge.storage.remote import pace

pytest.importorskip("obstore", reason="needs obstore, of the extra weighbridge[remote]")

STORES: Final = ("s3", "gs", "az")
RUNS: Final = 24
"""Runs for each store and each kind of trouble: 216 in all, of which a third are made twice."""

PASSING: Final = (
    Wrong(status=429),
    Wrong(status=500),
    Wrong(status=503),
    Wrong(status=500, is_done=True),
    Wrong(sent=0.0),
    Wrong(sent=0.5),
    Wrong(sent=0.0, is_done=True),
    Wrong(seconds=0.01),
)
"""Faults that are over when one asks again; some come when all is done, and hide that."""

LASTING: Final = (
    Wrong(status=401, body=b"SECRETKEY"),
    Wrong(status=403, body=b"SECRETKEY"),
    Wrong(status=404),
    Wrong(status=400, body=b"<Code>ExpiredToken</Code>SECRETKEY"),
    Wrong(status=418),
    Wrong(status=503),
    Wrong(status=500, is_done=True),
    Wrong(sent=0.0),
    Wrong(sent=0.0, is_done=True),
)
"""Faults that stay, from some request on."""

NAMED: Final = {"remote-denied", "write-failed", "read-failed", "checkpoint-not-found", "source-changed"} | {
    "index-mismatch",
    "destination-busy",
}
"""How a run may end that met a fault."""

HOW: Final[dict[str, Any]] = {"max_shard_size": 9_000}


class Setting(NamedTuple):
    """Three stores with a checkpoint in each, and what a conversion makes of it."""

    server: LoopbackStores
    wanted: dict[str, bytes]

    def heal(self) -> None:
        """Have the stores go right again."""
        self.server.reset()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("wrong")
    source = write_tiny(folder / "model")
    wanted = contents(wb.convert(source, folder / "converted", MAPPING, sync=False, **HOW))
    del wanted["weighbridge.json"]
    with loopback_stores(least_part_bytes=0) as server, reached(server, folder) as patch:
        for module in (store_sink, store_folder):
            patch.setattr(module, "PART_BYTES", 2048)
        serve_everywhere(server, source)
        yield Setting(server, wanted)


def run(setting: Setting, scheme: str, name: str, *, resume: bool = False) -> wb.WeighbridgeError | None:
    """Convert from store to store; return the error, or nothing where it said that all is there."""
    try:
        wb.convert(f"{scheme}://bucket/models/tiny", f"{scheme}://bucket/{name}", MAPPING, resume=resume, **HOW)
    except wb.WeighbridgeError as problem:
        check_no_secret("".join(traceback.format_exception(problem)), problem.__cause__)
        return problem
    return None


def check_right(setting: Setting, scheme: str, name: str) -> None:
    found = setting.server.objects(scheme, name)
    check_no_secret(*found.values())
    del found["weighbridge.json"]
    assert found == setting.wanted


def check_hidden(setting: Setting, scheme: str, name: str) -> None:
    """Check that what a failed run has left is nothing, or is known to be unfinished, or is all."""
    found = setting.server.objects(scheme, name)
    if not found:
        return
    if "weighbridge-partial.json" not in found:
        check_right(setting, scheme, name)
        return
    with pytest.raises(wb.WeighbridgeError) as unfinished:
        wb.open(f"{scheme}://bucket/{name}")
    assert unfinished.value.code == "checkpoint-not-found"


def passing(seed: int) -> Callable[[Asked], Wrong | None]:
    """Go wrong at random, at most three times for each object, for each list and for each way of asking."""
    draw, met, lock = random.Random(seed), dict[str, int](), threading.Lock()

    def trouble(asked: Asked) -> Wrong | None:
        about = f"{asked.method} {asked.path} {asked.query.partition('&')[0]}"
        with lock:
            if draw.random() > 0.3 or met.get(about, 0) >= 3:
                return None
            met[about] = met.get(about, 0) + 1
            return draw.choice(PASSING)

    return trouble


def lasting(seed: int, among: tuple[Wrong, ...]) -> Callable[[Asked], Wrong | None]:
    """Go wrong from a request on that is drawn, in one way that is drawn; at times only where something is written."""
    draw = random.Random(seed)
    first, wrong, is_any = draw.randrange(40), draw.choice(among), draw.random() < 0.5
    return lambda asked: wrong if asked.number >= first and (is_any or asked.method in ("PUT", "POST")) else None


@pytest.mark.parametrize("scheme", STORES)
def test_runs_end_right_where_faults_pass(setting: Setting, scheme: str) -> None:
    for seed in range(RUNS):
        setting.heal()
        setting.server.trouble = passing(seed)
        problem = run(setting, scheme, f"passing{seed}")
        assert problem is None, f"seed {seed}: {problem}"
        check_right(setting, scheme, f"passing{seed}")


@pytest.mark.parametrize("scheme", STORES)
def test_runs_end_right_or_in_the_named_error_where_faults_stay(
    setting: Setting, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends: dict[str, int] = {}
    with caplog.at_level(logging.DEBUG):
        for seed in range(RUNS):
            setting.heal()
            setting.server.trouble = lasting(seed, LASTING)
            problem = run(setting, scheme, f"lasting{seed}")
            setting.heal()
            code = "" if problem is None else problem.code
            ends[code] = ends.get(code, 0) + 1
            if problem is None:
                check_right(setting, scheme, f"lasting{seed}")
            else:
                check_hidden(setting, scheme, f"lasting{seed}")
    assert ends.keys() <= NAMED | {""}, ends
    assert len(ends) >= 3, ends
    check_no_secret(caplog.text)


@pytest.mark.parametrize("scheme", STORES)
def test_a_run_that_is_killed_at_any_request_is_gone_on_with(setting: Setting, scheme: str) -> None:
    """For a store, a client that was killed is one of which nothing more comes, whatever its last request has done."""
    for seed in range(RUNS):
        setting.heal()
        setting.server.trouble = lasting(seed, (Wrong(sent=0.0), Wrong(sent=0.5), Wrong(sent=0.0, is_done=True)))
        killed = run(setting, scheme, f"killed{seed}", resume=True)
        setting.heal()
        check_hidden(setting, scheme, f"killed{seed}")
        if killed is not None and not (_is_whole(setting, scheme, f"killed{seed}")):
            problem = run(setting, scheme, f"killed{seed}", resume=True)
            assert problem is None, f"seed {seed}: {problem}"
        check_right(setting, scheme, f"killed{seed}")


def _is_whole(setting: Setting, scheme: str, name: str) -> bool:
    found = setting.server.objects(scheme, name)
    return bool(found) and "weighbridge-partial.json" not in found


@pytest.mark.parametrize("scheme", STORES)
def test_an_answer_that_does_not_come_is_asked_for_again(
    setting: Setting, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.heal()
    monkeypatch.setattr(pace, "PATIENCE", HURRIED._replace(answer_seconds=0.4))
    slow = random.Random(1).sample(range(30), 4)
    setting.server.trouble = lambda asked: Wrong(seconds=1.0) if asked.number in slow else None
    assert run(setting, scheme, "slow") is None
    check_right(setting, scheme, "slow")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_upload_that_fails_is_ended_in_the_store(setting: Setting, scheme: str) -> None:
    setting.heal()
    setting.server.trouble = lambda asked: Wrong(status=403) if "partNumber=1" in asked.query.split("&") else None
    problem = run(setting, scheme, "refused")
    assert problem is not None
    assert problem.code == "remote-denied"
    assert setting.server.objects(scheme, "refused") == {}
    assert not [path for path, _ in setting.server.uploads.values() if "/refused/" in path]
