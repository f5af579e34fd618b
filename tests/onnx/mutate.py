#!/usr/bin/env python3
"""mutate.py FIRST LAST [--octet PROGRAM] [--levels "LEVEL ..."] [--keep FOLDER]: models that are nearly right, through the compiler and the interpreter.

Number N is always the same model: an official case (of build/onnx-cases or $ONNX_CASES, as tests/onnx/cases.sh makes them) or a node of attention.py or regions.py, in which a size, an attribute, an operand, a
type or a number that says a shape is another one. Octet may refuse it, or data that do not fit, but with a message (exit code 1, or 70 where 8 GB are not enough): not by a signal, an
assertion or in more than a minute; and the interpreter, which checks every index, never leaves a buffer. What the interpreter computes the artefact computes as well. Prints what
fails and ends with the totals. Needs numpy and onnx, and onnxruntime for the nodes; without them it says so and checks nothing."""
import glob
import os
import resource
import subprocess

import attention  # without numpy, onnx and onnxruntime it says so and ends here
import campaign
import numpy as np
import onnx
import regions
from onnx import AttributeProto, TensorProto, helper, numpy_helper

SECONDS, BYTES, OUT_OF_MEMORY = 60, 8 << 30, 70
INTS = [0, 1, -1, 2, 3, -2, 7, 64, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63)]
FLOAT8 = [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ]
FLOATS = [0., 1., -1., .5, 1e-30, -1e30, 3e38, float('inf'), float('nan')]


class Seed:
    """A model that is right, with the data of its inputs."""
    def __init__(self, model, feeds): self.model, self.feeds = model, feeds


def official(folder):
    """None: inputs that are not tensors of numbers."""
    model, feeds = onnx.load(folder + '/model.onnx'), {}
    for i, value in enumerate(model.graph.input):
        if not value.type.HasField('tensor_type'): return None
        tensor = TensorProto()
        path = f'{folder}/test_data_set_0/input_{i}.pb'
        if not os.path.exists(path): return None
        with open(path, 'rb') as f: tensor.ParseFromString(f.read())
        feeds[value.name] = numpy_helper.to_array(tensor)
    return Seed(model, feeds) if all(v.dtype.kind in 'biuf' for v in feeds.values()) and sum(v.size for v in feeds.values()) < 1 << 20 else None


def numbered(module, number):
    c = module.Case(number)
    module.MAKERS[number % len(module.MAKERS)](c)
    return Seed(onnx.load_model_from_string(c.serialized()), c.feeds[0])


# ---- what is changed: functions of the dice and the seed that say whether they did ----
def declared(seed, name): return next(v for v in seed.model.graph.input if v.name == name)


def redeclare(seed, name):
    value = seed.feeds[name]
    declared(seed, name).CopyFrom(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))


def near(value, by): return max(-(1 << 63), min(int(value) + by, (1 << 63) - 1))


def an_input(dice, seed, fits=lambda v: True):
    names = [n for n, v in seed.feeds.items() if fits(v)]
    return dice.choice(names) if names else None


def size(dice, seed):
    """One size of an input, one larger or smaller, one or none at all."""
    name = an_input(dice, seed, lambda v: v.ndim)
    if name is None: return False
    value = seed.feeds[name]
    axis = dice.randrange(value.ndim)
    n = dice.choice([value.shape[axis] + 1, value.shape[axis] + 1, value.shape[axis] - 1, value.shape[axis] - 1, 1, 0])
    if n < 0 or n == value.shape[axis] or not value.shape[axis]: return False
    seed.feeds[name] = np.take(value, np.arange(n) % value.shape[axis], axis)
    redeclare(seed, name)
    return True


def rank(dice, seed):
    name = an_input(dice, seed)
    if name is None: return False
    value = seed.feeds[name]
    ways = [value[None]] + ([value.reshape(-1)] if value.ndim != 1 else []) + ([value[0]] if value.ndim and value.shape[0] else []) + ([value.reshape(())] if value.size == 1 else [])
    seed.feeds[name] = dice.choice(ways)
    redeclare(seed, name)
    return True


