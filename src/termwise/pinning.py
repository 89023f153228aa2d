"""The model and the numerics, fixed for a run and restored after it; models whose state cannot be followed, refused.

A run must see every operator that the model calls, on every weight that it uses, in the arithmetic that it names.
So what hides operators is stepped out of (compiled code, fused kernels, replicas on other devices), what changes the
numbers is switched off (dropout, TF32, autotuning), and what can be neither is refused with the way out.
"""

from __future__ import annotations

import collections
import contextlib
import operator
import random
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from termwise.errors import ModelError
from termwise.series import Series

# Modules that compute in integers, by the package that defines them.
_QUANTISED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.nn.sparse.quantized",
    "bitsandbytes.",
    "auto_gptq.",
    "gptqmodel.",
    "awq.",
)
_REPLICATED = (DataParallel, DistributedDataParallel)
_CONTAINERS = {dict, list, set, collections.OrderedDict, collections.defaultdict, collections.deque}
_arithmetic = operator.attrgetter("__torch_dispatch__", "__torch_function__")
_WHOLE_MODEL = "Profile the model in floating point, as it was before"


def bare(model: Any) -> Any:
    """The module that a user wrote, inside of torch.compile, DataParallel and DistributedDataParallel.

    Names of modules, in `unit=` and in results, are those of this one, whatever it is wrapped in.

    Raises:
        ModelError: when its operators or weights cannot be followed: scripted or traced, quantised, sharded, or without
            weights (on the meta device, or lazy).
    """
    _refuse(model)
    while isinstance(model, nn.Module):
        inner = _inside(model)
        if inner is None:
            break
        model = inner
    return model


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper runs, or None where the module is no wrapper."""
    if isinstance(module, _REPLICATED):
        return module.module
    if "torch._dynamo" in sys.modules and isinstance(module, torch._dynamo.OptimizedModule):
        return module._orig_mod
    return None


def home(model: object) -> torch.device | None:
    """Where a model takes its input: the device of its first weight; None where there is none, or none is there yet."""
    weights = model.parameters() if isinstance(model, nn.Module) else ()
    return next((weight.device for weight in weights if not weight.is_meta), None)


# What is refused.


def _refuse(model: object) -> None:
    if not isinstance(model, nn.Module):
        return
    for name, module in model.named_modules():
        reason = _unfollowed(module)
        if reason is not None:
            kind = type(module).__name__
            raise ModelError(f"the model holds {reason[0]} ({kind}, module '{name}'). {reason[1]}")
        # The weights of such a module are elsewhere (kept by accelerate, or see `termwise.lazy`) until it is run.
        offloaded = hasattr(module, "_hf_hook") or hasattr(module, "_weights_in_file")
        for label, tensor in (*module._parameters.items(), *module._buffers.items()):
            reason = None if tensor is None else _unreadable(tensor, offloaded=offloaded)
            if reason is not None:
                where = f"{name}.{label}" if name else label
                raise ModelError(f"'{where}' of the model {reason}")


def _unfollowed(module: nn.Module) -> tuple[str, str] | None:
    """What a module is that hides its operators, and the way out."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted or traced modules, whose operators cannot be followed", "Give the original module."
    package = f"{type(module).__module__}."
    if package.startswith(_QUANTISED):
        return "quantised modules, whose integer arithmetic has no parts", f"{_WHOLE_MODEL} it was quantised."
    if _is_sharded(module):
        return (
            "a module sharded by FSDP, of which each process has only a piece",
            "Gather the weights (torch.distributed.checkpoint.state_dict.get_model_state_dict with "
            "full_state_dict=True), load them into the plain model, and profile that in one process.",
        )
    return None


def _is_sharded(module: nn.Module) -> bool:
    # Who has not imported it has no such module.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, (fsdp.FullyShardedDataParallel, fsdp.FSDPModule))


def _unreadable(tensor: Tensor, *, offloaded: bool) -> str | None:
    """Why a weight cannot be read, and the way out."""
    if is_lazy(tensor):
        return "has no shape yet (a lazy module). Run the model once on a batch, then profile it."
    if tensor.is_meta and not offloaded:
        return (
            "is on the meta device: it has a shape and no numbers. Load the weights first: "
            "model.to_empty(device='cpu'), then model.load_state_dict(...), or load_state_dict(..., assign=True)."
        )
    if type(tensor) is not Tensor and _arithmetic(type(tensor)) != _arithmetic(nn.Parameter):
        return (
            f"is a {type(tensor).__name__}, a tensor with arithmetic of its own (quantised or distributed weights are "
            f"such). {_WHOLE_MODEL} its weights were converted."
        )
    if tensor.is_quantized or (isinstance(tensor, nn.Parameter) and tensor.dtype in (torch.uint8, torch.int8)):
        return f"is quantised ({tensor.dtype}): products by it have no parts. {_WHOLE_MODEL} it was quantised."
    return None


# What is fixed.


