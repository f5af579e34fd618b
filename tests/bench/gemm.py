#!/usr/bin/env python3
"""gemm.py DIR [--octet PROGRAM] [--threads N] [--isa LEVEL] [--only TEXT] [--options='--quantize bf16']: matrix products as tiny models, and how fast they run.

Writes the models into DIR, compiles them and prints, per model, the median time and the operations a second (a product and its addition
are two). Every way a product comes into a model: two inputs, a constant right or left side, transposed sides, batches; float32, and bytes
(u8 x i8: MatMulInteger, whose result is i32, and QLinearMatMul, whose result is u8 again). Needs numpy and onnx."""
import argparse
import json
import os
import subprocess

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZES = [(1024, 1024, 1024), (384, 768, 3072), (384, 3072, 768)]
random = np.random.default_rng(0)


def model(nodes, inputs, consts, out, kind):
    """inputs: name -> (type, shape); consts: name -> array; out: shape."""
    graph = helper.make_graph(
        nodes, 'product', [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info('y', kind, out)], [numpy_helper.from_array(a, n) for n, a in consts.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)


def floats(m, k, n):
    """What users write: name -> model, for [m, k] times [k, n]."""
    f = TensorProto.FLOAT
    matrix = lambda *shape: random.standard_normal(shape, np.float32)
    product = lambda: [helper.make_node('MatMul', ['a', 'b'], ['y'])]
    gemm = lambda **how: [helper.make_node('Gemm', ['a', 'b', 'c'], ['y'], **how)]
    c = {'c': matrix(n)}
    yield 'free', model(product(), {'a': (f, [m, k]), 'b': (f, [k, n])}, {}, [m, n], f)
    yield 'weights', model(product(), {'a': (f, [m, k])}, {'b': matrix(k, n)}, [m, n], f)
    yield 'left-weights', model(product(), {'b': (f, [k, n])}, {'a': matrix(m, k)}, [m, n], f)
    yield 'gemm-tb', model(gemm(transB=1), {'a': (f, [m, k])}, {'b': matrix(n, k), **c}, [m, n], f)
    yield 'gemm-ta', model(gemm(transA=1), {'a': (f, [k, m])}, {'b': matrix(k, n), **c}, [m, n], f)
    yield 'gemm-free-tb', model(gemm(transB=1), {'a': (f, [m, k]), 'b': (f, [n, k])}, c, [m, n], f)
    yield 'gemm-free-ta', model(gemm(transA=1), {'a': (f, [k, m]), 'b': (f, [k, n])}, c, [m, n], f)
    yield 'batched', model(product(), {'a': (f, [4, m, k // 4]), 'b': (f, [4, k // 4, n])}, {}, [4, m, n], f)
    yield 'any-rows', model(product(), {'a': (f, ['rows', k])}, {'b': matrix(k, n)}, ['rows', n], f)


def requantized(m, k, n):
    """Codes in, codes out: the result is rounded to 8 bits, as between the layers of a quantized model."""
    scalar = lambda value, kind: np.array(value, kind)
    weights = random.integers(-127, 128, (k, n)).astype(np.int8)
    consts = {'as': scalar(0.01, np.float32), 'az': scalar(128, np.uint8), 'b': weights, 'bs': np.full(n, 0.02, np.float32),
              'bz': np.zeros(n, np.int8), 'ys': scalar(0.02 * k ** 0.5, np.float32), 'yz': scalar(128, np.uint8)}
    node = helper.make_node('QLinearMatMul', ['a', 'as', 'az', 'b', 'bs', 'bz', 'ys', 'yz'], ['y'])
    return model([node], {'a': (TensorProto.UINT8, [m, k])}, consts, [m, n], TensorProto.UINT8)


def integers(m, k, n):
    u, s, i = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
    product = [helper.make_node('MatMulInteger', ['a', 'b'], ['y'])]
    weights = {'b': random.integers(-127, 128, (k, n)).astype(np.int8)}
    yield 'int8-weights', model(product, {'a': (u, [m, k])}, weights, [m, n], i)
    yield 'int8-codes', requantized(m, k, n)
    yield 'int8-free', model(product, {'a': (u, [m, k]), 'b': (s, [k, n])}, {}, [m, n], i)


def measure(args, path, m):
    artefact = path[:-5] + '.so'
    dims = ['--dim', f'rows={m}'] if 'any-rows' in path else []
    subprocess.run([args.octet, 'compile', path, '-o', artefact, '--quiet', *args.options.split()], check=True)
    run = [args.octet, 'bench', artefact, '--json', '--threads', str(args.threads), *dims]
    if args.isa: run += ['--isa', args.isa]
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('dir')
    p.add_argument('--octet', default='octet')
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--isa')
    p.add_argument('--only', default='', help='models whose name contains this')
    p.add_argument('--options', default='', help='for the compiler')
    args = p.parse_args()
    os.makedirs(args.dir, exist_ok=True)
    for m, k, n in SIZES:
        for name, made in [*floats(m, k, n), *integers(m, k, n)]:
            name = f'{m}x{k}x{n}-{name}'
            if args.only not in name: continue
            path = os.path.join(args.dir, name + '.onnx')
            onnx.save(made, path)
            took = measure(args, path, m)['median_ms']
            print(f'{name:32} {took:9.3f} ms {2e-6 * m * k * n / took:8.0f} GOP/s', flush=True)


if __name__ == '__main__':
    main()
