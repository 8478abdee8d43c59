"""Infer a mapping from two checkpoints of one model in two layouts, or sketch one from their headers alone.

Comes in: two opened checkpoints, or two headers. Goes out: a mapping that was run and compared, or marked guesses.
May use: what studies may use. Within, each uses what stands before it:

    tensor_facts     a finding: these tensors give those, by these operations
    likeness         how alike names are, where values alone do not decide
    by_value         what the values say, and what they leave open
      fingerprints     fingerprints of tensors, also such as do not depend on the elements' order
      movement_search  operations that turn one tensor into another one
      symmetry         what may be turned unseen
      tiling           which tensors a larger one was joined from
      joins            the operations that join them
      choices, told    what could be another one, and what the values tell
      evidence         all that two checkpoints' contents say
      block_places, surroundings, equal_kin, equal_matching
                       equal tensors, told apart by where they stand and what they are called
    guesses          what names and shapes alone say
    kin              findings that differ only in their indices
    renaming         a few renames for many names
    rules            findings written as a mapping
    leftovers        what only one side has
    proving          running a proposal and comparing
    inverse_proof    running its inverse and comparing
    open_choices     what the values left open, for each rule
    commented        a mapping file with remarks
    from_values      all of that, one after the other
    from_headers     a sketch from guesses
"""

from __future__ import annotations

from weighbridge.studies.inference.from_headers import Sketch, sketch_mapping
from weighbridge.studies.inference.from_values import Inferred, Unexplained, infer_mapping
from weighbridge.studies.inference.open_choices import OpenChoice

__all__ = ["Inferred", "OpenChoice", "Sketch", "Unexplained", "infer_mapping", "sketch_mapping"]
