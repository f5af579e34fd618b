#!/usr/bin/env python3
"""peers.py [--threads 1,2] [--precision fp32,bf16,int8] [--seconds 2] MODEL.onnx[@INPUT=1x3x224x224,...]...

What Octet, ONNX Runtime and OpenVINO take for the same model, inputs and threads, in one sitting: medians in milliseconds, and the
time of the faster of the two over Octet's. Each runs in a process of its own; they take turns in short bursts, so that
threads that wait by spinning slow nobody else and a change of the clock meets all of them.

int8: ONNX Runtime's static quantizer (QDQ, per channel) makes the model that both peers run; Octet quantizes for itself. Both are
calibrated with the one random sample that is timed: this is about speed alone. bf16 is OpenVINO's hint; ONNX Runtime has none.
Needs: octet on the PATH, its Python module, numpy, onnx, onnxruntime, openvino."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

BURSTS = 4


def feeds_of(path, shapes):
    """Random inputs; free sizes that are not given are 1."""
    import onnxruntime as ort
    random, feeds = np.random.default_rng(0), {}
    for i in ort.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs():
        shape = shapes.get(i.name) or [d if isinstance(d, int) and d > 0 else 1 for d in i.shape]
        if "float" in i.type: feeds[i.name] = random.standard_normal(shape).astype(np.float32)
        elif "bool" in i.type: feeds[i.name] = np.ones(shape, bool)
        else: feeds[i.name] = random.integers(0, 2, shape).astype(np.int32 if "32" in i.type else np.int64)
    return feeds


def runner(kind, path, threads, precision):
    if kind == "octet":
        import octet
        session = octet.InferenceSession(path, threads=threads)
        return lambda feeds: session.run(None, feeds)
    if kind == "onnxruntime":
        import onnxruntime as ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda feeds: session.run(None, feeds)
    import openvino
    request = openvino.Core().compile_model(path, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}).create_infer_request()
    return request.infer


def serve(kind, path, threads, precision, npz):
    """The process of one engine: a number of seconds comes in, a line of latencies goes out."""
    feeds, run = dict(np.load(npz)), runner(kind, path, int(threads), precision)
    run(feeds)
    print("ready", flush=True)
    for line in sys.stdin:
        end, took = time.perf_counter() + float(line), []
        while time.perf_counter() < end or len(took) < 3:
            start = time.perf_counter()
            run(feeds)
            took.append(time.perf_counter() - start)
        print(json.dumps(took), flush=True)


class Engine:
    def __init__(self, *arguments):
        self.took = []
        self.process = subprocess.Popen([sys.executable, __file__, "--serve", *map(str, arguments)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.works = any(line.strip() == "ready" for line in iter(self.process.stdout.readline, ""))

    def burst(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        self.took += json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def quantized(path, feeds, out):
    """As ONNX Runtime's documentation recommends: shapes inferred and the graph optimized first; channels need opset 13."""
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    class Reader(CalibrationDataReader):
        left = [feeds]
        def get_next(self): return self.left.pop() if self.left else None
    model = onnx.load(path)
    if model.opset_import[0].version < 13: model = version_converter.convert_version(model, 17)
    onnx.save(model, out + ".13")
    quant_pre_process(out + ".13", out + ".pre", skip_symbolic_shape=True)
    quantize_static(out + ".pre", out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    return out


def compare(path, npz, feeds, precision, threads, seconds, work):
    own, theirs = f"{work}/{precision}.so", path
    if not os.path.exists(own):
        options = [] if precision == "fp32" else ["--quantize", precision]
        options += ["--calibrate", npz] if precision == "int8" else []
        subprocess.run(["octet", "compile", path, "-o", own, "--quiet", *options], check=True)
    if precision == "int8":
        theirs = f"{work}/int8.onnx"
        try:
            if not os.path.exists(theirs): quantized(path, feeds, theirs)
        except Exception as e:
            print(f"{path}: ONNX Runtime does not quantize it: {str(e)[:120]}")
    kinds = {"octet": own}
    if os.path.exists(theirs): kinds |= {"openvino": theirs} | ({} if precision == "bf16" else {"onnxruntime": theirs})
    engines = {kind: Engine(kind, file, threads, precision, npz) for kind, file in kinds.items()}
    engines = {kind: e for kind, e in engines.items() if e.works}
    for _ in range(BURSTS):
        for e in engines.values(): e.burst(seconds / BURSTS)
    for e in engines.values(): e.close()
    return {kind: 1e3 * float(np.median(e.took)) for kind, e in engines.items()}


def main():
    if sys.argv[1:2] == ["--serve"]: return serve(*sys.argv[2:])
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("models", nargs="+")
    ap.add_argument("--threads", default="1,2")
    ap.add_argument("--precision", default="fp32,bf16,int8")
    ap.add_argument("--seconds", type=float, default=2)
    a = ap.parse_args()
    ratios = []
    for spec in a.models:
        path, _, given = spec.partition("@")
        shapes = {n: [int(d) for d in v.split("x")] for n, v in (g.split("=") for g in given.split(",") if g)}
        with tempfile.TemporaryDirectory() as work:
            feeds, npz = feeds_of(path, shapes), f"{work}/feeds.npz"
            np.savez(npz, **feeds)
            for precision in a.precision.split(","):
                for threads in map(int, a.threads.split(",")):
                    ms = compare(path, npz, feeds, precision, threads, a.seconds, work)
                    peers = [t for kind, t in ms.items() if kind != "octet"]
                    ratio = min(peers) / ms["octet"] if peers else float("nan")
                    if peers: ratios.append(ratio)
                    print(f"{os.path.basename(path)[:-5]:32} {precision} {threads}T  ",
                          "  ".join(f"{kind} {t:.3f}" for kind, t in ms.items()), f" ratio {ratio:.2f}", flush=True)
    if ratios: print(f"geometric mean {np.exp(np.mean(np.log(ratios))):.2f} of {len(ratios)} rows")


if __name__ == "__main__": main()
