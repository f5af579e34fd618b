/* weight_codes.c - constants of a model that came quantized become codes, or stay codes, before what multiplies them.
 *
 *   channels  P(DQ(constant, scales of an axis))  = DQ(P(constant), the same scales where P puts them)
 *   codes     float(c), DQ(c, 1) - z, DQ(c, 1) * s  = DQ(c, s, z)         weights that a cast and arithmetic dequantize
 *   regain    C(DQ(x), w, b)                  = C(DQ(x), DQ(codes), b)   weights that are whole parts of the largest of their channel: rounding folded */
#include "passes/integer_steps.h"
#include "passes/passes.h"
#include <math.h>

/* ---- codes behind what moves them ---- */
/* Which scale each element of `t` has, the first being number `base`, as a tensor of its shape: they go along an axis, or there is one (-1). */
static Tensor *positions(Arena *mem, const Tensor *t, int axis, DType type, int64_t base)
{
    Tensor *p = tensor_new(mem, type, t->rank, t->dim);
    int64_t inner = 1, n = tensor_count(t), along = axis < 0 ? 1 : t->dim[axis];
    for (int d = axis + 1; axis >= 0 && d < t->rank; d++) inner *= t->dim[d];
    for (int64_t i = 0; i < n; i++) dtype_store_int(p->type, (void *)p->data, i, base + i / inner % along);
    return p;
}

/* The axis along which alone a tensor differs; NOWHERE: it does not differ. */
enum { NOWHERE = -1, SEVERAL = -2 };
static int varying_axis(const Tensor *t)
{
    int64_t n = tensor_count(t);
    for (int d = NOWHERE; d < t->rank; d++) {
        int64_t inner = 1, along = d < 0 ? 1 : t->dim[d];
        for (int e = d + 1; d >= 0 && e < t->rank; e++) inner *= t->dim[e];
        bool only = true;
        for (int64_t i = 0; only && i < n; i++)
            only = dtype_load_int(t->type, t->data, i) == dtype_load_int(t->type, t->data, i / inner % along * inner);
        if (only) return d;
    }
    return SEVERAL;
}

/* The elements of a vector at the positions that `where` holds along its axis, or the one that it holds everywhere. */
static const Tensor *picked(Arena *mem, const Tensor *v, const Tensor *where, int axis)
{
    int64_t inner = 1, n = axis < 0 ? 1 : where->dim[axis], size = dtypes[v->type].bytes;
    Tensor *t = tensor_new(mem, v->type, axis < 0 ? 0 : 1, &n);
    for (int d = axis + 1; d < where->rank; d++) inner *= where->dim[d];
    for (int64_t i = 0; i < n; i++)
        memcpy((uint8_t *)t->data + i * size,
               (const uint8_t *)v->data + dtype_load_int(where->type, where->data, i * inner) * size, (size_t)size);
    return t;
}

/* The constant codes of a DQ, and the axis that its scales go along (-1: there is one); NULL: it is something else. */
static const Tensor *channel_codes(const Graph *g, const Node *dq, int *axis)
{
    const Tensor *t = is_dq(dq) ? graph_val(g, node_in(g, dq, 0))->konst : NULL;
    if (!t || node_int(dq, "block_size") || !tensor_count(t)) return NULL;
    int64_t scales = count_of(g, node_in(g, dq, 1));
    bool zeros = !node_in(g, dq, 2).id || count_of(g, node_in(g, dq, 2)) == scales;
    *axis = scales == 1 ? -1 : (int)axis_at((int)node_int(dq, "axis"), t->rank);
    return zeros && scales == (scales == 1 ? 1 : t->dim[*axis]) ? t : NULL;
}

/* What a row that moves elements moves: constant codes with scales along an axis, all of one kind. */
typedef struct ChannelCodes {
    const Node *first;    /* DQ */
    const Tensor **codes; /* per operand; NULL: it is no data, and constant */
    int *axis;
    Tensor *vector[3]; /* by operand of DQ: scales, and zero points, if any, of all operands one after the other */
    DType position;
} ChannelCodes;

/* All codes, scales and zero points have the types of the first. */
static bool alike(const Graph *g, const Node *a, const Node *b)
{
    for (uint32_t i = 0; i < 3; i++) {
        Val u = node_in(g, a, i), v = node_in(g, b, i);
        if (!u.id != !v.id || (u.id && (!graph_val(g, v)->konst || val_type(g, u)->dtype != val_type(g, v)->dtype)))
            return false;
    }
    return true;
}

