"""Make a shortened network again from the original one; plain PyTorch, nothing else is needed.

    from rebuild import rebuild
    model = rebuild(original)    # the architecture before it was shortened, with any weights

`plan.json` beside this file says which modules are out, and `model.safetensors` has the weights of the others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from torch import nn


def rebuild(model: nn.Module, directory: str | Path | None = None) -> nn.Module:
    """Take out of `model` what was taken out, and load the weights; in evaluation mode."""
    place = Path(__file__).parent if directory is None else Path(directory)
    plan = json.loads((place / "plan.json").read_text())
    take_out(model, plan["removed"], identity=plan["identity"])
    load_model(model, place / "model.safetensors")
    return model.eval()


def take_out(model: nn.Module, names: Sequence[str], *, identity: bool) -> None:
    """Put an nn.Identity in the place of each named module, or delete it from its nn.Sequential or nn.ModuleList."""
    by_container: dict[str, list[str]] = {}
    for name in names:
        container, _, own = name.rpartition(".")
        by_container.setdefault(container, []).append(own)
    for path, members in by_container.items():
        container: Any = model.get_submodule(path)
        if identity:
            for own in members:
                setattr(container, own, nn.Identity())
            continue
        order = [name for name, _ in container.named_children()]
        gone = {order.index(own) for own in members}
        for config in _configs(model, path):
            _shorten(config, path.split("."), len(order), gone)
        for index in sorted(gone, reverse=True):
            del container[index]
        _renumber(container, [index for index in range(len(order)) if index not in gone])


def _renumber(container: Any, before: Sequence[int]) -> None:
    """Layers of transformers know their number, by which caches of keys and values find them."""
    for now, (was, layer) in enumerate(zip(before, container, strict=True)):
        for module in layer.modules():
            if getattr(module, "layer_idx", None) == was:
                module.layer_idx = now


def _configs(model: nn.Module, path: str) -> list[Any]:
    """The configurations, of transformers, of the modules around a container."""
    parts = path.split(".")
    around = [model.get_submodule(".".join(parts[:i])) for i in range(len(parts))]
    found = {id(config): config for module in around if (config := getattr(module, "config", None)) is not None}
    return [*found.values()]


def _shorten(config: Any, path: Sequence[str], layers: int, gone: set[int]) -> None:
    """Count fewer members of a container of so many, in lists of one entry a layer too."""
    depths, stage = getattr(config, "depths", None), [int(part) for part in path if part.isdigit()][-1:]
    if isinstance(depths, (list, tuple)):  # layers are counted stage by stage
        if stage and stage[0] < len(depths) and depths[stage[0]] == layers:
            config.depths = [count - len(gone) * (i == stage[0]) for i, count in enumerate(depths)]
        return
    decoder = "decoder" in path and getattr(config, "is_encoder_decoder", False)
    names = ("decoder_layers", "num_decoder_layers") if decoder else ("num_hidden_layers",)
    counting = [name for name in names if getattr(config, name, None) == layers]
    if not counting:
        return
    for name, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == layers and "layer" in name:
            setattr(config, name, type(value)(entry for i, entry in enumerate(value) if i not in gone))
    for name in counting:
        setattr(config, name, layers - len(gone))
    if len(getattr(config, "stage_names", None) or ()) == layers + 1:  # a backbone whose stages are its layers
        config.stage_names = config.stage_names[: layers - len(gone) + 1]
        config.set_output_features_output_indices(out_features=None, out_indices=None)
