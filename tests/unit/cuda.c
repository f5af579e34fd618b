/* CUDA texts: scheduled kernels against the interpreter on the CPU shim, on a GPU where there is one, and through NVRTC where that is
 * installed. */
#include "tests/unit/cuda_host.h"
#include <float.h>
#include <math.h>

static Arena mem;
static Diag diag;
static void setup(void) { diag = (Diag){.mem = &mem, .subject = "t"}; }
static void teardown(void) { arena_drop(&mem); }
TestSuite(cuda, .init = setup, .fini = teardown, .timeout = 120);

/* Every buffer of 4096 elements is filled from its own sequence; the sizes are 37 and 70. */
static const char *const kernels[] = {
    "kernel chain(M, N) { in X[M, N], S[N], B[1], R[M, N] out Y[M, N]"
    "  Y[i, j] = max(X[i, j] * S[j] + B[0], 0) * tanh(R[i, j]) + exp(-X[i, j] * X[i, j])"
    "  schedule: split j 32; block.y i; block.x j.0; thread.x j.1 }",
    "kernel softmax(R, C) { in X[R, C] out Y[R, C] tmp m[R], s[R]"
    "  m[r] = max(c: C) X[r, c]  s[r] = sum(c: C) exp(X[r, c] - m[r]) keep Y[r, c] then 1 / it  Y[r, c] = Y[r, c] * "
    "s[r]"
    "  schedule: share r; block.x r; split c 32; thread.x c.1; partial c.1 }",
    "kernel matmul(M, N) { in A: u8[M, N], W: i8[M, N] out Y: i32[M, M]"
    "  Y[m, n] = sum(k: N) i32(A[m, k]) * i32(W[n, k])"
    "  schedule: split m 8; split n 8; block.y m.0; block.x n.0; thread.y m.1; thread.x n.1; order m.0 n.0 m.1 n.1 }",
    "kernel padded(M, N) { in X[M, N] out Y[M, N]"
    "  Y[i, j] = sum(d: 3) guard(1 <= j + d && j + d < N + 1, X[i, j + d - 1], 0.5)"
    "  schedule: split j 32; block.y i; block.x j.0; thread.x j.1; unroll d }",
    "kernel types(M, N) { in H: f16[M, N], B: bf16[M, N], E: f8e4m3fn[M, N], D: f64[M, N], I: i32[M, N]"
    "  out F: f16[M, N], G: bf16[M, N], P: f8e4m3fn[M, N], Q: i8[M, N], W: i32[M, N], T: bool[M, N], V: f64[M, N]"
    "  F[i, j] = f16(f32(H[i, j]) * 1.25 + f32(E[i, j]))  G[i, j] = bf16(f32(B[i, j]) / 3)  P[i, j] = "
    "f8e4m3fn(f32(H[i, j]) * 7)"
    "  Q[i, j] = sat_i8(rint(f32(H[i, j]) * 50))  W[i, j] = I[i, j] * 1103515245 + 12345 - (I[i, j] / (I[i, j] % 3))"
    "  T[i, j] = !(I[i, j] < 100) || D[i, j] > 0  V[i, j] = exp(D[i, j]) + f64(bits(f32(D[i, j])))"
    "  schedule: share i j; block.x i; thread.x j }",
    "kernel pow_and_sin(M, N) { in X[M, N], Y[M, N] out P[M, N], S[M, N]"
    "  P[i, j] = pow(X[i, j], Y[i, j])  S[i, j] = sin(X[i, j]) + log(abs(Y[i, j])) schedule: share i; block.x i; split "
    "j 32; thread.x j.1 }",
    "kernel gather(M, N) { in X[M, N], I: i64[N] out Y[M, N]"
    "  Y[i, j] = X[I[j] % M, j] check 0 <= I[j] schedule: block.x i; thread.x j }",
};
enum { KERNELS = COUNT_OF(kernels), ELEMENTS = 4096, MAX_BUFS = 16 };
static const int64_t sizes[] = {37, 70};

static Kernel *scheduled(const char *text)
{
    const char *error = NULL;
    Kernel *k = kernel_parse(&mem, dims_new(&mem), text, &diag);
    if (!k) diag_print(&diag, stderr);
    cr_assert(k);
    Kernel *s = schedule_apply(k, &error);
    cr_assert(s, "%s", error);
    return s;
}

static const char *source(Kernel **k)
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    for (int i = 0; i < KERNELS; i++) k[i] = scheduled(kernels[i]), cuda_emit(k[i], k[i]->name, f);
    fclose(f);
    const char *copy = arena_text(&mem, text, n);
    free(text);
    return copy;
}

static void *fill(DType t, unsigned seed)
{
    void *p = arena_alloc(&mem, ELEMENTS * 8);
    for (int i = 0; i < ELEMENTS; i++) {
        seed = seed * 1664525u + 1013904223u;
        double v = (double)(seed >> 8) / (1 << 22) - 2;
        if (dtype_is_float(t)) dtype_store(t, p, i, i % 97 == 5 ? (double)NAN : i % 89 == 7 ? 300 * v : v);
        else dtype_store_int(t, p, i, t == DT_i64 ? seed >> 20 : seed >> 3);
    }
    return p;
}

