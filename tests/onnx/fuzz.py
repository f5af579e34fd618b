#!/usr/bin/env python3
"""fuzz.py FIRST LAST [--octet PROGRAM] [--levels "LEVEL ..."] [--keep FOLDER]: random models, numbered, against ONNX Runtime.

Number N is always the same model, compiled with the same options for one of the levels. Its operators follow and join each other as they come: convolutions, products, attention,
recurrent layers, moves, reductions, updates in place, parts of what another reads. It is compiled as it is (results must agree), with a
precision and options (the signal must stay above the noise), or after some of its values were put between QuantizeLinear pairs and its weights
behind DequantizeLinear of several kinds (both engines compute the same codes, but for those beside a tie). Sizes that may be free are free in some, and runs use others;
one and three threads must give the same bytes. Prints what fails and ends with the totals. Needs numpy, onnx and onnxruntime; without them it says so and checks nothing."""
import os
import random
import subprocess
import sys

import campaign

try:
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError as missing:
    print('skipped: %s' % missing)
    sys.exit(0)

CHANNELS, SIZES = [1, 2, 3, 8, 16, 17, 24, 33, 48, 64], [1, 2, 5, 8, 9, 14, 16, 17, 28]
ACTIVATIONS = ['Relu', 'Sigmoid', 'Tanh', 'HardSwish', 'LeakyRelu', 'Elu', 'Gelu', 'Softplus', 'Mish', 'HardSigmoid']
WEIGHTED = ('Conv', 'ConvTranspose', 'MatMul', 'Gemm')


class Value:
    def __init__(self, name, shape): self.name, self.shape = name, list(shape)


class Model:
    """A graph that grows; axis 0 of its input is the batch, which is free in some."""
    def __init__(self, dice):
        self.dice, self.numbers = dice, np.random.default_rng(dice.randrange(1 << 30))
        self.nodes, self.constants, self.values, self.count = [], {}, [], 0
        self.batch = dice.choice([1, 1, 2, 3])
        rank = dice.choice([2, 3, 3, 4, 4, 4])
        self.shape = [self.batch] + [dice.choice(CHANNELS if i == 1 else SIZES) for i in range(1, rank)]
        self.free = dice.random() < .4
        self.values.append(Value('x', self.shape))

    def constant(self, value, dtype=np.float32):
        name = 'c%d' % len(self.constants)
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weights(self, *shape):
        return self.constant(self.numbers.standard_normal(shape) / max(1, np.prod(shape[1:])) ** .5)

    def node(self, op, inputs, **attributes):
        self.count += 1
        name = '%s_%d' % (op, self.count)
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def add(self, name, shape):
        if np.prod(shape) <= 200000: self.values.append(Value(name, shape))

    def pick(self, fits=lambda v: True):
        """A value; mostly one of the last, so that graphs are deep, but some are read late and by several."""
        have = [v for v in self.values if fits(v)]
        return self.dice.choice(have[-3:] if self.dice.random() < .8 else have) if have else None


# ---- pieces: what a model is made of; each takes a value that suits it ----
def activation(m, v): m.add(m.node(m.dice.choice(ACTIVATIONS), [v.name]), v.shape)


def swish(m, v): m.add(m.node('Mul', [v.name, m.node('Sigmoid', [v.name])]), v.shape)


