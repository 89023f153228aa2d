"""Folders that alone may be read: what a program asks for by name is looked up in them, and nowhere else.

Names come from outside, so every one is checked before anything is opened: `..` is refused, an absolute path must lie
inside, and symbolic links are followed first.  Where a whole folder is handed to a reader, no link in it may lead out,
and no file of it may name files elsewhere.  This guards against whoever names files, not against whoever can write in
the folders while they are read; and a Python file that is run can read whatever its user can.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from termwise.data import FORMS as DATA_FORMS
from termwise.errors import DataError, UsageError, first_line
from termwise.models import FORMS as MODEL_FORMS

_CODE = re.compile(r"(?P<file>.+\.py)(?P<rest>:.*)?", re.DOTALL)
_BUILT_IN = ("digits", "induction")
_IN_FOLDERS = ("fashion-mnist", "cifar10")
_ADAPTER = "adapter_config.json"
# In a configuration of transformers: keys whose value is a model or a file; paths and the schemes of timm; and keys
# from which nothing is loaded (without trust in remote code).
_NAMING = ("backbone", "checkpoint_path", "base_model_name_or_path")
_ELSEWHERE = re.compile(r"[/~]|(.*/)?\.\.(/|$)|(hf[-_]hub|local-dir):", re.DOTALL)
_UNREAD = ("_name_or_path", "name_or_path", "auto_map", "id2label", "label2id")


class Folders:
    """The folders that may be read.

    Attributes:
        roots: their real paths.
        run_code: whether FILE.py:callable may run files in them.
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]], *, run_code: bool = False) -> None:
        """Take the folders, which must be there.

        Raises:
            UsageError: there is none, or one is no folder.
        """
        if not folders:
            raise UsageError("no folder that may be read: name at least one, such as `termwise mcp .`.")
        paths = [Path(folder).expanduser() for folder in folders]
        if absent := [str(path) for path in paths if not path.is_dir()]:
            raise UsageError(f"{', '.join(absent)}: no such folder; name those that may be read.")
        self.roots = tuple(path.resolve() for path in paths)
        self.run_code = run_code

    def file(self, name: str) -> Path:
        """The path of a file, or of what would be one, as readers take it; they say what is wrong with it.

        Args:
            name: relative to one of the folders (the first that has it), or absolute.

        Raises:
            UsageError: the name leads out of the folders.
        """
        given = Path(name)
        if not name or "\0" in name or ".." in given.parts:
            raise UsageError(f"{name!r} is no name of a file here: write it relative to {self._told()}, without '..'.")
        places = [given] if given.is_absolute() else [root / given for root in self.roots]
        inside = [place for place in places if self._holds(place)]
        if not inside:
            raise UsageError(f"{name!r} leads out of {self._told()}, the only places that may be read.")
        return next((place for place in inside if place.exists()), inside[0])

    def folder(self, name: str) -> Path:
        """The path of a folder with all that is in it, or of one file.

        Raises:
            UsageError: the name, or a link in the folder, leads out of the folders.
            DataError: something in it is neither a file nor a folder, or cannot be listed.
        """
        top = self.file(name)
        for path in _walk(top) if top.is_dir() else ():
            if not self._holds(path):
                raise UsageError(f"{path} is a link that leads out of {self._told()}: put a copy there in its place.")
            if path.exists() and not (path.is_dir() or path.is_file()):
                raise DataError(f"{path} is neither a file nor a folder: take it out of {name!r}.")
        return top

    def data(self, spec: str) -> str:
        """The data set that `spec` names, as `termwise.data.load` takes it.

        Raises:
            UsageError: the form is unknown, it leads out of the folders, or it would run code.
            DataError: see `folder`.
        """
        kind, _, name = spec.partition(":")
        if spec.lower().endswith(".npz"):
            found = str(self.file(spec))
        elif code := _CODE.fullmatch(spec):
            found = self._code(spec, code)
        elif spec in _BUILT_IN:
            return spec
        elif kind in _IN_FOLDERS and name:
            found = f"{kind}:{self.folder(name)}"
        elif kind in _IN_FOLDERS:
            raise UsageError(f"data {spec!r}: say in which folder its files are, {kind}:DIR.")
        elif kind == "tokens" and name:
            found = f"tokens:{self.file(name)}"
        else:
            raise UsageError(f"data {spec!r} is none of the known forms.\n{_listed(DATA_FORMS)}")
        return self._uncoded(found)

    def model(self, spec: str) -> str:
        """The model that `spec` names, as `termwise.models.load_model` takes it.

        Raises:
            UsageError: the form is unknown, it leads out of the folders, or it would run code.
            DataError: the folder of an hf: model names files elsewhere; and see `folder`.
        """
        kind, _, name = spec.partition(":")
        if code := _CODE.fullmatch(spec):
            found = self._code(spec, code)
        elif kind in ("timm", "torchvision") and name:
            return spec
        elif kind == "hf" and name:
            folder = self.folder(name)
            if not folder.is_dir():
                raise UsageError(f"{spec}: no such folder; nothing is downloaded here. Name one in {self._told()}.")
            _check_self_contained(folder)
            found = f"hf:{folder}"
        else:
            raise UsageError(f"model {spec!r} is none of the known forms.\n{_listed(MODEL_FORMS)}")
        return self._uncoded(found)

    def _holds(self, path: Path) -> bool:
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle, names too long
            return False
        return any(real.is_relative_to(root) for root in self.roots)

    def _code(self, spec: str, code: re.Match[str]) -> str:
        if not self.run_code:
            raise UsageError(f"{spec} runs that file, which is not allowed: start the server with --run-code.")
        return f"{self.file(code['file'])}{code['rest'] or ''}"

    def _uncoded(self, spec: str) -> str:
        """The gate itself: whatever readers would take for code, by any part of the path, is none unless allowed."""
        if re.search(r"\.py(:|$)", spec) and not self.run_code:
            raise UsageError(f"{spec} reads as a Python file to run, which is not allowed: give it another name.")
        return spec

    def _told(self) -> str:
        return " or ".join(str(root) for root in self.roots)


