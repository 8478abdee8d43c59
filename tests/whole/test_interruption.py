"""Conversions that are killed, stopped, starved of room or of their source, and what they leave: nothing that loads."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import ROOT
from interrupted import MAPPINGS, SOURCE, TRANSPOSED, Ended, nursery
from left_files import contents, opens
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.storage import plan_shards
from weighbridge.storage.formats.torch_tensors import spec_of
from weighbridge.storage.outputs.claiming import partial_path

DEAD = -signal.SIGKILL
SHARD_BYTES = 1_500_000
CASES = ("sharded", "single", "back", "dcp")
ASSUMED = ("assuming", "assuming, back")
"""Cases that fill something in, and compare what they take for granted."""


class World(NamedTuple):
    """Two sources that are never changed, and what each case makes of them without interruption."""

    folder: Path

    def job(self, case: str) -> dict[str, Any]:
        """The order for a child, but for the destination."""
        if case in ("back", "assuming, back"):
            source = self.folder / ("fused" if case == "back" else "assumed")
            return {"kind": "revert", "source": source, "options": {}}
        if case == "assuming":
            options = {"max_shard_size": SHARD_BYTES}
            return {"kind": "convert", "source": self.folder / "assuming", "mapping": "assuming", "options": options}
        options: dict[str, Any] = {"max_shard_size": None if case == "single" else SHARD_BYTES}
        options |= {"to": "dcp"} if case == "dcp" else {}
        return {"kind": "convert", "source": self.folder / "source", "options": options}

    def wanted(self, case: str) -> Path:
        names = {"sharded": "fused", "single": "whole", "back": "source", "dcp": "distributed", "assuming": "assumed"}
        return self.folder / names.get(case, "assuming")

    def make(self, case: str, out: Path, **options: Any) -> Path:
        """Do here what a child would have done."""
        job = self.job(case)
        if job["kind"] == "revert":
            return wb.revert(job["source"], out, **options)
        mapping = MAPPINGS[job.get("mapping", "fused")]
        return wb.convert(job["source"], out, mapping, **job["options"], **options)


def tensors() -> dict[str, torch.Tensor]:
    """Return experts that move in long runs, and a few tensors that only get another name."""
    chance = torch.Generator().manual_seed(4)
    made = {
        f"old.layers.{layer}.experts.{expert}.{name}.weight": torch.randn(520 + 8 * layer, 256, generator=chance)
        for layer, expert, name in itertools.product(range(2), range(2), ("gate", "up"))
    }
    made["old.embed.weight"] = torch.randn(301, 256, generator=chance)
    made["old.norm.weight"] = torch.randn(33, generator=chance).bfloat16()
    return made


def assuming() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what the mapping that takes something for granted reads, and what plain torch makes of it."""
    chance = torch.Generator().manual_seed(5)

    def new(rows: int) -> torch.Tensor:
        return torch.randn(rows, 256, generator=chance)

    embed, q, v, head, a, b, table, k = map(new, (901, 300, 300, 700, 200, 200, 150, 250))
    source = {"embed": embed, "q": q, "v": v, "table": table, "ranks.0.k": k, "ranks.1.k": k.clone()}
    source["head"] = torch.cat([head, torch.full((200, 256), -torch.inf)])
    source["two"] = torch.cat([a, b, torch.full((200, 256), 3.0)])
    made = {"embed": torch.cat([embed, torch.full((123, 256), 1.5)]), "head": head, "one.a": a, "one.b": b, "k": k}
    made |= {"qkv": torch.cat([q, torch.zeros(300, 256), v]), **{f"layers.{i}.table": table for i in range(3)}}
    return source, made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    source = folder / "source"
    source.mkdir()
    state = tensors()
    shards = plan_shards({key: spec_of(value) for key, value in state.items()}, 1_200_000)
    for name, keys in shards.files.items():
        save_file({key: state[key] for key in keys}, source / name, metadata={"format": "pt"})
    (source / shards.index.name).write_bytes(shards.index.text)
    (source / "config.json").write_text('{"model_type": "small"}')
    (source / "sub").mkdir()
    (source / "sub" / "tokens.txt").write_bytes(bytes(range(256)) * 100)
    there = World(folder)
    there.make("sharded", folder / "fused")
    there.make("single", folder / "whole")
    there.make("dcp", folder / "distributed")
    (folder / "assuming").mkdir()
    save_file(assuming()[0], folder / "assuming" / "model.safetensors", metadata={"format": "pt"})
    (folder / "assuming" / "config.json").write_text("{}")
    there.make("assuming", folder / "assumed")
    return there


def is_a_checkpoint(folder: Path) -> bool:
    try:
        wb.open(folder)
    except wb.CheckpointError:
        return False
    return True


