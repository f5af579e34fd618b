/* Cutting: equal work is one kernel, groups stay together, and the steps compute what the program says. */
#include "ir/lower.h"
#include "tests/unit/kernel_runs.h"

Test(cut, equal_layers_share_a_kernel)
{
    Program *p = program_new("kernel k() { in X[4, 32] const V[32, 32], W[32, 32], B[32], C[32] out Y[4, 32] tmp a[4, 32], b[4, 32], c[4, 32]"
                             " a[m, n] = sum(k: 32) X[m, k] * V[k, n] b[m, n] = max(a[m, n] + B[n], 0)"
                             " c[m, n] = sum(k: 32) b[m, k] * W[k, n] Y[m, n] = max(c[m, n] + C[n], 0) }");
    Cut *c = program_through(p);
    cr_assert_eq(c->steps, 2);
    cr_assert_eq(c->kernel.n, 1);
    cr_assert_eq(c->step[0].kernel, c->step[1].kernel);
    cr_assert_eq(kernel_params(c->kernel.at[0]), c->step[0].bufs);
    program_drop(p);
}

Test(cut, zero_points_do_not_tell_layers_apart)
{
    Program *p = program_new("kernel k() { in X[4, 32], Z[4, 32] const P: u8[1], Q: u8[1] out Y: u8[4, 32], V: u8[4, 32]"
                             " Y[m, n] = sat_u8(rint(X[m, n] * 2) + f32(P[0])) V[m, n] = sat_u8(rint(Z[m, n] * 2) + f32(Q[0])) }");
    for (uint32_t b = 1; b < p->k->buf.n; b++) {
        Buf *c = &p->k->buf.at[b];
        if (c->kind != BUF_CONST) continue;
        Tensor *t = tensor_new(&p->mem, DT_u8, 1, &(int64_t){1});
        *(uint8_t *)(uintptr_t)t->data = (uint8_t)(3 + b), c->data = t;
    }
    Cut *c = program_cut(program_cluster(p->k), &p->mem);
    cr_assert_eq(c->steps, 2);
    cr_assert_eq(c->kernel.n, 1);
    program_drop(p);
}

Test(cut, sizes_are_private)
{
    Program *p = program_new("kernel k(N, M) { in X[N, 8], Z[M, 8] out Y[N, 8], V[M, 8] Y[i, j] = exp(X[i, j]) V[m, j] = exp(Z[m, j]) }");
    p->symbol[0] = 3, p->symbol[1] = 7;
    Cut *c = program_through(p);
    cr_assert_eq(c->kernel.n, 1); /* the same kernel, called with other sizes */
    cr_assert_eq(c->step[0].sizes, 1);
    program_drop(p);
}

Test(cut, groups_stay_together)
{
    Program *p = program_new("kernel k(R) { in X[R, 9] out Y[R, 9] tmp m[R], s[R]"
                             " m[r] = max(c: 9) X[r, c] share 3"
                             " s[r] = sum(c: 9) exp(X[r, c] - m[r]) keep Y[r, c] then 1 / it share 3"
                             " Y[r, c] = Y[r, c] * s[r] share 3 }");
    p->symbol[0] = 4;
    Cut *c = program_through(p);
    cr_assert_eq(c->steps, 1);
    cr_assert_eq(c->kernel.at[0]->stage.n, 3);
    Kernel *s = kernel_scheduled(c->kernel.at[0], "avx2"); /* m and s are single numbers inside the loop over rows */
    int locals = 0;
    for (uint32_t b = 1; b <= kernel_params(c->kernel.at[0]); b++) locals += s->buf.at[b].kind == BUF_LOCAL;
    cr_assert_eq(locals, 2);
    program_drop(p);
}

Test(cut, reading_and_writing_parts_of_one_buffer)
{
    Program *p = program_new("kernel k() { in X[4, 8] const V[8, 8], W[8, 8] out Y[4, 16] tmp a[4, 8], b[4, 8], c[4, 16]"
                             " a[m, n] = sum(k: 8) X[m, k] * V[k, n] b[m, n] = sum(k: 8) a[m, k] * W[k, n]"
                             " c[m, n] for m: 4, n: 8 = a[m, n] c[m, n + 8] for m: 4, n: 8 = b[m, n] Y[m, j] = exp(c[m, j]) }");
    Cut *c = program_through(p);
    cr_assert_eq(c->steps, 3);
    uint32_t same = 0; /* once in, once out */
    for (uint32_t i = 0; i < c->step[1].bufs; i++)
        for (uint32_t j = 0; j < i; j++) same += c->step[1].buf[i] == c->step[1].buf[j];
    cr_assert_eq(same, 1);
    program_drop(p);
}

