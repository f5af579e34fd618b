#!/usr/bin/env python3
"""exact.py CASE... [--octet PROGRAM] [--least PERCENT] [--all] [--apart] [--itself [--under COMMAND]] [--flag=FLAG...]: models that came quantized, code by code.

A case is a folder with model.onnx and test_data_set_*, or a folder of such folders. For each model: of the 8- and 16-bit codes that are
outputs, or the last ones before an output, how many equal those of ONNX Runtime on the recorded inputs, how many differ by one step, and
the largest difference. Where no codes lie before an output (weights alone are codes), its floats are compared with the recorded ones, in parts of their largest.
A code that falls to the other side of a tie changes what is behind it, and networks let that grow, so few other codes within a model can be many
at its end. --apart shows the steps themselves: all codes of the model are inputs too, those that ONNX Runtime computes, and what a step makes
of them is compared. --all counts every code that the model computes, not only the last ones. ONNX Runtime is many programs: what it computes depends on how
it is set up, on how many threads share a batch, and on the instructions of the machine. --itself counts, for each of its setups, the codes that it shares with itself
as it sets itself up, and those that we share with that setup; --under 'qemu-x86_64 -cpu Haswell' adds one that runs in another program, an emulator of a lesser CPU.
With --least, ends with 1 if a model has fewer percent of equal codes, or codes more than one step apart. Needs onnx and onnxruntime;
without them it says so and checks nothing."""
import argparse
import glob
import os
import shlex
import shutil
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

CODES = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16}


def codes_before(model):
    """The last tensors of codes before the outputs: name -> type."""
    types = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output, *model.graph.input]}
    constants = {t.name for t in model.graph.initializer}
    made = {o: n for n in model.graph.node for o in n.output}
    for t in model.graph.initializer: types[t.name] = t.data_type
    for n in model.graph.node:  # what inference does not know: operators of other domains
        if n.op_type == 'DynamicQuantizeLinear': types[n.output[0]] = TensorProto.UINT8
        elif n.op_type.startswith('QLinear') or n.op_type == 'QuantizeLinear':
            zero = [types[i] for i in n.input[::-1] if i in types and types[i] in CODES]
            if zero: types[n.output[0]] = zero[0]
    found, seen, left = {}, set(), [o.name for o in model.graph.output]
    while left:
        name = left.pop()
        if name in seen or name in constants or name not in made: continue
        seen.add(name)
        if types.get(name) in CODES: found[name] = types[name]
        else: left += made[name].input
    return found


def tensors(folder, what, values):
    def read(path):
        t = onnx.TensorProto()
        with open(path, 'rb') as f: t.ParseFromString(f.read())
        return numpy_helper.to_array(t)
    return {v.name: read(os.path.join(folder, f'{what}_{i}.pb')) for i, v in enumerate(values)
            if os.path.exists(os.path.join(folder, f'{what}_{i}.pb'))}


def codes_made(model):
    """All codes that nodes compute, with the scales of those that are quantized dynamically: name -> type."""
    constants = {t.name: t.data_type for t in model.graph.initializer}
    found = {}
    for n in model.graph.node:
        if n.op_type == 'DynamicQuantizeLinear': found.update(zip(n.output, [TensorProto.UINT8, TensorProto.FLOAT, TensorProto.UINT8]))
        elif n.op_type.startswith('QLinear') or n.op_type == 'QuantizeLinear':
            zero = [constants[i] for i in n.input[::-1] if constants.get(i) in CODES]
            said = [a.i for a in n.attribute if a.name == 'output_dtype' and a.i]
            found[n.output[0]] = zero[0] if zero else said[0] if said else TensorProto.UINT8
    return found


def cut(model, values):
    """The model with readers of these values reading inputs instead; their shapes are what they were."""
    names = {n: n + '_given' for n in values}
    for n in model.graph.node: n.input[:] = [names.get(i, i) for i in n.input]
    types = {o.name: o.type.tensor_type.elem_type for o in model.graph.output}
    model.graph.input.extend(helper.make_tensor_value_info(new, types[old], values[old].shape) for old, new in names.items())
    del model.graph.value_info[:]
    return {new: values[old] for old, new in names.items()}


def with_codes(model, codes, folder):
    """The model with its codes as outputs too, beside the original, so that external weights are found."""
    have = {o.name for o in model.graph.output}
    model.graph.output.extend(helper.make_tensor_value_info(n, t, None) for n, t in codes.items() if n not in have)
    path = os.path.join(folder, 'codes.onnx')
    onnx.save(model, path)
    return path


