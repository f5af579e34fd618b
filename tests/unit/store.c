/* Narrow storage: which buffers become bf16 or f16, what stays f32, and that results stay near. */
#include "codegen/analyse.h"
#include "tests/unit/kernel_runs.h"

/* Compares the outputs of the stages as they are with those after clustering, layout in narrow types, cutting and scheduling. */
static Program *stored(const char *text, DType t, double room)
{
    static const char *const level[] = {"portable", "avx512", "avx512bf16"};
    Program *p = program_new(text);
    p->symbol[0] = 5;
    program_check(p->k, "parsing");
    program_fill(p);
    void **want = program_reference(p);
    program_cluster(p->k);
    program_fork(p->k);
    program_layout(p->k, &(Storage){.type = t});
    program_check(p->k, "layout");
    program_near(p, want, program_run(p, 0), "layout", room);
    Cut *cut = program_cut(p->k, &p->mem);
    for (size_t l = 0; l < COUNT_OF(level); l++) program_near(p, want, cut_run(p, cut, level[l]), level[l], room);
    return p;
}

static DType type_named(const Program *p, const char *name)
{
    for (uint32_t b = 1; b < p->k->buf.n; b++)
        if (!strcmp(p->k->buf.at[b].name, name)) return p->k->buf.at[b].type;
    cr_assert_fail("no buffer %s", name);
    return DT_NONE;
}

#define INSIDE(e, n) "0 <= " e " && " e " < " n

Test(store, convolutions)
{
    Program *p = stored("kernel k() { in X[1, 3, 9, 9] const W[32, 3, 3, 3], V[16, 32, 3, 3], B[16, 1, 1] out Y[1, 16, 7, 7]"
                        " tmp a[1, 32, 7, 7] layout(0, 2, 3, 1), r[1, 32, 7, 7], s[1, 16, 7, 7]"
                        " a[n, o, h, w] = sum(c: 3, i: 3, j: 3) X[n, c, h + i, w + j] * W[o, c, i, j]"
                        " r[n, o, h, w] = max(a[n, o, h, w], 0)"
                        " s[n, p, h, w] = sum(k: 32, i: 3, j: 3) guard(" INSIDE("h + i - 1", "7") " && " INSIDE("w + j - 1", "7")
                        ", r[n, k, h + i - 1, w + j - 1], 0) * V[p, k, i, j]"
                        " Y[n, p, h, w] = s[n, p, h, w] + B[p, 0, 0] }",
                        DT_bf16, 0.3);
    cr_expect_eq(type_named(p, "r.pad"), DT_bf16);
    cr_expect_eq(type_named(p, "W"), DT_bf16);
    cr_expect_eq(type_named(p, "V"), DT_bf16);
    cr_expect_eq(type_named(p, "B"), DT_f32, "a bias");
    cr_expect_eq(type_named(p, "X"), DT_f32, "an input");
    cr_expect_eq(type_named(p, "Y"), DT_f32, "an output");
    program_drop(p);
}

/* The form for few rows multiplies keys as they are; the one for many, in which they are rounded or copied, does not share its stages. */
Test(store, few_rows)
{
    static const DType narrow[] = {DT_bf16, DT_f16};
    for (size_t i = 0; i < COUNT_OF(narrow); i++) {
        Program *p = stored("kernel k(M) { in X[6, M, 32], K[2, 40, 32] out Y[6, M, 40] tmp Q[6, M, 32]"
                            " Q[h, q, d] = X[h, q, d] * 0.5 + 0.25 Y[h, q, t] = sum(d: 32) Q[h, q, d] * K[h / 3, t, d] }",
                            narrow[i], 0.1);
        uint32_t few = 0, copies = 0; /* stages that read the keys */
        for (uint32_t s = 0; s < p->k->stage.n; s++) {
            const Compute *c = &p->k->stage.at[s];
            Contraction r;
            LoadList loads = {0};
            stage_loads(p->k, &p->mem, c, &loads);
            bool keys = false;
            for (uint32_t l = 0; l < loads.at.n; l++) keys |= !strcmp(p->k->buf.at[expr_node(p->k, loads.at.at[l])->id].name, "K");
            if (!keys) continue;
            if (!contraction_of(p->k, c, &r)) copies++;
            else if (c->when) few++;
        }
        cr_expect_eq(few, 1, "%s", dtypes[narrow[i]].name);
        cr_expect_eq(copies, 1, "%s", dtypes[narrow[i]].name);
        cr_expect_eq(type_named(p, "Q"), narrow[i]);
        program_drop(p);
    }
}

