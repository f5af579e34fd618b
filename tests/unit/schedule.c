/* Schedules: the loops mean what the stages say, for every level, at sizes around the tiles. */
#include "tests/unit/kernel_runs.h"

static const int64_t sizes[] = {0, 1, 3, 15, 16, 17, 33, 70};

static void run_at(Program *p, const char *level, int64_t a, int64_t b)
{
    p->symbol[0] = a, p->symbol[1] = b;
    program_fill(p);
    void **want = program_run(p, 0), **got = program_memory(p);
    Kernel *s = level ? kernel_scheduled(p->k, level) : schedule_apply(p->k, &(const char *){NULL});
    cr_assert(s);
    program_check(s, "schedule");
    void *data[RUN_BUFS] = {0};
    for (uint32_t i = 1; i < p->k->buf.n; i++) data[i] = s->buf.at[i].kind < BUF_LOCAL ? got[i] : NULL;
    cr_assert_eq(interp_loops(s, p->symbol, data), 0);
    program_compare(p, want, got, level ? level : "its own schedule");
}

static void agree(const char *text)
{
    static const char *const level[] = {"portable", "avx2", "avx512", "cuda"};
    Program *p = program_new(text);
    for (size_t l = 0; l < COUNT_OF(level); l++)
        for (size_t i = 0; i < COUNT_OF(sizes); i++) {
            run_at(p, level[l], sizes[i], sizes[(i * 5 + l) % COUNT_OF(sizes)]);
            if (!dim_symbols(p->dim)) break;
        }
    program_drop(p);
}

Test(schedule, maps)
{
    agree("kernel chain(M, N) { in X[M, N], S[N], B[1] out Y[M, N] Y[i, j] = max(X[i, j] * S[j] + B[0], 0) * tanh(X[i, j]) }");
    agree("kernel transpose(M, N) { in X[M, N] out Y[N, M] Y[j, i] = X[i, j] }");
    agree("kernel long() { in X[5000] out Y[5000] Y[i] = X[i] + 1 }");
    agree("kernel scalar() { in X out Y Y = X + 1 }");
}

Test(schedule, reductions)
{
    agree("kernel rows(R, C) { in X[R, C] out Y[R] Y[r] = max(c: C) X[r, c] }");
    agree("kernel columns(R, C) { in X[R, C] out Y[C] Y[c] = sum(r: R) X[r, c] then it * 2 }");
    agree("kernel all(R, C) { in X[R, C] out Y Y = sum(r: R, c: C) X[r, c] }");
    agree("kernel any(R, C) { in X: bool[R, C] out Y: bool[R] Y[r] = any(c: C) X[r, c] }");
}

Test(schedule, shared_rows)
{
    agree("kernel softmax(R, C) { in X[R, C] out Y[R, C] tmp m[R], s[R]"
          " m[r] = max(c: C) X[r, c] share 1"
          " s[r] = sum(c: C) exp(X[r, c] - m[r]) keep Y[r, c] then 1 / it share 1"
          " Y[r, c] = Y[r, c] * s[r] share 1 }");
    agree("kernel layernorm(R, C) { in X[R, C], G[C] out Y[R, C] tmp mean[R], inv[R]"
          " mean[r] = sum(c: C) X[r, c] then it * 0.25 share 2"
          " inv[r] = sum(c: C) (X[r, c] - mean[r]) * (X[r, c] - mean[r]) then rsqrt(it + 1) share 2"
          " Y[r, c] = (X[r, c] - mean[r]) * inv[r] * G[c] share 2 }");
}

Test(schedule, contractions)
{
    agree("kernel gemm(M, K) { in A[M, K], R[M, 72] const W[72, K] layout(0/16, 1, 0%16), B[72] out Y[M, 72]"
          " Y[m, n] = sum(k: K) A[m, k] * W[n, k] then max(it + B[n], 0) + R[m, n] }");
    agree("kernel ragged() { in A[47, 5] const W[200, 5] layout(0/16, 1, 0%16) out Y[47, 200] Y[m, n] = sum(k: 5) A[m, k] * W[n, k] }");
    agree("kernel bytes() { in A: u8[17, 36] const W: i8[40, 36] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[17, 40]"
          " Y[m, n] = sum(k: 36) i32(A[m, k]) * i32(W[n, k]) }");
    agree("kernel vector() { in A[33] const W[100, 33] layout(0/16, 1, 0%16) out Y[100] Y[n] = sum(k: 33) A[k] * W[n, k] }");
    agree("kernel conv(N) { in X[N, 8, 9, 12], W[16, 8, 3, 3] out Y[N, 16, 7, 10]"
          " Y[n, o, h, w] = sum(c: 8, i: 3, j: 3) X[n, c, h + i, w + j] * W[o, c, i, j] then max(it, 0) }");
}

