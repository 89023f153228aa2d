"""The machine interface: a real client speaks to a real server, whose answers are held against the library's own."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import transformers
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.types import TextContent

import termwise as tw
from termwise import data
from termwise.cli import main
from termwise.errors import TermwiseError, UsageError
from termwise.integrations.folders import Folders
from termwise.report.reading import read_run
from termwise.report.results import read_results
from tests.run_directories import make_run
from tests.saved_results import saved

BUILD = "from termwise import nets\n\n\ndef build():\n    return nets.mlp([12, 8, 3])\n"
WAIT = """
import pathlib, time
from torch import nn

HERE = pathlib.Path(__file__).parent


def build():
    with (HERE / "log").open("a") as log:
        log.write("begin ")
    until = time.monotonic() + 60
    while not (HERE / "go").exists() and time.monotonic() < until:
        time.sleep(0.01)
    with (HERE / "log").open("a") as log:
        log.write("end ")
    return nn.Linear(12, 3)


def leave():
    raise SystemExit(3)
"""

# Prints every file that Python opens while the tools run, but for those that are installed or are the system's own.
WATCH = """
import os, sys, sysconfig, tempfile
from termwise.integrations.folders import Folders
from termwise.integrations.mcp import Tools

inside, outside = sys.argv[1:]
installed = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *filter(None, sys.path)]
known = [os.path.realpath(path) + os.sep for path in (*installed, "/proc", "/sys", "/dev")]
opened = set()


def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, os.PathLike)):
        opened.add(os.path.realpath(arguments[0]))


tools = Tools(Folders([inside]))
tempfile.gettempdir()  # Python tries out a file to find it, once
sys.addaudithook(watch)
tools.support("torchvision:resnet18")
tools.profile("timm:test_resnet", size=32, channels=3, samples=2, weights="w.safetensors")
tools.profile("hf:lm", data="tokens:t.npy", size=16, samples=2)
tools.degrees("timm:test_resnet", size=32, channels=3, samples=24)
tools.report("run")
tools.report("toys")
open(os.path.join(outside, "d.npz")).close()
print(*sorted(path for path in opened if not f"{path}{os.sep}".startswith(tuple(known))), sep="\\n")
"""


@dataclasses.dataclass
class Client:
    """A session with a server that may read `folder`."""

    folder: Path
    portal: BlockingPortal
    session: ClientSession

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The answer of a tool."""
        result = self.portal.call(self.session.call_tool, tool, arguments)
        assert not result.is_error and result.structured_content is not None, result.content
        return result.structured_content

    def refusal(self, tool: str, **arguments: Any) -> str:
        """The message of a tool that refuses."""
        result = self.portal.call(self.session.call_tool, tool, arguments)
        assert result.is_error and result.structured_content is None
        (content,) = result.content
        assert isinstance(content, TextContent)
        return content.text