def _walk(top: Path) -> Iterator[Path]:
    """Everything in a folder, links followed, each real folder once; nothing in a folder before its own path."""
    seen: set[Path] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            raise DataError(f"{folder} cannot be listed ({first_line(error)}).") from error
        for path in found:
            yield path
            if path.is_dir():
                waiting.append(path)


def _check_self_contained(folder: Path) -> None:
    """Refuse a folder of transformers that would have other files read, or anything downloaded.

    Raises:
        DataError: it is an adapter, an index names files by paths, or the configuration names a model or a file.
    """
    if (folder / _ADAPTER).exists():
        raise DataError(f"{folder} holds {_ADAPTER}, which names another model: merge the two, and save the result.")
    for path in sorted(folder.glob("*.json")):
        content = _json(path)
        if not isinstance(content, dict):
            continue
        shards = content.get("weight_map")
        names = shards.values() if isinstance(shards, dict) else ()
        if strange := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
            raise DataError(f"{path} names {strange[0]!r}, which is no file beside it.")
        if path.name == "config.json" and (keys := sorted(_foreign(content))):
            raise DataError(f"{path} names what would be looked for elsewhere: {', '.join(keys)}.")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({first_line(error)}).") from error


def _foreign(value: Any, key: str = "") -> set[str]:
    """The keys, at any depth, by which a configuration of transformers names another model, code or a file."""
    if isinstance(value, dict):
        return {found for name, each in value.items() if name not in _UNREAD for found in _foreign(each, name)}
    if isinstance(value, list):
        return {found for each in value for found in _foreign(each, key)}
    if not isinstance(value, str):
        return {key} if key == "use_pretrained_backbone" and value else set()
    kernels = key.endswith("attn_implementation") and "/" in value  # code from the hub
    return {key} if key in _NAMING or kernels or _ELSEWHERE.match(value) else set()


def _listed(forms: dict[str, str]) -> str:
    return "\n".join(f"  {form:<22}{meaning}" for form, meaning in forms.items())