def check_never_half_done(out: Path, wanted: Path) -> bool:
    """Check that the destination is whole or not there, and that nothing hidden opens before all of it is right.

    Returns:
        Whether the destination is there.
    """
    if out.exists():
        assert contents(out) == contents(wanted)
    hidden = partial_path(out)
    if hidden.exists():
        assert not out.exists()
        readable = [path for path in hidden.rglob("*.safetensors") if opens(path)]
        assert all(path.read_bytes() == (wanted / path.relative_to(hidden)).read_bytes() for path in readable)
        assert not is_a_checkpoint(hidden) or contents(hidden) == contents(wanted)
    return out.exists()


def check_whole(out: Path, wanted: Path) -> None:
    """Check that the destination is right, and that nothing else is left."""
    assert contents(out) == contents(wanted)
    assert list(out.parent.iterdir()) == [out]


def finish(world: World, case: str, out: Path) -> None:
    """Resume in this process, and check what comes of it."""
    if not check_never_half_done(out, world.wanted(case)):
        world.make(case, out, resume=True)
    check_whole(out, world.wanted(case))


# SIGKILL


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """How many steps a run of each case has, and how often it reaches for its output: from its making to the rename."""
    folder = tmp_path_factory.mktemp("counted")
    ended = {case: nursery().run(out=folder / case / "delivered", **world.job(case)) for case in CASES}
    assert {end.status for end in ended.values()} == {0}
    assert all(end.steps > 2 and end.touches > 12 for end in ended.values())
    return ended


@pytest.mark.parametrize("share", range(12))
@pytest.mark.parametrize("case", CASES)
def test_killed_before_any_of_its_touches(
    world: World, undisturbed: dict[str, Ended], tmp_path: Path, case: str, share: int
) -> None:
    """The run kills itself as it reaches for its output the nth time; n is spread over all of the run."""
    out = tmp_path / "delivered"
    number = 1 + (undisturbed[case].touches - 1) * share // 11
    assert nursery().run(out=out, kill_at=number, **world.job(case)).was_killed
    finish(world, case, out)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_moment(
    world: World, undisturbed: dict[str, Ended], tmp_path: Path, case: str, seed: int
) -> None:
    """SIGKILL from outside, a moment after a step of the copying; later than the end of it now and then."""
    out = tmp_path / "delivered"
    chance = random.Random(f"{case} {seed}")
    step, moment = chance.randrange(1, undisturbed[case].steps), chance.uniform(0, 0.004)
    with nursery().child(out=out, pauses=[step], **world.job(case)) as child:
        assert child.reach(step)
        child.go_on()
        deadline = time.perf_counter() + moment
        while time.perf_counter() < deadline:
            pass
        child.kill()
    finish(world, case, out)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", CASES)
def test_resumed_run_is_killed_too(
    world: World, undisturbed: dict[str, Ended], tmp_path: Path, case: str, seed: int
) -> None:
    """Killed while copying, then twice while going on with that."""
    out = tmp_path / "delivered"
    chance = random.Random(f"again {case} {seed}")
    job, step = world.job(case), chance.randrange(1, undisturbed[case].steps)
    with nursery().child(out=out, pauses=[step], **job) as child:
        assert child.reach(step)
        assert child.kill().was_killed
    for _ in range(2):
        assert not check_never_half_done(out, world.wanted(case))
        order = {**job, "options": {**job["options"], "resume": True}}
        nursery().run(out=out, kill_at=chance.randrange(2, undisturbed[case].touches), **order)
    finish(world, case, out)


def test_nothing_loads_at_any_step(world: World, tmp_path: Path) -> None:
    """The run waits after each step, for somebody to look at what is there."""
    out = tmp_path / "delivered"
    with nursery().child(out=out, pauses=[-1], **world.job("single")) as child:
        for number in itertools.count(1):
            if not child.reach(number):
                break
            assert not check_never_half_done(out, world.wanted("single"))
            assert not is_a_checkpoint(partial_path(out))
            child.go_on()
        assert child.end().status == 0
    assert number > 2
    check_whole(out, world.wanted("single"))


def test_killed_run_can_be_started_anew(world: World, tmp_path: Path) -> None:
    """Without `resume` what was left is an error, and its removal is all that a new start needs."""
    out = tmp_path / "delivered"
    with nursery().child(out=out, pauses=[2], **world.job("sharded")) as child:
        assert child.reach(2)
        child.kill()
    before = contents(partial_path(out))
    with pytest.raises(wb.DestinationError) as caught:
        world.make("sharded", out)
    assert caught.value.code == "destination-unfinished"
    assert caught.value.where == str(partial_path(out))
    assert "--resume" in caught.value.hint
    assert contents(partial_path(out)) == before
    shutil.rmtree(partial_path(out))
    world.make("sharded", out)
    check_whole(out, world.wanted("sharded"))


