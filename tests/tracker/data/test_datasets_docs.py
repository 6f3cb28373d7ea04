"""Every command on the pages about data sets runs, in its order, on a generated set in that layout.

What a reader puts in (a downloaded data set, pre-trained weights) is put in here by :data:`STAND_INS`. :data:`SMALL` is
appended to ``rgbx prior`` and ``rgbx train``, so that the recipes themselves are read and then made tiny.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.paths import REPOSITORY
from tracker.cli import cli
from tracker.data.generate import generate_dataset
from tracker.data.synthetic import SyntheticConfig

PAGES = REPOSITORY / "docs" / "datasets"
LAYOUT = {
    "lasher": ("LASHER", "lasher", "thermal"),
    "rgbt234": ("RGBT234", "rgbt234", "thermal"),
    "rgbt210": ("RGBT210", "rgbt210", "thermal"),
    "gtot": ("GTOT", "gtot", "thermal"),
    "vtuav": ("VTUAV", "vtuav", "thermal"),
    "depthtrack": ("DEPTHTRACK", "depthtrack", "depth"),
    "vot-rgbd": ("VOT_RGBD", "vot_rgbd", "depth"),
    "visevent": ("VISEVENT", "visevent", "event"),
    "coesot": ("COESOT", "coesot", "event"),
    "fe108": ("FE108", "fe108", "event"),
    "own-folders": ("OWN", "folders", "thermal"),
}
STAND_INS = {
    "OSTRACK.pth.tar": "tiny_rgb",
    "DROPTRACK.pth.tar": "tiny_rgb",
    # Weights that another page trains.
    "runs/lasher/network.safetensors": "tiny_rgb",
    "runs/depthtrack/network.safetensors": "tiny_rgb",
}
SMALL = {
    "prior": ["prior.samples=2", "prior.batch_size=2", "prior.workers=0"],
    "train": [
        *(
            "train.epochs=1",
            "train.samples_per_epoch=2",
            "train.batch_size=2",
            "train.workers=0",
            "train.precision=fp32",
        ),
        *("train.warmup_steps=0", "validation.every=1", "validation.sequences=1"),
    ],
}
NETWORK = {"train": ["network.template_size=64", "network.search_size=128", "network.drop_path=0"], "prior": []}
PAIRS = ["pairs.min_frames=4", "pairs.min_present=2"]


def commands(page: str) -> list[list[str]]:
    """Return the words of every command in the page's bash blocks, in order; backslashes join lines."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


def download(root: Path, layout: str, modality: str) -> None:
    """Write a generated data set in place of a downloaded one, with training sequences and a test sequence."""
    length = 21 if layout == "vtuav" else 6  # one frame in ten has a box
    config = SyntheticConfig(modality=modality, length=length, size=(96, 72), difficulty=0.2, leave=0.0, occlusion=0.0)
    recordings = layout == "fe108"
    if layout == "folders":
        folders = generate_dataset(config, 2, root, layout, None)
        folders[0].rename(root / "walk")
        return
    generate_dataset(config, 2, root, layout, "train", recordings)
    test = SyntheticConfig(**{**vars(config), "split": "test"})
    if layout not in ("rgbt234", "rgbt210", "gtot", "vot_rgbd"):
        generate_dataset(test, 1, root, layout, "test", recordings)


def put_in(words: list[str], places: dict[str, Path], stand_ins: dict[str, str]) -> list[str]:
    """Return the words with what a reader would put in."""
    replaced = []
    for word in words:
        for name, value in stand_ins.items():
            word = word.replace(name, value)
        for name, place in places.items():
            word = re.sub(rf"(?<![A-Z_0-9/]){name}(?![A-Z_0-9])", str(place), word)
        replaced.append(word)
    small = SMALL.get(words[1], [])
    return replaced + ([*small, *NETWORK[words[1]], *PAIRS] if small else [])


@pytest.mark.parametrize("page", LAYOUT)
def test_every_command_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, layout, modality = LAYOUT[page]
    if layout == "fe108":
        pytest.importorskip("dv_processing", reason="FE108 comes as recordings, which need the extra `events`")
    monkeypatch.chdir(tmp_path)
    places = {name: tmp_path / "download"}
    download(places[name], layout, modality)
    if page == "own-folders":
        places["LASHER"] = tmp_path / "lasher"
        download(places["LASHER"], "lasher", "thermal")
    if page == "visevent":
        # One sequence as a recording alone, as a part of the data set is.
        pytest.importorskip("dv_processing", reason="a part of VisEvent is recordings, which need the extra `events`")
        config = SyntheticConfig(modality="event", length=6, size=(96, 72), seed=9, leave=0.0, occlusion=0.0)
        folder = generate_dataset(config, 1, places[name], layout, None, recordings=True)[0]
        for images in ("vis_imgs", "event_imgs"):
            for file in (folder / images).iterdir():
                file.unlink()
            (folder / images).rmdir()
        (places[name] / "trainlist.txt").open("a").write(f"{folder.name}\n")
    trained = {key for key in STAND_INS if key == f"runs/{page}/network.safetensors"}
    stand_ins = {key: value for key, value in STAND_INS.items() if key not in trained}
    ran = commands(page)
    for words in ran:
        assert words[0] == "rgbx", words
        arguments = put_in(words, places, stand_ins)[1:]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
    assert {"data", "track", "eval"} <= {words[1] for words in ran}
    report = next(Path("report").rglob("*.json"))
    assert json.loads(report.read_text())


def test_every_page_is_tested() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == set(LAYOUT)
    assert all(commands(page) for page in LAYOUT)
