/* Operators whose indices are data: Gather and Scatter, one-hot, arg-extremes, TopK, cumulative sums, selections.
 *
 * An index that is data is checked (Compute.check) unless the constant it comes from was checked by the shape rule;
 * negative ones count from the end. */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"

/* ---- indices ---- */

/* Constant indices into an axis of that size: in range now, or a guard on the size. Nothing to do for other indices. */
static bool check_indices(Infer *c, uint32_t i, Dim size)
{
    const Tensor *t = in_const(c, i);
    int64_t n = t ? tensor_count(t) : 0, lo = 0, hi = -1;
    for (int64_t j = 0; j < n; j++) {
        int64_t v = dtype_load_int(t->type, t->data, j);
        lo = v < lo ? v : lo, hi = v > hi ? v : hi;
    }
    if (hi >= 0 && !require_ge(c, size, DIM(c, hi + 1), "an index is inside its axis")) return false;
    return lo >= 0 || require_ge(c, size, DIM(c, -lo), "an index is inside its axis");
}

/* Element `at` of the index tensor, input i, as a position on an axis of that size; *check: what must hold at run
 * time. */
static Expr index_at(Lower *l, uint32_t i, const Expr *at, Expr size, Expr *check)
{
    Kernel *k = l->k;
    const Tensor *t = graph_val(l->g, node_in(l->g, l->n, i))->konst;
    uint32_t known;
    const Dim *e = low_elems(l, i, &known);
    if (!t && known == 1) return low_wrap_index(l, expr_dim(k, e[0]), size, check);
    Expr load = expr_load(k, low_in(l, i), at), unused = 0;
    if (!t) return low_wrap_index(l, load, size, check);
    int64_t n = tensor_count(t), lo = 0;
    for (int64_t j = 0; j < n; j++) {
        int64_t v = dtype_load_int(t->type, t->data, j);
        lo = v < lo ? v : lo;
    }
    if (n == 1) load = expr_index(k, dtype_load_int(t->type, t->data, 0));
    return lo < 0 ? low_wrap_index(l, load, size, &unused) : low_i64(l, load);
}

static bool infer_gather(Infer *c)
{
    int r = in_rank(c, 0), q = in_rank(c, 1), axis;
    Dim out[MAX_RANK];
    if (!in_axis(c, node_int(c->n, "axis"), r, &axis)) return false;
    if (r + q - 1 > MAX_RANK) return infer_error(c, "rank %d, at most %d is supported", r + q - 1, MAX_RANK);
    if (!check_indices(c, 1, in_dim(c, 0, axis))) return false;
    for (int i = 0; i < r + q - 1; i++)
        out[i] = i < axis ? in_dim(c, 0, i) : i < axis + q ? in_dim(c, 1, i - axis) : in_dim(c, 0, i - q + 1);
    out_shape(c, 0, r + q - 1, out);

    const int64_t *index;
    uint32_t ni;
    int64_t count = type_count(c->d, &c->out[0]), inner = 1, size;
    if (count < 0 || count > MAX_ELEMS || type_count(c->d, in_type(c, 0)) < 0 || !rule_ints(c, 1, &index, &ni))
        return true;
    for (int i = axis + 1; i < r; i++) dim_is_const(c->d, in_dim(c, 0, i), &size), inner *= size;
    dim_is_const(c->d, in_dim(c, 0, axis), &size);
    int64_t *from = NEW_ARRAY(c->g->mem, int64_t, count + 1);
    for (int64_t j = 0; j < count; j++) {
        int64_t at = index[j / inner % ni];
        from[j] = (j / inner / ni * size + (at < 0 ? at + size : at)) * inner + j % inner;
    }
    return rule_move(c, 0, 0, from, (uint32_t)count);
}

static void lower_gather(Lower *l)
{
    int in = low_in(l, 0), out = low_out(l, 0), r = low_rank(l, in), q = low_rank(l, low_in(l, 1)), axis[MAX_RANK];
    int a = low_attr_axis(l, "axis", r);
    Expr x[MAX_RANK] = {0}, at[MAX_RANK] = {0}, place[MAX_RANK] = {0}, check = 0;
    low_axes(l, out, axis);
    low_index(l, axis, low_rank(l, out), x);
    for (int i = 0; i < q; i++) place[i] = x[a + i];
    for (int i = 0; i < r; i++)
        at[i] = i < a ? x[i] : i > a ? x[i + q - 1] : index_at(l, 1, place, low_dim(l, in, a), &check);
    low_move(l, out, axis, in, at)->check = check;
}

/* GatherElements and ScatterElements: indices as data, but along one axis, and no larger elsewhere. */
static bool elements_input(Infer *c, int *axis)
{
    int r = in_rank(c, 0);
    if (in_rank(c, 1) != r) return infer_error(c, "indices have rank %d, expected %d", in_rank(c, 1), r);
    if (!in_axis(c, node_int(c->n, "axis"), r, axis)) return false;
    for (int i = 0; i < r; i++)
        if (i != *axis && !require_ge(c, in_dim(c, 0, i), in_dim(c, 1, i), "indices are no larger than data"))
            return false;
    return check_indices(c, 1, in_dim(c, 0, *axis));
}

static bool infer_gather_elements(Infer *c)
{
    int axis;
    return elements_input(c, &axis) && out_like(c, 0, 1);
}

