"""What recording costs: time inside the Recorder over the rest of a training.

    python benchmarks/recording.py [--data fashion-mnist:DIR] [--epochs 3] [--probe 128] [--threads 2] [--unlimited]

ResNet-20 is trained on Fashion-MNIST for three epochs with the default schedule and the budget of the bar: 5 % with at
least 128 probe samples and 20 checkpoints.  With --unlimited there is no budget, and the bar is the same.
"""

from __future__ import annotations

import argparse

import torch

from termwise import Recorder, nets
from termwise.data import load
from termwise.training import Training, train_network

BAR = 0.05


def main() -> None:
    """Train once and print the ratio."""
    parser = argparse.ArgumentParser(description="Time inside the Recorder over the rest of a training.")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--probe", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--unlimited", action="store_true", help="the default schedule without a budget")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = load(options.data)
    model = nets.resnet(20, channels=data.train_inputs.shape[1], classes=data.classes)
    probe = (data.test_inputs[: options.probe], data.test_targets[: options.probe])
    budget = None if options.unlimited else BAR
    recorder = Recorder(model, probe, budget=budget)
    done = train_network(
        model, data, recorder, settings=Training(epochs=options.epochs, batch_size=128), name="ResNet-20"
    )
    ratio = done.recording_seconds / done.training_seconds
    records = len(recorder.recorded)
    enough = ratio <= BAR and records >= 20 and options.probe >= 128
    closure = max(profile.closure for profile in recorder.timeline.profiles)
    print(f"torch {torch.__version__}, {options.threads} thread(s); ResNet-20 on {data.title}, {options.epochs} epochs")
    print(f"budget: {'none' if budget is None else format(budget, '.0%')}; steps: {recorder.recorded}")
    print(
        f"{done.steps} updates of 128 in {done.training_seconds:.0f} s; {records} records of {options.probe} samples in"
    )
    print(f"{done.recording_seconds:.0f} s = {ratio:.1%} (bar {BAR:.0%}: {'met' if enough else 'NOT MET'});")
    print(f"worst closure {closure:.1e}")


if __name__ == "__main__":
    main()
