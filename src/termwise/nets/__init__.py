"""The networks of the paper in their CIFAR form, their plain counterpart, and a multilayer perceptron.

Small, readable, and close to the original publications: their parameter counts are the published ones.  All
take images of shape (N, channels, H, W), H and W multiples of 4 (the resolution is halved twice), except
`mlp`, which flattens whatever it is given; all return logits of shape (N, classes).  Initial weights come
from torch's global random state.
"""

from termwise.nets.densenet import DenseNet, densenet
from termwise.nets.mlp import mlp
from termwise.nets.plain import plain
from termwise.nets.resnet import ResNet, resnet

__all__ = ["DenseNet", "ResNet", "densenet", "mlp", "plain", "resnet"]
