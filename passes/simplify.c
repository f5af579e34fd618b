/* simplify.c - rules that hold for every target: what does nothing goes, pairs that cancel go, constant affine maps behind a
 * convolution fold into its weights, taps that see padding alone go, layer normalization written out in small operators becomes one.
 *
 * The folds of constants into weights change rounding by an ulp of the weights, as every inference engine does. */
#include "ir/ops/window.h"
#include "passes/passes.h"
#include "passes/rewrite.h"
#include <math.h>
#include <string.h>

/* ---- guards ---- */
static bool same_type(const Type *a, const Type *b)
{
    if (a->dtype != b->dtype || a->rank != b->rank || a->rank < 0) return false;
    for (int d = 0; d < a->rank; d++)
        if (!dim_known(a->dim[d]) || !dim_same(a->dim[d], b->dim[d])) return false;
    return true;
}

static bool keeps_type(const Match *m)
{
    return same_type(val_type(m->in, match_old(m, "x")), val_type(m->in, match_root(m)->out));
}

static bool all_equal(const Tensor *t, double v)
{
    int64_t n = tensor_count(t);
    for (int64_t i = 0; i < n; i++)
        if (dtype_load(t->type, t->data, i) != v) return false;
    return n > 0;
}

static const Tensor *constant(const Match *m, const char *name) { return graph_val(m->in, match_old(m, name))->konst; }
static bool adds_zero(const Match *m) { return keeps_type(m) && all_equal(constant(m, "k"), 0); }
static bool scales_one(const Match *m) { return keeps_type(m) && all_equal(constant(m, "k"), 1); }

static bool is_identity_perm(const Match *m)
{
    uint32_t n = 0;
    const int64_t *perm = node_ints(match_root(m), "perm", &n);
    for (uint32_t i = 0; i < n; i++)
        if (perm[i] != (int64_t)i) return false;
    return n > 0;
}

/* ---- makers ---- */
static Val compose_perms(Match *m)
{
    uint32_t n = 0, k = 0;
    const Node *outer = match_root(m);
    const int64_t *a = node_ints(match_node(m, "t"), "perm", &n), *b = node_ints(outer, "perm", &k);
    if (!a || !b || n != k) return (Val){0};
    int64_t *perm = NEW_ARRAY(m->out->mem, int64_t, n);
    for (uint32_t i = 0; i < n; i++) perm[i] = a[b[i]];
    Attr *attr = op_attr_defaults(m->out->mem, outer->op);
    attr_set_ints(outer->op, attr, "perm", perm, n);
    Val x = match_new(m, "x");
    return graph_emit(m->out, outer->op, attr, &x, 1, 1, outer->loc, NULL);
}

/* A constant that differs per output channel alone, as a function of the channel: NULL when it does not have that form. */
static const float *per_channel(const Match *m, const Tensor *k, int rank, int axis, int64_t channels)
{
    int64_t n = tensor_count(k);
    int a = axis - (rank - k->rank);
    if (k->type != DT_f32 || k->rank > rank || (n != 1 && (n != channels || a < 0 || k->dim[a] != channels)))
        return NULL;
    float *v = NEW_ARRAY(m->scratch, float, channels);
    for (int64_t i = 0; i < channels; i++) v[i] = ((const float *)k->data)[n == 1 ? 0 : i];
    return v;
}

static const Tensor *scaled_bias(const Match *m, const Tensor *b, int64_t channels, const float *mul, const float *add)
{
    Tensor *t = tensor_new(m->out->mem, DT_f32, 1, &channels);
    for (int64_t i = 0; i < channels; i++)
        ((float *)(void *)t->data)[i] = (b ? ((const float *)b->data)[i] : 0) * (mul ? mul[i] : 1) + (add ? add[i] : 0);
    return t;
}

static const Tensor *scaled_weights(const Match *m, const Tensor *w, const float *mul)
{
    Tensor *t = tensor_new(m->out->mem, DT_f32, w->rank, w->dim);
    int64_t each = w->dim[0] ? tensor_count(w) / w->dim[0] : 0;
    for (int64_t o = 0; o < w->dim[0]; o++)
        for (int64_t i = 0; i < each; i++)
            ((float *)(void *)t->data)[o * each + i] = ((const float *)w->data)[o * each + i] * mul[o];
    return t;
}

