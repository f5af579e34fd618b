#!/usr/bin/env python3
"""regions.py FIRST LAST [--octet PROGRAM] [--levels "LEVEL ..."] [--keep FOLDER]: operators that read an image where data says, beside ONNX Runtime.

Number N is always the same model: RoiAlign, MaxRoiPool, DeformConv or Col2Im, in every form that ONNX Runtime has, with regions beside the image, empty and turned ones; or
Det. Sizes are free by chance. Prints what fails and ends with the totals. Needs numpy, onnx and onnxruntime; without them it says so and checks nothing."""
import attention  # without numpy, onnx and onnxruntime it says so and ends here
import campaign
import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator


class Case(attention.Case):
    def __init__(self, number):
        super().__init__(number)
        self.opset, self.free, self.reference = 19, self.chance(.4), False

    def session(self, model): return ReferenceEvaluator(model) if self.reference else super().session(model)

    def given(self, name, value):
        """An input, all of whose sizes may be free, or a constant."""
        return self.input(name, value, ['%s%d' % (name, i) for i in range(value.ndim)] if self.free else None)

    def serialized(self):
        kinds = [(n, helper.np_dtype_to_tensor_dtype(v.dtype), self.sizes[n]) for n, v in self.feeds[0].items()]
        kind = kinds[0][1]
        graph = helper.make_graph(self.nodes, 'region', [helper.make_tensor_value_info(*k) for k in kinds], [helper.make_tensor_value_info('y', kind, None)], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid('', self.opset)], ir_version=10).SerializeToString()

    def of(self, op, inputs, **attributes): self.node(op, inputs, ['y'], '', **attributes)


def image(c, kind=np.float32):
    """X, most often behind a convolution, which lays its channels side by side."""
    batch, channels, size = c.dice.choice([1, 2, 3]), c.dice.choice([1, 3, 16, 20, 40]), [c.dice.choice([1, 2, 5, 9, 16, 23]) for _ in range(2)]
    x = c.given('x', c.normal(batch, channels, *size).astype(kind))
    if kind == np.float32 and c.chance(.5): x = c.node('Conv', [x, c.constant(c.normal(channels, channels, 1, 1) * channels ** -.5)], domain='')
    return x, batch, channels, size


def regions(c, size, scale, kind):
    """Corners (x, y, x, y): around the image, far beside it, larger than it, smaller than a pixel, and with ends before their starts."""
    count = c.dice.choice([1, 2, 7, 20] + [0] * c.free)
    extent = np.array(size[::-1]) / scale
    start = c.numbers.uniform(-.5, 1.2, (count, 2)) * extent
    length = c.numbers.choice([.01, .3, 1., 1., 3., -.2], (count, 1)) * c.numbers.uniform(.1, 1., (count, 2)) * extent
    if c.chance(.3): start, length = np.rint(start), np.rint(length)
    return np.concatenate([start, start + length], 1).astype(kind)


def roi_align(c):
    kind = c.dice.choice([np.float32, np.float32, np.float64])
    x, batch, channels, size = image(c, kind)
    scale = c.dice.choice([1., .5, .25])
    rois = regions(c, size, scale, kind)
    c.opset = c.dice.choice([10, 16])
    more = {'coordinate_transformation_mode': c.dice.choice(['half_pixel', 'output_half_pixel'])} if c.opset > 10 else {}
    if c.chance(.7): more['mode'] = c.dice.choice(['avg', 'max'])
    c.of('RoiAlign', [x, c.given('rois', rois), c.given('batch', c.numbers.integers(0, batch, len(rois)))], output_height=c.dice.choice([1, 2, 7]),
         output_width=c.dice.choice([1, 3, 5]), sampling_ratio=c.dice.choice([0, 0, 1, 2, 3]), spatial_scale=scale, **more)


def max_roi_pool(c):
    x, batch, channels, size = image(c)
    scale, c.opset = c.dice.choice([1., .5, .0625]), 18
    rois = np.rint(regions(c, size, scale, np.float32)) if c.chance(.5) else regions(c, size, scale, np.float32)
    rois = np.concatenate([c.numbers.integers(0, batch, (len(rois), 1)), rois], 1).astype(np.float32)
    c.of('MaxRoiPool', [x, c.given('rois', rois)], pooled_shape=[c.dice.choice([1, 2, 7]), c.dice.choice([1, 3, 5])], spatial_scale=scale)


