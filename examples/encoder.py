"""A small text encoder of our own, with fused query, key and value: its layout is what the demo converts a BERT to.

It computes what BERT computes, by the names of its own modules:

    embeddings.{tokens,positions,types}.weight   embeddings.position_ids   embeddings.norm.{weight,bias}
    blocks.{i}.attention.{qkv,out,norm}.{weight,bias}
    blocks.{i}.mlp.{up,down,norm}.{weight,bias}
    pooler.{weight,bias}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Sizes(NamedTuple):
    """Sizes of an encoder; `width` is that of a token's vector, `inner` that inside an MLP."""

    vocabulary: int
    positions: int
    types: int
    width: int
    inner: int
    heads: int
    blocks: int
    norm_epsilon: float


def read_sizes(path: Path) -> Sizes:
    """Read the sizes from the `config.json` of a BERT checkpoint."""
    config = json.loads(path.read_text("utf-8"))
    return Sizes(
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        types=config["type_vocab_size"],
        width=config["hidden_size"],
        inner=config["intermediate_size"],
        heads=config["num_attention_heads"],
        blocks=config["num_hidden_layers"],
        norm_epsilon=config["layer_norm_eps"],
    )


class Encoded(NamedTuple):
    """What an encoder gives: a vector for each token, and one for the text made from its first token."""

    tokens: Tensor
    pooled: Tensor


class Embeddings(nn.Module):
    """Sum of what a token is, where it stands and which part of the text it belongs to."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.positions, sizes.width)
        self.types = nn.Embedding(sizes.types, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, sizes.norm_epsilon)
        self.position_ids: Tensor
        self.register_buffer("position_ids", torch.arange(sizes.positions)[None])

    def forward(self, ids: Tensor) -> Tensor:
        """Embed token ids [batch, length]; the whole text is of type 0."""
        places = self.position_ids[:, : ids.shape[1]]
        embedded: Tensor = self.norm(self.tokens(ids) + self.positions(places) + self.types(torch.zeros_like(ids)))
        return embedded


class Attention(nn.Module):
    """Attention with one projection for query, key and value."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.out = nn.Linear(sizes.width, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, sizes.norm_epsilon)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Let tokens [batch, length, width] attend to each other where the mask [batch, length] is true."""
        batch, length, width = hidden.shape
        query, key, value = self.qkv(hidden).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        attended: Tensor = self.norm(hidden + self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        return attended


class Mlp(nn.Module):
    """Two projections with a GELU between them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.up = nn.Linear(sizes.width, sizes.inner)
        self.down = nn.Linear(sizes.inner, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, sizes.norm_epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        """Work on each token of [batch, length, width] by itself."""
        worked: Tensor = self.norm(hidden + self.down(functional.gelu(self.up(hidden))))
        return worked


class Block(nn.Module):
    """Attention, then an MLP."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention = Attention(sizes)
        self.mlp = Mlp(sizes)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run both on [batch, length, width]."""
        worked: Tensor = self.mlp(self.attention(hidden, mask))
        return worked


class Encoder(nn.Module):
    """Text encoder; build it under `torch.device("meta")` where a checkpoint is to fill it."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embeddings = Embeddings(sizes)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.blocks))
        self.pooler = nn.Linear(sizes.width, sizes.width)

    def forward(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Encode token ids [batch, length], of which those count where the mask is not 0."""
        hidden = self.embeddings(ids)
        for block in self.blocks:
            hidden = block(hidden, mask.bool())
        return Encoded(hidden, torch.tanh(self.pooler(hidden[:, 0])))
