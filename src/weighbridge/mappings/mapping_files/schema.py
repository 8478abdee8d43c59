"""The JSON schema of a mapping file, by which an editor completes and checks one.

Source of the format: https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

from typing import Any

from weighbridge.mappings.mapping_files.mapping_forms import MappingForm


def build_schema() -> dict[str, Any]:
    """Return the schema."""
    schema: dict[str, Any] = _without_noise(MappingForm.model_json_schema())
    operation = schema["$defs"]["OperationForm"]
    operation |= {"minProperties": 1, "maxProperties": 1}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "weighbridge mapping file"}
    return head | schema


def _without_noise(part: Any) -> Any:
    """Leave out the titles, which repeat the names, and the defaults that say nothing."""
    if isinstance(part, dict):
        noise = {name for name in ("title", "default") if isinstance(part.get(name), str | None)} - {""}
        return {name: _without_noise(item) for name, item in part.items() if name not in noise}
    return [_without_noise(item) for item in part] if isinstance(part, list) else part