static void lower_gather_elements(Lower *l)
{
    int in = low_in(l, 0), out = low_out(l, 0), r = low_rank(l, in), axis[MAX_RANK], a = low_attr_axis(l, "axis", r);
    Expr at[MAX_RANK] = {0}, check = 0;
    low_axes(l, out, axis);
    low_index(l, axis, r, at);
    at[a] = index_at(l, 1, at, low_dim(l, in, a), &check);
    low_move(l, out, axis, in, at)->check = check;
}

/* The length of the index tuples of GatherND and ScatterND. */
static bool tuple_length(Infer *c, int rest, int *length)
{
    int64_t k;
    int q = in_rank(c, 1);
    if (q < 1) return infer_error(c, "indices have rank %d, expected 1 or more", q);
    if (!dim_is_const(c->d, in_dim(c, 1, q - 1), &k))
        return infer_error(c, "the last size of indices must be a constant");
    if (k < 0 || k > rest)
        return infer_error(c, "index tuples have %d elements, at most %d are possible", (int)k, rest);
    return *length = (int)k, true;
}

static bool infer_gather_nd(Infer *c)
{
    int r = in_rank(c, 0), q = in_rank(c, 1), b = (int)node_int(c->n, "batch_dims"), k, rank = 0;
    Dim out[2 * MAX_RANK];
    if (b < 0 || b >= q || b >= r) return infer_error(c, "batch_dims is %d, ranks are %d and %d", b, r, q);
    if (!tuple_length(c, r - b, &k)) return false;
    for (int i = 0; i < b; i++)
        if (!require_eq(c, in_dim(c, 0, i), in_dim(c, 1, i), "batch sizes of data and indices")) return false;
    for (int i = 0; i < q - 1; i++) out[rank++] = in_dim(c, 1, i);
    for (int i = b + k; i < r; i++) out[rank++] = in_dim(c, 0, i);
    if (rank > MAX_RANK) return infer_error(c, "rank %d, at most %d is supported", rank, MAX_RANK);
    return out_shape(c, 0, rank, out);
}

/* The index into data that the tuple at `prefix` (q - 1 indices) says, from dimension `first` on; tuples of k. */
static void tuple_index(Lower *l, const Expr *prefix, int first, int k, int data, Expr *at, Expr *check)
{
    int q = low_rank(l, low_in(l, 1));
    Expr place[MAX_RANK] = {0};
    for (int i = 0; i < q - 1; i++) place[i] = prefix[i];
    for (int j = 0; j < k; j++) {
        place[q - 1] = expr_index(l->k, j);
        at[first + j] = low_wrap_index(l, expr_load(l->k, low_in(l, 1), place), low_dim(l, data, first + j), check);
    }
}

static int low_tuple(const Lower *l)
{
    const Type *t = low_in_type(l, 1);
    int64_t k = 0;
    dim_is_const(l->k->dim, t->dim[t->rank - 1], &k);
    return (int)k;
}

static void lower_gather_nd(Lower *l)
{
    int in = low_in(l, 0), out = low_out(l, 0), r = low_rank(l, in), q = low_rank(l, low_in(l, 1)), k = low_tuple(l),
        axis[MAX_RANK];
    int b = (int)node_int(l->n, "batch_dims");
    Expr x[MAX_RANK] = {0}, at[MAX_RANK] = {0}, check = 0;
    low_axes(l, out, axis);
    low_index(l, axis, low_rank(l, out), x);
    for (int i = 0; i < b; i++) at[i] = x[i];
    tuple_index(l, x, b, k, in, at, &check);
    for (int i = b + k; i < r; i++) at[i] = x[q - 1 + i - b - k];
    low_move(l, out, axis, in, at)->check = check;
}

/* ---- Scatter: a copy, then a stage over the updates ---- */

static const struct {
    const char *name;
    Prim how;
} reductions[] = {
    {"none", P_NONE}, {"add", P_add}, {"mul", P_mul}, {"max", P_max}, {"min", P_min},
};

static bool scatter_reduction(const Node *n, Prim *how)
{
    for (size_t i = 0; i < COUNT_OF(reductions); i++)
        if (!strcmp(reductions[i].name, node_str(n, "reduction"))) return *how = reductions[i].how, true;
    return false;
}

static bool check_reduction(Infer *c)
{
    Prim how;
    return scatter_reduction(c->n, &how) || infer_error(c, "reduction '%s' is unknown", node_str(c->n, "reduction"));
}

static bool infer_scatter_elements(Infer *c)
{
    int axis;
    if (!check_reduction(c) || !elements_input(c, &axis)) return false;
    if (in_rank(c, 2) != in_rank(c, 1))
        return infer_error(c, "updates have rank %d, indices %d", in_rank(c, 2), in_rank(c, 1));
    for (int i = 0; i < in_rank(c, 1); i++)
        if (!require_eq(c, in_dim(c, 1, i), in_dim(c, 2, i), "sizes of indices and updates")) return false;
    return out_like(c, 0, 0);
}

static void copy_input(Lower *l)
{
    int out = low_out(l, 0), axis[MAX_RANK];
    Expr at[MAX_RANK] = {0};
    low_axes(l, out, axis);
    low_index(l, axis, low_rank(l, out), at);
    low_move(l, out, axis, low_in(l, 0), at);
}

