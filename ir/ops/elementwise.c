/* Elementwise operators. A row with a body is the whole implementation: interpreter, folding, LLVM, CUDA and the
 * 256-entry int8 tables read it. Where an attribute chooses between meanings, or types differ, a small lowering
 * chooses the text. `value` computes with sizes: exported models compute shapes with these operators. */
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <math.h>

/* ---- values: arithmetic on sizes ---- */

static Dim v_add(Dims *d, DType t, const Dim *a, uint32_t n) { return (void)t, (void)n, dim_add(d, a[0], a[1]); }
static Dim v_sub(Dims *d, DType t, const Dim *a, uint32_t n) { return (void)t, (void)n, dim_sub(d, a[0], a[1]); }
static Dim v_mul(Dims *d, DType t, const Dim *a, uint32_t n) { return (void)t, (void)n, dim_mul(d, a[0], a[1]); }
static Dim v_neg(Dims *d, DType t, const Dim *a, uint32_t n)
{
    return (void)t, (void)n, dim_sub(d, dim_const(d, 0), a[0]);
}
static Dim v_same(Dims *d, DType t, const Dim *a, uint32_t n) { return (void)d, (void)t, (void)n, a[0]; }
static Dim v_not(Dims *d, DType t, const Dim *a, uint32_t n)
{
    return (void)t, (void)n, dim_sub(d, dim_const(d, 1), a[0]);
}
static Dim v_eq(Dims *d, DType t, const Dim *a, uint32_t n) { return (void)t, (void)n, dim_eq(d, a[0], a[1]); }
static Dim v_ge(Dims *d, DType t, const Dim *a, uint32_t n) { return (void)t, (void)n, dim_ge(d, a[0], a[1]); }
static Dim v_le(Dims *d, DType t, const Dim *a, uint32_t n) { return (void)t, (void)n, dim_ge(d, a[1], a[0]); }
static Dim v_gt(Dims *d, DType t, const Dim *a, uint32_t n) { return v_not(d, t, &(Dim){v_le(d, t, a, n).id}, 1); }
static Dim v_lt(Dims *d, DType t, const Dim *a, uint32_t n) { return v_not(d, t, &(Dim){v_ge(d, t, a, n).id}, 1); }
static Dim v_xor(Dims *d, DType t, const Dim *a, uint32_t n) { return v_not(d, t, &(Dim){v_eq(d, t, a, n).id}, 1); }
static Dim v_abs(Dims *d, DType t, const Dim *a, uint32_t n) { return dim_max(d, a[0], v_neg(d, t, a, n)); }
static Dim v_relu(Dims *d, DType t, const Dim *a, uint32_t n)
{
    return (void)t, (void)n, dim_max(d, a[0], dim_const(d, 0));
}

static Dim v_clip(Dims *d, DType t, const Dim *a, uint32_t n)
{
    (void)t;
    Dim r = n > 1 ? dim_max(d, a[0], a[1]) : a[0];
    return n > 2 ? dim_min(d, r, a[2]) : r;
}

static bool positive(Dims *d, Dim a)
{
    int64_t lo;
    return dim_lower(d, a, &lo) && lo > 0;
}

static Dim v_div(Dims *d, DType t, const Dim *a, uint32_t n)
{
    Dim q;
    (void)n;
    if (dim_is(d, a[1], 0)) return (Dim){0};
    if (dim_exact(d, a[0], a[1], &q)) return q;
    if (dtype_is_float(t)) return (Dim){0}; /* a fraction is not a size */
    return positive(d, a[1]) ? dim_tdiv(d, a[0], a[1]) : (Dim){0};
}

static Dim v_pow(Dims *d, DType t, const Dim *a, uint32_t n)
{
    int64_t e;
    (void)t, (void)n;
    if (!dim_is_const(d, a[1], &e) || e < 0 || e > 8) return (Dim){0};
    Dim r = dim_const(d, 1);
    while (e-- > 0) r = dim_mul(d, r, a[0]);
    return r;
}

