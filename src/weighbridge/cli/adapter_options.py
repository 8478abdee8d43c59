"""Options of a plan that only adapters have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from weighbridge.base.errors import WeighbridgeError
from weighbridge.cli.wording import PANEL

BaseOption = Annotated[
    str | None,
    typer.Option(metavar="PLACE", help="The model that an adapter belongs to.", rich_help_panel=PANEL),
]
BlockDiagonalOption = Annotated[
    bool,
    typer.Option("--block-diagonal", help="Join an adapter's factors that differ.", rich_help_panel=PANEL),
]
PackingOption = Annotated[
    str | None,
    typer.Option(
        "--lora-b-layout",
        metavar="NAME",
        help="How an adapter's lora_B is packed for fused experts: rank_major, grouped_by_expert.",
        rich_help_panel=PANEL,
    ),
]
PrefixOption = Annotated[
    list[str],
    typer.Option(
        "--adapter-prefix",
        metavar="[OLD=]NEW",
        help="What an adapter's names are to begin with, such as transformer. or lora_unet_; for several parts each.",
        rich_help_panel=PANEL,
    ),
]


def read_prefixes(texts: Sequence[str]) -> str | dict[str, str] | None:
    """Return what an adapter's names are to begin with: one for all, or each with what it is now.

    Raises:
        WeighbridgeError: `usage`.

    Examples:
        >>> read_prefixes(["lora_unet_=unet.", "lora_te_=text_encoder."])
        {'lora_unet_': 'unet.', 'lora_te_': 'text_encoder.'}
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    pairs = [text.partition("=") for text in texts]
    if not all(old and new for old, _, new in pairs):
        what = "several beginnings of names are said each with what it is now"
        raise WeighbridgeError("usage", what, expected="--adapter-prefix OLD=NEW", got=", ".join(texts))
    return {old: new for old, _, new in pairs} or None