def element(dice, seed):
    """The element type of an input."""
    name = an_input(dice, seed)
    if name is None: return False
    with np.errstate(all='ignore'): seed.feeds[name] = seed.feeds[name].astype(dice.choice([np.float32, np.float64, np.float16, np.int64, np.int32, np.int8, np.uint8, bool]))
    redeclare(seed, name)
    return True


def free(dice, seed):
    """Sizes of inputs that the model does not say; sometimes two that it calls the same."""
    name = an_input(dice, seed, lambda v: v.ndim)
    if name is None: return False
    for axis, dim in enumerate(declared(seed, name).type.tensor_type.shape.dim):
        if dice.random() < .6: dim.dim_param = dice.choice(['n', '%s_%d' % (name, axis)])
    return True


def integer(dice, seed):
    """A number in an input of integers: shapes, axes, indices, counts."""
    name = an_input(dice, seed, lambda v: v.dtype in (np.int64, np.int32) and v.size)
    if name is None: return False
    value = seed.feeds[name].copy()
    at = dice.randrange(value.size)
    value.reshape(-1)[at] = np.int64(dice.choice(INTS + [near(value.reshape(-1)[at], d) for d in (1, -1, 1, -1)])).astype(value.dtype)
    seed.feeds[name] = value
    return True


def constant(dice, seed):
    """An input that the model knows."""
    name = an_input(dice, seed)
    if name is None: return False
    seed.model.graph.initializer.append(numpy_helper.from_array(seed.feeds.pop(name), name))
    seed.model.graph.input.remove(declared(seed, name))
    return True


def another(dice, attribute):
    kind = attribute.type
    if kind == AttributeProto.INT: attribute.i = dice.choice(INTS + [near(attribute.i, d) for d in (1, -1, 1, -1)])
    elif kind == AttributeProto.FLOAT: attribute.f = dice.choice(FLOATS + [attribute.f * 2, -attribute.f])
    elif kind == AttributeProto.STRING: attribute.s = dice.choice([b'', b'nothing', attribute.s.upper(), attribute.s + b'x'])
    elif kind == AttributeProto.INTS:
        way = dice.randrange(4)
        if way == 0: attribute.ints.append(dice.choice(INTS))
        elif way == 1 and attribute.ints: attribute.ints.pop()
        elif way == 2: attribute.ClearField('ints')
        elif attribute.ints:
            i = dice.randrange(len(attribute.ints))
            attribute.ints[i] = dice.choice(INTS + [near(attribute.ints[i], d) for d in (1, -1, 1, -1)])
    elif kind == AttributeProto.FLOATS and attribute.floats: attribute.floats[dice.randrange(len(attribute.floats))] = dice.choice(FLOATS)
    else: return False
    return True


def attribute(dice, seed):
    all_of = [(n, a) for n in seed.model.graph.node for a in n.attribute]
    if not all_of: return False
    node, chosen = dice.choice(all_of)
    if dice.random() < .15: node.attribute.remove(chosen)
    elif dice.random() < .1: chosen.CopyFrom(helper.make_attribute(chosen.name, dice.choice([1, 1.5, 'text', [1, 2], [1.5]])))
    else: return another(dice, chosen)
    return True


def operand(dice, seed):
    """An operand that is missing, twice there, or in another's place."""
    node = dice.choice(seed.model.graph.node)
    if not node.input: return False
    i, way = dice.randrange(len(node.input)), dice.randrange(4)
    if way == 0: node.input[i] = ''
    elif way == 1: node.input.pop()
    elif way == 2: node.input.append(dice.choice(node.input))
    else: node.input[i] = dice.choice([*node.input, *seed.feeds])
    return True


def result(dice, seed):
    """Results that nobody asks for, or too many."""
    node = dice.choice(seed.model.graph.node)
    node.output.append('more%d' % len(node.output)) if dice.random() < .5 else node.output.insert(0, '')
    return True