/* Stores the updates, axis over all of them, x their index, at `at` in the output. */
static void store_updates(Lower *l, uint32_t input, const int *axis, const Expr *x, const Expr *at, Expr check,
                          Prim how)
{
    int updates = low_in(l, input), out = low_out(l, 0);
    Compute *s = low_stage(l, out, axis, low_rank(l, updates), expr_load(l->k, updates, x));
    memcpy(s->at, at, sizeof s->at);
    s->check = check, s->update = how;
}

static void lower_scatter_elements(Lower *l)
{
    int updates = low_in(l, 2), r = low_rank(l, updates), axis[MAX_RANK], a = low_attr_axis(l, "axis", r);
    Expr x[MAX_RANK] = {0}, at[MAX_RANK] = {0}, check = 0;
    Prim how = P_NONE;
    scatter_reduction(l->n, &how);
    copy_input(l);
    low_axes(l, updates, axis);
    low_index(l, axis, r, x);
    memcpy(at, x, sizeof at);
    at[a] = index_at(l, 1, x, low_dim(l, low_in(l, 0), a), &check);
    store_updates(l, 2, axis, x, at, check, how);
}

static bool infer_scatter_nd(Infer *c)
{
    int r = in_rank(c, 0), q = in_rank(c, 1), k;
    if (!check_reduction(c) || !tuple_length(c, r, &k)) return false;
    if (in_rank(c, 2) != q - 1 + r - k)
        return infer_error(c, "updates have rank %d, expected %d", in_rank(c, 2), q - 1 + r - k);
    for (int i = 0; i < in_rank(c, 2); i++) {
        Dim want = i < q - 1 ? in_dim(c, 1, i) : in_dim(c, 0, i - (q - 1) + k);
        if (!require_eq(c, want, in_dim(c, 2, i), "sizes of updates")) return false;
    }
    return out_like(c, 0, 0);
}

static void lower_scatter_nd(Lower *l)
{
    int updates = low_in(l, 2), data = low_in(l, 0), r = low_rank(l, data), q = low_rank(l, low_in(l, 1)),
        k = low_tuple(l);
    int axis[MAX_RANK];
    Expr x[MAX_RANK] = {0}, at[MAX_RANK] = {0}, check = 0;
    Prim how = P_NONE;
    scatter_reduction(l->n, &how);
    copy_input(l);
    low_axes(l, updates, axis);
    low_index(l, axis, low_rank(l, updates), x);
    tuple_index(l, x, 0, k, data, at, &check);
    for (int i = k; i < r; i++) at[i] = x[q - 1 + i - k];
    store_updates(l, 2, axis, x, at, check, how);
}

/* TensorScatter: rows of a cache replaced from a position on, which each sample of the batch has for itself. */
static bool infer_tensor_scatter(Infer *c)
{
    int r = in_rank(c, 0), axis;
    const char *mode = node_str(c->n, "mode");
    if (strcmp(mode, "linear") != 0 && strcmp(mode, "circular") != 0)
        return infer_error(c, "mode '%s' is unknown", mode);
    if (in_rank(c, 1) != r) return infer_error(c, "update has rank %d, expected %d", in_rank(c, 1), r);
    if (!in_axis(c, node_int(c->n, "axis"), r, &axis)) return false;
    if (axis == 0) return infer_error(c, "axis is 0, the batch");
    for (int i = 0; i < r; i++) {
        bool ok = i == axis ? require_ge(c, in_dim(c, 0, i), in_dim(c, 1, i), "the update fits the cache")
                            : require_eq(c, in_dim(c, 0, i), in_dim(c, 1, i), "sizes of cache and update");
        if (!ok) return false;
    }
    if (in_has(c, 2) && in_rank(c, 2) == 1 &&
        !require_eq(c, in_dim(c, 0, 0), in_dim(c, 2, 0), "one write index a sample"))
        return false;
    return out_like(c, 0, 0);
}

static void lower_tensor_scatter(Lower *l)
{
    Kernel *k = l->k;
    int updates = low_in(l, 1), r = low_rank(l, updates), a = low_attr_axis(l, "axis", r), axis[MAX_RANK];
    Expr x[MAX_RANK] = {0}, at[MAX_RANK] = {0}, check = 0, zero = expr_index(k, 0), size = low_dim(l, low_in(l, 0), a);
    copy_input(l);
    low_axes(l, updates, axis);
    low_index(l, axis, r, x);
    memcpy(at, x, sizeof at);
    if (low_in(l, 2)) {
        Expr from = low_i64(l, expr_load(k, low_in(l, 2), (Expr[MAX_RANK]){x[0]}));
        bool circular = !strcmp(node_str(l->n, "mode"), "circular");
        at[a] = expr_add(k, from, x[a]);
        check = expr_and(k, expr_le(k, zero, from), circular ? 0 : expr_lt(k, at[a], size));
        if (circular) at[a] = expr_mod(k, at[a], size);
    }
    store_updates(l, 1, axis, x, at, check, P_NONE);
}

/* ---- OneHot ---- */