/* Conv(x, w, b) * mul + add, with one of the two given. */
static Val fold_into_conv(Match *m, bool scales)
{
    const Node *conv = match_node(m, "c");
    const Tensor *w = constant(m, "w"), *k = constant(m, "k");
    Val bias = match_old(m, "b");
    const Tensor *b = bias.id ? graph_val(m->in, bias)->konst : NULL;
    if (w->type != DT_f32 || (bias.id && !b)) return (Val){0};
    const float *by = per_channel(m, k, val_type(m->in, conv->out)->rank, 1, w->dim[0]);
    if (!by) return (Val){0};
    const Tensor *new_w = scales ? scaled_weights(m, w, by) : w;
    const Tensor *new_b = scales && !b ? NULL : scaled_bias(m, b, w->dim[0], scales ? by : NULL, scales ? NULL : by);
    Val in[3] = {match_new(m, "x"),
                 scales ? graph_const(m->out, new_w, graph_val(m->in, match_old(m, "w"))->name) : match_new(m, "w")};
    if (new_b) in[2] = graph_const(m->out, new_b, NULL);
    return graph_emit(m->out, conv->op, conv->attr, in, new_b ? 3 : 2, 1, conv->loc, NULL);
}

static Val scale_conv(Match *m) { return fold_into_conv(m, true); }
static Val shift_conv(Match *m) { return fold_into_conv(m, false); }

/* Taps of a wide window on a small image (dilation 24 on 9 pixels) that look at padding wherever the window stands. */
typedef struct Taps {
    int64_t first, end, lo, hi; /* those that see the image; padding that is left */
} Taps;

static bool taps_seen(Dims *d, const Window *w, int i, Taps *t)
{
    int64_t in, out, n, lo, hi, step = w->stride[i], far = w->dilation[i];
    if (!dim_is_const(d, w->in[i], &in) || !dim_is_const(d, w->out[i], &out) || !dim_is_const(d, w->kernel[i], &n) ||
        !dim_is_const(d, w->lo[i], &lo) || !dim_is_const(d, w->hi[i], &hi))
        return false;
    *t = (Taps){.first = n};
    for (int64_t k = 0; k < n; k++) {
        int64_t before = lo - k * far, at = before > 0 ? (before + step - 1) / step
                                                       : 0; /* the first window whose tap is not before the image */
        if (at < out && at * step - before < in) t->first = k < t->first ? k : t->first, t->end = k + 1;
    }
    t->lo = lo - t->first * far, t->hi = hi - (n - t->end) * far;
    return t->first < t->end && t->lo >= 0 && t->hi >= 0;
}

/* Elements of w at the taps that are seen; there is at least one. */
static const Tensor *weights_seen(const Match *m, const Tensor *w, const Taps *t)
{
    int64_t dim[MAX_RANK], at[MAX_RANK] = {0}, bytes = dtypes[w->type].bytes;
    for (int i = 0; i < w->rank; i++) dim[i] = i < 2 ? w->dim[i] : t[i - 2].end - t[i - 2].first;
    Tensor *to = tensor_new(m->out->mem, w->type, w->rank, dim);
    for (int64_t n = 0, all = tensor_count(to); n < all; n++) {
        int64_t from = 0;
        for (int i = 0; i < w->rank; i++) from = from * w->dim[i] + at[i] + (i < 2 ? 0 : t[i - 2].first);
        memcpy((char *)(uintptr_t)to->data + n * bytes, (const char *)w->data + from * bytes, (size_t)bytes);
        for (int i = w->rank; i-- > 0 && ++at[i] == dim[i];) at[i] = 0;
    }
    return to;
}

