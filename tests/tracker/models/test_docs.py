"""docs/networks.md says what the networks are."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.paths import REPOSITORY
from tracker.models.config import PRESETS, NetworkConfig, elimination_layers, preset
from tracker.models.tracker import build_network

PAGE = REPOSITORY / "docs" / "networks.md"


def rows() -> dict[str, list[str]]:
    """Cells of the table of presets, by preset."""
    lines = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return {name.strip("`"): rest for name, *rest in cells if name.strip("`") in PRESETS}


def parameters(config: NetworkConfig) -> float:
    with torch.device("meta"):
        return sum(p.numel() for p in build_network(config).parameters()) / 1e6


def multiplications(config: NetworkConfig) -> float:
    with torch.device("meta"):
        network = build_network(config).eval()
        template, search = (torch.empty(1, 6, side, side) for side in (config.template_size, config.search_size))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(template, search)
    return float(counter.get_total_flops()) / 2e9


def test_every_preset_stands_there_with_its_sizes_and_parameters() -> None:
    table = rows()
    assert table.keys() == PRESETS.keys()
    for name, (sizes, rgb, rgb_x, *_) in table.items():
        config = preset(name)
        assert sizes == f"{config.template_size} / {config.search_size}"
        assert rgb == f"{parameters(config.replace(kind='single_stream')):.2f} M"
        assert rgb_x == f"{parameters(config):.2f} M"


@pytest.mark.parametrize("name", ["vit_t_384", "tiny"])
def test_multiplications_are_as_many_as_it_says(name: str) -> None:
    config = preset(name)
    whole, kept = rows()[name][3:]
    assert whole == f"{multiplications(config):.1f}"
    eliminating = config.replace(elimination_layers=elimination_layers(config.depth), keep_ratio=0.7)
    assert kept == f"{multiplications(eliminating):.1f}"


def test_its_commands_have_options_that_exist() -> None:
    from tracker.commands.weights import convert

    known = {name for option in convert.params for name in option.opts}
    commands = re.findall(r"^rgbx weights convert (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert {word for word in command.split() if word.startswith("--")} <= known
