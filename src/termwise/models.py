"""Models by name: from timm, torchvision, transformers, or a function of the user's.

Those libraries are extras, and what they download or cache is left to their own code.  Nothing but tensors is read
from files of weights; of the forms below FILE.py:callable runs that file, and hf: runs code that comes with a model
only if `trust_remote_code` says so.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from termwise.datafiles import load_callable
from termwise.errors import DataError, ModelError, TermwiseError, UsageError
from termwise.lazy import FileWeights, read_when_run, weight_files, without_weights
from termwise.seeds import owned_random
from termwise.weights import SUFFIXES, fit_weights, misfit, read_weights, stripped

FORMS = {
    "timm:NAME": "an image model of timm, as in timm.list_models()",
    "torchvision:NAME": "any model of torchvision, as in torchvision.models.list_models()",
    "hf:ID or hf:DIR": "a model of transformers with its weights, from the hub or a local directory",
    "FILE.py:callable": "runs that file; the function takes nothing and returns the model",
}
"""What `load_model` understands, and in a few words what it is: for help and messages."""

_log = logging.getLogger(__name__)


def load_model(
    spec: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    pretrained: bool = False,
    trust_remote_code: bool = False,
    lazy_weights: bool = False,
    dtype: torch.dtype | None = None,
) -> Any:
    """The model that `spec` names.

    Without weights of its own a timm or torchvision model is random, from seed 0, and a logged warning says so; that
    of FILE.py:callable is what the function returns, and an hf: model always has its weights, in float32 unless `dtype`
    says otherwise.

    Args:
        spec: one of the forms in `FORMS`.
        weights: a .safetensors file, or a .pt, .pth, .bin or .ckpt file of plain tensors, to load into it.
        pretrained: the published weights of a timm or torchvision model, by the library's own download and cache.
        trust_remote_code: for hf:, run the code that comes with a model.
        lazy_weights: leave the weights in their .safetensors files, and read those of a module when it runs: for
            models larger than memory.  They stand in a local directory (hf:) or in the file `weights`.
        dtype: for hf:, the type that weights are converted to and the model computes in.

    Returns:
        An nn.Module; FILE.py:callable may return any other callable.

    Raises:
        UsageError: the form or the name is unknown, an option does not go with it, or an extra is not installed.
        ModelError: the model cannot be built, has no such published weights, or the weights do not fit.
        DataError: the file or directory of weights is missing or damaged.
    """
    file = None if weights is None else Path(weights)
    kind, _, name = spec.partition(":")
    if re.search(r"\.py:", spec):
        kind, name = "file", spec
    if pretrained and file is not None:
        raise UsageError("--pretrained and --weights are two answers to one question: give one of them.")
    if trust_remote_code and kind != "hf":
        raise UsageError(f"--trust-remote-code is for hf: models; omit it with {spec}.")
    if dtype is not None and kind != "hf":
        raise UsageError(f"--dtype is for hf: models; omit it with {spec}.")
    if lazy_weights and file is None and kind != "hf":
        raise UsageError(f"--lazy-weights reads them from a file: add --weights FILE.safetensors for {spec}.")
    if kind == "hf" and name:
        chosen = (
            torch.float32 if dtype is None else dtype
        )  # half precision is exact in it, and closes to its last digits
        return _huggingface(spec, name, file, trust_remote_code, lazy_weights, chosen)
    blank = without_weights if lazy_weights else contextlib.nullcontext
    if kind in ("timm", "torchvision") and name:
        build = _timm if kind == "timm" else _torchvision
        with blank():
            model = build(spec, name, pretrained)
        if file is None and not pretrained:
            _log.warning("%s has random weights (seed 0); --pretrained or --weights FILE gives it others.", spec)
    elif kind == "file":
        if pretrained:
            raise UsageError(f"--pretrained is for timm: and torchvision: models; omit it with {spec}.")
        with blank():
            model = _called(spec)
    else:
        raise UsageError(_unknown(spec, kind))
    if file is not None:
        if not isinstance(model, nn.Module):
            raise ModelError(f"{spec} returns a {type(model).__name__}, which takes no weights; omit --weights.")
        if lazy_weights:
            read_when_run(model, FileWeights([file.expanduser()]), spec, file)
        else:
            fit_weights(model, read_weights(file), spec, file)
    return model


def _unknown(spec: str, kind: str) -> str:
    if spec.lower().endswith(SUFFIXES):
        return (
            f"{spec} is a file of weights: numbers without the program that uses them. Name the program, and give the "
            f"file as its weights: FILE.py:callable --weights {spec}, or timm:NAME --weights {spec}."
        )
    near = difflib.get_close_matches(kind.lower(), ["timm", "torchvision", "huggingface", "hf"], n=1)
    hint = ""
    if ":" not in spec and re.fullmatch(r"\w[\w.-]*", spec):
        hint = f" Did you mean timm:{spec} or torchvision:{spec}?"
    elif near:
        hint = f" Did you mean {near[0].replace('huggingface', 'hf')}:{spec.partition(':')[2] or 'NAME'}?"
    known = "\n".join(f"  {form:<18}{meaning}" for form, meaning in FORMS.items())
    return f"model {spec!r} is none of the known forms; write FILE.py:callable or a name.{hint}\n{known}"


def _called(spec: str) -> Any:
    """What FILE.py:callable returns, if it can be a model."""
    build = load_callable(spec)
    try:
        model = build()
    except TermwiseError:
        raise
    except Exception as error:
        raise ModelError(f"{spec} fails when it is called: {_told(error)}") from error
    if isinstance(model, dict):
        raise ModelError(
            f"{spec} returns a state dictionary: numbers without the program. Return the model itself, or write a "
            "function that builds it and give the numbers as a file: --weights FILE."
        )
    if not callable(model):
        raise ModelError(f"{spec} returns a {type(model).__name__}; return a torch.nn.Module.")
    return model


# --- libraries with a registry ---


def _timm(spec: str, name: str, pretrained: bool) -> nn.Module:
    timm = _extra("timm", "timm")
    if not timm.is_model(name):
        raise UsageError(_unlike(spec, name, timm.list_models(), "timm.list_models()"))
    architecture, _, tag = name.partition(".")
    known = timm.list_models(f"{architecture}*", include_tags=True)
    if tag and name not in known:
        raise UsageError(_unlike(spec, name, known, f"timm.list_models('{architecture}*', include_tags=True)"))
    return _built(spec, pretrained, lambda: timm.create_model(name, pretrained=pretrained))


def _torchvision(spec: str, name: str, pretrained: bool) -> nn.Module:
    models = _extra("torchvision", "vision").models
    if name not in models.list_models():
        raise UsageError(_unlike(spec, name, models.list_models(), "torchvision.models.list_models()"))
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    # Without weights of the whole, torchvision would download those of a backbone.
    if not pretrained and "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    return _built(spec, pretrained, lambda: models.get_model(name, **options))


def _built(spec: str, pretrained: bool, build: Any) -> nn.Module:
    """A library's model; a failure of its builder or its download in one line."""
    try:
        with owned_random(0), _tensors_only():
            return build()
    except Exception as error:
        if pretrained:
            raise ModelError(
                f"{spec}: its published weights cannot be had: {_told(error)} Where there is no network, give a file "
                "of them that was fetched elsewhere: --weights FILE.safetensors."
            ) from error
        raise ModelError(f"{spec} cannot be built: {_told(error)}") from error


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """torchvision has torch.load unpickle whatever its server sends, and leaves no way to say otherwise but this."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# --- transformers ---


def _huggingface(spec: str, name: str, weights: Path | None, trust: bool, lazy: bool, dtype: torch.dtype) -> nn.Module:
    directory = Path(name).expanduser()
    local = directory.is_dir()
    if local:
        _check_directory(directory, weights)
    elif directory.is_file() or name.startswith((".", "/", "~")):
        raise DataError(f"{directory}: there is no such directory; give one that holds config.json and weights.")
    transformers = _extra("transformers", "huggingface")
    if lazy:
        if not local:
            raise UsageError(
                f"{spec}: --lazy-weights reads them from a directory; download the model, and give hf:DIR."
            )
        return _lazy_huggingface(transformers, spec, directory, weights, trust, dtype)
    source = str(directory) if local else name
    options: dict[str, Any] = {"trust_remote_code": trust}
    try:
        with owned_random(0), _quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(source, **options)
            head: Any = _head(transformers, config, trust)
            if weights is None:
                options |= {"config": config, "use_safetensors": True}
            else:
                with torch.device("meta"):
                    blank = _blank(head, config, trust, dtype)
                head, source = type(blank), None
                state = stripped(read_weights(weights), blank.state_dict(), weights)
                options = {"config": config, "state_dict": state}
            model, report = head.from_pretrained(
                source,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, in fewer lines
                **options,
            )
    except TermwiseError:
        raise
    except Exception as error:
        raise _unloadable(spec, error) from error
    _check_complete(spec, weights, report)
    return model


def _lazy_huggingface(
    transformers: Any, spec: str, directory: Path, weights: Path | None, trust: bool, dtype: torch.dtype
) -> nn.Module:
    """The model in a directory, its weights left in their files."""
    try:
        with owned_random(0), _quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(str(directory), trust_remote_code=trust)
            head = _head(transformers, config, trust)
            with without_weights():
                model: Any = _blank(head, config, trust, dtype)
            model.tie_weights()
    except Exception as error:
        raise _unloadable(spec, error) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{spec} is quantised: --lazy-weights reads floating-point weights alone.")
    whole = {torch.float16: model._keep_in_fp32_modules, torch.bfloat16: model._keep_in_fp32_modules_strict}.get(dtype)
    if whole:
        raise ModelError(f"{spec} keeps {', '.join(whole)} in float32, which --lazy-weights does not: omit --dtype.")
    files = weight_files(directory) if weights is None else [weights.expanduser()]
    found = FileWeights(files)
    try:
        read_when_run(model, found, spec, directory if weights is None else weights, base=model.base_model_prefix)
    except ModelError as error:
        raise ModelError(
            f"{error} Some models of transformers rename or join their weights while they are loaded: such a model can "
            "only be loaded whole, without --lazy-weights."
        ) from error
    return model.eval()


def _check_complete(spec: str, weights: Path | None, report: Mapping[str, Any]) -> None:
    """Refuse what transformers would fill with random numbers."""
    shapes = sorted(report["mismatched_keys"])
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or shapes:
        raise misfit(spec, "its own file of weights" if weights is None else weights, missing, unexpected, shapes)
    if unexpected:
        _log.warning("%s has no use for %d of the weights (%s, ...).", spec, len(unexpected), unexpected[0])


def _check_directory(directory: Path, weights: Path | None) -> None:
    if not (directory / "config.json").is_file():
        raise DataError(f"{directory} holds no config.json; give a directory written by model.save_pretrained(DIR).")
    if weights is not None or any(directory.glob("*.safetensors")):
        return
    pickled = sorted(directory.glob("pytorch_model*.bin"))
    advice = f"--weights {pickled[0]} reads it" if len(pickled) == 1 else "give them with --weights FILE.safetensors"
    found = f" but {pickled[0].name}" if pickled else ""
    raise DataError(
        f"{directory} holds config.json, and no weights{found}: a model with random weights is not what it describes. "
        f"If the weights are elsewhere, {advice}; else save them there with model.save_pretrained(DIR)."
    )


def _head(transformers: Any, config: Any, trust: bool) -> Any:
    """The class that the configuration names, else the bare model."""
    named = list(getattr(config, "architectures", None) or [])
    for architecture in named:
        found = getattr(transformers, architecture, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    for auto, reference in (getattr(config, "auto_map", None) or {}).items():
        if trust and auto.startswith("AutoModel") and str(reference).rpartition(".")[2] in named:
            return getattr(transformers, auto)
    if named:
        _log.warning("transformers has no %s: the bare model is loaded, without a head.", ", ".join(named))
    return transformers.AutoModel


def _blank(head: Any, config: Any, trust: bool, dtype: torch.dtype) -> nn.Module:
    if hasattr(head, "from_config"):
        return head.from_config(config, trust_remote_code=trust, dtype=dtype)
    return head._from_config(config, dtype=dtype)


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the table of keys that transformers logs: `misfit` says it shorter."""
    log = transformers.utils.logging
    before = log.get_verbosity()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(before)


def _unloadable(spec: str, error: Exception) -> TermwiseError:
    text = str(error)
    if "trust_remote_code" in text:
        return UsageError(
            f"{spec} comes with code of its own, which would be run. Read it, and if you trust its authors add "
            "--trust-remote-code."
        )
    if "couldn't connect" in text or "offline" in text.lower():
        return ModelError(
            f"{spec} is neither a directory here nor in the cache of transformers, and the hub cannot be reached. "
            "Give a directory that model.save_pretrained(DIR) wrote: hf:DIR."
        )
    return ModelError(f"{spec}: transformers cannot load it: {_told(error)}")


# --- for all of them ---


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module} cannot be imported ({error}). Install it: pip install 'termwise[{extra}]'"
        ) from error


def _unlike(spec: str, name: str, known: Sequence[str], listing: str) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    kind = spec.partition(":")[0]
    hint = f" Did you mean {' or '.join(f'{kind}:{n}' for n in near)}?" if near else ""
    return f"{kind} has no model {name!r}.{hint} All names: {listing}."


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {lines[0]}' if lines else ''}" + (
        "" if lines and lines[0][-1] in ".!?" else "."
    )