static bool infer_one_hot(Infer *c)
{
    int r = in_rank(c, 0), axis, i = 0;
    Dim out[MAX_RANK], depth = rule_elem(c, 1, 0);
    if (r + 1 > MAX_RANK) return infer_error(c, "rank %d, at most %d is supported", r + 1, MAX_RANK);
    if (!in_axis(c, node_int(c->n, "axis"), r + 1, &axis)) return false;
    if (!dim_known(depth)) depth = dim_fresh(c->d, "depth", DIM_DATA);
    for (int o = 0; o <= r; o++) out[o] = o == axis ? depth : in_dim(c, 0, i++);
    return out_shape(c, 0, r + 1, out);
}

static void lower_one_hot(Lower *l)
{
    if (!low_sized(l)) return;
    Kernel *k = l->k;
    int out = low_out(l, 0), rank = low_rank(l, out), a = low_attr_axis(l, "axis", rank), axis[MAX_RANK], i = 0;
    Expr x[MAX_RANK] = {0}, at[MAX_RANK] = {0}, any = 0;
    low_axes(l, out, axis);
    low_index(l, axis, rank, x);
    for (int o = 0; o < rank; o++)
        if (o != a) at[i++] = x[o];
    Expr hot = low_wrap_index(l, expr_load(k, low_in(l, 0), at), low_dim(l, out, a), &any); /* out of range: all off */
    Expr off = expr_load(k, low_in(l, 2), (Expr[MAX_RANK]){expr_index(k, 0)});
    Expr on = expr_load(k, low_in(l, 2), (Expr[MAX_RANK]){expr_index(k, 1)});
    low_stage(l, out, axis, rank, low_select(l, expr_prim(k, P_eq, hot, x[a], 0), on, off));
}

/* ---- ArgMax, ArgMin ---- */

static bool infer_arg(Infer *c)
{
    int r = in_rank(c, 0), axis, n = 0;
    Dim out[MAX_RANK];
    if (!in_axis(c, node_int(c->n, "axis"), r, &axis)) return false;
    for (int i = 0; i < r; i++) {
        if (i == axis && node_int(c->n, "keepdims")) out[n++] = DIM(c, 1);
        if (i != axis) out[n++] = in_dim(c, 0, i);
    }
    return out_shape(c, 0, n, out) && require_ge(c, in_dim(c, 0, axis), DIM(c, 1), "an axis to search is not empty");
}

/* Equal, where NaN equals NaN (and only it: an extreme is NaN as soon as one element is). */
static Expr same_value(Lower *l, Expr a, Expr b)
{
    Expr eq = expr_prim(l->k, P_eq, a, b, 0);
    if (!dtype_is_float((DType)expr_node(l->k, a)->type)) return eq;
    Expr both = expr_and(l->k, expr_prim(l->k, P_isnan, a, 0, 0), expr_prim(l->k, P_isnan, b, 0, 0));
    return expr_prim(l->k, P_or, eq, both, 0);
}

/* The extreme value, then the least (or greatest) index that has it. */
static void lower_arg(Lower *l, Prim how)
{
    Kernel *k = l->k;
    int in = low_in(l, 0), out = low_out(l, 0), r = low_rank(l, in), a = low_attr_axis(l, "axis", r), n = 0,
        space[MAX_RANK];
    int share = low_share(l), first = low_axis(l, low_dim(l, in, a)), second = low_axis(l, low_dim(l, in, a));
    DType t = dtype_compute(low_type(l, in));
    Expr at[MAX_RANK] = {0}, dim[MAX_RANK] = {0}, place[MAX_RANK] = {0};
    for (int i = 0; i < r; i++) {
        if (i == a && !node_int(l->n, "keepdims")) continue;
        space[n] = low_axis(l, i == a ? expr_index(k, 1) : low_dim(l, in, i));
        dim[n] = low_dim(l, out, n), place[n] = expr_axis(k, space[n]);
        if (i != a) at[i] = place[n];
        n++;
    }
    int best = low_temp(l, t, n, dim);
    at[a] = expr_axis(k, first);
    low_reduce(l, best, space, n, &first, 1, how, low_load(l, in, at), 0)->share = share;
    at[a] = expr_axis(k, second);
    bool last = node_int(l->n, "select_last_index") != 0;
    Expr none = last ? expr_index(k, -1) : low_dim(l, in, a),
         is = same_value(l, low_load(l, in, at), expr_load(k, best, place));
    low_reduce(l, out, space, n, &second, 1, last ? P_max : P_min, low_select(l, is, at[a], none), 0)->share = share;
}

static void lower_arg_max(Lower *l) { lower_arg(l, P_max); }
static void lower_arg_min(Lower *l) { lower_arg(l, P_min); }

/* ---- TopK ---- */

static bool infer_top_k(Infer *c)
{
    int r = in_rank(c, 0), axis;
    Dim out[MAX_RANK], k = rule_elem(c, 1, 0);
    if (!in_axis(c, node_int(c->n, "axis"), r, &axis)) return false;
    if (!dim_known(k)) k = dim_fresh(c->d, "k", DIM_DATA);
    else if (!require_ge(c, in_dim(c, 0, axis), k, "K is at most the size of the axis") ||
             !require_ge(c, k, DIM(c, 0), "K is not negative"))
        return false;
    for (int i = 0; i < r; i++) out[i] = i == axis ? k : in_dim(c, 0, i);
    out_shape(c, 0, r, out);
    return c->n->nout < 2 || out_shape(c, 1, r, out);
}

