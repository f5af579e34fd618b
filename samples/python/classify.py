#!/usr/bin/env python3
"""classify.py MODEL.onnx IMAGES.npz LABELS.npy [--int8 CALIBRATION]

A program written for onnxruntime.InferenceSession, with its import changed. Needs numpy and liboctet (see README.md)."""
import sys
import time

import numpy as np
import octet as ort  # was: import onnxruntime as ort


def main(model, images, labels, *rest):
    options = {"quantize": "int8", "calibrate": rest[1]} if rest else {}
    session = ort.InferenceSession(model, **options)
    [image], [logits] = session.get_inputs(), session.get_outputs()
    print("input ", image.name, image.type, image.shape)
    print("output", logits.name, logits.type, logits.shape)

    x, y = np.load(images)["image"], np.load(labels)
    [scores] = session.run(None, {"image": x})
    right = int((scores.argmax(1) == y).sum())
    print("first predictions", scores.argmax(1)[:10].tolist(), "are", y[:10].tolist())
    print("%d of %d right, %.2f %%" % (right, len(y), 100 * right / len(y)))

    one, times = x[:1], []
    for _ in range(200):
        start = time.perf_counter()
        session.run(["logits"], {"image": one})
        times.append(time.perf_counter() - start)
    print("one image %.1f us, the call from Python included" % (1e6 * sorted(times)[100]))

    try:
        session.run(None, {"image": x[:, :, :7]})
    except ort.RunError as error:
        print("7 x 8 pixels:", error)
    return 0 if right >= 0.95 * len(y) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