/* A stage runs where somebody needs it: what one copy of a choice reads alone has its condition, what both read runs always. */
Test(cut, branches_are_skipped)
{
    Program *p = program_new("kernel k() { in X[4, 8] const V[8, 8], W[8, 8] out Y[4, 8] tmp s[4, 8], a[4, 8], b[4, 8], c[4, 8]"
                             " s[m, n] = max(k: 8) X[m, k] * V[k, n]"
                             " a[m, n] = sum(k: 8) s[m, k] * V[k, n] b[m, n] = sum(k: 8) s[m, k] * W[k, n]"
                             " c[m, n] = a[m, n] c[m, n] = b[m, n]"
                             " Y[m, n] = exp(c[m, n]) }");
    Dim wanted[16] = {{0}}, yes = dim_truth(p->k->dim, "flag"), no = dim_not(p->k->dim, yes);
    p->k->stage.at[3].when = expr_dim(p->k, yes), p->k->stage.at[4].when = expr_dim(p->k, no);
    program_cluster(p->k);
    program_check(p->k, "cluster");
    for (uint32_t b = 1; b < p->k->buf.n; b++)
        if (p->k->buf.at[b].kind == BUF_OUT) wanted[b] = dim_const(p->k->dim, 1);
    program_demand(p->k, wanted);
    Cut *c = program_cut(p->k, &p->mem);
    uint32_t always = 0, first = 0, second = 0;
    for (uint32_t i = 0; i < c->steps; i++) {
        always += !dim_known(c->step[i].when);
        first += dim_same(c->step[i].when, yes), second += dim_same(c->step[i].when, no);
    }
    cr_expect_geq(always, 1, "what both branches need");
    cr_expect(first >= 1 && second >= 1 && first == second && always + first + second == c->steps);
    program_drop(p);
}

Test(cut, whole_networks)
{
    Program *p = program_new(
        "kernel convnet() { in X[1, 3, 15, 15] const W1[32, 3, 3, 3], B1[32], W2[32, 32, 3, 3], W3[32, 32, 1, 1], D[32, 1, 3, 3], F[10, 32]"
        " tmp a[1, 32, 8, 8] layout(0, 2, 3, 1), b[1, 32, 8, 8], r[1, 32, 8, 8], c[1, 32, 8, 8] layout(0, 2, 3, 1), d[1, 32, 8, 8]"
        " tmp e[1, 32, 8, 8] layout(0, 2, 3, 1), g[1, 32, 8, 8], h[1, 32, 8, 8], q[1, 32, 4, 4] layout(0, 2, 3, 1), av[1, 32, 1, 1], fl[1, 32]"
        " out Y[1, 10]"
        " a[n, o, y, x] = sum(k: 3, i: 3, j: 3) guard(0 <= y * 2 + i - 1 && y * 2 + i - 1 < 15 && 0 <= x * 2 + j - 1 && x * 2 + j - 1 < 15,"
        "   X[n, k, y * 2 + i - 1, x * 2 + j - 1], 0) * W1[o, k, i, j]"
        " b[n, o, y, x] = a[n, o, y, x] + B1[o] r[n, o, y, x] = max(b[n, o, y, x], 0)"
        " c[n, o, y, x] = sum(z: 32, i: 3, j: 3) guard(0 <= y + i - 1 && y + i - 1 < 8 && 0 <= x + j - 1 && x + j - 1 < 8,"
        "   r[n, z, y + i - 1, x + j - 1], 0) * W2[o, z, i, j]"
        " d[n, o, y, x] = max(c[n, o, y, x], 0)"
        " e[n, o, y, x] = sum(z: 32) d[n, z, y, x] * W3[o, z, 0, 0] g[n, o, y, x] = e[n, o, y, x] + r[n, o, y, x] h[n, o, y, x] = max(g[n, o, y, x], 0)"
        " q[n, o, v, u] = sum(i: 3, j: 3) guard(0 <= v * 2 + i - 1 && v * 2 + i - 1 < 8 && 0 <= u * 2 + j - 1 && u * 2 + j - 1 < 8,"
        "   h[n, o, v * 2 + i - 1, u * 2 + j - 1], 0) * D[o, 0, i, j]"
        " av[n, o, s, t] = sum(f: 4, l: 4) q[n, o, f, l] then it * 0.0625 fl[n, o] = av[n, o, 0, 0]"
        " Y[n, m] = sum(z: 32) fl[n, z] * F[m, z] }");
    program_through(p);
    program_drop(p);
    p = program_new(
        "kernel quantized() { in X[1, 3, 8, 8] const W: i8[16, 3, 3, 3], S[16], V: i8[18, 16, 3, 3], T[18]"
        " tmp q: u8[1, 3, 8, 8] layout(0, 2, 3, 1), a: i32[1, 16, 8, 8] layout(0, 2, 3, 1), f[1, 16, 8, 8], u: u8[1, 16, 8, 8]"
        " tmp b: i32[1, 18, 8, 8] layout(0, 2, 3, 1) out Y[1, 18, 8, 8]"
        " q[n, c, y, x] = sat_u8(rint(X[n, c, y, x] * 100) + 3)"
        " a[n, o, y, x] = sum(c: 3, i: 3, j: 3) i32(guard(0 <= y + i - 1 && y + i - 1 < 8 && 0 <= x + j - 1 && x + j - 1 < 8,"
        "   q[n, c, y + i - 1, x + j - 1], u8(3))) * i32(W[o, c, i, j])"
        " f[n, o, y, x] = f32(a[n, o, y, x]) * S[o] u[n, o, y, x] = sat_u8(rint(f[n, o, y, x]) + 7)"
        " b[n, p, y, x] = sum(k: 16, i: 3, j: 3) i32(guard(0 <= y + i - 1 && y + i - 1 < 8 && 0 <= x + j - 1 && x + j - 1 < 8,"
        "   u[n, k, y + i - 1, x + j - 1], u8(7))) * i32(V[p, k, i, j])"
        " Y[n, p, y, x] = f32(b[n, p, y, x]) * T[p] }");
    program_through(p);
    program_drop(p);
}

