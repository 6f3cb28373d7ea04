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

CHANNELS = ("color", "depth")


def read_rgbd(color: str, depth: str, depth_style: str = "jet", depth_clip: bool = True) -> np.ndarray:
    """(H, W, 6) uint8, RGB and rendered depth, from two image files.

    Raises:
        RGBXError: one cannot be read, or they differ in size.
    """
    rgb, millimeters = read_image(Path(color)), read_image(Path(depth), cv2.IMREAD_UNCHANGED)
    for path, image in ((color, rgb), (depth, millimeters)):
        if image is None:
            raise RGBXError(f"{path} is missing or cannot be decoded as an image; restore the file")
    assert rgb is not None
    assert millimeters is not None
    if rgb.shape[:2] != millimeters.shape[:2]:
        raise RGBXError(
            f"{color} is {rgb.shape[1]}x{rgb.shape[0]} but {depth} is {millimeters.shape[1]}x{millimeters.shape[0]}; "
            "expected registered images of one size"
        )
    x = depth_to_image(millimeters, depth_style, depth_clip) if millimeters.ndim == 2 else millimeters[:, :, :3]
    return join_halves(rgb, x)


def serve(tracker: OnlineTracker, name: str) -> None:
    """Answer the toolkit over standard input and output until it says goodbye; depth in the style of the settings.

    The first frame is answered without a confidence, since nothing was predicted there; the others with the score of
    the best cell.

    Raises:
        RGBXError: vot-trax is not installed, or a frame or box cannot be used (the toolkit is told, too).
    """
    trax = _import_trax()
    server = trax.Server([trax.Region.RECTANGLE], [trax.Image.PATH], list(CHANNELS), tracker_name=name)
    try:
        while True:
            request = server.wait()
            if request.type == trax.TraxStatus.QUIT:
                return
            color, depth = (request.image[channel].path() for channel in ("color", "depth"))
            frame = read_rgbd(color, depth, tracker.settings.depth_style, tracker.settings.depth_clip)
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
