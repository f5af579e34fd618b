#!/usr/bin/env python3
"""branches.py FOLDER: a model whose branches of If need other sizes than each other, with the calls that take each of them.

Writes branches.onnx, call-I.npz and want-I.npz for the calls that fit, and misfit.npz, whose size fits the branch that it does not take; data.onnx, data-I.npz
and results-I.npz, where data decides, and sizes of data with it; and count.onnx, which takes four numbers that are not 0."""
import struct
import sys

from make import graph, model, node, npy, number, sample, text, value

FLOAT, INT64, BOOL = 1, 7, 9


def ints(name, *v):
    return number(1, len(v)) + number(2, INT64) + b''.join(number(7, i & (1 << 64) - 1) for i in v) + text(8, name)


def weights(name, rows, columns):
    data = struct.pack(f'<{rows * columns}f', *(((i * 7) % 5) - 2 for i in range(rows * columns)))
    return number(1, rows) + number(1, columns) + number(2, FLOAT) + text(8, name) + text(9, data)


def weight_rows(rows, columns):
    return [[((r * columns + c) * 7) % 5 - 2 for c in range(columns)] for r in range(rows)]


def branch(name, nodes, output):
    return text(1, name) + text(6, graph(nodes, [], [text(1, output)])) + number(20, 5)


def choose(condition, output, yes, no):
    return node('If', [condition], [output], branch('then_branch', yes, output + '_t'), branch('else_branch', no, output + '_e'))


def product(columns, tag, output):
    return [node('Reshape', ['x', f'shape{columns}'], [f'rows_{tag}']), node('MatMul', [f'rows_{tag}', f'w{columns}'], [output])]


def the_model():
    signed = choose('flag', 'sign', [node('Neg', ['p3'], ['sign_t'])], [node('Abs', ['p3'], ['sign_e'])])
    nodes = [
        node('Equal', ['s', 'two'], ['is_two']),
        choose('is_two', 'y', product(3, 'a', 'p3') + [signed, node('Identity', ['sign'], ['y_t'])],
               product(4, 'b', 'p4') + [node('Sqrt', ['square'], ['root']), node('Add', ['p4', 'root'], ['y_e']), node('Mul', ['p4', 'p4'], ['square'])]),
        choose('flag', 'z', [node('Concat', ['x', 'x'], ['z_t'], text(1, 'axis') + number(3, 0) + number(20, 2))],
               [node('Identity', ['x'], ['z_e'])]),
        node('Relu', ['z'], ['zr']),
    ]
    tensors = [ints('two', 2), ints('shape3', 2, 3), ints('shape4', 2, 4), weights('w3', 3, 4), weights('w4', 4, 4)]
    inputs = [value('x', 'N'), value('s', 1, type=INT64), value('flag', 1, type=BOOL)]
    return model(graph(nodes, inputs, [value('y', 2, 4), value('zr', 'Z')], tensors))


def cast(x, y, to): return node('Cast', [x], [y], text(1, 'to') + number(3, to) + number(20, 2))


def data_model():
    """Where the sum of x is negative: no numbers and all twice; else the places of those that are not 0, and all."""
    places = [node('NonZero', ['x'], ['at']), node('Squeeze', ['at', 'axis'], ['row']), cast('row', 'u_e', FLOAT)]
    twice = [node('Concat', ['x', 'x'], ['v_t'], text(1, 'axis') + number(3, 0) + number(20, 2))]
    nodes = [
        node('ReduceSum', ['x'], ['sum'], text(1, 'keepdims') + number(3, 0) + number(20, 2)), node('Less', ['sum', 'zero'], ['negative']),
        choose('negative', 'u', [node('Identity', ['none'], ['u_t'])], places), choose('negative', 'v', twice, [node('Identity', ['x'], ['v_e'])]),
        node('Relu', ['u'], ['ur']), node('Relu', ['v'], ['vr']),
    ]
    tensors = [number(2, FLOAT) + text(8, 'zero') + text(9, bytes(4)), number(1, 0) + number(2, FLOAT) + text(8, 'none') + text(9, b''), ints('axis', 0)]
    return model(graph(nodes, [value('x', 'N')], [value('ur', 'U'), value('vr', 'V')], tensors))


def count_model():
    nodes = [node('NonZero', ['x'], ['at']), cast('at', 'row', FLOAT), node('MatMul', ['row', 'w'], ['y'])]
    return model(graph(nodes, [value('x', 'N')], [value('y', 1, 2)], [weights('w', 4, 2)]))


def array(shape, v):
    return npy('<f4', shape, struct.pack(f'<{len(v)}f', *v))


def call(path, x, s, flag):
    sample(path, x=array((len(x),), x), s=npy('<i8', (1,), struct.pack('<q', s)), flag=npy('|b1', (1,), bytes([flag])))


def expected(x, s, flag):
    k = 3 if s == 2 else 4
    w = weight_rows(k, 4)
    y = [sum(x[r * k + i] * w[i][c] for i in range(k)) for r in range(2) for c in range(4)]
    y = [(-v if flag else abs(v)) if s == 2 else v + abs(v) for v in y]
    return y, [max(v, 0.0) for v in (x + x if flag else x)]


def main(out):
    with open(f'{out}/branches.onnx', 'wb') as f:
        f.write(the_model())
    for i, (n, s, flag) in enumerate([(6, 2, 1), (8, 7, 1), (6, 2, 0), (8, -2, 0)]):
        x = [(k * 5 % 7) - 3.0 for k in range(n)]
        y, z = expected(x, s, flag)
        call(f'{out}/call-{i}.npz', x, s, flag)
        sample(f'{out}/want-{i}.npz', y=array((2, 4), y), zr=array((len(z),), z))
    call(f'{out}/misfit.npz', [1.0] * 6, 7, 0)
    with open(f'{out}/data.onnx', 'wb') as f:
        f.write(data_model())
    for i, x in enumerate([[1.0, 0, 2, 3], [-5.0, 1, 0, 0, 2], [0.0] * 3, [-1.0]]):
        u = [] if sum(x) < 0 else [float(k) for k, v in enumerate(x) if v]
        v = [max(v, 0.0) for v in (x + x if sum(x) < 0 else x)]
        sample(f'{out}/data-{i}.npz', x=array((len(x),), x))
        sample(f'{out}/results-{i}.npz', ur=array((len(u),), u), vr=array((len(v),), v))
    with open(f'{out}/count.onnx', 'wb') as f:
        f.write(count_model())
    for n in (4, 5):
        sample(f'{out}/count-{n}.npz', x=array((6,), [1.0] * n + [0.0] * (6 - n)))


main(sys.argv[1])
