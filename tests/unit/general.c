/* Kernels that differ in sizes alone: which have one in common, what that one still knows, and that it computes the same. */
#include "tests/unit/kernel_runs.h"

static Program *general_new(const char *text, Cut **cut)
{
    Program *p = program_new(text);
    for (int i = 0; i < 8; i++) p->symbol[i] = 5 + i;
    program_through(p);
    *cut = program_cut(p->k, &p->mem);
    cut_generalize(*cut, p->dim, &p->mem);
    return p;
}

static void all_kin(const Cut *cut, uint32_t kernels)
{
    cr_assert_eq(cut->kernel.n, kernels);
    for (uint32_t i = 0; i < kernels; i++) cr_assert(cut->general[i] && cut->general[i] == cut->general[0]);
}

static void no_kin(const Cut *cut, uint32_t kernels)
{
    cr_assert_eq(cut->kernel.n, kernels);
    for (uint32_t i = 0; i < kernels; i++) cr_assert_null(cut->general[i]);
}

Test(general, products_of_integers_of_any_size)
{
    Cut *cut;
    Program *p = general_new("kernel k(N) { in X: u8[N, 64], Z: u8[N, 160] const V: i8[64, 96], W: i8[160, 48] out Y: i32[N, 96], U: i32[N, 48]"
                             " Y[m, n] = sum(k: 64) i32(X[m, k]) * i32(V[k, n]) U[i, j] = sum(q: 160) i32(Z[i, q]) * i32(W[q, j]) }", &cut);
    all_kin(cut, 2);
    Kernel *k = cut->general[0];
    cr_assert_eq(cut->step[0].sizes, cut->step[1].sizes);
    cr_assert_eq(cut->step[0].sizes, 3); /* rows, and what 64 and 96 became */
    for (int a = 0; a < k->stage.at[0].rank; a++) { /* 96 and 48 are 48 times something: a multiple of 16 */
        Expr extent = k->axis.at[k->stage.at[0].space[a]].extent;
        if (a == 1) cr_assert(expr_is(k, expr_mod(k, extent, expr_index(k, 16)), 0));
    }
    program_drop(p);
}

Test(general, maps_and_fills)
{
    Cut *cut;
    Program *p = general_new("kernel k(N, M) { in X[N, 33, 40], Z[M, 66, 24] out Y[N, 34, 42], V[M, 67, 25]"
                             " Y[i, j + 2, c + 2] for i: N, j: 32, c: 40 = exp(X[i, j, c])"
                             " Y[m, n, o] for m: N, n: 2, o: 40 = 0"
                             " V[d, e + 3, f + 1] for d: M, e: 64, f: 24 = exp(Z[d, e, f])"
                             " V[g, h, l] for g: M, h: 3, l: 24 = 0 }", &cut);
    cr_assert_eq(cut->kernel.n, 4);
    cr_assert(cut->general[0] && cut->general[0] == cut->general[2]);
    cr_assert(cut->general[1] && cut->general[1] == cut->general[3]);
    program_drop(p);
}

Test(general, a_size_may_be_fixed_in_one)
{
    Cut *cut;
    Program *p = general_new("kernel k(N, M) { in X[N, 33], Z[20, 49] out Y[N, 32], V[20, 48] Y[i, j] = exp(X[i, j]) * f32(M) V[m, n] = exp(Z[m, n]) * f32(N) }", &cut);
    all_kin(cut, 2);
    program_drop(p);
}

Test(general, windows_know_their_taps)
{
    Cut *cut;
    Program *p = general_new("kernel k() { in X[12, 12, 32], Z[20, 20, 64], S[20, 20, 64] const V[3, 3, 32], W[3, 3, 64], G[5, 5, 64] out Y[10, 10, 32], U[18, 18, 64], T[16, 16, 64]"
                             " Y[i, j, c] = sum(a: 3, b: 3) X[i + a, j + b, c] * V[a, b, c]"
                             " U[d, e, f] = sum(g: 3, h: 3) Z[d + g, e + h, f] * W[g, h, f]"
                             " T[l, m, n] = sum(o: 5, q: 5) S[l + o, m + q, n] * G[o, q, n] }", &cut);
    cr_assert_eq(cut->kernel.n, 3);
    cr_assert(cut->general[0] && cut->general[0] == cut->general[1]);
    cr_assert_null(cut->general[2]);
    program_drop(p);
}

Test(general, steps_of_a_window_are_known)
{
    Cut *cut;
    Program *p = general_new("kernel k() { in X[41, 32], Z[63, 48] out Y[20, 32], U[20, 48]"
                             " Y[i, c] = max(a: 3) X[i * 2 + a, c] U[d, e] = max(f: 3) Z[d * 3 + f, e] }", &cut);
    no_kin(cut, 2);
    program_drop(p);
}

Test(general, what_divides_an_index_stays)
{
    Cut *cut;
    Program *p = general_new("kernel k() { in X[20, 32], Z[40, 48] out Y[40, 32], U[120, 48] Y[i, c] = X[i / 2, c] * 2 U[d, e] = Z[d / 3, e] * 2 }", &cut);
    no_kin(cut, 2);
    program_drop(p);
}

Test(general, sums_of_floats_keep_their_length)
{
    Cut *cut;
    Program *p = general_new("kernel k() { in X[20, 64], Z[40, 80] out Y[20], U[40] Y[i] = sum(c: 64) X[i, c] U[d] = sum(e: 80) Z[d, e] }", &cut);
    no_kin(cut, 2);
    program_drop(p);
    p = general_new("kernel k() { in X[20, 64], Z[40, 64] out Y[20], U[40] Y[i] = sum(c: 64) X[i, c] U[d] = sum(e: 64) Z[d, e] }", &cut);
    all_kin(cut, 2); /* as many, in other places */
    program_drop(p);
}

Test(general, products_of_floats_keep_their_sizes)
{
    Cut *cut;
    Program *p = general_new("kernel k() { in X[20, 64], Z[40, 64] const V[64, 32], W[64, 48] out Y[20, 32], U[40, 48]"
                             " Y[m, n] = sum(k: 64) X[m, k] * V[k, n] U[i, j] = sum(q: 64) Z[i, q] * W[q, j] }", &cut);
    no_kin(cut, 2);
    program_drop(p);
}

/* Words of bf16 are added one after the other, so that how many there are decides nothing. */
Test(general, products_of_words_of_floats_of_any_size)
{
    Cut *cut;
    Program *p = general_new("kernel k() { in X: bf16[20, 64], Z: bf16[40, 96] const V: bf16[64, 32] layout(1/16, 0/2, 1%16, 0%2), W: bf16[96, 48] layout(1/16, 0/2, 1%16, 0%2)"
                             " out Y[20, 32], U[40, 48] Y[m, n] = sum(k: 64) f32(X[m, k]) * f32(V[k, n]) U[i, j] = sum(q: 96) f32(Z[i, q]) * f32(W[q, j]) }", &cut);
    all_kin(cut, 2);
    program_drop(p);
}

Test(general, other_formulas_are_no_kin)
{
    Cut *cut;
    Program *p = general_new("kernel k() { in X[20, 32], Z[40, 48], T[40, 48] out Y[20, 32], U[40, 48], S[40, 48]"
                             " Y[i, c] = exp(X[i, c]) * 2 U[d, e] = exp(Z[d, e]) * 3 S[f, g] = tanh(T[f, g]) * 2 }", &cut);
    no_kin(cut, 3);
    program_drop(p);
}
