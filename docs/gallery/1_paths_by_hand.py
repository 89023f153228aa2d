"""
Paths by hand
=============

A residual network is a sum over paths. Here a network is so small that the sum can be written down, and it is
compared with what the library finds.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import nn

import termwise as tw

# %%
# Three linear blocks
# -------------------
#
# Each block adds a branch to its input: ``x + W x``. So three of them are a product, and multiplied out it has
# ``2 ** 3`` parts, one for each choice of blocks to go through:
#
# .. math:: (I + W_3)(I + W_2)(I + W_1) = I + (W_1 + W_2 + W_3) + (W_2 W_1 + W_3 W_1 + W_3 W_2) + W_3 W_2 W_1
#
# The parts in a bracket go through equally many blocks. Each bracket is the *term* of that depth.


class Block(nn.Module):
    """x + W x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


torch.manual_seed(0)
model = nn.Sequential(Block(4), Block(4), Block(4)).double()
x = torch.randn(2, 4, dtype=torch.float64)

with torch.no_grad():
    w1, w2, w3 = (block.branch.weight for block in model)
    by_hand = {
        0: x,
        1: x @ (w1 + w2 + w3).T,
        2: x @ (w2 @ w1 + w3 @ w1 + w3 @ w2).T,
        3: x @ (w3 @ w2 @ w1).T,
    }

found = tw.expand(model, x, unit="blocks")
for depth, term in found.terms.items():
    error = float((term - by_hand[depth]).abs().max())
    print(f"depth {depth}: {found.paths[depth]} paths, furthest from what was written down {error:.0e}")

# %%
# With a nonlinearity
# -------------------
#
# ReLU multiplies each number by 1 or by 0. Hold these factors, the *gates*, at what they are for this input, and the
# network is linear again; the brackets only get one more factor. ``gates`` has those of the first block.


class GatedBlock(Block):
    """x + W relu(x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(torch.relu(x))


model = nn.Sequential(GatedBlock(4), GatedBlock(4)).double()
with torch.no_grad():
    w1, w2 = (block.branch.weight for block in model)
    gates = [(v > 0).double() for v in (x, model[0](x))]
    first = (x * gates[0]) @ w1.T
    by_hand = {0: x, 1: first + (x * gates[1]) @ w2.T, 2: (first * gates[1]) @ w2.T}

found = tw.expand(model, x, unit="blocks")
for depth, term in found.terms.items():
    error = float((term - by_hand[depth]).abs().max())
    print(f"depth {depth}: {found.paths[depth]} paths, furthest from what was written down {error:.0e}")
print(f"closure: {found.closure:.0e}")

# %%
# Many paths, few depths
# ----------------------
#
# Of *L* blocks there are ``2 ** L`` paths, and ``L + 1`` terms. Path counts are binomial, whatever the branches do:
# they say nothing of how much a depth brings.

blocks = 54
depths = range(blocks + 1)
shares = [math.comb(blocks, depth) / 2**blocks for depth in depths]
middle = sum(shares[19:36])

plt.rc("font", size=8)
_, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.bar(depths, shares, color="#2458a6")
axes.set(xlabel="blocks on the path", ylabel="share of all paths")
axes.set_title(f"Of the paths of {blocks} blocks, {middle:.1%} have 19 to 35", loc="left")
axes.spines[["top", "right"]].set_visible(False)
