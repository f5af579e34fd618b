/* LLVM code against the interpreter: kernels as text, every level this machine has, sizes around the lane count, every buffer
 * between two unmapped pages, the parallel range cut in two. */
#include "codegen/codegen.h"
#include <criterion/criterion.h>
#include <math.h>
#include <sys/mman.h>

enum { PAGE = 4096, MAX_BUFS = 16, MAX_SYMS = 8 };

/* ---- memory that faults on either side ---- */
typedef struct Fence {
    char *map;
    size_t bytes;
    char *at;
    size_t n;
} Fence;

static Fence fence_new(size_t n, bool at_end)
{
    size_t room = (n + PAGE - 1) / PAGE * PAGE;
    Fence f = {.bytes = room + 2 * PAGE, .n = n};
    f.map = mmap(NULL, f.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(f.map != MAP_FAILED);
    mprotect(f.map, PAGE, PROT_NONE), mprotect(f.map + PAGE + room, PAGE, PROT_NONE);
    f.at = f.map + PAGE + (at_end ? room - n : 0);
    return f;
}

/* ---- the sizes of a call ---- */
static int64_t number(const Kernel *k, Expr e, const int64_t *size)
{
    const ExprNode n = *expr_node(k, e);
    int64_t v = n.u.i, a, b;
    if (n.kind == E_INT) return v;
    if (n.kind == E_SYM) {
        cr_assert(dim_eval(k->dim, (Dim){n.id}, size, &v));
        return v;
    }
    cr_assert(n.kind == E_PRIM);
    a = number(k, n.arg[0], size), b = number(k, n.arg[1], size);
    switch ((int)n.prim) {
    case P_add: return a + b;
    case P_sub: return a - b;
    case P_mul: return a * b;
    case P_div: return a / b;
    case P_max: return a > b ? a : b;
    default: cr_assert_fail("size"); return 0;
    }
}

/* ---- data ---- */
static unsigned random_next(unsigned *s) { return *s = *s * 1664525u + 1013904223u, *s >> 8; }

/* Buffers named I* hold indices below 5; those named P* every bit pattern in turn; others small numbers with a few odd ones. */
static void fill(const Buf *b, char *at, int64_t n, unsigned seed, bool padded)
{
    for (int64_t i = 0; i < n; i++) {
        unsigned r = random_next(&seed);
        if (b->name[0] == 'I') dtype_store_int(b->type, at, i, r % 5);
        else if (b->name[0] == 'P')
            memcpy(at + i * dtypes[b->type].bytes, &(uint64_t){(uint64_t)i * (b->type == DT_u8 ? 1 : 37) + seed % 7},
                   (size_t)dtypes[b->type].bytes);
        else if (dtype_is_float(b->type))
            dtype_store(b->type, at, i,
                        padded                             ? 0
                        : r % 41 == 3 && b->name[0] == 'N' ? (double)NAN
                                                           : ((double)(r % 4001) - 2000) / 700);
        else dtype_store_int(b->type, at, i, padded ? 0 : (int64_t)(r % 256) - (b->type == DT_u8 ? 0 : 128));
    }
}

/* Same integers; floats within a few units (`ulps` of f32's 2^-24), NaN with NaN. */
static bool same(DType t, const char *a, const char *b, int64_t i, double ulps)
{
    if (!dtype_is_float(t)) return dtype_load_int(t, a, i) == dtype_load_int(t, b, i);
    double x = dtype_load(t, a, i), y = dtype_load(t, b, i);
    if (isnan(x) || isnan(y)) return isnan(x) && isnan(y);
    if (isinf(x) || isinf(y)) return x == y;
    return fabs(x - y) <= ulps * 0x1p-24 * fmax(1, fabs(y));
}

typedef struct Case {
    const char *text;
    double ulps;  /* 0: exact */
    int64_t most; /* largest size to try; 0: 100 */
    int code;     /* what the call returns */
    bool small;   /* compiled for little code */
} Case;

static bool host_has(const Target *t) { return t && !t->gpu && !(t->needs & ~target_host_features()); }

static void compare(Kernel *k, OctetKernel f, const Case *c, const Target *t, const int64_t *size, unsigned seed)
{
    Fence want[MAX_BUFS], got[MAX_BUFS];
    void *buf[MAX_BUFS], *all[64] = {NULL};
    uint32_t params = kernel_params(k);
    cr_assert(params <= MAX_BUFS && k->buf.n <= COUNT_OF(all));
    for (uint32_t i = 0; i < params; i++) {
        const Buf *b = &k->buf.at[i + 1];
        int64_t n = number(k, buf_elements(k, (int)i + 1), size);
        size_t bytes = (size_t)n * (size_t)dtypes[b->type].bytes;
        want[i] = fence_new(bytes, true), got[i] = fence_new(bytes, seed % 2 || b->layout.n);
        fill(b, want[i].at, n, seed + i, b->layout.n && b->kind == BUF_CONST && seed % 3 == 0);
        memcpy(got[i].at, want[i].at, bytes);
        all[i + 1] = want[i].at, buf[i] = got[i].at;
    }
    Fence scratch = fence_new((size_t)number(k, kernel_scratch(k), size), true);
    cr_assert((uintptr_t)scratch.at % 64 == 0);
    int code = interp_loops(k, size, all);
    cr_expect(code == c->code, "%s: interpreter: code %d", k->name, code);
    int64_t range = number(k, kernel_range(k), size), half = range / 2;
    int32_t r = half ? f(buf, size, 0, half, scratch.at) : 0;
    if (!r) r = f(buf, size, half, range, scratch.at);
    cr_expect(r == c->code, "%s on %s: code %d", k->name, t->name, r);
    for (uint32_t i = 0; i < params && !c->code; i++) {
        const Buf *b = &k->buf.at[i + 1];
        int64_t n = number(k, buf_elements(k, (int)i + 1), size), bad = 0, first = 0;
        for (int64_t e = n; e-- > 0;)
            if (!same(b->type, got[i].at, want[i].at, e, c->ulps)) bad++, first = e;
        cr_expect(!bad, "%s on %s, sizes %ld %ld %ld: %s differs in %ld of %ld, first [%ld]: %.9g, wanted %.9g",
                  k->name, t->name, (long)size[0], (long)size[1], (long)size[2], b->name, (long)bad, (long)n,
                  (long)first, dtype_load(b->type, got[i].at, first), dtype_load(b->type, want[i].at, first));
    }
    for (uint32_t i = 0; i < params; i++) munmap(want[i].map, want[i].bytes), munmap(got[i].map, got[i].bytes);
    munmap(scratch.map, scratch.bytes);
}

static void run_level(LlvmJit *jit, Diag *diag, const Case *c, const Target *t)
{
    static const int64_t sizes[] = {0, 1, 15, 16, 17, 40, 100};
    Arena mem = {0};
    const char *error = NULL;
    Kernel *k = kernel_parse(&mem, dims_new(&mem), c->text, diag);
    if (!k) diag_print(diag, stderr);
    cr_assert(k, "%.40s does not parse", c->text);
    k = schedule_apply(k, &error);
    cr_assert(k, "%.40s: %s", c->text, error);
    OctetKernel f = llvm_jit_add(jit, &(LlvmJob){k, t, "kernel", c->small});
    if (!f) diag_print(diag, stderr);
    cr_assert(f, "%s on %s does not compile", k->name, t->name);
    uint32_t n = dim_symbols(k->dim);
    for (unsigned trial = 0; trial < (n ? 6 + 5 * n : 1); trial++) {
        int64_t size[MAX_SYMS] = {0};
        unsigned seed = trial * 77 + 5;
        for (uint32_t i = 0; i < n; i++) {
            size[i] = trial < COUNT_OF(sizes) && i == 0 ? sizes[trial] : sizes[random_next(&seed) % COUNT_OF(sizes)];
            if (c->most && size[i] > c->most) size[i] = c->most;
        }
        compare(k, f, c, t, size, trial * 31 + 1);
    }
    arena_drop(&mem);
}

static void run(const Case *c, size_t n)
{
    Arena mem = {0};
    Diag diag = {.mem = &mem, .subject = ""};
    LlvmJit *jit = llvm_jit_new(&diag);
    cr_assert(jit);
    for (size_t i = 0; i < n; i++)
        for (uint32_t l = 0; target_at(l); l++)
            if (host_has(target_at(l))) run_level(jit, &diag, &c[i], target_at(l));
    llvm_jit_drop(jit);
    arena_drop(&mem);
}
#define CASES(name, ...)                                                                                               \
    Test(llvm, name)                                                                                                   \
    {                                                                                                                  \
        static const Case c[] = {__VA_ARGS__};                                                                         \
        run(c, COUNT_OF(c));                                                                                           \
    }

/* clang-format off */
CASES(elementwise,
    {"kernel chain(M, N) { in X[M, N], S[N], B[1], R[M, N] out Y[M, N]"
     " Y[i, j] = max(X[i, j] * S[j] + B[0], 0) * tanh(R[i, j]) + exp(-X[i, j] * X[i, j])"
     " schedule: split j 4 16; parallel i; unroll j.1; vectorize j.2 }", 8, 0, 0},
    {"kernel transpose(M, N) { in X[M, N] out Y[N, M] Y[j, i] = X[i, j]"
     " schedule: split j 16; split i 16; order j.0 i.0 j.1 i.1; unroll j.1; vectorize i.1 }", 0, 0, 0},
    {"kernel turn_bytes(M, N) { in X: u8[M, N] out Y: u8[N, M] Y[j, i] = X[i, j]"
     " schedule: split j 16; split i 16; order j.0 i.0 j.1 i.1; vectorize i.1 }", 0, 0, 0},
    {"kernel turn_longs(M, N) { in X: i64[M, N], C: i64[M] out Y: i64[N, M] Y[j, i] = X[i, j] + C[i]"
     " schedule: split j 16; split i 16; order j.0 i.0 j.1 i.1; vectorize i.1 }", 0, 0, 0},
    {"kernel turn_words(M, N) { in X: u8[M, N] out Y: u8[N, M] layout(1/16, 0/4, 1%16, 0%4) Y[j, i] = X[i, j]"
     " schedule: split j 16; split i 16; order i.0 j.0 j.1 i.1; vectorize i.1 }", 0, 0, 0},
    {"kernel weave_words(M, N) { in X: u8[M, N] out Y: u8[M, N] layout(1/16, 0/4, 1%16, 0%4) Y[i, j] = X[i, j]"
     " schedule: split i 4; split j 16; order i.0 j.0 j.1 i.1; vectorize j.1; unroll i.1 }", 0, 0, 0},
    {"kernel turn_more(M, N) { in X[M, N], R[N], C[M], Z[N, M] out Y[N, M] Y[j, i] = X[i, j] * R[j] + C[i] * 2"
     " schedule: split j 16; split i 16; order j.0 i.0 j.1 i.1; vectorize i.1 }", 0, 0, 0},
    {"kernel two(M, N) { in X[M, N], C: bool[N] out Y[M, N], Z: bool[M, N]"
     " Y[i, j] = select(C[j], X[i, j], -X[i, j]) Z[i, j] = C[j] && (X[i, j] < 0)"
     " schedule: split j 16; parallel i j.0; vectorize j.1 }", 0, 0, 0},
    {"kernel stack(M) { in X[M] out Y[M] Y[i] = floor(X[i]) + ceil(X[i] * 3) * trunc(X[i] * 5) + rint(X[i] * 4)"
     " schedule: split i 16; vectorize i.1 }", 0, 0, 0})

CASES(reductions,
    {"kernel softmax(R, C) { in X[R, C] out Y[R, C] tmp m[R], s[R] m[r] = max(c: C) X[r, c]"
     " s[r] = sum(c: C) exp(X[r, c] - m[r]) keep Y[r, c] then 1 / it Y[r, c] = Y[r, c] * s[r]"
     " schedule: share r; parallel r; split c 4 16; unroll c.1; vectorize c.2; partial c.1 c.2 }", 40, 0, 0},
    {"kernel layernorm(R, C) { in X[R, C], G[C], B[C] out Y[R, C] tmp a[R], v[R] a[r] = sum(c: C) X[r, c] then it / f32(C)"
     " v[r] = sum(c: C) (X[r, c] - a[r]) * (X[r, c] - a[r]) then rsqrt(it / f32(C) + 0.00001)"
     " Y[r, c] = (X[r, c] - a[r]) * v[r] * G[c] + B[c]"
     " schedule: share r; parallel r; split c 4 16; unroll c.1; vectorize c.2; partial c.1 c.2 }", 400, 0, 0},
    {"kernel row_max(R, C) { in N[R, C] out Y[R] Y[r] = max(c: C) N[r, c]"
     " schedule: parallel r; split c 4 16; unroll c.1; vectorize c.2; partial c.1 c.2 }", 0, 0, 0},
    {"kernel sums(R, C) { in X: i32[R, C], Z: bool[R, C] out Y: i32[R], A: bool[R] Y[r] = sum(c: C) X[r, c] * X[r, c] A[r] = all(c: C) Z[r, c]"
     " schedule: parallel r; split c 16; vectorize c.1; partial c.1 }", 0, 0, 0},
    {"kernel dot_of_bytes(N) { in X: u8[N, 16] const W: i8[N, 16] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[N]" /* of which LLVM makes one instruction */
     " Y[n] = sum(c: 16) i32(X[n, c]) * i32(W[n, c]) then it - 48 schedule: split c 16; vectorize c.1; partial c.1 }", 0, 40, 0})

CASES(blocks, /* rows of a block are all there is of what lies between two products; how long they are the call says */
    {"kernel attention(B, S) { in Q[B, S, 16], K[B, 16, S], V[B, S, 16] out Y[B, S, 16] tmp s[B, S, S], m[B, S], e[B, S, S], z[B, S]"
     " s[b, q, t] = sum(d: 16) Q[b, q, d] * K[b, d, t] then it * 0.25 share 1 m[b, q] = larger(u: S) s[b, q, u] share 1"
     " z[b, q] = sum(w: S) exp(s[b, q, w] - m[b, q]) keep e[b, q, w] then 1 / it share 1"
     " Y[b, q, v] = sum(x: S) e[b, q, x] * V[b, x, v] then it * z[b, q] share 1"
     " schedule: split q 6; share b q.0; parallel b q.0; split t 2 16; order t.0 d q.1 t.1 t.2; unroll t.1; vectorize t.2; call contract d;"
     " split u 16; vectorize u.1; order q.1 u.0 u.1; partial u.1; split w 2 16; unroll w.1; vectorize w.2; order q.1 w.0 w.1 w.2; partial w.1 w.2;"
     " split v 1 16; order v.0 x q.1 v.1 v.2; unroll v.1; vectorize v.2; call contract x }", 400, 0, 0})

CASES(lanes_outside,
    {"kernel column_sums(M, N) { in X[M, N] out Y[N] Y[j] = sum(i: M) X[i, j] * X[i, j] schedule: split j 16; order j.0 j.1 i; vectorize j.1 }", 400, 40, 0},
    {"kernel last_wins(M) { in X[M] out Y[1] Y[0] for i: M = X[i] schedule: split i 16; vectorize i.1 }", 0, 0, 0},
    {"kernel chosen(M) { in X[M], I: i64[M] out Y[5] Y[I[i]] for i: M = X[i] where 0 < X[i] schedule: split i 16; vectorize i.1 }", 0, 0, 0})

CASES(guards,
    {"kernel pad(H, W) { in X[H, W] out Y[H + 2, W + 3] Y[i, j] = guard((1 <= i) && (i < H + 1) && (2 <= j) && (j < W + 2), X[i - 1, j - 2], 7.0)"
     " schedule: split j 16; parallel i; vectorize j.1 }", 0, 0, 0},
    {"kernel concat(N, A, B) { in X[N, A], Y[N, B] out Z[N, A + B] Z[i, j] = guard(j < A, X[i, j], guard(A <= j, Y[i, j - A], 0.0))"
     " schedule: split j 16; vectorize j.1 }", 0, 0, 0},
    {"kernel scalar_under_mask(N) { in X[N], S[N] out Y[N + 20] Y[i] = guard(i < N, X[i] * S[0], -1.0)"
     " schedule: split i 16; vectorize i.1 }", 0, 0, 0},
    {"kernel conv(W) { in X[2, 4, 9, W], F[6, 4, 3, 3], B[6] out Y[2, 6, 9, W]"
     " Y[n, o, h, w] = sum(c: 4, i: 3, j: 3) guard((1 <= h + i) && (h + i < 10) && (1 <= w + j) && (w + j < W + 1), X[n, c, h + i - 1, w + j - 1], 0.0) * F[o, c, i, j]"
     " then max(it + B[o], 0)"
     " schedule: split w 16; split o 4; order n o.0 h w.0 c i j o.1 w.1; parallel n; unroll i j o.1; vectorize w.1 }", 400, 40, 0})

CASES(indices,
    {"kernel gather(M, N) { in X[5, N], I: i64[M] out Y[M, N] Y[i, j] = X[I[i], j] check (0 <= I[i]) && (I[i] < 5)"
     " schedule: split j 16; parallel i; vectorize j.1 }", 0, 0, 0},
    {"kernel pick(M) { in X: u8[5], I: i64[M] out Y: u8[M] Y[i] = X[I[i]] check (0 <= I[i]) && (I[i] < 5) schedule: split i 16; vectorize i.1 }", 0, 0, 0},
    {"kernel refused(M) { in X[4], I: i64[100] out Y[100] Y[i] = X[I[i]] check (0 <= I[i]) && (I[i] < 4) schedule: split i 16; vectorize i.1 }", 0, 0, 6},
    {"kernel scatter(M) { in X[M], I: i64[M] out Y[5] Y[d] = 0 Y[I[i]] for i: M add= X[i] schedule: split i 16; vectorize i.1 }", 60, 0, 0},
    {"kernel anywhere(M) { in X[M], I: i64[M] out Y[5] Y[d] = 0 Y[abs(I[i]) % 5] for i: M add= X[i] schedule: split i 16; vectorize i.1 }", 60, 0, 0},
    {"kernel strided(M) { in X[2 * M], Z: u8[3 * M] out Y[M], U: u8[M] Y[i] = X[2 * i] U[i] = Z[3 * i + 1] schedule: split i 16; parallel i.0; vectorize i.1 }", 0, 0, 0},
    {"kernel cumulate(N, M) { in X[N, M] out Y[N, M] Y[i, j] = X[i, j] + guard(0 < i, Y[i - 1, j], 0.0) scan i schedule: split j 16; vectorize j.1 }", 60, 0, 0},
    {"kernel flat(N) { in X[N, 3, 5] out Y[N * 15] Y[q] = X[q / 15, q % 15 / 5, q % 5] schedule: split q 16; vectorize q.1 }", 0, 0, 0})

/* One lane behind whole vectors, narrowed: what is next to it is another row, which another thread may have written. */
CASES(one_lane_left,
    {"kernel bytes(M) { in X[M, 17] out Y: u8[M, 17] Y[i, j] = sat_u8(rint(X[i, j] * 50) + 120) schedule: split j 16; order i j.0 j.1; parallel i; vectorize j.1 }", 0, 0, 0},
    {"kernel shorts(M) { in X: i32[M, 33] out Y: i16[M, 33] Y[i, j] = i16(X[i, j]) schedule: split j 16; order i j.0 j.1; parallel i; vectorize j.1 }", 0, 0, 0},
    {"kernel flags(M) { in X: i32[M, 257] const C: i32[257] out Y: u8[M, 257] Y[i, j] = u8(X[i, j] == C[j]) schedule: split j 4 16; order i j.0 j.1 j.2; parallel i; unroll j.1; vectorize j.2 }", 0, 0, 0})

CASES(woven_stores,
    {"kernel image(H, W) { in X[3, H, W] out Y: u8[3, H, W] layout(1, 2, 0) Y[c, h, w] = sat_u8(rint(X[c, h, w] * 50) + 120)"
     " schedule: split w 16; order h w.0 w.1 c; parallel h; vectorize w.1; unroll c }", 0, 0, 0},
    {"kernel shuffle(N) { in X[N, 44] out Y[N, 44], Z: bool[N, 44] Y[i, j] = X[i, j % 2 * 22 + j / 2] Z[i, k] = X[i, k % 4 * 11 + k / 4] < 0"
     " schedule: split j 16 2; split k 16 4; vectorize j.1; unroll j.2; vectorize k.1; unroll k.2 }", 0, 0, 0},
    {"kernel words(N) { in X: i8[8, N] out Y: i8[8, N] layout(1/16, 0/4, 1%16, 0%4) Y[k, n] = X[k, n]"
     " schedule: split k 4; split n 4 16; order n.0 k.0 n.1 n.2 k.1; parallel n.0; unroll n.1; vectorize n.2; unroll k.1 }", 0, 90, 0})

CASES(casts,
    {"kernel quantize(N) { in X[N], S[1] out Y: u8[N], Z: i8[N], W: i16[N], V: u16[N]"
     " Y[i] = sat_u8(rint(X[i] * 90) + 13) Z[i] = sat_i8(rint(X[i] * 90)) W[i] = sat_i16(rint(X[i] / S[0])) V[i] = sat_u16(X[i] * 4000)"
     " schedule: split i 16; vectorize i.1 }", 0, 0, 0},
    {"kernel nan(N) { in N[N] out Y: u8[N], Z: i8[N], W: i32[N] Y[i] = sat_u8(rint(N[i]) + 13) Z[i] = sat_i8(rint(N[i])) W[i] = sat_i32(N[i] * 2e9)"
     " schedule: split i 16; vectorize i.1 }", 0, 0, 0},
    {"kernel dequantize(N) { in X: u8[N], Z: i8[N], B: bool[N] out Y[N], W[N], V[N] Y[i] = (f32(X[i]) - 3) * 0.25 W[i] = f32(i32(Z[i]) - 7) V[i] = f32(B[i])"
     " schedule: split i 16; vectorize i.1 }", 0, 0, 0},
    {"kernel ints(N) { in X: i32[N], D: i32[N], U: u32[N] out Q: i32[N], R: i32[N], F: i32[N], S: u32[N], L: i64[N], B: bool[N]"
     " Q[i] = X[i] / (D[i] % 3) R[i] = X[i] % (D[i] % 3) F[i] = floormod(X[i], 7) S[i] = shr(U[i], 3) + U[i] / 3 L[i] = i64(X[i]) * 3 B[i] = bool(X[i] % 3)"
     " schedule: split i 16; vectorize i.1 }", 0, 0, 0},
    {"kernel sat_ints(N) { in X: i32[N], Y: i64[N] out A: u8[N], B: i8[N], C: u16[N], D: i32[N]"
     " A[i] = sat_u8(X[i] * 3) B[i] = sat_i8(X[i]) C[i] = sat_u16(X[i]) D[i] = sat_i32(Y[i] * 100000000)"
     " schedule: split i 16; vectorize i.1 }", 0, 0, 0},
    {"kernel wide(N) { in X: f64[N], Z: i64[N] out Y: f64[N], W[N], V: i64[N], E: f64[N] Y[i] = X[i] * 3 + f64(Z[i]) W[i] = f32(X[i]) V[i] = i64(X[i] * 9) E[i] = exp(X[i])"
     " schedule: split i 8; vectorize i.1 }", 0.001, 0, 0})

CASES(known_divisors,
    {"kernel divide(N) { in X[4001], N[N] out Y[4001], Z[4001], W[4001], V[N] Y[i] = X[i] / 6 Z[i] = (X[i] * X[i] - 1.7) / 1.1 W[i] = X[i] * 3e38 / 3 V[j] = N[j] / -7"
     " schedule: split i 16; vectorize i.1; split j 16; vectorize j.1 }", 0, 0, 0})

#define NARROW(t, n)                                                                                                   \
    {"kernel widen_" #t "() { in P: " #t "[" #n "] out Y[" #n "] Y[i] = f32(P[i]) schedule: split i 16; vectorize i.1 }", 0, 0, 0},        \
    {"kernel narrow_" #t "() { in X[500], N[90], Q: f64[300] out Y: " #t "[500], Z: " #t "[90], W: " #t "[300], V: " #t "[500]"            \
     " Y[i] = " #t "(X[i]) Z[j] = " #t "(N[j] * N[j] * 7e4) W[q] = " #t "(Q[q] * 0.001) V[i] = " #t "(X[i] * 2e-6)"                        \
     " schedule: split i 16; vectorize i.1; split j 16; vectorize j.1 }", 0, 0, 0}
CASES(narrow_floats, NARROW(f16, 2000), NARROW(bf16, 2000), NARROW(f8e4m3fn, 256), NARROW(f8e5m2, 256), NARROW(f8e4m3fnuz, 256), NARROW(f8e5m2fnuz, 256))

#define GEMM(name, rows, cols)                                                                                         \
    "kernel " name "(M, N, K) { in A[M, K] const W[N, K] layout(0/16, 1, 0%16) in B[N], R[M, N] out Y[M, N]"                               \
    " Y[m, n] = sum(k: K) A[m, k] * W[n, k] then max(it + B[n], 0) + R[m, n]"                                                              \
    " schedule: split m " #rows "; split n " #cols " 16; order n.0 m.0 k m.1 n.1 n.2; unroll m.1 n.1; vectorize n.2; parallel n.0; call contract k }"
#define GEMM8(name, left, right, rows, cols)                                                                           \
    "kernel " name "(M, N, K) { in A: " left "[M, K] const W: " right "[N, K] layout(0/16, 1/4, 0%16, 1%4) in B[N] out Y: u8[M, N]"         \
    " Y[m, n] = sum(k: K) i32(A[m, k]) * i32(W[n, k]) then sat_u8(rint(f32(it) * 0.01 + B[n]) + 12)"                                       \
    " schedule: split m " #rows "; split n " #cols " 16; split k 4; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; unroll m.1 n.1 k.1; vectorize n.2; parallel n.0; call contract k.0 }"
#define ROWS_APART(name) /* a convolution along a line: rows, all of which exist, at constant distances, in loops of free sizes */        \
    "kernel " name "(N) { in X[N, 512, 272] const W[512, 256, 5] layout(0/16, 2, 1, 0%16) in B[512] out Y[N, 508, 512]"                     \
    " Y[n, w, o] = sum(i: 5, c: 256) X[n, w + i, c] * W[o, c, i] then max(it + B[o], 0)"                                                   \
    " schedule: split o 2 16; split w 14; order o.0 n w.0 i c w.1 o.1 o.2; unroll w.1 o.1; vectorize o.2; call contract i; parallel o.0; parallel n; parallel w.0 }"
#define GEMM16(name, rows, cols)                                                                                       \
    "kernel " name "(M, N, K) { in A: bf16[M, K] const W: bf16[N, K] layout(0/16, 1/2, 0%16, 1%2) in B[N] out Y: bf16[M, N], Z[M, N]"       \
    " Y[m, n] = sum(k: K) f32(A[m, k]) * f32(W[n, k]) then bf16(max(it + B[n], 0)) Z[i, j] = f32(Y[i, j])"                                 \
    " schedule: split m " #rows "; split n " #cols " 16; split k 2; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; unroll m.1 n.1 k.1; vectorize n.2; parallel n.0; call contract k.0 }"
#define WINDOW(name, C, rows, taps, size, stride, near)                                                             \
    "kernel " name "(N, W) { in X: bf16[19, " #stride " * W + " #taps ", " #C "], B[" #C "] const K: bf16[" #rows ", " #taps ", " #C "]"        \
    " out Y: bf16[" size ", W, " #C "], Z[" size ", W, " #C "]"                                                                             \
    " Y[h, w, c] = sum(i: " #rows ", j: " #taps ") f32(X[" #stride " * h + i, " #stride " * w + j, c]) * f32(K[i, j, c]) then bf16(max(it + B[c], 0))" \
    " Z[a, b, d] = f32(Y[a, b, d])"                                                                                                          \
    " schedule: split w " #near "; split c 16; split i 2; order h w.0 c.0 i.0 j i.1 w.1 c.1; parallel h; unroll i.0 i.1 j w.1; vectorize c.1; call window i }"
CASES(window,
    {WINDOW("odd", N, 5, 5, "6", 1, 12), 1 << 17, 40, 0}, {WINDOW("strided", N, 3, 3, "4", 2, 7), 1 << 17, 40, 0}, {WINDOW("even", N, 4, 2, "6", 1, 4), 1 << 17, 40, 0},
    {WINDOW("low", N, 1, 7, "6", 1, 3), 1 << 17, 40, 0},
    {"kernel line(W, C) { in X: bf16[W + 4, C] const K: bf16[5, C] out Y[W, C] Y[w, c] = sum(i: 5) f32(X[w + i, c]) * f32(K[i, c])"
     " schedule: split w 8; split c 16; split i 2; order w.0 c.0 i.0 i.1 w.1 c.1; unroll i.0 i.1 w.1; vectorize c.1; call window i }", 1 << 17, 40, 0},
    {"kernel turned(H, C) { in X: bf16[H + 2, 22, C] const K: bf16[3, 3, C] out Y[H, 20, C]" /* a tile of known size whose end is no whole tile */
     " Y[h, w, c] = sum(i: 3, j: 3) f32(K[i, j, c]) * f32(X[h + i, w + j, c])"
     " schedule: split w 14; split c 2 16; split i 2; order h w.0 c.0 c.1 i.0 j i.1 w.1 c.2; parallel h; unroll i.0 i.1 j w.1; vectorize c.2; call window j }", 1 << 17, 40, 0})

#define POOL(name, type, how, rows, taps, size, stride, near)                                                          \
    "kernel " name "(C, W) { in X: " type "[19, " #stride " * W + " #taps ", C] out Y[" size ", W, C]"                                      \
    " Y[h, w, c] = " how "(i: " #rows ", j: " #taps ") f32(X[" #stride " * h + i, " #stride " * w + j, c]) then it * 0.25"                  \
    " schedule: split w " #near "; split c 16; order h w.0 c.0 i j w.1 c.1; parallel h; unroll i j w.1; vectorize c.1; call pool i }"
CASES(pool,
    {POOL("largest", "bf16", "max", 3, 3, "6", 1, 12), 0, 40, 0}, {POOL("strided", "bf16", "max", 3, 3, "4", 2, 7), 0, 40, 0},
    {POOL("apart", "f16", "max", 2, 2, "6", 2, 4), 0, 40, 0}, {POOL("average", "bf16", "sum", 3, 3, "6", 1, 7), 60, 40, 0},
    {"kernel nan(W, C) { in N[W + 4, C] out Y[W, C] Y[w, c] = max(i: 5) N[w + i, c]"
     " schedule: split w 8; split c 16; order w.0 c.0 i w.1 c.1; unroll i w.1; vectorize c.1; call pool i }", 0, 40, 0},
    {"kernel nan2(H, C) { in N[H + 2, 16, C] out Y[H, 7, C] Y[h, w, c] = max(i: 3, j: 3) N[h + i, w * 2 + j, c]"
     " schedule: split w 4; split c 2 16; order h w.0 c.0 c.1 i j w.1 c.2; parallel h; unroll i j w.1; vectorize c.2; call pool j }", 0, 40, 0})

CASES(contract,
    {GEMM("gemm", 14, 2), 400, 40, 0}, {GEMM("gemm_low", 3, 1), 400, 17, 0}, {GEMM("gemv", 1, 4), 400, 17, 0},
    {GEMM8("gemm8", "u8", "i8", 12, 2), 0, 40, 0}, {GEMM8("gemm8_low", "u8", "i8", 3, 1), 0, 17, 0}, {GEMM8("gemm8_signed", "i8", "i8", 4, 1), 0, 17, 0},
    {GEMM8("gemm8_unsigned", "u8", "u8", 4, 1), 0, 17, 0},
    {"kernel looked_up(M, N, K) { in A: u8[M, K] const W: i8[N, K] layout(0/16, 1/4, 0%16, 1%4), P: u8[256], B[256] out Y: u8[M, N]" /* at sums alone: no axis moves the place */
     " Y[m, n] = sum(k: K) i32(A[m, k]) * i32(W[n, k]) then sat_u8(f32(P[i64(sat_u8(rint(f32(it) * 0.01) + 120))]) + B[i64(sat_u8(rint(f32(it) * 0.02)))])"
     " schedule: split m 6; split n 2 16; split k 4; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; unroll m.1 n.1 k.1; vectorize n.2; parallel n.0; call contract k.0 }", 0, 40, 0},
    {GEMM16("gemm16", 12, 2), 1 << 18, 40, 0}, {GEMM16("gemm16_low", 3, 1), 1 << 18, 17, 0},
    {"kernel added_to_itself(M, N, K) { in A: bf16[M, K] const W: bf16[N, K] layout(0/16, 1/2, 0%16, 1%2) out Y[M, N]" /* what a sum could begin with is made of it */
     " Y[m, n] = sum(k: K) f32(A[m, k]) * f32(W[n, k]) then it + max(it, 0)"
     " schedule: split m 6; split n 2 16; split k 2; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; unroll m.1 n.1 k.1; vectorize n.2; parallel n.0; call contract k.0 }", 1 << 18, 40, 0},
    {"kernel plain_right(M, N, K) { in A[M, K], B[K, N] out Y[M, N] Y[m, n] = sum(k: K) A[m, k] * B[k, n]"
     " schedule: split m 6; split n 2 16; order m.0 n.0 k m.1 n.1 n.2; unroll m.1 n.1; vectorize n.2; call contract k }", 400, 40, 0},
    {"kernel column(M, K) { in A: u8[M, 40] const W: i8[1, 40] layout(0/16, 1/4, 0%16, 1%4) out Y[M] Y[m] for n: 1, m: M = sum(k: 40) i32(A[m, k]) * i32(W[n, k]) then f32(it) * 0.5"
     " schedule: split m 6; split n 1 16; split k 4; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; unroll m.1 n.1; vectorize n.2; call contract k.0 }", 0, 40, 0}, /* one, which the result does not name */
    {"kernel halves(M, N, K) { in A: f16[M, K], B: bf16[K, N] out Y[M, N] Y[m, n] = sum(k: K) f32(A[m, k]) * f32(B[k, n])"
     " schedule: split m 6; split n 2 16; order m.0 n.0 k m.1 n.1 n.2; unroll m.1 n.1; vectorize n.2; call contract k }", 400, 17, 0},
    {"kernel half_line(N) { in X: f16[N, 24, 40] const W: f16[20, 40, 3] layout(0/16, 2, 1, 0%16) out Y[N, 22, 20]" /* rows are widened before their steps: whole vectors and some more */
     " Y[n, w, o] = sum(i: 3, c: 40) f32(X[n, w + i, c]) * f32(W[o, c, i])"
     " schedule: split w 6; split o 2 16; order o.0 n w.0 i c w.1 o.1 o.2; unroll w.1 o.1; vectorize o.2; call contract i; parallel o.0 n }", 400, 17, 0},
    {"kernel line(N) { in X[N, 24, 8] const W[20, 8, 3] layout(0/16, 2, 1, 0%16) out Y[N, 22, 20] Y[n, w, o] = sum(i: 3, c: 8) X[n, w + i, c] * W[o, c, i]"
     " schedule: split w 6; split o 2 16; order o.0 n w.0 i c w.1 o.1 o.2; unroll w.1 o.1; vectorize o.2; call contract i; parallel o.0 n }", 400, 17, 0},
    {"kernel conv8(N) { in X: u8[N, 10, 10, 8] const F: i8[20, 3, 3, 8] layout(0/16, 1, 2, 3/4, 0%16, 3%4) out Y: i32[N, 8, 8, 20]"
     " Y[n, h, w, o] = sum(i: 3, j: 3, c: 8) i32(X[n, h + i, w + j, c]) * i32(F[o, i, j, c])"
     " schedule: split w 6; split o 2 16; split c 4; order n h o.0 w.0 i j c.0 w.1 o.1 o.2 c.1; unroll w.1 o.1; vectorize o.2; parallel n h; call contract i }", 0, 3, 0})

/* clang-format on */

#define DOTS(name, right, depth, guard)                                                                                \
    "kernel " name "(M, N) { in A[M, " #depth "], B: " right "[N, " #depth "], C[N] out Y[M, N]"                                            \
    " Y[m, n] for m: M, n: N, u: 1 = sum(k: " #depth ") A[m, k] * f32(B[n, k]) then max(it + C[n], 0)"                                      \
    " schedule: " guard "split n 1 16; split u 1; order u.0 n.0 m k u.1 n.1 n.2; unroll u.1 n.1; vectorize n.2; parallel n.0; call contract k }"
CASES(dots, {DOTS("keys", "f32", 64, ""), 400, 40, 0}, {DOTS("wide", "f32", 272, ""), 400, 17, 0}, {DOTS("halves", "f16", 16, ""), 400, 17, 0},
      {DOTS("little", "f32", 48, "guard n; "), 400, 40, 0, true})

/* One piece of code for whole tiles and what is left of them, and blocks of taps one after the other. */
CASES(little_code,
    {"kernel floats(M, N) { in A[M, 9] const W[9, N] layout(1/16, 0, 1%16), B[N] out Y[M, N] Y[m, n] = sum(k: 9) A[m, k] * W[k, n] then max(it + B[n], 0)"
     " schedule: guard m n; split m 6; split n 2 16; order m.0 n.0 k m.1 n.1 n.2; unroll m.1 n.1; vectorize n.2; parallel m.0; call contract k }", 400, 0, 0, true},
    {"kernel bytes(M) { in A: u8[M, 36] const W: i8[40, 36] layout(0/16, 1/4, 0%16, 1%4), S[40] out Y: u8[M, 40] Y[m, n] = sum(k: 36) i32(A[m, k]) * i32(W[n, k])"
     " then sat_u8(rint(f32(it) * S[n]) + 3.0)"
     " schedule: guard m; split m 8; split n 2 16; split k 4; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; unroll m.1 n.1 k.1; vectorize n.2; call contract k.0 }", 0, 0, 0, true},
    {"kernel taps(W) { in X[W + 8, 20], B[20] const F[9, 20] out Y[W, 20] Y[w, c] = sum(i: 9) X[w + i, c] * F[i, c] then it + B[c]"
     " schedule: split w 4; split c 16; split i 4; order c.0 w.0 i.0 i.1 w.1 c.1; unroll w.1; vectorize c.1; partial i.0; parallel c.0 }", 400, 0, 0, true})

Test(llvm, compiles_the_same_on_any_number_of_threads)
{
    Arena mem = {0};
    Diag diag = {.mem = &mem, .subject = ""};
    LlvmJob job[20];
    const char *error;
    for (int i = 0; i < 20; i++) {
        Kernel *k = kernel_parse(
            &mem, dims_new(&mem),
            "kernel k(N) { in X[N] out Y[N] Y[i] = exp(X[i]) schedule: split i 16; vectorize i.1 }", &diag);
        job[i] = (LlvmJob){schedule_apply(k, &error), target_at((uint32_t)i % 5), arena_printf(&mem, "k%d", i), false};
        cr_assert(job[i].kernel);
    }
    Bytes *one, *two;
    cr_assert(llvm_compile(&mem, &diag, job, 20, 1, NULL, &one) && llvm_compile(&mem, &diag, job, 20, 3, NULL, &two));
    for (uint32_t i = 0; i < 20; i++) cr_expect(one[i].n == two[i].n && !memcmp(one[i].at, two[i].at, one[i].n));
    for (uint32_t i = 5; i < 20; i++) cr_expect(one[i].at == one[i % 5].at && two[i].at == two[i % 5].at, "made once");
    cr_expect(one[0].at != one[1].at, "SSE and AVX2");
    arena_drop(&mem);
}

static const char *assembly_of(Arena *mem, const char *kernel, const char *level, bool small)
{
    Diag diag = {.mem = mem, .subject = ""};
    const char *error, *text = NULL;
    Kernel *k = schedule_apply(kernel_parse(mem, dims_new(mem), kernel, &diag), &error);
    cr_assert(k && llvm_text(mem, &diag, &(LlvmJob){k, target_find(level), "k", small}, true, &text));
    return text;
}

static const char *assembly(Arena *mem, const char *kernel, const char *level) { return assembly_of(mem, kernel, level, false); }

/* The inner loop of a register tile must not touch the stack with vectors. */
Test(llvm, hot_loop_has_no_spills)
{
    static const struct {
        const char *text, *level, *hot;
    } tiles[] = {{GEMM("gemm", 14, 2), "avx512", "vfmadd"},
                 {GEMM("gemm", 6, 1), "avx2", "vfmadd"},
                 {ROWS_APART("free_batch"), "avx512", "vfmadd"},
                 {GEMM8("gemm8", "u8", "i8", 12, 2), "avx512vnni", "vpdpbusd"},
                 {GEMM8("gemm8", "u8", "i8", 6, 1), "avxvnni", "vpdpbusd"},
                 {GEMM8("gemm8", "u8", "i8", 4, 1), "avx2", "vpmaddwd"},
                 {GEMM16("gemm16", 12, 2), "avx512bf16", "vdpbf16ps"},
                 {WINDOW("five", 48, 5, 5, "6", 1, 14), "avx512bf16", "vdpbf16ps"},
                 {WINDOW("three", 48, 3, 3, "6", 2, 7), "avx512bf16", "vdpbf16ps"},
                 {GEMM16("gemm16", 6, 2), "amx", "vfmadd"},
                 {GEMM16("gemm16", 3, 1), "avx2", "vfmadd"}};
    for (size_t i = 0; i < COUNT_OF(tiles); i++) {
        Arena mem = {0};
        const char *text = assembly(&mem, tiles[i].text, tiles[i].level);
        int loops = 0;
        for (const char *at = strstr(text, "\n.LBB"), *next; at; at = next) {
            next = strstr(at + 1, "\n.LBB");
            char *block = arena_text(&mem, at + 1, next ? (size_t)(next - at) : strlen(at + 1)),
                 *body = strchr(block, ':');
            *body++ = 0;
            char *back =
                strstr(body, arena_printf(&mem, "%s\n", block)); /* jumps to its own start: an innermost loop */
            int hot = 0, spills = 0;
            if (!back) continue;
            *back = 0; /* what follows the jump is outside of the loop */
            for (char *line = strtok(body, "\n"); line; line = strtok(NULL, "\n")) {
                hot += strstr(line, tiles[i].hot) != NULL;
                spills += strstr(line, "mm") && strstr(line, "(%rsp)");
            }
            if (hot < 4) continue;
            loops++;
            cr_expect(!spills, "%s, loop %s: %d vector accesses to the stack beside %d %s", tiles[i].level, block,
                      spills, hot, tiles[i].hot);
        }
        cr_expect(loops, "%s: the tile is not there", tiles[i].level);
        arena_drop(&mem);
    }
}

static int count_of(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)); at++) n++;
    return n;
}

