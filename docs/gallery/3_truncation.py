"""
Effective depth
===============

Cut a trained network's terms off at a depth, and see from where on the accuracy is kept. Then the control: how much of
that is due to gates that know the whole network?
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import termwise as tw
from termwise import data, figures, nets
from termwise.leakage import leakage
from termwise.timeline import reestimated

digits = data.load("digits", size=8)
torch.manual_seed(0)
model = nets.resnet(14, channels=1)
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
# Truncations
# -----------
#
# ``head`` has the terms up to a depth and what is born of constants, ``tail`` the terms from that depth on, without
# constants. The effective depth is the smallest from which every longer head keeps 99 % of the accuracy.

probe = digits.test_inputs, digits.test_targets
profile = tw.profile(model, probe)
print(f"accuracy {profile.accuracy:.3f}, effective depth {profile.effective_depth} of {profile.depths[-1]} layers")

_, axes = plt.subplots(figsize=(6, 3), layout="constrained")
figures.truncation(profile, ax=axes, classes=10)

# %%
# What the gates knew
# -------------------
#
# Frozen gates carry information from the whole network. Here the paths of at most one block stand beside the network
# that really has no others: every block of it sees the shortcut's stream alone.

print(leakage(model, probe))
