"""The command `weighbridge`: what the library does, from a shell.

Comes in: arguments. Goes out: text or one JSON document, and a status.
May use: every room before it.
"""

from __future__ import annotations

from weighbridge.cli.app import main

__all__ = ["main"]