/* A tile load of what is read once has a hint, where the next tile reads the other factor again. A window reads its lines several times. */
Test(llvm, what_passes_by_tiles_stays_out_of_the_first_cache)
{
#define PRODUCT(rows, cols, order)                                                                                     \
    "kernel k() { in A: u8[128, 512] const W: i8[64, 512] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[128, 64] Y[m, n] = " \
    "sum(k: 512) "                                                                                                     \
    "i32(A[m, k]) * i32(W[n, k]) schedule: split m " rows "; split n " cols " 16; split k 4; order " order             \
    " k.0 m.1 n.1 n.2 k.1; call tiles k.0 }"
    static const struct {
        const char *source;
        int hints; /* four tiles of one factor, one of the other */
    } kernel[] = {{PRODUCT("64", "1", "n.0 m.0"), 4},
                  {PRODUCT("64", "1", "m.0 n.0"), 1},
                  {PRODUCT("16", "4", "n.0 m.0"), 1},
                  {"kernel k() { in A: u8[130, 512] const W: i8[64, 3, 512] layout(0/16, 1, 2/4, 0%16, 2%4) out Y: "
                   "i32[128, 64] Y[m, n] = sum(j: 3, k: 512) "
                   "i32(A[m + j, k]) * i32(W[n, j, k]) schedule: split m 64; split n 1 16; split k 4; order n.0 m.0 j "
                   "k.0 m.1 n.1 n.2 k.1; call tiles j }",
                   0}};
#undef PRODUCT
    for (size_t i = 0; i < COUNT_OF(kernel); i++) {
        Arena mem = {0};
        const char *text = assembly(&mem, kernel[i].source, "amx");
        cr_expect_eq(count_of(text, "tileloaddt1"), kernel[i].hints, "%s: %s", kernel[i].source, text);
        cr_expect_eq(count_of(text, "tileloadd"), 5);
        arena_drop(&mem);
    }
}

