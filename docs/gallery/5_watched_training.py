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
from termwise import data, figures, nets

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
# As pictures
# -----------
#
# The norm share of each depth at some of the records; then when half of each depth's loss credit was in.

_, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
figures.ridgeline(timeline, ax=axes)

# %%

_, axes = plt.subplots(figsize=(6, 3), layout="constrained")
figures.time_learned(timeline, ax=axes)

# %%
# One training decides nothing about trainings: the experiments repeat such measurements over seeds, and give a verdict.
