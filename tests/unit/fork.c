/* Forking: which products have a form for few rows and one for many, and that both compute the same. */
#include "ir/lower.h"
#include "tests/unit/kernel_runs.h"

static const char attention[] =
    "kernel k(M, T) { in Q[6, M, 32], K[2, T, 32], V[2, T, 32], B[T] out Y[6, M, 32] tmp s[6, M, T], b[6, M, T], m[6, M], z[6, M], e[6, M, T], p[6, M, T]"
    " s[h, q, t] = sum(d: 32) Q[h, q, d] * K[h / 3, t, d] b[h, q, t] = s[h, q, t] * 0.125 + B[t]"
    " m[h, q] = larger(t: T) b[h, q, t] share 1 z[h, q] = sum(t: T) exp(b[h, q, t] - m[h, q]) keep e[h, q, t] then 1 / it share 1"
    " p[h, q, t] = e[h, q, t] * z[h, q] share 1 Y[h, q, c] = sum(t: T) p[h, q, t] * V[h / 3, t, c] }";

static uint32_t steps_that_run(const Program *p, const Cut *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->steps; i++) {
        int64_t runs = 1;
        cr_assert(!c->step[i].when.id || dim_eval(p->dim, c->step[i].when, p->symbol, &runs));
        n += runs != 0;
    }
    return n;
}

/* Attention as one kernel for few rows; for many another one, and before it a step that puts each head of keys into panels once. */
Test(fork, attention_for_few_rows_and_for_many)
{
    static const int64_t rows[] = {1, 2, 4, 5, 33}; /* three heads share keys of 32 terms: five rows are many */
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        Program *p = program_new(attention);
        p->symbol[0] = rows[i], p->symbol[1] = 40;
        Cut *c = program_through(p);
        cr_assert_eq(c->steps, 3);
        cr_expect_eq(c->kernel.at[0]->stage.n, 5);
        cr_expect_eq(c->kernel.at[2]->stage.n, 5);
        const Kernel *panels = c->kernel.at[1];
        cr_expect(expr_is(panels, panels->buf.at[2].dim[0], 2), "two heads of keys, not six");
        Dim *wanted = NEW_ARRAY(&p->mem, Dim, p->k->buf.n);
        for (uint32_t b = 1; b < p->k->buf.n; b++)
            if (p->k->buf.at[b].kind == BUF_OUT) wanted[b] = dim_const(p->dim, 1);
        program_demand(p->k, wanted);
        cr_expect_eq(steps_that_run(p, program_cut(p->k, &p->mem)), rows[i] < 5 ? 1 : 2);
        program_drop(p);
    }
}

static void one_form(const char *text)
{
    Program *p = program_new(text);
    p->symbol[0] = 40, p->symbol[1] = 40;
    program_cluster(p->k);
    uint32_t n = p->k->stage.n;
    program_fork(p->k);
    cr_expect_eq(p->k->stage.n, n, "%s", text);
    for (uint32_t i = 0; i < p->k->stage.n; i++) cr_expect_eq(p->k->stage.at[i].when, 0, "%s", text);
    program_drop(p);
}

Test(fork, others_have_one_form)
{
    one_form("kernel k(M) { in Q[6, M, 32], K[6, M, 32] out S[6, M, M] S[h, q, t] = sum(d: 32) Q[h, q, d] * K[h, t, d] }"); /* as many rows as columns */
    one_form("kernel k(T) { in Q[6, 8, 32], K[6, T, 32] out S[6, 8, T] S[h, q, t] = sum(d: 32) Q[h, q, d] * K[h, t, d] }"); /* a known number */
    one_form("kernel k(M, T) { in Q[6, M, 32], K[6, 32, T] out S[6, M, T] S[h, q, t] = sum(d: 32) Q[h, q, d] * K[h, d, t] }"); /* columns lie side by side */
    one_form("kernel k(M, T) { in Q[6, M, 20], K[6, T, 20] out S[6, M, T] S[h, q, t] = sum(d: 20) Q[h, q, d] * K[h, t, d] }"); /* terms fill no vectors */
    one_form("kernel k(M, T) { in Q[6, M + 40, 32], K[6, T, 32] out S[6, M + 40, T] S[h, q, t] = sum(d: 32) Q[h, q, d] * K[h, t, d] }"); /* many in any case */
    one_form("kernel k(M, T) { in Q[M, 32], K[T, 32] out S[M, T] S[q, t] = sum(d: 32) Q[q, d] * K[t, d] }"); /* the same columns for all of a batch */
    one_form("kernel k(M) { in Q[M, 32] const W[64, 32] out S[M, 64] S[q, t] = sum(d: 32) Q[q, d] * W[t, d] }"); /* weights are put into panels beforehand */
}