/* Weights of a window are factors, however few; sums under a window are an image, however deep. */
Test(store, windows)
{
    Program *p = stored("kernel k() { in X[1, 24, 13, 13] const W[24, 1, 3, 3], V[24, 1, 5, 5], B[24] out Y[1, 24, 7, 7], Z[1, 24]"
                        " tmp a[1, 24, 13, 13] layout(0, 2, 3, 1), b[1, 24, 11, 11] layout(0, 2, 3, 1), c[1, 24, 7, 7] layout(0, 2, 3, 1)"
                        " a[n, o, p, q] = max(X[n, o, p, q], -0.5) * 0.5 + 0.125"
                        " b[n, o, u, v] = sum(r: 3, s: 3) a[n, o, u + r, v + s] * W[o, 0, r, s] then it + B[o]"
                        " c[n, o, h, w] = sum(k: 5, l: 5) b[n, o, h + k, w + l] * V[o, 0, k, l] then max(it, -1)"
                        " Z[n, o] = sum(i: 7, j: 7) c[n, o, i, j] Y[n, o, h, w] = c[n, o, h, w] * Z[n, o] * 0.01 }",
                        DT_bf16, 0.5);
    cr_expect_eq(type_named(p, "W"), DT_bf16);
    cr_expect_eq(type_named(p, "V"), DT_bf16);
    cr_expect_eq(type_named(p, "B"), DT_f32, "a bias");
    cr_expect_eq(type_named(p, "c"), DT_bf16, "no statistic");
    program_drop(p);
}

/* An input is no operand of a dot product until it is rounded; odd depths end in partial words. */
Test(store, inputs_are_rounded_for_dots)
{
    Program *p = stored("kernel k() { in A[9, 21] const W[21, 40] out Y[9, 40] Y[m, n] = sum(k: 21) A[m, k] * W[k, n] }", DT_bf16, 0.1);
    cr_expect_eq(type_named(p, "A"), DT_f32);
    cr_expect_eq(type_named(p, "A.bf16"), DT_bf16);
    program_drop(p);
    program_drop(stored("kernel k() { in A[9, 21] const W[21, 40] out Y[9, 40] Y[m, n] = sum(k: 21) A[m, k] * W[k, n] }", DT_f16, 0.02));
    program_drop(stored("kernel k(N) { in A[N, 64], B[N, 64] out Y[N, N] tmp a[N, 64], b[N, 64] a[i, j] = A[i, j] * A[i, j] * 2 + 1"
                        " b[i, j] = B[i, j] * B[i, j] - 0.5 Y[m, n] = sum(k: 64) a[m, k] * b[n, k] }",
                        DT_bf16, 0.1));
}

/* What a softmax keeps while it sums is f32 and its own; what leaves it is narrow. */
/* A step of a scan multiplies what the step before it has written: no copy that is made beforehand has that. */
Test(store, states_are_read_as_they_become)
{
    static const DType types[] = {DT_bf16, DT_f16};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        Program *p = stored("kernel k() { in X[9, 2, 64] const W[64, 64] out Y[9, 2, 64] tmp g[9, 2, 64], h[10, 2, 64]"
                            " h[0, b, j] for b: 2, j: 64 = 0.0"
                            " g[t, b, j] = sum(k: 64) h[t, b, k] * W[k, j] then it * 0.1 + X[t, b, j] scan t"
                            " h[t + 1, b, j] for t: 9, b: 2, j: 64 = min(max(g[t, b, j], -1), 1) scan t"
                            " Y[t, b, j] = h[t + 1, b, j] }",
                            types[i], 0.05);
        cr_expect_eq(type_named(p, "h"), DT_f32, "a state");
        cr_expect_eq(type_named(p, "W"), types[i]);
        program_drop(p);
    }
}

Test(store, groups_keep_their_own)
{
    Program *p = stored("kernel k() { in X[12, 40] const W[40, 16] out Y[12, 16] tmp x[12, 40], m[12], s[12], e[12, 40]"
                        " x[r, c] = X[r, c] * 2 m[r] = max(c: 40) x[r, c] share 1"
                        " s[r] = sum(c: 40) exp(x[r, c] - m[r]) keep e[r, c] then 1 / it share 1 e[r, c] = e[r, c] * s[r] share 1"
                        " Y[r, n] = sum(c: 40) e[r, c] * W[c, n] }",
                        DT_bf16, 0.05);
    cr_expect_eq(type_named(p, "e"), DT_f32);
    cr_expect_eq(type_named(p, "e.out"), DT_bf16);
    cr_expect_eq(type_named(p, "m"), DT_f32);
    cr_expect_eq(type_named(p, "s"), DT_f32);
    program_drop(p);
}

