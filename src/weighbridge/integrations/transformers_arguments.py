"""Arguments of the library's own call: which have no part in a load through a plan, and what others ask for."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.base.errors import CheckpointError, PatternError, RegistryError, WeighbridgeError
from weighbridge.base.file_names import INDEX_SUFFIX
from weighbridge.base.secrets_of_addresses import without_secrets
from weighbridge.mappings.library_parts import library_module, library_name
from weighbridge.mappings.transformers_table import import_transform
from weighbridge.mappings.transforms import Transform
from weighbridge.storage import open_checkpoint
from weighbridge.storage.opening import open_weights_named
from weighbridge.storage.opening_elsewhere import open_address, open_named_elsewhere
from weighbridge.storage.places.rank_pieces import are_of_ranks
from weighbridge.storage.places.regular_files import SMALL_BYTES, read_settings
from weighbridge.storage.remote.addresses import HUB, is_elsewhere

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_REFUSED: Final = {
    "gguf_file": ("it is of a format that is not read here", "load a GGUF file with the library itself"),
    "quantization_config": (
        "it computes codes of the weights, which no plan does",
        "leave it out: weights are loaded as they are, and quantised afterwards",
    ),
}
"""Arguments of the library's call that a plan has no part for: why, and what to do in their place."""

_SPREADING: Final = ("distributed_config", "tp_plan", "tp_size")
"""Arguments of the library's call by which it spreads a model over processes."""

_DOWNLOAD: Final = ("cache_dir", "force_download", "local_files_only", "revision", "token")


_OF_DOWNLOADS: Final = {
    "cache_dir": ("nothing is put into a cache", "leave it out, or load without stream=True"),
    "force_download": ("each byte comes anew as it is", "leave it out"),
    "local_files_only": ("what is here already is no stream", "load without stream=True"),
    "state_dict": ("it holds the weights itself", "give None for the path, and leave out stream=True"),
}
"""Arguments that have no meaning for weights which come by ranges: why, and what to do."""


class Asked(NamedTuple):
    """What the library's own arguments ask of a load.

    Args:
        renames: Renames of the caller's, which run before the rules that a model has.
        ignores_sizes: Whether weights that the checkpoint holds in another size are made anew.
        info: Whether the library is to say what it found, beside the model.
    """

    renames: tuple[Transform, ...] = ()
    ignores_sizes: bool = False
    info: bool = False


def refuse_arguments(
    model_class: Any, path: str | Path | None, config: Any, device: Any, arguments: Mapping[str, Any]
) -> None:
    """Refuse arguments that a load through a plan cannot do as the library means them, or that contradict each other.

    Args:
        model_class: The class to load.
        path: Where the checkpoint is.
        config: The configuration, if one is given.
        device: Where the model is wanted, if that was said.
        arguments: The library's own arguments.

    Raises:
        RegistryError: `integration-unsupported`.
        WeighbridgeError: `usage` for two words on where the model is wanted, or on where its weights are, and for none.
    """
    _refuse(_REFUSED, arguments, "a load through a plan does not take these arguments")
    if device is not None and arguments.get("device_map") is not None:
        got = f"device={device!r} and device_map={arguments['device_map']!r}"
        what, hint = "both say where the model is wanted", "give one of the two"
        raise WeighbridgeError("usage", what, got=got, hint=hint)
    _refuse_places(model_class, path, config, arguments.get("state_dict"))
    _refuse_devices({**arguments, "device": device})


def _refuse(refused: Mapping[str, tuple[str, str]], arguments: Mapping[str, Any], what: str) -> None:
    """Refuse the arguments of a table that are given: each with why, and what to do."""
    names = [name for name in refused if arguments.get(name)]
    if names:
        got = "\n".join(f"{name}: {refused[name][0]}" for name in names)
        hint = "\n".join(dict.fromkeys(refused[name][1] for name in names))
        raise RegistryError("integration-unsupported", what, got=got, hint=hint)