static bool is_input(const Kernel *k, uint32_t b) { return k->buf.at[b].kind == BUF_IN; }

/* exp of a double is the library's, and CUDA's may be one unit in the last place off (CUDA C++ Programming Guide, Mathematical Functions). */
static double room_of(DType t) { return t == DT_f32 ? 2e-6 : t == DT_f64 ? DBL_EPSILON : 0; }

static void compare(const Kernel *k, uint32_t b, const void *want, const void *got)
{
    const Buf *buf = &k->buf.at[b];
    for (int i = 0; i < ELEMENTS; i++) {
        double x = dtype_load(buf->type, want, i), y = dtype_load(buf->type, got, i), room = room_of(buf->type);
        bool same = (isnan(x) && isnan(y)) || x == y || fabs(x - y) <= room * fmax(1, fabs(x));
        cr_assert(same, "%s: %s[%d] is %.9g, expected %.9g", k->name, buf->name, i, y, x);
    }
}

static void *memory(const Kernel *k, uint32_t b)
{
    return is_input(k, b) ? fill(k->buf.at[b].type, b) : arena_alloc(&mem, ELEMENTS * 8);
}

static int run(void *library, const char *name, void *const *buf, uint32_t bufs)
{
    size_t bytes[MAX_BUFS];
    for (uint32_t b = 0; b < bufs; b++) bytes[b] = ELEMENTS * 8;
    return cuda_host_run(library, name, sizes, buf, bytes, bufs);
}

static void check(const char *formula_text, Kernel *k, void *library)
{
    void *formula[MAX_BUFS] = {0}, *loops[MAX_BUFS] = {0}, *device[MAX_BUFS] = {0};
    Kernel *whole = kernel_parse(&mem, dims_new(&mem), formula_text, &diag);
    uint32_t bufs = 0;
    for (uint32_t b = 1; b < whole->buf.n; b++) {
        formula[b] = memory(whole, b), loops[b] = memory(whole, b);
        if (k->buf.at[b].kind <= BUF_CONST) device[bufs++] = memory(whole, b);
        else loops[b] = NULL;
    }
    void *const *out = device;
    cr_assert_eq(interp_compute(whole, sizes, formula), 0, "%s", k->name);
    cr_assert_eq(interp_loops(k, sizes, loops), 0, "%s", k->name);
    cr_assert_eq(run(library, k->name, device, bufs), 0);
    for (uint32_t b = 1; b < whole->buf.n; b++) {
        if (k->buf.at[b].kind > BUF_CONST) continue;
        if (k->buf.at[b].kind == BUF_OUT) compare(k, b, formula[b], loops[b]), compare(k, b, formula[b], *out);
        out++;
    }
}

static void texts_run(const CudaHost *host)
{
    Kernel *k[KERNELS];
    const char *text = source(k);
    if (!cuda_host_present(host)) cr_skip_test("%s", host->absent);
    void *library = cuda_host_library(host, text);
    for (int i = 0; i < KERNELS; i++) check(kernels[i], k[i], library);
}

static void failed_check_is_reported(const CudaHost *host)
{
    Kernel *k[KERNELS];
    const char *text = source(k);
    if (!cuda_host_present(host)) cr_skip_test("%s", host->absent);
    int64_t *index = fill(DT_i64, 1);
    index[3] = -1;
    void *buf[] = {fill(DT_f32, 2), index, fill(DT_f32, 3)};
    cr_expect_eq(run(cuda_host_library(host, text), "gather", buf, COUNT_OF(buf)), OCTET_ERR_INDEX);
}

Test(cuda, texts_on_the_shim) { texts_run(&cuda_shim); }
Test(cuda, texts_on_a_gpu) { texts_run(&cuda_gpu); }
Test(cuda, failed_check_is_reported) { failed_check_is_reported(&cuda_shim); }
Test(cuda, failed_check_is_reported_by_a_gpu) { failed_check_is_reported(&cuda_gpu); }

Test(cuda, nvrtc)
{
    Kernel *k[KERNELS];
    const char *text = source(k);
    Bytes code = {0};
    if (!nvrtc_present(NULL)) {
        cr_expect(!nvrtc_compile(&mem, &diag, NULL, text, "sm_90", &code) && diag.errors == 1);
        return;
    }
    bool ok = nvrtc_compile(&mem, &diag, NULL, text, "sm_90", &code);
    if (!ok) diag_print(&diag, stderr);
    cr_expect(ok && code.n > 1000);
    cr_expect(nvrtc_compile(&mem, &diag, NULL, text, "compute_80", &code) && strstr(code.at, ".entry softmax"));
    cr_expect(!nvrtc_compile(&mem, &diag, NULL, "no text of ours", "sm_90", &code));
}
