"""Follow one target in your own loop.

python examples/embed_tracker.py NETWORK rgb.mp4 thermal.mp4 120,80,40,60
"""

import sys

import cv2

from tracker import Tracker

network, rgb, x = sys.argv[1], cv2.VideoCapture(sys.argv[2]), cv2.VideoCapture(sys.argv[3])
tracker = Tracker(network, bgr=True)  # OpenCV's images are in BGR order
tracker.init((rgb.read()[1], x.read()[1]), [float(value) for value in sys.argv[4].split(",")])
while (image := rgb.read()[1]) is not None:
    found, box = tracker.update((image, x.read()[1]))
    print("found" if found else "lost", *box.round(2))