static Val seen_taps(Match *m)
{
    const Node *conv = match_root(m);
    const Tensor *w = constant(m, "w");
    const Type *x = val_type(m->in, match_old(m, "x"));
    Dims *d = m->in->module->dim;
    Dim kernel[MAX_RANK];
    Taps taps[MAX_SPATIAL];
    Window window;
    const char *why = NULL;
    if (x->rank != w->rank || w->rank < 3) return (Val){0};
    for (int i = 2; i < w->rank; i++) kernel[i - 2] = dim_const(d, w->dim[i]);
    if (!window_read(&window, d, conv, x, kernel, &why)) return (Val){0};
    bool fewer = false;
    int64_t pads[2 * MAX_SPATIAL], shape[MAX_SPATIAL], far[MAX_SPATIAL];
    for (int i = 0; i < window.n; i++) {
        if (!taps_seen(d, &window, i, &taps[i])) return (Val){0};
        pads[i] = taps[i].lo, pads[i + window.n] = taps[i].hi, shape[i] = taps[i].end - taps[i].first;
        far[i] = shape[i] > 1 ? window.dilation[i] : 1;
        fewer = fewer || shape[i] < w->dim[i + 2];
    }
    if (!fewer) return (Val){0};
    uint32_t n = (uint32_t)window.n;
    Attr *attr = arena_copy(m->out->mem, conv->attr, op_attrs(conv->op) * sizeof *attr);
    attr_set_str(conv->op, attr, "auto_pad", "NOTSET"), attr_set_ints(conv->op, attr, "pads", pads, 2 * n);
    attr_set_ints(conv->op, attr, "kernel_shape", shape, n), attr_set_ints(conv->op, attr, "dilations", far, n);
    const char *name = graph_val(m->in, match_old(m, "w"))->name;
    Val in[] = {match_new(m, "x"), graph_const(m->out, weights_seen(m, w, taps), name), match_new(m, "b")};
    return graph_emit(m->out, conv->op, attr, in, in[2].id ? 3 : 2, 1, conv->loc, NULL);
}

/* LayerNormalization over the last axis: both means over it, keepdims, the square as Pow 2. */
static bool is_last_axis(const Match *m, const char *axes, int rank)
{
    const Tensor *t = constant(m, axes);
    int64_t a = tensor_count(t) == 1 ? dtype_load_int(t->type, t->data, 0) : 0;
    return tensor_count(t) == 1 && (a == -1 || a == rank - 1);
}

static bool is_layer_norm(const Match *m)
{
    const Type *x = val_type(m->in, match_old(m, "x"));
    const Tensor *g = constant(m, "g"), *b = constant(m, "b");
    int64_t width;
    if (x->dtype != DT_f32 || x->rank < 1 || !dim_is_const(m->in->module->dim, x->dim[x->rank - 1], &width))
        return false;
    return g->rank == 1 && b->rank == 1 && g->dim[0] == width && b->dim[0] == width && is_last_axis(m, "ax", x->rank) &&
           is_last_axis(m, "bx", x->rank) && node_int(match_node(m, "m"), "keepdims") &&
           node_int(match_node(m, "v"), "keepdims") && all_equal(constant(m, "two"), 2) &&
           tensor_count(constant(m, "e")) == 1;
}

static Val layer_norm(Match *m)
{
    const OpDef *op = op_find("", "LayerNormalization");
    Attr *attr = op_attr_defaults(m->out->mem, op);
    attr_set_int(op, attr, "axis", -1);
    attr_set_float(op, attr, "epsilon", (float)dtype_load(DT_f32, constant(m, "e")->data, 0));
    Val in[3] = {match_new(m, "x"), match_new(m, "g"), match_new(m, "b")};
    return graph_emit(m->out, op, attr, in, 3, 1, match_root(m)->loc, NULL);
}

/* x / k as x * (1 / k). Where k is a power of two that is the same; where x is a sum of products or the argument of erf, an ulp more or
 * less is within what their rounding leaves open. A quotient that anything else reads may be meant to be exact: floor(x / 49). */
