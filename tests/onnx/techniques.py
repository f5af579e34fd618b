#!/usr/bin/env python3
"""techniques.py [--octet PROGRAM] [--show]: what `octet quantize` writes when values are smoothed, 16 bits wide, equalized or rotated, and
when weights alone have 8 bits.
Small models that each technique applies to are made, written as ONNX and compiled, with the same ranges. ONNX Runtime, as it sets itself up, must
compute from the file what the artefact computes: noise at least 70 dB below, where 8 bits leave 20 to 50. Needs onnx and onnxruntime;
without them it says so and checks nothing."""
import argparse
import math
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

ROWS, CHANNELS, INNER, WORDS = 24, 64, 256, 97
LEAST_DB = 70
random = np.random.default_rng(5)


def weights(*shape): return (random.standard_normal(shape) / math.sqrt(shape[0])).astype(np.float32)


def saved(path, nodes, inputs, constants):
    graph = helper.make_graph(nodes, 'g', inputs, [helper.make_tensor_value_info('y', TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(v, k) for k, v in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8), path)


def products(path):
    """Two products, the first behind a factor that makes one channel a hundred times as large."""
    factor = np.ones(CHANNELS, np.float32)
    factor[5] = 100
    saved(path, [helper.make_node('Mul', ['x', 'factor'], ['scaled']), helper.make_node('MatMul', ['scaled', 'up'], ['u']), helper.make_node('Tanh', ['u'], ['h']),
                 helper.make_node('MatMul', ['h', 'down'], ['y'])],
          [helper.make_tensor_value_info('x', TensorProto.FLOAT, ['n', CHANNELS])],
          {'factor': factor, 'up': weights(CHANNELS, INNER), 'down': weights(INNER, CHANNELS)})
    return lambda: {'x': random.standard_normal((ROWS, CHANNELS)).astype(np.float32)}


def convolutions(path):
    """Two convolutions with a bound between them that keeps factors, and channels of very different size."""
    spread = np.exp(random.standard_normal(32)).astype(np.float32)
    first = weights(32, 16, 3, 3) * spread[:, None, None, None]
    saved(path, [helper.make_node('Conv', ['x', 'first', 'bias'], ['a'], pads=[1] * 4), helper.make_node('Relu', ['a'], ['b']),
                 helper.make_node('Conv', ['b', 'second'], ['y'], pads=[1] * 4)],
          [helper.make_tensor_value_info('x', TensorProto.FLOAT, ['n', 16, 10, 10])],
          {'first': first, 'bias': spread, 'second': weights(32, 32, 3, 3)})
    return lambda: {'x': random.standard_normal((1, 16, 10, 10)).astype(np.float32)}


def windows(path):
    """A depthwise convolution between two that are not."""
    first, window = weights(128, 16, 1, 1), weights(128, 1, 5, 5) * np.exp(random.standard_normal(128)).astype(np.float32)[:, None, None, None] / 5
    saved(path, [helper.make_node('Conv', ['x', 'first'], ['a']), helper.make_node('Relu', ['a'], ['b']),
                 helper.make_node('Conv', ['b', 'window', 'bias'], ['c'], name='window', group=128, pads=[2] * 4), helper.make_node('Relu', ['c'], ['d']),
                 helper.make_node('Conv', ['d', 'second'], ['y'])],
          [helper.make_tensor_value_info('x', TensorProto.FLOAT, ['n', 16, 12, 12])],
          {'first': first, 'window': window, 'bias': weights(128), 'second': weights(32, 128, 1, 1)})
    return lambda: {'x': random.standard_normal((1, 16, 12, 12)).astype(np.float32)}


def stream(path):
    """Words, two blocks between RMS norms, and a head."""
    nodes, constants = [], {'table': weights(WORDS, CHANNELS), 'eps': np.float32(1e-5), 'head': weights(CHANNELS, WORDS)}
    constants['table'][:, 7] *= 40
    def node(op, *inputs, output=None):
        nodes.append(helper.make_node(op, list(inputs), [output or f'v{len(nodes)}']))
        return nodes[-1].output[0]
    def norm(x, gain):
        constants[gain] = np.exp(random.standard_normal(CHANNELS) / 2).astype(np.float32)
        nodes.append(helper.make_node('ReduceMean', [node('Mul', x, x)], [gain + '_mean'], axes=[-1]))
        return node('Mul', node('Div', x, node('Sqrt', node('Add', gain + '_mean', 'eps'))), gain)
    x = node('Gather', 'table', 'words')
    def product(y, name, *shape):
        constants[name] = weights(*shape)
        return node('MatMul', y, name)
    for i in '01':
        y = norm(x, 'gain' + i)
        gated = node('Mul', product(y, 'up' + i, CHANNELS, INNER), node('Sigmoid', product(y, 'gate' + i, CHANNELS, INNER)))
        x = node('Add', x, product(gated, 'down' + i, INNER, CHANNELS))
    node('MatMul', norm(x, 'gain'), 'head', output='y')
    saved(path, nodes, [helper.make_tensor_value_info('words', TensorProto.INT64, ['n'])], constants)
    return lambda: {'words': random.integers(0, WORDS, ROWS)}


# A model, flags, flags of which the file must be another one, and what the summary says.
CASES = [(products, [], ['--smooth', 'off'], 'smoothed channels'), (products, ['--smooth', 'off'], ['--smooth', 'off', '--wide', 'off'], '16 bits'),
         (products, ['--smooth', 'off', '--wide', 'off'], [], ''), (convolutions, ['--equalize', 'on'], ['--equalize', 'off'], ''),
         (convolutions, ['--equalize', 'off'], ['--equalize', 'on'], ''), (stream, ['--rotate', 'on', '--smooth', 'off'], ['--rotate', 'off', '--smooth', 'off'], ''),
         (stream, [], ['--smooth', 'off', '--wide', 'off', '--rotate', 'on'], ''),
         (windows, [], ['--keep', 'window'], 'the weights of 1 others are 8-bit integers')]


def octet(args, *command):
    done = subprocess.run([args.octet, *command], capture_output=True, text=True)
    if done.returncode: sys.exit('%s: %s' % (' '.join(command), done.stderr))
    return done.stdout + done.stderr


def decibels(a, b):
    noise = ((a.astype(np.float64) - b) ** 2).sum()
    return 10 * math.log10((a.astype(np.float64) ** 2).sum() / noise) if noise else math.inf


def content(path):
    with open(path, 'rb') as f: return f.read()


def check(args, folder, make, flags, other, says):
    model, written, artefact, ranges = (f'{folder}/{n}' for n in ('m.onnx', 'q.onnx', 'm.so', 'r.txt'))
    sample = make(model)
    os.makedirs(f'{folder}/samples')
    for i in range(16): np.savez(f'{folder}/samples/{i:02}.npz', **sample())
    feeds = sample()
    np.savez(f'{folder}/in.npz', **feeds)
    said = octet(args, 'quantize', model, '-o', written, '--calibrate', f'{folder}/samples', '--save-ranges', ranges, *flags)
    octet(args, 'compile', model, '-o', artefact, '--quiet', '--quantize', 'int8', '--ranges', ranges, *flags)
    octet(args, 'run', artefact, '--input', f'{folder}/in.npz', '--output', f'{folder}/out.npz')
    octet(args, 'quantize', model, '-o', f'{folder}/other.onnx', '--quiet', '--calibrate', f'{folder}/samples', *other)
    onnx.checker.check_model(written, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    def run(path): return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider']).run(None, feeds)[0]
    ours, theirs, exact = np.load(f'{folder}/out.npz')['y'], run(written), run(model)
    near, loss, name = decibels(ours, theirs), decibels(exact, theirs), ' '.join([make.__name__, *flags])
    print('%-40s file and artefact %.1f dB, float and file %.1f dB' % (name, near, loss))
    if args.show: print(said)
    if content(written) == content(f'{folder}/other.onnx'): sys.exit('%s: the technique did nothing' % name)
    if near < LEAST_DB: sys.exit('%s: ONNX Runtime computes something else of the file than the artefact does' % name)
    if says not in said: sys.exit('%s: the summary does not say "%s"' % (name, says))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--octet', default='octet')
    p.add_argument('--show', action='store_true', help='the summaries')
    args = p.parse_args()
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder: check(args, folder, *case)


main()
