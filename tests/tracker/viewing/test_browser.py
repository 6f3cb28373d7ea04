"""Pages in a real browser, headless Chromium, opened from disk: what they show, keys, curves, sorting, both themes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.chromium import chromium
from tests.tracker.viewing.recorded_runs import (
    ABSENT,
    FRAMES,
    NAMES,
    Example,
    confidence_of,
    gray_of,
    iou_of,
    results_of,
    shift_of,
    truth_of,
    write_example,
)
from tracker.data.sequence import ArraySequence
from tracker.viewing import PageSettings, Record, Run, find_runs, score_runs, write_page

pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install selenium)")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

WHITISH = 180
"""Between the smoothed white line of the ground truth (above 200) and the pictures that it is looked for in."""


class Browser:
    """A tab, and what a person would read in it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, fragment: str = "", width: int = 1440, height: int = 900, dark: bool = False) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + fragment)
        self.settled()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def texts(self, selector: str) -> list[str]:
        return [e.text for e in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()
        self.settled()

    def until(self, holds: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.02)

    def settled(self) -> None:
        """Wait until the picture on the canvas is that of the frame that is named."""
        self.until(lambda: self.run("return document.getElementById('view')?.dataset.frame") == str(self.frame))

    @property
    def frame(self) -> int:
        return int(self.text("#counter").split("/")[0]) - 1

    @property
    def sequence(self) -> str:
        return self.text("#name")

    def reading(self, run: int | str, column: str) -> str:
        return self.text(f"#readout tr[data-run='{run}'] td.{column}")

    def pixel(self, x: float, y: float, half: int = 0) -> list[int]:
        """Return the color at a place in the pixels of the frame, of the RGB (0) or the X (1) panel."""
        script = """
            const [x, y, half, width, height] = arguments;
            const view = document.getElementById("view");
            const panel = (view.width - 6) / 2;
            const at = [half * (panel + 6) + (x / width) * panel, (y / height) * view.height].map(Math.round);
            // By way of a copy: reading from the canvas itself would slow it down, and Chromium complains of that.
            const pen = new OffscreenCanvas(1, 1).getContext("2d");
            pen.drawImage(view, ...at, 1, 1, 0, 0, 1, 1);
            return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
        """
        found = self.run(script, x, y, half, 120, 90)
        return [int(v) for v in found]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield Browser(driver)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return write_example(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def pages(example: Example, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages with spaces & signs")
    runs = find_runs([example.first, example.second], example.sequences)
    thin = PageSettings(max_bytes=40_000)
    return {
        "one": write_page(folder / "one.html", example.sequences, runs[:1]).path,
        "two": write_page(folder / "two.html", example.sequences, runs, compare=True).path,
        "thin": write_page(folder / "thin.html", example.sequences, runs, thin).path,
        "none": write_page(folder / "none.html", example.sequences, runs, PageSettings(pictured=0)).path,
    }


@pytest.fixture(autouse=True)
def _no_complaints(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that no test writes anything to the console."""
    yield
    assert request.getfixturevalue("browser").complaints() == []


def check_readouts(browser: Browser, runs: int) -> None:
    """Check that the text beside the slider is what the files say about this frame."""
    name, frame = browser.sequence, browser.frame
    for run in range(runs):
        box = ", ".join(f"{v:.1f}" for v in results_of(run, name)[frame])
        assert browser.reading(run, "box") == box
        iou = iou_of(run, name, frame)
        assert browser.reading(run, "iou") == ("–" if iou is None else f"{iou:.3f}")
        distance = "–" if iou is None else f"{shift_of(run, name, frame):.1f} px"
        assert browser.reading(run, "distance") == distance
        assert browser.reading(run, "confidence") == f"{confidence_of(run, name)[frame]:.3f}"
    truth = truth_of(name)[frame] + [1, 1, 0, 0]
    expected = "–" if np.isnan(truth).any() else ", ".join(f"{v:.1f}" for v in truth)
    assert browser.reading("truth", "box") == expected


def check_picture(browser: Browser) -> None:
    """Check that the picture behind the boxes is of this frame, on both sides."""
    for half, gray in ((0, gray_of(browser.frame)), (1, 255 - gray_of(browser.frame))):
        assert max(abs(v - gray) for v in browser.pixel(60, 80, half)) <= 4


def test_page_opens_from_disk_and_needs_nothing_else(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one"])
    assert browser.run("return location.protocol") == "file:"
    assert browser.driver.title == "first"
    assert browser.sequence == "hard"  # the lowest success first
    assert browser.text("#facts") == f"RGB and thermal · {FRAMES} frames · {len(ABSENT)} without ground truth"
    fetched = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []


def test_slider_moves_frame_boxes_and_readouts(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], "#sequence=hard")
    slider = browser.one("#slider")
    assert int(slider.get_attribute("max")) == FRAMES - 1
    for place in (0, 5, 6, 10, FRAMES - 1):
        browser.run(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, str(place)
        )
        browser.settled()
        assert browser.frame == place
        assert slider.get_attribute("aria-valuetext") == f"frame {place + 1} of {FRAMES}"
        check_readouts(browser, runs=2)
        check_picture(browser)
        for half in (0, 1):
            # On the left edge of the first run's box (red), and of the truth (white) where it is apart from both.
            left, top, _, height = results_of(0, "hard")[place] - [1, 1, 0, 0]
            if place > 0:
                red, green, blue = browser.pixel(left, top + height / 2, half)
                assert red > green + 40
                assert red > blue + 40
            at_truth = browser.pixel(10 + 2 * place, 30, half)
            if place == 6:
                assert min(at_truth) > WHITISH
            if place == 10:
                assert max(at_truth) - min(at_truth) < 8
                assert min(at_truth) < WHITISH


def test_dragging_the_slider_with_the_mouse(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one"])
    slider = browser.one("#slider")
    ActionChains(browser.driver).drag_and_drop_by_offset(slider, slider.size["width"] // 4, 0).perform()
    browser.settled()
    assert FRAMES * 0.6 < browser.frame < FRAMES * 0.9
    check_readouts(browser, runs=1)


def test_keys(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], "#sequence=hard&frame=4")
    assert browser.frame == 3
    browser.press(Keys.ARROW_RIGHT)
    assert browser.frame == 4
    ActionChains(browser.driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    browser.settled()
    assert browser.frame == 14
    browser.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert browser.frame == 12
    browser.press(Keys.END, Keys.ARROW_RIGHT)
    assert browser.frame == FRAMES - 1
    browser.press(Keys.HOME, Keys.ARROW_LEFT)
    assert browser.frame == 0
    check_readouts(browser, runs=2)
    # The first run has no overlap from frame 6 on; after the frames without truth that begins anew.
    found = []
    for _ in range(4):
        browser.press("f")
        found.append(browser.frame)
    assert found == [6, 13, 21, 6]
    browser.press("1", "f")  # of the second run alone there is none: the frame stays
    assert browser.frame == 6
    assert browser.run("return document.querySelectorAll('svg[data-chart=iou] .curve').length") == 1
    browser.press("1", "g")
    assert min(browser.pixel(10 + 2 * 6, 30)) < WHITISH
    browser.press("g")
    assert min(browser.pixel(10 + 2 * 6, 30)) > WHITISH
    order = browser.texts("#sequences tbody td:first-child")
    browser.press("n")
    assert (browser.sequence, browser.frame) == (order[1], most_apart(order[1]))
    browser.press("p", "p")
    assert browser.sequence == order[-1]
    # Arrows on the slider itself move by one, not by two.
    browser.one("#slider").send_keys(Keys.ARROW_RIGHT)
    browser.settled()
    assert browser.frame == 1


def most_apart(name: str) -> int:
    """Return the first of the frames in which IoU differs most between the two runs, by hand; 0 where it never does."""
    apart = []
    for index in range(FRAMES):
        ious = [iou_of(run, name, index) for run in (0, 1)]
        apart.append(0.0 if None in ious else abs(ious[0] - ious[1]))  # type: ignore[operator]
    return int(np.argmax(np.round(apart, 3)))


def test_a_page_opens_where_runs_differ_most(browser: Browser, pages: dict[str, Path], example: Example) -> None:
    expected = {name: most_apart(name) for name in NAMES}
    assert expected == {"hard": 6, "easy": 1, "even": 0}
    for name, frame in expected.items():
        browser.open(pages["two"], f"#sequence={name}")
        assert (browser.sequence, browser.frame) == (name, frame)
    browser.open(pages["two"])
    assert (browser.sequence, browser.frame) == ("hard", 6)
    browser.open(pages["two"], "#sequence=hard&frame=1")  # a frame that is named wins
    assert browser.frame == 0
    browser.one("#difference").click()
    browser.settled()
    assert browser.frame == 6
    browser.press(Keys.HOME, "d")
    assert browser.frame == 6
    browser.press(Keys.HOME, "1", "d")  # one run alone differs from nothing
    assert browser.frame == 0
    browser.open(pages["one"])
    assert browser.frame == 0
    assert not browser.one("#difference").is_displayed()


def test_runs_without_ground_truth_differ_by_their_boxes(browser: Browser, tmp_path: Path) -> None:
    frames = np.full((5, 40, 60, 6), 90, np.uint8)
    boxes = np.array([[10.0, 10, 20, 20]] + [[np.nan] * 4] * 4)
    sequence = ArraySequence("s", "thermal", frames, boxes)
    tracks = np.tile([10.0, 10, 20, 20], (5, 1))
    runs = [Run("a", {"s": Record(tracks)}), Run("b", {"s": Record(tracks + np.array([[0, 0, 0, 0]] * 5))})]
    runs[1].records["s"].boxes[3, 0] += 9
    runs[1].records["s"].boxes[4, 0] += 5
    browser.open(write_page(tmp_path / "page.html", [sequence], runs).path)
    assert browser.frame == 3


def test_a_dark_frame_can_be_brightened(browser: Browser, pages: dict[str, Path]) -> None:
    """The control is a gamma: it lifts the dark half as its formula says, and hardly changes the bright one."""
    browser.open(pages["one"], "#sequence=even&frame=1")
    before = [browser.pixel(60, 80, half)[0] for half in (0, 1)]
    assert before[0] < 14
    script = (
        "const b = document.getElementById('brightness'); b.value = arguments[0]; b.dispatchEvent(new Event('input'))"
    )
    for gamma in (2.0, 4.0):
        browser.run(script, gamma)
        expected = [255 * (level / 255) ** (1 / gamma) for level in before]
        browser.until(lambda want=expected: abs(browser.pixel(60, 80)[0] - want[0]) <= 6)  # type: ignore[misc]
        assert browser.pixel(60, 80, 1)[0] == pytest.approx(expected[1], abs=3)
    browser.press("n")
    browser.press("p")  # it stays for other sequences and frames
    browser.until(lambda: browser.pixel(60, 80)[0] > 80)
    browser.press("b")
    browser.until(lambda: abs(browser.pixel(60, 80)[0] - before[0]) <= 2)
    browser.press("b")
    assert float(browser.one("#brightness").get_attribute("value")) == 2.5
    browser.until(lambda: browser.pixel(60, 80)[0] > 50)
    # Arrows in the slider move the slider and not the frame.
    browser.one("#brightness").send_keys(Keys.ARROW_RIGHT)
    assert float(browser.one("#brightness").get_attribute("value")) == 2.75
    assert browser.frame == 0


def test_playing(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one"], "#sequence=easy")
    browser.run("document.getElementById('speed').value = '5'")
    ActionChains(browser.driver).send_keys(" ").perform()
    assert browser.one("#play").get_attribute("aria-label") == "Pause"
    browser.until(lambda: browser.frame >= 2)
    ActionChains(browser.driver).send_keys(" ").perform()
    assert browser.one("#play").get_attribute("aria-label") == "Play"
    stopped = browser.frame
    assert stopped < FRAMES - 1
    time.sleep(0.3)
    assert browser.frame == stopped
    browser.settled()
    check_readouts(browser, runs=1)
    check_picture(browser)
    browser.run("document.getElementById('speed').value = '60'")
    browser.one("#play").click()
    browser.until(lambda: browser.frame == FRAMES - 1)
    assert browser.one("#play").get_attribute("aria-label") == "Play"
    # From the end it starts again.
    browser.run("document.getElementById('speed').value = '5'")
    browser.one("#play").click()
    assert browser.frame < FRAMES - 1
    browser.one("#play").click()
    assert browser.one("#play").get_attribute("aria-label") == "Play"


def test_curves_are_those_of_the_files_and_seek(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], "#sequence=hard")
    for run in range(2):
        line = browser.one(f"svg[data-chart=iou] g[data-run='{run}'] .curve").get_attribute("d")
        points = [
            tuple(map(float, point.split())) for point in line.replace("M", "L").split("L")[1:] if "h" not in point
        ]
        values = [(i, v) for i in range(FRAMES) if (v := iou_of(run, "hard", i)) is not None]
        assert line.count("M") == 3  # a gap where there is no truth
        np.testing.assert_allclose(points, [((i + 0.5) / FRAMES * 1000, 100 - 100 * v) for i, v in values], atol=0.011)
    shades = browser.run(
        "return [...document.querySelectorAll('svg[data-chart=iou] .shade')]"
        ".map((shade) => [shade.x.baseVal.value, shade.width.baseVal.value])"
    )
    frame = 1000 / FRAMES
    np.testing.assert_allclose(shades, [[10 * frame, 3 * frame], [20 * frame, frame]], rtol=1e-4)
    lost = browser.run(
        "return [...document.querySelectorAll('svg .lost')]"
        ".map((bar) => [bar.x.baseVal.value, bar.width.baseVal.value])"
    )
    np.testing.assert_allclose(lost, [[6 * frame, 18 * frame]], rtol=1e-4)
    for name in ("iou", "confidence"):
        curve = browser.one(f"svg[data-chart={name}]")
        width = curve.size["width"]
        actions = ActionChains(browser.driver)
        actions.move_to_element_with_offset(curve, round(width * (7.5 / FRAMES - 0.5)), 0).click().perform()
        browser.settled()
        assert browser.frame == 7
        actions = ActionChains(browser.driver).move_to_element(curve).click_and_hold()
        actions.move_by_offset(round(width * 5 / FRAMES), 0).release().perform()
        browser.settled()
        assert abs(browser.frame - (FRAMES // 2 + 5)) <= 1
        check_readouts(browser, runs=2)
        head = float(browser.one(f"svg[data-chart={name}] .playhead").get_attribute("x1"))
        assert head == pytest.approx((browser.frame + 0.5) * frame, abs=0.01)


def test_states_are_told(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one"], "#sequence=hard&frame=11")
    assert browser.reading("truth", "state") == "no box"
    assert browser.reading(0, "state") == "lost"
    browser.press(Keys.HOME)
    assert [browser.reading(run, "state") for run in ("truth", 0)] == ["", ""]


def test_comparison_sorts(browser: Browser, pages: dict[str, Path], example: Example) -> None:
    browser.open(pages["two"])
    scores = score_runs(find_runs([example.first, example.second], example.sequences), example.sequences)

    def order() -> list[str]:
        return browser.texts("#sequences tbody td:first-child")

    def by(column: str) -> list[str]:
        browser.one(f"#sequences th[data-column='{column}'] button").click()
        return order()

    change = {name: scores[1][name]["SR"] - scores[0][name]["SR"] for name in NAMES}
    assert change["hard"] > 0 > change["easy"]
    assert order() == sorted(NAMES, key=lambda name: -abs(change[name])) == ["hard", "easy", "even"]
    assert browser.one("th[data-column='SR-difference']").get_attribute("aria-sort") == "other"
    assert by("SR-difference") == sorted(NAMES, key=lambda name: -change[name]) == ["hard", "even", "easy"]
    assert by("SR-difference") == ["easy", "even", "hard"]
    assert browser.one("th[data-column='SR-difference']").get_attribute("aria-sort") == "ascending"
    assert by("SR-difference") == ["hard", "easy", "even"]
    assert by("SR-0") == sorted(NAMES, key=lambda name: -scores[0][name]["SR"])
    assert by("SR-0") == sorted(NAMES, key=lambda name: scores[0][name]["SR"])
    assert by("name") == sorted(NAMES)
    rows = browser.driver.find_elements(By.CSS_SELECTOR, "#sequences tbody tr")
    for row, name in zip(rows, sorted(NAMES), strict=True):
        cells = [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "td")]
        expected = [name]
        for key in ("SR", "PR"):
            first, second = scores[0][name][key], scores[1][name][key]
            size = f"{abs(100 * (second - first)):.1f}"
            sign = "" if size == "0.0" else "+" if second > first else "−"
            expected += [f"{100 * first:.1f}", f"{100 * second:.1f}", sign + size]
        assert cells == expected
    rows[0].click()
    browser.settled()
    assert browser.sequence == "easy"
    # By keyboard alone: the focus stays on the heading that sorts, and links of the table open.
    browser.one("#sequences th[data-column='PR-1'] button").send_keys(Keys.ENTER)
    assert browser.run("return document.activeElement.closest('th').dataset.column") == "PR-1"
    browser.driver.find_elements(By.CSS_SELECTOR, "#sequences tbody a")[-1].send_keys(Keys.ENTER)
    browser.settled()
    assert browser.sequence == order()[-1] != "easy"


def test_links_open_a_sequence_at_a_frame(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], "#sequence=even&frame=9")
    assert (browser.sequence, browser.frame) == ("even", 8)
    browser.press(Keys.ARROW_RIGHT)
    browser.until(lambda: browser.run("return location.hash") == "#sequence=even&frame=10")
    browser.open(pages["two"], "#sequence=gone&frame=999")
    assert browser.sequence == "hard"
    browser.open(pages["two"], "#sequence=even&frame=999")
    assert browser.frame == FRAMES - 1


def test_frames_that_are_not_pictured_are_passed_over(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["thin"], "#sequence=easy")
    first = browser.frame
    browser.press(Keys.ARROW_RIGHT)
    stride = browser.frame - first
    assert stride > 1
    assert f"one in {stride} frames pictured" in browser.text("#facts")
    assert f"one in {stride} frames" in browser.text("#note")
    check_picture(browser)
    check_readouts(browser, runs=2)
    line = browser.one("svg[data-chart=iou] .curve").get_attribute("d")
    assert line.count("L") == FRAMES - 1  # the curve has every frame all the same


def test_a_page_without_pictures_still_has_boxes(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["none"], "#sequence=hard&frame=9")
    assert "--sequence hard" in browser.text("#unpictured")
    check_readouts(browser, runs=2)
    left = results_of(0, "hard")[8, 0] - 1
    red, green, _ = browser.pixel(left, 30)
    assert red > green + 40


def test_hostile_names_are_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    names = ["<img src=x onerror=alert(1)>", "</script><!--<script>", 'a"b&c']
    boxes = np.tile([5.0, 5.0, 20.0, 10.0], (3, 1))
    sequences = [ArraySequence(name, "depth", np.zeros((3, 48, 64, 6), np.uint8), boxes) for name in names]
    runs = [Run(names[0], {name: Record(boxes) for name in names})]
    browser.open(write_page(tmp_path / "p.html", sequences, runs).path)
    assert browser.texts("#sequences tbody td:first-child") == names
    assert browser.text("#legend strong") == names[0]
    assert browser.driver.title == names[0]
    assert browser.run("return document.images.length") == 0
    for name in names[1:]:
        browser.press("n")
        assert browser.sequence == name


def test_eight_runs_and_one_sequence(browser: Browser, tmp_path: Path) -> None:
    boxes = np.tile([5.0, 5.0, 20.0, 10.0], (30, 1))
    sequence = ArraySequence("alone", "event", np.zeros((30, 48, 64, 6), np.uint8), boxes)
    runs = [Run(f"run{k}", {"alone": Record(boxes + np.array([k, 0, 0, 0]))}) for k in range(8)]
    browser.open(write_page(tmp_path / "p.html", [sequence], runs).path)
    assert not browser.one("#list").is_displayed()
    assert browser.run("return document.querySelectorAll('svg[data-chart=iou] .curve').length") == 8
    looks = browser.run(
        "return [...document.querySelectorAll('svg[data-chart=iou] .curve')]"
        ".map((line) => getComputedStyle(line).stroke + line.getAttribute('stroke-dasharray'))"
    )
    assert len(set(looks)) == 8
    assert browser.run("return document.querySelector('svg[data-chart=confidence]')") is None
    assert "no confidences were written" in browser.text("#key")


def luminance(color: list[float]) -> float:
    """Return WCAG 2's relative luminance of an sRGB color in 0..255."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


COLOR_OF = """
    const [selector, property] = arguments;
    const pen = new OffscreenCanvas(1, 1).getContext("2d");
    pen.fillStyle = getComputedStyle(document.querySelector(selector))[property];
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_curves_stand_out_in_both_themes(browser: Browser, pages: dict[str, Path], dark: bool) -> None:
    browser.open(pages["two"], dark=dark, fragment="#sequence=hard&frame=9")
    paper = browser.run(COLOR_OF, "body", "backgroundColor")
    card = browser.run(COLOR_OF, ".scroll", "backgroundColor")
    assert (luminance(paper) < 0.05) == dark
    for selector in ("h1", "#facts", "#summary", "footer", "#readout thead th", ".ticks", ".key", "td.alarm"):
        for ground in (paper, card):
            assert contrast(browser.run(COLOR_OF, selector, "color"), ground) >= 4.5, selector
    for run in range(2):
        curve = browser.run(COLOR_OF, f"svg[data-chart=iou] g[data-run='{run}'] .curve", "stroke")
        assert contrast(curve, card) >= 3.0


@pytest.mark.parametrize("width", [1920, 1440, 1100, 700, 400])
def test_nothing_is_wider_than_the_window(browser: Browser, pages: dict[str, Path], width: int) -> None:
    browser.open(pages["two"], width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    area = browser.run(
        "const area = document.getElementById('view').getBoundingClientRect(); return [area.width, area.right]"
    )
    assert area[0] > 150
    assert area[1] <= width
