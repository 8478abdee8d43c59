"""One output by many processes: byte for byte what one process writes, whoever dies, whatever order they come in."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from command import run
from conftest import ROOT
from interrupted import ANOTHER, FUSED, SOURCE, nursery
from left_files import contents, opens
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.file_sets import FileImage
from weighbridge.running.to_files.part_writing import deal_out
from weighbridge.storage.outputs.claiming import partial_path, parts_path

SHARD_BYTES: Final = 60_000
OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "digests": {"digests": True},
    "unforced": {"sync": False},
    "named": {"name": "weights", "max_shard_size": 100_000},
    "one file": {"max_shard_size": None},
    "share": {"link": "share"},
    "hard": {"link": "hard", "digests": True},
}


def tensors() -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(6)
    made = {
        f"old.layers.{layer}.experts.{expert}.{name}.weight": torch.randn(20 + 3 * layer, 64, generator=chance)
        for layer in range(4)
        for expert in range(3)
        for name in ("gate", "up")
    }
    return made | {f"old.table.{number}": torch.randn(50 + 31 * number, 32, generator=chance) for number in range(3)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three files, one of which no rule touches, and two files beside them."""
    folder = tmp_path_factory.mktemp("parts") / "source"
    (folder / "sub").mkdir(parents=True)
    state = tensors()
    keys = sorted(state)
    for number, part in enumerate((keys[:10], keys[10:])):
        save_file({key: state[key] for key in part}, folder / f"part-{number}.safetensors", metadata={"format": "pt"})
    save_file({"kept": torch.arange(9000.0)}, folder / "part-2.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "small"}')
    (folder / "sub" / "tokens.txt").write_bytes(bytes(range(256)) * 30)
    return folder


@pytest.fixture(scope="module")
def wanted(source: Path) -> dict[str, Path]:
    """What one process writes, by the name of the options; read by torch as the rules say."""
    made = {name: convert(source, source.parent / "wanted" / name, **options) for name, options in OPTIONS.items()}
    state, found = tensors(), {}
    for path in made["plain"].glob("*.safetensors"):
        found |= load_file(path)
    for layer in range(4):
        experts = [[state[f"old.layers.{layer}.experts.{e}.{n}.weight"] for n in ("gate", "up")] for e in range(3)]
        fused = torch.stack([torch.cat(pair) for pair in experts])
        assert torch.equal(found.pop(f"model.layers.{layer}.experts.gate_up"), fused)
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "kept": (9000,), "model.table.0": (50, 32), "model.table.1": (81, 32), "model.table.2": (112, 32)
    }  # fmt: skip
    assert len(list(made["plain"].glob("*.safetensors"))) >= 4
    return made


def convert(source: Path, out: Path, mapping: Any = FUSED, **options: Any) -> Path:
    return wb.convert(source, out, mapping, **{"max_shard_size": SHARD_BYTES, **options})


def convert_again(source: Path, out: Path, part: tuple[int, int]) -> None:
    """Run a part again that was killed; where it had published already, it is content, and removes what is hidden."""
    assert convert(source, out, part=part) == out


def check_nothing_opens(out: Path, wanted: Path) -> None:
    """Check that the output is not there, and that what is hidden opens only as what is all but published."""
    assert not out.exists()
    hidden = parts_path(out) / "output"
    readable = [path for path in hidden.rglob("*.safetensors") if opens(path)]
    there = {name: digest for name, digest in contents(hidden).items() if hidden / name in readable}
    assert there.items() <= contents(wanted).items()
    assert not readable or {*contents(wanted)} == {*contents(hidden)}


def check_whole(out: Path, wanted: Path) -> None:
    assert contents(out) == contents(wanted)
    assert list(out.parent.iterdir()) == [out]


def refused(function: Any, *arguments: Any, **options: Any) -> WeighbridgeError:
    with pytest.raises(WeighbridgeError) as caught:
        function(*arguments, **options)
    return caught.value