/* Where an instruction sums words, the bias is what the sum begins with: nothing is left to add. */
Test(llvm, sums_of_words_begin_with_the_bias)
{
    static const struct {
        const char *text, *level;
        bool adds;
    } tiles[] = {{GEMM16("gemm16", 12, 2), "avx512bf16", false}, {WINDOW("five", 48, 5, 5, "6", 1, 14), "avx512bf16", false}, {GEMM16("gemm16", 3, 1), "avx2", true}};
    for (size_t i = 0; i < COUNT_OF(tiles); i++) {
        Arena mem = {0};
        const char *text = assembly(&mem, tiles[i].text, tiles[i].level);
        cr_expect_eq(strstr(text, "vaddps") != NULL, tiles[i].adds, "kernel %zu", i);
        arena_drop(&mem);
    }
}

#define BLOCKS(name, type)                                                                                                                 \
    "kernel " name "() { in X: " type "[16, 10, 4] layout(1, 2, 0) const W: " type "[16, 3, 3] layout(1, 2, 0) out Y[16, 8, 2] layout(1, 2, 0)\n"                                     \
    "  Y[c, y, x] = sum(t: 9) f32(X[c, y + t / 3, x + t % 3]) * f32(W[c, t / 3, t % 3])\n"                                                       \
    "  schedule: split x 2; split c 16; split t 4; order y x.0 c.0 t.0 t.1 x.1 c.1; unroll x.1; vectorize c.1; unroll t.0; unroll t.1; partial t.0 }"

