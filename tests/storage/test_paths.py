"""No name leads out of a checkpoint's directory, but for a hub's snapshot into the blobs of its own repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb

SECRET = "an ssh key, say"


def snapshot(folder: Path, repository: str = "models--x--y") -> Path:
    """Make a repository as the hub's cache has it, with one file of weights."""
    root = folder / repository
    (root / "snapshots" / "main").mkdir(parents=True)
    (root / "blobs").mkdir()
    save_file({"a": torch.arange(3.0)}, root / "blobs" / "0123")
    (root / "snapshots" / "main" / "model.safetensors").symlink_to("../../blobs/0123")
    return root / "snapshots" / "main"


def private(folder: Path) -> Path:
    """Make a folder that nobody meant to share."""
    path = folder / "home" / ".ssh"
    path.mkdir(parents=True)
    (path / "id_rsa").write_text(SECRET)
    save_file({"secret": torch.arange(3.0)}, path / "weights")
    return path


def link_blobs(place: Path, home: Path) -> None:
    blobs = place.parent.parent / "blobs"
    blobs.rename(blobs.with_name("other"))
    blobs.symlink_to(home, target_is_directory=True)


def link_blobs_by_a_chain(place: Path, home: Path) -> None:
    link_blobs(place, place.parent.parent / "more")
    (place.parent.parent / "more").symlink_to(home, target_is_directory=True)


def link_a_blob(place: Path, home: Path) -> None:
    (place.parent.parent / "blobs" / "id_rsa").symlink_to(home / "id_rsa")


def keep_blobs(place: Path, home: Path) -> None:
    (place / "config.json").symlink_to(home / "id_rsa")


ESCAPES = {
    "blobs is a link": link_blobs,
    "blobs is a chain of links": link_blobs_by_a_chain,
    "a blob is a link": link_a_blob,
    "a file is a link": keep_blobs,
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_g12_no_file_beside_the_weights_comes_from_elsewhere(
    escape: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    place, home = snapshot(tmp_path), private(tmp_path)
    escape(place, home)
    if not (place / "config.json").is_symlink():
        (place / "config.json").symlink_to("../../blobs/id_rsa")
    if not (place / "model.safetensors").exists():  # the weights were among the blobs
        (place / "model.safetensors").unlink()
        save_file({"a": torch.arange(3.0)}, place / "model.safetensors")
    source = wb.open(place)
    assert source.extras == ()
    assert "config.json" in source.notes[0]
    out = wb.convert(place, tmp_path / "out", [])
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "weighbridge.json"]


@pytest.mark.parametrize("escape", [link_blobs, link_blobs_by_a_chain])
@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00001.safetensors"])
def test_g12_no_weights_come_from_elsewhere(escape: Callable[[Path, Path], None], name: str, tmp_path: Path) -> None:
    place, home = snapshot(tmp_path), private(tmp_path)
    escape(place, home)
    (place / "model.safetensors").unlink()
    (place / name).symlink_to("../../blobs/weights")
    with pytest.raises(wb.CheckpointError) as caught:
        wb.open(place)
    assert caught.value.code == "path-unsafe"


@pytest.mark.parametrize("repository", ["downloads", "models", "x--models--y", "snapshots"])
def test_g12_only_a_repository_of_the_cache_has_blobs(repository: str, tmp_path: Path) -> None:
    """Elsewhere a folder of that name is somebody else's."""
    with pytest.raises(wb.CheckpointError) as caught:
        wb.open(snapshot(tmp_path, repository))
    assert caught.value.code == "path-unsafe"


@pytest.mark.parametrize("repository", ["models--x--y", "datasets--x", "spaces--x--y"])
def test_a_snapshot_is_read_through_any_path_to_it(repository: str, tmp_path: Path) -> None:
    place = snapshot(tmp_path, repository)
    (tmp_path / "cache").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "here").symlink_to(place, target_is_directory=True)
    for path in (place, tmp_path / "cache" / repository / "snapshots" / "main", tmp_path / "here"):
        assert list(wb.open(path).header) == ["a"]


def test_a_snapshot_of_another_repository_is_elsewhere(tmp_path: Path) -> None:
    place = snapshot(tmp_path)
    other = snapshot(tmp_path, "models--z")
    (place / "model.safetensors").unlink()
    (place / "model.safetensors").symlink_to(other.parent.parent / "blobs" / "0123")
    with pytest.raises(wb.CheckpointError) as caught:
        wb.open(place)
    assert caught.value.code == "path-unsafe"


def link_a_file(place: Path, name: str, home: Path) -> None:
    (place / name).rename(place / "kept")
    (place / name).symlink_to(home / "id_rsa")


def link_the_folder(place: Path, name: str, home: Path) -> None:
    inside = (place / name).resolve().parent
    inside.rename(inside.with_name("kept"))
    inside.symlink_to(home, target_is_directory=True)


def link_the_same_file(place: Path, name: str, home: Path) -> None:
    """Even the very same bytes are another place, which the checkpoint was not opened from."""
    (place / name).rename(home / name.replace("/", "_"))
    (place / name).symlink_to(home / name.replace("/", "_"))


SWAPS = {
    "weights": ("model.safetensors", link_a_file),
    "weights, by the same file": ("model.safetensors", link_the_same_file),
    "the folder of the weights": ("model.safetensors", link_the_folder),
    "the configuration": ("config.json", link_a_file),
    "the configuration, by the same file": ("config.json", link_the_same_file),
    "a file in a folder beside": ("code/modeling.py", link_a_file),
    "the folder beside": ("code/modeling.py", link_the_folder),
}


@pytest.mark.parametrize(("name", "swap"), SWAPS.values(), ids=SWAPS)
@pytest.mark.parametrize("run", ["convert", "link"])
def test_g12_a_link_that_is_put_in_between_planning_and_running_is_seen(
    name: str, swap: Callable[[Path, str, Path], None], run: str, tmp_path: Path
) -> None:
    place, home = tmp_path / "model", private(tmp_path)
    (place / "code").mkdir(parents=True)
    save_file({"a": torch.arange(3.0)}, place / "model.safetensors")
    (place / "config.json").write_text("{}")
    (place / "code" / "modeling.py").write_text("pass")
    for inner in ("model.safetensors", "config.json", "modeling.py"):
        (home / inner).write_text(SECRET)  # what a folder that is a link would lead to
    plan = wb.plan(place, [])
    swap(place, name, home)
    with pytest.raises(wb.CheckpointError) as caught:
        plan.write(tmp_path / "out", link="hard" if run == "link" else "never")
    assert caught.value.code == "source-changed"
    assert not (tmp_path / "out").exists()
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.glob(".*/**/*") if path.is_file())


def test_g12_what_is_read_beside_the_weights_is_no_link_by_then(tmp_path: Path) -> None:
    place, home = tmp_path / "model", private(tmp_path)
    place.mkdir()
    save_file({"q": torch.arange(8.0).reshape(4, 2)}, place / "model.safetensors")
    (place / "config.json").write_text('{"num_attention_heads": 1}')
    source = wb.open(place)
    link_a_file(place, "config.json", home)
    with pytest.raises(wb.CheckpointError) as caught:
        wb.plan(source, [wb.WeightConverter("q", "p", [wb.PermuteForRope()])])
    assert caught.value.code == "source-changed"
    assert wb.plan(wb.open(place), []).source_files is not None  # opened anew, it is left aside