static Dim v_sqrt(Dims *d, DType t, const Dim *a, uint32_t n)
{
    int64_t v;
    (void)t, (void)n;
    if (!dim_is_const(d, a[0], &v) || v < 0 || v > INT32_MAX) return (Dim){0};
    int64_t r = (int64_t)sqrt((double)v);
    return r * r == v ? dim_const(d, r) : (Dim){0};
}

static Dim v_sign(Dims *d, DType t, const Dim *a, uint32_t n)
{
    Dim zero[2] = {a[0], dim_const(d, 0)};
    (void)n;
    return dim_sub(d, v_gt(d, t, zero, 2), v_lt(d, t, zero, 2));
}

/* ---- rules ---- */

static const Node *node_of(const Infer *c, uint32_t i)
{
    Val v = node_in(c->g, c->n, i);
    uint32_t def = v.id ? graph_val(c->g, v)->def : NO_NODE;
    return def == NO_NODE ? NULL : &c->g->node.at[def];
}

/* Size times fraction, then Floor or a cast to int: how exporters say the size of a Resize. The product itself is no
 * size. */
static bool scaled_value(Infer *c)
{
    const Node *mul = node_of(c, 0);
    if (!mul || !(node_is(mul, "Mul") || node_is(mul, "Div")) || in_type(c, 0)->dtype != DT_f32) return false;
    bool divides = node_is(mul, "Div");
    for (int side = 0; side < (divides ? 1 : 2); side++) {
        const Value *x = graph_val(c->g, node_in(c->g, mul, (uint32_t)side)),
                    *k = graph_val(c->g, node_in(c->g, mul, (uint32_t)!side));
        if (!x->elem || !k->konst || tensor_count(k->konst) != 1 || type_count(c->d, in_type(c, 0)) != x->elems)
            continue;
        float s = (float)dtype_load(k->konst->type, k->konst->data, 0);
        if (!(s > 0) || !(s < 1e6f)) continue;
        Dim *e = NEW_ARRAY(c->g->mem, Dim, x->elems + 1);
        for (uint32_t j = 0; j < x->elems; j++) {
            if (!dim_known(x->elem[j])) continue;
            if (!divides) e[j] = dim_scale(c->d, x->elem[j], s);
            else if (s == floorf(s)) e[j] = dim_tdiv(c->d, x->elem[j], dim_const(c->d, (int64_t)s));
        }
        return out_elems(c, 0, e, x->elems);
    }
    return false;
}

static bool infer_floor(Infer *c)
{
    if (!infer_elementwise(c)) return false;
    if (!*c->elem) scaled_value(c);
    return true;
}

static bool infer_cast(Infer *c)
{
    if (!rule_type(c, 0, node_int(c->n, "to"))) return false;
    DType from = in_type(c, 0)->dtype, to = c->out[0].dtype;
    out_like(c, 0, 0);
    uint32_t n;
    const Dim *e = rule_elems(c, 0, &n);
    bool known = false;
    for (uint32_t j = 0; e && j < n; j++) known |= dim_known(e[j]);
    if (!known && dtype_is_int(to)) scaled_value(c);
    if (!known) return true;
    if (!tracks_values(from) || !tracks_values(to)) return true;
    if (to != DT_bool) return out_elems(c, 0, e, n);
    Dim *b = NEW_ARRAY(c->g->mem, Dim, n + 1);
    for (uint32_t j = 0; j < n; j++)
        if (dim_known(e[j])) b[j] = dim_sub(c->d, dim_const(c->d, 1), dim_eq(c->d, e[j], dim_const(c->d, 0)));
    return out_elems(c, 0, b, n);
}