# Who writes what


@pytest.mark.parametrize("seed", range(20))
def test_files_are_dealt_out_alike_in_any_order(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randrange(1, 9)
    images = [FileImage(f"{n}", chance.randrange(40), b"", ()) for n in range(chance.randrange(20))]
    parts = deal_out(images, count)
    assert sorted(image for part in parts for image in part) == sorted(images)
    assert parts == deal_out(chance.sample(images, len(images)), count)
    sizes = [sum(image.size_bytes for image in part) for part in parts]
    assert len(parts) == count
    assert max(sizes) - min(sizes) <= max((image.size_bytes for image in images), default=0)


@pytest.mark.parametrize("count", [1, 2, 4, 13])
@pytest.mark.parametrize("name", OPTIONS)
def test_any_order_gives_what_one_process_writes(
    source: Path, wanted: dict[str, Path], tmp_path: Path, name: str, count: int
) -> None:
    """13 parts are more than there are files."""
    out = tmp_path / "delivered"
    order = random.Random(f"{name} {count}").sample(range(count), count)
    for number in order:
        check_nothing_opens(out, wanted[name])
        assert convert(source, out, part=(number, count), **OPTIONS[name]) == out
    check_whole(out, wanted[name])
    if name == "hard":
        kept = next(path for path in out.glob("*.safetensors") if path.stat().st_nlink > 1)
        assert kept.samefile(source / "part-2.safetensors")
    if "digests" in OPTIONS[name]:
        assert wb.verify(out)


def test_parts_go_back_in_parts(source: Path, wanted: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "back"
    for number in (2, 0, 1):
        assert not out.exists()
        wb.revert(wanted["plain"], out, part=f"{number}/3")
    check_whole(out, source)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_at_once(source: Path, wanted: dict[str, Path], tmp_path: Path, count: int) -> None:
    """Two runs, each by processes that start at one moment; exactly one of them publishes."""
    for turn in range(2):
        out = tmp_path / str(turn) / "delivered"
        with ExitStack() as stack:
            children = [
                stack.enter_context(
                    nursery(n).child(
                        "convert", source, out, options={"max_shard_size": SHARD_BYTES, "part": (n, count)}
                    )
                )
                for n in range(count)
            ]
            assert [child.end().status for child in children] == [0] * count
        check_whole(out, wanted["plain"])


def test_launcher_says_the_part(
    source: Path, wanted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "delivered"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        convert(source, out, part="auto")
    check_whole(out, wanted["plain"])


def test_under_torchrun(source: Path, wanted: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("from interrupted import FUSED\n")
    out = tmp_path / "made" / "delivered"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "weighbridge"]
    line = ["convert", source, out, "rules.py:FUSED", "--max-shard-size", SHARD_BYTES, "--part", "auto", "--quiet"]
    search = os.pathsep.join([str(SOURCE), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": search}
    ran = subprocess.run([*launch, *map(str, line)], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    check_whole(out, wanted["plain"])


# Who dies


@pytest.fixture(scope="module")
def touches(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """How often the first and the last of three parts reach for the output; the last one publishes."""
    out = tmp_path_factory.mktemp("counted") / "delivered"
    ended = [nursery().run("convert", source, out, options=order(number)) for number in range(3)]
    assert [end.status for end in ended] == [0, 0, 0]
    assert ended[2].touches > ended[0].touches > 10
    return [end.touches for end in ended]


def order(number: int, **options: Any) -> dict[str, Any]:
    return {"max_shard_size": SHARD_BYTES, "part": (number, 3), **options}


@pytest.mark.parametrize("share", range(10))
@pytest.mark.parametrize("victim", [0, 2])
def test_part_is_killed_and_run_again(
    source: Path,
    wanted: dict[str, Path],
    touches: list[int],
    tmp_path: Path,
    victim: int,
    share: int,
) -> None:
    """The run kills itself as it reaches for its output the nth time; n is spread over all of the run."""
    out = tmp_path / "delivered"
    number = 1 + (touches[victim] - 1) * share // 9
    for part in range(3):
        if part == victim:
            assert nursery().run("convert", source, out, options=order(part), kill_at=number).was_killed
        else:
            convert(source, out, part=(part, 3))
        if not out.exists():
            check_nothing_opens(out, wanted["plain"])
    convert_again(source, out, (victim, 3))
    check_whole(out, wanted["plain"])


@pytest.mark.parametrize("seed", range(4))
def test_several_are_killed_more_than_once(
    source: Path, wanted: dict[str, Path], touches: list[int], tmp_path: Path, seed: int
) -> None:
    out, chance = tmp_path / "delivered", random.Random(seed)
    for _ in range(6):
        part = chance.randrange(3)
        nursery().run("convert", source, out, options=order(part), kill_at=chance.randrange(1, touches[0]))
        if out.exists():
            break
        check_nothing_opens(out, wanted["plain"])
    for part in range(3):
        if not out.exists():
            convert_again(source, out, (part, 3))
    check_whole(out, wanted["plain"])


def test_part_that_fails_says_what_is_kept(source: Path, wanted: dict[str, Path], tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "delivered"
    with pytest.raises(KeyboardInterrupt) as caught:
        convert(source, out, part=(0, 2), progress=interrupt)
    assert caught.value.__notes__ == [f"run this part again to go on; what is written is kept in {parts_path(out)}"]
    convert(source, out, part=(1, 2))
    check_nothing_opens(out, wanted["plain"])
    convert(source, out, part=(0, 2))
    check_whole(out, wanted["plain"])


# Who comes twice


def test_part_that_is_done_writes_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "delivered"
    convert(source, out, part=(1, 2))
    before = {path: path.stat().st_mtime_ns for path in parts_path(out).rglob("*") if path.is_file()}
    convert(source, out, part=(1, 2))
    assert {path: path.stat().st_mtime_ns for path in parts_path(out).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("harm", ["gone", "short"])
def test_mark_whose_files_are_not_there_does_not_count(
    source: Path, wanted: dict[str, Path], tmp_path: Path, harm: str
) -> None:
    out = tmp_path / "delivered"
    convert(source, out, part=(0, 2))
    path = next((parts_path(out) / "output").glob("*.safetensors"))
    if harm == "gone":
        path.unlink()
    else:
        os.truncate(path, 10)
    convert(source, out, part=(1, 2))
    check_nothing_opens(out, wanted["plain"])
    convert(source, out, part=(0, 2))
    check_whole(out, wanted["plain"])


def test_two_of_one_number_exclude_each_other(source: Path, wanted: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "delivered"
    with nursery().child("convert", source, out, options=order(0), pauses=[1]) as child:
        assert child.reach(1)
        assert refused(convert, source, out, part=(0, 3)).code == "destination-busy"
        convert(source, out, part=(1, 3))
        convert(source, out, part=(2, 3))
        check_nothing_opens(out, wanted["plain"])
        child.go_on()
        assert child.end().status == 0
    check_whole(out, wanted["plain"])


@pytest.mark.parametrize("name", ["plain", "digests"])
def test_output_that_is_there_is_not_written_again(
    source: Path, wanted: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """It is what this part would write; anything else is not."""
    out = tmp_path / "delivered"
    for number in range(2):
        convert(source, out, part=(number, 2), **OPTIONS[name])
    assert convert(source, out, part=(0, 2), **OPTIONS[name]) == out
    check_whole(out, wanted[name])
    others: list[dict[str, Any]] = [{"max_shard_size": 50_000}, {"dtype": "BF16"}, {"digests": name == "plain"}]
    for other in others:
        problem = refused(convert, source, out, **{"part": (0, 2), **OPTIONS[name], **other})
        assert problem.code == "destination-exists"
    check_whole(out, wanted[name])
    for number in range(2):
        wb.revert(out, tmp_path / "back", part=(number, 2))
    assert refused(wb.revert, out, tmp_path / "back", part=(0, 2)).code == "destination-exists"


@pytest.mark.parametrize("part", [None, (0, 2)])
def test_run_alone_and_run_in_parts_exclude_each_other(
    source: Path, tmp_path: Path, part: tuple[int, int] | None
) -> None:
    out = tmp_path / "delivered"
    codes: list[str] = []

    def other(done: int, total: int) -> None:
        rest = None if part else (1, 2)
        codes.append(refused(convert, source, out, part=rest).code)

    convert(source, out, part=part, progress=other)
    assert set(codes) == {"destination-unfinished"}


# Who disagrees


def touch(source: Path) -> None:
    path = source / "part-0.safetensors"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def add_file(source: Path) -> None:
    (source / "notes.txt").touch()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mapping": ANOTHER}, "plan"),
        ({"part": (1, 3)}, "number of parts"),
        ({"max_shard_size": 50_000}, "weight files"),
        ({"name": "weights"}, "weight files"),
        ({"digests": True}, "digests"),
        ({"sync": False}, "waits for the disk"),
        ({"link": "hard"}, "link"),
        ({"dtype": "BF16"}, "plan"),
        (touch, "files of the source"),
        (add_file, "files beside the weights"),
    ],
)
def test_parts_that_disagree_are_refused(source: Path, tmp_path: Path, change: Any, said: str) -> None:
    own, out = tmp_path / "own", tmp_path / "made" / "delivered"
    shutil.copytree(source, own)
    convert(own, out, part=(0, 2))
    before = contents(out.parent)
    if callable(change):
        change(own)
    options = {} if callable(change) else change
    problem = refused(convert, own, out, **{"part": (1, 2), **options})
    assert problem.code == "ranks-disagree"
    assert any(line.startswith(f"{said}: ") for line in problem.expected.splitlines())
    assert len(problem.expected.splitlines()) == len(problem.got.splitlines())
    assert contents(out.parent) == before
    assert [path.name for path in out.parent.iterdir()] == [parts_path(out).name]


def test_disagreement_at_one_moment_is_seen(source: Path, tmp_path: Path) -> None:
    """Of two that start at once, at least one is refused, and nothing is published."""
    for turn in range(2):
        out = tmp_path / str(turn) / "delivered"
        other = {"max_shard_size": 50_000, "part": (1, 3)}
        with (
            nursery(0).child("convert", source, out, options=order(0)) as one,
            nursery(1).child("convert", source, out, options=other) as two,
        ):
            codes = {one.end().code, two.end().code}
        assert codes in ({"ranks-disagree"}, {"ranks-disagree", ""})
        assert not out.exists()


@pytest.mark.parametrize("harm", [b"", b"[]", b"{", b'{"format": "weighbridge-part", "version": 2}'])
def test_damaged_record_is_refused(source: Path, tmp_path: Path, harm: bytes) -> None:
    out = tmp_path / "delivered"
    convert(source, out, part=(0, 2))
    (parts_path(out) / "0.json").write_bytes(harm)
    problem = refused(convert, source, out, part=(1, 2))
    assert (problem.code, problem.where) == ("resume-mismatch", str(parts_path(out) / "0.json"))


def test_link_in_place_of_the_hidden_directory_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    parts_path(tmp_path / "delivered").symlink_to("mine")
    assert refused(convert, source, tmp_path / "delivered", part=(0, 2)).code == "resume-mismatch"
    assert list((tmp_path / "mine").iterdir()) == []


def test_link_in_place_of_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "delivered"
    convert(source, out, part=(0, 2))
    record = json.loads((parts_path(out) / "0.json").read_text())
    (parts_path(out) / "0.json").write_text(json.dumps({**record, "done": None}))
    (tmp_path / "mine").write_bytes(b"mine")
    path = next((parts_path(out) / "output").glob("*.safetensors"))
    path.unlink()
    path.symlink_to(tmp_path / "mine")
    assert refused(convert, source, out, part=(0, 2)).code == "resume-mismatch"
    assert (tmp_path / "mine").read_bytes() == b"mine"


# What cannot be written in parts, and where


def test_torch_file_is_refused(source: Path, tmp_path: Path) -> None:
    problem = refused(convert, source, tmp_path / "out.pth", part=(0, 2))
    assert (problem.code, problem.what) == ("usage", "one torch file cannot be written in parts")
    assert list(tmp_path.iterdir()) == []


def test_distributed_checkpoint_is_refused(source: Path, tmp_path: Path) -> None:
    problem = refused(convert, source, tmp_path / "out", part=(0, 2), to="dcp")
    assert (problem.code, problem.what) == ("usage", "a distributed checkpoint cannot be written in parts")
    assert list(tmp_path.iterdir()) == []


def test_tensors_in_memory_are_refused(tmp_path: Path) -> None:
    assert refused(wb.convert, {"a": torch.ones(3)}, tmp_path / "out", part=(0, 2)).code == "usage"
    assert refused(wb.save, torch.nn.Linear(2, 3), tmp_path / "out", (), part=(0, 2)).code == "usage"
    assert list(tmp_path.iterdir()) == []


def test_empty_directory_gives_its_mode(source: Path, wanted: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "delivered"
    out.mkdir(mode=0o750)
    out.chmod(0o750)
    for number in range(2):
        convert(source, out, part=(number, 2))
        hidden = parts_path(out)
        assert not hidden.exists() or hidden.stat().st_mode & 0o777 == 0o750
    check_whole(out, wanted["plain"])
    assert out.stat().st_mode & 0o777 == 0o750


def test_refusal_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").touch()
    assert refused(convert, source, tmp_path / "new", part=(0, 2)).code == "destination-exists"
    assert refused(convert, source, tmp_path / "a" / "b" / "out", "nowhere", part=(0, 2)).code == "mapping-not-found"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_file_system_without_locks(
    source: Path, wanted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, the file of a part that died must be removed by hand: it may be that of one that goes on."""

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", fail)
    out = tmp_path / "delivered"
    convert(source, out, part=(0, 2))
    left = parts_path(out) / "1.lock"
    left.touch()
    problem = refused(convert, source, out, part=(1, 2))
    assert (problem.code, problem.where) == ("destination-unfinished", str(left))
    assert "remove this file" in problem.hint
    left.unlink()
    convert(source, out, part=(1, 2))
    check_whole(out, wanted["plain"])
    assert not partial_path(out).exists()


# The command


def test_command(source: Path, wanted: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("from interrupted import FUSED\n")
    line = ("convert", str(source), "made/delivered", "rules.py:FUSED", "--max-shard-size", str(SHARD_BYTES))
    search = str(ROOT / "tests")
    first = run(tmp_path, *line, "--part", "1/2", PYTHONPATH=search)
    assert (first.status, first.err) == (0, "")
    assert first.out == "done      this part of made/delivered, which appears when all parts are done\n"
    last = run(tmp_path, *line, "--part", "0/2", "--json", PYTHONPATH=search)
    assert last.status == 0
    assert set(last.form["files"]) == {path.name for path in wanted["plain"].iterdir()}
    check_whole(tmp_path / "made" / "delivered", wanted["plain"])
    for number in range(2):
        assert run(tmp_path, "revert", "made/delivered", "back", "--part", f"{number}/2").status == 0
    assert contents(tmp_path / "back") == contents(source)


@pytest.mark.parametrize(("part", "words"), [("2/2", "numbers begin at 0"), ("half", "number and count")])
def test_command_refuses_what_is_no_part(source: Path, tmp_path: Path, part: str, words: str) -> None:
    ran = run(tmp_path, "convert", str(source), "out", "--part", part)
    assert (ran.status, words in ran.err, ran.out) == (2, True, "")
    assert list(tmp_path.iterdir()) == []
