"""Thermal images of more than 8 bits: the values and the files are made by hand, and a checkpoint keeps the style."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from tracker.data.layouts import open_sequence
from tracker.data.rendering import XStyle
from tracker.data.sequence import ANY_KIND, read_image
from tracker.data.thermal import thermal_to_image
from tracker.errors import RGBXError
from tracker.inference import InferenceSettings

RAW = np.array([[3000, 3010, 3020], [3040, 3100, 3051]], np.uint16)


def test_styles_by_hand() -> None:
    minmax = thermal_to_image(RAW, "minmax")
    np.testing.assert_array_equal(minmax, [[0, 26, 51], [102, 255, 130]])  # 2.55 a count, to the nearest
    fixed = thermal_to_image(RAW, "fixed", (3010.0, 3061.0))  # 5 a count
    np.testing.assert_array_equal(fixed, [[0, 0, 50], [150, 255, 205]])
    many = np.full((10, 100), 100, np.uint16)
    many[:, 1] = 200
    many[0, 0], many[0, 2] = 0, 60000  # a dead pixel and the sun
    percentile = thermal_to_image(many, "percentile")
    assert (percentile[5, 1], percentile[5, 5], percentile[0, 0], percentile[0, 2]) == (255, 0, 0, 255)
    assert thermal_to_image(many, "minmax")[5, 1] < 2


def test_every_frame_of_a_fixed_range_has_the_same_grays() -> None:
    cold, warm = np.full((2, 2), 100.0), np.full((2, 2), 150.0)
    assert thermal_to_image(cold, "fixed", (0, 200))[0, 0] == 128  # 127.5, to even
    assert thermal_to_image(warm, "fixed", (0, 200))[0, 0] == 191
    assert not thermal_to_image(cold, "minmax").any()
    assert not thermal_to_image(warm, "percentile").any()


def test_values_that_are_not_finite_are_black_and_count_for_nothing() -> None:
    values = np.array([[np.nan, 10.0], [20.0, np.inf]], np.float32)
    np.testing.assert_array_equal(thermal_to_image(values, "minmax"), [[0, 0], [255, 0]])
    assert not thermal_to_image(np.full((2, 2), np.nan, np.float32), "percentile").any()


def test_8_bit_images_are_taken_as_they_are() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for style in ("minmax", "percentile"):
        assert thermal_to_image(image, style) is image


@pytest.mark.parametrize(
    ("style", "said"),
    [
        ({"thermal": "auto"}, "thermal style is 'auto'; expected one of minmax, percentile, fixed"),
        ({"thermal": "fixed"}, "the style fixed needs a"),
        ({"thermal": "minmax", "thermal_range": (0, 1)}, "no other style takes one"),
        ({"thermal": "fixed", "thermal_range": (2, 1)}, "white must be a larger value than black"),
    ],
)
def test_styles_that_are_refused(style: dict[str, object], said: str) -> None:
    with pytest.raises(RGBXError, match=said):
        XStyle(**style)  # type: ignore[arg-type]


def packed_tiff(values: np.ndarray, bits: int) -> bytes:
    """Return a little-endian TIFF of one strip with ``bits`` a pixel.

    The most significant bit comes first, and rows are filled up to whole bytes.
    """
    rows = []
    for row in values:
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    data = b"".join(rows)
    height, width = values.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 3, height), (279, 4, len(data))]  # fmt: skip
    data += b"\0" * (len(data) % 2)
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + directory + bytes(4)


def radiometric_jpeg(raw: np.ndarray, png: bool, chunk: int = 60000) -> bytes:
    """Return a JPEG with FLIR's APP1 segments, laid out as ExifTool documents them (FLIR tags)."""
    height, width = raw.shape
    if png:
        swapped = raw.byteswap()  # the camera's PNG has the bytes of each value in the other order
        pixels = cv2.imencode(".png", swapped)[1].tobytes()
    else:
        pixels = raw.astype("<u2").tobytes()
    record = struct.pack("<HHH", 2, width, height) + bytes(26) + pixels
    entries = 14  # as cameras have it, of which the first is the raw image and the rest is free
    start = 0x40 + 32 * entries
    entry = struct.pack(">HHIIIIIII", 1, 3 if png else 2, 100, 1, start, len(record), 0, 0, 0)
    head = b"FFF\0" + b"MTX IR".ljust(16, b"\0") + struct.pack(">IIII", 100, 0x40, entries, 2)
    body = head.ljust(0x40, b"\0") + entry.ljust(32 * entries, b"\0") + record
    parts = [body[i : i + chunk] for i in range(0, len(body), chunk)]
    segments = b""
    for number, part in enumerate(parts):
        content = b"FLIR\0\1" + bytes([number, len(parts) - 1]) + part
        segments += b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    picture = cv2.imencode(".jpg", np.full((height, width, 3), 77, np.uint8))[1].tobytes()
    return picture[:2] + segments + picture[2:]


