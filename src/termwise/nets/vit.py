"""A vision transformer for small images.

A. Dosovitskiy et al., *An Image is Worth 16x16 Words*, 2020 (arXiv 2010.11929), section 3.1: the image is cut into
patches, each of them mapped linearly to a token; with a class token in front and learned positions added they pass the
Pre-LN blocks of `termwise.nets.attention` and a last norm, and a linear layer reads the class token (or, instead of
it, the mean of all tokens).  No dropout.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from termwise.errors import UsageError
from termwise.nets.attention import PreNormBlock, initialise, require_heads
from termwise.nets.parts import require_positive

Pool = Literal["token", "mean"]
POOLS = ("token", "mean")
SPREAD = 0.02  # standard deviation of the initial positions


class ViT(nn.Module):
    """Patches, blocks, a classifier; built by `vit`."""

    def __init__(
        self, depth: int, width: int, *, heads: int, patch: int, size: int, classes: int, channels: int, pool: Pool
    ) -> None:
        super().__init__()
        self.pool = pool
        tokens = (size // patch) ** 2 + (pool == "token")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if pool == "token" else None
        self.positions = nn.Parameter(torch.empty(1, tokens, width))
        self.blocks = nn.Sequential(*(PreNormBlock(width, heads, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        nn.init.normal_(self.positions, std=SPREAD)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, size, size) to logits (N, classes)."""
        v = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            v = torch.cat([self.token.expand(len(v), -1, -1), v], dim=1)
        v = self.norm(self.blocks(v + self.positions))
        return self.classifier(v.mean(dim=1) if self.token is None else v[:, 0])


def vit(
    depth: int,
    width: int,
    *,
    heads: int = 4,
    patch: int = 4,
    size: int = 32,
    classes: int = 10,
    channels: int = 3,
    pool: Pool = "token",
) -> ViT:
    """The vision transformer of `depth` Pre-LN blocks, which is twice as many residual branches.

    Args:
        depth: number of blocks.
        width: features of a token.
        heads: of the attention; divides `width`.
        patch: side of a patch in pixels; divides `size`.
        size: side of the images in pixels.
        classes: number of logits.
        channels: of the input.
        pool: what the classifier reads: the class "token", or the "mean" of the tokens, without a class token.

    Raises:
        UsageError: a size is below 1 or does not divide as it must, or the pool is unknown.
    """
    sizes = {"depth": depth, "width": width, "heads": heads, "patch": patch, "size": size}
    require_positive("vit", **sizes, classes=classes, channels=channels)
    require_heads("vit", width, heads)
    if size % patch:
        raise UsageError(f"vit: patches of {patch} pixels do not fill a side of {size}; give a divisor of {size}.")
    if pool not in POOLS:
        raise UsageError(f"vit: pool {pool!r} is unknown; choose one of {', '.join(POOLS)}.")
    return ViT(depth, width, heads=heads, patch=patch, size=size, classes=classes, channels=channels, pool=pool)
