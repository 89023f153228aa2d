"""The members of timm and torchvision with random weights: what there is, how large it is, how it is built.

Images are as small as a network takes them: the first of a list of sizes that it runs with.
"""

from __future__ import annotations

import collections
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.examine import Subject

SIZES = (64, 96, 128, 160, 192, 224, 256, 299, 384)


def image(size: int, channels: int = 3) -> Tensor:
    """One random image."""
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def first_that_runs(make: Callable[[int], nn.Module], inputs: Callable[[int], Any], sizes: Iterable[int]) -> Any:
    """The network and its input at the first size with which it runs.

    Raises:
        Exception: of the largest size, when it runs with none.
    """
    failure: Exception | None = None
    for size in sizes:
        try:
            torch.manual_seed(0)
            model, x = make(size).eval(), inputs(size)
            with torch.no_grad():
                model(*x) if isinstance(x, tuple) else model(x)
            return model, x
        except Exception as error:  # too small for this network, whatever it raises
            failure = error
    assert failure is not None
    raise failure


# timm.


def timm_sizes() -> dict[str, list[tuple[int, str]]]:
    """For each module of timm its members with their number of parameters, smallest first."""
    import timm

    sizes: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    for module in timm.list_modules():
        for name in timm.list_models(module=module):
            try:
                with torch.device("meta"):
                    model = timm.create_model(name)
            except Exception:  # it cannot be built without weights: the sweep says why
                sizes[module].append((2**62, name))
            else:
                sizes[module].append((sum(p.numel() for p in model.parameters()), name))
        sizes[module].sort()
    return dict(sizes)


def timm_order(sizes: dict[str, list[tuple[int, str]]]) -> list[tuple[int, str]]:
    """The smallest member of every module, then all others, smallest first."""
    first = sorted(members[0] for members in sizes.values() if members)
    rest = sorted(member for members in sizes.values() for member in members[1:])
    return first + rest


def timm_subject(name: str) -> Subject:
    """One member of timm."""
    return Subject(name, functools.partial(_build_timm, name))


def _build_timm(name: str) -> tuple[nn.Module, Any]:
    import timm

    with torch.device("meta"):
        model = timm.create_model(name)
    described: Any = model.pretrained_cfg
    channels, size, _ = described.get("input_size", (3, 224, 224))
    takes_size = "img_size" in inspect.signature(type(model).__init__).parameters

    def make(size: int) -> nn.Module:
        return timm.create_model(name, img_size=size) if takes_size else timm.create_model(name)

    sizes = [s for s in SIZES if s < size] + [size]
    return first_that_runs(make, lambda s: image(s, channels), sizes)


# torchvision.


def torchvision_names() -> list[str]:
    """Every builder, in the order: classification, segmentation, video, then those that are tried."""
    from torchvision import models

    modules = (models, models.segmentation, models.video, models.detection, models.optical_flow, models.quantization)
    return [name for module in modules for name in models.list_models(module=module)]


def torchvision_subject(name: str) -> Subject:
    """One member of torchvision."""
    from torchvision import models

    if name in models.list_models(module=models.detection):
        return Subject(name, functools.partial(_build_detector, name), _detected(name))
    if name in models.list_models(module=models.optical_flow):
        return Subject(name, functools.partial(_build_flow, name), -1)
    if name in models.list_models(module=models.video):
        return Subject(name, functools.partial(_build_video, name))
    if name in models.list_models(module=models.segmentation):
        return Subject(name, functools.partial(_build_torchvision, name), "out")
    return Subject(name, functools.partial(_build_torchvision, name))


def _build_torchvision(name: str) -> tuple[nn.Module, Any]:
    from torchvision import models

    sized = {"image_size": 0} if name.startswith("vit_") else {}
    more: dict[str, Any] = {"weights_backbone": None} if name in models.list_models(module=models.segmentation) else {}
    if name.startswith("quantized_"):
        more["quantize"] = True

    def make(size: int) -> nn.Module:
        return models.get_model(name, weights=None, **more, **dict.fromkeys(sized, size))

    sizes = (56, *SIZES) if name == "vit_h_14" else SIZES  # its patches are of 14 pixels
    return first_that_runs(make, image, sizes)


def _build_video(name: str) -> tuple[nn.Module, Any]:
    from torchvision import models

    def clip(size: int) -> Tensor:
        return torch.randn(1, 3, 16, size, size, generator=torch.Generator().manual_seed(0))

    def make(size: int) -> nn.Module:
        # The multiscale transformers take clips of one size, which their builders fix.
        made = models.video.MViT
        smaller = functools.partial(_of_size, made, (size, size))
        with mock.patch.object(importlib.import_module("torchvision.models.video.mvit"), "MViT", smaller):
            return models.get_model(name, weights=None)

    return first_that_runs(make, clip, (64, 112, 224))


def _of_size(made: Callable[..., nn.Module], size: tuple[int, int], **options: Any) -> nn.Module:
    return made(**options | {"spatial_size": size})


def _build_detector(name: str) -> tuple[nn.Module, Any]:
    from torchvision import models

    sizes = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 96}
    model = models.get_model(name, weights=None, weights_backbone=None, **sizes).eval()
    return model, ([image(96)[0]],)


def _detected(name: str) -> Callable[[Any], Tensor]:
    return lambda found: found[0]["boxes"]


def _build_flow(name: str) -> tuple[nn.Module, Any]:
    from torchvision import models

    model = models.get_model(name, weights=None).eval()
    return model, (image(128), image(128).flip(-1), 2)
