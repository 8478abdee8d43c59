"""The functions of the public surface, each a short walk through the rooms: open, plan, run, and back.

Comes in: paths, tensors, models, mappings, names. Goes out: plans that can be run, new directories, findings.
May use: every room before it.
"""

from weighbridge.api.bound_plan import Plan
from weighbridge.api.configurations import config_for, config_of
from weighbridge.api.functions import (
    convert,
    open,
    plan,
    plan_revert,
    register,
    resolve,
    revert,
)
from weighbridge.api.live_models import load, loaded_plan, save
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
    "plan",
    "plan_revert",
    "register",
    "resolve",
    "revert",
    "save",
    "verify",
]
