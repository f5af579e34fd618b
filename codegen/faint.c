/* faint.c - weights too small to count are zero.
 *
 * Comes in: the program, laid out. Goes out: the same program, in which a constant that is only read as a factor of sums of products has no
 * subnormal numbers. Training with weight decay leaves them in channels that are not needed. One adds at most 2^-126 of what it is multiplied
 * with, nothing beside any other term, but some processors (Intel) take a hundred cycles and more for every instruction that multiplies with one; the instructions for
 * products of bf16 see zero in any case. Values of a call keep theirs: what they are compared with or divided by is not known. */
#include "codegen/analyse.h"
#include <float.h>
#include <math.h>

typedef struct Faint {
    Kernel *k;
    Arena *mem;
    bool *factor, *other; /* per buffer: read as a factor; read in another way */
} Faint;

static bool is_sum_of_products(const Kernel *k, const Compute *s)
{
    const ExprNode *v = expr_node(k, s->value);
    return s->reduces && s->how == P_add && v->kind == E_PRIM && v->prim == P_mul;
}

static void other_reads(Faint *f, const Compute *s)
{
    LoadList l = {0};
    stage_loads(f->k, f->mem, s, &l);
    for (uint32_t i = 0; i < l.at.n; i++) f->other[expr_node(f->k, l.at.at[i])->id] = true;
}

static void stage_reads(Faint *f, const Compute *s)
{
    Compute rest = *s; /* what is no factor */
    ExprNode v = *expr_node(f->k, s->value);
    for (int i = 0; is_sum_of_products(f->k, s) && i < 2; i++) {
        Expr factor = uncast(f->k, v.arg[i], (DType)v.type);
        if (!is_constant_load(f->k, factor)) continue;
        f->factor[expr_node(f->k, factor)->id] = true;
        rest.value = v.arg[1 - i];
    }
    other_reads(f, &rest);
}

static bool is_faint(const Tensor *t, int64_t i)
{
    float v = t->type == DT_f32 ? ((const float *)t->data)[i] : (float)dtype_load(t->type, t->data, i);
    return fpclassify(v) == FP_SUBNORMAL;
}

/* Most weights are not: many are looked at together. Faint numbers lie between 0 and the least normal one. */
static bool some_faint(const float *v, int n)
{
    int found = 0;
    for (int i = 0; i < n; i++) found |= (fabsf(v[i]) > 0) & (fabsf(v[i]) < FLT_MIN);
    return found;
}

static int64_t first_faint(const Tensor *t)
{
    enum { BLOCK = 1024 };
    int64_t n = tensor_count(t), i = 0;
    if (t->type == DT_f32)
        while (n - i >= BLOCK && !some_faint((const float *)t->data + i, BLOCK)) i += BLOCK;
    while (i < n && !is_faint(t, i)) i++;
    return i;
}

static const Tensor *without_faint(Arena *mem, const Tensor *t)
{
    int64_t n = tensor_count(t), first = first_faint(t);
    if (first == n) return t;
    Tensor *to = tensor_new(mem, t->type, t->rank, t->dim);
    memcpy((void *)(uintptr_t)to->data, t->data, tensor_bytes(t));
    for (int64_t i = first; i < n; i++)
        if (is_faint(t, i)) dtype_store(t->type, (void *)(uintptr_t)to->data, i, 0);
    return to;
}

static bool may_be_faint(const Buf *b) /* f16 has no numbers as small */
{
    return b->kind == BUF_CONST && b->data && b->data->data && (b->type == DT_f32 || b->type == DT_bf16);
}

void program_faint(Kernel *k)
{
    Arena scratch = {0};
    uint32_t bufs = k->buf.n;
    Faint f = {k, &scratch, NEW_ARRAY(&scratch, bool, bufs), NEW_ARRAY(&scratch, bool, bufs)};
    for (uint32_t i = 0; i < k->stage.n; i++) stage_reads(&f, &k->stage.at[i]);
    for (uint32_t b = 1; b < bufs; b++)
        if (f.factor[b] && !f.other[b] && may_be_faint(&k->buf.at[b]))
            k->buf.at[b].data = without_faint(k->mem, k->buf.at[b].data);
    arena_drop(&scratch);
}
