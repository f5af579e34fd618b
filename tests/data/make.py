#!/usr/bin/env python3
"""make.py: writes the small models of this folder that the golden tests use. They are committed; run this after a change.
Needs: onnx, numpy."""
import os

import numpy as np
import onnx
from onnx import TensorProto as T, helper as h, numpy_helper as nh

HERE = os.path.dirname(os.path.abspath(__file__))


def save(name, nodes, inputs, outputs, initializers=(), opset=17, ir=8, functions=(), domains=()):
    graph = h.make_graph(nodes, name, inputs, outputs, initializer=list(initializers))
    opsets = [h.make_opsetid('', opset)] + [h.make_opsetid(d, v) for d, v in domains]
    model = h.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions), producer_name='')
    open(os.path.join(HERE, name + '.onnx'), 'wb').write(model.SerializeToString())


def f32(name, *dims):
    return h.make_tensor_value_info(name, T.FLOAT, dims)


def value(name, data):
    return nh.from_array(np.asarray(data), name)


n = h.make_node
x, y = f32('x', 'N', 4), f32('y', 'N', 4)
branch = lambda op: h.make_graph([n(op, ['x'], ['r'], name='in_' + op)], 'b', [], [f32('r', 'N', 4)])

save('relu', [n('Relu', ['x'], ['y'], name='act')], [x], [y])
save('mlp', [n('Gemm', ['x', 'w', 'b'], ['h'], name='fc'), n('Relu', ['h'], ['y'], name='act')], [x], [f32('y', 'N', 2)],
     [value('w', (np.arange(8).reshape(4, 2) / 8).astype(np.float32)), value('b', np.array([1, -1], np.float32))])
save('blockers', [n('Mystery', ['x'], ['a'], name='one'), n('Neg', ['a'], ['b']), n('Mystery', ['b'], ['c'], name='two'),
                  n('TreeEnsemble', ['c'], ['d'], name='tree', domain='ai.onnx.ml'), n('SequenceConstruct', ['d'], ['s'], name='seq'),
                  n('SequenceAt', ['s', 'i'], ['y'], name='at')], [x, h.make_tensor_value_info('i', T.INT64, [])], [y],
     domains=[('ai.onnx.ml', 5)])
save('nonzero', [n('NonZero', ['x'], ['at']), n('Transpose', ['at'], ['rows']), n('GatherND', ['x', 'rows'], ['some']), n('NonZero', ['some'], ['y'])], [x],
     [h.make_tensor_value_info('y', T.INT64, [1, 'count'])])
save('cycle', [n('Add', ['x', 'b'], ['a'], name='first'), n('Neg', ['a'], ['b'], name='second')], [x], [f32('b', 'N', 4)])
save('undefined', [n('Add', ['x', 'ghost'], ['y'], name='sum')], [x], [y])
save('twice', [n('Neg', ['x'], ['y'], name='first'), n('Abs', ['x'], ['y'], name='second')], [x], [y])
save('attributes', [n('Softmax', ['x'], ['a'], name='soft', axis=1.5), n('Relu', ['a'], ['y'], name='act', colour=3)], [x], [y])
save('shapes', [n('MatMul', ['x', 'w'], ['y'], name='mm')], [f32('x', 2, 4)], [f32('y', 2, 4)], [value('w', np.zeros((3, 4), np.float32))])
save('unknown_if', [n('If', ['c'], ['y'], name='choose', then_branch=branch('Neg'), else_branch=branch('Mystery'))],
     [x, h.make_tensor_value_info('c', T.BOOL, [])], [y])
save('opset', [n('Relu', ['x'], ['y'])], [x], [y], opset=99)
save('ir', [n('Relu', ['x'], ['y'])], [x], [y], ir=99)
short = value('w', np.zeros(4, np.float32))
short.raw_data = short.raw_data[:-3]
save('short_weights', [n('Add', ['x', 'w'], ['y'])], [x], [y], [short])
outside = T(name='w', data_type=T.FLOAT, dims=[4], data_location=T.EXTERNAL)
outside.external_data.add(key='location', value='../secret.bin')
save('outside', [n('Add', ['x', 'w'], ['y'])], [x], [y], [outside])
save('loop', [n('Loop', ['m', 'c', 'x'], ['y'], name='again', body=h.make_graph(
    [n('Identity', ['ci'], ['co']), n('Neg', ['xi'], ['xo'])], 'body',
    [h.make_tensor_value_info('it', T.INT64, []), h.make_tensor_value_info('ci', T.BOOL, []), f32('xi', 'N', 4)],
    [h.make_tensor_value_info('co', T.BOOL, []), f32('xo', 'N', 4)]))],
     [x, h.make_tensor_value_info('m', T.INT64, []), h.make_tensor_value_info('c', T.BOOL, [])], [y])
open(os.path.join(HERE, 'garbage.onnx'), 'wb').write(b'not a protobuf at all')
open(os.path.join(HERE, 'empty.onnx'), 'wb').write(b'')
