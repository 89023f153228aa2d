"""A task of two classes that no linear classifier solves: the digits 0 to 4 against 5 to 9."""

from __future__ import annotations

import torch

from termwise.data import DataSet, load
from termwise.seeds import stream


def small_and_large_digits(seed: int) -> DataSet:
    """The 1,797 digits of 8x8 pixels, a random half of them for training and the other held out.

    What is measured here are small differences between classifiers, and small mutual informations: the fifth that is
    held out elsewhere has too few samples for these.

    Args:
        seed: of the halves.
    """
    digits = load("digits", size=8)
    inputs = torch.cat((digits.train_inputs, digits.test_inputs))
    targets = (torch.cat((digits.train_targets, digits.test_targets)) >= 5).long()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(stream(seed, 0)))
    train, held = order.tensor_split(2)
    title = f"{digits.title}: 0 to 4 against 5 to 9"
    parts = inputs[train], targets[train], inputs[held], targets[held]
    return DataSet("digits, two classes", title, digits.attribution, *parts, classes=2)
