"""VOT workspaces, the TraX side, and DepthTrack's figures, which agree with a toolkit that runs as a process."""

from __future__ import annotations

import configparser
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tracker.cli import cli
from tracker.data.layouts import open_sequence, write_dataset
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.errors import RGBXError
from tracker.evaluation import evaluate_folder
from tracker.models.checkpoints import find_weights
from tracker.vot.toolkit import find_python, read_analysis, run_workspace, toolkit_version
from tracker.vot.trax_tracker import read_pair
from tracker.vot.workspace import listed_sequences, listed_trackers, prepare_workspace, tracker_command

LENGTH = 40


@pytest.fixture(scope="module")
def depthtrack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return three generated sequences in DepthTrack's layout, in each of which the target leaves."""
    root = tmp_path_factory.mktemp("depthtrack")
    config = SyntheticConfig(modality="depth", length=LENGTH, size=(96, 72), leave=1.0, seed=3)
    write_dataset(synthetic_dataset(config, 3), root, "depthtrack")
    return root


@pytest.fixture
def own(depthtrack: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(depthtrack, tmp_path / "own"))


def sequences_of(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir())


# ---- workspaces


def test_a_workspace_holds_links_a_list_and_the_tracker(depthtrack: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "ws"
    command = tracker_command(Path("/somewhere/my weights.safetensors"))
    names = prepare_workspace(workspace, depthtrack, "depthtrack", command, "mine")
    assert names == sequences_of(depthtrack) == listed_sequences(workspace)
    config = yaml.safe_load((workspace / "config.yaml").read_text())
    assert config == {"stack": "vot2021/rgbd", "registry": ["./trackers.ini"]}
    registry = configparser.ConfigParser()  # as the toolkit reads it, with interpolation
    registry.read(workspace / "trackers.ini")
    assert registry["mine"]["protocol"] == "trax"
    assert shlex.split(registry["mine"]["command"])[5] == "/somewhere/my weights.safetensors"
    first = workspace / "sequences" / names[0]
    assert (first / "color").is_symlink()
    assert (first / "groundtruth.txt").read_text() == (depthtrack / names[0] / "groundtruth.txt").read_text()
    properties = dict(line.split("=") for line in (first / "sequence").read_text().splitlines())
    assert (properties["width"], properties["height"], properties["length"]) == ("96", "72", str(LENGTH))
    for number in range(1, LENGTH + 1):
        for channel in ("color", "depth"):
            assert (first / (properties[f"channels.{channel}"] % number)).is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["ws"]


def test_frames_under_other_names_are_linked_under_vots_numbers(own: Path, tmp_path: Path) -> None:
    name = sequences_of(own)[0]
    for channel in ("color", "depth"):
        for file in sorted((own / name / channel).iterdir()):
            file.rename(file.with_name(f"frame{int(file.stem) + 7}{file.suffix}"))
    prepare_workspace(tmp_path / "ws", own, "depthtrack", "true", "mine")
    linked = tmp_path / "ws" / "sequences" / name / "depth" / "00000010.png"
    assert linked.resolve() == (own / name / "depth" / "frame17.png").resolve()


def test_a_percent_sign_in_a_path_survives_the_toolkits_interpolation(depthtrack: Path, tmp_path: Path) -> None:
    prepare_workspace(tmp_path / "ws", depthtrack, "depthtrack", "run 50%.safetensors", "mine")
    registry = configparser.ConfigParser()
    registry.read(tmp_path / "ws" / "trackers.ini")
    assert registry["mine"]["command"] == "run 50%.safetensors"


def test_a_second_tracker_joins_and_other_data_are_refused(depthtrack: Path, own: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "ws"
    prepare_workspace(workspace, depthtrack, "depthtrack", "one 1%", "one")
    prepare_workspace(workspace, depthtrack, "depthtrack", "two", "two")
    assert listed_trackers(workspace) == ["one", "two"]
    registry = configparser.ConfigParser()
    registry.read(workspace / "trackers.ini")
    assert registry["one"]["command"] == "one 1%"
    shutil.rmtree(own / sequences_of(own)[0])
    with pytest.raises(RGBXError, match="prepared with other sequences"):
        prepare_workspace(workspace, own, "depthtrack", "three", "three")
    assert listed_trackers(workspace) == ["one", "two"]


def test_splits_choose_the_sequences(own: Path, tmp_path: Path) -> None:
    names = sequences_of(own)
    (own / "list.of.mine").write_text(f"{names[2]}\n{names[0]}\n")
    chosen = prepare_workspace(
        tmp_path / "a", own, "depthtrack", "true", "mine", split=str((own / "list.of.mine").resolve())
    )
    assert chosen == [names[2], names[0]]
    (own / "test").mkdir()
    (own / names[1]).rename(own / "test" / names[1])
    assert prepare_workspace(tmp_path / "b", own, "depthtrack", "true", "mine") == [names[1]]


@pytest.mark.parametrize("damage", ["no depth", "a frame short", "no first box", "box too many", "no truth", "image"])
def test_unusable_sequences_are_refused_before_anything_is_made(own: Path, tmp_path: Path, damage: str) -> None:
    name = sequences_of(own)[1]
    folder = own / name
    truth = folder / "groundtruth.txt"
    expected = name
    if damage == "no depth":
        shutil.rmtree(folder / "depth")
    elif damage == "a frame short":
        max((folder / "depth").iterdir()).unlink()
    elif damage == "no first box":
        truth.write_text("\n".join(["nan,nan,nan,nan", *truth.read_text().splitlines()[1:]]))
    elif damage == "box too many":
        truth.write_text(truth.read_text() + "1,2,3,4\n")
    elif damage == "image":
        min((folder / "color").iterdir()).write_bytes(b"no image")
    else:
        for other in sequences_of(own):
            (own / other / "groundtruth.txt").unlink()
        expected = "groundtruth.txt"
    with pytest.raises(RGBXError, match=expected):
        prepare_workspace(tmp_path / "ws", own, "depthtrack", "true", "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


def test_foreign_folders_names_and_benchmarks_are_refused(depthtrack: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("do not lose")
    with pytest.raises(RGBXError, match="is no workspace"):
        prepare_workspace(tmp_path / "full", depthtrack, "depthtrack", "true", "mine")
    with pytest.raises(RGBXError, match="takes letters"):
        prepare_workspace(tmp_path / "ws", depthtrack, "depthtrack", "true", "my tracker")
    with pytest.raises(RGBXError, match="expected one of depthtrack, vot-rgbd2022, vot-rgbt2019"):
        prepare_workspace(tmp_path / "ws", depthtrack, "cdtb", "true", "mine")
    with pytest.raises(RGBXError, match=r"has no file 'sequence'"):
        prepare_workspace(tmp_path / "ws", depthtrack, "vot-rgbd2022", "true", "mine")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "do not lose"
    with pytest.raises(RGBXError, match="rgbx vot prepare"):
        run_workspace(tmp_path / "full")


def test_without_a_toolkit_the_message_says_where_to_put_one(depthtrack: Path, tmp_path: Path) -> None:
    prepare_workspace(tmp_path / "ws", depthtrack, "depthtrack", "true", "mine")
    with pytest.raises(RGBXError, match=r"has no VOT toolkit; .* RGBX_VOT_PYTHON"):
        run_workspace(tmp_path / "ws", python=tmp_path / "python")
    with pytest.raises(RGBXError, match="has no tracker yours"):
        run_workspace(tmp_path / "ws", ["yours"])
    result = CliRunner().invoke(cli, ["vot", "run", str(tmp_path / "ws"), "--python", str(tmp_path / "python")])
    assert result.exit_code == 2
    (tmp_path / "ws" / "sequences" / "list.txt").unlink()
    with pytest.raises(RGBXError, match="would download"):
        run_workspace(tmp_path / "ws")


def test_an_analysis_is_read_by_the_kind_of_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "rgbx.json"
    parts = [{"type": "vot.analysis.longterm.FScoreCurve"}, {"type": "vot.analysis.longterm.PrecisionRecall"}]
    experiment = {"parameters": {"analyses": parts}, "results": [[[[0.1]], [[0.2]]], [[0.5, 0.25, 1 / 3], [1, 1, 1]]]}
    file.write_text(json.dumps({"trackers": {"b": {}, "a": {}}, "results": {"rgbd-unsupervised": experiment}}))
    found = read_analysis(file, "depthtrack")
    assert found == {"b": {"Pr": 0.5, "Re": 0.25, "F": 1 / 3}, "a": {"Pr": 1.0, "Re": 1.0, "F": 1.0}}
    with pytest.raises(RGBXError, match="is not an analysis"):
        read_analysis(file, "vot-rgbd2022")
    with pytest.raises(RGBXError, match="is not an analysis"):
        read_analysis(tmp_path / "none.json", "depthtrack")


# ---- VOT-RGBT2019


def as_rgbt2019(root: Path, target: Path) -> Path:
    """Return a LasHeR-like set in the form of the toolkit's VOT-RGBT2019, with polygons and an anchor at each end."""
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        sequence = open_sequence(folder)
        place = target / folder.name
        for channel in ("color", "ir"):
            (place / channel).mkdir(parents=True)
        polygons = []
        for index in range(sequence.length):
            frame = sequence.frame(index)
            cv2.imwrite(str(place / "color" / f"{index + 1:08d}.jpg"), frame[:, :, 2::-1])
            cv2.imwrite(str(place / "ir" / f"{index + 1:08d}.jpg"), frame[:, :, 3])
            assert sequence.present[index]
            x, y, w, h = sequence.boxes[index]
            polygons.append(",".join(f"{v:.3f}" for v in (x, y + h, x, y, x + w, y, x + w, y + h)))
        (place / "groundtruth.txt").write_text("\n".join(polygons) + "\n")
        anchors = ["1", *["0"] * (sequence.length - 2), "-1"]
        (place / "anchor.value").write_text("\n".join(anchors) + "\n")
        height, width = sequence.frame(0).shape[:2]
        lines = {"name": folder.name, "fps": "30", "format": "default", "channel.default": "color"}
        lines |= {"channels.color": "color/%08d.jpg", "channels.ir": "ir/%08d.jpg"}
        lines |= {"width": str(width), "height": str(height), "length": str(sequence.length)}
        (place / "sequence").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
    return target


@pytest.fixture(scope="module")
def rgbt2019(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rgbt")
    config = SyntheticConfig(modality="thermal", length=12, size=(96, 72), leave=0.0, occlusion=0.0, seed=3)
    write_dataset(synthetic_dataset(config, 2), root / "lasher", "lasher")
    return as_rgbt2019(root / "lasher", root / "vot")


def test_a_workspace_of_rgbt2019_asks_for_infrared(rgbt2019: Path, depthtrack: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli,
        shlex.split(
            f"vot prepare '{tmp_path / 'ws'}' --data '{rgbt2019}' --benchmark vot-rgbt2019 --checkpoint tiny_rgb"
        ),
    )
    assert done.exit_code == 0, done.output
    assert yaml.safe_load((tmp_path / "ws" / "config.yaml").read_text())["stack"] == "vot2019/rgbtir"
    assert listed_sequences(tmp_path / "ws") == sequences_of(rgbt2019)
    registry = configparser.ConfigParser()
    registry.read(tmp_path / "ws" / "trackers.ini")
    assert shlex.split(registry["tiny_rgb"]["command"])[-2:] == ["--channel", "ir"]
    with pytest.raises(RGBXError, match=r"names no channel 'depth'.*channels\.depth"):
        prepare_workspace(tmp_path / "other", rgbt2019, "vot-rgbd2022", "true", "mine")


def test_infrared_of_one_channel_is_read_as_it_is(rgbt2019: Path, tmp_path: Path) -> None:
    folder = rgbt2019 / sequences_of(rgbt2019)[0]
    color, infrared = (str(folder / channel / "00000003.jpg") for channel in ("color", "ir"))
    frame = read_pair(color, infrared, "ir")
    np.testing.assert_array_equal(frame[:, :, 3], cv2.imread(infrared, cv2.IMREAD_GRAYSCALE))
    np.testing.assert_array_equal(frame[:, :, 3], frame[:, :, 5])
    cv2.imwrite(str(tmp_path / "16.png"), np.zeros(frame.shape[:2], np.uint16))
    with pytest.raises(RGBXError, match="uint16 pixels; expected infrared in 8 bits"):
        read_pair(color, str(tmp_path / "16.png"), "ir")


# ---- the tracker's side


def test_frames_are_what_the_depthtrack_layout_reads(depthtrack: Path) -> None:
    folder = depthtrack / sequences_of(depthtrack)[0]
    frame = read_pair(str(folder / "color" / "00000005.jpg"), str(folder / "depth" / "00000005.png"))
    np.testing.assert_array_equal(frame, open_sequence(folder).frame(4))


def test_unreadable_and_unregistered_frames_are_refused(own: Path) -> None:
    folder = own / sequences_of(own)[0]
    color, depth = str(folder / "color" / "00000001.jpg"), str(folder / "depth" / "00000001.png")
    with pytest.raises(RGBXError, match=r"00000009\.png is missing"):
        read_pair(color, str(own / "00000009.png"))
    cv2.imwrite(depth, np.ones((7, 9), np.uint16))
    with pytest.raises(RGBXError, match=r"96x72 but .* 9x7"):
        read_pair(color, depth)


def test_the_tracker_speaks_trax_to_vot_traxs_own_client(depthtrack: Path) -> None:
    pytest.importorskip("trax", reason="vot-trax is not installed (pip install srft-kernels[vot])")
    import trax
    from trax.client import Client

    from tracker.inference.online import OnlineTracker
    from tracker.models.checkpoints import load_network

    weights = find_weights(Path("tiny_rgb"))
    folder = depthtrack / sequences_of(depthtrack)[0]
    sequence = open_sequence(folder)
    command = shlex.split(tracker_command(weights, device="cpu"))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        client = Client(stream=(process.stdin.fileno(), process.stdout.fileno()), timeout=300, log=lambda line: None)
        assert client.channels == ["color", "depth"]

        def images(k: int) -> dict[str, object]:
            names = {"color": folder / "color" / f"{k + 1:08d}.jpg", "depth": folder / "depth" / f"{k + 1:08d}.png"}
            return {channel: trax.FileImage.create(str(path)) for channel, path in names.items()}

        expected = OnlineTracker(load_network(weights)[0])
        for start in (0, 3):  # started anew in the same process, as multistart does
            first = sequence.boxes[start]
            status, _ = client.initialize(images(start), [(trax.Rectangle.create(*first), {})], {})
            np.testing.assert_allclose(status[0][0].bounds(), first, rtol=1e-6)
            expected.initialize(sequence.frame(start), np.asarray(first, dtype=np.float32).astype(np.float64))
            for k in range(start + 1, start + 4):
                status, _ = client.frame(images(k), {}, [])
                region, properties = status[0]
                wanted = expected.track(sequence.frame(k))
                np.testing.assert_allclose(region.bounds(), wanted.box, atol=2e-3)
                assert float(dict(properties)["confidence"]) == pytest.approx(wanted.score, rel=1e-3)
        client.quit()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


# ---- the whole, with a real toolkit


def toolkit() -> str:
    try:
        return find_python()
    except RGBXError as error:
        pytest.skip(f"vot-toolkit is not here: {error}")


@pytest.mark.slow
def test_the_toolkit_runs_the_tracker_and_agrees_with_the_evaluator(depthtrack: Path, tmp_path: Path) -> None:
    """The toolkit's Pr, Re and F of its own run are compared with ours from the files that it wrote."""
    python = toolkit()
    workspace = tmp_path / "ws"
    done = CliRunner().invoke(
        cli,
        shlex.split(
            f"vot prepare '{workspace}' --data '{depthtrack}' --benchmark depthtrack --checkpoint tiny_rgb --device cpu"
        ),
    )
    assert done.exit_code == 0, done.output
    # A second tracker that answers boxes over the border and on absent frames, with other confidences.
    script = tmp_path / "wild.py"
    script.write_text(WILD)
    prepare_workspace(workspace, depthtrack, "depthtrack", shlex.join([sys.executable, str(script)]), "wild")
    figures = run_workspace(workspace, python=python, progress=False)
    assert set(figures) == {"tiny_rgb", "wild"}
    for name, theirs in figures.items():
        results = workspace / "results" / name / "rgbd-unsupervised"
        ours = evaluate_folder(workspace / "sequences", results, "depthtrack").scores
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, abs=1e-9), (name, key)
    assert 0.05 < figures["tiny_rgb"]["F"] < 1
    assert (workspace / "reports" / "rgbx" / "report.html").is_file()
    # Nothing was fetched: what is listed is what was linked.
    assert listed_sequences(workspace) == sequences_of(depthtrack)
    assert "ownload" not in (workspace / "toolkit.log").read_text()


WILD = """
import random
import trax
generator = random.Random(0)
with trax.Server([trax.Region.RECTANGLE], [trax.Image.PATH], ["color", "depth"]) as server:
    while True:
        request = server.wait()
        if request.type == "quit":
            break
        if request.type == "initialize":
            x, y, w, h = request.objects[0][0].bounds()
        box = [x + generator.gauss(0, 6), y + generator.gauss(0, 6), w * generator.uniform(0, 2), h]
        if generator.random() < 0.1:
            box = [0, 0, 0, 0]
        confidence = round(generator.random(), 1)
        server.status([(trax.Rectangle.create(*box), {"confidence": str(confidence)})])
"""


@pytest.mark.slow
def test_eao_comes_from_toolkits_that_can_start_trackers_at_anchors(depthtrack: Path, tmp_path: Path) -> None:
    python = toolkit()
    prepare_workspace(tmp_path / "links", depthtrack, "depthtrack", "true", "none")
    data = Path(shutil.copytree(tmp_path / "links" / "sequences", tmp_path / "rgbd2022"))
    (data / "list.txt").write_text(f"{sequences_of(depthtrack)[0]}\n")
    name = sequences_of(depthtrack)[0]
    (data / name / "anchor.value").write_text("\n".join(["1", *["0"] * (LENGTH - 1)]) + "\n")
    command = tracker_command(find_weights(Path("tiny_rgb")), device="cpu")
    prepare_workspace(tmp_path / "ws", data, "vot-rgbd2022", command, "mine")
    if toolkit_version(python) in ("0.8.0", "0.8.1", "0.9.0"):
        with pytest.raises(RGBXError, match=r"install vot-toolkit==0\.7\.4"):
            run_workspace(tmp_path / "ws", python=python, progress=False)
        return
    figures = run_workspace(tmp_path / "ws", python=python, progress=False)
    assert 0 <= figures["mine"]["EAO"] <= 1


@pytest.mark.slow
def test_rgbt2019_is_run_from_its_polygons_at_both_ends(rgbt2019: Path, tmp_path: Path) -> None:
    python = toolkit()
    command = tracker_command(find_weights(Path("tiny_rgb")), device="cpu", x="ir")
    prepare_workspace(tmp_path / "ws", rgbt2019, "vot-rgbt2019", command, "mine")
    if toolkit_version(python) in ("0.8.0", "0.8.1", "0.9.0"):
        pytest.skip("this toolkit cannot start trackers at anchors")
    figures = run_workspace(tmp_path / "ws", python=python, progress=False)
    assert 0 <= figures["mine"]["EAO"] <= 1
    name = sequences_of(rgbt2019)[0]
    runs = tmp_path / "ws" / "results" / "mine" / "baseline" / name
    for anchor in (0, 11):
        assert len((runs / f"{name}_{anchor:08d}.txt").read_text().splitlines()) == 12
