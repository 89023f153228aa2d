"""What all tests share: one thread, and where the real data are."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def lacking(what: str) -> None:
    """Skip the test for want of something, or fail it where everything must be there (CI is set)."""
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, and {what}")
    pytest.skip(what)


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """The directory of the real Fashion-MNIST files, found through TERMWISE_DATA."""
    root = os.environ.get("TERMWISE_DATA")
    for place in (Path(root), Path(root) / "fashion-mnist") if root else ():
        if list(place.glob("train-images-idx3-ubyte*")):
            return place
    lacking("the Fashion-MNIST files are not there: set TERMWISE_DATA to the folder that holds fashion-mnist/")
    raise AssertionError("unreachable")
