"""Networks by name: `parse("densenet-22-12")` gives the builder's key and its arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from termwise.errors import UsageError
from termwise.nets.densenet import densenet
from termwise.nets.lstm import lstm
from termwise.nets.mlp import mlp
from termwise.nets.plain import plain
from termwise.nets.preact import preact_resnet
from termwise.nets.resnet import resnet
from termwise.nets.senet import se_resnet
from termwise.nets.sknet import sk_resnet
from termwise.nets.vit import vit

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "densenet": densenet,
    "lstm": lstm,
    "mlp": mlp,
    "plain": plain,
    "preact_resnet": preact_resnet,
    "resnet": resnet,
    "se_resnet": se_resnet,
    "sk_resnet": sk_resnet,
    "vit": vit,
}


class _Spelling(NamedTuple):
    family: str
    pattern: str
    example: str
    more: Mapping[str, Any] = MappingProxyType({})


_SPELLINGS = (
    _Spelling("resnet", r"resnet-?(?P<depth>\d+)(?:-(?P<shortcut>projection))?", "resnet-20 or resnet-20-projection"),
    _Spelling("preact_resnet", r"preact-resnet-?(?P<depth>\d+)", "preact-resnet-20"),
    _Spelling("se_resnet", r"se-resnet-?(?P<depth>\d+)", "se-resnet-20"),
    _Spelling("sk_resnet", r"sk-resnet-?(?P<depth>\d+)", "sk-resnet-20"),
    _Spelling("densenet", r"densenet-?(?P<depth>\d+)-(?P<growth>\d+)", "densenet-22-12 (depth, growth)"),
    _Spelling(
        "densenet",
        r"densenet-bc-?(?P<depth>\d+)-(?P<growth>\d+)",
        "densenet-bc-100-12",
        {"bottleneck": True, "compression": 0.5},
    ),
    _Spelling("plain", r"plain-?(?P<depth>\d+)", "plain-20"),
    _Spelling("mlp", r"mlp(?P<sizes>(?:-\d+){2,})", "mlp-64-32-10 (the width of every layer)"),
    _Spelling("vit", r"vit-?(?P<depth>\d+)-(?P<width>\d+)", "vit-4-64 (blocks, width)"),
    _Spelling("lstm", r"lstm-?(?P<hidden>\d+)(?:-(?P<layers>\d+))?", "lstm-64 or lstm-64-2 (width, layers)"),
)


def parse(name: str) -> tuple[str, dict[str, Any]]:
    """The key in `BUILDERS` and the builder's arguments.

    Raises:
        UsageError: when the name is none; the message lists what can be written.
    """
    for family, pattern, _, more in _SPELLINGS:
        match = re.fullmatch(pattern, name)
        if match is not None:
            given = {key: text for key, text in match.groupdict().items() if text is not None}
            return family, {key: _argument(text) for key, text in given.items()} | dict(more)
    forms = "; ".join(each.example for each in _SPELLINGS)
    raise UsageError(f"network {name!r} is unknown. Write {forms}.")


def _argument(text: str) -> Any:
    """A number, a list of numbers with a dash in front of each, or a word."""
    if text.startswith("-"):
        return [int(number) for number in text[1:].split("-")]
    return int(text) if text.isdigit() else text
