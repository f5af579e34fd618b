#!/usr/bin/env python3
"""close.py TOLERANCE A.npz B.npz...: exit 0 when all hold float arrays that differ from A's by no more than TOLERANCE times its largest."""
import io
import struct
import sys
import zipfile


def floats(path):
    """The arrays of an .npz, without NumPy."""
    arrays = {}
    with zipfile.ZipFile(path) as z:
        for name in z.namelist():
            raw = z.read(name)
            n = struct.unpack('<H', raw[8:10])[0]
            assert b"'descr': '<f4'" in raw[10:10 + n], name
            data = io.BytesIO(raw[10 + n:]).read()
            arrays[name] = struct.unpack(f'<{len(data) // 4}f', data)
    return arrays


def main():
    tolerance, first = float(sys.argv[1]), floats(sys.argv[2])
    for other in sys.argv[3:]:
        for name, values in floats(other).items():
            bound = tolerance * max((abs(v) for v in first[name]), default=0)
            worst = max((abs(a - b) for a, b in zip(first[name], values, strict=True)), default=0)
            if not worst <= bound:
                sys.exit(f'{other}: {name} differs from {sys.argv[2]} by {worst}, at most {bound} is allowed')


if __name__ == '__main__':
    main()
