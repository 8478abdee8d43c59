"""The built-in families: the table of names, what each mapping promises, and the cases that shapes cannot decide."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from corpus import REGISTRY

import weighbridge as wb
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.mappings import families
from weighbridge.mappings.mapping import Mapping, Part
from weighbridge.mappings.registry import Registry
from weighbridge.models.resolve import resolve, resolve_config

ASKED_FOR = {
    "aya_vision": "AyaVisionModel",
    "colpali": "",
    "colqwen2": "",
    "conditional_detr": "ConditionalDetrForSegmentation",
    "detr": "DetrForSegmentation",
    "emu3": "Emu3Model",
    "fuyu": "FuyuModel",
    "gemma3": "Gemma3Model",
    "got_ocr2": "GotOcr2Model",
    "internvl": "InternVLModel",
    "llava": "LlavaModel",
    "llava_next": "LlavaNextModel",
    "llava_next_video": "LlavaNextVideoModel",
    "llava_onevision": "LlavaOnevisionModel",
    "maskformer": "MaskFormerModel",
    "mistral3": "Mistral3Model",
    "mllama": "MllamaModel",
    "paligemma": "PaliGemmaModel",
    "pp_chart2table": "GotOcr2Model",
    "qwen2_vl": "Qwen2VLModel",
    "qwen2_5_vl": "Qwen2_5_VLModel",
    "shieldgemma2": "",
    "video_llava": "VideoLlavaModel",
    "vipllava": "VipLlavaModel",
}
"""Model types that must be there, each with the class beside the head that has a mapping of its own."""


def header(**shapes: tuple[int, ...]) -> Header:
    return Header({key: TensorSpec("F32", shape) for key, shape in shapes.items()})


# ---- the table ----


def test_table_names_every_mapping_of_every_module() -> None:
    """No mapping is out of reach, and no name leads nowhere."""
    folder = Path(families.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "common_rules", "signatures"}
    assert set(families.MODULES.values()) == modules
    for name in families.MODULES:
        assert isinstance(families.load_family(name), Mapping)
    for module in modules:
        found = sys.modules[f"weighbridge.mappings.families.{module}"].MAPPINGS
        assert {name for name, home in families.MODULES.items() if home == module} == set(found)


@pytest.mark.parametrize("model_type", sorted(ASKED_FOR))
def test_model_type_is_known_and_its_base_class_apart(model_type: str) -> None:
    assert model_type in families.MODULES
    assert not ASKED_FOR[model_type] or ASKED_FOR[model_type] in families.MODULES


def test_families_load_neither_torch_nor_the_library() -> None:
    """All of them are data: importing every one loads nothing heavy."""
    code = "import sys; from weighbridge.mappings.families import MODULES, load_family; "
    code += "list(map(load_family, MODULES)); print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(families.MODULES))
def test_mapping_goes_back_and_survives_its_json_form(name: str) -> None:
    """Each has an inverse whose inverse is the mapping again, and is the same value after a trip through JSON."""
    mapping = families.load_family(name)
    assert mapping.inverse().inverse() == mapping
    assert Mapping.from_dict(mapping.to_dict()) == mapping


@pytest.mark.parametrize("name", sorted(families.MODULES))
def test_mapping_names_parts_and_claims_that_exist(name: str) -> None:
    mapping = families.load_family(name)
    classes = {kind for part in mapping.parts for _, kind in part.classes}
    assert classes <= set(families.MODULES)
    assert len(set(mapping.transforms)) == len(mapping.transforms)


# ---- what shapes cannot decide ----


def test_square_experts_are_transposed_where_the_layout_is_declared() -> None:
    """A square matrix fits both ways round: the declared layout decides, never the shape."""
    key = "model.language_model.layers.0.mlp.experts.gate_up_proj"
    published = torch.arange(2 * 6 * 6, dtype=torch.float32).reshape(2, 6, 6)
    target = Header({key: TensorSpec("F32", (2, 6, 6))})
    mapping = families.load_family("qwen3_vl_moe")
    mapped = wb.plan({key: published}, mapping, target=target, layout="mapped")
    as_is = wb.plan({key: published}, mapping, target=target, layout="as is")
    assert mapped.state_dict()[key].equal(published.transpose(1, 2))
    assert as_is.state_dict()[key].equal(published)
    assert mapped.inverse(mapped.state_dict()).state_dict()[key].equal(published)


def test_square_experts_without_a_declared_layout_are_an_error() -> None:
    key = "model.language_model.layers.0.mlp.experts.down_proj"
    target = Header({key: TensorSpec("F32", (2, 6, 6))})
    with pytest.raises(wb.PlanError) as refused:
        wb.plan(target, families.load_family("qwen3_vl_moe"), target=target)
    assert refused.value.code == "layout-ambiguous"


def test_experts_of_unequal_sides_need_no_declaration() -> None:
    """Where only one way round fits, the published layout and the runtime's are told apart."""
    key = "model.language_model.layers.0.mlp.experts.down_proj"
    published, runtime = TensorSpec("F32", (2, 3, 5)), TensorSpec("F32", (2, 5, 3))
    mapping = families.load_family("qwen3_vl_moe")
    readings = [
        wb.plan(Header({key: spec}), mapping, target=Header({key: runtime})).reading for spec in (published, runtime)
    ]
    assert readings == ["mapped", "as is"]


# ---- classes of one type ----


