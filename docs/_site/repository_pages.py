"""Brings files of the repository that pages link to, such as CONTRIBUTING.md, into the site.

On a code host a page of ``docs/`` links to any file of the repository by its relative path. MkDocs knows only the
files in ``docs/``. So every file that a page links to, directly or through other pages, is added to the site under its
path from the repository's root, and the links are rewritten. What is in ``docs/`` itself is left to MkDocs.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
LINK = re.compile(r"(?P<open>!?\[[^\]]*\]\()(?P<target>[^)\s#]+)(?P<rest>#[^)\s]*)?\)")


def linked_file(page: Path, target: str) -> Path | None:
    """Return the file that ``target`` means on ``page``, or None for an address of the network or a missing file.

    A folder stands for its README, and is None without one.
    """
    if ":" in target:
        return None
    path = (page.parent / target).resolve()
    path = path / "README.md" if path.is_dir() else path
    return path if path.is_file() and path.is_relative_to(REPOSITORY) else None


def name_in_site(path: Path) -> str:
    """Return the path that a file of the repository has in the site."""
    root = DOCS if path.is_relative_to(DOCS) else REPOSITORY
    return path.relative_to(root).as_posix()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of ``docs/`` that can be reached from its pages."""
    pages = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    while pages:
        page = pages.pop()
        for link in LINK.finditer(page.read_text(encoding="utf-8")):
            path = linked_file(page, link["target"])
            if path is None or files.get_file_from_path(name_in_site(path)) is not None:
                continue
            files.append(File.generated(config, name_in_site(path), abs_src_path=str(path)))
            if path.suffix == ".md":
                pages.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links between ``docs/`` and the rest of the repository to where their targets are in the site."""
    source = Path(page.file.abs_src_path or "").resolve()

    def rewritten(link: re.Match[str]) -> str:
        path = linked_file(source, link["target"])
        if path is None:
            folder = source.parent / link["target"]
            # A folder without a README has no page; its name is all that there is to show.
            return link["open"][1:-2] if folder.is_dir() else link[0]
        if source.is_relative_to(DOCS) and path.is_relative_to(DOCS):
            return link[0]
        target = posixpath.relpath(name_in_site(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{link['open']}{target}{link['rest'] or ''})"

    return LINK.sub(rewritten, markdown)
