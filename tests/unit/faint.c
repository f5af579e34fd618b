/* Subnormal weights: zero where they are only multiplied, kept where anything else reads them. */
#include "codegen/analyse.h"
#include "tests/unit/kernel_runs.h"

enum { DEPTH = 3, COLS = 2, ELEMENTS = DEPTH * COLS };
static const float numbers[ELEMENTS] = {1e-40f, -1e-42f, 1.17549435e-38f, -2, INFINITY, 0};

static const Tensor *weights_after(Program *p, DType t)
{
    Tensor *w = tensor_new(&p->mem, t, 2, (int64_t[]){DEPTH, COLS});
    for (int64_t i = 0; i < ELEMENTS; i++) dtype_store(t, (void *)(uintptr_t)w->data, i, (double)numbers[i]);
    int buf = 0;
    for (uint32_t b = 1; b < p->k->buf.n; b++)
        if (!strcmp(p->k->buf.at[b].name, "W")) buf = (int)b;
    p->k->buf.at[buf].data = w;
    program_faint(p->k);
    cr_expect(dtype_load(t, w->data, 0) != 0, "the model's own tensor stays");
    return p->k->buf.at[buf].data;
}

#define PRODUCT " Y[m, n] = sum(k: 3) X[m, k] * f32(W[k, n])"

Test(faint, factors)
{
    static const char *const text[] = {
        "kernel k() { in X[4, 3] const W[3, 2] out Y[4, 2] Y[m, n] = sum(k: 3) X[m, k] * W[k, n] }",
        "kernel k() { in X[4, 3] const W[3, 2] out Y[4, 2] Y[m, n] = sum(k: 3) W[k, n] * X[m, k] then max(it, 0.0) }",
        "kernel k() { in X[4, 3] const W: bf16[3, 2] out Y[4, 2]" PRODUCT " }"};
    for (size_t i = 0; i < COUNT_OF(text); i++) {
        Program *p = program_new(text[i]);
        DType t = i == 2 ? DT_bf16 : DT_f32;
        const Tensor *w = weights_after(p, t);
        for (int64_t e = 0; e < 2; e++) cr_expect_eq(dtype_load(t, w->data, e), 0, "%s: %d", text[i], (int)e);
        for (int64_t e = 2; e < ELEMENTS; e++)
            cr_expect(dtype_load(t, w->data, e) == (double)numbers[e] || (i == 2 && e == 2), "%s: %d", text[i], (int)e);
        program_drop(p);
    }
}

Test(faint, other_readers)
{
    static const char *const text[] = {
        "kernel k() { const W[3, 2] out Y[3, 2] Y[k, n] = W[k, n] * 1e30 }",
        "kernel k() { in X[4, 3] const W[3, 2] out Y[4, 2], Z[3, 2]" PRODUCT " Z[k, n] = W[k, n] }",
        "kernel k() { in X[4, 3] const W[3, 2] out Y[4, 2] Y[m, n] = sum(k: 3) X[m, k] * W[k, n] then it + W[0, n] }",
        "kernel k() { in X[4, 3] const W[3, 2] out Y[4, 2] Y[m, n] = sum(k: 3) X[m, k] * (W[k, n] * 1e30) }",
        "kernel k() { in X[4, 3] const W[3, 2] out Y[4, 2] Y[m, n] = max(k: 3) X[m, k] * W[k, n] }"};
    for (size_t i = 0; i < COUNT_OF(text); i++) {
        Program *p = program_new(text[i]);
        cr_expect_eq(dtype_load(DT_f32, weights_after(p, DT_f32)->data, 0), (double)numbers[0], "%s", text[i]);
        program_drop(p);
    }
}
