"""turns.py - artefacts compiled and timed in turns, so that a change of the clock meets all of them; for the scripts beside it.
Needs: octet on the PATH."""
import json
import statistics
import subprocess
import sys

TURNS = 5


def octet(*args):
    run = subprocess.run(["octet", *args], capture_output=True, text=True)
    if run.returncode: sys.exit("octet %s: %s" % (" ".join(args), run.stderr.strip()[-400:]))
    return run.stdout


def millis(path, sample, threads, runs):
    return json.loads(octet("bench", path, "--input", sample, "--threads", str(threads), "--runs", str(runs), "--json"))["median_ms"]


def medians(paths, sample, threads, seconds):
    """Milliseconds of each path, the medians of its turns; about so many seconds for each."""
    runs = [max(10, int(seconds * 1e3 / TURNS / max(millis(p, sample, threads, 10), 1e-4))) for p in paths]
    turns = [[millis(p, sample, threads, n) for p, n in zip(paths, runs)] for _ in range(TURNS)]
    return [statistics.median(t) for t in zip(*turns)]
