"""The functions of the public surface, each a short walk through the rooms: open, plan, run, and back.

Comes in: paths, tensors, models, mappings, names. Goes out: plans that can be run, new directories, findings.
May use: every room before it.
"""

from typing import TYPE_CHECKING

from weighbridge.base.process.lazy_names import load_lazily as _load_lazily

if TYPE_CHECKING:
    from weighbridge.api.bound_plan import Plan
    from weighbridge.api.configurations import config_for, config_of
    from weighbridge.api.functions import convert, plan, plan_revert, register, resolve, revert
    from weighbridge.api.live_models import load, loaded_plan, parts, save
    from weighbridge.api.opened_places import open
    from weighbridge.api.studying import detect, diff, infer, verify

__all__ = [
    "Plan",
    "config_for",
    "config_of",
    "convert",
    "detect",
    "diff",
    "infer",
    "load",
    "loaded_plan",
    "open",
    "parts",
    "plan",
    "plan_revert",
    "register",
    "resolve",
    "revert",
    "save",
    "verify",
]

_PLACES = {
    "bound_plan": "Plan",
    "configurations": "config_for config_of",
    "functions": "convert plan plan_revert register resolve revert",
    "live_models": "load loaded_plan parts save",
    "opened_places": "open",
    "studying": "detect diff infer verify",
}
"""The modules that the names stand in."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = _load_lazily(__name__, _PLACES)
