/* Joining: which products share their loops, and that nothing changes the results. */
#include "tests/unit/kernel_runs.h"

static const char heads[] =
    "kernel k(S) { in Q[S, 64], K[S, 64], V[S, 64], M[S] const W[64, 64], U[64, 64] out Y[S, 64] tmp s[2, S, S], b[2, S, S], m[2, S], z[2, S],"
    " e[2, S, S], p[2, S, S], v[S, 64] s[h, q, t] = sum(d: 32) Q[q, h * 32 + d] * K[t, h * 32 + d] b[h, q, t] = s[h, q, t] * 0.125 + M[t]"
    " m[h, q] = larger(t: S) b[h, q, t] share 1 z[h, q] = sum(t: S) exp(b[h, q, t] - m[h, q]) keep e[h, q, t] then 1 / it share 1"
    " p[h, q, t] = e[h, q, t] * z[h, q] share 1 v[t, n] = sum(k: 64) V[t, k] * W[k, n]"
    " Y[q, c + h * 32] for h: 2, q: S, c: 32 = sum(t: S) p[h, q, t] * v[t, h * 32 + c] }";

static const Kernel *joined(const Cut *c) /* the kernel of two products */
{
    for (uint32_t i = 0; i < c->kernel.n; i++)
        if (c->kernel.at[i]->stage.n > 3) return c->kernel.at[i];
    return NULL;
}

Test(join, attention_is_one_kernel)
{
    for (int64_t length = 1; length < 40; length += 9) {
        Program *p = program_new(heads);
        p->symbol[0] = length;
        Cut *c = program_through(p); /* the values' own product moves before it, keys are packed before it */
        const Kernel *k = joined(c);
        cr_assert(k);
        cr_assert_eq(c->steps, 3);
        cr_assert_eq(k->stage.n, 5);
        Kernel *s = kernel_scheduled(k, "avx512");
        for (uint32_t b = 1; b <= kernel_params(k); b++) cr_expect_neq(s->buf.at[b].kind, BUF_TMP, "%s has no memory of its own", s->buf.at[b].name);
        cr_assert_not(expr_is_index(s, kernel_scratch(s), NULL)); /* a row is as long as the call says */
        program_drop(p);
    }
}

static void stays(const char *text)
{
    Program *p = program_new(text);
    p->symbol[0] = 20;
    cr_assert_null(joined(program_through(p)), "%s", text);
    program_drop(p);
}

Test(join, others_stay_apart)
{
    stays("kernel k(S) { in X[S, 64] const W[64, 64], U[64, 64] out Y[S, 64] tmp a[S, 64], b[S, 64], m[S], z[S]" /* weights: read for all rows */
          " a[q, t] = sum(d: 64) X[q, d] * W[d, t] m[q] = max(t: 64) a[q, t] share 1 z[q] = sum(t: 64) a[q, t] - m[q] share 1"
          " b[q, t] = a[q, t] * z[q] share 1 Y[q, c] = sum(t: 64) b[q, t] * U[t, c] }");
    stays("kernel k(S) { in Q[2, S, 32], K[2, 32, S], V[2, S, 32] out Y[2, S, 32], Z[2, S, S] tmp s[2, S, S], m[2, S], z[2, S], p[2, S, S]"
          " s[h, q, t] = sum(d: 32) Q[h, q, d] * K[h, d, t]" /* somebody else wants the scores */
          " m[h, q] = max(t: S) s[h, q, t] share 1 z[h, q] = sum(t: S) s[h, q, t] - m[h, q] share 1 p[h, q, t] = s[h, q, t] * z[h, q] share 1"
          " Y[h, q, c] = sum(t: S) p[h, q, t] * V[h, t, c] Z[h, q, t] = exp(s[h, q, t]) }");
    stays("kernel k(S) { in Q[2, S, 32], K[2, 32, S], V[2, S, 32] out Y[2, S, 32] tmp s[2, S, S], m[2, S], z[2, S], p[2, S, S]"
          " s[h, q, t] = sum(d: 32) Q[h, q, d] * K[h, d, t]" /* the other way round: columns are not rows */
          " m[h, t] = max(q: S) s[h, q, t] share 1 z[h, t] = sum(q: S) s[h, q, t] - m[h, t] share 1 p[h, q, t] = s[h, q, t] * z[h, t] share 1"
          " Y[h, q, c] = sum(t: S) p[h, q, t] * V[h, t, c] }");
    stays(
        "kernel k(S) { in Q[2, S, 32], K[2, 32, S], V[2, S, 32] out Y[2, S, 32] tmp s[2, S, S], b[2, S], z[2, S], p[2, "
        "S, S]"
        " s[h, q, t] = sum(d: 32) Q[h, q, d] * K[h, d, t]" /* a row of the scores and the largest of a column, at one axis */
        " b[h, u] = max(v: S) s[h, v, u] z[h, x] = sum(y: S) s[h, x, y] - b[h, x] p[h, q, t] = s[h, q, t] * z[h, q]"
        " Y[h, q, c] = sum(t: S) p[h, q, t] * V[h, t, c] }");
}