static bool infer_where(Infer *c)
{
    if (!infer_elementwise(c)) return false;
    uint32_t n[3];
    const Dim *e[3];
    int64_t count = type_count(c->d, &c->out[0]);
    if (count < 0 || count > MAX_ELEMS || !tracks_values(c->out[0].dtype)) return true;
    for (uint32_t i = 0; i < 3; i++) {
        if (type_count(c->d, in_type(c, i)) < 0) return true;
        e[i] = rule_elems(c, i, &n[i]);
    }
    Dim *to = NEW_ARRAY(c->g->mem, Dim, count + 1);
    bool any = false;
    for (int64_t j = 0; j < count; j++) {
        Dim x[3] = {{0}};
        for (uint32_t i = 0; i < 3; i++)
            if (e[i]) x[i] = dim_canon(c->d, e[i][broadcast_from(c->d, &c->out[0], in_type(c, i), j)]);
        int64_t cond;
        if (dim_known(x[1]) && dim_same(x[1], x[2])) to[j] = x[1];
        else if (!dim_known(x[0])) continue;
        else if (dim_is_const(c->d, x[0], &cond)) to[j] = cond ? x[1] : x[2];
        else if (dim_known(x[1]) && dim_known(x[2])) to[j] = dim_select(c->d, x[0], x[1], x[2]);
        any |= dim_known(to[j]);
    }
    return !any || out_elems(c, 0, to, (uint32_t)count);
}

static bool infer_mod(Infer *c)
{
    if (!infer_elementwise(c)) return false;
    uint32_t n, m;
    const Dim *a = rule_elems(c, 0, &n), *b = rule_elems(c, 1, &m);
    int64_t count = type_count(c->d, &c->out[0]), k, lo;
    if (!a || !b || count < 0 || count > MAX_ELEMS || node_int(c->n, "fmod") || !dtype_is_int(in_type(c, 0)->dtype))
        return true;
    if (type_count(c->d, in_type(c, 0)) != n || m != 1 || !dim_known(b[0]) || !dim_is_const(c->d, b[0], &k) || k < 1)
        return true;
    Dim *e = NEW_ARRAY(c->g->mem, Dim, count + 1);
    for (int64_t j = 0; j < count; j++) {
        Dim x = a[broadcast_from(c->d, &c->out[0], in_type(c, 0), j)];
        if (dim_known(x) && (dim_lower(c->d, x, &lo) || dim_known(x))) e[j] = dim_mod(c->d, x, b[0]);
    }
    return out_elems(c, 0, e, (uint32_t)count);
}

/* Training with a ratio of 0 drops nothing either. Modes that data decides are refused by the expansion. */
static bool drops_nothing(const Tensor *ratio, const Tensor *mode)
{
    return (mode && !dtype_load_int(DT_bool, mode->data, 0)) || (ratio && dtype_load(ratio->type, ratio->data, 0) == 0);
}

static bool infer_dropout(Infer *c)
{
    if (in_const(c, 2) && (in_const(c, 1) || !in_has(c, 1)) && !drops_nothing(in_const(c, 1), in_const(c, 2)))
        return infer_error(c, "training mode is not supported");
    return infer_same(c);
}

static bool infer_bitcast(Infer *c)
{
    if (!rule_type(c, 0, node_int(c->n, "to"))) return false;
    DType from = in_type(c, 0)->dtype, to = c->out[0].dtype;
    if (from && dtypes[from].bits != dtypes[to].bits)
        return infer_error(c, "%s has %d bits, %s has %d", dtypes[from].name, dtypes[from].bits, dtypes[to].name,
                           dtypes[to].bits);
    return infer_same(c);
}

static bool infer_cast_like(Infer *c)
{
    c->out[0].dtype = in_type(c, 1)->dtype;
    return infer_same(c);
}

/* ---- lowerings ---- */

typedef Expr (*Unary)(Lower *, Expr x, int out);
static void lower_unary(Lower *l, int out, Unary f)
{
    int in = low_in(l, 0), axis[MAX_RANK];
    Expr at[MAX_RANK] = {0};
    low_axes(l, out, axis);
    low_index(l, axis, low_rank(l, out), at);
    low_stage(l, out, axis, low_rank(l, out), f(l, expr_load(l->k, in, at), out));
}

static Expr unary_copy(Lower *l, Expr x, int out) { return (void)l, (void)out, x; }

/* Above these the 8-bit floats round past their largest value. */
static const struct {
    double beyond, largest;
    bool infinite;
} narrow[DT_COUNT] = {
    [DT_f8e4m3fn] = {464, 448, false},
    [DT_f8e4m3fnuz] = {248, 240, false},
    [DT_f8e5m2] = {61440, 57344, true},
    [DT_f8e5m2fnuz] = {61440, 57344, false},
};

