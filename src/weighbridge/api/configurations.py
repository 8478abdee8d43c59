"""Find the configuration that operations read their sizes from: given, a model's, or beside a target or a source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighbridge.api.settings import Settings
from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.mappings.schemes.said import BESIDE, CONFIG, QUANTISATION, SAID
from weighbridge.models.model_sources import is_model
from weighbridge.models.wrappers import unwrap
from weighbridge.operations.configuration import UnreadConfig
from weighbridge.storage.places.regular_files import read_settings, read_small_file
from weighbridge.storage.remote.addresses import is_elsewhere, path_or_address, read_address
from weighbridge.storage.remote.folders import find_beside
from weighbridge.storage.remote.remote_files import Location

if TYPE_CHECKING:
    from weighbridge.mappings.schemes.bitsandbytes import State
    from weighbridge.planning.grouped.weights import Saying
    from weighbridge.storage.places.directory import Extra
    from weighbridge.storage.protocol import Checkpoint


def config_for(given: Any, source: Checkpoint, target: Any, place: Any = None) -> Any:
    """Return the configuration of a plan.

    Args:
        given: The configuration, or the path of a JSON file that holds it, or of a directory with a `config.json`. None
            to find it, as `config_of` does. `Settings` to lay them over it.
        source: The opened checkpoint.
        target: What is wanted.
        place: What the checkpoint was opened from.

    Raises:
        WeighbridgeError: `usage` for a file that holds no configuration.
        CheckpointError: `checkpoint-not-found`, `read-failed`.
    """
    if isinstance(given, Settings):
        return given.over(config_for(given.config, source, target, place))
    return config_of(source, target, place) if given is None else read_given(given)


def read_given(given: Any) -> Any:
    """Return what was given as the configuration, which may be the path of a file that holds it.

    Raises:
        WeighbridgeError: `usage` for a file that holds no configuration.
        CheckpointError: `checkpoint-not-found`, `read-failed`.
    """
    if not isinstance(given, str | Path):
        return given
    if is_elsewhere(given):
        return _object(_read_elsewhere(str(given)), str(given))
    path = Path(path_or_address(given)).expanduser()
    path = path / CONFIG if path.is_dir() else path
    return _object(_read(path), str(path))


def _read_elsewhere(address: str) -> Any:
    """Read the configuration that an address names, or the one in the folder that it names.

    Raises:
        CheckpointError: `checkpoint-not-found`, and as `open`.
    """
    name = read_address(address).file_name or CONFIG
    found = find_beside(address, name)
    if found is None:
        what = "there is no such file"
        raise CheckpointError("checkpoint-not-found", what, where=read_address(address).text, expected=name)
    return _parse(read_settings(found), found)


def _object(found: Any, where: str) -> dict[str, Any]:
    if isinstance(found, dict):
        return found
    cause = found.cause if isinstance(found, UnreadConfig) else f"a {type(found).__name__}"
    raise WeighbridgeError("usage", "this is no configuration", where=where, expected="a JSON object", got=cause)


def config_near(given: Any, folder: Path) -> Any:
    """Return the configuration that was given, or else the `config.json` of a folder; None where there is none.

    Args:
        given: As for `config_for`.
        folder: Where the files of a source are.
    """
    if isinstance(given, Settings):
        return given.over(config_near(given.config, folder))
    path = folder / CONFIG
    return read_given(given) if given is not None else _read(path) if path.is_file() else None


def config_of(source: Checkpoint, target: Any, place: Any = None) -> Any:
    """Find the configuration: that of a model, as target or as source, or a `config.json`.

    That of a target which is a directory comes first, as a model's does; then that beside the source's weights.

    Args:
        source: The opened checkpoint.
        target: What is wanted.
        place: What the checkpoint was opened from.
    """
    models = (unwrap(each) if is_model(each) else each for each in (target, place))
    config = next((found for model in models if (found := getattr(model, "config", None))), None)
    config = _config_in(target) if config is None else config
    return config_beside(source) if config is None else config


def _config_in(target: Any) -> Any:
    """Return what the `config.json` of a target's directory says; None where there is none."""
    if hasattr(target, "extras"):
        return config_beside(target)
    if not isinstance(target, str | Path):
        return None
    place = path_or_address(target)
    if isinstance(place, str):
        found = find_beside(place, CONFIG)
        return None if found is None else _parse(read_settings(found), found)
    path = place / CONFIG
    return _read(path) if path.is_file() else None