def _refuse_devices(arguments: Mapping[str, Any]) -> None:
    """Refuse a device for a model that is spread: each process's part lies where the library puts it."""
    spreading = [name for name in _SPREADING if arguments.get(name) is not None]
    placing = [name for name in ("device", "device_map") if arguments.get(name) is not None]
    if spreading and placing:
        raise RegistryError(
            "integration-unsupported",
            "the library says itself on which device of a process its part of a spread model lies",
            got=f"{placing[0]} beside {', '.join(spreading)}",
            hint=f"leave out {placing[0]}=, and give each process its device as torchrun does, by LOCAL_RANK",
        )


def _refuse_places(model_class: Any, path: str | Path | None, config: Any, state_dict: Any) -> None:
    """Refuse two places that have the weights, and none; and a state dict alone, which does not say what is made."""
    if (path is None) == (state_dict is None):
        what, got = "one place has a model's weights", "none" if path is None else f"{path} and state_dict="
        hint = "give a path, or None and state_dict= with config="
        raise WeighbridgeError("usage", what, expected="a path, or a state dict", got=got, hint=hint)
    if path is None and (config is None or not hasattr(model_class, "base_model_prefix")):
        what, got = "a state dict does not say what it is of", getattr(model_class, "__name__", repr(model_class))
        hint = "give the class of the model itself, and its configuration: config="
        raise WeighbridgeError("usage", what, expected="a class and a configuration", got=got, hint=hint)


def refuse_folder(folder: str | Path | None, directory: Path | None) -> None:
    """Refuse to let the library write what it offloads beside the weights of the checkpoint.

    Args:
        folder: The offload folder, if there is one.
        directory: The checkpoint, if it is in one.

    Raises:
        WeighbridgeError: `usage`.
    """
    if folder is None or directory is None:
        return
    if Path(folder).resolve().is_relative_to(directory.resolve()):
        what, hint = "the offload folder is inside of the checkpoint", "give it a directory of its own"
        raise WeighbridgeError("usage", what, where=str(folder), got=str(directory), hint=hint)


def accelerator(device: Any) -> Any:
    """Return the device on which the library can make a model from the start; None if there is none to speak of."""
    import torch

    if device is None or torch.device(device).type == "cpu" or importlib.util.find_spec("accelerate") is None:
        return None
    return torch.device(device)


def open_weights(path: str | Path | None, arguments: dict[str, Any]) -> tuple[Checkpoint, Path | None]:
    """Open the weights that the library would load, and return the directory that they are in, if they are in one.

    Args:
        path: Directory of the checkpoint, or a name on the hub; None for a state dict, which lies in no directory.
        arguments: The library's own arguments.

    Raises:
        CheckpointError: `checkpoint-not-found`, and as `open_checkpoint`.
        RegistryError: `integration-unsupported` for what the library loads by itself, without a conversion.
        WeighbridgeError: `usage` for a folder that weights go to inside of the checkpoint.
    """
    found = _open_weights(path, arguments)
    refuse_folder(arguments.get("offload_folder"), found[1])
    return found


def _open_weights(path: str | Path | None, arguments: dict[str, Any]) -> tuple[Checkpoint, Path | None]:
    if path is None:
        checkpoint = open_checkpoint(arguments["state_dict"])
        if arguments["state_dict"] is checkpoint:
            arguments["state_dict"] = {}  # the library is to look for no tensors in what was opened already
        return checkpoint, None
    directory, variant = _local_directory(path, arguments), arguments.get("variant")
    _refuse_pieces(directory)
    if variant is None:
        return open_checkpoint(directory), directory
    return open_weights_named(
        directory, _name_of_variant(directory, variant, arguments.get("use_safetensors"))
    ), directory


def _refuse_pieces(directory: Path) -> None:
    """Refuse files that processes saved their pieces in: the library reads these in a way of its own."""
    names = sorted(path.name for path in directory.glob("shard-*.safetensors"))
    if are_of_ranks(names):
        raise RegistryError(
            "integration-unsupported",
            "the library reads the files of several processes by itself, and no plan has a part in that",
            where=str(directory),
            got=", ".join(names[:4]),
            hint="weighbridge.convert(directory, out, []) makes one checkpoint of them, which loads",
        )


