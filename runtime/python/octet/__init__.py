"""octet - compiled ONNX models from Python: octet.compile() makes an artefact, octet.InferenceSession runs one.

ctypes over the compiler library and over the artefact itself (a .so that needs nothing of ours): no build step, needs numpy.
InferenceSession has the shape of onnxruntime.InferenceSession, so a program written for that changes one import."""
import ctypes as C
import ctypes.util
import os
import struct
import subprocess
import tempfile
import threading

import numpy as np

__all__ = ["CompileError", "RunError", "InferenceSession", "NodeArg", "compile", "version"]
MAX_RANK = 8
OK, ERR_ARENA = 0, 5


class CompileError(Exception):
    """What is wrong with the model or the data, one line for each problem."""


class RunError(RuntimeError):
    """A run failed: sizes that do not fit together, an index out of range, a missing input."""


# ---- element types: ONNX number -> (numpy name, ONNX Runtime's spelling, numpy name without ml_dtypes) ----
_TYPES = {
    1: ("float32", "float"), 2: ("uint8", "uint8"), 3: ("int8", "int8"), 4: ("uint16", "uint16"), 5: ("int16", "int16"),
    6: ("int32", "int32"), 7: ("int64", "int64"), 9: ("bool", "bool"), 10: ("float16", "float16"), 11: ("float64", "double"),
    12: ("uint32", "uint32"), 13: ("uint64", "uint64"), 14: ("complex64", "complex64"), 15: ("complex128", "complex128"),
    16: ("bfloat16", "bfloat16", "uint16"), 17: ("float8_e4m3fn", "float8e4m3fn", "uint8"),
    18: ("float8_e4m3fnuz", "float8e4m3fnuz", "uint8"), 19: ("float8_e5m2", "float8e5m2", "uint8"),
    20: ("float8_e5m2fnuz", "float8e5m2fnuz", "uint8"), 21: ("uint4", "uint4", "uint8"), 22: ("int4", "int4", "int8"),
    23: ("float4_e2m1fn", "float4e2m1", "uint8"), 24: ("float8_e8m0fnu", "float8e8m0", "uint8"), 25: ("uint2", "uint2", "uint8"),
    26: ("int2", "int2", "int8"),
}


def _numpy_type(number):
    row = _TYPES[number]
    if len(row) == 2:
        return np.dtype(row[0])
    try:
        import ml_dtypes
        return np.dtype(getattr(ml_dtypes, row[0]))
    except (ImportError, AttributeError):
        return np.dtype(row[2])


# ---- the compiler ----
def _library():
    """liboctet, or None: from $OCTET_LIBRARY, beside an installed or built tree, or where the system keeps libraries."""
    here = os.path.dirname(os.path.abspath(__file__))
    places = [os.environ.get("OCTET_LIBRARY")]
    for up in range(2, 7):
        root = os.path.normpath(os.path.join(here, *[".."] * up))
        places += [os.path.join(root, d, "liboctet.so") for d in ("lib", "lib64", "lib/x86_64-linux-gnu", ".")]
        places += [os.path.join(root, "build", d, "liboctet.so") for d in ("release", "dev", ".")]
    for path in places + [ctypes.util.find_library("octet")]:
        if path and (os.path.exists(path) or os.sep not in path):
            try:
                library = C.CDLL(path)
                library.octet_compile.argtypes = [C.c_char_p, C.c_char_p, C.c_int, C.POINTER(C.c_char_p), C.c_char_p, C.c_size_t]
                library.octet_version.restype = C.c_char_p
                return library
            except (OSError, AttributeError):
                continue
    return None


_compiler = None
_compiling = threading.Lock()


def _words(options):
    """quantize='int8', dim={'N': 1}, keep=[...], quiet=True -> command-line words."""
    words = []
    for name, value in options.items():
        flag = ("-" if len(name) == 1 else "--") + name.replace("_", "-")
        if isinstance(value, dict):
            value = ["%s=%s" % item for item in value.items()]
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is None or one is False:
                continue
            words += [flag] if one is True else [flag, os.fspath(one) if isinstance(one, os.PathLike) else str(one)]
    return words