@contextlib.contextmanager
def pinned(model: object) -> Iterator[None]:
    """The vocabulary of operators and the state of the model, fixed for the run and restored after it, come what may.

    No gradients and no inference mode (which changes the operators), evaluation mode, compiled code run as it was
    written, attention in its mathematical form, the fused multi-head path off, float32 products in float32 (no TF32, no
    bfloat16), cuDNN without autotuning and deterministic, no weights kept by autocast or parametrizations, random
    states put back.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_random_states())
        stack.enter_context(_numerics())
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        stack.enter_context(_uncompiled())
        stack.enter_context(_weights_anew())
        stack.enter_context(_as_found(model))
        yield


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def _numerics() -> Iterator[None]:
    """Exact float32, and the same kernels every time."""
    backends: Any = torch.backends
    products = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    products += (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)
    # Where nothing is set the products are in float32 already, and follow what the user sets later.
    lowered = [(one, one.fp32_precision) for one in products if one.fp32_precision not in ("none", "ieee")]
    cudnn = backends.cudnn.benchmark, backends.cudnn.deterministic
    fast = backends.mha.get_fastpath_enabled()
    try:
        for one, _ in lowered:
            one.fp32_precision = "ieee"
        backends.cudnn.benchmark, backends.cudnn.deterministic = False, True
        backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        backends.mha.set_fastpath_enabled(fast)
        backends.cudnn.benchmark, backends.cudnn.deterministic = cudnn
        for one, precision in lowered:
            one.fp32_precision = precision


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Whatever torch.compile made is run as it was written."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        # It warns of hooks that fire once more for the wrapper; ours know the module inside alone.
        warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when there are global hooks")
        yield


@contextlib.contextmanager
def _weights_anew() -> Iterator[None]:
    """Whatever was computed from parameters before the run, and kept, is computed again in it.

    Else nothing would tell that it is a weight; and what is kept from the run itself has no gradient.
    """
    kept = parametrize._cache
    parametrize._cache = {}
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        parametrize._cache = kept
        torch.clear_autocast_cache()


@contextlib.contextmanager
def _as_found(model: object) -> Iterator[None]:
    """Evaluation mode; afterwards the modules with the modes, attributes and buffers that they had before."""
    found = _Found()
    # A function may call modules of which nothing is known until they are run.
    hook = register_module_forward_pre_hook(lambda module, args: found.meet(module))
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    try:
        if isinstance(owner, nn.Module):
            found.hold(owner)
        yield
    finally:
        hook.remove()
        found.put_back()


class _Found:
    """Modules as they were found, in evaluation mode meanwhile."""

    def __init__(self) -> None:
        self._modules: dict[int, tuple[nn.Module, dict[str, Any]]] = {}
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._borrowed: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def meet(self, module: nn.Module) -> None:
        """Hold a module that is about to run, unless it is held already."""
        if id(module) in self._modules:
            return
        _refuse(module)
        if isinstance(module, _REPLICATED):
            raise ModelError(
                f"the function that is profiled calls a {type(module).__name__}, whose forward spreads the batch over "
                "devices or waits for other processes. Call its .module in the function, or pass it itself."
            )
        self.hold(module, running=True)

    def hold(self, root: nn.Module, *, running: bool = False) -> None:
        """Note the state of a module and of all inside it, and bring them into evaluation mode."""
        fresh = [module for module in root.modules() if id(module) not in self._modules]
        for module in fresh:
            self._modules[id(module)] = module, dict(module.__dict__)
            registries: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            if running:
                # A caller that exchanged weights for this call (functional_call) puts them back by itself.
                self._borrowed += [(registry, dict(registry)) for registry in registries]
            self._note(v for v in module.__dict__.values() if not (running and any(v is r for r in registries)))
            buffers = [b for b in module._buffers.values() if b is not None and b.layout is torch.strided]
            self._buffers += [(b, b.clone()) for b in buffers if not b.is_meta]
        for module in fresh:  # a wrapper's mode is that of the module inside: all are noted first
            module.training = False
            if isinstance(module, _REPLICATED):
                vars(module).update(forward=module.module.__call__)

    def _note(self, values: Iterable[Any]) -> None:
        # What a model keeps in lists and dictionaries: registries, caches, results of earlier runs.
        pending = list(values)
        while pending:
            value = pending.pop()
            if type(value) in _CONTAINERS and id(value) not in self._containers:
                self._containers[id(value)] = value, value.copy()
                pending += value.values() if isinstance(value, dict) else value

    def put_back(self) -> None:
        """Everything as it was, the memory of buffers included."""
        for module, attributes in self._modules.values():
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for container, content in self._containers.values():
            container.clear()
            (container.extend if isinstance(container, (list, collections.deque)) else container.update)(content)
        for registry, content in self._borrowed:
            registry.update({name: content.get(name) for name, v in registry.items() if isinstance(v, Series)})
        for buffer, content in self._buffers:
            if not torch.equal(buffer, content):
                with torch.inference_mode(buffer.is_inference()):
                    buffer.copy_(content)