/* saturate: what is beyond the largest value becomes it, infinity too. Else it becomes infinity, or NaN where there is
 * none. */
static Expr cast_narrow(Lower *l, Expr v, DType to, bool saturate)
{
    Kernel *k = l->k;
    DType t = (DType)expr_node(k, v)->type;
    Expr largest = low_const(l, t, narrow[to].largest);
    if (saturate)
        return expr_prim(k, P_max, expr_prim(k, P_min, v, largest, 0), low_const(l, t, -narrow[to].largest), 0);
    Expr lost = narrow[to].infinite ? expr_mul(k, v, low_const(l, t, INFINITY)) : low_const(l, t, NAN);
    Expr limit = low_const(l, t, narrow[to].beyond), size = expr_prim(k, P_abs, v, 0, 0);
    return low_select(l, narrow[to].infinite ? expr_le(k, limit, size) : expr_lt(k, limit, size), lost, v);
}

/* f8e8m0 holds powers of two: the f32 exponent, after adding what rounds the mantissa up, to the nearest, or down. */
static Expr cast_scale(Lower *l, Expr v, const char *mode)
{
    Kernel *k = l->k;
    int64_t add = !strcmp(mode, "up") ? 0x7fffff : !strcmp(mode, "down") ? 0 : 0x400000;
    Expr bits = expr_prim(k, P_and, expr_prim(k, P_bits, v, 0, 0), expr_int(k, DT_i32, 0x7fffffff), 0);
    Expr exponent =
        expr_prim(k, P_and, expr_add(k, bits, expr_int(k, DT_i32, add)), expr_int(k, DT_i32, 0x7f800000), 0);
    return low_select(l, expr_prim(k, P_isnan, v, 0, 0), v, expr_prim(k, P_bits, exponent, 0, 0));
}

/* ONNX's Cast. */
static Expr unary_cast(Lower *l, Expr x, int out)
{
    DType from = (DType)expr_node(l->k, x)->type, to = low_type(l, out);
    if (from == to) return x;
    if (narrow[to].beyond == 0 && to != DT_f8e8m0) return expr_cast(l->k, to, x);
    Expr v = expr_cast(l->k, from == DT_f64 && to != DT_f8e8m0 ? DT_f64 : DT_f32, x);
    v = to == DT_f8e8m0 ? cast_scale(l, v, node_str(l->n, "round_mode"))
                        : cast_narrow(l, v, to, node_int(l->n, "saturate") != 0);
    return expr_cast(l->k, to, v);
}

static void lower_identity(Lower *l) { lower_unary(l, low_out(l, 0), unary_copy); }
static void lower_cast(Lower *l) { lower_unary(l, low_out(l, 0), unary_cast); }

/* Inference drops nothing: the data itself, and a mask of ones. */
static bool expand_dropout(Expand *x)
{
    Val ratio = x->n->nin > 1 ? x->in[1] : (Val){0}, mode = x->n->nin > 2 ? x->in[2] : (Val){0};
    if (mode.id && !drops_nothing(graph_val(x->g, ratio)->konst, graph_val(x->g, mode)->konst))
        return expand_error(x, "training mode, or one that depends on data, is not supported");
    x->out[0] = x->in[0];
    if (x->n->nout < 2) return true;
    Val one = graph_const(x->g, tensor_scalar(x->m->mem, DT_bool, 1), NULL),
        shape = emit(x->g, "Shape", x->loc, 1, x->in[0]);
    x->out[1] = emit(x->g, "Expand", x->loc, 2, one, shape);
    return true;
}