def _compile_file(model, out, words):
    global _compiler
    with _compiling:
        if _compiler is None:
            _compiler = _library() or False
        if _compiler:
            error = C.create_string_buffer(1 << 16)
            option = (C.c_char_p * (len(words) + 1))(*[w.encode() for w in words])
            if _compiler.octet_compile(os.fsencode(model), os.fsencode(out), len(words), option, error, len(error)):
                raise CompileError(error.value.decode("utf-8", "replace").strip() or "the model could not be compiled")
            return
    try:
        done = subprocess.run(["octet", "compile", model, "-o", out] + words, capture_output=True, text=True)
    except FileNotFoundError:
        raise CompileError("neither liboctet nor the command octet was found: set OCTET_LIBRARY or PATH") from None
    if done.returncode:
        raise CompileError(done.stderr.strip())


def compile(model, out, **options):
    """Compiles `model` (a path, bytes, or an onnx.ModelProto) to the artefact `out`. Options are those of `octet compile` with
    underscores: quantize='int8', calibrate='samples/', dim={'batch': 1}, quiet=True. Raises CompileError."""
    words = _words(options)
    if isinstance(model, (str, os.PathLike)):
        _compile_file(os.fspath(model), os.fspath(out), words)
        return out
    data = model if isinstance(model, (bytes, bytearray)) else model.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        with open(path, "wb") as f:
            f.write(data)
        _compile_file(path, os.fspath(out), words)
    return out


def version():
    library = _library()
    return library.octet_version().decode() if library else None


# ---- the artefact's interface: runtime/include/octet.h ----
class _Info(C.Structure):
    _fields_ = [("name", C.c_char_p), ("dtype", C.c_int32), ("rank", C.c_int32), ("dim", C.c_int64 * MAX_RANK),
                ("dim_name", C.c_char_p * MAX_RANK)]


class _Tensor(C.Structure):
    _fields_ = [("data", C.c_void_p), ("dim", C.c_int64 * MAX_RANK)]


_P = C.c_void_p


class _Api(C.Structure):
    _fields_ = [
        ("version", C.c_uint32), ("model", _P), ("inputs", C.c_int32), ("outputs", C.c_int32),
        ("input", C.POINTER(_Info)), ("output", C.POINTER(_Info)), ("context_bytes", C.c_size_t), ("arena_bytes", C.c_size_t),
        ("context_init", C.CFUNCTYPE(C.c_int, _P, _P)),
        ("context_threads", C.CFUNCTYPE(None, _P, _P, _P, _P, C.c_int32)),
        ("prepare", C.CFUNCTYPE(C.c_int, _P, _P, _P, _P)),
        ("run", C.CFUNCTYPE(C.c_int, _P, _P, _P, _P, C.c_size_t)),
        ("error_text", C.CFUNCTYPE(C.c_char_p, _P)),
        ("pool_bytes", C.CFUNCTYPE(C.c_size_t, C.c_int32)),
        ("pool_init", C.CFUNCTYPE(C.c_int, _P, C.c_int32)),
        ("pool_finish", C.CFUNCTYPE(None, _P)),
        ("cpu_level", C.CFUNCTYPE(C.c_int32, _P)),
        ("levels", C.POINTER(C.c_char_p)), ("steps", C.c_int32), ("step_name", C.POINTER(C.c_char_p)),
        ("context_profile", C.CFUNCTYPE(None, _P, _P)),
        ("context_level", C.CFUNCTYPE(None, _P, C.c_int32)),
        ("step_work", C.CFUNCTYPE(None, _P, C.c_int32, _P)),
    ]


