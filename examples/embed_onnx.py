"""Follow one target without PyTorch: python examples/embed_onnx.py net.onnx rgb.mp4 thermal.mp4 120,80,40,60

The file is made by: rgbx export onnx NETWORK --whole-frames --out net.onnx
"""

import sys

import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
videos = [cv2.VideoCapture(path) for path in sys.argv[2:4]]
side = session.get_inputs()[2].shape[1]
inputs = {"last_box": np.float32(sys.argv[4].split(",")), "template": np.zeros((6, side, side), np.uint8)}


def next_frame():
    """Return a frame (H, W, 6) uint8 with RGB first and X last, or None at the end of a video."""
    images = [video.read()[1] for video in videos]
    ended = any(image is None for image in images)
    return None if ended else np.dstack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images])


inputs["frame"] = next_frame()
(inputs["template"],) = session.run(["crop"], inputs)  # the target in the first frame
while (frame := next_frame()) is not None:
    inputs["frame"] = frame
    inputs["last_box"], score = session.run(["box", "score"], inputs)
    print(f"{score:.4f}", *inputs["last_box"].round(2))