static const Tensor *reciprocals(const Match *m)
{
    const Tensor *k = constant(m, "k");
    int64_t n = tensor_count(k);
    if (k->type != DT_f32 || n == 0) return NULL;
    Tensor *t = tensor_new(m->out->mem, DT_f32, k->rank, k->dim);
    for (int64_t i = 0; i < n; i++) {
        float f = ((const float *)k->data)[i];
        if (!isnormal(f) || !isnormal(1 / f)) return NULL;
        ((float *)(void *)t->data)[i] = 1 / f;
    }
    return t;
}

static bool divides_by_powers(const Match *m)
{
    const Tensor *k = constant(m, "k");
    int exponent;
    if (k->type != DT_f32) return false;
    for (int64_t i = 0; i < tensor_count(k); i++)
        if (fabsf(frexpf(((const float *)k->data)[i], &exponent)) != 0.5f) return false;
    return true;
}

static Val times_reciprocal(Match *m)
{
    const Tensor *t = reciprocals(m);
    const Node *root = match_root(m);
    if (!t) return (Val){0};
    return emit(m->out, "Mul", root->loc, 2, m->map[node_in(m->in, root, 0).id], graph_const(m->out, t, NULL));
}

static Val erf_of_product(Match *m)
{
    const Tensor *t = reciprocals(m);
    const Node *root = match_root(m);
    if (!t) return (Val){0};
    Val x = emit(m->out, "Mul", root->loc, 2, match_new(m, "x"), graph_const(m->out, t, NULL));
    return graph_emit(m->out, root->op, root->attr, &x, 1, 1, root->loc, NULL);
}

/* clang-format off */
const Rule rules_simplify[] = {
    {"identity",       "Identity(x)",                     "x",  NULL,             NULL},
    {"cast-same",      "Cast(x)",                         "x",  keeps_type,       NULL},
    {"reshape-same",   "Reshape(x, s)",                   "x",  keeps_type,       NULL},
    {"expand-same",    "Expand(x, s)",                    "x",  keeps_type,       NULL},
    {"concat-one",     "Concat(x)",                       "x",  NULL,             NULL},
    {"add-zero",       "Add(x, #k)",                      "x",  adds_zero,        NULL},
    {"sub-zero",       "Sub(x, #k)",                      "x",  adds_zero,        NULL},
    {"mul-one",        "Mul(x, #k)",                      "x",  scales_one,       NULL},
    {"div-one",        "Div(x, #k)",                      "x",  scales_one,       NULL},
    {"sum-two",        "Sum(x, y)",                       "Add(x, y)", NULL,        NULL},
    {"transpose-none", "Transpose(x)",                    "x",  is_identity_perm, NULL},
    {"transpose-pair", "Transpose(t@Transpose(x))",       NULL, NULL,             compose_perms},
    {"mul-conv",       "Mul(!c@Conv(x, #w, b?), #k)",     NULL, NULL,             scale_conv},
    {"conv-mul",       "Mul(#k, !c@Conv(x, #w, b?))",     NULL, NULL,             scale_conv},
    {"add-conv",       "Add(!c@Conv(x, #w, b?), #k)",     NULL, NULL,             shift_conv},
    {"conv-add",       "Add(#k, !c@Conv(x, #w, b?))",     NULL, NULL,             shift_conv},
    {"conv-taps",      "Conv(x, #w, b?)",                 NULL, NULL,             seen_taps},
    {"div-two",        "Div(x, #k)",                      NULL, divides_by_powers, times_reciprocal},
    {"div-product",    "Div(MatMul(a, b), #k)",           NULL, NULL,             times_reciprocal},
    {"div-erf",        "Erf(Div(x, #k))",                 NULL, NULL,             erf_of_product},
    {"layer-norm",     "Add(Mul(Div(d@Sub(x, m@ReduceMean(x, #ax)), Sqrt(Add(v@ReduceMean(Pow(d, #two), #bx), #e))), #g), #b)",
                                                          NULL, is_layer_norm,    layer_norm},
    {NULL, NULL, NULL, NULL, NULL},
};
/* clang-format on */

Graph *pass_simplify(const Graph *in, PassCtx *ctx) { return rewrite(in, ctx, rules_simplify, NULL); }