@asynccontextmanager
async def _session(*arguments: str, cwd: Path | None = None) -> AsyncIterator[ClientSession]:
    # All of it: settings of the libraries (threads, kernels) decide the last bits of numbers.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = ["-m", "termwise", "mcp", *arguments]
    with open(os.devnull, "w") as nowhere:
        parameters = StdioServerParameters(command=sys.executable, args=command, env=environment, cwd=cwd)
        async with stdio_client(parameters, errlog=nowhere) as streams, ClientSession(*streams) as session:
            await session.initialize()
            yield session


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to serve, with everything that can be named; and one beside it, to which links lead."""
    root = tmp_path_factory.mktemp("mcp")
    inside, outside = root / "inside", root / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        inputs = np.random.default_rng(0).normal(size=(120, 12)).astype("float32")
        np.savez(folder / "d.npz", inputs=inputs, targets=np.arange(120) % 3)
        make_run(folder / "run")
    (inside / "model.py").write_text(BUILD)
    (inside / "wait.py").write_text(WAIT)
    np.save(inside / "t.npy", np.arange(3000) % 7)
    (inside / "bad.safetensors").write_bytes(b"none")
    torch.manual_seed(1)
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), inside / "w.safetensors")
    settings: dict[str, Any] = {"vocab_size": 7, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(**settings, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(inside / "lm")
    transformers.GPT2LMHeadModel(config).save_pretrained(outside / "lm")
    saved(inside / "toys")
    (inside / "out.npz").symlink_to(outside / "d.npz")
    (inside / "out").symlink_to(outside)
    (inside / "mixed").mkdir()
    (inside / "mixed" / "summary.json").symlink_to(outside / "run" / "summary.json")
    (inside / "near.npz").symlink_to(inside / "d.npz")
    (inside / "round.npz").symlink_to(inside / "round.npz")
    return inside


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="module")
def client(place: Path, portal: BlockingPortal) -> Iterator[Client]:
    with portal.wrap_async_context_manager(_session(str(place))) as session:
        yield Client(place, portal, session)


@pytest.fixture(scope="module")
def running(place: Path, portal: BlockingPortal) -> Iterator[Client]:
    """As `client`, where Python files may be run."""
    with portal.wrap_async_context_manager(_session(str(place), "--run-code")) as session:
        yield Client(place, portal, session)


def whole(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def of(row: dict[str, Any], name: str) -> dict[str, float]:
    return whole(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))


def test_the_tools_say_what_they_take_and_give(client: Client) -> None:
    tools = client.portal.call(client.session.list_tools).tools
    assert {tool.name for tool in tools} >= {"support", "profile", "degrees", "prune", "report"}
    for tool in tools:
        assert tool.description and tool.output_schema
        assert tool.annotations is not None and tool.annotations.read_only_hint
        assert tool.input_schema["additionalProperties"] is False
        assert all(each["description"] for each in tool.input_schema["properties"].values())


def test_support_tells_what_the_library_tells(client: Client) -> None:
    answer = client.call("support", model="timm:test_resnet", unit="blocks")
    found = tw.support(timm.create_model("test_resnet"), torch.randn(1, 3, 160, 160), unit="blocks")
    assert answer["supported"] and answer["failure"] is None and answer["missing"] == []
    assert answer["depths"] == [{"depth": k, "paths": str(n)} for k, n in found.paths.items()]
    assert answer["blocks"] == [block.name for block in found.blocks] != []
    assert (answer["weights"], answer["ideal_cost"]) == (found.weights, found.ideal_cost)
    assert answer["memory_bytes"] == found.memory
    assert sum(each["count"] for each in answer["operators"]) == sum(use.count for use in found.operators)
    assert any("random weights" in note for note in answer["notes"])


def test_profile_measures_what_the_library_measures(client: Client) -> None:
    asked: dict[str, Any] = {"size": 32, "channels": 3, "samples": 12, "weights": "w.safetensors"}
    answer = client.call("profile", model="timm:test_resnet", **asked)
    model = timm.create_model("test_resnet")
    model.load_state_dict(safetensors.torch.load_file(client.folder / "w.safetensors"))
    digits = data.load("digits", size=32)
    result = tw.profile(model, (digits.test_inputs[:12].repeat(1, 3, 1, 1), digits.test_targets[:12]))
    assert answer["closure"] == result.closure and answer["samples"] == 12 and answer["unit"] == "layers"
    assert (answer["accuracy"], answer["loss"]) == (result.accuracy, result.loss)
    assert answer["mean_depth"] == whole(*result.mean_depth)
    assert answer["effective_depth"] == result.effective_depth
    rows = result.share.rows()
    assert [(each["origin"], each["depth"]) for each in answer["parts"]] == [(r["origin"], r["depth"]) for r in rows]
    for part, row in zip(answer["parts"], rows, strict=True):
        assert part["paths"] == row["paths"]
        assert [part[f"{name}_share"] for name in ("norm", "aligned", "margin")] == [
            of(row, f"{name}_share") for name in ("norm", "aligned", "margin")
        ]
    heads = [part["head"] for part in answer["parts"] if part["origin"] == "input"]
    assert heads == list(result.truncated["head_accuracy"])
    assert f"{result.mean_depth.value:.2f}" in answer["finding"]
    assert any("made for 3x160x160" in note for note in answer["notes"])


def test_a_language_model_in_a_folder_is_profiled_on_tokens(client: Client) -> None:
    answer = client.call("profile", model="hf:lm", data="tokens:t.npy", size=16, samples=4)
    model = transformers.GPT2LMHeadModel.from_pretrained(client.folder / "lm")
    tokens = data.load(f"tokens:{client.folder / 't.npy'}", size=16)
    result = tw.profile(model, (tokens.test_inputs[:4], tokens.test_targets[:4]))
    assert [part["depth"] for part in answer["parts"] if part["origin"] == "input"] == [1, 3, 5]
    assert answer["mean_depth"] == whole(*result.mean_depth)


def test_degrees_are_those_of_the_library(client: Client) -> None:
    asked: dict[str, Any] = {"size": 32, "channels": 3, "weights": "w.safetensors", "samples": 24, "seed": 4}
    answer = client.call("degrees", model="timm:test_resnet", **asked)
    model = timm.create_model("test_resnet")
    model.load_state_dict(safetensors.torch.load_file(client.folder / "w.safetensors"))
    inputs = data.load("digits", size=32).train_inputs.repeat(1, 3, 1, 1)
    result = tw.degrees(model, inputs, samples=24, seed=4, batch_size=256)
    assert (answer["method"], answer["variance"]) == (result.method, result.variance)
    assert answer["warnings"] == list(result.warnings)
    rows = result.spectrum.rows()
    assert [(each["lowest"], each["highest"]) for each in answer["spectrum"]] == [
        (row["lowest"], row["highest"]) for row in rows
    ]
    assert [each["share"] for each in answer["spectrum"]] == [of(row, "share") for row in rows]


def test_the_plan_of_pruning_is_that_of_the_library(client: Client) -> None:
    asked: dict[str, Any] = {"size": 32, "channels": 3, "samples": 12, "weights": "w.safetensors", "keep": 0.75}
    answer = client.call("prune", model="timm:test_resnet", method="magnitude", **asked)
    model = timm.create_model("test_resnet")
    model.load_state_dict(safetensors.torch.load_file(client.folder / "w.safetensors"))
    digits = data.load("digits", size=32)
    train = (digits.train_inputs[:12].repeat(1, 3, 1, 1), digits.train_targets[:12])
    test = (digits.test_inputs[:12].repeat(1, 3, 1, 1), digits.test_targets[:12])
    plan = tw.prune(model, train, test=test, keep=0.75, method="magnitude")
    assert (answer["removed"], answer["kept"]) == (list(plan.removed), list(plan.kept))
    assert {each["block"]: each["reason"] for each in answer["fixed"]} == dict(plan.fixed)
    assert (answer["samples"], answer["unit"], answer["target"]) == (12, "nats", "keep=0.75")
    for step, row in zip(answer["steps"], plan.table.rows(), strict=True):
        assert (step["block"], step["predicted"], step["flops"]) == (row["block"], row["predicted"], row["flops"])
        assert (step["measured"], step["loss"]) == (of(row, "measured"), of(row, "loss"))


def test_the_report_of_a_run_is_its_verdict_and_its_findings(client: Client) -> None:
    answer = client.call("report", path="run")
    summary = read_run(client.folder / "run").summary
    assert answer["kind"] == "run" and answer["verdict"] == summary.verdict and answer["claims"] == []
    for own, network in zip(answer["networks"], summary.networks, strict=True):
        assert (own["name"], own["closure"]) == (network.name, network.closure)
        assert own["mean_depth_last"] == whole(network.mean_depth[1], *network.mean_depth_interval[1])
    page = client.folder / "run" / "report.html"
    assert not page.exists()  # nothing is written
    main(["report", str(client.folder / "run")])
    shown = html.unescape(re.sub("<[^>]+>", "", page.read_text().partition("<script")[0]))
    assert answer["figures"] and all(title in shown for title in answer["figures"])
    page.unlink()
    chinese = client.call("report", path="run", language="zh")
    assert len(chinese["figures"]) == len(answer["figures"]) and chinese["figures"] != answer["figures"]


@pytest.mark.parametrize("path", ["toys", "toys/toy.termwise"])
def test_the_report_of_experiments_sets_what_was_found_beside_what_was_expected(client: Client, path: str) -> None:
    answer = client.call("report", path=path)
    (study,) = read_results(client.folder / "toys" / "toy.termwise")
    assert answer["kind"] == "experiments" and answer["name"] == "Is a toy as good as the real thing?"
    assert [each["name"] for each in answer["experiments"]] == ["toy"]
    assert answer["experiments"][0]["seeds"] == 5 and not answer["experiments"][0]["quick"]
    columns = ("quantity", "found", "low", "high", "expected", "verdict")
    assert [[claim[name] for name in columns] for claim in answer["claims"]] == [
        ["inf" if row[name] == float("inf") else row[name] for name in columns] for row in study.found
    ]
    assert {claim["verdict"] for claim in answer["claims"]} & {"holds", "fails", "undecided"}
    assert len(answer["figures"]) == len(study.result.charts)


def test_a_link_that_stays_inside_is_followed(client: Client) -> None:
    told = client.refusal("profile", model="timm:test_resnet", data="near.npz")
    assert "takes inputs of 3x160x160, and a sample of near.npz is 12" in told
    assert client.refusal("profile", model="timm:test_resnet", data=str(client.folder / "d.npz")).count("is 12") == 1


OUT = "the only places that may be read"


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("profile", {"data": "../outside/d.npz"}, "without '..'"),
        ("profile", {"data": "run/../../outside/d.npz"}, "without '..'"),
        ("profile", {"data": "OUTSIDE/d.npz"}, OUT),
        ("profile", {"data": "/etc/none.npz"}, OUT),
        ("profile", {"data": "out.npz"}, OUT),
        ("profile", {"data": "out/d.npz"}, OUT),
        ("profile", {"data": "round.npz"}, OUT),
        ("profile", {"data": "tokens:out/d.npy"}, OUT),
        ("profile", {"data": "fashion-mnist:out"}, OUT),
        ("profile", {"data": "fashion-mnist"}, "say in which folder its files are"),
        ("profile", {"data": "cifar10:"}, "say in which folder its files are"),
        ("profile", {"data": "cifar10:run"}, "CIFAR-10"),
        ("profile", {"data": "none.npz"}, "no such file"),
        ("profile", {"data": "nothing"}, "none of the known forms"),
        ("profile", {"data": "model.py:build"}, "--run-code"),
        ("profile", {"data": "tokens:model.py"}, "--run-code"),
        ("profile", {"data": "a\0.npz"}, "is no name of a file here"),
        ("profile", {"weights": "out/w.safetensors"}, OUT),
        ("profile", {"weights": "none.safetensors"}, "there is no such file of weights"),
        ("profile", {"weights": "bad.safetensors"}, "not readable as weights"),
        ("profile", {"weights": "d.npz"}, "expected a .safetensors file"),
        ("profile", {"samples": 0}, "give at least 1"),
        ("profile", {"samples": "many"}, "valid integer"),
        ("profile", {"sample": 4}, "sample"),
        ("profile", {"constants": "all"}, "'pooled' or 'by_depth'"),
        ("profile", {"unit": "nonsense", "size": 32, "channels": 3}, "no module called 'nonsense'"),
        ("profile", {"pretrained": True}, "pretrained"),
        ("profile", {"device": "gpu"}, "expected cpu, cuda, cuda:1 or mps"),
        ("support", {"model": "timm:resnet181"}, "Did you mean timm:resnet18"),
        ("support", {"model": "timm:local-dir:/etc"}, "has no model"),
        ("support", {"model": "resnet18"}, "none of the known forms"),
        ("support", {"model": "model.py:build"}, "--run-code"),
        ("support", {"model": "hf:org/name"}, "nothing is downloaded here"),
        ("support", {"model": "hf:OUTSIDE/lm"}, OUT),
        ("support", {"model": "hf:out/lm"}, OUT),
        ("support", {"model": "hf:lm", "trust_remote_code": True}, "trust_remote_code"),
        ("support", {"shape": "four"}, "such as 3x224x224"),
        ("support", {"shape": "3x32"}, "it failed with RuntimeError: "),
        ("support", {"shape": "99999999x99999999"}, "at most 67108864 numbers"),
        ("profile", {"samples": 10**30}, "give at most 100000 here"),
        ("profile", {"data": f"{'x' * 300}.npz"}, "it failed with OSError: "),
        ("degrees", {"samples": 10**12}, "give at most 100000 here"),
        ("prune", {"keep": 0.5, "seed": -1, "size": 32, "channels": 3}, "seed=-1"),
        ("degrees", {"inputs": "gaussian"}, "'fitted', 'standard', 'boolean' or 'real'"),
        ("degrees", {"data": "out.npz"}, OUT),
        ("prune", {"keep": 0.5, "flops": 0.5, "size": 32, "channels": 3}, "give exactly one"),
        ("prune", {"method": "luck"}, "'expansion'"),
        ("prune", {"data": "out.npz", "keep": 0.5}, OUT),
        ("prune", {"keep": "most"}, "valid number"),
        ("report", {"path": "out/run"}, OUT),
        ("report", {"path": "mixed"}, "is a link that leads out"),
        ("report", {"path": "lm"}, "neither a finished run"),
        ("report", {"path": "none"}, "neither a finished run"),
        ("report", {"path": "d.npz"}, "not a readable Termwise record"),
        ("report", {"path": "run", "language": "fr"}, "'en' or 'zh'"),
        ("report", {}, "path"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_refusals_are_errors_of_the_tool(client: Client, tool: str, arguments: dict[str, Any], message: str) -> None:
    beside = str(client.folder.parent / "outside")
    told = {
        name: value.replace("OUTSIDE", beside) if isinstance(value, str) else value for name, value in arguments.items()
    }
    needed = {} if tool == "report" else {"model": "timm:test_resnet"}
    assert message in client.refusal(tool, **{**needed, **told})


def test_code_is_run_where_that_was_asked_for_and_only_there(running: Client) -> None:
    answer = running.call("support", model="model.py:build", shape="12")
    assert answer["depths"] == [{"depth": 2, "paths": "1"}]
    assert OUT in running.refusal("support", model="out/model.py:build", shape="12")
    assert "sys.exit(3)" in running.refusal("support", model="wait.py:leave", shape="12")
    assert running.call("report", path="run")["kind"] == "run"


def test_one_job_runs_at_a_time_and_pings_are_answered_meanwhile(running: Client) -> None:
    log = running.folder / "log"

    async def meanwhile() -> None:
        call = functools.partial(running.session.call_tool, "support", {"model": "wait.py:build", "shape": "12"})
        with anyio.fail_after(60):
            async with anyio.create_task_group() as calls:
                calls.start_soon(call)
                while not log.exists() or "begin" not in log.read_text():
                    await anyio.sleep(0.01)
                calls.start_soon(call)
                await running.session.send_ping()
                assert len((await running.session.list_tools()).tools) >= 5
                assert log.read_text() == "begin "
                (running.folder / "go").touch()

    running.portal.call(meanwhile)
    assert log.read_text() == "begin end begin end "


def test_the_server_ends_with_its_client_even_while_it_computes(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(WAIT)
    command = [sys.executable, "-m", "termwise", "mcp", str(tmp_path), "--run-code"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = [
        {"id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {
            "name": "support", "arguments": {"model": "wait.py:build", "shape": "12"}}},
    ]  # fmt: skip
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdin is not None
        try:
            for message in told:
                process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
                process.stdin.flush()
            until = time.monotonic() + 60
            while not (tmp_path / "log").exists() and time.monotonic() < until:
                time.sleep(0.01)
            assert (tmp_path / "log").read_text() == "begin "
            process.stdin.close()
            assert process.wait(timeout=30) == 0
            assert (tmp_path / "log").read_text() == "begin "  # which would wait for a minute
        finally:
            process.kill()


def test_a_model_that_names_another_one_is_refused(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    folders = Folders([tmp_path])
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    assert folders.model("hf:model") == f"hf:{folder}"
    harmless = {"_name_or_path": "/home/of/whoever", "id2label": {"0": "/"}, "prefix": "translate: ", "sizes": [1, 2]}
    (folder / "config.json").write_text(json.dumps(harmless))
    assert folders.model("hf:model") == f"hf:{folder}"
    for key, value in [
        ("backbone", "resnet50"),
        ("use_pretrained_backbone", True),
        ("architecture", "local-dir:here"),
        ("architecture", "hf-hub:org/name"),
        ("checkpoint_path", "w.pth"),
        ("anything", "/etc/passwd"),
        ("anything", "~/w"),
        ("anything", "a/../../b"),
        ("anything", ".."),
        ("_attn_implementation", "org/kernel"),
    ]:
        (folder / "config.json").write_text(json.dumps({"model_type": "detr", "inner": [{key: value}]}))
        with pytest.raises(TermwiseError, match=f"looked for elsewhere: {key}"):
            folders.model("hf:model")
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    with pytest.raises(TermwiseError, match="no file beside it"):
        folders.model("hf:model")
    (folder / "model.safetensors.index.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(TermwiseError, match="names another model"):
        folders.model("hf:model")


def test_links_in_folders_are_followed_before_they_are_trusted(tmp_path: Path) -> None:
    top, beside, out = tmp_path / "a" / "run", tmp_path / "a" / "beside", tmp_path / "b"
    for each in (top, beside, out):
        each.mkdir(parents=True)
    folders = Folders([tmp_path / "a"])
    (top / "tables").symlink_to(beside)
    (beside / "run").symlink_to(top)  # a circle is no harm
    assert folders.folder("run") == top
    (beside / "steps.parquet").symlink_to(out / "steps.parquet")
    with pytest.raises(UsageError, match="leads out"):
        folders.folder("run")
    (beside / "steps.parquet").unlink()
    os.mkfifo(beside / "pipe")
    with pytest.raises(TermwiseError, match="neither a file nor a folder"):
        folders.folder("run")


def test_no_file_is_opened_elsewhere(place: Path) -> None:
    outside = place.parent / "outside"
    command = [sys.executable, "-c", WATCH, str(place), str(outside)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    opened = run.stdout.split("\n")[:-1]
    expected = ("t.npy", "run/summary.json", "lm/config.json", "toys/toy.termwise")
    assert {str(place / name) for name in expected} <= set(opened)
    # The last one is the test's own, so that it is known to see what it looks for.
    assert [path for path in opened if not path.startswith(f"{place}{os.sep}")] == [str(outside / "d.npz")]


def test_libraries_are_not_found_among_what_is_served(portal: BlockingPortal, tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("open('sprung', 'w').close()")
    with portal.wrap_async_context_manager(_session(".", cwd=tmp_path)) as session:
        answer = Client(tmp_path, portal, session).call("support", model="torchvision:resnet18")
    assert answer["supported"] and not (tmp_path / "sprung").exists()


def test_folders_are_there_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [([], "name at least one"), ([str(tmp_path / "none")], "no such folder")]:
        with pytest.raises(SystemExit) as ended:
            main(["mcp", *arguments])
        assert ended.value.code == 2 and message in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    with pytest.raises(SystemExit) as ended:
        main(["mcp", str(tmp_path)])
    assert ended.value.code == 2
    assert "pip install 'termwise[mcp]'" in capsys.readouterr().err
