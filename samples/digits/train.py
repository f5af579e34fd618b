#!/usr/bin/env python3
"""train.py OUT_DIR: trains the digits model of this folder and writes digits.onnx, the calibration samples and the test images.

Needs numpy, onnx and scikit-learn (only for its data set: 1,797 scanned digits of 8 x 8 pixels, UCI ML repository, CC BY 4.0).
A CNN in plain numpy: conv 16 - relu - conv 32 - relu - max pool - fully connected 64 - relu - 10, Adam, seed 0, about a minute.
The last 360 images are the test set; 64 images of the training part are the calibration samples."""
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

F = np.float32


def columns(x):
    """The 3 x 3 neighbourhoods of every pixel, zero padded: [N * H * W, C * 9]."""
    n, c, h, w = x.shape
    p = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    s = p.strides
    return np.lib.stride_tricks.as_strided(p, (n, h, w, c, 3, 3), (s[0], s[2], s[3], s[1], s[2], s[3])).reshape(n * h * w, c * 9)


def images(d, shape):
    """The transpose of columns()."""
    n, c, h, w = shape
    o = np.zeros((n, c, h + 2, w + 2), F)
    d = d.reshape(n, h, w, c, 3, 3)
    for i in range(3):
        for j in range(3):
            o[:, :, i:i + h, j:j + w] += d[..., i, j].transpose(0, 3, 1, 2)
    return o[:, :, 1:-1, 1:-1]


def conv(x, w, b):
    n, _, h, wd = x.shape
    cols = columns(x)
    return (cols @ w.T + b).reshape(n, h, wd, len(w)).transpose(0, 3, 1, 2), cols


def pool(x):
    n, c, h, w = x.shape
    v = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    k = v.argmax(-1)
    return np.take_along_axis(v, k[..., None], -1)[..., 0], k


def unpool(d, k, shape):
    n, c, h, w = shape
    v = np.zeros(d.shape + (4,), F)
    np.put_along_axis(v, k[..., None], d[..., None], -1)
    return v.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(shape)


def forward(p, x):
    a1, c1 = conv(x, p[0], p[1])
    r1 = np.maximum(a1, 0)
    a2, c2 = conv(r1, p[2], p[3])
    r2 = np.maximum(a2, 0)
    p2, k2 = pool(r2)
    f = p2.reshape(len(x), -1)
    a3 = f @ p[4].T + p[5]
    r3 = np.maximum(a3, 0)
    return r3 @ p[6].T + p[7], (a1, c1, r1, a2, c2, r2, p2, k2, f, a3, r3)


def gradients(p, x, y):
    logits, (a1, c1, r1, a2, c2, r2, p2, k2, f, a3, r3) = forward(p, x)
    e = np.exp(logits - logits.max(1, keepdims=True))
    d4 = e / e.sum(1, keepdims=True)
    d4[np.arange(len(x)), y] -= 1
    d4 /= len(x)
    d3 = (d4 @ p[6]) * (a3 > 0)
    d2 = unpool((d3 @ p[4]).reshape(p2.shape), k2, r2.shape) * (a2 > 0)
    m2 = d2.transpose(0, 2, 3, 1).reshape(-1, 32)
    d1 = images(m2 @ p[2], r1.shape) * (a1 > 0)
    m1 = d1.transpose(0, 2, 3, 1).reshape(-1, 16)
    return [m1.T @ c1, m1.sum(0), m2.T @ c2, m2.sum(0), d3.T @ f, d3.sum(0), d4.T @ r3, d4.sum(0)]


def train(x, y, rng):
    he = lambda *s: rng.normal(0, np.sqrt(2 / np.prod(s[1:])), s).astype(F)
    p = [he(16, 9), np.zeros(16, F), he(32, 144), np.zeros(32, F), he(64, 512), np.zeros(64, F), he(10, 64), np.zeros(10, F)]
    m, v, t = [np.zeros_like(a) for a in p], [np.zeros_like(a) for a in p], 0
    for epoch in range(30):
        order, rate = rng.permutation(len(x)), 2e-3 * 0.88 ** epoch
        for b in range(0, len(x), 32):
            k, t = order[b:b + 32], t + 1
            g = gradients(p, np.roll(x[k], rng.integers(-1, 2, 2), (2, 3)), y[k])
            for i in range(8):
                m[i] = 0.9 * m[i] + 0.1 * g[i]
                v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
                p[i] = (p[i] - rate * (m[i] / (1 - 0.9 ** t)) / (np.sqrt(v[i] / (1 - 0.999 ** t)) + 1e-8)).astype(F)
    return p


def model(p):
    shapes = [(16, 1, 3, 3), (16,), (32, 16, 3, 3), (32,), (64, 512), (64,), (10, 64), (10,)]
    names = ['conv1.w', 'conv1.b', 'conv2.w', 'conv2.b', 'fc1.w', 'fc1.b', 'fc2.w', 'fc2.b']
    weights = [numpy_helper.from_array(a.reshape(s), n) for a, s, n in zip(p, shapes, names)]
    node = helper.make_node
    nodes = [node('Conv', ['image', 'conv1.w', 'conv1.b'], ['c1'], 'conv1', pads=[1, 1, 1, 1]),
             node('Relu', ['c1'], ['r1'], 'relu1'),
             node('Conv', ['r1', 'conv2.w', 'conv2.b'], ['c2'], 'conv2', pads=[1, 1, 1, 1]),
             node('Relu', ['c2'], ['r2'], 'relu2'),
             node('MaxPool', ['r2'], ['p2'], 'pool', kernel_shape=[2, 2], strides=[2, 2]),
             node('Flatten', ['p2'], ['f'], 'flatten'),
             node('Gemm', ['f', 'fc1.w', 'fc1.b'], ['a3'], 'fc1', transB=1),
             node('Relu', ['a3'], ['r3'], 'relu3'),
             node('Gemm', ['r3', 'fc2.w', 'fc2.b'], ['logits'], 'fc2', transB=1)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, 'digits', [value('image', TensorProto.FLOAT, ['batch', 1, 8, 8])],
                              [value('logits', TensorProto.FLOAT, ['batch', 10])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8, producer_name='octet samples/digits/train.py')


def main(out):
    data = load_digits()
    x, y = (data.images[:, None] / 16).astype(F), data.target
    rng = np.random.default_rng(0)
    p = train(x[:-360], y[:-360], rng)
    print('test accuracy', (forward(p, x[-360:])[0].argmax(1) == y[-360:]).mean())
    onnx.save(model(p), f'{out}/digits.onnx')
    os.makedirs(f'{out}/calibration', exist_ok=True)
    for i, k in enumerate(rng.permutation(len(x) - 360)[:64]):
        np.savez(f'{out}/calibration/{i:02}.npz', image=x[k:k + 1])
    np.savez(f'{out}/images.npz', image=x[-360:])
    np.save(f'{out}/labels.npy', y[-360:].astype(np.int64))


if __name__ == '__main__':
    main(sys.argv[1])
