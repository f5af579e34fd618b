#!/usr/bin/env python3
"""profile.py FILE.json: does a profile say of every step what it is, how long it takes, and how far from the limit it is?"""
import json
import sys

profile = json.load(open(sys.argv[1]))["profile"]
fields = {"step", "name", "kernel", "what", "shape", "ms", "operations", "bytes", "rate", "rate_unit", "percent_of_limit"}
assert profile["limits"]["read"], profile["limits"]
assert profile["ms"] > 0 and profile["operations"] > 0
for step in profile["steps"]:
    assert set(step) == fields, step
    assert step["bytes"] > 0 and "?" not in step["shape"], step
conv2 = [s for s in profile["steps"] if "conv2" in s["name"] and s["what"].startswith("contraction")]
assert len(conv2) == 1 and conv2[0]["shape"] == "64x32x144" and conv2[0]["operations"] == 2 * 64 * 32 * 144, conv2
times = [s["ms"] for s in profile["steps"]]
assert times == sorted(times, reverse=True), "sorted by time"