/* Taps of a window in blocks of four: the first of a block is no addition, and products of two bf16, which are exact, are fused with theirs. */
Test(llvm, blocks_of_taps_begin_with_a_product)
{
    static const struct {
        const char *text;
        int fused, products, sums;
    } window[] = {{BLOCKS("plain", "f32"), 0, 18, 18}, {BLOCKS("words", "bf16"), 12, 6, 6}};
    for (size_t i = 0; i < COUNT_OF(window); i++) {
        Arena mem = {0};
        const char *text = assembly(&mem, window[i].text, "avx512");
        cr_expect_eq(count_of(text, "vfmadd"), window[i].fused);
        cr_expect_eq(count_of(text, "vmulps"), window[i].products);
        cr_expect_eq(count_of(text, "vaddps"), window[i].sums);
        arena_drop(&mem);
    }
}

/* What is done to a sum stands in the code once, not for every sum of the tile; a cheap end, or one of few steps, stays with each
 * unless little code is wanted. */
Test(llvm, a_costly_end_of_sums_is_written_once)
{
#define ENDS(depth, end, type)                                                                                         \
    "kernel k() { in A: u8[24, " depth "] const W: i8[" depth ", 32] layout(1/16, 0/4, 1%16, 0%4) out Y: " type        \
    "[24, 32] Y[m, n] = sum(k: " depth ") i32(A[m, k]) * i32(W[k, n]) then " end                                       \
    " schedule: split m 8; split n 2 16; split k 4; order m.0 n.0 k.0 k.1 m.1 n.1 n.2; unroll m.1 n.1;"                \
    " vectorize n.2; call contract k }"
    static const char rounds[] = ENDS("256", "sat_u8(rint(f32(it) * 0.5) + 3.0)", "u8"),
                      few[] = ENDS("32", "sat_u8(rint(f32(it) * 0.5) + 3.0)", "u8"), scales[] = ENDS("256", "f32(it) * 0.5", "f32");
    static const char scatters[] =
        "kernel k() { in A: u8[24, 128] const W: i8[128, 32] layout(1/16, 0/4, 1%16, 0%4) out Y[32, 24] Y[n, m] = sum(k: 128) i32(A[m, k]) * i32(W[k, n]) then f32(it) * 0.5 + 1.0"
        " schedule: split m 8; split n 2 16; split k 4; order m.0 n.0 k.0 k.1 m.1 n.1 n.2; unroll m.1 n.1; vectorize n.2; call contract k }";
    static const struct {
        const char *text, *level, *instruction;
        int times;
        bool small;
    } ends[] = {{rounds, "avx512vnni", "vcvtdq2ps", 1, false},
                {rounds, "avx2", "vcvtdq2ps", 2, false},
                {rounds, "portable", "cvtdq2ps", 4, false},
                {few, "avx512vnni", "vcvtdq2ps", 16, false},
                {few, "avx512vnni", "vcvtdq2ps", 1, true},
                {few, "avx2", "vcvtdq2ps", 1, true}, /* a register at a time */
                {few, "portable", "cvtdq2ps", 1, true},
                {scales, "avx512vnni", "vcvtdq2ps", 16, false},
                {scatters, "avx512vnni", "vcvtdq2ps", 1, false}};
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        Arena mem = {0};
        int times = 0;
        const char *text = assembly_of(&mem, ends[i].text, ends[i].level, ends[i].small);
        for (const char *p = text; (p = strstr(p, ends[i].instruction)); p++) times++;
        cr_expect_eq(times, ends[i].times, "%s, %d: %d times", ends[i].level, (int)i, times);
        arena_drop(&mem);
    }
