/* interp_block.c - the interpreter on up to BLOCK points of one axis at a time: every instruction is a loop over
 * points, which makes large constants affordable to fold. Same results as point by point, bit for bit: rounding, order
 * of reductions, checks. A guard that holds at some of the points and not at others is left to interp.c. */
#include "ir/interp.h"
#include <assert.h>

typedef struct Block {
    Run *r;
    int axis, n;
    int64_t base;
} Block;
#define EACH(i) for (int i = 0; i < b->n; i++)

static Number *lanes(const Code *c, uint32_t reg) { return c->wide + (size_t)reg * BLOCK; }

static void open_wide(Run *r, Code *c)
{
    if (c->wide) return;
    c->wide = NEW_ARRAY(&r->mem, Number, (size_t)c->regs * BLOCK);
    for (uint32_t reg = 0; reg < c->regs; reg++)
        for (int i = 0; i < BLOCK; i++) lanes(c, reg)[i] = c->reg[reg];
}

/* ---- loads and stores ---- */
static bool plain(const Place *p) /* row-major, all dimensions */
{
    for (int i = 0; i < p->phys; i++)
        if (p->which[i] != i || p->div[i] != 1) return false;
    return p->phys == p->rank;
}

static bool offsets(const Block *b, const Place *p, const Number *const *at, int64_t *offset)
{
    bool out = false;
    if (plain(p)) {
        EACH(i) offset[i] = 0;
        for (int d = 0; d < p->rank; d++) {
            int64_t size = p->dim[d];
            EACH(i)
            {
                int64_t v = at[d][i].i;
                out = out || v < 0 || v >= size;
                offset[i] = (int64_t)((uint64_t)offset[i] * (uint64_t)size + (uint64_t)v);
            }
        }
        return !out;
    }
    EACH(i)
    {
        int64_t index[MAX_RANK];
        for (int d = 0; d < p->rank; d++) index[d] = at[d] ? at[d][i].i : 0;
        offset[i] = interp_offset(p, index);
        out = out || offset[i] < 0;
    }
    return !out;
}

static bool run_load(const Block *b, const Code *c, const Inst *in)
{
    const Place *p = interp_place(b->r, (int)in->id);
    const Number *at[MAX_RANK] = {0};
    int64_t o[BLOCK];
    Number *to = lanes(c, in->to);
    const void *data = p->data;
    for (int d = 0; d < in->rank; d++) at[d] = lanes(c, in->arg[d]);
    if (!data || !offsets(b, p, at, o)) return b->r->error = INTERP_ERR_INDEX, false;
    switch (p->type) {
    case DT_f32: EACH(i) to[i].f = (double)((const float *)data)[o[i]]; break;
    case DT_i64: EACH(i) to[i].i = ((const int64_t *)data)[o[i]]; break;
    case DT_i32: EACH(i) to[i].i = ((const int32_t *)data)[o[i]]; break;
    case DT_u8: EACH(i) to[i].i = ((const uint8_t *)data)[o[i]]; break;
    case DT_i8: EACH(i) to[i].i = ((const int8_t *)data)[o[i]]; break;
    default: EACH(i) to[i] = interp_load(p, o[i]);
    }
    return true;
}

/* ---- arithmetic: the common operations as loops, the others one by one ---- */
#define F32(op)                                                                                                        \
    EACH(i) to[i].f = (double)(float)(x[i].f op y[i].f);                                                               \
    return
static void float_lanes(const Block *b, const Inst *in, Number *to, const Number *x, const Number *y, const Number *z)
{
    DType t = (DType)in->from;
    if (t == DT_f32) switch (in->prim) {
        case P_add: F32(+);
        case P_sub: F32(-);
        case P_mul: F32(*);
        case P_div: F32(/);
        default: break;
        }
    EACH(i) to[i].f = prim_float((Prim)in->prim, t, x[i].f, y[i].f, z[i].f);
}

#define I64(op)                                                                                                        \
    EACH(i) to[i].i = (int64_t)((uint64_t)x[i].i op(uint64_t) y[i].i);                                                 \
    return
static void int_lanes(const Block *b, const Inst *in, Number *to, const Number *x, const Number *y, const Number *z)
{
    DType t = (DType)in->from;
    bool positive = t == DT_i64;
    if (t == DT_i64) switch (in->prim) {
        case P_add: I64(+);
        case P_sub: I64(-);
        case P_mul: I64(*);
        default: break;
        }
    EACH(i) positive = positive && y[i].i > 0;
    if (positive && in->prim == P_div) {
        EACH(i) to[i].i = x[i].i / y[i].i;
        return;
    }
    if (positive && in->prim == P_mod) {
        EACH(i) to[i].i = x[i].i % y[i].i;
        return;
    }
    EACH(i) to[i].i = prim_int((Prim)in->prim, t, x[i].i, y[i].i, z[i].i);
}