Test(schedule, windows)
{
    agree("kernel depthwise() { in X[1, 20, 16, 16] layout(0, 2, 3, 1) const W[20, 3, 3] layout(1, 2, 0) out Y[1, 20, 14, 14] layout(0, 2, 3, 1)"
          " Y[n, c, h, w] = sum(i: 3, j: 3) X[n, c, h + i, w + j] * W[c, i, j] }");
    agree("kernel free(H, W) { in X[1, 20, H + 2, W + 2] layout(0, 2, 3, 1) const F[20, 3, 3] layout(1, 2, 0), B[20] out Y[1, 20, H, W] layout(0, 2, 3, 1)"
          " Y[n, c, h, w] = sum(i: 3, j: 3) X[n, c, h + i, w + j] * F[c, i, j] then max(it + B[c], 0) }");
    agree("kernel pool() { in X[2, 5, 9, 9] out Y[2, 5, 9, 9]"
          " Y[n, c, h, w] = max(i: 3, j: 3) guard(0 <= h + i - 1 && h + i - 1 < 9 && 0 <= w + j - 1 && w + j - 1 < 9, X[n, c, h + i - 1, w + j - 1], -inf) }");
}

static size_t loops_count(const Kernel *k, const char *what) /* how often it stands in their text */
{
    char *text = NULL;
    size_t n = 0, times = 0;
    FILE *f = open_memstream(&text, &n);
    loops_print(k, k->loops, 0, f);
    fclose(f);
    for (const char *p = text; (p = strstr(p, what)); p++) times++;
    free(text);
    return times;
}

static Kernel *scheduled_for(Program *p, const char *level, bool small)
{
    Kernel copy = *p->k;
    const char *error = NULL;
    tune(&copy, target_find(level), small);
    Kernel *s = schedule_apply(&copy, &error);
    cr_assert(s, "%s", error);
    program_check(s, level);
    return s;
}

/* Where little code is wanted: loops instead of copies, and the same numbers to the last bit. */
static void same_in_little_code(const char *text, const char *level, const char *what, size_t most)
{
    Program *p = program_new(text);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        p->symbol[0] = sizes[i], p->symbol[1] = sizes[(i * 5 + 2) % COUNT_OF(sizes)];
        program_fill(p);
        void **got[2];
        for (int small = 0; small < 2; small++) {
            Kernel *s = scheduled_for(p, level, small);
            void *data[RUN_BUFS] = {0};
            got[small] = program_memory(p);
            for (uint32_t b = 1; b < p->k->buf.n; b++) data[b] = s->buf.at[b].kind < BUF_LOCAL ? got[small][b] : NULL;
            cr_assert_eq(interp_loops(s, p->symbol, data), 0);
            size_t times = loops_count(s, what);
            cr_expect(small ? times <= most : times > most, "%s: %zu times", what, times);
        }
        program_near(p, got[0], got[1], "little code", 0);
    }
    program_drop(p);
}

Test(schedule, little_code)
{
    same_in_little_code("kernel window(H, W) { in X[1, 20, H + 4, W + 4] layout(0, 2, 3, 1) const F[20, 5, 5] layout(1, 2, 0), B[20] out Y[1, 20, H, W] layout(0, 2, 3, 1)"
                        " Y[n, c, h, w] = sum(i: 5, j: 5) X[n, c, h + i, w + j] * F[c, i, j] then max(it + B[c], 0) }",
                        "avx2", "unroll", 20);
    same_in_little_code("kernel bytes(M) { in A: u8[3, M, 36] const W: i8[40, 36] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[3, M, 40]"
                        " Y[b, m, n] = sum(k: 36) i32(A[b, m, k]) * i32(W[n, k]) }",
                        "avx512", "call contract", 1);
    same_in_little_code("kernel joined(M, N) { in A[M, 15], B[15, N] layout(1/16, 0, 1%16), C[N, 15] out Y[M, 15] tmp s[M, N]"
                        " s[m, n] = sum(k: 15) A[m, k] * B[k, n] share 1 Y[m, o] = sum(n: N) s[m, n] * C[n, o] share 1 }",
                        "avx512", "call contract", 2);
}

