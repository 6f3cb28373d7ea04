"""Looking at runs: pages that open in any browser without a server, and a window while a tracker runs."""

from __future__ import annotations

from tracker.viewing.page import Page, PageSettings, write_page
from tracker.viewing.runs import Record, Run, find_runs
from tracker.viewing.scores import compare_scores, difference_table, score_runs
from tracker.viewing.window import LiveWindow

__all__ = [
    "LiveWindow",
    "Page",
    "PageSettings",
    "Record",
    "Run",
    "compare_scores",
    "difference_table",
    "find_runs",
    "score_runs",
    "write_page",
]
