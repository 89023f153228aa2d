"""The networks of the paper in their CIFAR form, their relatives, and a plain one of each other kind.

Small, readable, and close to the original publications: their parameter counts are the published ones.  The
convolutional ones take images of shape (N, channels, H, W), H and W multiples of 4 (the resolution is halved twice);
`vit` and `lstm` are built for one size of image; `mlp` flattens whatever it is given.  All of these return logits of
shape (N, classes), and `transformer`, which takes token numbers (N, T), those of the next tokens, (N, T, vocabulary).
Initial weights come from torch's global random state.
"""

from termwise.nets.densenet import DenseNet, densenet
from termwise.nets.lstm import LSTM, lstm
from termwise.nets.mlp import mlp
from termwise.nets.plain import plain
from termwise.nets.preact import PreActResNet, preact_resnet
from termwise.nets.resnet import ResNet, resnet
from termwise.nets.senet import se_resnet
from termwise.nets.sknet import sk_resnet
from termwise.nets.transformer import Transformer, transformer
from termwise.nets.vit import ViT, vit

__all__ = [
    "LSTM",
    "DenseNet",
    "PreActResNet",
    "ResNet",
    "Transformer",
    "ViT",
    "densenet",
    "lstm",
    "mlp",
    "plain",
    "preact_resnet",
    "resnet",
    "se_resnet",
    "sk_resnet",
    "transformer",
    "vit",
]
