"""A window that shows a tracker at work."""

from __future__ import annotations

import math
import os
import sys
import time
from types import TracebackType
from typing import Any

import numpy as np

from tracker.errors import RGBXError
from tracker.inference.overlay import draw_tracked
from tracker.inference.tracking import Tracked

TITLE = "rgbx"
DPI = 100


class LiveWindow:
    """A window of whatever GUI toolkit there is: pictures appear as they are given, keys stop and pause.

    It is matplotlib's, which finds Qt, GTK, Tk or macOS by itself; the OpenCV that can be installed beside this
    package has no windows. The space bar pauses, q or escape or closing the window ends it. Use it in a ``with``
    statement, which closes it.

    Args:
        title: of the window.
        fps: pictures that come faster than this are passed over, so that drawing does not hold up a fast tracker.

    Attributes:
        open: whether it still is.

    Raises:
        RGBXError: no display, or no GUI toolkit; nothing has been opened.
    """

    def __init__(self, title: str = TITLE, *, fps: float = 25.0) -> None:
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise RGBXError(
                "a window needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set; log in with `ssh -X`, or "
                "write a page (--page) or a video (--overlay mp4) instead"
            )
        import matplotlib.pyplot as plt

        try:
            with plt.rc_context({"toolbar": "None"}):
                figure = plt.figure(title, dpi=DPI, facecolor="black")
        except ImportError as error:
            raise _no_toolkit(str(error)) from error
        # If matplotlib finds no toolkit, it draws into memory and gives no warning.
        if figure.canvas.required_interactive_framework is None:
            plt.close(figure)
            raise _no_toolkit(f"matplotlib fell back to {plt.get_backend()}")
        self._plt = plt
        self._figure = figure
        self._image: Any = None
        self._interval = 1.0 / fps
        self._drawn = -math.inf
        self._paused = False
        self.open = True
        manager = figure.canvas.manager
        if manager is not None and manager.key_press_handler_id is not None:
            # matplotlib's own keys zoom, save and, by q, close; here they mean something else.
            figure.canvas.mpl_disconnect(manager.key_press_handler_id)
        figure.canvas.mpl_connect("key_press_event", self._pressed)
        figure.canvas.mpl_connect("close_event", self._closed)

    @property
    def due(self) -> bool:
        """Whether a picture that is given now would be shown."""
        return self.open and time.monotonic() - self._drawn >= self._interval

    def watch(self, tracked: Tracked) -> bool:
        """Show what was found in a frame: a :data:`tracker.inference.tracking.Watch`.

        Returns:
            Whether the tracking goes on: that of a folder does to its end, that of a video or camera while the window
            is open.
        """
        image = draw_tracked(tracked) if self.due else None
        if image is not None:
            self.show(image)
        return self.open or tracked.source.sequence is not None

    def show(self, picture: np.ndarray) -> bool:
        """Show a picture, (H, W, 3) uint8, as large as the window allows; blocks while paused.

        Returns:
            Whether the window is still open; once it is not, this does nothing.
        """
        if not self.due:
            return self.open
        if self._image is None or self._image.get_size() != picture.shape[:2]:
            self._figure.clear()
            self._figure.set_size_inches(picture.shape[1] / DPI, picture.shape[0] / DPI, forward=True)
            axes = self._figure.add_axes((0, 0, 1, 1))
            axes.set_axis_off()
            self._image = axes.imshow(picture)
            self._plt.show(block=False)
            # The toolkit takes the new size up first, which would blank what was drawn before.
            self._figure.canvas.flush_events()
        else:
            self._image.set_data(picture)
        self._figure.canvas.draw()
        self._figure.canvas.flush_events()
        while self._paused and self.open:
            self._figure.canvas.start_event_loop(0.05)
        self._drawn = time.monotonic()
        return self.open

    def close(self) -> None:
        """Close the window; a second call does nothing."""
        if self.open:
            self._plt.close(self._figure)
            self.open = False

    def __enter__(self) -> LiveWindow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pressed(self, event: Any) -> None:
        if event.key in ("q", "escape"):
            self.close()
        elif event.key == " ":
            self._paused = not self._paused

    def _closed(self, event: Any) -> None:
        self.open = False


def _no_toolkit(reason: str) -> RGBXError:
    return RGBXError(
        f"a window needs a display that can be reached and a GUI toolkit that matplotlib can use ({reason}); install "
        "python3-tk or pyqt6, or write a page (--page) instead"
    )
