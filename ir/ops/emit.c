/* emit.c - the operators that expansions are made of. In: values of the graph being emitted. Out: new values, folded where
 * constant. See emit.h. */
#include "ir/ops/emit.h"
#include <assert.h>

Val ex_op(Expand *x, const char *domain, const char *op, const AttrSet *set, int nset, const Val *in, int nin)
{
    const OpDef *def = op_find(domain, op);
    assert(def && "an expansion names an operator that has no row");
    Attr *attr = op_attr_defaults(x->m->mem, def);
    for (int i = 0; i < nset; i++) switch (set[i].kind) {
        case ATTR_INT: attr_set_int(def, attr, set[i].name, set[i].i); break;
        case ATTR_FLOAT: attr_set_float(def, attr, set[i].name, set[i].f); break;
        case ATTR_STRING: attr_set_str(def, attr, set[i].name, set[i].s); break;
        default: attr_set_ints(def, attr, set[i].name, set[i].ints, set[i].n); break;
        }
    while (nin > 0 && !in[nin - 1].id) nin--;
    return graph_emit(x->g, def, attr, in, (uint32_t)nin, 1, x->loc, NULL);
}

Val ex_op_like(Expand *x, const char *domain, const char *op, const Val *in, int nin)
{
    const OpDef *def = op_find(domain, op);
    assert(def && "an expansion names an operator that has no row");
    Attr *attr = op_attr_defaults(x->m->mem, def);
    const OpSchema *own = op_schema(x->n->op);
    for (uint32_t i = 0; i < own->nattr; i++) {
        int at = op_attr_index(def, own->attr[i].name);
        if (at >= 0) attr[at] = x->n->attr[i];
    }
    while (nin > 0 && !in[nin - 1].id) nin--;
    return graph_emit(x->g, def, attr, in, (uint32_t)nin, 1, x->loc, NULL);
}

Val ex_in(const Expand *x, uint32_t i) { return i < x->n->nin ? x->in[i] : (Val){0}; }
bool ex_has(const Expand *x, uint32_t i) { return ex_in(x, i).id != 0; }
const Type *ex_type(const Expand *x, Val v) { return val_type(x->g, v); }
const Tensor *ex_const(const Expand *x, Val v) { return v.id ? graph_val(x->g, v)->konst : NULL; }

bool ex_is(const Expand *x, Val v, double k)
{
    if (!v.id) return k == 0;
    const Tensor *t = ex_const(x, v);
    if (!t) return false;
    for (int64_t i = 0, n = tensor_count(t); i < n; i++)
        if (dtype_load(t->type, t->data, i) != k) return false;
    return true;
}

Val ex_tensor(Expand *x, const Tensor *t) { return graph_const(x->g, t, NULL); }
Val ex_scalar(Expand *x, DType t, double v) { return ex_tensor(x, tensor_scalar(x->m->mem, t, v)); }
Val ex_ints(Expand *x, const int64_t *v, int64_t n) { return ex_tensor(x, tensor_ints(x->m->mem, v, n)); }

Val ex_cast(Expand *x, Val v, DType to)
{
    if (!v.id || ex_type(x, v)->dtype == to) return v;
    return ex_op(x, NULL, "Cast", (AttrSet[]){SET_INT("to", to)}, 1, &v, 1);
}

Val ex_size(Expand *x, Val v, int axis)
{
    return ex_op(x, NULL, "Shape", (AttrSet[]){SET_INT("start", axis), SET_INT("end", axis + 1)}, 2, &v, 1);
}

Val ex_reshape(Expand *x, Val v, const int64_t *dim, int n) { return EX(x, "Reshape", v, ex_ints(x, dim, n)); }

Val ex_transpose(Expand *x, Val v, const int64_t *perm, int n)
{
    return ex_op(x, NULL, "Transpose", (AttrSet[]){SET_INTS("perm", perm, (uint32_t)n)}, 1, &v, 1);
}

Val ex_reduce(Expand *x, const char *op, Val v, const int64_t *axes, int n, bool keep)
{
    return ex_op(x, NULL, op, (AttrSet[]){SET_INT("keepdims", keep)}, 1, (Val[]){v, ex_ints(x, axes, n)}, 2);
}

Val ex_sums(Expand *x, Val v, const int64_t *axes, int n, bool keep)
{
    const Tensor *t = ex_const(x, v);
    unsigned set = 0;
    for (int i = 0; t && i < n; i++) set |= 1u << (axes[i] < 0 ? axes[i] + t->rank : axes[i]);
    if (t) return ex_tensor(x, tensor_sums(x->m->mem, t, set, keep));
    return ex_reduce(x, "ReduceSum", ex_cast(x, v, DT_i32), axes, n, keep);
}

Val ex_unsqueeze(Expand *x, Val v, const int64_t *axes, int n) { return EX(x, "Unsqueeze", v, ex_ints(x, axes, n)); }
Val ex_squeeze(Expand *x, Val v, const int64_t *axes, int n) { return EX(x, "Squeeze", v, ex_ints(x, axes, n)); }

Val ex_slice(Expand *x, Val v, int axis, int64_t from, int64_t to)
{
    int64_t a = axis;
    return EX(x, "Slice", v, ex_ints(x, &from, 1), ex_ints(x, &to, 1), ex_ints(x, &a, 1));
}

