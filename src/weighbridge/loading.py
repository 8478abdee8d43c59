"""The name under which `loaded_plan` was public before `weighbridge.loaded_plan` was."""

from weighbridge.api import loaded_plan

__all__ = ["loaded_plan"]