/* Integers of one width differ in how they are read; floats go through the integer of their width. */
static Expr unary_bits(Lower *l, Expr x, int out)
{
    DType from = (DType)expr_node(l->k, x)->type, to = low_type(l, out);
    bool wide_from = from == DT_f32 || from == DT_f64, wide_to = to == DT_f32 || to == DT_f64;
    if ((dtype_is_float(from) && !wide_from && from != to) || (dtype_is_float(to) && !wide_to && from != to)) {
        low_refuse(l, "BitCast from %s to %s is not supported", dtypes[from].name, dtypes[to].name);
        return x;
    }
    if (from == to || (wide_from && wide_to)) return x;
    if (wide_from) x = expr_prim(l->k, P_bits, x, 0, 0);
    if (wide_to) return expr_prim(l->k, P_bits, expr_cast(l->k, dtypes[to].bits == 32 ? DT_i32 : DT_i64, x), 0, 0);
    return expr_cast(l->k, to, x);
}

static void lower_bitcast(Lower *l) { lower_unary(l, low_out(l, 0), unary_bits); }

static void lower_gelu(Lower *l)
{
    bool tanh_form = !strcmp(node_str(l->n, "approximate"), "tanh");
    low_body(l, tanh_form ? "0.5 * X * (1 + tanh(0.7978845608028654 * (X + 0.044715 * X * X * X)))"
                          : "0.5 * X * (1 + erf(X * 0.7071067811865476))");
}

static bool infer_gelu(Infer *c)
{
    const char *a = node_str(c->n, "approximate");
    if (strcmp(a, "tanh") != 0 && strcmp(a, "none") != 0) return infer_error(c, "approximate '%s' is unknown", a);
    return infer_same(c);
}

static void lower_mod(Lower *l) { low_body(l, node_int(l->n, "fmod") ? "mod(A, B)" : "floormod(A, B)"); }

static bool infer_shift(Infer *c)
{
    const char *s = node_str(c->n, "direction");
    if (strcmp(s, "LEFT") != 0 && strcmp(s, "RIGHT") != 0) return infer_error(c, "direction '%s' is unknown", s);
    return infer_elementwise(c);
}

/* Too far a right shift leaves the sign everywhere, which shifting by the width less one does. */
static void lower_shift(Lower *l)
{
    DType t = low_in_type(l, 0)->dtype;
    if (!strcmp(node_str(l->n, "direction"), "LEFT")) {
        low_body(l, "shl(X, Y)");
        return;
    }
    const char *body = dtypes[t].cls == DC_UINT ? "shr(X, Y)" : "shr(X, select((Y < 0) || (Y > %d), %d, Y))";
    low_body(l, arena_printf(l->k->mem, body, dtypes[t].bits - 1, dtypes[t].bits - 1));
}

static Expr power(Lower *l, Expr x, double e)
{
    Expr one = low_const(l, (DType)expr_node(l->k, x)->type, 1);
    if (e == 1) return x;
    if (e == 2) return expr_mul(l->k, x, x);
    if (e == 3) return expr_mul(l->k, expr_mul(l->k, x, x), x);
    if (e == 4) return power(l, power(l, x, 2), 2);
    if (e == -1) return expr_div(l->k, one, x);
    if (e == -2) return expr_div(l->k, one, expr_mul(l->k, x, x));
    return 0;
}

/* The base decides the type of the result; integers go through f64, exact up to 2^53. Small constant exponents are
 * products. */
static void lower_pow(Lower *l)
{
    Kernel *k = l->k;
    int out = low_out(l, 0), axis[MAX_RANK], rank = low_rank(l, out);
    const Tensor *e = graph_val(l->g, node_in(l->g, l->n, 1))->konst;
    low_axes(l, out, axis);
    Expr x = low_load_broadcast(l, low_in(l, 0), axis, rank), y = low_load_broadcast(l, low_in(l, 1), axis, rank),
         r = 0;
    DType t = dtype_compute(low_type(l, out)), by = dtype_compute(low_type(l, low_in(l, 1)));
    x = expr_cast(k, t, x);
    double constant = e && tensor_count(e) == 1 ? dtype_load(e->type, e->data, 0) : NAN;
    if (dtype_is_float(t) || constant >= 1) r = power(l, x, constant);
    if (!r && dtype_is_float(t) && constant == 0.5) r = expr_prim(k, P_sqrt, x, 0, 0);
    if (!r) {
        DType wide = dtype_is_float(t) && (t == DT_f64 || (by != DT_f64 && by != DT_i64)) ? t
                     : t == DT_f32                                                        ? DT_f32
                                                                                          : DT_f64;
        r = expr_prim(k, P_pow, expr_cast(k, wide, x), expr_cast(k, wide, y), 0);
    }
    low_stage(l, out, axis, rank, low_store_as(l, out, r));
}