static bool channels_of(const Integer *x, const Node *n, ChannelCodes *c)
{
    const Graph *g = x->in;
    Arena *mem = x->ctx->mem;
    int64_t all = 0, at = 0;
    *c = (ChannelCodes){.codes = NEW_ARRAY(mem, const Tensor *, n->nin), .axis = NEW_ARRAY(mem, int, n->nin)};
    for (uint32_t i = 0; i < n->nin; i++) {
        Val v = node_in(g, n, i);
        const Node *dq = val_def(g, v);
        if (!node_is_data(n, i) && v.id && !graph_val(g, v)->konst) return false;
        if (!node_is_data(n, i)) continue;
        if (!c->first) c->first = dq;
        c->codes[i] = channel_codes(g, dq, &c->axis[i]);
        if (!c->codes[i] || !alike(g, c->first, dq)) return false;
        all += count_of(g, node_in(g, dq, 1));
    }
    c->position = all <= INT16_MAX ? DT_i16 : DT_i32;
    for (uint32_t k = 1; k < 3 && node_in(g, c->first, k).id; k++, at = 0) {
        c->vector[k] = tensor_new(x->out->mem, val_type(g, node_in(g, c->first, k))->dtype, 1, &all);
        for (uint32_t i = 0; i < n->nin; i++) {
            if (!c->codes[i]) continue;
            const Tensor *part = graph_val(g, node_in(g, val_def(g, node_in(g, n, i)), k))->konst;
            memcpy((uint8_t *)c->vector[k]->data + at, part->data, tensor_bytes(part)),
                at += (int64_t)tensor_bytes(part);
        }
    }
    return true;
}

/* P of constants in place of its data. */
static Val moved_constants(Integer *x, const Node *n, const Tensor *const *t)
{
    Val *arg = NEW_ARRAY(x->ctx->scratch, Val, n->nin);
    for (uint32_t i = 0; i < n->nin; i++)
        arg[i] = t[i] ? graph_const(x->out, t[i], NULL) : x->map[node_in(x->in, n, i).id];
    return graph_emit(x->out, n->op, n->attr, arg, n->nin, 1, n->loc, NULL);
}

/* Where an axis goes is read off from what P makes of the positions along it. */
Val step_channels(Integer *x, const Node *n)
{
    ChannelCodes c;
    if (!node_moves(x->in, n) || !channels_of(x, n, &c)) return (Val){0};
    if (!op_takes(n->op, 0, val_type(x->in, node_in(x->in, c.first, 0))->dtype) || !op_takes(n->op, 0, c.position))
        return (Val){0};
    const Tensor **from = NEW_ARRAY(x->ctx->mem, const Tensor *, n->nin);
    int64_t base = 0;
    for (uint32_t i = 0; i < n->nin; i++) {
        if (!c.codes[i]) continue;
        from[i] = positions(x->ctx->mem, c.codes[i], c.axis[i], c.position, base),
        base += c.axis[i] < 0 ? 1 : c.codes[i]->dim[c.axis[i]];
    }
    const Tensor *where = graph_val(x->out, moved_constants(x, n, from))->konst;
    int to = where && tensor_count(where) ? varying_axis(where) : SEVERAL;
    if (to == SEVERAL) return (Val){0};
    Val in[3] = {moved_constants(x, n, c.codes)};
    for (uint32_t k = 1; k < 3 && c.vector[k]; k++)
        in[k] = graph_const(x->out, picked(x->out->mem, c.vector[k], where, to), NULL);
    if (!graph_val(x->out, in[0])->konst) return (Val){0};
    Attr *attr = arena_copy(x->out->mem, c.first->attr, sizeof *attr * op_attrs(c.first->op));
    attr_set_int(c.first->op, attr, "axis", to < 0 ? 0 : to);
    return graph_emit(x->out, c.first->op, attr, in, in[2].id ? 3 : 2, 1, c.first->loc, NULL);
}

/* ---- weights that a cast and arithmetic dequantize ---- */
bool tensor_is_all(const Tensor *t, double v)
{
    int64_t n = t ? tensor_count(t) : 0;
    for (int64_t i = 0; i < n; i++)
        if (dtype_load(t->type, t->data, i) != v) return false;
    return n > 0;
}

/* The axis of a tensor of the type `t` that a constant broadcast with it goes along; -1: it is one number; -2: none alone. */
static int constant_axis(const Graph *g, const Tensor *k, const Type *t)
{
    int axis = -1;
    if (k->rank > t->rank) return -2;
    for (int d = 0; d < k->rank; d++) {
        int at = d + t->rank - k->rank;
        if (k->dim[d] == 1) continue;
        if (at < 0 || axis >= 0 || !dim_is(g->module->dim, t->dim[at], k->dim[d])) return -2;
        axis = at;
    }
    return axis;
}

