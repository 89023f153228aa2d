"""A small task, and the loops of other people that train on it, for the tests of what stands in such loops.

Nothing here imports those loops before they are asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

# What Lightning warns of by itself: what torch has deprecated since, and advice on loaders.
_OF_LIGHTNING = (
    ".*isinstance.treespec, LeafSpec",
    ".*does not have many workers",
    ".*The number of training batches",
    "Checkpoint directory .* exists and is not empty",
)

WIDTH, CLASSES, SAMPLES = 6, 4, 64


class Net(nn.Module):
    """A batch norm, a shortcut, a head: depths 1 to 3, and statistics to estimate anew."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.norm = nn.Linear(WIDTH, 8), nn.BatchNorm1d(8)
            self.block, self.drop, self.head = nn.Linear(8, 8), nn.Dropout(0.1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(self.drop(x + F.relu(self.block(x))))


def task(samples: int = SAMPLES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors around the centre of their class."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % CLASSES
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(9))
    return centres[targets] + 0.5 * torch.randn(samples, WIDTH, generator=draw), targets


PROBE = task(12, seed=5)


# --- Hugging Face ---


class Rows(Dataset[dict[str, Tensor]]):
    """The task as the Trainer of Hugging Face takes data."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = task()
        return {"x": x[index], "labels": y[index]}


class Classifier(nn.Module):
    """The network as that Trainer takes models: it gives loss and logits."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = Net(seed)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def hugging_face(
    folder: Path, callbacks: Sequence[Any] = (), model: nn.Module | None = None, resume: bool = False, **options: Any
) -> nn.Module:
    """Train with the Trainer of transformers; 8 samples a step, 8 steps an epoch."""
    from transformers import Trainer, TrainingArguments

    fixed: dict[str, Any] = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_steps": 4, "seed": 3}
    defaults: dict[str, Any] = {"max_steps": 24, "per_device_train_batch_size": 8, "learning_rate": 0.05}
    arguments = TrainingArguments(str(folder), **(fixed | defaults | options), dataloader_pin_memory=False)
    net = Classifier() if model is None else model
    Trainer(net, arguments, train_dataset=Rows(), callbacks=list(callbacks)).train(resume_from_checkpoint=resume)
    return net


# --- Lightning ---


def lightning_module(kind: Any, seed: int = 0) -> Any:
    """The network as Lightning takes it; `kind` is the LightningModule of lightning.pytorch or pytorch_lightning."""

    class Module(kind):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"rate": 0.1})
            self.model, self.weighing = Net(seed), nn.CrossEntropyLoss(weight=torch.ones(CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            loss = self.weighing(self.model(x), y)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    return Module()


def lightning(folder: Path, package: Any, module: Any, callbacks: Sequence[Any] = (), **options: Any) -> Any:
    """Train with a Trainer of Lightning; 8 steps an epoch."""
    resume = options.pop("resume", None)
    fixed: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_steps": 24,
        "callbacks": list(callbacks),
    }
    torch.manual_seed(3)
    loader = DataLoader(TensorDataset(*task()), 8, shuffle=False)
    with warnings.catch_warnings():
        for theirs in _OF_LIGHTNING:
            warnings.filterwarnings("ignore", theirs)
        trainer = package.Trainer(**(fixed | options))
        trainer.fit(module, loader, ckpt_path=resume)
    return trainer
