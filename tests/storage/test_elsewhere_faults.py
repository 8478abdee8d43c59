"""Servers that go wrong: each fault ends in the right bytes or the named error, nothing half-done, no secret shown.

The faults come at random places of whole runs, and one by one where a test says which.
"""

from __future__ import annotations

import logging
import random
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from elsewhere import (
    MAPPING,
    SHARDS,
    addresses,
    check_no_secret,
    contents,
    encryption,
    reached,
    serve_everywhere,
    write_tiny,
)
from loopback import Asked, Loopback, Wrong, loopback

import weighbridge as wb

pytest.importorskip("obstore", reason="needs obstore, of the extra weighbridge[remote]")

KINDS = ("hub", "store", "server")
RUNS: Final = 35
"""Runs for each kind of address and each kind of trouble: 210 in all."""

PASSING: Final = (
    Wrong(status=429, retry_after="0"),
    Wrong(status=500),
    Wrong(status=503),
    Wrong(status=503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    Wrong(sent=0.0),
    Wrong(sent=0.3),
    Wrong(sent=0.97),
    Wrong(short=True),
)
"""Faults that are over when one asks again."""

LASTING: Final = (
    Wrong(status=401, body=b"SECRETKEY"),
    Wrong(status=403, body=b"SECRETKEY"),
    Wrong(status=404),
    Wrong(status=400, body=b"<Code>ExpiredToken</Code>SECRETKEY"),
    Wrong(status=418),
    Wrong(whole=True),
    Wrong(shift_bytes=8),
    Wrong(extra_bytes=64),
    Wrong(etag='"another"'),
)
"""Faults that stay, from some request on."""

NAMED: Final = {"remote-denied", "checkpoint-not-found", "read-failed", "remote-no-ranges", "source-changed"} | {
    "file-truncated",
    "index-mismatch",
    "header-invalid",
}
"""How a run may end that met a fault."""


class Setting(NamedTuple):
    """A served checkpoint, the same on this disk, and what a conversion makes of it."""

    server: Loopback
    source: Path
    wanted: dict[str, bytes]
    places: dict[str, str]


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("faults")
    # The first shard is longer than what is asked for first.
    source = write_tiny(folder / "model", rows=400)
    wanted = contents(wb.convert(source, folder / "converted", MAPPING, sync=False))
    del wanted["weighbridge.json"]
    with loopback() as server, reached(server, folder):
        serve_everywhere(server, source)
        yield Setting(server, source, wanted, addresses(server))


@pytest.fixture
def setting(everywhere: Setting) -> Iterator[Setting]:
    everywhere.server.reset()
    before = dict(everywhere.server.files)
    yield everywhere
    everywhere.server.files = before


def run(setting: Setting, kind: str, out: Path) -> wb.WeighbridgeError | None:
    """Convert from elsewhere; return the error, or nothing where the output is right."""
    try:
        wb.convert(setting.places[kind], out, MAPPING, sync=False)
    except wb.WeighbridgeError as problem:
        assert not out.exists(), "something half-done is there"
        assert [path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")] == []
        check_no_secret("".join(traceback.format_exception(problem)), problem.__cause__)
        return problem
    found = contents(out)
    del found["weighbridge.json"]
    assert found == setting.wanted
    check_no_secret(out)
    return None


def passing(seed: int) -> Callable[[Asked], Wrong | None]:
    """Go wrong at random, at most three times for each file."""
    draw, met, lock = random.Random(seed), dict[str, int](), threading.Lock()

    def trouble(asked: Asked) -> Wrong | None:
        with lock:
            if asked.method == "HEAD" or draw.random() > 0.4 or met.get(asked.path, 0) >= 3:
                return None
            met[asked.path] = met.get(asked.path, 0) + 1
            return draw.choice(PASSING)

    return trouble


def lasting(seed: int) -> Callable[[Asked], Wrong | None]:
    """Go wrong from a request on that is drawn, in one way that is drawn."""
    draw = random.Random(seed)
    first, wrong = draw.randrange(12), draw.choice(LASTING)
    return lambda asked: wrong if asked.number >= first else None


@pytest.mark.parametrize("kind", KINDS)
def test_runs_end_right_where_faults_pass(setting: Setting, kind: str, tmp_path: Path) -> None:
    for seed in range(RUNS):
        setting.server.asked.clear()
        setting.server.trouble = passing(seed)
        problem = run(setting, kind, tmp_path / f"out{seed}")
        assert problem is None, f"seed {seed}: {problem}"


@pytest.mark.parametrize("kind", KINDS)
def test_runs_end_right_or_in_the_named_error_where_faults_stay(
    setting: Setting, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends: dict[str, int] = {}
    with caplog.at_level(logging.DEBUG):
        for seed in range(RUNS):
            setting.server.asked.clear()
            setting.server.trouble = lasting(seed)
            problem = run(setting, kind, tmp_path / f"out{seed}")
            code = "" if problem is None else problem.code
            ends[code] = ends.get(code, 0) + 1
    assert ends.keys() <= NAMED | {""}, ends
    assert len(ends) >= 3, ends
    check_no_secret(caplog.text)


ONE_BY_ONE: Final = {
    "no access": (Wrong(status=403), "remote-denied"),
    "expired": (Wrong(status=400, body=b"<Code>ExpiredToken</Code>"), "remote-denied"),
    "no ranges": (Wrong(whole=True), "remote-no-ranges"),
    "busy for ever": (Wrong(status=503), "read-failed"),
    "cut for ever": (Wrong(sent=0.0), "read-failed"),
    "another range": (Wrong(shift_bytes=8), "read-failed"),
    "another size": (Wrong(extra_bytes=64), "source-changed"),
    "asks to wait too long": (Wrong(status=429, retry_after="600"), "read-failed"),
    "gone": (Wrong(status=404), "source-changed"),
    "in another region": (Wrong(status=301), "read-failed"),
}


@pytest.mark.parametrize("case", ONE_BY_ONE)
def test_a_fault_while_tensors_are_read_has_its_name(setting: Setting, case: str) -> None:
    wrong, code = ONE_BY_ONE[case]
    plan = wb.plan(setting.places["server" if case == "asks to wait too long" else "store"], MAPPING)
    setting.server.trouble = lambda asked: wrong if asked.path.endswith(SHARDS[0]) else None
    with pytest.raises(wb.WeighbridgeError) as refused:
        plan.state_dict()
    assert refused.value.code == code, refused.value
    check_no_secret(str(refused.value))


@pytest.mark.parametrize("kind", ["store", "server"])
def test_an_object_that_is_replaced_between_two_ranges_is_no_mixture(setting: Setting, kind: str) -> None:
    plan = wb.plan(setting.places[kind], MAPPING)
    for path, content in list(setting.server.files.items()):
        if path.endswith(SHARDS[0]):
            setting.server.files[path] = content[:-4] + b"\0\0\0\1"
    with pytest.raises(wb.WeighbridgeError) as refused:
        plan.state_dict()
    assert refused.value.code == "source-changed"


def test_a_server_is_waited_for_as_long_as_it_asks(setting: Setting) -> None:
    met: list[float] = []

    def busy_once(asked: Asked) -> Wrong | None:
        if asked.path.endswith(SHARDS[0]) and len(met) < 2:
            met.append(0)
            return Wrong(status=503, retry_after="1")
        return None

    opened = wb.open(setting.places["server"])
    setting.server.trouble = busy_once
    begun = datetime.now(UTC)
    opened.read("layers.1.experts.2.up.weight", 0, memoryview(bytearray(400 * 64)))
    assert datetime.now(UTC) - begun >= timedelta(seconds=1)


def test_a_hub_that_is_busy_is_asked_again_and_one_that_refuses_says_what_to_do(setting: Setting) -> None:
    setting.server.trouble = lambda asked: (
        Wrong(status=503, retry_after="0") if asked.number < 2 and "/api/" in asked.path else None
    )
    assert len(wb.open("hf://org/tiny").header) == 14
    setting.server.token = "another"
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.open("hf://org/tiny")
    assert refused.value.code == "remote-denied"
    assert "HF_TOKEN" in refused.value.hint


@pytest.mark.parametrize("scheme", ["server", "store"])
def test_a_certificate_that_does_not_verify_ends_it(
    setting: Setting, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback(encryption(tmp_path)[0]) as server:
        serve_everywhere(server, setting.source)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.other_url)
        place = {"server": f"{server.other_url}/plain", "store": "s3://bucket/models/tiny"}[scheme]
        with pytest.raises(wb.WeighbridgeError) as refused:
            wb.open(place)
    assert refused.value.code == "read-failed"
    assert "certificate" in refused.value.got


def test_a_server_that_is_not_there_is_asked_again_and_given_up(setting: Setting) -> None:
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.open("http://127.0.0.1:1/model")
    assert refused.value.code == "read-failed"
    assert "no connection" in refused.value.got