/* Sums of products that the graph rounded already are transformed back in f32; what is made of them is narrow as anything else, and so
 * is what a group makes of what is its own. */
Test(store, rounded_sums_stay)
{
    Program *p = stored("kernel k() { in X[12, 64] const W[64, 32], U[32, 16] out Y[12, 16]"
                        " tmp x[12, 64], v: bf16[12, 64], m[12, 32], y[12, 32]"
                        " x[r, c] = tanh(X[r, c]) v[r, c] = bf16(x[r, c])"
                        " m[r, o] = sum(k: 64) f32(v[r, k]) * W[k, o] y[r, o] = m[r, o] - m[r, 31 - o]"
                        " Y[r, n] = sum(i: 32) max(y[r, i], y[r, 31 - i]) * U[i, n] }",
                        DT_bf16, 0.3);
    cr_expect_eq(type_named(p, "v"), DT_bf16);
    cr_expect_eq(type_named(p, "m"), DT_f32);
    program_drop(p);
    p = stored("kernel k() { in X[12, 64] out Y[12] tmp e[12, 64], f[12, 64] e[r, c] = exp(X[r, c]) share 1"
               " f[r, c] = e[r, c] - e[r, 63 - c] share 1 Y[r] = max(c: 64) f[r, c] * f[r, 63 - c] }",
               DT_bf16, 0.3);
    cr_expect_eq(type_named(p, "e"), DT_f32, "its own");
    cr_expect_eq(type_named(p, "f"), DT_bf16, "made of data, however it came about");
    program_drop(p);
}

/* Coordinates, and what they are made of; what is looked up is narrow. */
Test(store, places_stay)
{
    Program *p = stored("kernel k() { in X[8, 40], G[12, 40] out Y[12, 40], Z[12, 40] tmp x[8, 40], g[12, 40], p[12, 40]"
                        " x[r, c] = tanh(X[r, c]) g[i, j] = tanh(G[i, j]) p[i, j] = (g[i, j] + 1) * 4 + g[i, 39 - j] * 0.25"
                        " Y[i, j] = guard(0 <= i64(p[i, j]) && i64(p[i, j]) < 8, x[i64(p[i, j]), j], 0.0) + x[0, j]"
                        " Z[i, j] = p[i, j] * g[i, 39 - j] }",
                        DT_bf16, 0.02);
    cr_expect_eq(type_named(p, "x"), DT_bf16);
    cr_expect_eq(type_named(p, "g"), DT_f32);
    cr_expect_eq(type_named(p, "p"), DT_f32);
    program_drop(p);
}

/* A row that is masked as a whole is a softmax of what hides; bf16 has no number as large as the lowest float, and its difference to itself is 0. */
Test(store, what_hides_stays_finite)
{
    static const char *const masks[] = {"select(r < 9, X[r, c] * 2, -3.4028234e38)", "X[r, c] * 2 + select(r < 9, 0.0, -3.4028234e38)", "X[r, c] * 2 + M[r, c]"};
    for (size_t i = 0; i < COUNT_OF(masks); i++) {
        char text[600];
        snprintf(text, sizeof text,
                 "kernel k() { in X[12, 40] const W[40, 16] out Y[12, 16] tmp M[12, 40], x[12, 40], m[12], s[12], e[12, 40]"
                 " M[r, c] = select(r < 9, X[r, c], -3.4028234e38) x[r, c] = %s m[r] = max(c: 40) x[r, c] share 1"
                 " s[r] = sum(c: 40) exp(x[r, c] - m[r]) keep e[r, c] then 1 / it share 1 e[r, c] = e[r, c] * s[r] share 1"
                 " Y[r, n] = sum(c: 40) e[r, c] * W[c, n] }",
                 masks[i]);
        program_drop(stored(text, DT_bf16, 0.05));
    }
}

/* 1001 has no 16-bit form that tells it from 1000. */
Test(store, positions_stay)
{
    Program *p = stored("kernel k() { in I: i64[2000], X[2000] out Y[2000], Z[2000, 3] tmp p[2000], q[2000, 3]"
                        " p[i] = exp(f32(I[i]) * 0.125) + f32(I[i]) + 1000 q[i, j] = p[i] * 2 + tanh(p[i])"
                        " Y[i] = X[i] + p[i] + tanh(q[i, 0]) Z[i, j] = q[i, j] + q[i, 2 - j] }",
                        DT_bf16, 1e-4);
    program_drop(p);
}