#undef ENDS
}

/* Panels that no cache of a core holds are prefetched, smaller ones are not. */
Test(llvm, far_panels_are_asked_for)
{
    static const struct {
        const char *text;
        bool far;
    } tiles[] = {{"kernel k() { in A[28, 64] const W[64, 64] layout(0/16, 1, 0%16) out Y[28, 64]"
                  " Y[m, n] = sum(k: 64) A[m, k] * W[n, k]"
                  " schedule: split m 14; split n 2 16; order n.0 m.0 k m.1 n.1 n.2; unroll m.1 n.1; vectorize n.2; call contract k }",
                  false},
                 {"kernel k() { in A[28, 2048] const W[64, 2048] layout(0/16, 1, 0%16) out Y[28, 64]"
                  " Y[m, n] = sum(k: 2048) A[m, k] * W[n, k]"
                  " schedule: split m 14; split n 2 16; order n.0 m.0 k m.1 n.1 n.2; unroll m.1 n.1; vectorize n.2; call contract k }",
                  true},
                 {GEMM8("gemm8", "u8", "i8", 12, 2), true}};
    for (size_t i = 0; i < COUNT_OF(tiles); i++) {
        Arena mem = {0};
        Diag diag = {.mem = &mem, .subject = ""};
        const char *error, *text = NULL;
        Kernel *k = schedule_apply(kernel_parse(&mem, dims_new(&mem), tiles[i].text, &diag), &error);
        cr_assert(k && llvm_text(&mem, &diag, &(LlvmJob){k, target_find("avx512vnni"), "k", false}, true, &text));
        cr_expect_eq(strstr(text, "prefetcht0") != NULL, tiles[i].far, "kernel %zu", i);
        arena_drop(&mem);
    }
}
