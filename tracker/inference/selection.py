"""The target's box, drawn by hand in a window."""

from __future__ import annotations

import numpy as np

from tracker.errors import RGBXError

NO_WINDOW = "no window can be opened here to draw the target's box in; give it as --init-box x,y,w,h"


def select_box(image: np.ndarray, title: str = "Draw a box around the target, then close the window") -> list[float]:
    """Show ``image`` (H, W, 3) uint8 in a window of matplotlib and answer the drawn box: ``x, y, w, h`` in pixels.

    Raises:
        RGBXError: there is no display, no toolkit for windows, or no box was drawn.
    """
    import matplotlib.pyplot as plt

    try:
        figure, axes = plt.subplots(num=title)
    except ImportError as error:
        raise RGBXError(NO_WINDOW) from error
    try:
        # If matplotlib finds no display or toolkit, it draws into memory and gives no warning.
        if figure.canvas.required_interactive_framework is None:
            raise RGBXError(NO_WINDOW)
        selector = box_selector(axes, image)
        plt.show(block=True)
        return selected(selector)
    finally:
        plt.close(figure)


def box_selector(axes: object, image: np.ndarray) -> object:
    """Show the image in ``axes`` and let a rectangle be drawn over it."""
    from matplotlib.axes import Axes
    from matplotlib.widgets import RectangleSelector

    assert isinstance(axes, Axes)
    height, width = image.shape[:2]
    # Pixel i covers [i, i + 1), as everywhere in this package.
    axes.imshow(image, extent=(0, width, height, 0))
    axes.set_axis_off()
    return RectangleSelector(axes, lambda *_: None, useblit=True, interactive=True)


def selected(selector: object) -> list[float]:
    """Return the box of a selector.

    Raises:
        RGBXError: nothing was drawn.
    """
    from matplotlib.widgets import RectangleSelector

    assert isinstance(selector, RectangleSelector)
    left, right, top, bottom = (float(value) for value in selector.extents)
    if right - left < 1 or bottom - top < 1:
        raise RGBXError("no box was drawn around the target; draw one with the mouse before the window is closed")
    return [left, top, right - left, bottom - top]
