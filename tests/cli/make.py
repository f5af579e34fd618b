#!/usr/bin/env python3
"""make.py FOLDER: writes the models and samples, most of them bad, that tests/cli/run.sh feeds to octet. Nothing but Python's own library is needed:
the few protobuf messages are written byte by byte (field numbers of onnx.proto)."""
import glob
import os
import struct
import sys
import zipfile

DIGIT_SHAPE = (1, 1, 8, 8)


# ---- protobuf ----
def varint(n):
    out = b''
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def number(field, n):
    return varint(field << 3) + varint(n)


def text(field, s):
    s = s if isinstance(s, bytes) else s.encode()
    return varint(field << 3 | 2) + varint(len(s)) + s


def node(op, inputs, outputs, *attributes):
    return b''.join([text(1, i) for i in inputs] + [text(2, o) for o in outputs] + [text(3, outputs[0]), text(4, op)] +
                    [text(5, a) for a in attributes])


def value(name, *dims, type=1):
    shape = b''.join(text(1, text(2, d) if isinstance(d, str) else number(1, d)) for d in dims)
    return text(1, name) + text(2, text(1, number(1, type) + text(2, shape)))


def graph(nodes, inputs, outputs, tensors=()):
    return b''.join([text(1, n) for n in nodes] + [text(2, 'g')] + [text(5, t) for t in tensors] + [text(11, i) for i in inputs] +
                    [text(12, o) for o in outputs])


def model(g, opset=17):
    return number(1, 8) + text(7, g) + text(8, number(2, opset))


def external(location, **more):
    fields = {'location': location, **more}
    data = b''.join(text(13, text(1, k) + text(2, v)) for k, v in fields.items())
    return number(1, 4) + number(2, 1) + text(8, 'w') + data + number(14, 1)


def with_weights(tensor):
    return model(graph([node('Add', ['x', 'w'], ['y'])], [value('x', 4)], [value('y', 4)], [tensor]))


def convolution(channels, size):
    """3 x 3 with constant weights, wide enough for minimal filtering."""
    data = b''.join(struct.pack('<f', (i * 37 % 101 - 50) / 500) for i in range(channels * channels * 9))
    w = b''.join(number(1, d) for d in (channels, channels, 3, 3)) + number(2, 1) + text(8, 'w') + text(9, data)
    pads = text(1, 'pads') + b''.join(number(8, 1) for _ in range(4)) + number(20, 7)
    shape = (1, channels, size, size)
    return model(graph([node('Conv', ['x', 'w'], ['y'], pads)], [value('x', *shape)], [value('y', *shape)], [w]))