/* Max, Min, Sum, Mean of any number of inputs. */
static Expr variadic(Lower *l, Prim how, const int *axis, int rank)
{
    DType t = dtype_compute(low_type(l, low_out(l, 0)));
    Expr r = 0;
    for (uint32_t i = 0; i < l->n->nin; i++) {
        Expr x = expr_cast(l->k, t, low_load_broadcast(l, low_in(l, i), axis, rank));
        r = r ? expr_prim(l->k, how, r, x, 0) : x;
    }
    return r;
}

static void lower_variadic(Lower *l, Prim how, bool mean)
{
    int out = low_out(l, 0), axis[MAX_RANK], rank = low_rank(l, out);
    low_axes(l, out, axis);
    Expr r = variadic(l, how, axis, rank);
    if (mean) r = expr_div(l->k, r, low_const(l, (DType)expr_node(l->k, r)->type, l->n->nin));
    low_stage(l, out, axis, rank, low_store_as(l, out, r));
}

static void lower_max(Lower *l) { lower_variadic(l, P_max, false); }
static void lower_min(Lower *l) { lower_variadic(l, P_min, false); }
static void lower_sum(Lower *l) { lower_variadic(l, P_add, false); }
static void lower_mean(Lower *l) { lower_variadic(l, P_add, true); }

#define UNARY(n, first, text, ...)                                                                                     \
    OP(n, .since = first, .sig = "X:T -> Y:T", .T = "float", .body = text, .quant = QUANT_LUT, __VA_ARGS__)
#define BINARY(n, first, types, text, rule, ...)                                                                       \
    OP(n, .since = first, .sig = "A:T B:T -> C:T", .T = types, .body = text, .infer = infer_elementwise,               \
       .value = rule, .flags = OP_VALUES, .quant = QUANT_RESCALE, __VA_ARGS__)
#define COMPARE(n, first, types, text, rule)                                                                           \
    OP(n, .since = first, .sig = "A:T B:T -> C:bool", .T = types, .body = text, .infer = infer_elementwise,            \
       .value = rule, .flags = OP_VALUES)
#define VARIADIC(n, first, types, low, rule)                                                                           \
    OP(n, .since = first, .sig = "inputs:T* -> result:T", .T = types, .infer = infer_elementwise, .lower = low,        \
       .value = rule, .flags = OP_VALUES, .quant = QUANT_RESCALE)