def _name_of_variant(directory: Path, variant: str, use_safetensors: bool | None) -> str:
    """Return the file, or the index, in which the library looks for a variant first."""
    kinds = [] if use_safetensors is False else ["model.safetensors"]
    kinds += [] if use_safetensors else ["pytorch_model.bin"]
    names = _names_of_variant(variant, kinds)
    found = next((name for name in names if (directory / name).is_file()), None)
    if found is None:
        what, expected = f"there are no weights of the variant {variant!r}", " or ".join(names)
        got = ", ".join(sorted(file.name for file in directory.glob("*model*")))
        hint = "leave out variant=, or take the one that the names of the files say"
        raise CheckpointError("checkpoint-not-found", what, where=str(directory), expected=expected, got=got, hint=hint)
    return found


def _names_of_variant(variant: str, kinds: Sequence[str]) -> list[str]:
    """Return the names that a variant of files, or of their indexes, may have, in the library's order."""
    parts = (name.rpartition(".") for kind in kinds for name in (kind, kind + INDEX_SUFFIX))
    return [f"{stem}.{variant}.{suffix}" for stem, _, suffix in parts]


def _local_directory(path: str | Path, arguments: Mapping[str, Any]) -> Path:
    """Return the directory of a checkpoint; one from the hub is fetched first, weights and settings only."""
    root = Path(path)
    if not root.exists() and (root.is_absolute() or str(path).count("/") != 1 or str(path).startswith(".")):
        raise CheckpointError("checkpoint-not-found", "there is no such directory", where=str(path))
    if not root.exists():
        from huggingface_hub import snapshot_download

        wanted = {name: arguments[name] for name in _DOWNLOAD if arguments.get(name) is not None}
        variant = arguments.get("variant")
        weights = ["*.safetensors"] if variant is None else [f"*.{variant}.safetensors", f"*.{variant}-*.safetensors"]
        root = Path(snapshot_download(str(path), allow_patterns=[*weights, "*.json", "*.model"], **wanted))
    return root / arguments["subfolder"] if arguments.get("subfolder") else root


def asked_of(arguments: Mapping[str, Any]) -> Asked:
    """Read the arguments of the library's that change what is loaded, and what is said of it.

    Raises:
        RegistryError: `integration-version`.
        PatternError: `pattern-syntax` for a name to look for that cannot be read.
    """
    kind = library_name(library_module("core_model_loading"), "WeightRenaming")
    renames = tuple(_rename(kind, old, new) for old, new in (arguments.get("key_mapping") or {}).items())
    sizes, info = arguments.get("ignore_mismatched_sizes"), arguments.get("output_loading_info")
    return Asked(renames, ignores_sizes=bool(sizes), info=bool(info))


def _rename(kind: Any, old: str, new: str) -> Transform:
    try:
        rule = kind(source_patterns=old, target_patterns=new)
    except (re.error, ValueError) as problem:
        raise PatternError("pattern-syntax", f"the library cannot read this pattern: {problem}", where=old) from problem
    return import_transform(rule)


def open_streamed(path: str | Path, arguments: dict[str, Any]) -> Checkpoint:
    """Open the weights of a model by the name of a repository, or by an address.

    Args:
        path: The name, as the library takes it, or an address.
        arguments: The library's own arguments; those that say where the weights are, are taken out.

    Raises:
        RegistryError: `integration-unsupported` for arguments that have no meaning here.
        WeighbridgeError: `usage` for a revision, or a token, of what is no repository of the hub, and for no token.
        CheckpointError: As `open_checkpoint`.
    """
    _refuse(_OF_DOWNLOADS, arguments, "a model that is streamed does not take these arguments")
    for name in _OF_DOWNLOADS:
        arguments.pop(name, None)
    revision, folder, token, variant = (
        arguments.pop(name, None) for name in ("revision", "subfolder", "token", "variant")
    )
    text = str(path) if is_elsewhere(path) else f"hf://{path}"
    given = [name for name, value in (("revision", revision), ("token", token)) if value is not None]
    if token is False or (given and not text.startswith(f"{HUB}://")) or (revision and "@" in text):
        what, hint = "the address says this already, or the place has none", "leave it out, or give it at one place"
        raise WeighbridgeError("usage", what, where=without_secrets(text), got=", ".join(given), hint=hint)
    text += (f"@{revision}" if revision else "") + (f"/{folder}" if folder else "")
    own = token if type(token) is str else ""
    if variant is not None:
        return open_named_elsewhere(text, _names_of_variant(variant, ["model.safetensors"]), own)
    return open_address(text, own) if own else open_checkpoint(text)