/* The other operand when one of n's two is a DQ of constant codes with scale 1; how: which one. */
static const Node *plain_codes(const Integer *x, const Node *n, uint32_t *how)
{
    for (*how = 0; *how < 2; ++*how) {
        const Node *dq = val_def(x->in, node_in(x->in, n, *how));
        if (is_dq(dq) && graph_val(x->in, node_in(x->in, dq, 0))->konst &&
            tensor_is_all(graph_val(x->in, node_in(x->in, dq, 1))->konst, 1))
            return dq;
    }
    return NULL;
}

static Val dequantize(Integer *x, const Node *n, Val codes, const Tensor *scale, const Tensor *zero, int axis)
{
    const OpDef *op = op_find("", "DequantizeLinear");
    Attr *attr = op_attr_defaults(x->out->mem, op);
    if (axis >= 0) attr_set_int(op, attr, "axis", axis);
    Val in[3] = {codes, graph_const(x->out, scale, NULL)};
    if (zero) in[2] = graph_const(x->out, zero, NULL);
    return graph_emit(x->out, op, attr, in, zero ? 3 : 2, 1, n->loc, NULL);
}

Val step_cast(Integer *x, const Node *n)
{
    Val from = node_in(x->in, n, 0);
    const Tensor *t = node_is(n, "Cast") ? graph_val(x->in, from)->konst : NULL;
    if (!t || val_type(x->in, n->out)->dtype != DT_f32 || dtype_is_float(t->type) || t->type == DT_bool ||
        dtypes[t->type].bits > 8)
        return (Val){0};
    return dequantize(x, n, x->map[from.id], tensor_scalar(x->out->mem, DT_f32, 1), NULL, -1);
}

/* A constant as the vector of what it is along its axis. */
static Tensor *as_vector(Arena *mem, const Tensor *k, DType type, int axis)
{
    int64_t n = tensor_count(k);
    Tensor *t = tensor_new(mem, type, axis < 0 ? 0 : 1, &n);
    for (int64_t i = 0; i < n; i++) dtype_store(type, (void *)t->data, i, dtype_load(k->type, k->data, i));
    return t;
}

static bool are_codes(const Tensor *k, DType type)
{
    for (int64_t i = 0; i < tensor_count(k); i++) {
        double v = dtype_load(k->type, k->data, i);
        if (v != rint(v) || v < (double)dtype_min(type) || v > (double)dtype_max(type)) return false;
    }
    return true;
}

Val step_shift(Integer *x, const Node *n)
{
    uint32_t how;
    const Node *dq = node_is(n, "Sub") ? plain_codes(x, n, &how) : NULL;
    const Tensor *k = dq && how == 0 && !node_in(x->in, dq, 2).id ? graph_val(x->in, node_in(x->in, n, 1))->konst : NULL;
    if (!k || !tensor_count(k)) return (Val){0};
    int axis = constant_axis(x->in, k, val_type(x->in, dq->out));
    DType type = val_type(x->in, node_in(x->in, dq, 0))->dtype;
    if (axis < -1 || !are_codes(k, type)) return (Val){0};
    Tensor *zero = as_vector(x->out->mem, k, type, axis), *one = as_vector(x->out->mem, k, DT_f32, axis);
    for (int64_t i = 0; i < tensor_count(one); i++) ((float *)(void *)one->data)[i] = 1;
    return dequantize(x, n, x->map[node_in(x->in, dq, 0).id], one, zero, axis);
}

/* Zero points and scales go along one axis: where one of them is a single number, it is repeated. */
static const Tensor *repeated(Arena *mem, const Tensor *t, int64_t n)
{
    if (!t || tensor_count(t) == n) return t;
    Tensor *r = tensor_new(mem, t->type, 1, &n);
    for (int64_t i = 0; i < n; i++) dtype_store(t->type, (void *)r->data, i, dtype_load(t->type, t->data, 0));
    return r;
}