def convolution(m, v):
    d, c = len(v.shape) - 2, v.shape[1]
    groups = m.dice.choice([g for g in (1, 1, 1, 2, 4, c) if c % g == 0])
    out = groups * m.dice.choice([1, 2]) if groups > 1 else m.dice.choice(CHANNELS)
    taps, stride = [m.dice.choice([1, 2, 3, 3]) for _ in range(d)], [m.dice.choice([1, 1, 2]) for _ in range(d)]
    ahead, behind = [t // 2 for t in taps], [m.dice.choice([t // 2, t // 2 + 1]) for t in taps]
    shape = [v.shape[0], out] + [(n + a + b - t) // s + 1 for n, a, b, t, s in zip(v.shape[2:], ahead, behind, taps, stride)]
    if min(shape) < 1: return
    inputs = [v.name, m.weights(out, c // groups, *taps)] + [m.weights(out)] * m.dice.choice([0, 1])
    m.add(m.node('Conv', inputs, kernel_shape=taps, strides=stride, pads=ahead + behind, group=groups), shape)


def transposed(m, v):
    d, out = len(v.shape) - 2, m.dice.choice(CHANNELS)
    name = m.node('ConvTranspose', [v.name, m.weights(v.shape[1], out, *[2] * d)], kernel_shape=[2] * d, strides=[2] * d)
    m.add(name, [v.shape[0], out] + [2 * n for n in v.shape[2:]])


def product(m, v):
    out = m.dice.choice(CHANNELS)
    name = m.node('MatMul', [v.name, m.constant(m.numbers.standard_normal((v.shape[-1], out)) / v.shape[-1] ** .5)])
    if m.dice.random() < .6: name = m.node('Add', [name, m.weights(out)])
    m.add(name, v.shape[:-1] + [out])


def gemm(m, v):
    out = m.dice.choice(CHANNELS)
    m.add(m.node('Gemm', [v.name, m.weights(out, v.shape[1]), m.weights(out)], transB=1), [v.shape[0], out])


def attention(m, v):
    rows = [m.node('MatMul', [v.name, m.weights(v.shape[-1], v.shape[-1])]) for _ in range(3)]
    scores = m.node('MatMul', [rows[0], m.node('Transpose', [rows[1]], perm=[0, 2, 1])])
    scores = m.node('Softmax', [m.node('Mul', [scores, m.constant(v.shape[-1] ** -.5)])], axis=-1)
    m.add(m.node('Add', [v.name, m.node('MatMul', [scores, rows[2]])]), v.shape)


def recurrent(m, v):
    op, gates = m.dice.choice([('LSTM', 4), ('GRU', 3), ('RNN', 1)])
    size = m.dice.choice([4, 16, 32, 64])
    direction = m.dice.choice(['forward', 'reverse', 'bidirectional'])
    ways = 2 if direction == 'bidirectional' else 1
    weights = [m.constant(m.numbers.standard_normal((ways, gates * size, n)) * .2) for n in (v.shape[-1], size)]
    y = m.node(op, [m.node('Transpose', [v.name], perm=[1, 0, 2]), *weights], hidden_size=size, direction=direction)
    y = m.node('Transpose', [y], perm=[2, 0, 1, 3])
    m.add(m.node('Reshape', [y, m.constant([0, 0, ways * size], np.int64)]), v.shape[:2] + [ways * size])


def normalization(m, v):
    m.add(m.node('LayerNormalization', [v.name, m.constant(m.numbers.uniform(.5, 1.5, v.shape[-1])), m.weights(v.shape[-1])], axis=-1), v.shape)


def softmax(m, v): m.add(m.node('Softmax', [v.name], axis=-1), v.shape)


def sum_of_two(m, v):
    m.add(m.node(m.dice.choice(['Add', 'Sub', 'Mul', 'Max']), [v.name, m.pick(lambda w: w.shape == v.shape).name]), v.shape)


def concatenation(m, v):
    parts = [v] + [m.pick(lambda w: len(w.shape) == len(v.shape) and w.shape[:1] + w.shape[2:] == v.shape[:1] + v.shape[2:]) for _ in range(m.dice.choice([1, 2]))]
    m.add(m.node('Concat', [w.name for w in parts], axis=1), v.shape[:1] + [sum(w.shape[1] for w in parts)] + v.shape[2:])


def move(m, v):
    order = [0] + m.dice.sample(range(1, len(v.shape)), len(v.shape) - 1)
    m.add(m.node('Transpose', [v.name], perm=order), [v.shape[i] for i in order])


def part(m, v):
    axis, first = m.dice.randrange(1, len(v.shape)), m.dice.choice([0, 0, 1])
    if v.shape[axis] < 3: return
    indices = [m.constant([n], np.int64) for n in (first, v.shape[axis] - 1, axis)]
    m.add(m.node('Slice', [v.name, *indices]), [n - 1 - first if i == axis else n for i, n in enumerate(v.shape)])


def update(m, v):
    """Of one channel; others may read what it was."""
    turn = [1, 0] + list(range(2, len(v.shape)))
    at = m.constant([[m.dice.randrange(v.shape[1])]], np.int64)
    new = m.node('ScatterND', [m.node('Transpose', [v.name], perm=turn), at, m.constant(m.numbers.standard_normal([1, v.shape[0]] + v.shape[2:]))])
    m.add(m.node('Transpose', [new], perm=turn), v.shape)


def overwrite(m, v):
    """Of a part of the batch."""
    at = m.constant([[m.dice.randrange(v.shape[0])]], np.int64)
    m.add(m.node('ScatterND', [v.name, at, m.constant(m.numbers.standard_normal([1] + v.shape[1:]))]), v.shape)


def reduction(m, v):
    axis = m.dice.randrange(1, len(v.shape))
    name = m.node(m.dice.choice(['ReduceMean', 'ReduceSum', 'ReduceMax', 'ReduceL2']), [v.name, m.constant([axis], np.int64)], keepdims=1)
    m.add(name, [1 if i == axis else n for i, n in enumerate(v.shape)])


def pool(m, v):
    d = len(v.shape) - 2
    name = m.node(m.dice.choice(['MaxPool', 'AveragePool']), [v.name], kernel_shape=[2] * d, strides=[1] * d)
    m.add(name, v.shape[:2] + [n - 1 for n in v.shape[2:]])


def gate(m, v):
    mean = m.node('GlobalAveragePool', [v.name])
    narrow = m.node('Conv', [mean, m.weights(v.shape[1], v.shape[1], *[1] * (len(v.shape) - 2))])
    m.add(m.node('Mul', [v.name, m.node(m.dice.choice(['Sigmoid', 'HardSigmoid']), [narrow])]), v.shape)


def is_image(v): return len(v.shape) in (3, 4)
def is_large(v): return is_image(v) and min(v.shape[2:]) > 1
def is_sequence(v): return len(v.shape) == 3
def is_matrix(v): return len(v.shape) == 2
def is_any(v): return len(v.shape) > 1


PIECES = [
    (convolution, is_image), (convolution, is_image), (convolution, is_image), (transposed, is_image), (product, is_any), (product, is_any), (gemm, is_matrix),
    (attention, is_sequence), (recurrent, is_sequence), (activation, is_any), (activation, is_any), (swish, is_any), (normalization, is_any), (softmax, is_any),
    (sum_of_two, is_any), (sum_of_two, is_any), (concatenation, is_any), (move, is_any), (part, is_any), (update, is_any), (overwrite, is_any), (reduction, is_any), (pool, is_large), (gate, is_image),
]
FIXED_BATCH = (update, overwrite)  # what needs to know it


# ---- quantized by hand ----
def code_pair(m, low, high, codes):
    """Constants for a QuantizeLinear: a scale and, mostly, a zero point."""
    limits = np.iinfo(codes)
    if limits.min < 0 and m.dice.random() < .6: scale, zero = max(-low, high, 1e-3) / limits.max, 0
    else:
        scale = max(high - low, 1e-3) / (limits.max - limits.min)
        zero = int(np.clip(np.rint(limits.min - low / scale), limits.min, limits.max))
    if m.dice.random() < .2: scale = 2. ** np.ceil(np.log2(scale))
    without = zero == 0 and codes == np.uint8 and m.dice.random() < .3
    return [m.constant(scale)] + ([] if without else [m.constant(zero, codes)])


def weight_codes(m, value, axis):
    """Weights behind a DequantizeLinear: scales of channels or of all, with a zero point, 4 bits, turned, or widened by a Cast."""
    kind = m.dice.choice(['channels', 'channels', 'all', 'unsigned', 'four', 'turned', 'cast'])
    others = tuple(i for i in range(value.ndim) if i != axis)
    if kind in ('turned', 'cast') and value.ndim != 2: kind = 'channels'
    if kind == 'unsigned':
        scale, zero = max(np.abs(value).max(), 1e-3) / 100, m.dice.choice([128, 120, 131])
        codes = m.constant((np.rint(value / scale) + zero).clip(0, 255), np.uint8)
        return m.node('DequantizeLinear', [codes, m.constant(scale), m.constant(zero, np.uint8)])
    most = 7 if kind == 'four' else 127
    scale = np.maximum(np.abs(value).max() if kind == 'all' else np.abs(value).max(others), 1e-3) / most
    along = scale if kind == 'all' else scale.reshape([-1 if i == axis else 1 for i in range(value.ndim)])
    codes = np.rint(value / along).clip(-most - 1, most).astype(np.int8)
    if kind == 'cast': return m.node('Mul', [m.node('Cast', [m.constant(codes, np.int8)], to=TensorProto.FLOAT), m.constant(along)])
    if kind == 'turned':
        turned = m.node('DequantizeLinear', [m.constant(codes.T, np.int8), m.constant(scale)], axis=1 - axis)
        return m.node('Transpose', [turned], perm=[1, 0])
    name = m.constant(codes, np.int8)
    if kind == 'four': m.constants[name] = helper.make_tensor(name, TensorProto.INT4, codes.shape, codes.ravel().tolist())
    return m.node('DequantizeLinear', [name, m.constant(scale)], **({} if kind == 'all' else {'axis': m.dice.choice([axis, axis - value.ndim])}))


def quantize(m, ranges):
    """Puts operands of products, and by chance others, between pairs; pairs of one value are shared, mostly."""
    nodes, pairs = m.nodes, {}
    m.nodes = []
    main = m.dice.choice([np.uint8, np.uint8, np.int8, np.int8, np.uint16, np.int16])
    others = m.dice.choice([0, .3, .8, 1])

    def coded(name):
        if name not in pairs or m.dice.random() < .2:
            pair = code_pair(m, *ranges[name], main if m.dice.random() < .85 else m.dice.choice([np.uint8, np.int8, np.int16]))
            pairs[name] = m.node('DequantizeLinear', [m.node('QuantizeLinear', [name, *pair]), *pair])
        return pairs[name]

    for n in nodes:
        inputs, weighted = list(n.input), n.op_type in WEIGHTED and m.dice.random() < .9
        if weighted or m.dice.random() < others:
            inputs = [coded(i) if i in ranges else i for i in inputs]
        if weighted and inputs[1] in m.constants:
            value = m.constants[inputs[1]]
            inputs[1] = weight_codes(m, value, 1 if n.op_type in ('ConvTranspose', 'MatMul') else 0)
        copy = onnx.NodeProto()
        copy.CopyFrom(n)
        del copy.input[:]
        copy.input.extend(inputs)
        m.nodes.append(copy)


# ---- one model ----
def build(m):
    for _ in range(m.dice.randrange(3, 12)):
        piece, fits = m.dice.choice(PIECES)
        v = m.pick(fits)
        if v and not (m.free and piece in FIXED_BATCH): piece(m, v)


def serialized(m, outputs):
    used = {i for n in m.nodes for i in n.input}
    constants = [c if isinstance(c, onnx.TensorProto) else numpy_helper.from_array(c, n) for n, c in m.constants.items() if n in used]
    batch = ['batch' if m.free else m.batch]
    graph = helper.make_graph(m.nodes, 'random', [helper.make_tensor_value_info('x', TensorProto.FLOAT, batch + m.shape[1:])],
                              [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10).SerializeToString()


def session(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, 4
    return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])


def how_compiled(dice, folder):
    """Options, and the least SQNR in dB; None: results must agree."""
    precision = dice.choice([None, None, None, 'int8', 'int8', 'int4', 'int8-weights', 'fp8', 'fp8-e5m2', 'bf16', 'fp16', '--fp32'])
    if not precision: return [], None
    if precision == '--fp32':
        policy = dice.choice(['bf16', 'bf16x2', 'bf16x3'])
        return ['--fp32', policy], {'bf16': 15, 'bf16x2': 50, 'bf16x3': 70}[policy]
    options = ['--quantize', precision]
    if precision == 'int8' or (precision not in ('bf16', 'fp16') and dice.random() < .5):
        options += ['--calibrate', folder + '/samples']
        if dice.random() < .3: options += ['--weights', dice.choice(['mse', 'seqmse', 'gptq', 'adaround'])]
    if precision not in ('bf16', 'fp16') and dice.random() < .2: options += ['--equalize', 'on']
    return options, {'int8': 12, 'int4': 4, 'int8-weights': 20, 'fp8': 10, 'fp8-e5m2': 5, 'bf16': 15, 'fp16': 35}[precision]


def ranges_of(m, feeds):
    names = [o for n in m.nodes for o in n.output]
    seen = {}
    for f in feeds:
        for name, v in list(zip(names, session(serialized(m, names)).run(names, f))) + list(f.items()):
            low, high = seen.get(name, (0, 0))
            seen[name] = min(low, float(v.min())), max(high, float(v.max()))
    return seen


def sqnr(got, want):
    signal = sum((w.astype(np.float64) ** 2).sum() for w in want)
    noise = sum(((g.astype(np.float64) - w) ** 2).sum() for g, w in zip(got, want))
    return 10 * np.log10(max(signal, 1e-20) / max(noise, 1e-12 * signal, 1e-30))


def run(octet, path, feeds, folder, threads):
    results = []
    for i, f in enumerate(feeds):
        data, out = f'{folder}/in{i}.npz', f'{folder}/out{i}.npz'
        np.savez(data, **f)
        done = subprocess.run([octet, 'run', path, '--input', data, '--output', out, '--threads', str(threads)], capture_output=True, text=True)
        if done.returncode: return done.stderr.strip()
        with np.load(out) as made: results.append([made[n] for n in made.files])
    return results


def compare(octet, levels, number, folder):
    """What is wrong with a model; None: nothing."""
    dice = random.Random(number)
    m = Model(dice)
    build(m)
    if not m.nodes: return None
    read = {i for n in m.nodes for i in n.input}
    outputs = [v.name for v in m.values[1:] if v.name not in read][-3:] or [m.values[-1].name]
    shapes = [m.shape, m.shape, [m.batch + m.free * dice.choice([1, 4])] + m.shape[1:]]
    feeds = [{'x': (m.numbers.standard_normal(s) * 2).astype(np.float32)} for s in shapes]
    os.makedirs(folder + '/samples')
    for i, f in enumerate(feeds): np.savez(f'{folder}/samples/{i}.npz', **f)
    options, least = how_compiled(dice, folder)
    if not options and dice.random() < .5:
        quantize(m, ranges_of(m, feeds))
        least = 15  # one code beside a tie is much of a difference that is nearly nothing
    model, path = serialized(m, outputs), folder + '/model.so'
    with open(folder + '/model.onnx', 'wb') as f: f.write(model)
    want = [session(model).run(outputs, f) for f in feeds]
    command = [octet, 'compile', folder + '/model.onnx', '-o', path, '--quiet', '--target', dice.choice(levels), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode: return ' '.join(command[4:]) + ': ' + done.stderr.strip()
    got = run(octet, path, feeds, folder, 1)
    if isinstance(got, str): return got
    if isinstance(again := run(octet, path, feeds, folder, 3), str): return again
    if any(a.tobytes() != b.tobytes() for x, y in zip(got, again) for a, b in zip(x, y)): return 'three threads give other bytes'
    for o, name in enumerate(outputs):
        g, w = [x[o] for x in got], [x[o] for x in want]
        if [a.shape for a in g] != [a.shape for a in w]: return f'{name} has shapes {[a.shape for a in g]}, expected {[a.shape for a in w]}'
        error = max(np.abs(a - b).max(initial=0) for a, b in zip(g, w)) / max(1e-3, max(np.abs(b).max(initial=0) for b in w))
        if least is None and not error < 3e-4: return f'{" ".join(command[7:])}: {name} is off by {error:g} of the largest'
        if least is not None and not sqnr(g, w) > least: return f'{" ".join(command[7:])}: {name} has {sqnr(g, w):.1f} dB, at least {least} expected'
    return None


if __name__ == '__main__': campaign.main(__doc__, compare)