def uneven(channels):
    """A product behind a norm's factor that makes one channel fifty times as large as the others, with a tenth of the weights."""
    data = b''.join(struct.pack('<f', (i * 37 % 101 - 50) / (5000 if i // channels == 5 else 500)) for i in range(channels * channels))
    w = number(1, channels) + number(1, channels) + number(2, 1) + text(8, 'w') + text(9, data)
    factor = number(1, channels) + number(2, 1) + text(8, 'factor') + text(9, b''.join(struct.pack('<f', 50 if i == 5 else 1) for i in range(channels)))
    nodes = [node('Mul', ['x', 'factor'], ['scaled']), node('MatMul', ['scaled', 'w'], ['y'])]
    return model(graph(nodes, [value('x', 'n', channels)], [value('y', 'n', channels)], [w, factor]))


def counting(words):
    """A language model that says that behind word i comes word i + 1: embeddings, and a product with those of the words before."""
    table = [[1 if (i * 2654435761 ^ k * 40503) * 2246822519 >> 15 & 1 else -1 for k in range(words)] for i in range(words)]
    data = b''.join(struct.pack('<f', table[i][k]) for i in range(words) for k in range(words))
    head = b''.join(struct.pack('<f', table[(i - 1) % words][k] * 10 / words) for k in range(words) for i in range(words))
    tensors = [number(1, words) + number(1, words) + number(2, 1) + text(8, name) + text(9, d) for name, d in (('table', data), ('head', head))]
    nodes = [node('Gather', ['table', 'ids'], ['x']), node('MatMul', ['x', 'head'], ['logits'])]
    return model(graph(nodes, [value('ids', 1, 'n', type=7)], [value('logits', 1, 'n', words)], tensors))


def random_matrix(name, seed, size, factor=0.5):
    """Numbers that look random, in a tensor of a model."""
    data = b''.join(struct.pack('<f', ((i + seed * 7919) * 2654435761 % 4294967291 / 4294967291 - 0.5) * factor) for i in range(size * size))
    return number(1, size) + number(1, size) + number(2, 1) + text(8, name) + text(9, data)


def called(size):
    """A function of the model that is called twice: what is inside has the same names and numbers, and other weights."""
    function = (text(1, 'Dense') + text(4, 'a') + text(4, 'b') + text(5, 'c') + text(7, node('MatMul', ['a', 'b'], ['h'])) +
                text(7, node('Relu', ['h'], ['c'])) + text(9, number(2, 17)) + text(10, 'local'))
    nodes = [node('Dense', [a, w], [y]) + text(7, 'local') for a, w, y in (('x', 'w1', 'p'), ('p', 'w2', 'y'))]
    g = graph(nodes, [value('x', 'n', size)], [value('y', 'n', size)], [random_matrix(f'w{i}', i, size) for i in (1, 2)])
    return model(g) + text(8, text(1, 'local') + number(2, 1)) + text(25, function)


def parallel(size, count):
    """Products of inputs of their own, each smaller than the one before, and their sum."""
    nodes = [node('MatMul', [f'x{i}', f'w{i}'], [f'p{i}']) for i in range(count)] + [node('Sum', [f'p{i}' for i in range(count)], ['y'])]
    tensors = [random_matrix(f'w{i}', i, size, 0.8 ** i) for i in range(count)]
    return model(graph(nodes, [value(f'x{i}', 'n', size) for i in range(count)], [value('y', 'n', size)], tensors))


def masked(size, step):
    """Scores of which every step-th is ruled out."""
    mask = b''.join(struct.pack('<f', float('-inf') if i % step == 0 else 0) for i in range(size))
    nodes = [node('MatMul', ['x', 'w'], ['scores']), node('Add', ['scores', 'mask'], ['y'])]
    tensors = [random_matrix('w', 3, size), number(1, size) + number(2, 1) + text(8, 'mask') + text(9, mask)]
    return model(graph(nodes, [value('x', 'n', size)], [value('y', 'n', size)], tensors))


def branched(size):
    """Branches that an input chooses between, whose values have the same names."""
    def branch(name, w):
        nodes = [node('MatMul', ['x', w], ['h']), node('Relu', ['h'], ['i']), node('MatMul', ['i', w], ['o'])]
        return text(1, name) + text(6, graph(nodes, [], [text(1, 'o')])) + number(20, 5)
    nodes = [node('If', ['c'], ['z'], branch('then_branch', 'w1'), branch('else_branch', 'w2')), node('Relu', ['z'], ['y'])]
    return model(graph(nodes, [value('x', 'n', size), value('c', 1, type=9)], [value('y', 'n', size)], [random_matrix(f'w{i}', i, size) for i in (1, 2)]))


def deep(levels):
    g = graph([node('Relu', ['x'], ['y'])], [], [value('y', 4)])
    for _ in range(levels):
        branches = [text(1, name) + text(6, g) + number(20, 5) for name in ('then_branch', 'else_branch')][:1]
        g = graph([node('If', ['c'], ['y'], *branches)], [], [value('y', 4)])
    return model(g)


# ---- samples ----
def npy(dtype, shape, data):
    head = "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }" % (dtype, ''.join(f'{d},' for d in shape))
    head += ' ' * (-(len(head) + 11) % 64) + '\n'
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head.encode() + data


def floats(shape, v=0.5):
    n = 1
    for d in shape:
        n *= d
    return npy('<f4', shape, struct.pack('<f', v) * n)


def sample(path, **arrays):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with zipfile.ZipFile(path, 'w') as z:
        for name, data in arrays.items():
            z.writestr(name + '.npy', data)


def same_samples(out, folder):
    """The samples of a folder in every other form that a source may have."""
    rows = []
    for path in sorted(glob.glob(f'{folder}/*.npz')):
        with zipfile.ZipFile(path) as z: raw = z.read('image.npy')
        rows.append(raw[10 + int.from_bytes(raw[8:10], 'little'):])
    os.makedirs(f'{out}/same/npy')
    for i, row in enumerate(rows):
        with open(f'{out}/same/npy/{i:02}.npy', 'wb') as f: f.write(npy('<f4', DIGIT_SHAPE, row))
        os.makedirs(f'{out}/same/sets/test_data_set_{i:02}')
        with open(f'{out}/same/sets/test_data_set_{i:02}/input_0.pb', 'wb') as f:
            f.write(b''.join(number(1, d) for d in DIGIT_SHAPE) + number(2, 1) + text(8, 'image') + text(9, row))
    with open(f'{out}/same/stack.npy', 'wb') as f: f.write(npy('<f4', (len(rows),) + DIGIT_SHAPE, b''.join(rows)))
    with open(f'{out}/same/flat.npy', 'wb') as f: f.write(npy('<f4', (len(rows),) + DIGIT_SHAPE[1:], b''.join(rows)))
    sample(f'{out}/same/stack.npz', image=npy('<f4', (len(rows),) + DIGIT_SHAPE, b''.join(rows)))


def main(out, calibration):
    def put(name, data):
        with open(f'{out}/{name}', 'wb') as f:
            f.write(data)

    here = os.path.dirname(os.path.abspath(__file__))
    digits = open(f'{here}/../../samples/digits/digits.onnx', 'rb').read()
    for percent in (1, 10, 50, 90, 99):
        put(f'cut{percent}.onnx', digits[:len(digits) * percent // 100])
    put('bytes.onnx', bytes(range(256)) * 64)
    put('deep.onnx', deep(3000))
    put('missing.onnx', with_weights(external('nowhere.bin')))
    put('outside.onnx', with_weights(external('../../../../../../etc/hostname')))
    put('absolute.onnx', with_weights(external('/etc/hostname')))
    put('short.onnx', with_weights(external('short.bin')))
    put('short.bin', b'1234567')
    put('past.onnx', with_weights(external('short.bin', offset='1000000000000')))
    put('linked.onnx', with_weights(external('linked.bin')))
    os.symlink('/etc/hostname', f'{out}/linked.bin')
    put('huge.onnx', model(graph([node('Add', ['x', 'w'], ['y'])], [value('x', 4)], [value('y', 4)],
                                 [number(1, 1 << 40) + number(1, 1 << 20) + number(2, 1) + text(8, 'w')])))
    put('wide.onnx', convolution(64, 28))
    put('uneven.onnx', uneven(64))
    for i in range(8):
        row = b''.join(struct.pack('<f', ((i * 2111 + k * 7919) % 2003 - 1001) / 1001) for k in range(40 * 64))
        sample(f'{out}/uneven/{i}.npz', x=npy('<f4', (40, 64), row))
        sample(f'{out}/branched/{i}.npz', x=npy('<f4', (40, 64), row), c=npy('|b1', (1,), bytes([i % 2])))
    sample(f'{out}/undecided/00.npz', image=npy('<f4', (1, 1, 8, 8), bytes(4 * 64))) # no digit
    put('parallel.onnx', parallel(64, 6))
    for name, of in (('harder', (1, 0.5)), ('easier', (0.5, 1))): # what the search looks at, and what judges
        for i in range(16):
            rows = [b''.join(struct.pack('<f', of[i % 2] * (((i * 6 + p) * 2111 + k * 7919) % 2003 - 1001) / 1001) for k in range(8 * 64)) for p in range(6)]
            sample(f'{out}/{name}/{i:02}.npz', **{f'x{p}': npy('<f4', (8, 64), row) for p, row in enumerate(rows)})
    put('called.onnx', called(64)), put('branched.onnx', branched(64)), put('masked.onnx', masked(64, 5)), put('ruled_out.onnx', masked(64, 1))
    put('counting.onnx', counting(64))
    for i in range(8):
        for way in (1, -1):
            ids = b''.join(struct.pack('<q', (i * 7 + way * k) % 64) for k in range(48))
            sample(f'{out}/counting{way:+}/{i}.npz', ids=npy('<i8', (1, 48), ids))
    for i in range(4): # more rows than a search looks at
        ids = b''.join(struct.pack('<q', (i * 7 + k) % 64) for k in range(70000))
        sample(f'{out}/counting+long/{i}.npz', ids=npy('<i8', (1, 70000), ids))
    put('newer.onnx', model(graph([node('Relu', ['x'], ['y'])], [value('x', 4)], [value('y', 4)]), opset=999))

    good = floats(DIGIT_SHAPE)
    sample(f'{out}/c-name/0.npz', picture=good)
    sample(f'{out}/c-more/0.npz', image=good, label=good)
    sample(f'{out}/c-rank/0.npz', image=floats((8, 8)))
    sample(f'{out}/c-size/0.npz', image=floats((1, 1, 9, 8)))
    sample(f'{out}/c-type/0.npz', image=npy('<i8', DIGIT_SHAPE, bytes(8 * 64)))
    sample(f'{out}/c-nan/0.npz', image=floats(DIGIT_SHAPE, float('nan')))
    sample(f'{out}/c-short/0.npz', image=good[:-10])
    sample(f'{out}/c-many/0.npz', image=npy('<i8', DIGIT_SHAPE, bytes(8 * 64)), label=good)
    same_samples(out, calibration)
    os.makedirs(f'{out}/c-none')
    os.makedirs(f'{out}/c-text')
    put('c-text/0.npz', b'these are no arrays')
    for n in (3, 64): put(f'labels{n}.npy', npy('<i8', (n,), bytes(8 * n)))
    put('floats.npy', floats((64,)))
    put('ranges-bad.txt', b'conv1\t-1\t1\nconv2 0 1\n')


if __name__ == '__main__':
    main(*sys.argv[1:])
