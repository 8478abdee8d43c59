"""Load a model of the library from elsewhere by ranges of bytes: nothing of its weights comes to lie on this disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from weighbridge.base.errors import RegistryError
from weighbridge.mappings.transformers_table import library_name
from weighbridge.storage import open_checkpoint
from weighbridge.storage.places.regular_files import SMALL_BYTES, read_settings
from weighbridge.storage.remote.addresses import is_elsewhere

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_REFUSED: Final = ("variant", "state_dict", "cache_dir", "force_download", "local_files_only", "token")
"""Arguments that speak of files which are fetched whole, or that are given in another way here."""


def open_streamed(path: str | Path, arguments: dict[str, Any]) -> Checkpoint:
    """Open the weights of a model by the name of a repository, or by an address.

    Args:
        path: The name, as the library takes it, or an address.
        arguments: The library's own arguments; those that say where the weights are, are taken out.

    Raises:
        RegistryError: `integration-unsupported` for arguments that have no meaning here.
        CheckpointError: As `open_checkpoint`.
    """
    given = [name for name in _REFUSED if arguments.get(name) is not None]
    if given:
        what, hint = "a model that is streamed does not take these arguments", "leave them out; HF_TOKEN is a token"
        raise RegistryError("integration-unsupported", what, got=", ".join(given), hint=hint)
    revision, folder = arguments.pop("revision", None), arguments.pop("subfolder", None)
    if is_elsewhere(path):
        return open_checkpoint(str(path))
    text = f"hf://{path}" + (f"@{revision}" if revision else "") + (f"/{folder}" if folder else "")
    return open_checkpoint(text)


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