/* a comes before b. NaN comes first, as it does in the reductions. */
static Expr before(Lower *l, Expr a, Expr b)
{
    Kernel *k = l->k;
    Expr wins = node_int(l->n, "largest") ? expr_lt(k, b, a) : expr_lt(k, a, b);
    if (!dtype_is_float((DType)expr_node(k, a)->type)) return wins;
    Expr nan = expr_and(k, expr_prim(k, P_isnan, a, 0, 0), expr_prim(k, P_not, expr_prim(k, P_isnan, b, 0, 0), 0, 0));
    return expr_prim(k, P_or, wins, nan, 0);
}

/* (a, i) comes before (b, j): equal values in the order of their indices. */
static Expr before_at(Lower *l, Expr a, Expr i, Expr b, Expr j)
{
    Expr tie = expr_and(l->k, same_value(l, a, b), expr_lt(l->k, i, j));
    return expr_prim(l->k, P_or, before(l, a, b), tie, 0);
}

/* K large: every element counts those before it, and is stored at that place when it is below K. */
static void top_k_by_rank(Lower *l, int a)
{
    Kernel *k = l->k;
    int in = low_in(l, 0), values = low_out(l, 0), r = low_rank(l, in), axis[MAX_RANK],
        other = low_axis(l, low_dim(l, in, a));
    Expr x[MAX_RANK] = {0}, y[MAX_RANK] = {0}, dim[MAX_RANK] = {0};
    low_axes(l, in, axis);
    low_index(l, axis, r, x);
    memcpy(y, x, sizeof y);
    y[a] = expr_axis(k, other);
    for (int i = 0; i < r; i++) dim[i] = low_dim(l, in, i);
    int rank = low_temp(l, DT_i32, r, dim);
    Expr earlier = before_at(l, low_load(l, in, y), y[a], low_load(l, in, x), x[a]);
    low_reduce(l, rank, axis, r, &other, 1, P_add, expr_cast(k, DT_i32, earlier), 0);
    Expr place = low_i64(l, expr_load(k, rank, x));
    for (uint32_t o = 0; o < l->n->nout; o++) {
        low_axes(l, in, axis);
        Expr z[MAX_RANK] = {0};
        low_index(l, axis, r, z);
        place = low_i64(l, expr_load(k, rank, z));
        Compute *s = low_stage(l, low_out(l, o), axis, r, o == 0 ? expr_load(k, in, z) : z[a]);
        s->at[a] = place;
        s->where = expr_lt(k, place, low_dim(l, values, a));
    }
}

/* K small: the best, then the best of those after it, and so on. */
static void top_k_by_turns(Lower *l, int a)
{
    Kernel *k = l->k;
    int in = low_in(l, 0), values = low_out(l, 0), r = low_rank(l, in), axis[MAX_RANK], j[2];
    bool largest = node_int(l->n, "largest") != 0;
    Expr place[MAX_RANK] = {0}, prior[MAX_RANK] = {0}, at[MAX_RANK] = {0}, dim[MAX_RANK] = {0},
         size = low_dim(l, in, a);
    low_axes(l, values, axis);
    low_index(l, axis, r, place);
    memcpy(prior, place, sizeof prior);
    memcpy(at, place, sizeof at);
    prior[a] = expr_sub(k, place[a], expr_index(k, 1));
    for (int i = 0; i < r; i++) dim[i] = low_dim(l, values, i);
    int index = l->n->nout > 1 ? low_out(l, 1) : low_temp(l, DT_i64, r, dim);
    Prim how = largest ? P_max : P_min;
    for (int stage = 0; stage < 2; stage++) {
        j[stage] = low_axis(l, size);
        at[a] = expr_axis(k, j[stage]);
        Expr x = low_load(l, in, at), yes = low_const(l, DT_bool, 1);
        Expr after = before_at(l, low_load(l, values, prior), expr_load(k, index, prior), x, at[a]);
        after = expr_guard(k, expr_lt(k, expr_index(k, 0), place[a]), after, yes);
        Compute *s;
        if (stage == 0) {
            DType t = (DType)expr_node(k, x)->type;
            Expr value = low_select(l, after, x, reduce_identity(k, how, t));
            s = low_reduce(l, values, axis, r, &j[0], 1, how, value, low_store_as(l, values, expr_it(k, t)));
        } else {
            Expr found = expr_and(k, after, same_value(l, x, low_load(l, values, place)));
            s = low_reduce(l, index, axis, r, &j[1], 1, P_min, low_select(l, found, at[a], size), 0);
        }
        s->scan = axis[a];
    }
}

static void lower_top_k(Lower *l)
{
    if (!low_sized(l)) return;
    int a = low_attr_axis(l, "axis", low_rank(l, low_in(l, 0)));
    int64_t k, n;
    bool known = dim_is_const(l->k->dim, low_out_type(l, 0)->dim[a], &k),
         all = dim_is_const(l->k->dim, low_in_type(l, 0)->dim[a], &n);
    if (known && (all ? 4 * k < n : k <= 64)) top_k_by_turns(l, a);
    else top_k_by_rank(l, a);
}

/* ---- CumSum, CumProd ---- */

