"""The tracker's tests skip, with a reason, where the tracker's own libraries are not installed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

LIBRARIES = ("pydantic", "timm", "cv2", "skimage", "yaml", "click")


def missing() -> str:
    """Return the first of the tracker's libraries that does not import, or nothing."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            return name
    return ""


MISSING = missing()


class Absent(pytest.File):
    """Collects one skipped test in place of a test file that cannot even be imported here."""

    def collect(self) -> list[pytest.Item]:
        return [Skipped.from_parent(self, name="everything")]


class Skipped(pytest.Item):
    def runtest(self) -> None:
        pytest.skip(f"the tracker needs {MISSING}, which is not installed (pip install 'srft-kernels[tracker]')")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return Absent.from_parent(parent, path=module_path) if MISSING else None
