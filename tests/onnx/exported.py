#!/usr/bin/env python3
"""exported.py MODEL.onnx Q.onnx INPUTS.npz [LABELS.npy]: a model and what `octet quantize` made of it, in ONNX Runtime.
Q.onnx must pass the checker, have the inputs and outputs of MODEL.onnx, and be near it: where there are labels, as accurate within 0.5 %,
and in any case with a signal at least 20 dB above the difference. Needs onnx and onnxruntime; without them it says so and checks nothing."""
import math
import sys

try:
    import numpy as np
    import onnx
    import onnxruntime
except ImportError as missing:
    print('skipped: %s' % missing)
    sys.exit(0)


def described(values):
    return [(v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]


def run(path, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider']).run(None, feeds)


def main(model, quantized, inputs, labels=None):
    before, after = onnx.load(model), onnx.load(quantized)
    onnx.checker.check_model(quantized, full_check=True)
    assert described(before.graph.input) == described(after.graph.input), 'other inputs'
    assert [o.name for o in before.graph.output] == [o.name for o in after.graph.output], 'other outputs'
    feeds = dict(np.load(inputs))
    want, got = run(model, feeds), run(quantized, feeds)
    for o, a, b in zip(before.graph.output, want, got):
        a, b = a.astype(np.float64), b.astype(np.float64)
        noise = ((a - b) ** 2).sum()
        decibels = 10 * math.log10((a ** 2).sum() / noise) if noise else math.inf
        print('%s: %.1f dB' % (o.name, decibels))
        assert decibels > 20, 'the quantized model computes something else'
    if labels:
        y = np.load(labels)
        scores = [float((o[0].argmax(-1) == y).mean()) for o in (want, got)]
        print('accuracy %.4f, quantized %.4f' % tuple(scores))
        assert scores[1] >= scores[0] * 0.995, 'less accurate'


main(*sys.argv[1:])
