"""What can be known of a class by names and shapes alone: its model is on the meta device, and no byte is read."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import weighbridge as wb
from weighbridge.api.bound_plan import Plan
from weighbridge.integrations import transformers as wbt
from weighbridge.integrations.transformers_loading import Load
from weighbridge.integrations.transformers_mappings import resolve_theirs
from weighbridge.integrations.transformers_ties import header_with_ties
from weighbridge.models.holdings import take_stock
from weighbridge.models.without_plans import loaded_models
from weighbridge.planning.plan_options import Options


def bare(header: Any) -> wb.Header:
    """Return names and specs alone, as a file has them."""
    return wb.Header(dict(header.items()))


class Loaded(NamedTuple):
    """A load as it was planned, and the checkpoint that it reads."""

    plan: Any
    checkpoint: Any

    def missing(self) -> list[str]:
        """Return the targets that nothing fills; what the library's class makes itself is in no file."""
        return [fated.key for fated in self.plan.initialised if "._keys_to_ignore_on_" not in fated.by]

    def left(self) -> list[str]:
        """Return the sources that have no place."""
        carried = [key for step in self.plan.steps if step.fate == "carried" for key in step.sources]
        return [*carried, *(fated.key for fated in self.plan.dropped)]

    def is_read_as_the_library_does(self) -> bool:
        """Tell whether our own mapping did not fit."""
        return any("by the rules of the library itself" in note for note in self.plan.notes)


class Subject:
    """A model on the meta device, and what is asked of it more than once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.mapping = wbt.resolve(model)
        self.find_theirs = cache(resolve_theirs)
        self.held = bare(take_stock(model).header())

    def saved_by_us(self) -> wb.Header:
        """Return what `save_pretrained` of a model that was never loaded would write."""
        return self._saved()

    def published(self) -> wb.Header:
        """Return what that would be whether the library could read it or not."""
        return self._saved(layout="published")

    def saved_by_library(self) -> wb.Header:
        """Return what the library's own `save_pretrained` would write."""
        from transformers.core_model_loading import revert_weight_conversion
        from transformers.modeling_utils import remove_tied_weights_from_state_dict

        state = self.model.state_dict()
        for key in self.model._keys_to_ignore_on_save or ():
            state.pop(key, None)
        state = remove_tied_weights_from_state_dict(state, self.model)
        return wb.open(revert_weight_conversion(self.model, state)).header

    def read(self, header: wb.Header, *, partial: bool = False) -> Loaded:
        """Plan the load of a file with this header, as `from_pretrained` does."""
        checkpoint = wb.open(header)
        load = Load(checkpoint, None, lambda _: self.mapping, Options(partial=partial), find_theirs=self.find_theirs)
        target = header_with_ties(self.model, take_stock(self.model).header(header))
        return Loaded(load._compile(self.model, target), checkpoint)

    def written_back(self, loaded: Loaded) -> wb.Header:
        """Return what saving the model would write, had it been loaded through a plan."""
        loaded_models.remember(self.model, loaded_models.Loaded(loaded.plan, loaded.checkpoint))
        return self._saved()

    def _saved(self, layout: str | None = None) -> wb.Header:
        """Save, up to where the first byte would be written."""
        with mock.patch.object(Plan, "write", lambda plan, *_, **__: plan):
            return bare(wbt.save_pretrained(self.model, "nowhere", layout=layout).target)


def differences(ours: wb.Header, theirs: wb.Header) -> dict[str, list[str]]:
    """Return the names that one of two files has alone, and those of another shape or dtype."""
    found = {
        "ours": sorted(set(ours) - set(theirs)),
        "theirs": sorted(set(theirs) - set(ours)),
        "shapes": sorted(key for key in set(ours) & set(theirs) if ours[key] != theirs[key]),
    }
    return {name: keys for name, keys in found.items() if keys}
