"""The command `weighbridge`: what the library does, from a shell."""

from __future__ import annotations

from weighbridge.cli.app import main

__all__ = ["main"]
