#!/usr/bin/env python3
"""joins.py [--octet PROGRAM]: operators between codes, code by code.
Each operator of a table stands between QuantizeLinear pairs of u8 and of s8 codes, with scales in simple ratios, so that many results lie on ties. What
ONNX Runtime computes of it, as it sets itself up, and what we compute must be the same codes, but for the part that the table allows. Needs onnx and
onnxruntime; without them it says so and checks nothing."""
import argparse
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError as missing:
    print('skipped: %s' % missing)
    sys.exit(0)

random = np.random.default_rng(5)


class Model:
    """Codes of one type; values have a range, from which their scale and zero point follow."""
    def __init__(self, codes):
        self.codes, self.nodes, self.constants, self.inputs, self.feeds = codes, [], [], [], {}

    def constant(self, value):
        name = f'c{len(self.constants)}'
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op, inputs, **attributes):
        name = f'v{len(self.nodes)}'
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def quantized(self, value, low, high):
        scale = np.float32((high - low) / 255)
        least = np.iinfo(self.codes).min
        pair = [self.constant(scale), self.constant(self.codes(np.clip(np.rint(-low / scale), 0, 255) + least))]
        return self.node('DequantizeLinear', [self.node('QuantizeLinear', [value, *pair]), *pair])

    def values(self, shape, low, high):
        name = f'x{len(self.inputs)}'
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.feeds[name] = random.uniform(low, high, shape).astype(np.float32)
        return self.quantized(name, low, high)

    def weights(self, *shape):  # two products fit into 16 bits, in which ONNX Runtime adds them up on CPUs without VNNI
        codes, scale = self.constant(random.integers(-64, 65, shape).astype(np.int8)), self.constant(np.float32(.007))
        return self.node('DequantizeLinear', [codes, scale, self.constant(np.int8(0))])


def image(m): return m.values([2, 16, 20, 20], -3.1, 4.3)


# What stands between the codes, the range of its result, and how many codes in a thousand may be others: those that a bias in floats puts beside a tie.
TABLE = {
    'Add': (lambda m: m.node('Add', [m.values([64, 500], -2, 2), m.values([64, 500], -2, 2)]), -4, 4, 0),
    'Add, one broadcast': (lambda m: m.node('Add', [m.values([64, 500], -3.1, 4.3), m.values([1, 500], -1, 2)]), -4.2, 6.1, 0),
    'Add, scales in no ratio': (lambda m: m.node('Add', [m.values([256, 500], -125 * .04121948, 130 * .04121948), m.values([256, 500], -142 * .03904352, 113 * .03904352)]), -120 * .05760615319, 135 * .05760615319, 0),
    'Mul': (lambda m: m.node('Mul', [m.values([64, 500], -3.1, 4.3), m.values([64, 500], -1, 2)]), -6.2, 8.6, 0),
    'Mul by a gate': (lambda m: m.node('Mul', [image(m), m.values([2, 16, 1, 1], 0, 255 / 256)]), -3.1, 4.3, 0),
    'Sigmoid': (lambda m: m.node('Sigmoid', [image(m)]), 0, 255 / 256, 0),
    'LeakyRelu': (lambda m: m.node('LeakyRelu', [image(m)], alpha=.1), -.31, 4.3, 0),
    'AveragePool, 2 x 2': (lambda m: m.node('AveragePool', [image(m)], kernel_shape=[2, 2], strides=[2, 2]), -3.1, 4.3, 0),
    'AveragePool, padded': (lambda m: m.node('AveragePool', [image(m)], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), -3.1, 4.3, 0),
    'AveragePool, counting its padding': (lambda m: m.node('AveragePool', [image(m)], kernel_shape=[2, 3], pads=[0, 1, 0, 1], count_include_pad=1), -3.1, 4.3, 0),
    'AveragePool of a sequence': (lambda m: m.node('AveragePool', [m.values([2, 16, 60], -3.1, 4.3)], kernel_shape=[4], strides=[2]), -2, 3, 0),
    'GlobalAveragePool': (lambda m: m.node('GlobalAveragePool', [m.values([20, 64, 8, 8], 0, 6)]), 0, 6, 0),
    'Resize, linear': (lambda m: m.node('Resize', [image(m), '', m.constant(np.float32([1, 1, 2, 2]))], mode='linear'), -3.1, 4.3, 0),
    'Resize, linear, to an odd size': (lambda m: m.node('Resize', [image(m), '', '', m.constant(np.int64([2, 16, 33, 47]))], mode='linear', coordinate_transformation_mode='align_corners'), -3.1, 4.3, 0),
    'Concat': (lambda m: m.node('Concat', [m.values([64, 100], -3.1, 4.3), m.values([64, 200], -1, 2)], axis=1), -3.1, 4.3, 0),
    'Softmax to 256 steps': (lambda m: m.node('Softmax', [m.values([64, 100], -3.1, 4.3)]), 0, 255 / 256, 0),
    'MatMul': (lambda m: m.node('MatMul', [m.values([64, 96], -3.1, 4.3), m.weights(96, 200)]), -20, 20, 0),
    'MatMul of two values': (lambda m: m.node('MatMul', [m.values([4, 64, 96], -3.1, 4.3), m.values([4, 96, 100], -3.1, 4.3)]), -40, 60, 0),
    'Conv': (lambda m: m.node('Conv', [image(m), m.weights(24, 16, 3, 3)], pads=[1, 1, 1, 1]), -20, 20, 0),
    'Conv and Relu': (lambda m: m.node('Relu', [m.node('Conv', [image(m), m.weights(24, 16, 3, 3)])]), 0, 20, 0),
    'Conv, depthwise': (lambda m: m.node('Conv', [image(m), m.weights(16, 1, 3, 3)], group=16), -10, 10, 0),
    'Conv with a bias in floats': (lambda m: m.node('Conv', [image(m), m.weights(24, 16, 3, 3), m.constant(random.standard_normal(24).astype(np.float32))]), -20, 20, 1),
}


def different(octet, codes, build, low, high, folder):
    m = Model(codes)
    result = m.quantized(build(m), low, high)
    graph = helper.make_graph(m.nodes, 'joins', m.inputs, [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)], m.constants)
    path, data, out = (os.path.join(folder, n) for n in ('m.onnx', 'in.npz', 'out.npz'))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8), path)
    np.savez(data, **m.feeds)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    want = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider']).run(None, m.feeds)[0]
    done = subprocess.run([octet, 'run', path, '--input', data, '--output', out], capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    with np.load(out) as made: got = made[result]
    return int((np.abs(got - want) > (high - low) / 510).sum()), want.size


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--octet', default='octet')
    args = p.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for name, (build, low, high, allowed) in TABLE.items():
            for codes in (np.uint8, np.int8):
                n, count = different(args.octet, codes, build, low, high, folder)
                fits = 1000 * n <= allowed * count
                good = good and fits
                print(f'{"ok  " if fits else "FAIL"} {name}, {codes.__name__}: {n} of {count} codes differ')
    sys.exit(0 if good else 1)


main()