@contextmanager
def settings_of(checkpoint: Checkpoint) -> Iterator[Path]:
    """Put the small files beside weights, configuration and code of the model among them, into a folder for a while.

    Args:
        checkpoint: The opened checkpoint.

    Raises:
        CheckpointError: The codes of reading.
    """
    with TemporaryDirectory(prefix="weighbridge-settings-") as made:
        for extra in checkpoint.extras:
            is_setting = extra.name.endswith((".json", ".py")) and "tokenizer" not in extra.name
            if is_setting and "/" not in extra.name and extra.size_bytes <= SMALL_BYTES:
                content = read_settings(extra.path) if extra.content is None else extra.content
                Path(made, extra.name).write_bytes(content)
        yield Path(made)


class Late(NamedTuple):
    """What a model is given when it is loaded.

    Args:
        name: What the library is to call it, if it does not know.
        generation: Its generation settings, if the library does not know them.
    """

    name: str = ""
    generation: Any = None

    def settle(self, model: Any, device: Any) -> None:
        """Give a loaded model what the library would have given it, and bring it to a device."""
        if self.name:
            model.name_or_path = model.config.name_or_path = self.name
        if self.generation is not None and model.can_generate():
            model.generation_config = self.generation
        if device is not None:
            model.to(device)


def whence(
    model_class: Any, path: str | Path | None, config: Any, arguments: dict[str, Any], *, stream: bool
) -> tuple[Any, str | Path | None, Any, Late]:
    """Tell what a model is loaded by; one from elsewhere is opened: its settings come here for a while.

    Args:
        model_class: A model class of the library, or one of its `Auto` classes.
        path: A directory, a name on the hub, or with `stream` an address.
        config: The configuration, if one is given.
        arguments: The library's own arguments; weights from elsewhere become its `state_dict`.
        stream: Whether the weights are to come by ranges from where they lie.

    Returns:
        The class, the place and the configuration for the library, and what the model is given afterwards.

    Raises:
        RegistryError: `integration-unsupported`, `integration-version`.
        CheckpointError: As `open_checkpoint`.
    """
    if not stream or path is None:
        return model_class, path, config, Late()
    import transformers

    checkpoint = open_streamed(path, arguments)
    with settings_of(checkpoint) as folder:
        if config is None:
            trusted = {"trust_remote_code": arguments.get("trust_remote_code")}
            config = transformers.AutoConfig.from_pretrained(folder, **trusted)
        generation = read_generation(folder)
    arguments["state_dict"] = checkpoint
    return class_for(model_class, config), None, config, Late(without_secrets(str(path)), generation)


def class_for(model_class: Any, config: Any) -> Any:
    """Return the class of the model itself, where one of the library's `Auto` classes was asked for.

    Raises:
        RegistryError: `integration-unsupported` for a configuration that it has no class for; `integration-version`.
    """
    if hasattr(model_class, "base_model_prefix"):
        return model_class
    classes: Mapping[Any, Any] = library_name(model_class, "_model_mapping")
    if type(config) not in classes:
        what, got = "this class makes no model of this configuration", type(config).__name__
        raise RegistryError("integration-unsupported", what, where=model_class.__name__, got=got)
    found = classes[type(config)]
    named = [kind for kind in found if kind.__name__ in (config.architectures or ())] if type(found) is tuple else []
    return named[0] if named else found[0] if type(found) is tuple else found


def read_generation(folder: Path) -> Any:
    """Return the generation settings of a folder; None where there are none."""
    import transformers

    name = "generation_config.json"
    return transformers.GenerationConfig.from_pretrained(folder) if (folder / name).is_file() else None