@pytest.mark.parametrize("case", ASSUMED)
def test_what_is_taken_for_granted_is_the_same_after_a_kill(world: World, tmp_path: Path, case: str) -> None:
    """Killed while it fills in and copies, and once more, anywhere from comparing on, while it goes on with that."""
    assert wb.verify(world.folder / "assumed", assuming()[1])
    job = world.job(case)
    whole = nursery().run(out=tmp_path / "counted" / "delivered", **job)
    assert (whole.status, whole.steps > 4, whole.touches > 12) == (0, True, True)
    for share in range(4):
        out = tmp_path / str(share) / "delivered"
        step, number = 1 + (whole.steps - 2) * share // 3, 2 + (whole.touches - 3) * share // 3
        with nursery().child(out=out, pauses=[step], **job) as child:
            assert child.reach(step)
            assert child.kill().was_killed
        assert not check_never_half_done(out, world.wanted(case))
        again = {**job, "options": {**job["options"], "resume": True}}
        assert nursery().run(out=out, kill_at=number, **again).was_killed
        finish(world, case, out)


@pytest.mark.parametrize("seed", range(6))
def test_killed_while_torch_builds_windows(world: World, tmp_path: Path, seed: int) -> None:
    """Transposed matrices go through buffers, window by window."""
    out, wanted = tmp_path / "delivered", tmp_path / "wanted"
    options = {"max_shard_size": SHARD_BYTES, "memory_budget": 20_000}
    wb.convert(world.folder / "source", wanted, TRANSPOSED, **options)
    steps = random.Random(seed).randrange(1, 20)
    order = {"mapping": "transposed", "options": options, "pauses": [steps]}
    with nursery().child("convert", world.folder / "source", out, **order) as child:
        assert child.reach(steps)
        assert child.kill().was_killed
    assert not check_never_half_done(out, wanted)
    wb.convert(world.folder / "source", out, TRANSPOSED, **options, resume=True)
    assert contents(out) == contents(wanted)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["load", "stream"])
def test_killed_while_loading(world: World, tmp_path: Path, kind: str, seed: int) -> None:
    """Loading writes nothing, so that nothing is left, and the source is what it was."""
    before = contents(world.folder)
    chance = random.Random(f"{kind} {seed}")
    step = 1 if kind == "load" else chance.randrange(1, 5)
    with nursery().child(kind, world.folder / "source", pauses=[step]) as child:
        assert child.reach(step)
        child.go_on()
        deadline = time.perf_counter() + chance.uniform(0, 0.01)
        while time.perf_counter() < deadline:
            pass
        assert child.kill().status in (DEAD, 0)
    assert contents(world.folder) == before


# Signals that a process can answer


