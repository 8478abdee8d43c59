"""What a class needs in its configuration beside the defaults, as data: those whose defaults make no model."""

from __future__ import annotations

from typing import Any, Final

RECIPES: Final[dict[str, dict[str, Any]]] = {}
"""Values of the configuration by class name, or by the name of the configuration's class."""


def recipe(kind: Any) -> Any:
    """Return the configuration that a class is made with."""
    values = {**RECIPES.get(kind.config_class.__name__, {}), **RECIPES.get(kind.__name__, {})}
    return kind.config_class(**values)
