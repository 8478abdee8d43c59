"""Move model weights between layouts, both ways, and account for every byte.

A name is loaded when it is first asked for: who only opens a checkpoint waits for nothing else.
"""

from typing import TYPE_CHECKING

from weighbridge._version import __version__
from weighbridge.base.process.lazy_names import load_lazily as _load_lazily

if TYPE_CHECKING:
    from weighbridge.algebra.held_parts import Part
    from weighbridge.api.bound_plan import Plan
    from weighbridge.api.functions import convert, plan, register, resolve, revert
    from weighbridge.api.live_models import load, loaded_plan, parts, save
    from weighbridge.api.opened_places import open
    from weighbridge.api.studying import detect, diff, infer, verify
    from weighbridge.base.errors import (
        CheckpointError,
        DestinationError,
        LayoutError,
        MappingError,
        PatternError,
        PlanError,
        RegistryError,
        VerifyError,
        WeighbridgeError,
    )
    from weighbridge.base.specs import Header, TensorSpec
    from weighbridge.mappings.exception_rules import Carry, Drop, Initialise, Refuse
    from weighbridge.mappings.mapping import Mapping
    from weighbridge.mappings.mapping_files import load_mapping
    from weighbridge.mappings.registry import Registry, default_registry
    from weighbridge.mappings.transforms import GroupWeightRename, PrefixChange, WeightConverter, WeightRenaming
    from weighbridge.operations.casting import Cast
    from weighbridge.operations.chosen_parts import On
    from weighbridge.operations.declaring.padding import InsertConstant, Pad, RemoveConstant, Trim
    from weighbridge.operations.groupings import (
        Chunk,
        Concatenate,
        ErnieFuseAndSplitTextVisionExperts,
        ErnieSplitAndDecoupleTextVisionExperts,
        MergeModulelist,
        Split,
        SplitModulelist,
    )
    from weighbridge.operations.movements import (
        Conv3dToLinear,
        Interleave,
        LinearToConv3d,
        Permute,
        PermuteForRope,
        Rearrange,
        Reshape,
        Transpose,
    )
    from weighbridge.operations.reordering import Reorder
    from weighbridge.operations.replicas import MergeEqual, Repeat

__all__ = [
    "Carry",
    "Cast",
    "CheckpointError",
    "Chunk",
    "Concatenate",
    "Conv3dToLinear",
    "DestinationError",
    "Drop",
    "ErnieFuseAndSplitTextVisionExperts",
    "ErnieSplitAndDecoupleTextVisionExperts",
    "GroupWeightRename",
    "Header",
    "Initialise",
    "InsertConstant",
    "Interleave",
    "LayoutError",
    "LinearToConv3d",
    "Mapping",
    "MappingError",
    "MergeEqual",
    "MergeModulelist",
    "On",
    "Pad",
    "Part",
    "PatternError",
    "Permute",
    "PermuteForRope",
    "Plan",
    "PlanError",
    "PrefixChange",
    "Rearrange",
    "Refuse",
    "Registry",
    "RegistryError",
    "RemoveConstant",
    "Reorder",
    "Repeat",
    "Reshape",
    "Split",
    "SplitModulelist",
    "TensorSpec",
    "Transpose",
    "Trim",
    "VerifyError",
    "WeighbridgeError",
    "WeightConverter",
    "WeightRenaming",
    "__version__",
    "convert",
    "default_registry",
    "detect",
    "diff",
    "infer",
    "load",
    "load_mapping",
    "loaded_plan",
    "open",
    "parts",
    "plan",
    "register",
    "resolve",
    "revert",
    "save",
    "verify",
]

_PLACES = {
    "algebra.held_parts": "Part",
    "api.bound_plan": "Plan",
    "api.functions": "convert plan register resolve revert",
    "api.live_models": "load loaded_plan parts save",
    "api.opened_places": "open",
    "api.studying": "detect diff infer verify",
    "base.errors": (
        "CheckpointError DestinationError LayoutError MappingError PatternError PlanError RegistryError "
        "VerifyError WeighbridgeError"
    ),
    "base.specs": "Header TensorSpec",
    "mappings.exception_rules": "Carry Drop Initialise Refuse",
    "mappings.mapping": "Mapping",
    "mappings.mapping_files": "load_mapping",
    "mappings.registry": "Registry default_registry",
    "mappings.transforms": "GroupWeightRename PrefixChange WeightConverter WeightRenaming",
    "operations.casting": "Cast",
    "operations.chosen_parts": "On",
    "operations.groupings": (
        "Chunk Concatenate ErnieFuseAndSplitTextVisionExperts ErnieSplitAndDecoupleTextVisionExperts "
        "MergeModulelist Split SplitModulelist"
    ),
    "operations.movements": (
        "Conv3dToLinear Interleave LinearToConv3d Permute PermuteForRope Rearrange Reshape Transpose"
    ),
    "operations.declaring.padding": "InsertConstant Pad RemoveConstant Trim",
    "operations.reordering": "Reorder",
    "operations.replicas": "MergeEqual Repeat",
}
"""The modules that the public names stand in."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = _load_lazily(__name__, _PLACES)
