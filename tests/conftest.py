"""Fixtures that every test may use: the real data where they are present, and a skip with a reason for GPU tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch sees none here")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Give torch the threads back that a command has taken.

    Two processes of tests on two cores would else wait for each other in every small operator of all later tests.
    """
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real sequences, evaluator data and parity weights; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("RGBX_SHARED", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data are not at {folder}; set RGBX_SHARED to the folder that holds them")
    return folder
