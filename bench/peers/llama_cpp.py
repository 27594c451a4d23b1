"""llama.cpp v0.5.0 through its C API, held to an instruction set and to given CPUs.

    llama_cpp.py logits MODEL.gguf --tokens-file IDS --output OUT.npy [--isa avx512] [--threads 2] [--ubatch 512]
    llama_cpp.py bench MODEL.gguf --prompt 512,2048 --context 0,4096 --batch 1,8 [--isa avx2] [--no-extra-buffers]

The shared libraries are those of the npm package @node-llama-cpp/linux-x64 3.22.1 (bench/peers/install.sh). The structures
below are those of llama.h and ggml.h at tag v0.5.0; another version needs another copy of them, so the file name is checked.
As a module: LlamaCpp (one loaded model), quantize_rows (ggml_quantize_chunk), quantize_model (llama_model_quantize).
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import pathlib
import struct
import sys
import time
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_bool, c_char_p, c_float, c_int8, c_int32, c_int64, c_size_t,
                    c_uint8, c_uint32, c_void_p)

import numpy

RELEASE = "v0.5.0"
# The build of ggml's CPU backend for each instruction set; None: the best one for this machine, as llama.cpp chooses.
ISA_LIBRARIES = {"scalar": "x64", "sse42": "sse42", "avx": "sandybridge", "avx2": "haswell", "avx512": "zen4",
                 "avx512-vnni": "icelake", "amx": "sapphirerapids"}
# ggml_type by the names that GGUF and qnext use.
GGML_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
              "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30, "MXFP4": 39}
# llama_ftype of whole-model recipes.
MODEL_RECIPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11,
                 "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18,
                 "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32}


class ModelParams(Structure):
    _fields_ = [("devices", c_void_p), ("tensor_buft_overrides", c_void_p), ("n_gpu_layers", c_int32),
                ("split_mode", c_int32), ("load_mode", c_int32), ("lazy_mode", c_int32), ("main_gpu", c_int32),
                ("tensor_split", c_void_p), ("progress_callback", c_void_p), ("progress_callback_user_data", c_void_p),
                ("kv_overrides", c_void_p), ("vocab_only", c_bool), ("check_tensors", c_bool), ("use_extra_bufts", c_bool),
                ("no_host", c_bool), ("no_alloc", c_bool), ("load_mtp", c_bool)]


class ContextParams(Structure):
    _fields_ = [("n_ctx", c_uint32), ("n_batch", c_uint32), ("n_ubatch", c_uint32), ("n_seq_max", c_uint32),
                ("n_rs_seq", c_uint32), ("n_outputs_max", c_uint32), ("n_outputs_max_per_seq", c_uint32),
                ("n_threads", c_int32), ("n_threads_batch", c_int32), ("ctx_type", c_int32),
                ("rope_scaling_type", c_int32), ("pooling_type", c_int32), ("attention_type", c_int32),
                ("flash_attn_type", c_int32), ("rope_freq_base", c_float), ("rope_freq_scale", c_float),
                ("yarn_ext_factor", c_float), ("yarn_attn_factor", c_float), ("yarn_beta_fast", c_float),
                ("yarn_beta_slow", c_float), ("yarn_orig_ctx", c_uint32), ("defrag_thold", c_float),
                ("cb_eval", c_void_p), ("cb_eval_user_data", c_void_p), ("type_k", c_int32), ("type_v", c_int32),
                ("abort_callback", c_void_p), ("abort_callback_data", c_void_p), ("embeddings", c_bool),
                ("offload_kqv", c_bool), ("no_perf", c_bool), ("op_offload", c_bool), ("swa_full", c_bool),
                ("kv_unified", c_bool), ("samplers", c_void_p), ("n_samplers", c_size_t), ("ctx_other", c_void_p)]


class Batch(Structure):
    _fields_ = [("n_tokens", c_int32), ("token", POINTER(c_int32)), ("embd", POINTER(c_float)), ("pos", POINTER(c_int32)),
                ("n_seq_id", POINTER(c_int32)), ("seq_id", POINTER(POINTER(c_int32))), ("logits", POINTER(c_int8))]


class ThreadpoolParams(Structure):
    _fields_ = [("cpumask", c_bool * 512), ("n_threads", c_int32), ("prio", c_int32), ("poll", c_uint32),
                ("strict_cpu", c_bool), ("paused", c_bool)]


class ImatrixData(Structure):
    _fields_ = [("name", c_char_p), ("data", POINTER(c_float)), ("size", c_size_t)]


class QuantizeParams(Structure):
    _fields_ = [("nthread", c_int32), ("ftype", c_int32), ("output_tensor_type", c_int32),
                ("token_embedding_type", c_int32), ("allow_requantize", c_bool), ("quantize_output_tensor", c_bool),
                ("only_copy", c_bool), ("pure", c_bool), ("keep_split", c_bool), ("dry_run", c_bool),
                ("imatrix", POINTER(ImatrixData)), ("kv_overrides", c_void_p), ("tt_overrides", c_void_p),
                ("prune_layers", c_void_p), ("max_buf_size", c_size_t)]


LOG_CALLBACK = CFUNCTYPE(None, c_int32, c_char_p, c_void_p)


def library_directory():
    """Where the shared libraries are: $QNEXT_LLAMA_CPP, or what install.sh installed."""
    directory = os.environ.get("QNEXT_LLAMA_CPP")
    path = pathlib.Path(directory) if directory else (
        pathlib.Path(__file__).resolve().parent / "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64")
    if not (path / f"libllama.{RELEASE}.so").exists():
        raise SystemExit(f"{path}: no libllama.{RELEASE}.so; run bench/peers/install.sh")
    return path


class Libraries:
    """The loaded shared libraries: `base` (ggml-base), `ggml`, `llama`, and after load_backend() `cpu`."""

    def __init__(self, verbose=False):
        self.directory = library_directory()
        self.base = ctypes.CDLL(str(self.directory / "libggml-base.so"), ctypes.RTLD_GLOBAL)
        self.ggml = ctypes.CDLL(str(self.directory / f"libggml.{RELEASE}.so"), ctypes.RTLD_GLOBAL)
        self.llama = ctypes.CDLL(str(self.directory / f"libllama.{RELEASE}.so"), ctypes.RTLD_GLOBAL)
        self.cpu = None
        self.log = []

        def on_log(level, text, _):
            line = text.decode(errors="replace")
            self.log.append(line)
            if verbose or level == 4:  # errors
                sys.stderr.write(line)

        self._on_log = LOG_CALLBACK(on_log)  # must outlive the libraries' use of it
        llama = self.llama
        llama.llama_log_set.argtypes = [LOG_CALLBACK, c_void_p]
        llama.llama_log_set(self._on_log, None)
        llama.llama_model_default_params.restype = ModelParams
        llama.llama_context_default_params.restype = ContextParams
        llama.llama_model_quantize_default_params.restype = QuantizeParams
        llama.llama_model_load_from_file.restype = c_void_p
        llama.llama_model_load_from_file.argtypes = [c_char_p, ModelParams]
        llama.llama_model_free.argtypes = [c_void_p]
        llama.llama_model_quantize.restype = c_uint32
        llama.llama_model_quantize.argtypes = [c_char_p, c_char_p, POINTER(QuantizeParams)]
        llama.llama_init_from_model.restype = c_void_p
        llama.llama_init_from_model.argtypes = [c_void_p, ContextParams]
        llama.llama_free.argtypes = [c_void_p]
        llama.llama_decode.restype = c_int32
        llama.llama_decode.argtypes = [c_void_p, Batch]
        llama.llama_get_memory.restype = c_void_p
        llama.llama_get_memory.argtypes = [c_void_p]
        llama.llama_memory_clear.argtypes = [c_void_p, c_bool]
        llama.llama_memory_seq_rm.restype = c_bool
        llama.llama_memory_seq_rm.argtypes = [c_void_p, c_int32, c_int32, c_int32]
        llama.llama_memory_seq_cp.argtypes = [c_void_p, c_int32, c_int32, c_int32, c_int32]
        llama.llama_get_logits_ith.restype = POINTER(c_float)
        llama.llama_get_logits_ith.argtypes = [c_void_p, c_int32]
        llama.llama_model_get_vocab.restype = c_void_p
        llama.llama_model_get_vocab.argtypes = [c_void_p]
        llama.llama_vocab_n_tokens.restype = c_int32
        llama.llama_vocab_n_tokens.argtypes = [c_void_p]
        llama.llama_attach_threadpool.argtypes = [c_void_p, c_void_p, c_void_p]
        llama.llama_detach_threadpool.argtypes = [c_void_p]
        llama.llama_version.restype = c_char_p
        for name in ("llama_state_seq_get_size", "llama_state_seq_get_data", "llama_state_seq_set_data"):
            getattr(llama, name).restype = c_size_t
        llama.llama_state_seq_get_size.argtypes = [c_void_p, c_int32]
        llama.llama_state_seq_get_data.argtypes = [c_void_p, POINTER(c_uint8), c_size_t, c_int32]
        llama.llama_state_seq_set_data.argtypes = [c_void_p, POINTER(c_uint8), c_size_t, c_int32]
        self.ggml.ggml_backend_load.restype = c_void_p
        self.ggml.ggml_backend_load.argtypes = [c_char_p]
        self.base.ggml_quantize_chunk.restype = c_size_t
        self.base.ggml_quantize_chunk.argtypes = [c_int32, POINTER(c_float), c_void_p, c_int64, c_int64, c_int64,
                                                  POINTER(c_float)]
        self.base.ggml_row_size.restype = c_size_t
        self.base.ggml_row_size.argtypes = [c_int32, c_int64]
        self.base.ggml_threadpool_params_init.argtypes = [POINTER(ThreadpoolParams), c_int32]

    def load_backend(self, isa):
        """Registers ggml's CPU backend built for `isa`, and no other."""
        name = f"libggml-cpu-{ISA_LIBRARIES[isa]}.so"
        if not self.ggml.ggml_backend_load(str(self.directory / name).encode()):
            raise SystemExit(f"{name}: this machine cannot run it")
        self.cpu = ctypes.CDLL(str(self.directory / name))
        self.cpu.ggml_threadpool_new.restype = c_void_p
        self.cpu.ggml_threadpool_new.argtypes = [POINTER(ThreadpoolParams)]
        self.cpu.ggml_threadpool_free.argtypes = [c_void_p]