Val step_scale(Integer *x, const Node *n)
{
    uint32_t how;
    const Node *dq = node_is(n, "Mul") ? plain_codes(x, n, &how) : NULL;
    const Tensor *k = dq ? graph_val(x->in, node_in(x->in, n, 1 - how))->konst : NULL;
    if (!k || k->type != DT_f32 || !tensor_count(k)) return (Val){0};
    const Tensor *zero = node_in(x->in, dq, 2).id ? graph_val(x->in, node_in(x->in, dq, 2))->konst : NULL;
    int axis = constant_axis(x->in, k, val_type(x->in, dq->out)),
        own = count_of(x->in, node_in(x->in, dq, 1)) == 1 ? -1 : (int)node_int(dq, "axis");
    if (own < -1) own += val_type(x->in, dq->out)->rank;
    if (axis < -1 || (axis >= 0 && own >= 0 && axis != own)) return (Val){0};
    int to = axis >= 0 ? axis : own;
    int64_t size = own >= 0 ? count_of(x->in, node_in(x->in, dq, 1)) : tensor_count(k);
    const Tensor *scale = as_vector(x->out->mem, k, DT_f32, to);
    if (to >= 0) scale = repeated(x->out->mem, scale, size), zero = repeated(x->out->mem, zero, size);
    return dequantize(x, n, x->map[node_in(x->in, dq, 0).id], scale, zero, to);
}

/* ---- weights that are codes times a scale, though the model has the products alone ---- */
static int64_t channel_at(const Tensor *w, int axis, int64_t i) /* of element i; there is one where the axis is none */
{
    for (int d = axis + 1; axis >= 0 && d < w->rank; d++) i /= w->dim[d];
    return axis < 0 ? 0 : i % w->dim[axis];
}

/* Steps of which 127 are the largest of each channel. */
static const Tensor *channel_steps(Arena *mem, const Tensor *w, int axis)
{
    const float MOST = 127;
    int64_t one = 1;
    Tensor *scale = tensor_new(mem, DT_f32, axis < 0 ? 0 : 1, axis < 0 ? &one : &w->dim[axis]);
    float *s = (float *)(uintptr_t)scale->data;
    for (int64_t i = 0; i < tensor_count(scale); i++) s[i] = 0;
    for (int64_t i = 0, n = tensor_count(w); i < n; i++) {
        float *most = &s[channel_at(w, axis, i)];
        *most = fmaxf(*most, fabsf(((const float *)w->data)[i]));
    }
    for (int64_t i = 0; i < tensor_count(scale); i++) s[i] = isnormal(s[i]) ? s[i] / MOST : 1;
    return scale;
}

static float in_steps(const Tensor *w, int axis, const Tensor *scale, int64_t i)
{
    return ((const float *)w->data)[i] / ((const float *)scale->data)[channel_at(w, axis, i)];
}

/* Trained with rounded weights and exported with the rounding folded: each is a whole number of steps, within the rounding of float32. Of other
 * weights that are not a few some are not. NULL: of these. */
static const Tensor *step_codes(Arena *mem, const Tensor *w, int axis, const Tensor *scale)
{
    const float ROOM = 1e-4F; /* of a step */
    int64_t n = tensor_count(w);
    for (int64_t i = 0; i < n; i++) {
        float is = in_steps(w, axis, scale, i);
        if (!(fabsf(is - rintf(is)) <= ROOM)) return NULL;
    }
    Tensor *code = tensor_new(mem, DT_i8, w->rank, w->dim);
    for (int64_t i = 0; i < n; i++)
        dtype_store_int(DT_i8, (void *)(uintptr_t)code->data, i, (int64_t)rintf(in_steps(w, axis, scale, i)));
    return n ? code : NULL;
}

Val step_regain(Integer *x, const Node *n)
{
    if (n->op->quant != QUANT_INTEGER || !n->op->integer) return (Val){0};
    const Node *dx = val_def(x->in, node_in(x->in, n, 0));
    const Tensor *w = graph_val(x->in, node_in(x->in, n, 1))->konst;
    if (!is_dq(dx) || !eight_bits(val_type(x->in, node_in(x->in, dx, 0))->dtype) || !w || w->type != DT_f32 ||
        w->rank < 2)
        return (Val){0};
    const Tensor *scale = NULL, *code = NULL;
    int axis[] = {channel_of(n, w->rank), -1}, tries = 0;
    for (; !code && tries < 2; tries++)
        scale = channel_steps(x->out->mem, w, axis[tries]), code = step_codes(x->out->mem, w, axis[tries], scale);
    if (!code) return (Val){0};
    const char *name = graph_val(x->in, node_in(x->in, n, 1))->name;
    Val *in = NEW_ARRAY(x->ctx->scratch, Val, n->nin);
    for (uint32_t i = 0; i < n->nin; i++) in[i] = x->map[node_in(x->in, n, i).id];
    in[1] = dequantize(x, n, graph_const(x->out, code, name), scale, NULL, axis[tries - 1]);
    return graph_emit(x->out, n->op, n->attr, in, n->nin, 1, n->loc, NULL);
}