/* clang-format off */
const OpDef ops_elementwise[] = {
    BINARY(Add, 7, "int float", "A + B", v_add, ),
    BINARY(Sub, 7, "int float", "A - B", v_sub, ),
    BINARY(Mul, 7, "int float", "A * B", v_mul, ),
    BINARY(Div, 7, "int float", "A / B", v_div, ),
    OP(Mod, .since = 10, .sig = "A:T B:T -> C:T", .T = "int float", .attrs = "fmod:int=0", .infer = infer_mod, .lower = lower_mod,
       .flags = OP_VALUES),
    OP(Pow, .since = 7, .sig = "X:T Y:U -> Z:T", .T = "int float", .U = "int float", .infer = infer_elementwise,
       .lower = lower_pow, .value = v_pow, .flags = OP_VALUES, .quant = QUANT_RESCALE),
    VARIADIC(Max, 8, "int float", lower_max, value_max),
    VARIADIC(Min, 8, "int float", lower_min, value_min),
    VARIADIC(Sum, 8, "float", lower_sum, value_sum),
    VARIADIC(Mean, 8, "float", lower_mean, NULL),
    COMPARE(Equal, 7, "int float bool", "A == B", v_eq),
    COMPARE(Less, 7, "int float", "A < B", v_lt),
    COMPARE(LessOrEqual, 12, "int float", "A <= B", v_le),
    COMPARE(Greater, 7, "int float", "A > B", v_gt),
    COMPARE(GreaterOrEqual, 12, "int float", "A >= B", v_ge),
    COMPARE(And, 7, "bool", "and(A, B)", v_mul),
    COMPARE(Or, 7, "bool", "or(A, B)", value_max),
    COMPARE(Xor, 7, "bool", "xor(A, B)", v_xor),
    OP(Not, .since = 1, .sig = "X:bool -> Y:bool", .body = "not(X)", .infer = infer_elementwise, .value = v_not, .flags = OP_VALUES),
    OP(BitwiseAnd, .since = 18, .sig = "A:T B:T -> C:T", .T = "int", .body = "and(A, B)"),
    OP(BitwiseOr, .since = 18, .sig = "A:T B:T -> C:T", .T = "int", .body = "or(A, B)"),
    OP(BitwiseXor, .since = 18, .sig = "A:T B:T -> C:T", .T = "int", .body = "xor(A, B)"),
    OP(BitwiseNot, .since = 18, .sig = "X:T -> Y:T", .T = "int", .body = "not(X)"),
    OP(BitShift, .since = 11, .sig = "X:T Y:T -> Z:T", .T = "int", .attrs = "direction:string!", .infer = infer_shift,
       .lower = lower_shift),
    OP(Where, .since = 9, .sig = "condition:bool X:T Y:T -> output:T", .T = "any", .body = "select(condition, X, Y)",
       .infer = infer_where, .flags = OP_VALUES, .quant = QUANT_NONE),

    OP(Abs, .since = 6, .sig = "X:T -> Y:T", .T = "int float", .body = "abs(X)", .infer = infer_elementwise, .value = v_abs,
       .flags = OP_VALUES, .quant = QUANT_LUT),
    OP(Neg, .since = 6, .sig = "X:T -> Y:T", .T = "int float", .body = "-X", .infer = infer_elementwise, .value = v_neg,
       .flags = OP_VALUES, .quant = QUANT_LUT),
    OP(Sign, .since = 9, .sig = "X:T -> Y:T", .T = "int float", .body = "sign(X)", .infer = infer_elementwise, .value = v_sign,
       .flags = OP_VALUES, .quant = QUANT_LUT),
    OP(Floor, .since = 6, .sig = "X:T -> Y:T", .T = "float", .body = "floor(X)", .infer = infer_floor, .value = v_same,
       .flags = OP_VALUES, .quant = QUANT_LUT),
    UNARY(Ceil, 6, "ceil(X)", .infer = infer_elementwise, .value = v_same, .flags = OP_VALUES),
    UNARY(Round, 11, "rint(X)", .infer = infer_elementwise, .value = v_same, .flags = OP_VALUES),
    UNARY(Sqrt, 6, "sqrt(X)", .infer = infer_elementwise, .value = v_sqrt, .flags = OP_VALUES),
    UNARY(Reciprocal, 6, "1 / X", ),
    UNARY(Exp, 6, "exp(X)", ),
    UNARY(Log, 6, "log(X)", ),
    UNARY(Erf, 9, "erf(X)", ),
    UNARY(Sin, 7, "sin(X)", ),
    UNARY(Cos, 7, "cos(X)", ),
    UNARY(Tan, 7, "tan(X)", ),
    UNARY(Asin, 7, "asin(X)", ),
    UNARY(Acos, 7, "acos(X)", ),
    UNARY(Atan, 7, "atan(X)", ),
    UNARY(Sinh, 9, "sinh(X)", ),
    UNARY(Cosh, 9, "cosh(X)", ),
    UNARY(Tanh, 6, "tanh(X)", ),
    UNARY(Asinh, 9, "asinh(X)", ),
    UNARY(Acosh, 9, "acosh(X)", ),
    UNARY(Atanh, 9, "atanh(X)", ),

    OP(Relu, .since = 6, .sig = "X:T -> Y:T", .T = "int float", .body = "max(X, 0)", .infer = infer_elementwise, .value = v_relu,
       .flags = OP_VALUES, .quant = QUANT_LUT),
    OP(Clip, .since = 11, .sig = "input:T min:T?=lowest max:T?=highest -> output:T", .T = "int float",
       .body = "min(max(input, min), max)", .infer = infer_elementwise, .value = v_clip, .flags = OP_VALUES, .quant = QUANT_LUT),
    UNARY(LeakyRelu, 6, "select(X < 0, alpha * X, X)", .attrs = "alpha:float=0.01"),
    OP(PRelu, .since = 7, .sig = "X:T slope:T -> Y:T", .T = "int float", .body = "select(X < 0, slope * X, X)", .quant = QUANT_RESCALE),
    UNARY(Elu, 6, "select(X < 0, alpha * (exp(X) - 1), X)", .attrs = "alpha:float=1"),
    UNARY(Selu, 6, "gamma * select(X > 0, X, alpha * exp(X) - alpha)", .attrs = "alpha:float=1.6732632 gamma:float=1.050701"),
    UNARY(Celu, 12, "max(X, 0) + min(alpha * (exp(X / alpha) - 1), 0)", .attrs = "alpha:float=1"),
    UNARY(ThresholdedRelu, 10, "select(X > alpha, X, 0)", .attrs = "alpha:float=1"),
    UNARY(HardSigmoid, 6, "max(0, min(1, alpha * X + beta))", .attrs = "alpha:float=0.2 beta:float=0.5"),
    UNARY(HardSwish, 14, "X * max(0, min(1, X * 0.16666667 + 0.5))", ),
    UNARY(Sigmoid, 6, "sigmoid(X)", ),
    UNARY(Softplus, 1, "max(X, 0) + log1p(exp(-abs(X)))", ),
    UNARY(Softsign, 1, "X / (1 + abs(X))", ),
    UNARY(Mish, 18, "X * tanh(max(X, 0) + log1p(exp(-abs(X))))", ),
    UNARY(Swish, 24, "X / (1 + exp(-alpha * X))", .attrs = "alpha:float=1"),
    OP(Shrink, .since = 9, .sig = "X:T -> Y:T", .T = "float", .attrs = "bias:float=0 lambd:float=0.5",
       .body = "select(X < -lambd, X + bias, select(X > lambd, X - bias, 0))", .quant = QUANT_LUT),
    UNARY(Gelu, 20, NULL, .attrs = "approximate:string=none", .infer = infer_gelu, .lower = lower_gelu),
    OP(IsNaN, .since = 9, .sig = "X:T -> Y:bool", .T = "float", .body = "isnan(X)"),
    OP(IsInf, .since = 10, .sig = "X:T -> Y:bool", .T = "float", .attrs = "detect_negative:int=1 detect_positive:int=1",
       .body = "isinf(X) && select(X > 0, detect_positive, detect_negative) != 0"),

    OP(Cast, .since = 6, .sig = "input:T -> output:U", .T = "number", .U = "number", .attrs = "to:int! saturate:int=1 round_mode:string=up",
       .infer = infer_cast, .lower = lower_cast, .flags = OP_VALUES | OP_UNRANKED),
    OP(CastLike, .since = 15, .sig = "input:T target_type:U -> output:U", .T = "number", .U = "number",
       .attrs = "saturate:int=1 round_mode:string=up", .infer = infer_cast_like, .lower = lower_cast),
    OP(BitCast, .since = 26, .sig = "input:T -> output:U", .T = "number", .U = "number", .attrs = "to:int!", .infer = infer_bitcast,
       .lower = lower_bitcast, .flags = OP_UNRANKED),
    OP(Identity, .since = 1, .sig = "input:T -> output:T", .T = "any", .infer = infer_elementwise, .value = v_same,
       .lower = lower_identity, .flags = OP_VALUES, .quant = QUANT_PASS),
    OP(Dropout, .since = 12, .sig = "data:T ratio:U? training_mode:bool? -> output:T mask:bool?", .T = "float", .U = "float",
       .attrs = "seed:int", .infer = infer_dropout, .expand = expand_dropout),
    {0},
};
/* clang-format on */