def stopping(signal_name: str) -> str:
    """A mapping's file that sends a signal to its own process as soon as the second weight file is made."""
    return f"""
import os, signal, sys
from interrupted import FUSED

# A shell starts what it runs in the background with this one ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
made = []

def hook(event, arguments):
    name = str(arguments[0])
    if event == "open" and ".weighbridge-partial" in name and name.endswith(".safetensors"):
        made.append(name)
        if len(made) == 2:
            os.kill(os.getpid(), signal.{signal_name})

sys.addaudithook(hook)
"""


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join([str(SOURCE), str(ROOT / "tests")])
    command = [sys.executable, "-m", "weighbridge", *arguments]
    environment = {**os.environ, "PYTHONPATH": search}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("name", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_signal_leaves_what_can_be_resumed_or_nothing(
    world: World, tmp_path: Path, name: str, status: int, word: str
) -> None:
    (tmp_path / "stop.py").write_text(stopping(name))
    (tmp_path / "go.py").write_text("from interrupted import FUSED\n")
    out, hidden = tmp_path / "out" / "delivered", partial_path(tmp_path / "out" / "delivered")
    line = ("convert", str(world.folder / "source"), str(out), "stop.py:FUSED", "--max-shard-size", f"{SHARD_BYTES}")
    ran = run_command(tmp_path, *line)
    assert (ran.returncode, ran.stderr) == (status, f"{word}; nothing is left behind\n")
    assert not out.parent.exists()
    ran = run_command(tmp_path, *line, "--resume", "--json")
    form = json.loads(ran.stdout)["error"]
    assert (ran.returncode, form["code"]) == (status, word)
    assert "go on with --resume" in form["what"]
    assert str(hidden) in form["what"]
    assert not check_never_half_done(out, world.wanted("sharded"))
    ran = run_command(tmp_path, *(part.replace("stop.py", "go.py") for part in line), "--resume")
    assert ran.returncode == 0, ran.stderr
    check_whole(out, world.wanted("sharded"))


# No room


def test_file_size_limit_is_no_room(world: World, tmp_path: Path) -> None:
    """The second of the new files is larger than the process may write."""
    out, job = tmp_path / "delivered", world.job("sharded")
    sizes = [path.stat().st_size for path in sorted(world.wanted("sharded").glob("*.safetensors"))]
    assert sizes[0] < 2_140_000 < sizes[1]
    ended = nursery().run(out=out, limit_bytes=2_140_000, **job)
    assert ended.code == "destination-no-room"
    assert list(tmp_path.iterdir()) == []
    resumable = {**job, "options": {**job["options"], "resume": True}}
    ended = nursery().run(out=out, limit_bytes=2_140_000, **resumable)
    assert ended.code == "destination-no-room"
    assert partial_path(out).exists()
    finish(world, "sharded", out)


FILLING = """
set -e
mount -t tmpfs -o size=8m none small
python=$1; shift
"$python" - "$@" <<'END'
import json, shutil, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import weighbridge as wb
from interrupted import FUSED, fill_disk

source, out, size, filler = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])


def convert(resume, progress=None):
    try:
        wb.convert(source, out, FUSED, max_shard_size=size, resume=resume, progress=progress)
    except wb.WeighbridgeError as problem:
        return problem.code
    return "done"


def fill(done, total):
    if not filler.exists():
        fill_disk(filler)


said = [convert(False, fill), sorted(path.name for path in out.parent.iterdir())]
filler.unlink()
said += [convert(True, fill), sorted(path.name for path in out.parent.iterdir())]
filler.unlink()
said += [convert(True), sorted(path.name for path in out.parent.iterdir())]
shutil.copytree(out, sys.argv[6])
print(json.dumps(said))
END
"""


def test_full_disk_is_no_room(world: World, tmp_path: Path) -> None:
    """A disk of 8 MiB in memory, which somebody else fills while the first file is being written."""
    unshare = shutil.which("unshare")
    (tmp_path / "small").mkdir()
    probe = [unshare or "false", "--mount", "mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path / "small")]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a disk in memory")
    kept = tmp_path / "kept"
    arguments = [sys.executable, str(ROOT / "tests"), str(world.folder / "source"), "small/delivered"]
    ran = subprocess.run(
        [unshare, "--mount", "sh", "-c", FILLING, "sh", *arguments, f"{SHARD_BYTES}", "small/fill", str(kept)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    hidden = partial_path(Path("delivered")).name
    assert json.loads(ran.stdout) == [
        "destination-no-room", ["fill"], "destination-no-room", [hidden, "fill"], "done", ["delivered"]
    ]  # fmt: skip
    assert contents(kept) == contents(world.wanted("sharded"))


# A source that fails or changes


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replace(path: Path) -> None:
    """Put another file there, of the same bytes and the same time."""
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rewrite_header(path: Path) -> None:
    """Change a digit of the header without a trace in size and time."""
    status = path.stat()
    raw = bytearray(path.read_bytes())
    raw[8] = ord("[")
    with path.open("r+b") as file:
        file.write(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = {
    append: {"source-changed"},
    touch: {"source-changed"},
    replace: {"source-changed"},
    truncate: {"source-changed", "file-truncated"},
    rewrite_header: {"source-changed"},
    Path.unlink: {"source-changed", "checkpoint-not-found"},
    make_directory: {"source-changed", "read-failed"},
}


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_source_that_changes_is_named(world: World, tmp_path: Path, change: Any, which: int) -> None:
    """It changes after the first step; the file is the first one that is read, or the last."""
    source, out = tmp_path / "source", tmp_path / "out" / "delivered"
    shutil.copytree(world.folder / "source", source)
    options = world.job("sharded")["options"]
    with nursery().child("convert", source, out, options=options, pauses=[1]) as child:
        assert child.reach(1)
        change(sorted(source.glob("*.safetensors"))[which])
        child.go_on()
        ended = child.end()
    assert ended.code in CHANGES[change]
    assert not out.parent.exists()


def test_source_that_changes_ends_a_resumable_run_for_good(world: World, tmp_path: Path) -> None:
    """What was written is of no more use, so it is removed."""
    source, out = tmp_path / "source", tmp_path / "out" / "delivered"
    shutil.copytree(world.folder / "source", source)
    with nursery().child("convert", source, out, options={"resume": True}, pauses=[2]) as child:
        assert child.reach(2)
        touch(next(source.glob("*.safetensors")))
        child.go_on()
        assert child.end().code == "source-changed"
    assert not out.parent.exists()


# Two at once


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_exclude_each_other(world: World, tmp_path: Path, resume: bool) -> None:
    out, job = tmp_path / "delivered", world.job("sharded")
    with nursery().child(out=out, pauses=[2], **job) as child:
        assert child.reach(2)
        with pytest.raises(wb.DestinationError) as caught:
            world.make("sharded", out, resume=resume)
        assert caught.value.code == "destination-busy"
        child.go_on()
        assert child.end() == Ended(0, child.steps, "", child.touches)
    check_whole(out, world.wanted("sharded"))