@pytest.mark.parametrize(("bits", "factor"), [(10, 64), (12, 16), (14, 4)])
def test_packed_tiffs_are_read_as_16_bits(tmp_path: Path, bits: int, factor: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 7))
    (tmp_path / "a.tiff").write_bytes(packed_tiff(values, bits))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tiff", ANY_KIND), values * factor)


@pytest.mark.parametrize("png", [False, True])
@pytest.mark.parametrize("chunk", [60000, 100])
def test_a_radiometric_jpeg_is_its_raw_image(tmp_path: Path, png: bool, chunk: int) -> None:
    pytest.importorskip("flyr", reason="radiometric JPEG needs flyr (the extra `thermal`)")
    # Smooth, as a scene is: compressed it must be smaller than it is raw.
    raw = (np.arange(48)[:, None] * 900 + np.arange(64)[None] * 300).astype(np.uint16)
    (tmp_path / "a.jpg").write_bytes(radiometric_jpeg(raw, png, chunk))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg", ANY_KIND), raw)
    # As RGB the file is the picture that it shows.
    shown = read_image(tmp_path / "a.jpg", cv2.IMREAD_COLOR)
    assert shown is not None
    assert (shown.shape, int(shown[0, 0, 0])) == ((48, 64, 3), 77)


def test_a_damaged_radiometric_jpeg_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flyr", reason="radiometric JPEG needs flyr (the extra `thermal`)")
    data = radiometric_jpeg(RAW, png=False)
    (tmp_path / "a.jpg").write_bytes(data[:300])
    with pytest.raises(RGBXError, match=r"a.jpg is a radiometric JPEG without a readable raw image"):
        read_image(tmp_path / "a.jpg", ANY_KIND)
    (tmp_path / "a.jpg").write_bytes(data)
    import sys

    for name in ("flyr.records", "flyr.thermal"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RGBXError, match=r"needs the library flyr; pip install flyr"):
        read_image(tmp_path / "a.jpg", ANY_KIND)


def folder_of(tmp_path: Path, suffix: str, data: bytes) -> Path:
    for name, content in (("visible", cv2.imencode(".png", np.zeros((2, 3, 3), np.uint8))[1].tobytes()),
                          ("thermal", data)):  # fmt: skip
        (tmp_path / "walk" / name).mkdir(parents=True)
        (tmp_path / "walk" / name / f"1{'.png' if name == 'visible' else suffix}").write_bytes(content)
    return tmp_path / "walk"


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg"])
def test_a_folder_of_raw_thermal_images_is_drawn_in_the_style(tmp_path: Path, suffix: str) -> None:
    if suffix == ".jpg":
        pytest.importorskip("flyr", reason="radiometric JPEG needs flyr (the extra `thermal`)")
        data = radiometric_jpeg(RAW, png=False)
    else:
        data = cv2.imencode(suffix, RAW)[1].tobytes()
    folder = folder_of(tmp_path, suffix, data)
    for style in (XStyle(thermal="minmax"), XStyle(thermal="fixed", thermal_range=(3010, 3061))):
        frame = open_sequence(folder, style=style).frame(0)
        expected = thermal_to_image(RAW, style.thermal, style.thermal_range)
        np.testing.assert_array_equal(frame[:, :, 3:], np.repeat(expected[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(open_sequence(folder).raw(0)[1], RAW)


def test_a_checkpoint_keeps_the_style() -> None:
    meta = {"inference": {"thermal_style": "fixed", "thermal_range": [3000.0, 3100.0]}}
    settings = InferenceSettings.from_meta(meta)
    assert settings.rendering == XStyle(thermal="fixed", thermal_range=(3000.0, 3100.0))
    assert InferenceSettings().rendering == XStyle()