Val ex_concat(Expand *x, const Val *v, int n, int axis)
{
    if (n == 1) return v[0];
    return ex_op(x, NULL, "Concat", (AttrSet[]){SET_INT("axis", axis)}, 1, v, n);
}

/* The last two dims swapped, in square blocks that stay in cache. */
static const Tensor *tensor_swap(Arena *mem, const Tensor *t)
{
    enum { BLOCK = 32 };
    int64_t dim[MAX_RANK];
    memcpy(dim, t->dim, sizeof dim);
    int64_t rows = t->dim[t->rank - 2], cols = t->dim[t->rank - 1];
    dim[t->rank - 2] = cols, dim[t->rank - 1] = rows;
    Tensor *out = tensor_new(mem, t->type, t->rank, dim);
    size_t size = (size_t)dtypes[t->type].bytes;
    int64_t matrices = rows > 0 && cols > 0 ? tensor_count(t) / (rows * cols) : 0;
    for (int64_t m = 0; m < matrices; m++) {
        const char *from = (const char *)t->data + (size_t)(m * rows * cols) * size;
        char *to = (char *)(void *)out->data + (size_t)(m * rows * cols) * size;
        for (int64_t r0 = 0; r0 < rows; r0 += BLOCK)
            for (int64_t c0 = 0; c0 < cols; c0 += BLOCK)
                for (int64_t c = c0; c < cols && c < c0 + BLOCK; c++)
                    for (int64_t r = r0; r < rows && r < r0 + BLOCK; r++)
                        memcpy(to + (size_t)(c * rows + r) * size, from + (size_t)(r * cols + c) * size, size);
    }
    return out;
}

static Val swap_dequantize(Expand *x, Val v)
{
    uint32_t def = graph_val(x->g, v)->def;
    if (def == NO_NODE || !node_is(&x->g->node.at[def], "DequantizeLinear")) return (Val){0};
    const Node *n = &x->g->node.at[def];
    Val q = node_in(x->g, n, 0), scale = node_in(x->g, n, 1), zero = node_in(x->g, n, 2);
    int rank = ex_type(x, q)->rank;
    const Tensor *qt = ex_const(x, q), *st = ex_const(x, scale), *zt = ex_const(x, zero);
    if (!qt || !st || (zero.id && !zt) || rank < 2) return (Val){0};
    int64_t axis = node_int(n, "axis"), block = node_int(n, "block_size");
    if (axis < 0) axis += rank;
    if (st->rank >= 2 && tensor_count(st) > 1) {
        scale = ex_tensor(x, tensor_swap(x->m->mem, st));
        if (zt) zero = ex_tensor(x, tensor_swap(x->m->mem, zt));
    }
    if (axis >= rank - 2) axis = axis == rank - 1 ? rank - 2 : rank - 1;
    AttrSet set[] = {SET_INT("axis", axis), SET_INT("block_size", block),
                     SET_INT("output_dtype", node_int(n, "output_dtype"))};
    Val in[] = {ex_tensor(x, tensor_swap(x->m->mem, qt)), scale, zero};
    return ex_op(x, NULL, "DequantizeLinear", set, 3, in, 3);
}

Val ex_swap(Expand *x, Val v)
{
    const Tensor *t = ex_const(x, v);
    int rank = ex_type(x, v)->rank;
    if (t && rank >= 2) return ex_tensor(x, tensor_swap(x->m->mem, t));
    Val dq = swap_dequantize(x, v);
    if (dq.id) return dq;
    int64_t perm[MAX_RANK];
    for (int i = 0; i < rank; i++) perm[i] = i < rank - 2 ? i : i == rank - 2 ? rank - 1 : rank - 2;
    return ex_transpose(x, v, perm, rank);
}

Val ex_channels(Expand *x, Val v, int rank, int axis)
{
    const Type *t = ex_type(x, v);
    if (!v.id || t->rank != 1 || dim_is(x->m->dim, t->dim[0], 1)) return v;
    int64_t dim[MAX_RANK];
    for (int i = 0; i < rank; i++) dim[i] = i == axis ? -1 : 1;
    return ex_reshape(x, v, dim, rank);
}

static Quantized quantized(Expand *x, Val q, Val zero, double shift)
{
    if (zero.id) zero = ex_cast(x, zero, DT_i32);
    if (shift != 0 && !zero.id) zero = ex_scalar(x, DT_i32, shift);
    else if (shift != 0) zero = EX(x, "Add", zero, ex_scalar(x, DT_i32, shift));
    return (Quantized){q, ex_is(x, zero, 0) ? (Val){0} : zero};
}

Quantized ex_as_u8(Expand *x, Val q, Val zero)
{
    if (ex_type(x, q)->dtype == DT_u8) return quantized(x, q, zero, 0);
    return quantized(x, EX_OCTET(x, "ToU8", q), zero, 128);
}

Quantized ex_as_i8(Expand *x, Val q, Val zero)
{
    if (ex_type(x, q)->dtype == DT_i8) return quantized(x, q, zero, 0);
    return quantized(x, EX_OCTET(x, "ToI8", q), zero, -128);
}

Val ex_requant(Expand *x, Val acc, Val scale, Val zero, DType to)
{
    if (!zero.id) zero = ex_scalar(x, to, 0);
    return EX_OCTET(x, "Requant", acc, scale, zero);
}