def window(c, size, taps):
    """Strides, dilations and pads with which these taps fit into the image, and how often."""
    strides, dilations = [c.dice.choice([1, 1, 2, 3]) for _ in taps], [c.dice.choice([1, 1, 2]) for _ in taps]
    pads = [[c.dice.choice([0, 1, 2]) for _ in taps] for _ in range(2)]
    for i, t in enumerate(taps): pads[1][i] += max(0, (t - 1) * dilations[i] + 1 - size[i] - pads[0][i] - pads[1][i])
    counts = [(size[i] + pads[0][i] + pads[1][i] - (t - 1) * dilations[i] - 1) // strides[i] + 1 for i, t in enumerate(taps)]
    return counts, {'strides': strides, 'dilations': dilations, 'pads': pads[0] + pads[1]}


def deform_conv(c):
    sets, group = c.dice.choice([1, 1, 2, 3, 4]), c.dice.choice([1, 1, 2, 3])
    batch, channels, filters = c.dice.choice([1, 2]), 12 * c.dice.choice([1, 2, 4]), group * c.dice.choice([1, 4, 16])
    size, taps = [c.dice.choice([1, 4, 9, 14]) for _ in range(2)], [c.dice.choice([1, 2, 3]) for _ in range(2)]
    counts, more = window(c, size, taps)
    x = c.given('x', c.normal(batch, channels, *size))
    if c.chance(.5): x = c.node('Conv', [x, c.constant(c.normal(channels, channels, 1, 1) * channels ** -.5)], domain='')
    w = c.normal(filters, channels // group, *taps)
    offset = c.normal(batch, sets * 2 * taps[0] * taps[1], *counts) * c.dice.choice([.5, 2, 6])
    inputs = [x, c.constant(w) if c.chance(.8) else c.given('w', w), c.given('offset', offset), c.constant(c.normal(filters)) if c.chance(.5) else '']
    if c.chance(.5): inputs.append(c.given('mask', c.numbers.random((batch, sets * taps[0] * taps[1], *counts), np.float32)))
    while not inputs[-1]: inputs.pop()
    c.of('DeformConv', inputs, group=group, offset_group=sets, **more)


def col2im(c):
    dims = c.dice.choice([1, 2, 2, 3])
    size, taps = [c.dice.choice([1, 4, 7, 12]) for _ in range(dims)], [c.dice.choice([1, 2, 3, 4]) for _ in range(dims)]
    counts, more = window(c, size, taps)
    c.reference = dims != 2  # ONNX Runtime 1.32 leaves windows out there
    x = c.input('x', c.normal(c.dice.choice([1, 2]), c.dice.choice([1, 3, 1 if c.reference else 16]) * int(np.prod(taps)), int(np.prod(counts))), ['n', 'rows', 'columns'] if c.free else None)
    shape = lambda name, v: c.input(name, np.array(v)) if c.free and c.chance(.5) else c.constant(v, np.int64)
    c.of('Col2Im', [x, shape('image', size), shape('block', taps)], **more)


def det(c):
    size, batch = c.dice.choice([1, 2, 3, 4, 8, 17, 40]), c.dice.choice([(), (1,), (5,), (2, 3)])
    x = c.normal(*batch, size, size) * size ** -.5
    if c.chance(.3): x[..., -1, :] = x[..., 0, :]
    if c.chance(.3): x = np.where(c.numbers.random(x.shape) < .5, x, 0).astype(np.float32)
    c.of('Det', [c.given('x', x)])


MAKERS = [roi_align, max_roi_pool, deform_conv, col2im, det]


def check(octet, levels, number, folder):
    c = Case(number)
    MAKERS[number % len(MAKERS)](c)
    return attention.compare(octet, c.dice.choice(levels), c, folder)


if __name__ == '__main__': campaign.main(__doc__, check)