static void convert_lanes(const Block *b, const Inst *in, Number *to, const Number *x)
{
    DType from = (DType)in->from, t = (DType)in->type;
    bool widens = dtype_is_float(from) && (t == DT_f64 || (t == DT_f32 && from != DT_f64));
    bool whole = !dtype_is_float(from) && from != DT_u64 && t == DT_f32;
    if (widens) EACH(i) to[i] = x[i];
    else if (whole) EACH(i) to[i].f = (double)(float)x[i].i;
    else EACH(i) to[i] = number_convert(t, in->prim == P_sat, from, x[i]);
}

static int holding(const Block *b, const Number *x)
{
    int n = 0;
    EACH(i) n += x[i].i != 0;
    return n;
}

/* false: failed (r->error), or a guard is undecided. */
static bool run_code(const Block *b, const Code *c)
{
    for (const Inst *in = c->at, *end = c->at + c->n; in < end; in++) {
        Number *to = in->op == OP_SKIP_UNLESS ? NULL : lanes(c, in->to);
        const Number *x = lanes(c, in->arg[0]), *y = lanes(c, in->arg[1]), *z = lanes(c, in->arg[2]);
        switch ((Op)in->op) {
        case OP_KONST: break;
        case OP_AXIS: EACH(i) to[i].i = (int)in->id == b->axis ? b->base + i : b->r->axis[in->id]; break;
        case OP_IT: EACH(i) to[i] = b->r->it; break;
        case OP_LOAD:
            if (!run_load(b, c, in)) return false;
            break;
        case OP_FLOAT: float_lanes(b, in, to, x, y, z); break;
        case OP_FLOAT_TEST:
            EACH(i) to[i].i = prim_float((Prim)in->prim, (DType)in->from, x[i].f, y[i].f, z[i].f) != 0;
            break;
        case OP_INT:
        case OP_INDEX: int_lanes(b, in, to, x, y, z); break;
        case OP_SELECT: EACH(i) to[i] = x[i].i ? y[i] : z[i]; break;
        case OP_CONVERT: convert_lanes(b, in, to, x); break;
        case OP_BITS: EACH(i) to[i] = number_bits((DType)in->from, x[i]); break;
        case OP_SKIP_UNLESS: {
            int n = holding(b, x);
            if (n && n < b->n) return false;
            if (!n) in = c->at + in->to - 1;
        }
        }
    }
    return true;
}

static const Number *values(const Block *b, Expr e) /* NULL: not done */
{
    Code *c = interp_code(b->r, e);
    open_wide(b->r, c);
    return !b->r->error && run_code(b, c) ? lanes(c, c->result) : NULL;
}

/* ---- stages ---- */
static bool checked(const Block *b, Expr check)
{
    const Number *ok = check ? values(b, check) : NULL;
    if (check && !ok) return false;
    if (check && holding(b, ok) != b->n) return b->r->error = INTERP_ERR_INDEX, false;
    return true;
}

static bool place_lanes(const Block *b, int buf, const Expr *at, const Place **place, int64_t *offset)
{
    const Place *p = interp_place(b->r, buf);
    const Number *index[MAX_RANK] = {0};
    for (int d = 0; d < p->rank; d++)
        if (p->block[d] != 1 && !(index[d] = values(b, at[d]))) return false;
    *place = p;
    if (!p->data || !offsets(b, p, index, offset)) return b->r->error = INTERP_ERR_INDEX, false;
    return true;
}

static void store_lanes(const Block *b, const Place *p, const int64_t *o, Prim how, const Number *v)
{
    if (p->type == DT_f32 && !how) EACH(i)((float *)(void *)p->data)[o[i]] = (float)v[i].f;
    else EACH(i) interp_store(p, o[i], how ? interp_combine(how, p->type, interp_load(p, o[i]), v[i]) : v[i]);
}

/* A failure counts as done: the caller stops at r->error. */
bool interp_block_space(Run *r, const Compute *s, int axis, int64_t base, int n)
{
    Block block = {r, axis, n, base}, *b = &block;
    const Place *p;
    int64_t offset[BLOCK];
    const Number *v;
    if (!checked(b, s->check) || !(v = values(b, s->value)) || !place_lanes(b, s->out, s->at, &p, offset))
        return r->error != 0;
    store_lanes(b, p, offset, s->update, v);
    return true;
}

bool interp_block_reduce(Run *r, const Compute *s, int axis, int64_t base, int n, Number *acc)
{
    Block block = {r, axis, n, base}, *b = &block;
    DType t = (DType)expr_node(r->k, s->value)->type;
    const Number *v;
    if (!checked(b, s->check) || !(v = values(b, s->value))) return r->error != 0;
    if (s->keep) {
        ExprNode keep = *expr_node(r->k, s->keep);
        const Place *p;
        int64_t offset[BLOCK];
        if (!place_lanes(b, (int)keep.id, keep.arg, &p, offset)) return r->error != 0;
        store_lanes(b, p, offset, P_NONE, v);
    }
    double sum = acc->f;
    if (t == DT_f32 && s->how == P_add) {
        EACH(i) sum = (double)(float)(sum + v[i].f);
        acc->f = sum;
    } else {
        EACH(i) *acc = interp_combine(s->how, t, *acc, v[i]);
    }
    return true;
}
