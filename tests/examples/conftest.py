"""Examples are files that a person runs, so the tests import them as Python does there: from their own folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.paths import REPOSITORY


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports an example by the name of its file."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    return importlib.import_module
