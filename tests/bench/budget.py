#!/usr/bin/env python3
"""budget.py [--threads N] [--seconds S] [--keep DIR] MODEL.onnx=SAMPLES... [-- COMPILE-OPTIONS]

What a budget buys: each model is compiled for this machine as it is and with the options behind -- (--quantize int8 --max-loss 0.5% unless
others are given), calibrated with SAMPLES (a folder of .npz files), and both are timed in turns on the first of them. Prints medians in
milliseconds, the time of the float program over that of the other, sizes, and what the budget lost on samples that its search never saw.
--keep DIR keeps artefacts and reports there and uses those that are there already.
Needs: octet on the PATH."""
import argparse
import glob
import json
import os
import sys
import tempfile

from turns import medians, octet


def artefact(path, *args):
    if not os.path.exists(path): octet("compile", *args, "-o", path, "--target", "native", "--quiet")
    return path


def row(model, samples, options, folder, a):
    name = os.path.splitext(os.path.basename(model))[0]
    sample, report = sorted(glob.glob(samples + "/*.npz"))[0], "%s/%s.json" % (folder, name)
    plain = artefact("%s/%s.float.so" % (folder, name), model)
    made = artefact("%s/%s.so" % (folder, name), model, "--calibrate", samples, "--report", report, *options)
    times = medians((plain, made), sample, a.threads, a.seconds)
    size = [os.path.getsize(p) / 1e6 for p in (plain, made)]
    loss = json.load(open(report)).get("budget") or {} if os.path.exists(report) else {}
    print("%-32s %9.3f %9.3f %6.2f %8.2f %8.2f  %s" % (name, *times, times[0] / times[1], *size,
          "%.3g%% (at most %.3g%%) of %s" % (loss["loss"] * 100, loss["bound"] * 100, loss["metric"]) if loss else ""), flush=True)


def main():
    argv = sys.argv[1:]
    at = argv.index("--") if "--" in argv else len(argv)
    options = argv[at + 1:] or ["--quantize", "int8", "--max-loss", "0.5%"]
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("--keep")
    p.add_argument("model", nargs="+")
    a = p.parse_args(argv[:at])
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.keep or temporary
        os.makedirs(folder, exist_ok=True)
        print("%-32s %9s %9s %6s %8s %8s  loss" % ("model", "float ms", "ms", "ratio", "float MB", "MB"))
        for m in a.model:
            model, _, samples = m.rpartition("=")
            row(model, samples, options, folder, a)


main()
