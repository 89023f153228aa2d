"""
A training, watched
===================

A ``Recorder`` in a training loop writes down, at steps spaced like powers, which depth does the work. Batch-norm
statistics, which lag behind the weights early on, are estimated anew on a copy for each record.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import termwise as tw
from termwise import data, nets

digits = data.load("digits", size=8)
torch.manual_seed(0)
model = nets.resnet(14, channels=1)
optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
recorder = tw.Recorder(model, (digits.test_inputs[:128], digits.test_targets[:128]))

# %%
# The loop
# --------
#
# Two lines are added to it. ``step(n)`` comes before update *n*, so that step 0 is the network as initialised.

step = 0
for _ in range(3):
    for batch in torch.randperm(len(digits.train_inputs)).split(64):
        recorder.step(step)
        optimiser.zero_grad()
        loss = F.cross_entropy(model(digits.train_inputs[batch]), digits.train_targets[batch])
        loss.backward()
        optimiser.step()
        step += 1
recorder.finish(step)

# %%
# What was recorded
# -----------------

timeline = recorder.timeline
print(timeline)

# %%
# As a picture
# ------------
#
# Each band is a depth; its width is that depth's norm share.

rows = timeline.spectrum.where(origin="input")
depths = timeline.profiles[0].depths
shares = [rows.where(depth=depth)["norm_share"] for depth in depths]
records = range(len(timeline.steps))

figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
colours = plt.colormaps["viridis"]([i / (len(depths) - 1) for i in range(len(depths))])
axes.stackplot(records, shares, colors=colours, labels=[f"{depth} layers" for depth in depths])
axes.set(xlabel="update", ylabel="norm share", xlim=(0, records[-1]), ylim=(0, 1))
axes.set_xticks(records[::2], [str(timeline.steps[i]) for i in records[::2]])
first, last = (profile.mean_depth.value for profile in (timeline.profiles[0], timeline.profiles[-1]))
axes.set_title(f"The mean path length went from {first:.1f} to {last:.1f} layers", loc="left")
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)

# %%
# One training decides nothing about trainings: the experiments repeat such measurements over seeds, and give a verdict.
