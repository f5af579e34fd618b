#!/usr/bin/env python3
"""precisions.py [--precision bf16,int8,...] [--threads N] [--seconds S] MODEL.onnx=SAMPLES... [-- COMPILE-OPTIONS]

What each precision costs and gains: every model is compiled for this machine in float and in each precision, and compared on samples that
calibration has not seen. SAMPLES is a folder of .npz files, one sample each: every second one calibrates, the others (64 at most) compare.
A line for each: size of the artefact over that of the model's file (with its external data), time of the float artefact over its own
(medians, in turns, on the first sample), signal over error of the worst output in dB over all samples, and the part of rows whose
largest value stays in its column, for the outputs that have more than one column.
Options behind -- go to the compiler with each precision. Needs: octet on the PATH, numpy."""
import argparse
import glob
import os
import sys
import tempfile

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "runtime", "python"))
import octet  # noqa: E402
from turns import medians, octet as compiler  # noqa: E402

MOST = 64


def bytes_of(model):
    """The file and what the same folder holds of its external data."""
    return os.path.getsize(model) + sum(os.path.getsize(p) for p in glob.glob(model + "[._]data"))


def outputs(path, samples):
    """Float outputs of every sample, as rows along the last axis."""
    session = octet.InferenceSession(path)
    names = {i.name for i in session.get_inputs()}
    for s in samples:
        feeds = np.load(s)
        yield [o.astype(np.float64).reshape(-1, o.shape[-1] if o.ndim else 1)
               for o in session.run(None, {k: feeds[k] for k in feeds if k in names}) if o.dtype.kind == "f" and o.size]


def compare(path, expected, samples):
    """(dB of the worst output, part of rows with the same largest column or None)"""
    count = len(expected[0])
    signal, error, same, rows = np.zeros(count), np.zeros(count), 0, 0
    for want, got in zip(expected, outputs(path, samples)):
        for i, (w, g) in enumerate(zip(want, got)):
            signal[i] += (w * w).sum()
            error[i] += ((w - g) ** 2).sum()
            if w.shape[1] > 1:
                same += (w.argmax(1) == g.argmax(1)).sum()
                rows += len(w)
    db = 10 * np.log10(signal / np.maximum(error, 1e-300))
    return db[signal > 0].min(), same / rows if rows else None


def table(model, samples, options, folder, a):
    files = sorted(glob.glob(samples + "/*.npz"))
    if len(files) < 2: sys.exit("%s: two .npz files are the least: one calibrates, one compares" % samples)
    name, calibration = os.path.splitext(os.path.basename(model))[0], tempfile.mkdtemp(dir=folder)
    for f in files[::2]: os.symlink(os.path.abspath(f), os.path.join(calibration, os.path.basename(f)))
    unseen, plain = files[1::2][:MOST], os.path.join(folder, name + ".so")
    compiler("compile", model, "-o", plain, "--target", "native", "--quiet")
    expected = list(outputs(plain, unseen))
    for p in a.precision.split(","):
        made = os.path.join(folder, "%s.%s.so" % (name, p))
        compiler("compile", model, "-o", made, "--target", "native", "--quiet", "--quantize", p, "--calibrate", calibration, *options)
        db, same = compare(made, expected, unseen)
        was, now = medians((plain, made), unseen[0], a.threads, a.seconds)
        print("| %s | %s | %.3f | %.2f | %.1f | %s |" % (
            name, p, os.path.getsize(made) / bytes_of(model), was / now, db,
            "%.1f %%" % (same * 100) if same is not None else ""), flush=True)
        os.remove(made)


def main():
    argv = sys.argv[1:]
    at = argv.index("--") if "--" in argv else len(argv)
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("--precision", default="bf16,fp16,int8,int8-weights,fp8,int4")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("model", nargs="+")
    a = p.parse_args(argv[:at])
    print("| model | precision | size | speed | dB | same largest |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for m in a.model:
            model, _, samples = m.rpartition("=")
            table(model, samples, argv[at + 1:], folder, a)


main()
