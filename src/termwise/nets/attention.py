"""What the transformers share: self-attention, the Pre-LN block, their initial weights.

A. Vaswani et al., *Attention Is All You Need*, 2017 (arXiv 1706.03762), sections 3.2 and 3.3; the norms in front of the
branches as in GPT-2 and in R. Xiong et al., *On Layer Normalization in the Transformer Architecture*, 2020 (arXiv
2002.04745):

    v -> v + attention(norm(v)),     then     v -> v + linear(gelu(linear(norm(v)))).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from termwise.errors import UsageError

EXPANSION = 4  # the hidden units of a block are this many times its width


class Attention(nn.Module):
    """Self-attention of several heads; where it is causal, no position sees a later one."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, v: Tensor) -> Tensor:
        """(N, T, width) to (N, T, width)."""
        q, k, values = self.qkv(v).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, values, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class PreNormBlock(nn.Module):
    """Two residual branches: attention, and two linear layers with a GELU between them."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, EXPANSION * width), nn.GELU(), nn.Linear(EXPANSION * width, width))

    def forward(self, v: Tensor) -> Tensor:
        """(N, T, width) to (N, T, width)."""
        v = v + self.attention(self.norm1(v))
        return v + self.mlp(self.norm2(v))


def initialise(model: nn.Module) -> None:
    """Draw linear weights after Glorot & Bengio 2010 (uniform, as in the code of ViT); biases are zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def require_heads(network: str, width: int, heads: int) -> None:
    """Refuse heads that cannot share the width.

    Raises:
        UsageError: the number of heads does not divide the width.
    """
    if width % heads:
        raise UsageError(
            f"{network}: {heads} heads cannot share a width of {width}; give a width divisible by {heads}."
        )
