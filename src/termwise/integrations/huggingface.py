"""Termwise in the Trainer of Hugging Face's transformers.

    callback = TermwiseCallback((inputs, targets), budget=0.05)
    Trainer(model, arguments, train_dataset=..., callbacks=[callback]).train()
    print(callback.timeline)

Steps are the Trainer's: updates, however many batches are accumulated for one.  Step 0 is the model before the first.
Records are kept in the Trainer's output directory, and a training that is resumed from a checkpoint goes on with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from termwise.errors import UsageError
from termwise.integrations.callback import WatchCallback

if TYPE_CHECKING:
    from transformers import TrainerCallback
else:
    TrainerCallback = object


class TermwiseCallback(WatchCallback, TrainerCallback):
    """A `transformers.TrainerCallback` that records the depth expansion of the model while it is trained.

    What fails while recording is a warning, once, and the training goes on.  Of several processes the first records.
    With mixed precision the weights are float32, and so is what is measured.

    Args:
        probe: (inputs, targets), tensors of equal length: the fixed data.  The inputs are what the model takes first:
            `pixel_values`, `input_ids`, ...; the output is its `logits`, unless output= says otherwise.
        directory: where records are kept; by default in the Trainer's output directory.
        module: the name of the part of the model to record; "" for the whole.
        sinks: trackers that are told what is recorded: see `termwise.integrations.sinks`.
        strict: let what fails while recording end the training.
        options: of `termwise.Recorder`.

    Raises:
        UsageError: when an option is unknown, the probe is no pair, or transformers is not installed.
    """

    @classmethod
    def bases(cls) -> tuple[type, ...]:
        """See `WatchCallback`."""
        try:
            from transformers import TrainerCallback
        except ImportError as error:
            raise UsageError(f"{error}. Install it: pip install 'termwise[huggingface]'") from error
        return (TrainerCallback,)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the model before the first update of this call of train()."""
        self._watch.begin(kwargs["model"], state.global_step, folder=args.output_dir)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the model after an update, if that is due, or the last."""
        last = state.global_step >= state.max_steps
        (self._watch.finish if last else self._watch.step)(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the last step of a training that was stopped early."""
        if args.load_best_model_at_end:  # these are the weights of another step
            self._watch.close()
        else:
            self._watch.finish(state.global_step)
