"""A model as a plain function of a batch of inputs, for whatever measures degrees.

Outputs are brought to (samples, components), and are without their mean over the classes: adding the same number to all
logits changes no prediction.  An output of one component is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from termwise.batches import batches
from termwise.errors import DataError, ModelError, UsageError, first_line
from termwise.expand import Forward, Output, pick_output
from termwise.pinning import home

Progress = Callable[[int, int], None] | None
Target = Callable[[Tensor], Tensor]

_COARSEST = 1e-5  # unit in the last place of what can be measured


class ConstantOutputError(ModelError):
    """The output is the same on all inputs, up to rounding: it has no degrees."""

    def __init__(self) -> None:
        super().__init__(
            "degrees: the output is the same on all inputs, up to rounding: it has no degrees. Check the weights, and "
            "whether output= names what depends on the input."
        )


class Function:
    """A model that is called on inputs alone; to be used inside `termwise.pinning.pinned`.

    Attributes:
        dtype: what it computes in: that of its first floating-point weight, or float64 where there is none.
        device: where it takes its input.
        centres: whether the mean over the classes is taken out.
    """

    def __init__(
        self, model: Callable[..., Any], *, output: Output, forward: Forward, centre: bool, batch_size: int
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"degrees: batch_size={batch_size}: give at least 1.")
        weights = model.parameters() if isinstance(model, nn.Module) else ()
        self.dtype = next((weight.dtype for weight in weights if weight.is_floating_point()), torch.float64)
        self.device = home(model) or torch.device("cpu")
        self.precision = self.dtype  # the coarsest that was met
        self.batch_size = batch_size
        self.calls = 0  # samples that the model was run on
        self.centres = centre
        self._model, self._output, self._forward = model, output, forward

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs in float64, (samples, components).

        Raises:
            ModelError: when they are not finite, or not one row a sample.
        """
        return torch.cat([self.once(part) for part in x.split(self.batch_size)])

    def once(self, x: Tensor) -> Tensor:
        """The same of one batch, which may be differentiated."""
        self.calls += len(x)
        x = x.to(self.dtype).to(self.device)
        return self._flat(self._checked(pick_output(self._called(x), self._output), x))

    def _checked(self, y: Tensor, x: Tensor) -> Tensor:
        if not y.dim() or len(y) != len(x):
            raise ModelError(
                f"degrees: {len(x)} samples gave an output of shape {tuple(y.shape)}: expected one row a sample. Keep "
                "the batch dimension first, or choose with output=."
            )
        if not y.is_floating_point():
            raise ModelError(f"degrees: the output is {y.dtype}, whose degrees mean nothing. Give the logits.")
        if torch.finfo(y.dtype).eps > torch.finfo(self.precision).eps:
            self.precision = y.dtype
        if torch.finfo(self.precision).eps > _COARSEST:
            raise ModelError(
                f"degrees: the model computes in {self.precision}, whose rounding hides all but the lowest degrees. "
                "Measure it in single precision: model.float()."
            )
        if not bool(torch.isfinite(y).all()):
            raise ModelError("degrees: the output is NaN or infinite on some input. Check the weights and the inputs.")
        return y

    def _called(self, x: Tensor) -> Any:
        try:
            return self._model(x) if self._forward is None else self._forward(self._model, x)
        except RuntimeError as error:
            if "dtype" not in str(error) or isinstance(self._model, nn.Module):
                raise
            raise ModelError(
                f"degrees: a function is given {self.dtype}, and this one fails on it ({first_line(error)}). Give the "
                "nn.Module itself, or convert inside: lambda x: f(x.float())."
            ) from error

    def of_target(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        """What a target says on inputs for which the model said y; brought to the same form.

        Raises:
            UsageError: when it has other components than the model.
            DataError: when it is not finite.
        """
        g = target(x)
        if g.shape[:1] != y.shape[:1] or (flat := self._flat(g)).shape != y.shape:
            raise UsageError(
                f"degrees: the target gave shape {tuple(g.shape)} for {len(x)} samples, of which the model gives "
                f"{y.shape[1]} numbers each: give a target of the model's shape."
            )
        if not bool(torch.isfinite(flat).all()):
            raise DataError("degrees: the target is NaN or infinite on some input.")
        return flat

    def _flat(self, y: Tensor) -> Tensor:
        y = y[:, None] if y.dim() == 1 else y
        classes = 1 if y.dim() == 4 else -1  # dense prediction, as convolutions lay it out
        if self.centres and y.shape[classes] > 1:
            y = y - y.mean(dim=classes, keepdim=True)
        return y.flatten(1).cpu().double()  # not every device has float64


def gathered(data: Any, limit: int, batch_size: int) -> tuple[Tensor, Tensor | None]:
    """The first `limit` samples of a data set in any form that `profile` takes, inputs and targets.

    Raises:
        DataError: when they are no plain floating-point tensors, or not finite.
    """
    inputs: list[Tensor] = []
    targets: list[Tensor | None] = []
    for x, y in batches(data, batch_size):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
            raise DataError(
                f"degrees: inputs are {_what(x)}; degrees are of real numbers. Give floating-point tensors of shape "
                "(samples, ...): for tokens their embeddings, and forward= to call the model on these."
            )
        inputs.append(x.detach())
        targets.append(y)
        if sum(map(len, inputs)) >= limit:
            break
    whole = torch.cat(inputs)[:limit]
    if not bool(torch.isfinite(whole).all()):
        raise DataError("degrees: the inputs hold NaN or infinite values. Clean the data first.")
    present = [target for target in targets if target is not None]
    return whole, torch.cat(present)[:limit] if len(present) == len(targets) else None


def _what(x: Any) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"


def counted(total: int, step: int, progress: Progress) -> Iterator[int]:
    """Sizes of the pieces that `total` is done in, reporting each when it is done."""
    for start in range(0, total, step):
        size = min(step, total - start)
        yield size
        if progress is not None:
            progress(start + size, total)
