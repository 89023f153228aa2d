"""A recurrent network that reads images row by row, or sequences.

S. Hochreiter, J. Schmidhuber, *Long Short-Term Memory*, Neural Computation 9 (1997), with the forget gate of F. Gers,
J. Schmidhuber, F. Cummins (2000); the equations are those of `torch.nn.LSTM`.  A linear layer reads the last state.
"""

from __future__ import annotations

from torch import Tensor, nn

from termwise.nets.parts import require_positive


class LSTM(nn.Module):
    """A long short-term memory and a classifier; built by `lstm`."""

    def __init__(self, features: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.memory = nn.LSTM(features, hidden, layers, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, size), read from the first row to the last, or (N, T, features), to logits (N, classes)."""
        steps = x.transpose(1, 2).flatten(2) if x.dim() == 4 else x
        states, _ = self.memory(steps)
        return self.classifier(states[:, -1])


def lstm(hidden: int, *, layers: int = 1, classes: int = 10, channels: int = 3, size: int = 32) -> LSTM:
    """An LSTM whose time steps are the rows of an image, or the members of a sequence.

    Args:
        hidden: features of the state.
        layers: one on top of the other.
        classes: number of logits.
        channels: of the input; for sequences the features of a step.
        size: width of the images in pixels; for sequences 1.

    Weights are those that torch gives its layers.

    Raises:
        UsageError: a size is below 1.
    """
    require_positive("lstm", hidden=hidden, layers=layers, classes=classes, channels=channels, size=size)
    return LSTM(channels * size, hidden, layers, classes)