Test(cut, attention)
{
    Program *p = program_new(
        "kernel attention(S) { in X[1, S, 32] const A[32, 32], B[32, 32], C[32, 32], D[32, 32], E[32]"
        " tmp q[1, S, 32], q1[1, S, 32], k1[1, S, 32], v[1, S, 32], q4[1, S, 2, 16], qt[1, 2, S, 16], k4[1, S, 2, 16], kt[1, 2, 16, S]"
        " tmp v4[1, S, 2, 16], vt[1, 2, S, 16], sc[1, 2, S, S], m[1, 2, S], l[1, 2, S], pr[1, 2, S, S], c[1, 2, S, 16], ct[1, S, 2, 16], cm[1, S, 32]"
        " out Y[1, S, 32]"
        " q[b, s, n] = sum(i: 32) X[b, s, i] * A[i, n] q1[b, s, n] = q[b, s, n] + E[n]"
        " k1[b, s, n] = sum(i: 32) X[b, s, i] * B[i, n] v[b, s, n] = sum(i: 32) X[b, s, i] * C[i, n]"
        " q4[b, s, h, d] = q1[b, s, h * 16 + d] qt[b, h, s, d] = q4[b, s, h, d]"
        " k4[b, s, h, d] = k1[b, s, h * 16 + d] kt[b, h, d, s] = k4[b, s, h, d]"
        " v4[b, s, h, d] = v[b, s, h * 16 + d] vt[b, h, s, d] = v4[b, s, h, d]"
        " sc[b, h, s, t] = sum(d: 16) qt[b, h, s, d] * kt[b, h, d, t] then it * 0.25"
        " m[b, h, s] = max(t: S) sc[b, h, s, t] share 1"
        " l[b, h, s] = sum(t: S) exp(sc[b, h, s, t] - m[b, h, s]) keep pr[b, h, s, t] then 1 / it share 1"
        " pr[b, h, s, t] = pr[b, h, s, t] * l[b, h, s] share 1"
        " c[b, h, s, d] = sum(t: S) pr[b, h, s, t] * vt[b, h, t, d] ct[b, s, h, d] = c[b, h, s, d] cm[b, s, n] = ct[b, s, n / 16, n % 16]"
        " Y[b, s, n] = sum(i: 32) cm[b, s, i] * D[i, n] then it + X[b, s, n] }");
    p->symbol[0] = 7;
    Cut *c = program_through(p);
    cr_assert_leq(c->steps, 8);
    program_drop(p);
}
