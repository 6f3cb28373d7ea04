"""The tracker's side of the TraX protocol: frames come as paths, boxes and confidences go back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracker.data.depth import depth_to_image
from tracker.data.sequence import join_halves, read_image
from tracker.errors import RGBXError
from tracker.inference.online import OnlineTracker

X_CHANNELS = ("depth", "ir")
"""What the toolkit calls the channels of X."""


def read_pair(
    color: str, x: str, channel: str = "depth", depth_style: str = "jet", depth_clip: bool = True
) -> np.ndarray:
    """Read RGB and X from two image files: (H, W, 6) uint8.

    Args:
        color: the RGB image.
        x: depth in millimeters, which is rendered, or thermal infrared in 8 bits.
        channel: which of the two, one of :data:`X_CHANNELS`.
        depth_style: see :func:`tracker.data.depth.depth_to_image`.
        depth_clip: likewise.

    Raises:
        RGBXError: one cannot be read, they differ in size, or infrared has other than 8 bits.
    """
    rgb, second = read_image(Path(color)), read_image(Path(x), cv2.IMREAD_UNCHANGED)
    for path, image in ((color, rgb), (x, second)):
        if image is None:
            raise RGBXError(f"{path} is missing or cannot be decoded as an image; restore the file")
    assert rgb is not None
    assert second is not None
    if rgb.shape[:2] != second.shape[:2]:
        raise RGBXError(
            f"{color} is {rgb.shape[1]}x{rgb.shape[0]} but {x} is {second.shape[1]}x{second.shape[0]}; expected "
            "registered images of one size"
        )
    if second.ndim == 3:
        return join_halves(rgb, second[:, :, :3])
    if channel == "depth":
        return join_halves(rgb, depth_to_image(second, depth_style, depth_clip))
    if second.dtype != np.uint8:
        raise RGBXError(f"{x} has {second.dtype} pixels; expected infrared in 8 bits, as the benchmark has it")
    return join_halves(rgb, cv2.cvtColor(second, cv2.COLOR_GRAY2RGB))


def serve(tracker: OnlineTracker, name: str, x: str = "depth") -> None:
    """Answer the toolkit over standard input and output until it says goodbye; depth in the style of the settings.

    The first frame is answered without a confidence, since nothing was predicted there; the others with the score of
    the best cell.

    Args:
        tracker: answers the frames.
        name: of the tracker, for the toolkit.
        x: the channel that is asked for beside ``color``, one of :data:`X_CHANNELS`.

    Raises:
        RGBXError: vot-trax is not installed, or a frame or box cannot be used (the toolkit is told, too).
    """
    trax = _import_trax()
    server = trax.Server([trax.Region.RECTANGLE], [trax.Image.PATH], ["color", x], tracker_name=name)
    try:
        while True:
            request = server.wait()
            if request.type == trax.TraxStatus.QUIT:
                return
            color, second = (request.image[channel].path() for channel in ("color", x))
            frame = read_pair(color, second, x, tracker.settings.depth_style, tracker.settings.depth_clip)
            if request.type == trax.TraxStatus.INITIALIZE:
                box = np.array(request.objects[0][0].bounds(), dtype=np.float64)
                tracker.initialize(frame, box)
                server.status([(trax.Rectangle.create(*box), {})])
            else:
                result = tracker.track(frame)
                properties = {"confidence": f"{result.score:.6g}"}
                server.status([(trax.Rectangle.create(*result.box), properties)])
    except Exception as error:
        server.quit(str(error))
        raise


def _import_trax() -> Any:
    try:
        import trax
    except ImportError as error:
        raise RGBXError("vot-trax is not installed; install it with `pip install srft-kernels[vot]`") from error
    return trax
