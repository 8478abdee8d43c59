"""Move model weights between layouts, both ways, and account for every byte."""

from weighbridge._version import __version__
from weighbridge.api.bound_plan import Plan
from weighbridge.api.functions import convert, open, plan, register, resolve, revert
from weighbridge.api.live_models import load, loaded_plan, save
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
from weighbridge.operations.ops import Cast

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
    "Interleave",
    "LayoutError",
    "LinearToConv3d",
    "Mapping",
    "MappingError",
    "MergeModulelist",
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
    "Reshape",
    "Split",
    "SplitModulelist",
    "TensorSpec",
    "Transpose",
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
    "plan",
    "register",
    "resolve",
    "revert",
    "save",
    "verify",
]
