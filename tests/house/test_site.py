"""The documentation site builds strictly, documents every public name, and can be read and searched from a folder."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import chromium
from tests.paths import REPOSITORY

PUBLIC = (
    "srft_kernels",
    "srft_kernels.significance",
    "srft_kernels.significance.estimators",
    "tracker",
    "tracker.data.layouts",
    "tracker.data.synthetic",
    "tracker.evaluation",
    "tracker.export",
    "tracker.inference",
    "tracker.models.checkpoints",
    "tracker.viewing",
)
"""The packages whose ``__all__`` is their public interface."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason='the site is not built without MkDocs (pip install "srft-kernels[docs]")')
    folder = tmp_path_factory.mktemp("site with spaces")
    done = run(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def until(holds: Callable[[], Any], seconds: float = 20.0, what: str = "it") -> Any:
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.05)
    return value


def requests_of(browser: Any) -> set[str]:
    """Addresses that the browser has asked for since this was last called."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return {url for url in sent if not url.startswith("data:")}


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_on_a_page_of_the_reference(package: str) -> None:
    if package.startswith("tracker"):
        pytest.importorskip("timm", reason="the tracker's libraries are not installed")
    pages = sorted((REPOSITORY / "docs" / "reference").glob("*.md"))
    listed = re.findall(r"^::: ([\w.]+)$", "\n".join(page.read_text(encoding="utf-8") for page in pages), re.MULTILINE)
    assert len(listed) == len(set(listed))

    def value(name: str) -> object:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)

    # One name may be exported by two packages; either is enough.
    documented = [value(name) for name in listed]
    public = importlib.import_module(package).__all__
    missing = [n for n in public if n != "__version__" and not any(value(f"{package}.{n}") is v for v in documented)]
    assert not missing, f"{package}: {missing} are on no page of docs/reference"


def test_links_of_the_site_lead_to_its_files(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="((?![a-z]+:|#|/)[^"#?]+)', text):
            assert (page.parent / target).exists(), f"{page.relative_to(site)} links to {target}, which is not there"


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason='the site is not built without MkDocs (pip install "srft-kernels[docs]")')
    docs = tmp_path / "docs"
    docs.mkdir()
    settings = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    # The settings as they are, without the hook that reads the rest of the repository.
    settings = settings.replace("hooks:", "# hooks:")
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    for link, passes in (("README.md", True), ("absent.md", False), ("README.md#absent", False)):
        (docs / "README.md").write_text(f"# Home\n\n[A link]({link})\n", encoding="utf-8")
        done = run(sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(tmp_path / "mkdocs.yml"))
        assert (done.returncode == 0) == passes, done.stderr


def test_the_search_finds_from_a_folder_and_asks_no_server(site: Path, browser: Any) -> None:
    browser.get((site / "index.html").as_uri())
    browser.execute_script("document.querySelector('[data-md-toggle=search]').click()")
    field = until(lambda: browser.find_element("css selector", "input[data-md-component=search-query]"))
    until(field.is_displayed)
    field.send_keys("SigmoidKappa")
    found = until(lambda: browser.find_elements("css selector", ".md-search-result__link"))
    assert any("reference/optimizer.html" in (link.get_attribute("href") or "") for link in found)
    asked = requests_of(browser)
    assert any(url.startswith("file:") for url in asked)
    assert not {url for url in asked if url.startswith(("http", "ws"))}


def test_no_page_is_wider_than_a_phone(site: Path, browser: Any) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)

    def width() -> int:
        return int(browser.execute_script("return document.documentElement.scrollWidth"))

    # A folder has no page for an address that leads nowhere; only a server shows 404.html.
    for page in sorted(set(site.rglob("*.html")) - {site / "404.html"}):
        browser.get(page.as_uri())
        # A script wraps the tables after the page has loaded, and before that a long one makes the page wide.
        until(lambda: width() <= phone["width"], what=f"{page.relative_to(site)} within {phone['width']} pixels")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
