"""One HTML page for a plan: both layouts side by side, what leads from one to the other, and what is wrong.

The page holds everything it needs and asks the network for nothing. Keys are text that anybody may have written: they
reach the page as JSON only, and its script puts them there as text only. A content security policy allows the page's
own script and style, by their hashes, and nothing else.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import Any, Final

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.process.collecting import without_collection
from weighbridge.base.specs import Header
from weighbridge.mappings.bound_offsets import bind_offsets
from weighbridge.mappings.mapping import Mapping, MappingLike, as_mapping
from weighbridge.planning.compiling import declare
from weighbridge.planning.config_names.changes import ConfigChange
from weighbridge.planning.drafts import Draft
from weighbridge.planning.fitting import draft_reading
from weighbridge.planning.plan import Plan
from weighbridge.planning.plan_options import Options
from weighbridge.planning.readings import possible_readings
from weighbridge.planning.steps import Fated
from weighbridge.reporting.notebook import escape
from weighbridge.reporting.report import Report
from weighbridge.reporting.report_page.page_facts import Known

SCRIPTS: Final = ("unpack.js", "search.js", "tree.js", "diagram.js", "inspector.js", "page.js")
"""Parts of the page's script, in the order in which they are put together."""


@without_collection()
def plan_page(plan: Plan, changes: Sequence[ConfigChange] = ()) -> str:
    """Return the page of a plan.

    Args:
        plan: The plan.
        changes: What changes in the configurations beside the weights.

    Examples:
        >>> from weighbridge.planning.program import Program
        >>> from weighbridge.planning.steps import Step
        >>> from weighbridge.base.specs import TensorSpec
        >>> step = Step(("a",), ("b",), Program.identity(TensorSpec("F32", (2,))), "moved")
        >>> plan_page(Plan(Mapping(()), (step,))).splitlines()[0]
        '<!doctype html>'
    """
    known = Known(plan, changes=tuple(map(str, changes)))
    return _fill(known, "\n".join(Report(plan, changes=tuple(changes)).lines()))


@without_collection()
def failure_page(
    error: WeighbridgeError,
    mapping: MappingLike,
    source: Header,
    target: Header | None = None,
    options: Options | None = None,
) -> str:
    """Return the page of a plan that could not be made: what is wrong first, then what is known all the same.

    Args:
        error: Why there is no plan.
        mapping: A mapping or a list of transforms.
        source: Specs of the checkpoint's tensors.
        target: Specs of the tensors that are wanted, if any.
        options: What was declared beside the mapping.
    """
    options = options or Options()
    plan = _nearest_draft(declare(bind_offsets(as_mapping(mapping), options.config), options), source, target, options)
    placed = {key for key, _ in plan.source_fates()}
    filled = {key for key, _ in plan.target_fates()}
    unplaced = tuple(Fated(key, spec, "") for key, spec in source.items() if key not in placed)
    missing = tuple(Fated(key, spec, "") for key, spec in (target or {}).items() if key not in filled)
    return _fill(Known(plan, error, unplaced, missing), str(error))


def _nearest_draft(mapping: Mapping, source: Header, target: Header | None, options: Options) -> Plan:
    """Return what the reading that leaves least open could make of the checkpoint."""

    def openness(draft: Draft) -> tuple[int, int]:
        return len(draft.missing) + len(draft.unplaced), len(draft.faults)

    try:
        readings = possible_readings(mapping, source, target, options.layout)
        return min((draft_reading(reading, source, target, options) for reading in readings), key=openness).plan
    except WeighbridgeError:
        return Plan(mapping, ())


def _fill(known: Known, text: str) -> str:
    """Put facts and text into the page."""
    facts = json.dumps(known.to_dict(), separators=(",", ":")).replace("<", "\\u003c")
    script, style = _asset_texts()
    name = known.plan.mapping.name or "plan"
    parts: dict[str, Any] = {
        "title": escape(f"{name} · weighbridge"),
        "policy": _policy(script, style),
        "style": style,
        "script": script,
        "facts": facts,
        "text": escape(text),
    }
    return Template(_asset("page.html")).substitute(parts)


def _policy(*inline: str) -> str:
    script, style = (b64encode(sha256(text.encode()).digest()).decode() for text in inline)
    allowed = f"script-src 'sha256-{script}'; style-src 'sha256-{style}'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


@lru_cache(maxsize=1)
def _asset_texts() -> tuple[str, str]:
    """Return the page's whole script and style, exactly as they stand between their tags."""
    script = "".join(_asset(name) for name in SCRIPTS)
    return f'\n"use strict";\n{{\n{script}}}\n', "\n" + _asset("page.css")


@lru_cache
def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


__all__ = ["failure_page", "plan_page"]
