"""Infer a mapping from two checkpoints of one model in two layouts, or sketch one from their headers alone.

facts      a finding: these tensors give those, by these operations
digests    fingerprints of tensors, also such as do not depend on the elements' order
movements  operations that turn one tensor into another one
tiling     which tensors a larger one was joined from
joins      the operations that join them
likeness   how alike names are, where values alone do not decide
evidence   all that two checkpoints' contents say
kin        findings that differ only in their indices
renaming   a few renames for many names
rules      findings written as a mapping
leftovers  what only one side has
proving    running a proposal and comparing
way back   running its inverse and comparing
choices    what the values left open, for each rule
inferring  all of that, one after the other
"""

from __future__ import annotations

from weighbridge.studies.inference.from_headers import Sketch, sketch_mapping
from weighbridge.studies.inference.from_values import Inferred, Unexplained, infer_mapping
from weighbridge.studies.inference.open_choices import OpenChoice

__all__ = ["Inferred", "OpenChoice", "Sketch", "Unexplained", "infer_mapping", "sketch_mapping"]