static bool infer_cumulative(Infer *c)
{
    int axis, r = in_rank(c, 0);
    int64_t v;
    Dim given = rule_elem(c, 1, 0);
    if (!dim_known(given) || !dim_is_const(c->d, given, &v)) return infer_same(c); /* refused by lower_cumulative */
    return in_axis(c, v, r, &axis) && infer_same(c);
}

static void lower_cumulative(Lower *l, Prim how)
{
    Kernel *k = l->k;
    int in = low_in(l, 0), out = low_out(l, 0), r = low_rank(l, in), axis[MAX_RANK];
    const int64_t *v;
    uint32_t n;
    if (!low_ints(l, 1, &v, &n)) {
        low_refuse(l, "the axis depends on data, which is not supported");
        return;
    }
    int a = (int)(v[0] < 0 ? v[0] + r : v[0]);
    Expr at[MAX_RANK] = {0}, prior[MAX_RANK] = {0}, one = expr_index(k, 1);
    low_axes(l, out, axis);
    low_index(l, axis, r, at);
    memcpy(prior, at, sizeof prior);
    Expr turn = at[a], more = expr_lt(k, expr_index(k, 0), turn);
    if (node_int(l->n, "reverse")) {
        at[a] = expr_sub(k, expr_sub(k, low_dim(l, in, a), one), turn);
        prior[a] = expr_add(k, at[a], one);
    } else {
        prior[a] = expr_sub(k, turn, one);
    }
    Expr sum = low_load(l, out, prior), none = reduce_identity(k, how, (DType)expr_node(k, sum)->type), value;
    if (node_int(l->n, "exclusive"))
        value = expr_guard(k, more, expr_prim(k, how, sum, low_load(l, in, prior), 0), none);
    else value = expr_prim(k, how, expr_guard(k, more, sum, none), low_load(l, in, at), 0);
    Compute *s = low_stage(l, out, axis, r, low_store_as(l, out, value));
    s->at[a] = at[a], s->scan = axis[a];
}

static void lower_cum_sum(Lower *l) { lower_cumulative(l, P_add); }
static void lower_cum_prod(Lower *l) { lower_cumulative(l, P_mul); }

/* ---- ReverseSequence ---- */

static bool infer_reverse(Infer *c)
{
    int r = in_rank(c, 0), time, batch;
    if (r < 2) return infer_error(c, "input has rank %d, expected 2 or more", r);
    if (!in_axis(c, node_int(c->n, "time_axis"), r, &time) || !in_axis(c, node_int(c->n, "batch_axis"), r, &batch))
        return false;
    if (in_rank(c, 1) == 1 && !require_eq(c, in_dim(c, 0, batch), in_dim(c, 1, 0), "one length a sequence"))
        return false;
    return infer_same(c);
}

static void lower_reverse(Lower *l)
{
    Kernel *k = l->k;
    int in = low_in(l, 0), out = low_out(l, 0), r = low_rank(l, in), axis[MAX_RANK];
    int time = low_attr_axis(l, "time_axis", r), batch = low_attr_axis(l, "batch_axis", r);
    Expr at[MAX_RANK] = {0}, one = expr_index(k, 1);
    low_axes(l, out, axis);
    low_index(l, axis, r, at);
    Expr t = at[time], length = low_i64(l, expr_load(k, low_in(l, 1), (Expr[MAX_RANK]){at[batch]}));
    at[time] = low_select(l, expr_lt(k, t, length), expr_sub(k, expr_sub(k, length, one), t), t);
    low_move(l, out, axis, in, at)->check =
        expr_and(k, expr_le(k, expr_index(k, 0), length), expr_le(k, length, low_dim(l, in, time)));
}

/* ---- NonZero, Compress: sizes that depend on data ----
 * The count is a value of its own (CountTrue), read when the model runs; NonZeroAt and CompressAt get it as the size of their
 * result. Constants fold: the count is then a number. */

static int64_t count_true(const Tensor *t, int64_t most)
{
    int64_t n = 0;
    for (int64_t i = 0; i < tensor_count(t) && i < most; i++) n += dtype_load(t->type, t->data, i) != 0;
    return n;
}

static bool infer_non_zero(Infer *c)
{
    int r = in_rank(c, 0);
    const Tensor *t = in_const(c, 0);
    Dim n = t ? DIM(c, count_true(t, INT64_MAX)) : dim_fresh(c->d, "nonzero", DIM_DATA);
    return out_shape(c, 0, 2, (Dim[]){DIM(c, r), n});
}

static bool expand_non_zero(Expand *x)
{
    Val in = ex_in(x, 0);
    x->out[0] = EX_OCTET(x, "NonZeroAt", in, EX_OCTET(x, "CountTrue", in));
    return true;
}

static bool infer_count(Infer *c) { return out_shape(c, 0, 0, NULL); }

static void lower_count(Lower *l)
{
    int in = low_in(l, 0), axis[MAX_RANK];
    Expr at[MAX_RANK] = {0};
    low_axes(l, in, axis);
    low_index(l, axis, low_rank(l, in), at);
    Expr is = low_i64(l, expr_cast(l->k, DT_bool, expr_load(l->k, in, at)));
    low_reduce(l, low_out(l, 0), NULL, 0, axis, low_rank(l, in), P_add, is, 0);
}

