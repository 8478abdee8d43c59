"""Move model weights between layouts, both ways, and account for every byte."""

from weighbridge._version import __version__
from weighbridge.api import (
    convert,
    load,
    open,
    plan,
    register,
    resolve,
    revert,
    save,
)
from weighbridge.errors import (
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
from weighbridge.groupings import (
    Chunk,
    Concatenate,
    ErnieFuseAndSplitTextVisionExperts,
    ErnieSplitAndDecoupleTextVisionExperts,
    MergeModulelist,
    Split,
    SplitModulelist,
)
from weighbridge.mapping import Carry, Drop, Initialise, Mapping, Refuse
from weighbridge.mapping_files import load_mapping
from weighbridge.movements import (
    Conv3dToLinear,
    Interleave,
    LinearToConv3d,
    Permute,
    PermuteForRope,
    Rearrange,
    Reshape,
    Transpose,
)
from weighbridge.ops import Cast
from weighbridge.plan import Plan
from weighbridge.registry import Registry, default_registry
from weighbridge.specs import Header, TensorSpec
from weighbridge.studies import detect, diff, infer, verify
from weighbridge.transforms import GroupWeightRename, PrefixChange, WeightConverter, WeightRenaming

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
    "open",
    "plan",
    "register",
    "resolve",
    "revert",
    "save",
    "verify",
]