def best_isa():
    """What llama.cpp itself would choose among ISA_LIBRARIES on this machine."""
    flags = set(pathlib.Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    if "amx_int8" in flags:
        return "amx"
    if "avx512_bf16" in flags:
        return "avx512"
    if "avx512_vnni" in flags:
        return "avx512-vnni"
    return "avx2" if "avx2" in flags else "scalar"


def quantize_rows(type_name, rows, importance=None):
    """ggml's own quantisation of float32 rows [n, cols] to bytes; `importance` [cols] or None. Needs no model."""
    base = Libraries().base
    rows = numpy.ascontiguousarray(rows, dtype=numpy.float32)
    count, cols = rows.shape
    out = numpy.empty(count * base.ggml_row_size(GGML_TYPES[type_name], cols), dtype=numpy.uint8)
    weights = None
    if importance is not None:
        importance = numpy.ascontiguousarray(importance, dtype=numpy.float32)
        weights = importance.ctypes.data_as(POINTER(c_float))
    written = base.ggml_quantize_chunk(GGML_TYPES[type_name], rows.ctypes.data_as(POINTER(c_float)),
                                       out.ctypes.data_as(c_void_p), 0, count, cols, weights)
    assert written == out.nbytes, (written, out.nbytes)
    return out


def quantize_model(source, target, recipe, imatrix=None, threads=2, pure=False):
    """llama.cpp's quantisation of a whole GGUF (recipe F32: its decoding). imatrix: {tensor name: importances}, or None."""
    libraries = Libraries()
    libraries.load_backend(best_isa())
    params = libraries.llama.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.pure = threads, MODEL_RECIPES[recipe], pure
    params.allow_requantize = True
    if imatrix:
        entries = (ImatrixData * (len(imatrix) + 1))()  # ended by an entry without a name
        kept = []
        for entry, (name, values) in zip(entries, imatrix.items()):
            values = numpy.ascontiguousarray(values, dtype=numpy.float32)
            kept.append(values)
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(POINTER(c_float))
        params.imatrix = ctypes.cast(entries, POINTER(ImatrixData))
    status = libraries.llama.llama_model_quantize(str(source).encode(), str(target).encode(), byref(params))
    if status != 0:
        raise SystemExit("llama_model_quantize failed:\n" + "".join(libraries.log[-10:]))


def memory():
    """Peak resident memory, and what is resident now of files and of anonymous memory, in bytes."""
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    kib = lambda key: int(status[key].split()[0]) * 1024
    return {"peak_bytes": kib("VmHWM"), "file_bytes": kib("RssFile"), "anonymous_bytes": kib("RssAnon")}


class LlamaCpp:
    """One model and one context. CPUs are the first `threads` of those this process may run on, one thread on each."""

    def __init__(self, model, isa=None, threads=2, context=4096, ubatch=512, sequences=1, extra_buffers=True, verbose=False,
                 kv_type="F16", load_mtp=False, outputs=0):
        """outputs: most rows of a feed that get logits, if more than one; their memory is reserved."""
        self.isa = isa or best_isa()
        self.libraries = Libraries(verbose)
        self.libraries.load_backend(self.isa)
        llama = self.libraries.llama
        self.llama = llama
        start = time.perf_counter()
        params = llama.llama_model_default_params()
        params.use_extra_bufts = extra_buffers
        params.load_mtp = load_mtp
        self.model = llama.llama_model_load_from_file(str(model).encode(), params)
        if not self.model:
            raise SystemExit(f"{model}: llama.cpp does not load it:\n" + "".join(self.libraries.log[-10:]))
        self.load_seconds = time.perf_counter() - start
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = context * sequences, max(ubatch, sequences), ubatch, sequences
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = GGML_TYPES[kv_type]
        params.no_perf = True
        params.n_outputs_max_per_seq = max(outputs, 1)
        self.ubatch, self.sequences, self.threads = ubatch, sequences, threads
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp: no context:\n" + "".join(self.libraries.log[-10:]))
        # One pinned thread per CPU, like qnext's pool: without this the two threads at times share one CPU.
        cpus = sorted(os.sched_getaffinity(0))[:threads]
        pool = ThreadpoolParams()
        self.libraries.base.ggml_threadpool_params_init(byref(pool), threads)
        for cpu in cpus:
            pool.cpumask[cpu] = True
        pool.strict_cpu = True
        self.pool = self.libraries.cpu.ggml_threadpool_new(byref(pool))
        llama.llama_attach_threadpool(self.context, self.pool, self.pool)
        self.lengths = [0] * sequences
        self.memory = llama.llama_get_memory(self.context)

    def close(self):
        self.llama.llama_detach_threadpool(self.context)
        self.llama.llama_free(self.context)
        self.llama.llama_model_free(self.model)
        self.libraries.cpu.ggml_threadpool_free(self.pool)

    def clear(self):
        """Forgets every sequence."""
        self.llama.llama_memory_clear(self.memory, True)
        self.lengths = [0] * self.sequences

    def decode(self, feeds, logits="last"):
        """One llama_decode of [(sequence, tokens), ...]. logits: "last" row of each feed, "all" rows, or "none"."""
        total = sum(len(tokens) for _, tokens in feeds)
        arrays = {"token": (c_int32 * total)(), "pos": (c_int32 * total)(), "n_seq_id": (c_int32 * total)(*[1] * total),
                  "logits": (c_int8 * total)()}
        ids = (c_int32 * total)()
        pointers = (POINTER(c_int32) * total)()
        at = 0
        self.wanted = []
        for sequence, tokens in feeds:
            for i, token in enumerate(tokens):
                arrays["token"][at] = int(token)
                arrays["pos"][at] = self.lengths[sequence] + i
                ids[at] = sequence
                pointers[at] = ctypes.cast(byref(ids, at * 4), POINTER(c_int32))
                if logits == "all" or (logits == "last" and i + 1 == len(tokens)):
                    arrays["logits"][at] = 1
                    self.wanted.append(at)
                at += 1
            self.lengths[sequence] += len(tokens)
        batch = Batch(total, arrays["token"], None, arrays["pos"], arrays["n_seq_id"], pointers, arrays["logits"])
        status = self.llama.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        self.llama.llama_synchronize(ctypes.c_void_p(self.context))

    def logits(self):
        """The rows that the last decode() asked for, [rows, vocab_size], copied."""
        return numpy.stack([numpy.ctypeslib.as_array(self.llama.llama_get_logits_ith(self.context, row), (self.vocab_size,))
                            for row in self.wanted]).copy()

    def prefill(self, tokens, sequence=0, logits="last"):
        """Reads tokens in pieces of `ubatch`; returns logits as decode() does, all pieces together."""
        rows = []
        for begin in range(0, len(tokens), self.ubatch):
            last = begin + self.ubatch >= len(tokens)
            self.decode([(sequence, tokens[begin:begin + self.ubatch])], "none" if logits == "last" and not last else logits)
            if logits == "all" or (logits == "last" and last):
                rows.append(self.logits())
        return numpy.concatenate(rows) if rows else None

    def fill(self, sequence, length, computed=512):
        """Gives a sequence `length` tokens of context. Beyond `computed` keys and values are copies of computed ones (through
        the saved form of a sequence's state): reading a long prompt takes minutes, and attention costs the same."""
        tokens = numpy.arange(min(length, computed)) * 7919 % self.vocab_size
        self.prefill(tokens, sequence, "none")
        if length <= computed:
            return
        size = self.llama.llama_state_seq_get_size(self.context, sequence)
        state = (c_uint8 * size)()
        self.llama.llama_state_seq_get_data(self.context, state, size, sequence)
        longer = lengthened_state(bytes(state), length)
        data = (c_uint8 * len(longer)).from_buffer_copy(longer)
        if not self.llama.llama_state_seq_set_data(self.context, data, len(longer), sequence):
            raise SystemExit("llama.cpp does not take the state back:\n" + "".join(self.libraries.log[-5:]))
        self.lengths[sequence] = length


def lengthened_state(state, length):
    """The saved state of a sequence with the cells of its KV cache repeated up to `length` tokens.
    Layout at v0.5.0: magic, sequence, streams; per stream cells, per cell (position, count of sequences, sequences); then a flag
    for transposed values, layers, per layer key type, row size, rows; the same for values; then the recurrent state,
    which begins with its count of cells and the position of each."""
    out, at = bytearray(), 0

    def take(format_):
        nonlocal at
        values = struct.unpack_from("<" + format_, state, at)
        at += struct.calcsize("<" + format_)
        return values

    out += struct.pack("<Ii", *take("Ii"))
    (streams,) = take("I")
    out += struct.pack("<I", streams)
    for _ in range(streams):
        (cells,) = take("I")
        out += struct.pack("<I", length if cells else 0)
        if cells == 0:
            continue
        for _ in range(cells):
            _, count = take("iI")
            owners = take(f"{count}i")
        for position in range(length):
            out += struct.pack(f"<iI{len(owners)}i", position, len(owners), *owners)
        transposed, layers = take("II")
        assert not transposed, "values are transposed: flash attention is off"
        out += struct.pack("<II", transposed, layers)
        for _ in range(2 * layers):  # keys of all layers, then values
            type_, row = take("iQ")
            rows = state[at:at + cells * row]
            at += cells * row
            out += struct.pack("<iQ", type_, row) + (rows * (length // cells + 1))[:length * row]
    (cells,) = take("I")  # of the recurrent state: one, at the last position
    assert cells == 1
    out += struct.pack("<Ii", cells, length - 1)
    return bytes(out + state[at + 4:])


def spin(pipe, cpu):
    """A process that, whenever it is told a time, spins so long on one CPU and answers with the share it really ran."""
    os.sched_setaffinity(0, {cpu})
    clock = time.perf_counter
    while True:
        seconds = pipe.recv()
        if seconds is None:
            return
        start = last = clock()
        lost = 0.0
        while last - start < seconds:
            now = clock()
            if now - last > 50e-6:  # turns of this loop take well under a microsecond
                lost += now - last
            last = now
        pipe.send(1 - lost / (last - start))


class Gate:
    """Measures as `qnext bench` does: groups between probes of the delivered CPU, the median of those with at least 90 %; the
    fastest of all when there is none."""

    def __init__(self, threads, probe=0.06, groups=5, seconds=20.0):
        self.probe_seconds, self.groups, self.seconds = probe, groups, seconds
        self.pipes, self.processes = [], []
        for cpu in sorted(os.sched_getaffinity(0))[:threads]:
            here, there = multiprocessing.Pipe()
            process = multiprocessing.Process(target=spin, args=(there, cpu), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def probe(self):
        if self.probe_seconds <= 0:
            return 1.0
        time.sleep(0.3)  # llama.cpp's workers spin for some 0.1 s after a step; the probe would see them as a loss
        for pipe in self.pipes:
            pipe.send(self.probe_seconds)
        return min(pipe.recv() for pipe in self.pipes)

    def measure(self, group):
        """Runs group() (which returns seconds) until enough passed; {"seconds", "groups_kept", "groups_dropped", "delivered_cpu"}."""
        kept, dropped, probes = [], [], [self.probe()]
        start = time.perf_counter()
        while True:
            seconds = group()
            probes.append(self.probe())
            (kept if min(probes[-2:]) >= 0.9 else dropped).append(seconds)
            if len(kept) >= self.groups or time.perf_counter() - start > self.seconds:
                break
        return {"seconds": float(numpy.median(kept)) if kept else min(dropped), "groups_kept": len(kept),
                "groups_dropped": len(dropped), "delivered_cpu": float(numpy.median(probes))}


def bench(arguments):
    """The report of `qnext bench --json` as far as llama.cpp has it. A prompt is taken as its pieces of `ubatch` tokens, each
    at its depth, up to four depths measured and the others interpolated."""
    gate = Gate(arguments.threads, arguments.probe, arguments.groups, arguments.seconds)
    deepest = max([*arguments.prompt, *(c + 4096 for c in arguments.context)])
    sequences = max(arguments.batch)
    start = time.perf_counter()
    peer = LlamaCpp(arguments.model, arguments.isa, arguments.threads, deepest, arguments.ubatch, sequences,
                    not arguments.no_extra_buffers, arguments.verbose)
    opened = time.perf_counter() - start
    peer.decode([(0, [1])])
    report = {"model": arguments.model, "backend": f"llama.cpp {RELEASE} {peer.isa}", "isa": peer.isa,
              "threads": arguments.threads, "chunk": arguments.ubatch, "extra_buffers": not arguments.no_extra_buffers,
              "open_seconds": opened, "first_token_seconds": time.perf_counter() - start, "prefill": [], "decode": []}
    generator = numpy.random.default_rng(1)
    tokens = lambda count: generator.integers(0, peer.vocab_size, count)

    def timed(feeds, logits):
        begin = time.perf_counter()
        peer.decode(feeds, logits)
        return time.perf_counter() - begin

    pieces = {}  # (depth, rows) -> measurement

    def piece(depth, rows):
        def group():
            peer.clear()
            if depth:
                peer.fill(0, depth)
            return timed([(0, tokens(rows))], "last")
        if (depth, rows) not in pieces:
            pieces[depth, rows] = gate.measure(group)
        return pieces[depth, rows]

    for count in arguments.prompt:
        rows = min(count, arguments.ubatch)
        steps = -(-count // rows)
        measured = sorted({round(i * (steps - 1) / 3) for i in range(4)}) if steps > 1 else [0]
        results = [piece(step * rows, rows) for step in measured]
        seconds = sum(numpy.interp(range(steps), measured, [r["seconds"] for r in results])) * count / (steps * rows)
        report["prefill"].append({"tokens": count, "seconds": float(seconds), "tokens_per_second": count / seconds,
                                  "groups_kept": min(r["groups_kept"] for r in results),
                                  "groups_dropped": sum(r["groups_dropped"] for r in results),
                                  "delivered_cpu": min(r["delivered_cpu"] for r in results)})
        print(json.dumps(report["prefill"][-1]), file=sys.stderr)
    for batch in arguments.batch:
        for depth in arguments.context:
            peer.clear()
            for sequence in range(batch):
                if depth:
                    peer.fill(sequence, depth)
            step = lambda: timed([(sequence, tokens(1)) for sequence in range(batch)], "last")
            first = step()
            steps = 1 if first > 0.5 else 2 if first > 0.2 else 8
            result = gate.measure(lambda: sum(step() for _ in range(steps)) / steps)
            report["decode"].append({"context": depth, "batch": batch, "tokens_per_second": batch / result["seconds"], **result})
            print(json.dumps(report["decode"][-1]), file=sys.stderr)
    report["memory"] = memory()
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    numbers = lambda text: [int(n) for n in text.split(",")]
    for name in ("logits", "bench"):
        command = commands.add_parser(name)
        command.add_argument("model")
        command.add_argument("--isa", choices=ISA_LIBRARIES, default=None)
        command.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
        command.add_argument("--ubatch", type=int, default=512)
        command.add_argument("--no-extra-buffers", action="store_true", help="no repacked copies of the weights, no AMX")
        command.add_argument("--verbose", action="store_true")
        if name == "logits":
            command.add_argument("--tokens-file", required=True, help="token ids separated by white space")
            command.add_argument("--output", required=True, help=".npy, [tokens, vocabulary] float32")
        else:
            command.add_argument("--prompt", type=numbers, default=[512, 2048])
            command.add_argument("--context", type=numbers, default=[0, 4096])
            command.add_argument("--batch", type=numbers, default=[1])
            command.add_argument("--groups", type=int, default=5)
            command.add_argument("--seconds", type=float, default=20)
            command.add_argument("--probe", type=float, default=0.06)
    arguments = parser.parse_args()
    if arguments.command == "bench":
        print(json.dumps(bench(arguments)))
        return
    tokens = [int(word) for word in pathlib.Path(arguments.tokens_file).read_text().split()]
    peer = LlamaCpp(arguments.model, arguments.isa, arguments.threads, len(tokens) + 1, arguments.ubatch,
                    extra_buffers=not arguments.no_extra_buffers, verbose=arguments.verbose, outputs=arguments.ubatch)
    numpy.save(arguments.output, peer.prefill(tokens, logits="all"))


if __name__ == "__main__":
    main()
