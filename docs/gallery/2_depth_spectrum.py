"""
Which depth does the work?
==========================

A ResNet of 14 layers is trained on the digits for three epochs, and profiled on samples that it has not seen.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import termwise as tw
from termwise import data, nets
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
# Every column of the table is there as numbers, with 95 % intervals over samples. Path counts alone would have put the
# bars where the line is.

terms = profile.share.where(origin="input")
depths, shares = terms["depth"], terms["norm_share"]
counts = [paths / sum(profile.paths.values()) for paths in profile.paths.values()]

figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
errors = [shares - terms["norm_share_low"], terms["norm_share_high"] - shares]
axes.bar(depths, shares, width=1.4, yerr=errors, color="#3b6ea8", label="norm share")
axes.plot(depths, counts, "o-", color="#c8702a", label="share of paths")
axes.set(xlabel="depth, in layers", ylabel="share", xticks=depths)
axes.set_title(f"The mean path is {profile.mean_depth.value:.1f} of {depths[-1]} layers long", loc="left")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)

# %%
# What it does not say
# --------------------
#
# A share is what a depth brings with every gate as it is in the whole network. It is not what a network of that depth
# would bring; the example on lesions measures what is left without blocks.
