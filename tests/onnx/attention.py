#!/usr/bin/env python3
"""attention.py FIRST LAST [--octet PROGRAM] [--levels "LEVEL ..."] [--keep FOLDER]: com.microsoft's operators of language models, beside ONNX Runtime.

Number N is always the same node: Attention, QAttention, MultiHeadAttention, GroupQueryAttention, RotaryEmbedding, QEmbedLayerNormalization or MatMulNBits, with masks, pasts, biases and packed
operands by chance, or attention of ai.onnx's operators. A whole language model of two layers is the last check: a prompt, steps with its cache, several entries. Prints what fails and ends with the totals.
Needs numpy, onnx and onnxruntime; without them it says so and checks nothing."""
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

MICROSOFT = 'com.microsoft'


class Case:
    """Inputs, constants and nodes of one model; feeds are what it is run with."""
    def __init__(self, number):
        self.dice, self.numbers = random.Random(number), np.random.default_rng(number)
        self.constants, self.feeds, self.sizes, self.nodes, self.outputs = [], [{}], {}, [], ['y']
        self.kept = self.kept_cache = None  # rows of results, of caches
        self.reference = None  # nodes that mean the same, for ONNX Runtime

    def normal(self, *shape): return self.numbers.standard_normal(shape).astype(np.float32)
    def chance(self, p): return self.dice.random() < p

    def constant(self, value, dtype=np.float32):
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), 'c%d' % len(self.constants)))
        return self.constants[-1].name

    def input(self, name, value, sizes=None):
        self.feeds[0][name], self.sizes[name] = value, sizes or list(value.shape)
        return name

    def node(self, op, inputs, outputs=None, domain=MICROSOFT, **attributes):
        outputs = outputs or ['%s_%d' % (op, len(self.nodes))]
        self.nodes.append(helper.make_node(op, inputs, outputs, '%s_%d' % (op, len(self.nodes)), domain=domain, **attributes))
        return outputs[0]

    def session(self, model):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level, options.log_severity_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, 4
        return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])

    def serialized(self, nodes):
        kinds = [(n, helper.np_dtype_to_tensor_dtype(v.dtype), self.sizes[n]) for n, v in self.feeds[0].items()]
        graph = helper.make_graph(nodes, 'attention', [helper.make_tensor_value_info(*k) for k in kinds],
                                  [helper.make_tensor_value_info(o, TensorProto.INT32 if o == 'counts' else TensorProto.FLOAT, None) for o in self.outputs], self.constants)
        opsets = [helper.make_opsetid('', 21), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def mask(c, batch, length, total, kinds):
    """Lengths, ends and starts (each entry sees a key), keys, or keys for every query; '' for none."""
    kind = c.dice.choice(kinds)
    draw = lambda *shape: (c.numbers.random(shape) < .8).astype(np.int32)
    if kind == 'lengths': return c.input('mask', c.numbers.integers(1, total + 1, batch).astype(np.int32))
    if kind == 'ends': return c.input('mask', np.concatenate([c.numbers.integers(total // 2 + 1, total + 1, batch), c.numbers.integers(0, total // 2 + 1, batch)]).astype(np.int32))
    if kind == 'keys': return c.input('mask', draw(batch, total))
    if kind == 'scores': return c.input('mask', draw(batch, length, total))
    return ''


def scale(c): return {'scale': .3} if c.chance(.3) else {}


def packed(c, quantized):
    """Attention and QAttention: one product makes queries, keys and values."""
    batch, length, heads, width, past = c.dice.choice([1, 2, 3]), c.dice.choice([1, 2, 8, 17, 40]), c.dice.choice([1, 2, 4]), c.dice.choice([8, 16, 32]), c.dice.choice([0, 0, 3])
    columns, inner = heads * width, c.dice.choice([24, heads * width])
    values = columns if past or quantized or c.chance(.7) else 16 * heads
    more = {'unidirectional': c.dice.choice([0, 1]), 'num_heads': heads, **scale(c)}
    before = lambda: c.input('past', c.normal(2, batch, heads, past, width)) if past else ''
    if past: c.outputs.append('present')
    masked = lambda: mask(c, batch, length, length + past, ['none', 'lengths', 'ends', 'keys', 'scores'])
    if not quantized:
        x = c.input('x', c.normal(batch, length, inner))
        inputs = [x, c.constant(c.normal(inner, 2 * columns + values) * inner ** -.5), c.constant(c.normal(2 * columns + values)), masked(), before()]
        inputs.append(c.input('bias', c.normal(c.dice.choice([1, batch]), c.dice.choice([1, heads]), length, length)) if not past and c.chance(.3) else '')
        if values != columns: more['qkv_hidden_sizes'] = [columns, columns, values]
        c.node('Attention', inputs, c.outputs, **more)
        return
    each, signed = c.chance(.5), c.chance(.5)
    x = c.input('x', c.numbers.integers(0, 255, (batch, length, inner)).astype(np.uint8))
    codes = c.constant(c.numbers.integers(-100, 100, (inner, 3 * columns)) + (0 if signed else 128), np.int8 if signed else np.uint8)
    zero = '' if signed and c.chance(.5) else c.constant(np.full(3 * columns if each else (), 0 if signed else 128), np.int8 if signed else np.uint8)
    steps = c.constant(c.numbers.uniform(.001, .004, 3 * columns) if each else .003)
    c.node('QAttention', [x, codes, c.constant(c.normal(3 * columns)), c.constant(.02), steps, masked(), c.constant(c.dice.choice([0, 120]), np.uint8), zero, before()], c.outputs, **more)


def multi(c):
    batch, length, heads, width = c.dice.choice([1, 2, 3]), c.dice.choice([1, 2, 8, 17, 40]), c.dice.choice([1, 2, 4]), c.dice.choice([8, 16, 32])
    four, past = c.chance(.25), c.dice.choice([0, 0, 3])
    if four: past = 0
    keys = length if past or c.chance(.6) else c.dice.choice([1, 4, 9])
    deep = width if past or four or c.chance(.7) else 16
    total = keys + past
    q = c.input('q', c.normal(batch, length, heads * width))
    k = c.input('k', c.normal(batch, heads, keys, width) if four else c.normal(batch, keys, heads * width))
    v = c.input('v', c.normal(batch, heads, keys, deep) if four else c.normal(batch, keys, heads * deep))
    inputs = [q, k, v, c.constant(c.normal(heads * (2 * width + deep))) if not four and c.chance(.5) else '']
    inputs.append(mask(c, batch, length, total, ['none', 'lengths', 'keys', 'scores']))
    inputs.append(c.input('added', c.normal(c.dice.choice([1, batch]), c.dice.choice([1, heads]), length, total)) if c.chance(.3) else '')
    if past: inputs += [c.input('past_k', c.normal(batch, heads, past, width)), c.input('past_v', c.normal(batch, heads, past, deep))]
    causal = c.chance(.5) and keys == length
    if past or (not four and c.chance(.3)): c.outputs += ['present_k', 'present_v'] + ['qk'] * (not causal and c.chance(.4))
    c.node('MultiHeadAttention', inputs, c.outputs, num_heads=heads, unidirectional=int(causal), **scale(c))


def head_norms(c, inputs, more, heads, width):
    """Queries and keys normalized head by head; ONNX Runtime has no such kernel for CPUs and is given the norms apart."""
    weights = [c.constant(1 + .2 * c.normal(width)) for _ in 'qk']
    epsilon = {n: .1 for n in ('qk_norm_epsilon', 'q_norm_epsilon', 'k_norm_epsilon') if c.chance(.3)}
    c.node('GroupQueryAttention', inputs + ['', ''] + weights, c.outputs, **epsilon, **more)
    whole, c.nodes = c.nodes, []
    parts = inputs[:3]
    if not inputs[1]:
        parts = ['part_' + n for n in 'qkv']
        c.node('Split', [inputs[0], c.constant([heads[0] * width, heads[1] * width, heads[1] * width], np.int64)], parts, domain='', axis=2)
    for i, n in enumerate('qk'):
        rows = c.node('Reshape', [parts[i], c.constant([0, 0, heads[i], width], np.int64)], domain='')
        rows = c.node('SimplifiedLayerNormalization', [rows, weights[i]], domain='', axis=-1, epsilon=epsilon.get(n + '_norm_epsilon', epsilon.get('qk_norm_epsilon', 1e-6)))
        parts[i] = c.node('Reshape', [rows, c.constant([0, 0, heads[i] * width], np.int64)], domain='')
    c.node('GroupQueryAttention', parts + inputs[3:], c.outputs, **more)
    c.nodes, c.reference = whole, c.nodes


def group(c):
    heads, width, step = c.dice.choice([1, 2, 4]), c.dice.choice([16, 32]), c.dice.choice(['prompt', 'token', 'more'])
    shared = c.dice.choice([n for n in (1, 2, 4) if heads % n == 0])
    batch = 1 if step == 'more' else c.dice.choice([1, 2, 3])
    past, length = 0 if step == 'prompt' else c.dice.choice([3, 9]), 1 if step == 'token' else c.dice.choice([1, 2, 8, 17, 40])
    total = past + length
    lengths = np.full(batch, total)
    if step != 'more' and c.chance(.4): lengths[1:] = c.numbers.integers(1, total + 1, batch - 1)
    if c.chance(.3): inputs = [c.input('q', c.normal(batch, length, (heads + 2 * shared) * width)), '', '']
    else: inputs = [c.input('q', c.normal(batch, length, heads * width))] + [c.input(n, c.normal(batch, length, shared * width)) for n in 'kv']
    more = {'local_window_size': c.dice.choice([2, 4])} if c.chance(.4) else {}
    room = more['local_window_size'] + c.dice.choice([0, 1, 3]) if more and c.chance(.6) else 0  # of a cache that is a window
    rows = room or past
    inputs += [c.input('past_' + n, c.normal(batch, shared, rows, width)) if rows else '' for n in 'kv']
    inputs += [c.input('lengths', (lengths - 1).astype(np.int32)), c.constant([total], np.int32)]
    turned = c.dice.choice([0, width // 2, width // 2, 8])
    angles = c.numbers.uniform(0, 6, (64, turned))
    inputs += [c.constant(np.cos(angles)), c.constant(np.sin(angles))] if turned else ['', '']
    inputs += ['', c.input('added', c.normal(c.dice.choice([1, batch]), c.dice.choice([1, heads]), length, total)) if c.chance(.3) and not room else '']
    if c.chance(.2): more['softcap'] = 5.
    if step == 'prompt': c.kept = c.kept_cache = lengths  # rows behind an entry's length are anything
    if room:
        more['sliding_window_cache'] = 1
        slack = room - more['local_window_size'] + 1
        c.kept_cache = [n - slack * max(0, -((room - n) // slack)) for n in lengths]
    sink = c.dice.choice(['', '', 'smooth', 'head'])
    if sink == 'smooth': more['smooth_softmax'] = 1
    inputs.append(c.constant(c.normal(heads)) if sink == 'head' else '')
    c.outputs += ['present_k', 'present_v']
    more.update(num_heads=heads, kv_num_heads=shared, do_rotary=int(turned > 0), rotary_interleaved=c.dice.choice([0, 1]), **scale(c))
    if c.chance(.3): head_norms(c, inputs, more, (heads, shared), width)
    else: c.node('GroupQueryAttention', inputs, c.outputs, **more)


def rotary(c):
    batch, length, heads, width, four, partial = c.dice.choice([1, 2, 3]), c.dice.choice([1, 2, 8]), c.dice.choice([1, 2, 4]), c.dice.choice([8, 16]), c.chance(.4), c.chance(.4)
    x = c.input('x', c.normal(batch, heads, length, width) if four else c.normal(batch, length, heads * width))
    ids = c.input('ids', np.array([c.dice.choice([0, 5])], np.int64) if c.chance(.5) else c.numbers.integers(0, 32, (batch, length)))
    angles = c.numbers.uniform(0, 6, (32, width // (4 if partial else 2)))
    more = {'rotary_embedding_dim': width // 2, 'num_heads': heads} if partial else {'num_heads': heads} if c.chance(.5) else {}
    c.node('RotaryEmbedding', [x, ids, c.constant(np.cos(angles)), c.constant(np.sin(angles))], c.outputs, interleaved=c.dice.choice([0, 1]), **more)


def embedding(c):
    batch, length, width, kind, segments = c.dice.choice([1, 3]), c.dice.choice([1, 7]), c.dice.choice([8, 33]), c.dice.choice([np.uint8, np.int8]), c.chance(.5)
    limits = np.iinfo(kind)
    codes = lambda *shape: c.constant(c.numbers.integers(limits.min, limits.max, shape), kind)
    draw = lambda name, most: c.input(name, c.numbers.integers(0, most, (batch, length)).astype(np.int32), ['batch', 'length'])
    shapes = [(50, width), (16, width), (2, width), (width,), (width,)]
    each = lambda make: ['' if i == 2 and not segments else make(s) for i, s in enumerate(shapes)]
    inputs = [draw('ids', 50), draw('segments', 2) if segments else ''] + each(lambda s: codes(*s)) + [draw('mask', 2)]
    c.outputs.append('counts')
    c.node('QEmbedLayerNormalization', inputs + each(lambda s: c.constant(c.numbers.uniform(.005, .02))) + each(lambda s: codes()), c.outputs)


def blocks(c):
    """Weights in blocks, values as floats or rounded in blocks too."""
    bits, block, depth, columns, batch = c.dice.choice([4, 4, 8]), c.dice.choice([16, 32, 64, 128]), c.dice.choice([32, 96, 130, 256]), c.dice.choice([5, 16, 48, 100]), c.dice.choice([1, 2])
    count = (depth + block - 1) // block
    x = c.input('x', c.normal(batch, c.dice.choice([1, 2, 7, 40]), depth), ['batch', 'rows', c.dice.choice([depth, depth, 'depth'])])
    inputs = [x, c.constant(c.numbers.integers(0, 256, (columns, count, block * bits // 8)), np.uint8), c.constant(c.numbers.uniform(.005, .02, (columns, count)))]
    inputs += [c.constant(c.numbers.integers(0, 256, (columns, (count * bits + 7) // 8)), np.uint8) if c.chance(.5) else '', '', c.constant(c.numbers.normal(size=columns)) if c.chance(.3) else '']
    c.node('MatMulNBits', inputs, c.outputs, K=depth, N=columns, bits=bits, block_size=block, accuracy_level=c.dice.choice([0, 1, 4, 4]))


def written_out(c):
    """Heads of keys that are shared, expanded to as many as there are queries, and turned, as exporters write attention over a cache; all lengths are free."""
    shared, group, width = c.dice.choice([1, 2, 3]), c.dice.choice([1, 2, 3]), c.dice.choice([8, 16, 32, 48, 64])
    heads, scores = shared * group, c.chance(.3)
    of = lambda op, inputs, outputs=None, **attributes: c.node(op, inputs, outputs, domain='', **attributes)

    def every_head(x):
        if group == 1: return x
        size = lambda axis: of('Gather', [of('Shape', [x]), c.constant([axis], np.int64)])
        fixed = lambda n: c.constant([n], np.int64)
        wide = of('Concat', [size(0), fixed(shared), fixed(group), size(2), fixed(width)], axis=0)
        flat = of('Concat', [size(0), fixed(heads), size(2), fixed(width)], axis=0)
        return of('Reshape', [of('Expand', [of('Unsqueeze', [x, fixed(2)]), wide]), flat])

    s = of('Mul', [of('MatMul', ['q', of('Transpose', [every_head('k')], perm=[0, 1, 3, 2])]), c.constant(width ** -.5)])
    if c.chance(.5): s = of('Add', [s, 'm'])
    else: s = of('Identity', [s])
    of('MatMul', [of('Softmax', [s], axis=-1), every_head('v')], ['y'])
    if scores: of('Identity', [s], ['s'])
    c.outputs += ['s'] * scores
    c.feeds = [{'q': c.normal(b, heads, rows, width), 'k': c.normal(b, shared, columns, width), 'v': c.normal(b, shared, columns, width), 'm': c.normal(b, 1, rows, columns)}
               for b, rows, columns in ((1, 1, c.dice.choice([1, 15, 100])), (2, 5, 33), (1, 31, 31), (1, 32, 70), (c.dice.choice([1, 3]), 41, 16))]
    c.sizes = {'q': ['b', heads, 'rows', width], 'm': ['b', 1, 'rows', 'columns'], **{n: ['b', shared, 'columns', width] for n in 'kv'}}


def language_model(c):
    """As exporters write them: 4-bit products, a cache that grows, lengths and the total from the attention mask."""
    vocabulary, width, heads, shared, each = 97, 64, 4, 2, 16
    of = lambda op, inputs, **attributes: c.node(op, inputs, domain='', **attributes)

    def product(x, rows, columns):
        codes = c.constant(c.numbers.integers(0, 256, (columns, rows // 32, 16)), np.uint8)
        return c.node('MatMulNBits', [x, codes, c.constant(c.numbers.uniform(.005, .02, (columns, rows // 32)))], K=rows, N=columns, bits=4, block_size=32)

    def normalized(x, more, name):
        outputs = [name + s for s in ('', '_mean', '_deviation', '_sum')]
        c.node('SkipSimplifiedLayerNormalization', [x, more, c.constant(c.numbers.uniform(.5, 1.5, width))], outputs, epsilon=1e-5)
        return outputs[0], outputs[3]

    total = of('Cast', [of('Gather', [of('Shape', ['attention_mask']), c.constant(1, np.int64)])], to=TensorProto.INT32)
    last = of('Cast', [of('Sub', [of('ReduceSum', ['attention_mask', c.constant([1], np.int64)], keepdims=0), c.constant(1, np.int64)])], to=TensorProto.INT32)
    angles = np.arange(64)[:, None] / 10000 ** (np.arange(each // 2) * 2 / each)
    caches = [c.constant(np.cos(angles)), c.constant(np.sin(angles))]
    x = of('Gather', [c.constant(c.normal(vocabulary, width)), 'input_ids'])
    h = of('SimplifiedLayerNormalization', [x, c.constant(c.numbers.uniform(.5, 1.5, width))], axis=-1, epsilon=1e-5)
    c.outputs, pasts = ['logits'], []
    for layer in range(2):
        parts = [product(h, width, n * each) for n in (heads, shared, shared)]
        past = ['past.%d.%s' % (layer, n) for n in ('key', 'value')]
        present = ['present.%d.%s' % (layer, n) for n in ('key', 'value')]
        y = c.node('GroupQueryAttention', parts + past + [last, total] + caches, ['attended%d' % layer] + present, num_heads=heads, kv_num_heads=shared, do_rotary=1)
        h, x = normalized(x, product(y, heads * each, width), 'a%d' % layer)
        gate = product(h, width, 128)
        f = of('Mul', [of('Mul', [gate, of('Sigmoid', [gate])]), product(h, width, 128)])
        h, x = normalized(x, product(f, 128, width), 'b%d' % layer)
        c.outputs, pasts = c.outputs + present, pasts + past
    c.node('MatMul', [h, c.constant(c.normal(width, vocabulary) * .1)], ['logits'], domain='')
    c.sizes = {'input_ids': ['batch', 'sequence'], 'attention_mask': ['batch', 'total'], **{p: ['batch', shared, 'past', each] for p in pasts}}
    c.feeds = []
    for batch, prompt in ((1, 7), (2, 5), (3, 1), (1, 40)):
        length = 0
        for step in (prompt, 1, 3 if batch == 1 else 1):
            before, length = length, length + step
            c.feeds.append({'input_ids': c.numbers.integers(0, vocabulary, (batch, step)), 'attention_mask': np.ones((batch, length), np.int64),
                            **{p: c.normal(batch, shared, before, each) for p in pasts}})


def cut(c, name, value):
    kept = c.kept if name == 'y' else c.kept_cache
    for entry, length in enumerate(kept if kept is not None else []):
        where = [slice(None)] * (value.ndim - 1)
        where[0 if name == 'y' else 1] = slice(int(length), None)
        value[entry][tuple(where)] = 0
    return value


def compare(octet, level, c, folder):
    """What is wrong with a case; None: nothing."""
    model = c.serialized(c.nodes)
    with open(folder + '/model.onnx', 'wb') as f: f.write(model)
    done = subprocess.run([octet, 'compile', folder + '/model.onnx', '-o', folder + '/model.so', '--quiet', '--target', level], capture_output=True, text=True)
    if done.returncode: return level + ': ' + done.stderr.strip()
    session = c.session(c.serialized(c.reference) if c.reference else model)
    for feed in c.feeds:
        np.savez(folder + '/in.npz', **feed)
        done = subprocess.run([octet, 'run', folder + '/model.so', '--input', folder + '/in.npz', '--output', folder + '/out.npz'], capture_output=True, text=True)
        if done.returncode: return done.stderr.strip()
        with np.load(folder + '/out.npz') as made: got = {n: made[n] for n in c.outputs}
        for name, want in zip(c.outputs, session.run(c.outputs, feed)):
            if got[name].shape != want.shape: return f'{level}: {name} has shape {got[name].shape}, expected {want.shape}'
            error = np.abs(cut(c, name, got[name]) - cut(c, name, want)).max(initial=0) / max(1e-3, np.abs(want).max(initial=0))
            if not error < 3e-4: return f'{level}: {name} is off by {error:g} of the largest'
    return None


MAKERS = [lambda c: packed(c, False), lambda c: packed(c, True), multi, group, rotary, embedding, blocks, written_out]
LANGUAGE_MODEL = -1


def check(octet, levels, number, folder):
    c = Case(abs(number))
    language_model(c) if number == LANGUAGE_MODEL else MAKERS[number % len(MAKERS)](c)
    return compare(octet, c.dice.choice(levels), c, folder)


if __name__ == '__main__': campaign.main(__doc__, check, [LANGUAGE_MODEL])
