"""From a module to a tree: each kind of module says by hand what it is made of."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from termwise.errors import ModelError
from termwise.reference.network import Dense, Linear, Node, Nonlinearity, Norm, Residual, Sequence, Weight

# From a module to a tree ------------------------------------------------------------------------------------


@functools.singledispatch
def describe(model: nn.Module) -> Node:
    """Write a model down as a tree, by a converter written by hand for every class that it is built of.

    Served are the networks of `termwise.nets` that are sums and concatenations of layers (`resnet`, `preact_resnet`,
    `densenet`, `plain`, `mlp`: neither gates nor attention nor recurrence), the layers of `torch.nn` that they are
    built of, and `nn.Sequential`. For a class of your own: `@describe.register`, a function from the module to a node.

    Args:
        model: a module in evaluation mode. Describe it again after its parameters have changed.

    Returns:
        The tree. `forward(describe(model), x)` is `model(x)` up to rounding.

    Raises:
        ModelError: for an unknown class, or a layer that is not affine as it is (a batch norm that trains).
    """
    tree = _describe_net(model)
    if tree is None:
        raise ModelError(
            f"the reference has no description of {type(model).__name__}: write its tree by hand, "
            "or register a converter with @describe.register"
        )
    return tree


def _describe_net(model: nn.Module) -> Node | None:
    """The tree of a network of `termwise.nets`, or of one of its blocks; None for anything else."""
    # Imported when called: the networks stand below this module and nothing else here needs them.
    from termwise.nets.densenet import DenseLayer, DenseNet
    from termwise.nets.preact import PreActBlock, PreActResNet
    from termwise.nets.resnet import Block, PadShortcut, ResNet

    match model:
        case Block():
            branch = _chain(model.conv1, model.norm1, model.relu, model.conv2, model.norm2, model.scale)
            return Sequence((Residual(branch, describe(model.shortcut)), describe(model.relu)))
        case PadShortcut():
            return Linear(model)
        case PreActBlock():
            gain = model.gain
            layers = (model.norm1, model.relu, model.conv1, model.norm2, model.relu, model.conv2)
            branch = Sequence((_chain(*layers), Linear(lambda v: gain * v)))
            return Residual(branch, describe(model.shortcut))
        case PreActResNet():
            growth = model.growth
            pooled = _chain(model.conv, model.stages, model.norm, model.relu, model.pool, nn.Flatten())
            return Sequence((pooled, Linear(lambda v: v / growth), describe(model.classifier)))
        case DenseLayer():
            return Dense(describe(model.branch))
        case ResNet():
            stem = _chain(model.conv, model.norm, model.relu)
            return Sequence((stem, describe(model.stages), _chain(model.pool, nn.Flatten(), model.classifier)))
        case DenseNet():
            body = _chain(model.conv, model.stages, model.norm, model.relu)
            return Sequence((body, _chain(model.pool, nn.Flatten(), model.classifier)))
        case _:
            return None


def _chain(*modules: nn.Module) -> Node:
    return Sequence(tuple(describe(module) for module in modules))


@describe.register
def _(model: nn.Sequential) -> Node:
    if type(model).forward is not nn.Sequential.forward:
        raise ModelError(
            f"{type(model).__name__} is an nn.Sequential with a forward of its own: register a converter "
            "for it with @describe.register"
        )
    return _chain(*model)


@describe.register
def _(model: nn.Linear) -> Node:
    weight = model.weight.detach()
    return Weight(lambda v: F.linear(v, weight), None if model.bias is None else model.bias.detach())


@describe.register
def _(model: nn.Conv2d) -> Node:
    if model.padding_mode != "zeros":
        raise ModelError(f"the reference has no convolution of padding_mode={model.padding_mode!r}: use 'zeros'")
    weight = model.weight.detach()
    how: tuple[Any, ...] = (model.stride, model.padding, model.dilation, model.groups)
    bias = None if model.bias is None else model.bias.detach()[:, None, None]
    return Weight(lambda v: F.conv2d(v, weight, None, *how), bias)


@describe.register(nn.BatchNorm1d)
@describe.register(nn.BatchNorm2d)
def _(model: nn.BatchNorm1d | nn.BatchNorm2d) -> Node:
    mean, variance = model.running_mean, model.running_var
    if model.training or mean is None or variance is None:
        raise ModelError("batch norm is affine only with running statistics: call model.eval() first")
    gain = torch.ones_like(mean) if model.weight is None else model.weight.detach()
    offset = torch.zeros_like(mean) if model.bias is None else model.bias.detach()
    scale = gain / (variance + model.eps).sqrt()
    shift = offset - mean * scale
    shape = (-1, 1, 1) if isinstance(model, nn.BatchNorm2d) else (-1,)
    return Norm(scale.view(shape), shift.view(shape))


@describe.register(nn.ReLU)
@describe.register(nn.LeakyReLU)
@describe.register(nn.ELU)
@describe.register(nn.GELU)
@describe.register(nn.SiLU)
@describe.register(nn.Softplus)
@describe.register(nn.Sigmoid)
@describe.register(nn.Tanh)
def _(model: nn.Module) -> Node:
    in_place = getattr(model, "inplace", False)
    return Nonlinearity((lambda v: model(v.clone())) if in_place else model)


@describe.register(nn.AvgPool2d)
@describe.register(nn.AdaptiveAvgPool2d)
@describe.register(nn.Flatten)
@describe.register(nn.Identity)
def _(model: nn.Module) -> Node:
    return Linear(model)


@describe.register
def _(model: nn.Dropout) -> Node:
    if model.training:
        raise ModelError("dropout is the identity only in evaluation: call model.eval() first")
    return Sequence()
