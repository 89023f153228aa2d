"""
Which depth does the work?
==========================

A ResNet of 14 layers is trained on the digits for three epochs, and profiled on samples that it has not seen.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import termwise as tw
from termwise import data, figures, nets
from termwise.timeline import reestimated

# %%
# A network
# ---------
#
# Any ``nn.Module`` will do.

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
# Its profile
# -----------
#
# The first line says how exactly the terms add up to the output. Below it is a row for each number of layers that some
# path has.

profile = tw.profile(model, (digits.test_inputs, digits.test_targets))
print(profile)

# %%
# The spectrum
# ------------
#
# Behind the bars stands the share of all paths that have each length: counting paths says little of what they bring.
# The title is computed from the data.

_, axes = plt.subplots(figsize=(6, 3), layout="constrained")
figures.spectrum(profile, ax=axes)

# %%
# What it does not say
# --------------------
#
# A share is what a depth brings with every gate as it is in the whole network. It is not what a network of that depth
# would bring; the example on lesions measures what is left without blocks.