Test(schedule, order_kept)
{
    agree("kernel cumsum(B, T) { in X[B, T] out Y[B, T] Y[b, t] = X[b, t] + guard(0 < t, Y[b, t - 1], 0) scan t }");
    agree("kernel recur(B, T) { in X[T, B], W[24, 24] out H[T, B, 24] tmp g[T, B, 24]"
          " g[t, b, j] = sum(k: 24) guard(0 < t, H[t - 1, b, k], 0) * W[k, j] then it + X[t, b] scan t"
          " H[t, b, j] = tanh(g[t, b, j]) scan t }");
    agree("kernel histogram(N) { in X[N] out Y[4] Y[i] = 0 Y[n % 4] for n: N add= X[n] }");
    agree("kernel some(N) { in X[N] out Y[N] Y[i] = 0 Y[j] for j: N = X[j] where 0 < X[j] }");
}

Test(schedule, checks)
{
    Program *p = program_new("kernel gather(M, N) { in X[5, N], I: i64[M] out Y[M, N] Y[i, j] = X[I[i], j] check 0 <= I[i] && I[i] < 5 }");
    p->symbol[0] = 3, p->symbol[1] = 20;
    program_fill(p);
    void **at = program_memory(p);
    int64_t good[] = {4, 0, 2}, bad[] = {1, 5, 2};
    Kernel *s = kernel_scheduled(p->k, "avx512");
    memcpy(at[2], good, sizeof good);
    cr_assert_eq(interp_loops(s, p->symbol, at), 0);
    memcpy(at[2], bad, sizeof bad);
    cr_assert_eq(interp_loops(s, p->symbol, at), OCTET_ERR_INDEX);
    program_drop(p);
}

Test(schedule, written_by_hand)
{
    Program *p = program_new("kernel gemm(M, N) { in A[M, 9], W[9, N] out Y[M, N] Y[m, n] = sum(k: 9) A[m, k] * W[k, n]"
                             " schedule: split m 3; split n 2 16; order n.0 m.0 k m.1 n.1 n.2; parallel n.0; unroll m.1 n.1; vectorize n.2 }");
    for (size_t i = 0; i < COUNT_OF(sizes); i++) run_at(p, NULL, sizes[i], sizes[(i * 3) % COUNT_OF(sizes)]);
    program_drop(p);
    p = program_new("kernel tested(M, N) { in A[M, 9], W[9, N] out Y[M, N] Y[m, n] = sum(k: 9) A[m, k] * W[k, n]"
                    " schedule: guard m n; split m 3; split n 2 16; order n.0 m.0 k m.1 n.1 n.2; parallel n.0; unroll m.1 n.1; vectorize n.2 }");
    cr_assert_eq(loops_count(schedule_apply(p->k, &(const char *){NULL}), "alloc"), 1);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) run_at(p, NULL, sizes[i], sizes[(i * 3) % COUNT_OF(sizes)]);
    program_drop(p);
}

Test(schedule, refusals)
{
    const char *error = NULL;
    Program *p = program_new("kernel k(N) { in X[4, N] out Y[N] Y[n] = sum(i: 4) X[i, n] schedule: order i n }");
    cr_assert_null(schedule_apply(p->k, &error));
    cr_assert_str_eq(error, "an accumulator needs a constant size");
    program_drop(p);
    p = program_new("kernel k(N) { in X[4, N] out Y[N] Y[n] = max(i: 4) X[i, n] schedule: call contract i }");
    cr_assert_null(schedule_apply(p->k, &error));
    cr_assert_str_eq(error, "this stage is not what the micro-kernel computes");
    program_drop(p);
}

Test(schedule, range_is_the_leading_parallel_loops)
{
    Program *p = program_new("kernel k() { in X[6, 4, 5] out Y[6, 4, 5] Y[a, b, c] = X[a, b, c] schedule: parallel a b }");
    const char *error;
    Kernel *s = schedule_apply(p->k, &error);
    cr_assert(s && expr_is(s, kernel_range(s), 24));
    program_drop(p);
    p = program_new("kernel k() { in X[6, 4] out Y[6, 4] Y[a, b] = X[a, b] schedule: parallel b }");
    s = schedule_apply(p->k, &error);
    cr_assert(s && expr_is(s, kernel_range(s), 1));
    program_drop(p);
}