static bool infer_non_zero_at(Infer *c)
{
    Dim n = rule_elem(c, 1, 0);
    return out_shape(c, 0, 2, (Dim[]){DIM(c, in_rank(c, 0)), dim_known(n) ? n : dim_fresh(c->d, "nonzero", DIM_DATA)});
}

/* How many of the first i + 1 elements of a buffer, in row-major order, are not zero: a temporary. */
static int count_before(Lower *l, int buf, Expr n)
{
    Kernel *k = l->k;
    int count = low_temp(l, DT_i64, 1, &n), axis = low_axis(l, n);
    Expr i = expr_axis(k, axis), at[MAX_RANK] = {0}, zero = expr_index(k, 0);
    low_delinear(l, buf, i, at);
    Expr before_it = expr_load(k, count, (Expr[MAX_RANK]){expr_sub(k, i, expr_index(k, 1))});
    Expr is = low_i64(l, expr_cast(k, DT_bool, expr_load(k, buf, at)));
    low_stage(l, count, &axis, 1, expr_add(k, expr_guard(k, expr_lt(k, zero, i), before_it, zero), is))->scan = axis;
    return count;
}

static Expr elements(Lower *l, int buf)
{
    Expr n = expr_index(l->k, 1);
    for (int i = 0; i < low_rank(l, buf); i++) n = expr_mul(l->k, n, low_dim(l, buf, i));
    return n;
}

static void lower_non_zero(Lower *l)
{
    if (!low_sized(l)) return;
    Kernel *k = l->k;
    int in = low_in(l, 0), count = count_before(l, in, elements(l, in)), axis[MAX_RANK];
    for (int d = 0; d < low_rank(l, in); d++) {
        Expr x[MAX_RANK] = {0};
        low_axes(l, in, axis);
        low_index(l, axis, low_rank(l, in), x);
        Expr place = expr_sub(k, expr_load(k, count, (Expr[MAX_RANK]){low_linear(l, in, x)}), expr_index(k, 1));
        Compute *s = low_stage(l, low_out(l, 0), axis, low_rank(l, in), x[d]);
        s->at[0] = expr_index(k, d), s->at[1] = place;
        for (int i = 2; i < MAX_RANK; i++) s->at[i] = 0;
        s->where = expr_cast(k, DT_bool, expr_load(k, in, x));
    }
}

/* The input with n elements along the axis, or n in all. */
static bool compress_shape(Infer *c, Dim n)
{
    int r = in_rank(c, 0), axis;
    const Attr *a = node_attr(c->n, "axis");
    Dim out[MAX_RANK];
    if (a->kind == ATTR_NONE) return out_shape(c, 0, 1, &n);
    if (!in_axis(c, a->i, r, &axis)) return false;
    for (int i = 0; i < r; i++) out[i] = i == axis ? n : in_dim(c, 0, i);
    return out_shape(c, 0, r, out);
}

static bool infer_compress(Infer *c)
{
    int r = in_rank(c, 0), axis;
    const Attr *a = node_attr(c->n, "axis");
    const Tensor *t = in_const(c, 1);
    int64_t most = INT64_MAX;
    if (in_rank(c, 1) != 1) return infer_error(c, "condition has rank %d, expected 1", in_rank(c, 1));
    if (a->kind != ATTR_NONE && !in_axis(c, a->i, r, &axis)) return false;
    Dim whole = a->kind == ATTR_NONE ? dim_product(c->d, in_type(c, 0)->dim, r) : in_dim(c, 0, axis);
    if ((!t || !dim_is_const(c->d, whole, &most)) &&
        !require_ge(c, whole, in_dim(c, 1, 0), "the condition is no longer than the axis"))
        return false;
    return compress_shape(c, t ? DIM(c, count_true(t, most)) : dim_fresh(c->d, "compress", DIM_DATA));
}

/* Of a constant condition, what lies within the axis counts; any other is no longer than the axis. */
static bool expand_compress(Expand *x)
{
    const Tensor *t = ex_const(x, ex_in(x, 1));
    const Attr *a = node_attr(x->n, "axis");
    const Type *in = ex_type(x, ex_in(x, 0));
    Dims *d = x->m->dim;
    int64_t whole;
    Val condition = ex_in(x, 1);
    Dim size = a->kind == ATTR_NONE ? dim_product(d, in->dim, in->rank) : in->dim[a->i < 0 ? a->i + in->rank : a->i];
    if (t && dim_is_const(d, size, &whole)) condition = ex_slice(x, condition, 0, 0, whole);
    Val count = EX_OCTET(x, "CountTrue", condition);
    x->out[0] = ex_op_like(x, "octet", "CompressAt", (const Val[]){ex_in(x, 0), condition, count}, 3);
    return true;
}

static bool infer_compress_at(Infer *c)
{
    Dim n = rule_elem(c, 2, 0);
    return compress_shape(c, dim_known(n) ? n : dim_fresh(c->d, "compress", DIM_DATA));
}