def test_class_name_goes_before_the_model_type() -> None:
    """A head class and a base class share a type and a configuration, and not their rules."""
    config = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    head = resolve_config({**config, "architectures": ["LlavaForConditionalGeneration"]}, REGISTRY)
    base = resolve_config({**config, "architectures": ["LlavaModel"]}, REGISTRY)
    key = "language_model.model.norm.weight"
    source = header(**{key: (4,)})
    assert list(wb.plan(source, head).target) == ["model.language_model.norm.weight"]
    assert list(wb.plan(source, base).target) == ["language_model.norm.weight"]


def test_rule_of_one_tower_leaves_the_other_alone() -> None:
    """altclip: the list `layer` is renamed in the text tower only, on the way back too."""
    config = {"model_type": "altclip", "text_config": {"model_type": "altclip_text_model"}}
    mapping = resolve_config(config, REGISTRY)
    published = header(
        **{
            "text_model.roberta.encoder.layer.0.output.dense.weight": (3, 2),
            "vision_model.encoder.layers.0.mlp.fc1.weight": (5, 2),
        }
    )
    runtime = wb.plan(published, mapping).target
    assert "text_model.roberta.encoder.layers.0.output.dense.weight" in runtime
    assert wb.plan(Header(runtime.specs), mapping.inverse()).target.specs == published.specs


def test_backbone_inside_a_model_follows_its_own_class() -> None:
    """mask2former: a Swin as a backbone lies one level deeper than a Swin alone; both follow the same block rules."""
    config = {"model_type": "mask2former", "backbone_config": {"model_type": "swin"}}
    mapping = resolve_config({**config, "architectures": ["Mask2FormerModel"]}, REGISTRY)
    block = "encoder.layers.0.blocks.0.attention"
    source = header(**{f"pixel_level_module.encoder.{block}.self.query.weight": (3, 2)})
    assert list(wb.plan(source, mapping).target) == [f"pixel_level_module.encoder.swin.{block}.q_proj.weight"]


# ---- a root rename and a converter in a part, chained on one key ----

PROJECTIONS = [f"{name}_proj.weight" for name in "qkv"]

COMPOSITE = Registry(use_entry_points=False)
COMPOSITE.register(
    "detector", Mapping([wb.WeightRenaming("^old_prefix", "model.vlm")], parts=[Part("model.vlm", "vlm_config")])
)
COMPOSITE.register("Tower", [wb.WeightConverter(PROJECTIONS, "qkv_proj.weight", [wb.Concatenate(dim=0)])])
COMPOSITE.alias("tower", "Tower")


class Tower(torch.nn.Module):
    """A sub-model with one fused projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = torch.nn.Linear(4, 9, bias=False)


class Detector(torch.nn.Module):
    """A model that holds a tower at `model.vlm`."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.vlm = Tower()


def test_root_rename_chains_with_a_converter_of_a_part() -> None:
    """Loading renames and then fuses; saving takes the fused tensor apart and then renames: list order, reversed."""
    parts = {f"old_prefix.{name}": torch.randn(3, 4) for name in PROJECTIONS}
    mapping = resolve_config({"model_type": "detector", "vlm_config": {"model_type": "tower"}}, COMPOSITE)
    model = Detector()
    plan = wb.plan(parts, mapping, target=model)
    plan.load_into(model)
    assert model.state_dict()["model.vlm.qkv_proj.weight"].equal(torch.cat(list(parts.values())))
    back = plan.inverse(model).state_dict()
    assert all(back[key].equal(value) for key, value in parts.items())
    derived = wb.plan(model, mapping.inverse()).state_dict()
    assert derived.keys() == parts.keys()
    assert all(derived[key].equal(value) for key, value in parts.items())


def test_rules_of_a_tree_are_those_of_its_configuration() -> None:
    """The tower's rule is mounted where the tower hangs, whether a model or a configuration says so."""
    registry = COMPOSITE.copy()
    registry.register("Detector", COMPOSITE.find("detector"))
    found = resolve(Detector(), registry)
    alone = resolve_config({"model_type": "detector", "vlm_config": {"model_type": "tower"}}, COMPOSITE)
    assert found.transforms == alone.transforms


# ---- a checkpoint of one part, and of a model around ----

TOWER_KEY = "vision_model.encoder.layers.0.mlp.fc1.weight"


def llava_mapping() -> Mapping:
    config = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}
    return resolve_config({**config, "architectures": ["LlavaForConditionalGeneration"]}, REGISTRY)


def test_tower_of_its_own_checkpoint_goes_where_the_tower_hangs() -> None:
    """A vision tower's own published checkpoint fills the tower of a larger model, by the tower's own rules."""
    target = header(**{"model.vision_tower.encoder.layers.0.mlp.fc1.weight": (5, 3), "lm_head.weight": (7, 3)})
    plan = wb.plan(header(**{TOWER_KEY: (5, 3)}), llava_mapping(), target=target, partial=True)
    assert plan.step_of_target.keys() == {"model.vision_tower.encoder.layers.0.mlp.fc1.weight"}


def test_tower_with_two_places_is_ambiguous() -> None:
    """Two towers of one kind: nothing says which one the checkpoint is for."""
    towers = {f"model.{name}_tower.encoder.layers.0.mlp.fc1.weight": (5, 3) for name in ("image", "video")}
    config = {"model_type": "video_llava", "vision_config": {"model_type": "clip_vision_model"}}
    with pytest.raises(wb.PlanError) as refused:
        wb.plan(header(**{TOWER_KEY: (5, 3)}), resolve_config(config, REGISTRY), target=header(**towers), partial=True)
    assert refused.value.code == "layout-ambiguous"