def config_beside(source: Checkpoint, name: str = CONFIG) -> Any:
    """Return what the `config.json` beside a checkpoint's weights says, or another file; None where there is none."""
    path = next((extra.path for extra in source.extras if extra.name == name), None)
    return None if path is None else _parse(read_settings(path), path)


def notes_on(config: Any) -> tuple[str, ...]:
    """Say that a configuration was found and cannot be read: it is taken for none until something of it is asked."""
    found = config.config if isinstance(config, Settings) else config
    if not isinstance(found, UnreadConfig):
        return ()
    return (f"{found.where} cannot be read, and is taken for none: {found.cause}",)


def saying_of(source: Checkpoint, config: Any, *, is_given: bool = True) -> Saying | None:
    """Return what is said of how a checkpoint's weights are quantised; None for nothing.

    What was given as the configuration comes first; then what lies beside the weights; then what was found elsewhere.

    Args:
        source: The opened checkpoint.
        config: The configuration of the plan.
        is_given: Whether that was given.
    """
    beside = {name: config_beside(source, name) for name in BESIDE}
    own = config_beside(source)
    asked = (config, own) if is_given else (own, config)
    said = next((each for each in asked if isinstance(each, Mapping) and any(name in each for name in SAID)), None)
    if said is None and all(found is None for found in beside.values()):
        return None
    from weighbridge.planning.grouped.weights import Saying

    return Saying({}, beside) if said is None else Saying(said, beside, _states(source, said))


def read_extra(extra: Extra) -> bytes:
    """Return what a file beside the weights is to hold.

    Raises:
        CheckpointError: `read-failed`.
    """
    return read_settings(extra.path) if extra.content is None else extra.content


def with_states_of(saying: Saying | None, target: Checkpoint | None) -> Saying | None:
    """Return what is said of a source's weights, with what stands beside those of a target of the same format.

    Args:
        saying: What is said of the source's.
        target: The opened target; None where it is none that could be read.

    Raises:
        CheckpointError: The codes of reading.
    """
    if saying is None or not saying.states or target is None:
        return saying
    return replace(saying, wanted_states=_states(target, saying.config))


def _states(source: Checkpoint, said: Mapping[str, Any]) -> dict[str, State]:
    """Read the texts beside weights of bitsandbytes' 4 bits; none of what has no data.

    Raises:
        CheckpointError: The codes of reading.
    """
    part = said.get(QUANTISATION)
    if not isinstance(part, Mapping) or part.get("quant_method") != "bitsandbytes":
        return {}
    from weighbridge.mappings.schemes.bitsandbytes import MOST_STATE_BYTES, read_state
    from weighbridge.mappings.schemes.endings import STATE

    found: dict[str, State] = {}
    try:
        for key, spec in source.header.items():
            if f".{STATE}." in key and spec.dtype == "U8" and spec.numel <= MOST_STATE_BYTES:
                raw = bytearray(spec.numel)
                source.read(key, 0, memoryview(raw))
                state = read_state(bytes(raw))
                found |= {} if state is None else {key: state}
    except CheckpointError as problem:
        if problem.code != "data-missing":
            raise
    return found


def _read(path: Path) -> Any:
    return _parse(read_small_file(path)[0], path)


def _parse(raw: bytes, path: Location) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as problem:
        return UnreadConfig(str(path), str(problem))
