"""The commands by their names, each loaded when it is asked for: who inspects does not wait for what plans."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

CONTEXT_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}
"""What every command takes as a wish for help."""

_PLACES: Final = {
    "inspect": "inspect_command:inspect",
    "detect": "detecting:detect",
    "plan": "plan_commands:plan",
    "explain": "plan_commands:explain",
    "convert": "conversion_commands:convert",
    "revert": "conversion_commands:revert",
    "verify": "verifying:verify",
    "diff": "diffing:diff",
    "infer": "inference_commands:infer",
    "new": "inference_commands:new",
    "lint": "linting:lint",
    "mapping": "mapping_commands:app",
}
"""The place of each command, in the order in which help lists them."""


class LazyCommands(TyperGroup):
    """A group whose commands are loaded one by one; for help, and for a name that is none of them, all are."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(_PLACES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None; what is misspelt is compared with every name that is there."""
        for name in [cmd_name] if cmd_name in _PLACES else _PLACES:
            if name not in self.commands:
                self.commands[name] = _load(name)
        return super().get_command(ctx, cmd_name)


def _load(name: str) -> Any:
    module, _, attribute = _PLACES[name].partition(":")
    found = getattr(import_module(f"weighbridge.cli.commands.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return get_command(found)
    alone = typer.Typer(add_completion=False, context_settings=CONTEXT_SETTINGS)
    alone.command(name)(found)
    return get_command(alone)
