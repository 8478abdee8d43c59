"""Quantised formats as data: one module for each, which reads what a configuration says and gives the schemes of it.

Facts: the formats' own writers and readers, as named in each module.
"""

from __future__ import annotations
