"""All that a run could leave behind, on a model and in the process."""

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _get_current_dispatch_mode

_backends: Any = torch.backends
BACKENDS: dict[str, Any] = {
    "cudnn benchmark": lambda: _backends.cudnn.benchmark,
    "cudnn deterministic": lambda: _backends.cudnn.deterministic,
    "cudnn convolution": lambda: _backends.cudnn.conv.fp32_precision,
    "cudnn recurrence": lambda: _backends.cudnn.rnn.fp32_precision,
    "cublas": lambda: _backends.cuda.matmul.fp32_precision,
    "onednn": lambda: _backends.mkldnn.matmul.fp32_precision,
}
HOOKS = [
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_state_dict_hooks",
]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a run could leave behind, by value where it is cheap and by identity where it matters."""
    shared = [name for name in vars(torch_module) if name.startswith("_global_")]
    return {
        "training": {name: m.training for name, m in model.named_modules()},
        "hooks": {name: [dict(getattr(m, kind)) for kind in HOOKS] for name, m in model.named_modules()},
        "attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
        "global hooks": {
            name: copy.copy(v)
            for name in shared
            if isinstance(v := getattr(torch_module, name), (dict, bool, type(None)))
        },
        "state": {name: v.clone() for name, v in model.state_dict().items()},
        "identity": {name: id(v) for name, v in (*model.named_parameters(), *model.named_buffers())},
        "types": {name: type(v) for name, v in (*model.named_parameters(), *model.named_buffers())},
        "requires": {name: v.requires_grad for name, v in model.named_parameters()},
        "grads": {
            name: (id(v.grad), None if v.grad is None else v.grad.clone()) for name, v in model.named_parameters()
        },
        "versions": {name: v._version for name, v in model.named_parameters()},
        "torch rng": torch.get_rng_state(),
        "python rng": random.getstate(),
        "numpy rng": tuple(np.random.get_state()),
        "backends": {name: read() for name, read in BACKENDS.items()},
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "inference mode": torch.is_inference_mode_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "attention": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
        "grad mode": torch.is_grad_enabled(),
        "mode": _get_current_dispatch_mode(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
    }


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and left.device == right.device and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return np.array_equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = [name for name in before if not same(before[name], after[name])]
    assert not changed, changed