def unsigned(model):
    """The same model with u8 activations, codes and zero points greater by 128: on x86 ONNX Runtime has integer kernels for these alone."""
    zeros = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.INT8}
    made = {o: n for n in model.graph.node for o in n.output}
    def shifted(name):
        new = name + '_plus_128'
        if new not in have:
            have.add(new)
            model.graph.initializer.append(numpy_helper.from_array((numpy_helper.to_array(zeros[name]).astype(int) + 128).astype(np.uint8), new))
        return new
    have, changed = set(), set()
    for n in model.graph.node:
        if n.op_type == 'QuantizeLinear' and len(n.input) > 2 and n.input[2] in zeros:
            n.input[2] = shifted(n.input[2])
            changed.add(n.output[0])
    for n in model.graph.node:
        if n.op_type == 'DequantizeLinear' and n.input[0] in changed: n.input[2] = shifted(n.input[2])
    for o in model.graph.output:
        if o.name in changed: o.type.tensor_type.elem_type = TensorProto.UINT8
    return changed


def run_octet(args, path, inputs, folder):
    data, out = os.path.join(folder, 'in.npz'), os.path.join(folder, 'out.npz')
    np.savez(data, **inputs)
    done = subprocess.run([args.octet, 'run', path, '--input', data, '--output', out, *args.flag], capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    return dict(np.load(out))


def session_of(path, entries=(), **settings):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for key, value in settings.items(): setattr(options, key, value)
    for key, value in entries: options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def copy_weights(source, folder):  # links are not followed
    for f in glob.glob(os.path.join(os.path.dirname(source), '*.data')): shutil.copy(f, folder)


def data_sets(case):
    return sorted(glob.glob(os.path.join(case, 'test_data_set_*')))


# How ONNX Runtime may be set up, as it sets itself up first. On x86 it makes integer kernels of u8 codes, and of s8 codes only where it can turn them
# into u8; the entry lets it take them as they are.
SETUPS = {'as it sets itself up': {},
          'without optimizations': {'graph_optimization_level': onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL},
          'with s8 integers': {'entries': [('session.qdqisint8allowed', '1')]},
          'with one thread': {'intra_op_num_threads': 1}}
CHILD = """import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])
numpy.savez(sys.argv[3], *session.run(sys.argv[4:], dict(numpy.load(sys.argv[2]))))"""


def run_under(command, path, names, feeds, folder):
    """What ONNX Runtime computes in a process under another program."""
    data, out = os.path.join(folder, 'under_in.npz'), os.path.join(folder, 'under_out.npz')
    np.savez(data, **feeds)
    done = subprocess.run([*shlex.split(command), sys.executable, '-c', CHILD, path, data, out, *names], capture_output=True, text=True)
    if done.returncode: sys.exit(f'{command}: ended with {done.returncode}\n{done.stderr}')
    with np.load(out) as made: return [made[f'arr_{i}'] for i in range(len(names))]


def equal_codes(a, b): return sum(int((x == y).sum()) for x, y in zip(a, b))


def check_itself(args, case, path, codes, inputs, folder):
    names = list(codes)
    setups = {k: session_of(path, **v) for k, v in SETUPS.items()}
    shared, count = {k: [0, 0] for k in [*setups, *([f'under {args.under}'] if args.under else [])]}, 0
    for data in data_sets(case):
        feeds = tensors(data, 'input', inputs)
        got = run_octet(args, path, feeds, folder)
        made = {k: s.run(names, feeds) for k, s in setups.items()}
        if args.under: made[f'under {args.under}'] = run_under(args.under, path, names, feeds, folder)
        usual = made['as it sets itself up']
        count += sum(v.size for v in usual)
        for k, v in made.items():
            shared[k][0] += equal_codes(v, usual)
            shared[k][1] += equal_codes(v, [got[n] for n in names])
    for k, (itself, ours) in shared.items():
        print(f'{name_of(case):45} ONNX Runtime {k:30} shares {100 * itself / max(count, 1):7.3f} % with itself, {100 * ours / max(count, 1):7.3f} % with octet', flush=True)


def check_apart(args, case, source, model, inputs):
    codes = codes_made(model)
    kinds = {n: t for n, t in codes.items() if t in CODES}
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    equal, near, count, most, worst = 0, 0, 0, 0, (100.0, '')
    for data in data_sets(case):
        with tempfile.TemporaryDirectory() as folder:
            copy_weights(source, folder)
            model.CopyFrom(whole)
            path = with_codes(model, codes, folder)
            feeds = tensors(data, 'input', inputs)
            given = cut(model, dict(zip(codes, session_of(path).run(list(codes), feeds))))
            onnx.save(model, path)
            feeds.update(given)
            got = run_octet(args, path, feeds, folder)
            for name, want in zip(kinds, session_of(path).run(list(kinds), feeds)):
                difference = np.abs(got[name].astype(np.int64) - want.astype(np.int64))
                same = int((difference == 0).sum())
                equal, near, count = equal + same, near + int((difference == 1).sum()), count + difference.size
                most = max(most, int(difference.max(initial=0)))
                if difference.size: worst = min(worst, (100 * same / difference.size, name))
    percent = 100 * equal / count if count else 100.0
    print(f'{name_of(case):45} {count:9} codes apart {percent:8.4f} % equal {100 * near / max(count, 1):7.4f} % one step, most {most}; '
          f'fewest of one tensor {worst[0]:.3f} % {worst[1]}', flush=True)
    return not args.least or percent >= args.least and most <= 1


def name_of(case): return os.path.basename(case.rstrip('/'))


def check(args, case):
    source = os.path.realpath(os.path.join(case, 'model.onnx'))
    model = onnx.load(source, load_external_data=False)
    inputs = [v for v in model.graph.input if v.name not in {t.name for t in model.graph.initializer}]
    outputs = [o.name for o in model.graph.output]
    if args.apart: return check_apart(args, case, source, model, inputs)
    try: codes = codes_before(onnx.shape_inference.infer_shapes(model))
    except Exception: codes = codes_before(model)
    if args.all: codes = {n: t for n, t in codes_made(model).items() if t in CODES}
    equal = near = count = most = 0
    apart, worst = 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = with_codes(model, codes, folder) if codes else source
        if codes: copy_weights(source, folder)
        if args.itself and codes: check_itself(args, case, path, codes, inputs, folder)
        session = session_of(path) if codes else None
        changed = unsigned(model) if args.unsigned else set()
        if changed:
            reference = os.path.join(folder, 'unsigned.onnx')
            onnx.save(model, reference)
            session = session_of(reference)
        for data in data_sets(case):
            feeds = tensors(data, 'input', inputs)
            recorded = tensors(data, 'output', model.graph.output[:len(outputs)])
            got = run_octet(args, path, feeds, folder)
            for name, want in zip(codes, session.run(list(codes), feeds) if codes else []):
                difference = np.abs(got[name].astype(np.int64) - want.astype(np.int64) + 128 * (name in changed))
                equal += int((difference == 0).sum())
                near += int((difference == 1).sum())
                count, most = count + difference.size, max(most, int(difference.max(initial=0)))
            for name, want in recorded.items():
                if not want.size or want.dtype.kind != 'f': continue
                worst = max(worst, float(np.abs(want).max()))
                apart = max(apart, float(np.abs(got[name] - want).max()))
    percent = 100 * equal / count if count else 100.0
    name = name_of(case)
    if count: print(f'{name:45} {count:9} codes {percent:8.3f} % equal {100 * near / count:7.3f} % one step, most {most}', end='')
    else: print(f'{name:45} no codes before the outputs', end='')
    print(f'; floats {apart / worst if worst else 0:.1e} of the largest', flush=True)
    return not args.least or (percent >= args.least and most <= 1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('case', nargs='+')
    p.add_argument('--octet', default='octet')
    p.add_argument('--least', type=float)
    p.add_argument('--apart', action='store_true', help='every step by itself, on the codes of ONNX Runtime')
    p.add_argument('--all', action='store_true', help='all codes that the model computes')
    p.add_argument('--itself', action='store_true', help='how many codes ONNX Runtime, set up otherwise, shares with itself and with us')
    p.add_argument('--under', metavar='COMMAND', help='with --itself: also run ONNX Runtime under this program, such as an emulator of another CPU')
    p.add_argument('--unsigned', action='store_true', help='of s8 activations: compare with the integer kernels that ONNX Runtime has for u8')
    p.add_argument('--flag', action='append', default=[], help='of octet run, as in --flag=--int16=integer')
    args = p.parse_args()
    if args.under and not args.itself: p.error('--under belongs to --itself')
    cases = []
    for c in args.case:
        cases += [c] if os.path.exists(os.path.join(c, 'model.onnx')) else sorted(os.path.dirname(m) for m in glob.glob(os.path.join(c, '*/model.onnx')))
    sys.exit(0 if all([check(args, c) for c in cases]) else 1)


main()