/* Large activations become the largest f16, not infinity; weights f16 cannot hold stay. */
Test(store, f16_saturates)
{
    Program *p = stored("kernel k() { in A[9, 20] const W[20, 40], V[40, 16] out Y[9, 16] tmp a[9, 40]"
                        " a[m, n] = sum(k: 20) A[m, k] * W[k, n] then it * 1000000"
                        " Y[i, o] = sum(j: 40) a[i, j] * V[j, o] then select(it < 1e8 && -1e8 < it, 1.0, 0.0) }",
                        DT_f16, 0);
    cr_expect_eq(type_named(p, "a"), DT_f16);
    program_drop(p);
}

/* ---- split.c ---- */
static Program *split(const char *text, int planes, double room)
{
    static const char *const level[] = {"portable", "avx512bf16", "amx"};
    Program *p = program_new(text);
    p->symbol[0] = 5;
    program_fill(p);
    void **want = program_reference(p);
    program_cluster(p->k);
    program_layout(p->k, &(Storage){.planes = planes});
    program_check(p->k, "layout");
    program_near(p, want, program_run(p, 0), "layout", room);
    Cut *cut = program_cut(p->k, &p->mem);
    for (size_t l = 0; l < COUNT_OF(level); l++) program_near(p, want, cut_run(p, cut, level[l]), level[l], room);
    return p;
}

/* Errors of sums of some hundred products of factors about 1: 2^-9, 2^-17 and 2^-25 of them. */
Test(split, planes)
{
    static const char text[] = "kernel k() { in X[1, 3, 9, 9] const W[32, 3, 3, 3], V[16, 32, 3, 3] out Y[1, 16, 7, 7], Z[1, 32, 7, 7]"
                               " tmp a[1, 32, 7, 7] layout(0, 2, 3, 1), r[1, 32, 7, 7]"
                               " a[n, o, h, w] = sum(c: 3, i: 3, j: 3) X[n, c, h + i, w + j] * W[o, c, i, j]"
                               " r[n, o, h, w] = max(a[n, o, h, w], 0) Z[n, o, h, w] = r[n, o, h, w] * 2"
                               " Y[n, p, h, w] = sum(k: 32, i: 3, j: 3) guard(" INSIDE("h + i - 1", "7") " && " INSIDE("w + j - 1", "7")
                               ", r[n, k, h + i - 1, w + j - 1], 0) * V[p, k, i, j] }";
    static const double room[] = {0.3, 6e-4, 4e-6};
    for (int planes = 1; planes <= 3; planes++) {
        Program *p = split(text, planes, room[planes - 1]);
        cr_expect_eq(type_named(p, "Z"), DT_f32);
        cr_expect_eq(type_named(p, planes == 1 ? "V" : "V.planes"), DT_bf16);
        program_drop(p);
    }
}

/* A product reads the first part of what it stores the second part of: who reads both needs planes of both. */
Test(split, parts_of_a_concatenation)
{
    static const char text[] =
        "kernel k() { in X[4, 16] const V[16, 16], W[32, 16] out Y[4, 16] tmp c[4, 32]"
        " c[m, n] for m: 4, n: 16 = X[m, n] * 0.5 c[m, n + 16] for m: 4, n: 16 = sum(k: 16) c[m, k] * V[k, n]"
        " Y[m, n] = sum(j: 32) c[m, j] * W[j, n] }";
    for (int planes = 1; planes <= 3; planes++)
        program_drop(split(text, planes, planes == 1 ? 0.3 : planes == 2 ? 1e-3 : 1e-5));
}

Test(split, matrices)
{
    static const char text[] = "kernel k(N) { in A[N, 67] const W[67, 40], V[40, 24] out Y[N, 24] tmp h[N, 40]"
                               " h[m, n] = sum(k: 67) A[m, k] * W[k, n] then max(it, 0) Y[i, o] = sum(j: 40) h[i, j] * V[j, o] }";
    for (int planes = 1; planes <= 3; planes++) {
        Program *p = split(text, planes, planes == 1 ? 0.2 : planes == 2 ? 4e-4 : 4e-6);
        cr_expect_eq(type_named(p, "h"), planes == 1 ? DT_bf16 : DT_f32, "what only sums read is bf16 to begin with");
        program_drop(p);
    }
}