/* The condition may be longer or shorter than the axis: what both have counts. */
static void lower_compress(Lower *l)
{
    if (!low_sized(l)) return;
    Kernel *k = l->k;
    int in = low_in(l, 0), out = low_out(l, 0), cond = low_in(l, 1), r = low_rank(l, in), axis[MAX_RANK] = {0};
    bool flat = node_attr(l->n, "axis")->kind == ATTR_NONE;
    int a = flat ? 0 : low_attr_axis(l, "axis", r), count = count_before(l, cond, low_dim(l, cond, 0));
    Expr whole = flat ? elements(l, in) : low_dim(l, in, a), x[MAX_RANK] = {0}, at[MAX_RANK] = {0};
    Expr n = expr_prim(k, P_min, whole, low_dim(l, cond, 0), 0);
    int rank = flat ? 1 : r;
    for (int i = 0; i < rank; i++) axis[i] = low_axis(l, i == a ? n : low_dim(l, in, i));
    low_index(l, axis, rank, x);
    if (flat) low_delinear(l, in, x[0], at);
    else memcpy(at, x, sizeof at);
    Expr chosen[MAX_RANK] = {x[a]};
    Compute *s = low_stage(l, out, axis, rank, expr_load(k, in, at));
    s->at[a] = expr_sub(k, expr_load(k, count, chosen), expr_index(k, 1));
    s->where = expr_cast(k, DT_bool, expr_load(k, cond, chosen));
}

/* clang-format off */
const OpDef ops_index[] = {
    OP(Gather, .since = 1, .sig = "data:T indices:U -> output:T", .T = "any", .U = "i32 i64", .attrs = "axis:int=0",
       .infer = infer_gather, .lower = lower_gather, .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(GatherElements, .since = 11, .sig = "data:T indices:U -> output:T", .T = "any", .U = "i32 i64", .attrs = "axis:int=0",
       .infer = infer_gather_elements, .lower = lower_gather_elements, .quant = QUANT_PASS),
    OP(GatherND, .since = 11, .sig = "data:T indices:i64 -> output:T", .T = "any", .attrs = "batch_dims:int=0",
       .infer = infer_gather_nd, .lower = lower_gather_nd, .quant = QUANT_PASS),
    OP(ScatterElements, .since = 11, .sig = "data:T indices:U updates:T -> output:T", .T = "any", .U = "i32 i64",
       .attrs = "axis:int=0 reduction:string=none", .infer = infer_scatter_elements, .lower = lower_scatter_elements),
    OP(ScatterND, .since = 11, .sig = "data:T indices:i64 updates:T -> output:T", .T = "any", .attrs = "reduction:string=none",
       .infer = infer_scatter_nd, .lower = lower_scatter_nd),
    OP(TensorScatter, .since = 24, .sig = "past_cache:T update:T write_indices:i64? -> present_cache:T", .T = "any",
       .attrs = "mode:string=linear axis:int=-2", .infer = infer_tensor_scatter, .lower = lower_tensor_scatter),
    OP(OneHot, .since = 9, .sig = "indices:T depth:U values:V -> output:V", .T = "int float", .U = "int float", .V = "any",
       .attrs = "axis:int=-1", .infer = infer_one_hot, .lower = lower_one_hot),
    OP(ArgMax, .since = 1, .sig = "data:T -> reduced:i64", .T = "int float",
       .attrs = "axis:int=0 keepdims:int=1 select_last_index:int=0", .infer = infer_arg, .lower = lower_arg_max),
    OP(ArgMin, .since = 1, .sig = "data:T -> reduced:i64", .T = "int float",
       .attrs = "axis:int=0 keepdims:int=1 select_last_index:int=0", .infer = infer_arg, .lower = lower_arg_min),
    OP(TopK, .since = 10, .sig = "X:T K:i64 -> Values:T Indices:i64", .T = "int float",
       .attrs = "axis:int=-1 largest:int=1 sorted:int=1", .infer = infer_top_k, .lower = lower_top_k),
    OP(CumSum, .since = 11, .sig = "x:T axis:U -> y:T", .T = "int float", .U = "i32 i64", .attrs = "exclusive:int=0 reverse:int=0",
       .infer = infer_cumulative, .lower = lower_cum_sum),
    OP(CumProd, .since = 26, .sig = "x:T axis:U -> y:T", .T = "int float", .U = "i32 i64", .attrs = "exclusive:int=0 reverse:int=0",
       .infer = infer_cumulative, .lower = lower_cum_prod),
    OP(ReverseSequence, .since = 10, .sig = "input:T sequence_lens:i64 -> Y:T", .T = "any", .attrs = "time_axis:int=0 batch_axis:int=1",
       .infer = infer_reverse, .lower = lower_reverse, .quant = QUANT_PASS),
    OP(NonZero, .since = 9, .sig = "X:T -> Y:i64", .T = "any", .infer = infer_non_zero, .expand = expand_non_zero),
    OP(Compress, .since = 9, .sig = "input:T condition:bool -> output:T", .T = "any", .attrs = "axis:int", .infer = infer_compress,
       .expand = expand_compress),
    OP(CountTrue, .domain = "octet", .since = 1, .sig = "X:T -> count:i64", .T = "any", .infer = infer_count, .lower = lower_count),
    OP(NonZeroAt, .domain = "octet", .since = 1, .sig = "X:T count:i64 -> Y:i64", .T = "any", .infer = infer_non_zero_at,
       .lower = lower_non_zero),
    OP(CompressAt, .domain = "octet", .since = 1, .sig = "input:T condition:bool count:i64 -> output:T", .T = "any", .attrs = "axis:int",
       .infer = infer_compress_at, .lower = lower_compress, .quant = QUANT_PASS),
    {0},
};
/* clang-format on */
