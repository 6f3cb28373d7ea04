"""Every setting is explained where it is set: in ``--help``, in ``--show-config`` and on a page, from one source."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.paths import REPOSITORY
from tracker.cli import cli
from tracker.config import RunConfig
from tracker.config.sections import leaves
from tracker.config.text import default_of, page, plain

TUNING = ("tuning", "lora.", "adapters.", "sdstrack.", "patrack.", "distill.", "optimizer.adapters", "train.also_train")
TRAINING_ONLY = ("init", "output", "network.", "optimizer.", "validation.", *TUNING)


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_setting_has_a_sentence_and_numbers_have_a_unit_or_are_shares() -> None:
    """Counts and sizes say what they count. A number without a unit is a ratio, a probability or a choice."""
    without = {leaf.key for leaf in leaves(RunConfig) if leaf.field.annotation in (int, int | None) and not leaf.unit}
    assert without == {
        "network.depth", "network.num_heads", "data.sequences", "data.first", "data.refresh", "data.seed",
        "lora.rank", "train.accumulate", "train.seed", "train.keep_checkpoints", "prior.seed", "prior.draws",
        "validation.sequences", "validation.seed",
    }  # fmt: skip
    for leaf in leaves(RunConfig):
        assert leaf.field.description, leaf.key
        assert not leaf.field.description.endswith("."), leaf.key


@pytest.mark.parametrize("command", ["train", "pretrain", "prior"])
def test_help_names_each_setting_of_its_command_with_its_default(command: str) -> None:
    text = shown(command, "--help")
    for leaf in leaves(RunConfig):
        other = leaf.key.startswith("prior.") if command != "prior" else leaf.key.startswith(TRAINING_ONLY)
        other |= command == "pretrain" and leaf.key.startswith(("train.lr_scale.", *TUNING))
        other |= command == "prior" and (leaf.key.startswith("train.") and leaf.key != "train.device")
        other |= command == "prior" and leaf.key in ("loss.cell", "data.refresh")
        assert (f"\n  {leaf.key}\n" in text) != other, leaf.key
    assert "      learning rate of AdamW. number above 0 to 1; default 0.0001." in text or command == "prior"


def test_show_config_explains_each_setting() -> None:
    text = shown("train", "--show-config")
    lines = [line.strip() for line in text.splitlines()]
    for leaf in leaves(RunConfig):
        name = leaf.key.rpartition(".")[2]
        assert any(line.startswith((f"{name}: ", f"# {name}: ")) for line in lines), leaf.key
        assert leaf.field.description.split()[0] in text
    assert "# length of the run. whole number from 1, in epochs; default 10\n  epochs: 10\n" in text
    assert "# no effect, it needs optimizer.name=srft:\n  # strength: 10" in text


def test_the_page_is_what_the_sections_say() -> None:
    """``python -m tracker.config.text > docs/settings.md`` writes it anew."""
    assert (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8") == page()
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(list(leaves(RunConfig))) + 4  # and those of data.sets


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-4, "0.0001"), (0.05, "0.05"), (True, "true"), (None, "null"), ((0.9, 0.999), "[0.9, 0.999]"), ("no", '"no"'),
     ("jet", "jet"), ("a: b", '"a: b"'), ("", '""'), (3, "3"), ({"root": "/a", "split": None}, "{root: /a}")],
)  # fmt: skip
def test_values_are_shown_as_yaml_reads_them(value: object, text: str) -> None:
    import yaml

    assert plain(value) == text
    found = yaml.safe_load(text)
    assert found == ({"root": "/a"} if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value)


def test_a_required_setting_has_no_default() -> None:
    from tracker.config.sections import DataSetSection

    assert [default_of(leaf) for leaf in leaves(DataSetSection)] == ["must be given", "unset", "unset", "1"]
