#!/usr/bin/env python3
"""budget.py MAX REPORT.json FLOAT.npz ALL.npz KEPT.npz: exit 0 when the report of --max-loss (a part, 0.005) says that some layers went back to
float and some did not, and when the outputs, on inputs that the compiler never saw, lose more than MAX with everything quantized and no more
with what was kept. The loss, mean Kullback-Leibler divergence of softmax as a factor, is computed here from its definition."""
import json
import math
import sys

from close import floats


def softmax(x):
    top = max(x)
    e = [math.exp(v - top) for v in x]
    return [v / sum(e) for v in e]


def loss(plain, other, columns):
    (a,), (b,) = plain.values(), other.values()
    total = 0
    for i in range(0, len(a), columns):
        p, q = softmax(a[i:i + columns]), softmax(b[i:i + columns])
        total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return math.expm1(total / (len(a) // columns))


most = float(sys.argv[1])
report = json.load(open(sys.argv[2]))
plain, everything, kept = (floats(p) for p in sys.argv[3:])
budget = report['budget']
first, chosen = budget['tried'][0], [t for t in budget['tried'] if t['chosen']]
went_back = [r for r in budget['regions'] if r['precision'] == 'float']
layers = [l for l in report['layers'] if l['precision'] == 'float' and '--max-loss' in l['why']]
checks = {
    'the budget is that of the command': math.isclose(budget['max_loss'], most),
    'everything quantized was tried first and is outside': first['artefact'] and first['bound'] > most,
    'one choice was taken, an artefact that is inside': len(chosen) == 1 and chosen[0]['artefact'] and chosen[0]['bound'] <= most,
    'the loss is its': budget['loss'] == chosen[0]['loss'] <= budget['bound'] == chosen[0]['bound'],
    'so is every condition of it': [c['metric'] for c in budget['conditions']] == ['kl', 'answers'] and
                                   all(c['bound'] <= most for c in budget['conditions']),
    'some regions went back, not all': 0 < len(went_back) < len(budget['regions']),
    'their layers say so': sorted(l['output'] for l in layers) == sorted(o for r in went_back for o in r['outputs']),
    'everything quantized loses too much on new inputs': loss(plain, everything, 10) > most,
    'what was kept does not': loss(plain, kept, 10) <= most,
}
for what, true in checks.items():
    if not true:
        print(f'not so: {what}: {loss(plain, everything, 10)} {loss(plain, kept, 10)} {json.dumps(budget)[:2000]}')
sys.exit(not all(checks.values()))
