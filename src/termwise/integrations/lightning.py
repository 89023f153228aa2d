"""Termwise in the Trainer of Lightning, as `lightning.pytorch` or as `pytorch_lightning`.

    callback = TermwiseCallback((inputs, targets), module="net", budget=0.05)
    Trainer(callbacks=[callback]).fit(module, loader)
    print(callback.timeline)

Steps are `trainer.global_step`: updates, however many batches are accumulated for one (with several optimisers, those
of all).  Step 0 is the model before the first.  Records are kept in the Trainer's `default_root_dir`, and a training
that is resumed with `ckpt_path=` goes on with them.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from torch import Tensor

from termwise.errors import UsageError
from termwise.integrations.callback import WatchCallback

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    Callback = object

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


class TermwiseCallback(WatchCallback, Callback):
    """A Lightning callback that records the depth expansion of the module while it is trained.

    What fails while recording is a warning, once, and the training goes on.  Of several processes the first records.
    With mixed precision the weights are float32, and so is what is measured.  The loss of the last batch is kept along,
    as train_loss.

    Args:
        probe: (inputs, targets), tensors of equal length: the fixed data.
        directory: where records are kept; by default in the Trainer's default_root_dir, if that is a local one.
        module: the name of the part of the LightningModule to record ("net" for self.net); "" for its own forward.
        sinks: trackers that are told what is recorded: see `termwise.integrations.sinks`.
        strict: let what fails while recording end the training.
        options: of `termwise.Recorder`.

    Raises:
        UsageError: when an option is unknown, the probe is no pair, or Lightning is not installed.
    """

    @classmethod
    def bases(cls) -> tuple[type, ...]:
        """See `WatchCallback`: of the package that the Trainer comes from; where both are there, a callback of both."""
        there = [name for name in _PACKAGES if name in sys.modules]
        for name in () if there else _PACKAGES:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
            there = [name]
            break
        if not there:
            raise UsageError("Lightning is not installed. Install it: pip install 'termwise[lightning]'")
        return tuple(dict.fromkeys(sys.modules[name].Callback for name in there))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record the module before the first update of this call of fit()."""
        root = str(trainer.default_root_dir)
        local = "://" not in root and not trainer.fast_dev_run
        self._loss = {}
        self._watch.begin(pl_module, trainer.global_step, folder=root if local else None)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the module after an update, if that is due."""
        self._loss = _loss(outputs)
        self._watch.step(trainer.global_step, **self._loss)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the last step."""
        self._watch.finish(trainer.global_step, **self._loss)


def _loss(outputs: Any) -> dict[str, Any]:
    """What the training step returned as its loss."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return {"train_loss": loss} if isinstance(loss, Tensor) and loss.numel() == 1 else {}