def _api_symbol(path):
    """The one exported name, from the dynamic symbol table: it is the model's name with _octet_api behind it."""
    with open(path, "rb") as f:
        head = f.read(64)
        if len(head) < 64 or head[:5] != b"\x7fELF\x02":
            raise RunError("%s is not a compiled model" % path)
        at, size, count = struct.unpack("<Q", head[40:48])[0], *struct.unpack("<HH", head[58:62])
        f.seek(at)
        raw = f.read(size * count)
        section = [struct.unpack("<IIQQQQIIQQ", raw[i * size:i * size + 64]) for i in range(len(raw) // size)] if size >= 64 else []
        for s in section:
            if s[1] != 11 or s[6] >= len(section):  # SHT_DYNSYM
                continue
            f.seek(s[4])
            symbols = f.read(s[5])
            f.seek(section[s[6]][4])
            names = f.read(section[s[6]][5])
            for i in range(0, len(symbols) - 23, 24):
                name, where = struct.unpack("<I", symbols[i:i + 4])[0], struct.unpack("<H", symbols[i + 6:i + 8])[0]
                text = names[name:].split(b"\0", 1)[0]
                if where and text.endswith(b"_octet_api"):
                    return text.decode()
    raise RunError("%s is not a compiled model" % path)


def _aligned(size):
    """(owner, address): memory aligned to 64 bytes."""
    owner = np.empty(size + 64, np.uint8)
    return owner, (owner.ctypes.data + 63) // 64 * 64


def _address(array):
    try:
        return C.addressof(C.c_char.from_buffer(array))
    except (TypeError, ValueError):  # read-only, empty, or of a type that buffers do not know: three times as slow
        return array.ctypes.data


class NodeArg:
    """Name, shape and type of an input or output, as ONNX Runtime spells them: [1, 3, 'H', 'W'], 'tensor(float)'."""

    def __init__(self, info):
        self.name = info.name.decode()
        self.shape = [info.dim_name[a].decode() if info.dim[a] < 0 else info.dim[a] for a in range(info.rank)]
        self.type = "tensor(%s)" % _TYPES[info.dtype][1]
        self._dtype = _numpy_type(info.dtype)
        self._fixed = [info.dim[a] for a in range(info.rank)]

    def __repr__(self):
        return "NodeArg(name=%r, type=%r, shape=%r)" % (self.name, self.type, self.shape)


class InferenceSession:
    """A model ready to run. `path`: an artefact (.so) or an .onnx, which is compiled for this machine with compile_options.
    Calls from several threads take turns; use a session for each thread to run at the same time."""

    def __init__(self, path, threads=None, **compile_options):
        self._pool, self._folder = None, None
        is_path = isinstance(path, (str, os.PathLike))
        if not is_path or not os.fspath(path).endswith(".so"):
            self._folder = tempfile.TemporaryDirectory()
            options = {"target": "native", "quiet": True, **compile_options}
            path = compile(path, os.path.join(self._folder.name, "model.so"), **options)
        elif compile_options:
            raise TypeError("an artefact is compiled already: %s" % ", ".join(compile_options))
        path = os.path.abspath(os.fspath(path))
        self._library = C.CDLL(path)
        self._api = api = _Api.in_dll(self._library, _api_symbol(path))
        self._lock = threading.Lock()
        self._inputs = [NodeArg(api.input[i]) for i in range(api.inputs)]
        self._outputs = [NodeArg(api.output[o]) for o in range(api.outputs)]
        self._context_owner, self._context = _aligned(api.context_bytes)
        self._check(api.context_init(self._context, api.model))
        self._arena_owner, self._arena, self._arena_bytes = None, None, 0
        self._in_tensors, self._in = self._tensors(self._inputs)
        self._out_tensors, self._out = self._tensors(self._outputs)
        self._need = C.c_size_t()
        self._call_prepare, self._call_run = api.prepare, api.run  # each look at a field makes an object anew
        self._threads(threads if threads else len(os.sched_getaffinity(0)))

    @staticmethod
    def _tensors(args):
        """The tensors, used by every run, and for each argument (argument, its tensor, the tensor's sizes)."""
        tensors = (_Tensor * (len(args) + 1))()
        return tensors, [(arg, tensors[i], tensors[i].dim) for i, arg in enumerate(args)]

    def _threads(self, threads):
        if threads <= 1 or not self._api.pool_bytes:
            return
        owner, pool = _aligned(self._api.pool_bytes(threads))
        self._check(self._api.pool_init(pool, threads))
        self._pool_owner, self._pool = owner, pool
        self._api.context_threads(self._context, pool, None, None, threads)

    def __del__(self):
        if getattr(self, "_pool", None):
            self._api.pool_finish(self._pool)
            self._pool = None

    def _check(self, status):
        if status != OK:
            raise RunError(self._api.error_text(self._context).decode("utf-8", "replace") or "status %d" % status)

    def get_inputs(self):
        return list(self._inputs)

    def get_outputs(self):
        return list(self._outputs)

    def get_providers(self):
        return ["OctetExecutionProvider"]

    def _known(self, feeds):
        unknown = set(feeds) - {a.name for a in self._inputs}
        if unknown:
            raise RunError("no such input: %s" % ", ".join(sorted(unknown)))

    def _feed(self, feeds):
        """Places the inputs; the arrays that come back must live until the run is over."""
        arrays = []
        for arg, tensor, dim in self._in:
            array = feeds.get(arg.name)
            if array is None:
                self._known(feeds)
                raise RunError("input '%s' is missing" % arg.name)
            if type(array) is not np.ndarray:
                array = np.asarray(array)
            if array.dtype != arg._dtype:
                raise RunError("input '%s' is %s, expected %s" % (arg.name, array.dtype, arg._dtype))
            if array.ndim != len(arg.shape):
                raise RunError("input '%s' has rank %d, expected %d" % (arg.name, array.ndim, len(arg.shape)))
            if not array.flags.carray:
                array = np.require(array, requirements=["C", "A"])
            arrays.append(array)
            tensor.data = _address(array)
            dim[:array.ndim] = array.shape
        if len(feeds) != len(self._in):
            self._known(feeds)
        return arrays

    def _prepare(self):
        self._check(self._call_prepare(self._context, self._in_tensors, self._out_tensors, C.byref(self._need)))
        need = self._need.value
        if self._arena is None or need > self._arena_bytes:
            self._arena_owner, self._arena = _aligned(need)
            self._arena_bytes = need

    def run(self, output_names, input_feed, run_options=None):
        """The outputs named (all, for None) as a list of arrays; input_feed: name -> array."""
        with self._lock:
            arrays = self._feed(input_feed)
            self._prepare()
            results = []
            for arg, tensor, dim in self._out:
                shape = dim[:len(arg.shape)]
                result = np.empty(shape, arg._dtype) if min(shape, default=0) >= 0 else None
                tensor.data = None if result is None else _address(result)
                results.append(result)
            status = ERR_ARENA
            for _ in range(64):  # a model whose sizes depend on data may find out while running that it needs more memory
                status = self._call_run(self._context, self._in_tensors, self._out_tensors, self._arena, self._arena_bytes)
                if status != ERR_ARENA:
                    break
                self._prepare()
            self._check(status)
            for o, (arg, tensor, dim) in enumerate(self._out):
                if results[o] is None:
                    shape = dim[:len(arg.shape)]
                    size = int(np.prod(shape)) * arg._dtype.itemsize
                    results[o] = np.frombuffer(C.string_at(tensor.data, size), arg._dtype).reshape(shape).copy()
        del arrays
        if output_names is None:
            return results
        place = {arg.name: o for o, arg in enumerate(self._outputs)}
        missing = [n for n in output_names if n not in place]
        if missing:
            raise RunError("no such output: %s" % ", ".join(missing))
        return [results[place[n]] for n in output_names]
