"""The pages of PATrack and of distillation: their figures are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.paths import REPOSITORY
from tracker.config import RunConfig, load_config
from tracker.tuning.distill_teacher import TapCache
from tracker.tuning.patrack_adapters import FrequencyMixer, SharedGuidanceFusion, TaskAdapter

PAGES = REPOSITORY / "docs" / "tuning"


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def test_patracks_parts_are_as_large_as_told() -> None:
    with torch.device("meta"):
        parts = FrequencyMixer(768, (8, 16)), SharedGuidanceFusion(768, (8, 16)), TaskAdapter(768)
        gated = SharedGuidanceFusion(768, (8, 16), gated=True)
    for part in (*parts, gated):
        assert f"{sum(p.numel() for p in part.parameters()):,} parameters" in page("patrack").replace("\n", " ")


def test_recipes_stand_there_with_their_numbers() -> None:
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in page("patrack").splitlines()
        if "| `patrack" in line
    ]
    assert [row[0] for row in rows] == ["patrack_rgbt", "patrack_rgbd", "patrack_rgbe"]
    for name, data, rate, epochs in rows:
        for kind in ("published", "corrected"):
            config = load_config(RunConfig, f"{kind}/{name}", ["data.root=/data"])
            assert (data.lower(), float(rate), int(epochs)) == (
                config.data.layout,
                config.train.lr,
                config.train.epochs,
            )


def test_a_cached_pair_takes_what_it_says(tmp_path: Path) -> None:
    """It takes three float16 tensors at each meeting, of which the tiny teacher has three and ViT-B has four."""
    cache = TapCache(tmp_path, "teacher", 1.0)
    for meetings, tokens, width, told in ((3, 80, 128, 190e3), (4, 320, 768, 6e6)):
        file = cache.file(torch.zeros(1, dtype=torch.uint8), torch.full((1,), meetings, dtype=torch.uint8))
        cache.store(file, torch.zeros(3, meetings, tokens, width, dtype=torch.float16))
        assert file.stat().st_size == pytest.approx(told, rel=0.05)