def opset(dice, seed):
    chosen = dice.choice(seed.model.opset_import)
    chosen.version = max(1, chosen.version + dice.choice([1, -1, -2, -5, 100]))
    return True


CHANGES = [size, size, size, rank, element, free, integer, integer, constant, attribute, attribute, attribute, operand, result, opset]


def mutated(seed, dice):
    for output in seed.model.graph.output:
        if output.type.HasField('tensor_type'): output.type.tensor_type.ClearField('shape')
    done = 0
    while done < dice.choice([1, 1, 2, 3]): done += dice.choice(CHANGES)(dice, seed) or .1
    return seed


# ---- what Octet makes of it ----
def limited(): resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))


def octet(*command):
    """(exit code, message, what was wrong with that or None)"""
    try: done = subprocess.run(command, capture_output=True, text=True, errors='replace', timeout=SECONDS, preexec_fn=limited)
    except subprocess.TimeoutExpired: return 1, '', 'took more than %d s' % SECONDS
    text = done.stderr.strip()
    if done.returncode == OUT_OF_MEMORY and 'out of memory' in text: return 1, text, None
    if done.returncode not in (0, 1): return 1, text, f'exit code {done.returncode}: {text[-300:]}'
    if done.returncode and not text: return 1, text, 'fails without a message'
    if 'interpreter failed' in text or 'out of range of' in text: return 1, text, text
    return done.returncode, text, None


def same(folder, model):
    """Whether artefact and interpreter computed the same, up to the last bits. Of float8, whose numbers that are none have several codes, only shapes are compared."""
    bytes_of_floats = {v.name for v in model.graph.output if v.type.tensor_type.elem_type in FLOAT8}
    with np.load(folder + '/interp.npz') as a, np.load(folder + '/out.npz') as b:
        for name in (n for n in a.files if a[n].dtype.kind in 'biuf'):
            if a[name].shape != b[name].shape: return f'{name} has shape {b[name].shape}, interpreted {a[name].shape}'
            x, y = a[name].astype(np.float64), b[name].astype(np.float64)
            kept = np.isfinite(x)
            if a[name].dtype.kind != 'f' and name not in bytes_of_floats and (x != y).any(): return f'{name} has other numbers than interpreted'
            if a[name].dtype.kind == 'f' and not np.allclose(x[kept], y[kept], 1e-2, 1e-2 * np.abs(x[kept]).max(initial=1e-3)): return f'{name} is not as interpreted: {np.abs(x[kept] - y[kept]).max()}'
    return None


CASES = sorted(glob.glob(os.environ.get('ONNX_CASES', 'build/onnx-cases') + '/*/*'))
SEEDS = CASES + [attention, regions] * (1 + len(CASES) // 20)  # nodes alone where no cases are


def check(program, levels, number, folder):
    c = attention.Case(number)
    chosen = c.dice.choice(SEEDS)
    seed = official(chosen) if isinstance(chosen, str) else numbered(chosen, number)
    if not seed: return None
    mutated(seed, c.dice)
    model, data = folder + '/model.onnx', ['--input', folder + '/in.npz']
    with open(model, 'wb') as f: f.write(seed.model.SerializeToString())
    np.savez(folder + '/in.npz', **seed.feeds)
    code, text, wrong = octet(program, 'run', model, '--interp', *data, '--output', folder + '/interp.npz')
    if wrong: return 'interpreted: ' + wrong
    # what is refused is mostly refused by the compiler as well, which is slow to ask
    if code and 'error: input' not in text and '--interp' not in text and c.dice.random() < .7: return None
    code, text, wrong = octet(program, 'compile', model, '-o', folder + '/model.so', '--quiet', '--target', c.dice.choice(levels))
    if wrong: return 'compile: ' + wrong
    if code: return None
    code, text, wrong = octet(program, 'run', folder + '/model.so', *data, '--output', folder + '/out.npz')
    if wrong: return 'run: ' + wrong
    return same(folder, seed.model) if not code and os.path.exists(folder + '/interp.npz') else None


if __name__ == '__main__':
    campaign.main(__doc__, check)
