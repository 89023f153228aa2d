"""
Lesions
=======

Which blocks can go? Here they are taken out, and the network that is left is measured. Nothing is frozen: all that
comes after a missing block sees what it would see if the block had been cut out of the code.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import termwise as tw
from termwise import causal, data, figures, nets
from termwise.deletion import deletion
from termwise.timeline import reestimated

digits = data.load("digits", size=8)
torch.manual_seed(0)
model = nets.resnet(20, channels=1)
optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(3):
    for batch in torch.randperm(len(digits.train_inputs)).split(64):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(digits.train_inputs[batch]), digits.train_targets[batch])
        loss.backward()
        optimiser.step()
# After so few updates batch norm's running statistics lag behind: estimate them anew, on a copy.
model = reestimated(model, digits.train_inputs)

# %%
# One block at a time
# -------------------
#
# Blocks are found from the flow of the data, not from names of classes. Inside of ``lesion`` the model runs as usual,
# without those that are named.


def accuracy() -> float:
    """On the test samples."""
    with torch.no_grad():
        return float((model(digits.test_inputs).argmax(dim=-1) == digits.test_targets).float().mean())


whole = accuracy()
blocks = tw.support(model, digits.test_inputs[:1], unit="blocks").blocks
left = []
for block in blocks:
    with causal.lesion(model, [block], example=digits.test_inputs[:1]):
        left.append(accuracy())
    print(f"without {block.name:<12} {left[-1]:.3f}")

names = [block.name for block in blocks]
worst = min(range(len(left)), key=left.__getitem__)
plt.rc("font", size=8)
_, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.bar(names, left, color="#2458a6")
axes.axhline(whole, color="grey", linewidth=1, linestyle="--")
axes.set(ylabel="accuracy without this block", ylim=(0, 1.02))
axes.tick_params(axis="x", rotation=30)
axes.set_title(
    f"With all blocks the accuracy is {whole:.2f}, without {names[worst]} it is {left[worst]:.2f}", loc="left"
)
axes.spines[["top", "right"]].set_visible(False)

# %%
# Several at once
# ---------------
#
# For each number of blocks, some choices of them at random. The batch-norm statistics of each network that is left are
# estimated anew, on a copy.

probe = digits.test_inputs, digits.test_targets
curve = deletion(model, probe, draws=6, calibration=digits.train_inputs[:256])
print(curve)

_, axes = plt.subplots(figsize=(6, 3), layout="constrained")
figures.lesion(curve, ax=axes)
