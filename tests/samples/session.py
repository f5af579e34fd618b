#!/usr/bin/env python3
"""session.py ARTEFACT IMAGES.npz WANT.npz: the Python module's session gives what `octet run` gave, whatever kind of array it is fed and in
whatever order sizes come, and refuses what does not fit in one clear message."""
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "runtime", "python"))
import octet  # noqa: E402

session = octet.InferenceSession(sys.argv[1], threads=1)
name, images = next(iter(np.load(sys.argv[2]).items()))
want = next(iter(np.load(sys.argv[3]).values()))
one, frozen, wide = images[:1].copy(), images.copy(), np.zeros((*images.shape[:-1], 2 * images.shape[-1]), images.dtype)
frozen.flags.writeable = False
wide[..., ::2] = images
bytes_before = np.empty(images.nbytes + 1, np.uint8)
unaligned = bytes_before[1:].view(images.dtype).reshape(images.shape)
unaligned[...] = images


def results(array):
    return session.run(["logits"], {name: array})[0]


for kind in images, frozen, np.asfortranarray(images), wide[..., ::2], unaligned, memoryview(images):
    assert np.array_equal(results(kind), want), type(kind)
assert np.array_equal(results(one), want[:1]) and np.array_equal(results(images), want)
kept = results(images)
results(np.zeros_like(images))
assert np.array_equal(kept, want), "results of a run are its own"
assert results(images[:0]).shape == (0, 10)


def refused(text, feeds, outputs=None):
    try:
        session.run(outputs, feeds)
    except octet.RunError as e:
        assert text in str(e), e
        return
    raise AssertionError("not refused: " + text)


refused("'image' is missing", {})
refused("no such input: q", {"q": images})
refused("no such input: q", {name: images, "q": images})
refused("'image' is float64, expected float32", {name: images.astype(np.float64)})
refused("has rank 3, expected 4", {name: images[0]})
refused("dimension 3 is 7, expected 8", {name: images[..., :7]})
refused("no such output: q", {name: images}, ["q"])
