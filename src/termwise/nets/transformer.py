"""A decoder-only transformer for sequences of tokens.

A. Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019 (GPT-2): an embedding of each token and
a learned one of its position, the Pre-LN blocks of `termwise.nets.attention` under a causal mask, a last norm, and a
linear layer without a bias to the logits of the next token.  Tied, that layer has the weights of the embedding (O.
Press, L. Wolf 2016, arXiv 1608.05859).  No dropout.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from termwise.errors import UsageError
from termwise.nets.attention import PreNormBlock, initialise, require_heads
from termwise.nets.parts import require_positive

SPREAD = 0.02  # standard deviation of the initial embeddings, GPT-2's


class Transformer(nn.Module):
    """Embeddings, blocks, logits; built by `transformer`."""

    def __init__(self, depth: int, width: int, *, vocabulary: int, length: int, heads: int, tied: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(PreNormBlock(width, heads, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = None if tied else nn.Linear(width, vocabulary, bias=False)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=SPREAD)
        initialise(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers (N, T) to the logits of the token that follows each, (N, T, vocabulary).

        Raises:
            UsageError: the sequences are longer than there are positions.
        """
        steps, most = tokens.shape[1], self.positions.num_embeddings
        if steps > most:
            raise UsageError(f"transformer: sequences of {steps} tokens, and only {most} positions; raise length.")
        v = self.tokens(tokens) + self.positions.weight[:steps]
        v = self.norm(self.blocks(v))
        return F.linear(v, self.tokens.weight if self.head is None else self.head.weight)


def transformer(
    depth: int, width: int, *, vocabulary: int, length: int, heads: int = 4, tied: bool = True
) -> Transformer:
    """The decoder-only transformer of `depth` Pre-LN blocks, which is twice as many residual branches.

    Args:
        depth: number of blocks.
        width: features of a token.
        vocabulary: number of different tokens.
        length: of the longest sequence.
        heads: of the attention; divides `width`.
        tied: whether the logits are products with the embedding, or with weights of their own.

    Raises:
        UsageError: a size is below 1, or the number of heads does not divide the width.
    """
    require_positive("transformer", depth=depth, width=width, vocabulary=vocabulary, length=length, heads=heads)
    require_heads("transformer", width, heads)
    return Transformer(depth, width, vocabulary=vocabulary, length=length, heads=heads, tied=tied)
