/* resize.c - resampling: Resize, GridSample, AffineGrid.
 *
 * Resize is separable. For each resized dimension small stages compute, per output coordinate, the first source index and the
 * weights (tables of a few hundred numbers); the image stage then only loads and multiplies: one tap (nearest), two taps a
 * dimension written out (linear), or a reduction over the taps (cubic, antialias). Nearest upsampling by a whole number is
 * plain division of the index. The coordinate rules are bodies in a table, f32 as in ONNX Runtime. */
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- what Resize is asked for ---- */
typedef struct Rule {
    const char *name, *body;
} Rule;
/* x: output coordinate; s: scale; in, out: sizes; length: the output size before it is rounded down; a, b: the region of interest. */
static const Rule coordinates[] = {
    {"half_pixel", "(x + 0.5) / s - 0.5"},
    {"pytorch_half_pixel", "select(out > 1, (x + 0.5) / s - 0.5, 0)"},
    {"half_pixel_symmetric", "in / 2 * (1 - out / (s * in)) + (x + 0.5) / s - 0.5"},
    {"asymmetric", "x / s"},
    {"align_corners", "select(length == 1, 0, x * (in - 1) / (length - 1))"},
    {"tf_half_pixel_for_nn", "(x + 0.5) / s"},
    {"tf_crop_and_resize",
     "select(out > 1, a * (in - 1) + x * (b - a) * (in - 1) / max(out - 1, 1), 0.5 * (a + b) * (in - 1))"},
};
static const Rule nearest_rules[] = {
    {"round_prefer_floor", "ceil(x - 0.5)"},
    {"round_prefer_ceil", "floor(x + 0.5)"},
    {"floor", "floor(x)"},
    {"ceil", "ceil(x)"},
};
typedef enum Mode { MODE_NEAREST, MODE_LINEAR, MODE_CUBIC, MODES } Mode;
static const char *const mode_names[MODES] = {"nearest", "linear", "cubic"};
/* Weight of a tap at distance u >= 0; A: the cubic coefficient. */
static const char *const kernels[MODES] = {
    NULL,
    "max(1 - u, 0)",
    "select(u <= 1, ((A + 2) * u - (A + 3)) * u * u + 1, select(u < 2, ((A * u - 5 * A) * u + 8 * A) * u - 4 * A, 0))",
};

static const char *find_rule(const Rule *rule, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(rule[i].name, name)) return rule[i].body;
    return NULL;
}

static Mode find_mode(const char *name)
{
    Mode m = MODE_NEAREST;
    while (m < MODES && strcmp(mode_names[m], name)) m++;
    return m;
}

typedef struct Resize {
    int n, axis[MAX_RANK]; /* resized dimensions, in the order of scales, sizes and roi */
    bool scaled;           /* by constant scales; otherwise by sizes */
    float scale[MAX_RANK]; /* 0 where only the sizes say it */
} Resize;

static bool has_elements(const Type *t, const Dims *d) { return t->rank == 1 && !dim_is(d, t->dim[0], 0); }

static bool read_axes(const Node *n, int rank, Resize *r)
{
    uint32_t count = 0;
    const int64_t *axes = node_ints(n, "axes", &count);
    r->n = axes && count ? (int)count : rank;
    if (r->n > rank) return false;
    for (int i = 0; i < r->n; i++) {
        int64_t a = axes && count ? axes[i] : i;
        if (a < -rank || a >= rank) return false;
        r->axis[i] = (int)(a < 0 ? a + rank : a);
    }
    return true;
}

/* The common scale of keep_aspect_ratio_policy; 0 for "stretch". */
static float common_scale(const Node *n, const Resize *r, const int64_t *in, const int64_t *size)
{
    const char *policy = node_str(n, "keep_aspect_ratio_policy");
    bool larger = !strcmp(policy, "not_smaller");
    if (!larger && strcmp(policy, "not_larger")) return 0;
    float best = 0;
    for (int i = 0; i < r->n; i++) {
        float s = (float)size[i] / (float)in[r->axis[i]];
        if (i == 0 || (larger ? s > best : s < best)) best = s;
    }
    return best;
}

static bool infer_scaled(Infer *c, Resize *r, Dim *out)
{
    const Tensor *scales = in_const(c, 2);
    if (!scales) return out_unknown(c, 0);
    if (tensor_count(scales) != r->n)
        return infer_error(c, "scales has %lld entries, expected %d", (long long)tensor_count(scales), r->n);
    for (int i = 0; i < r->n; i++) {
        double s = dtype_load(scales->type, scales->data, i);
        if (!(s > 0)) return infer_error(c, "scale %g is not positive", s);
        out[r->axis[i]] = dim_scale(c->d, out[r->axis[i]], (float)s);
    }
    return out_shape(c, 0, in_rank(c, 0), out);
}

static bool infer_sized(Infer *c, Resize *r, Dim *out)
{
    uint32_t n;
    const Dim *sizes = rule_sizes(c, 3, &n);
    if (!sizes) return out_unknown(c, 0);
    if (n != (uint32_t)r->n) return infer_error(c, "sizes has %u entries, expected %d", n, r->n);
    int64_t in[MAX_RANK] = {0}, size[MAX_RANK] = {0};
    bool fixed = true;
    for (int i = 0; i < r->n; i++)
        fixed &= dim_is_const(c->d, out[r->axis[i]], &in[r->axis[i]]) && dim_is_const(c->d, sizes[i], &size[i]);
    if (strcmp(node_str(c->n, "keep_aspect_ratio_policy"), "stretch") && !fixed)
        return infer_error(c, "keep_aspect_ratio_policy needs sizes that are known when compiling");
    if (node_int(c->n, "antialias") && !fixed)
        return infer_error(c, "antialias needs sizes that are known when compiling");
    float common = fixed ? common_scale(c->n, r, in, size) : 0;
    for (int i = 0; i < r->n; i++) {
        int a = r->axis[i];
        out[a] = common > 0 ? DIM(c, (int64_t)floorf(common * (float)in[a] + 0.5F)) : sizes[i];
    }
    return out_shape(c, 0, in_rank(c, 0), out);
}

static bool infer_resize(Infer *c)
{
    const Type *x = in_type(c, 0);
    if (x->rank < 0) return out_unknown(c, 0);
    if (find_mode(node_str(c->n, "mode")) == MODES)
        return infer_error(c, "mode '%s' is unknown", node_str(c->n, "mode"));
    const char *how = node_str(c->n, "coordinate_transformation_mode"), *nearest = node_str(c->n, "nearest_mode");
    if (!find_rule(coordinates, COUNT_OF(coordinates), how))
        return infer_error(c, "coordinate_transformation_mode '%s' is unknown", how);
    if (!find_rule(nearest_rules, COUNT_OF(nearest_rules), nearest))
        return infer_error(c, "nearest_mode '%s' is unknown", nearest);
    if (!strcmp(how, "tf_crop_and_resize") && !in_has(c, 1)) return infer_error(c, "tf_crop_and_resize needs roi");
    Resize r = {0};
    if (!read_axes(c->n, x->rank, &r)) return infer_error(c, "axes do not fit rank %d", x->rank);
    Dim out[MAX_RANK], corners = DIM(c, 2 * (int64_t)r.n);
    memcpy(out, x->dim, sizeof out);
    if (!strcmp(how, "tf_crop_and_resize") && !rule_has_shape(c, 1, 1, &corners, "roi")) return false;
    if (in_has(c, 3) && in_type(c, 3)->rank == 1) return infer_sized(c, &r, out);
    if (in_has(c, 2) && has_elements(in_type(c, 2), c->d)) return infer_scaled(c, &r, out);
    return in_type(c, 2)->rank < 0 && in_type(c, 3)->rank < 0 && (in_has(c, 2) || in_has(c, 3))
               ? out_unknown(c, 0)
               : infer_error(c, "neither scales nor sizes are given");
}

/* ---- lowering ---- */
typedef struct Sample {  /* one resized dimension */
    int dim, taps, axis; /* axis: of the taps, where they are reduced over */
    Dim in, out;
    float scale;       /* known when compiling, or 0 */
    Expr s, a, b;      /* the scale; the region of interest */
    int first, weight; /* tables [out] i64, [out] or [out, taps] f32 */
    int64_t divide;    /* not 0: source = index / divide */
} Sample;

typedef struct Sampler {
    Mode mode;
    bool antialias, outside, crop, scaled; /* scaled: by scales, not sizes */
    const char *coordinate, *nearest;
    int n;
    Sample at[MAX_RANK];
} Sampler;

static Expr f32(Lower *l, Expr e) { return expr_cast(l->k, DT_f32, e); }

static Expr source(Lower *l, const Sampler *r, const Sample *s, int axis)
{
    Kernel *k = l->k;
    Expr in = f32(l, expr_dim(k, s->in)), out = f32(l, expr_dim(k, s->out)),
         length = r->scaled ? expr_mul(k, s->s, in) : out;
    Expr arg[] = {f32(l, expr_axis(k, axis)), s->s, in, out, length, s->a, s->b};
    return low_formula(l, r->coordinate, (const char *const[]){"x", "s", "in", "out", "length", "a", "b"}, arg, 7);
}

static Expr floor_of(Lower *l, Expr e) { return expr_prim(l->k, P_floor, e, 0, 0); }
static Expr clamp_index(Lower *l, Expr i, Dim size)
{
    Kernel *k = l->k;
    Expr last = expr_dim(k, dim_sub(k->dim, size, dim_const(k->dim, 1)));
    return expr_prim(k, P_max, expr_prim(k, P_min, i, last, 0), expr_index(k, 0), 0);
}

static int table(Lower *l, DType t, Expr rows, int columns)
{
    return low_temp(l, t, columns ? 2 : 1, (Expr[]){rows, expr_index(l->k, columns)});
}

static void nearest_table(Lower *l, const Sampler *r, Sample *s)
{
    Kernel *k = l->k;
    Expr out = expr_dim(k, s->out);
    int axis = low_axis(l, out);
    Expr x = source(l, r, s, axis), at = low_formula(l, r->nearest, (const char *const[]){"x"}, &x, 1);
    s->first = table(l, DT_i64, out, 0);
    low_stage(l, s->first, &axis, 1, clamp_index(l, expr_cast(k, DT_i64, at), s->in));
}

/* The place before x and what the one behind it weighs; at the end both are the last one, half each. */
static void linear_tables(Lower *l, const Sampler *r, Sample *s)
{
    Kernel *k = l->k;
    Expr out = expr_dim(k, s->out), zero = low_const(l, DT_f32, 0), half = low_const(l, DT_f32, 0.5), x[2], down[2];
    Expr last = f32(l, expr_dim(k, dim_sub(k->dim, s->in, dim_const(k->dim, 1))));
    int axis[2];
    for (int i = 0; i < 2; i++) {
        axis[i] = low_axis(l, out);
        x[i] = expr_prim(k, P_max, expr_prim(k, P_min, source(l, r, s, axis[i]), last, 0), zero, 0);
        down[i] = floor_of(l, x[i]);
    }
    s->first = table(l, DT_i64, out, 0), s->weight = table(l, DT_f32, out, 0);
    low_stage(l, s->first, &axis[0], 1, clamp_index(l, expr_cast(k, DT_i64, down[0]), s->in));
    low_stage(l, s->weight, &axis[1], 1, low_select(l, expr_lt(k, down[1], last), expr_sub(k, x[1], down[1]), half));
}

/* Weights of all taps around floor(x), normalized where taps outside do not count or the kernel is stretched. */
static void tap_tables(Lower *l, const Sampler *r, Sample *s)
{
    Kernel *k = l->k;
    float shrink = r->antialias && s->scale < 1 ? s->scale : 1;
    int start = (int)floorf((r->mode == MODE_LINEAR ? -1.0F : -2.0F) / shrink) + 1;
    s->taps = 2 - 2 * start;
    Expr out = expr_dim(k, s->out), at[MAX_RANK] = {0};
    int axis[2] = {low_axis(l, out), low_axis(l, expr_index(k, s->taps))};
    Expr x = source(l, r, s, axis[0]), base = floor_of(l, x), tap = expr_axis(k, axis[1]);
    Expr place = expr_add(k, expr_cast(k, DT_i64, base), expr_add(k, tap, expr_index(k, start)));
    Expr u = expr_prim(k, P_abs, expr_sub(k, x, f32(l, place)), 0, 0);
    u = expr_mul(k, u, low_const(l, DT_f32, shrink));
    Expr arg[] = {u, low_const(l, DT_f32, node_float(l->n, "cubic_coeff_a"))};
    Expr w = low_formula(l, kernels[r->mode], (const char *const[]){"u", "A"}, arg, 2);
    if (r->outside) {
        Expr in = expr_and(k, expr_le(k, expr_index(k, 0), place), expr_lt(k, place, expr_dim(k, s->in)));
        w = low_select(l, in, w, low_const(l, DT_f32, 0));
    }
    s->first = table(l, DT_i64, out, 0), s->weight = table(l, DT_f32, out, s->taps);
    low_stage(l, s->weight, axis, 2, w);
    low_index(l, axis, 2, at);
    if (r->outside || r->antialias) {
        int sum = table(l, DT_f32, out, 0), raw = s->weight;
        low_reduce(l, sum, axis, 1, axis + 1, 1, P_add, expr_load(k, raw, at), expr_it(k, DT_f32));
        s->weight = table(l, DT_f32, out, s->taps);
        Expr total = expr_load(k, sum, (Expr[MAX_RANK]){at[0]});
        low_stage(l, s->weight, axis, 2, expr_div(k, expr_load(k, raw, at), total));
    }
    int row = low_axis(l, out);
    Expr first = expr_cast(k, DT_i64, floor_of(l, source(l, r, s, row)));
    low_stage(l, s->first, &row, 1, expr_add(k, first, expr_index(k, start)));
}

static Expr roi_entry(Lower *l, int64_t i)
{
    const Tensor *t = graph_val(l->g, node_in(l->g, l->n, 1))->konst;
    if (t) return low_const(l, DT_f32, dtype_load(t->type, t->data, i));
    return f32(l, expr_load(l->k, low_in(l, 1), (Expr[MAX_RANK]){expr_index(l->k, i)}));
}

/* Nearest neighbours of an enlargement by a whole number are runs of equal length under these rules. */
static int64_t whole_factor(const Lower *l, const Sample *s)
{
    static const char *const centred[] = {"half_pixel", "pytorch_half_pixel"};
    int64_t times;
    Dim q;
    if (dim_is(l->k->dim, s->in, 0) || !dim_exact(l->k->dim, s->out, s->in, &q) || !dim_is_const(l->k->dim, q, &times))
        return 0;
    if (times < 1 || (s->scale != 0 && s->scale != (float)times)) return 0;
    const char *how = node_str(l->n, "coordinate_transformation_mode"), *round = node_str(l->n, "nearest_mode");
    for (size_t i = 0; i < COUNT_OF(centred); i++)
        if (!strcmp(how, centred[i]) && !strncmp(round, "round_", 6)) return times;
    return !strcmp(how, "asymmetric") && !strcmp(round, "floor") ? times : 0;
}

static void sampler_dims(Lower *l, Sampler *r, const Resize *z)
{
    Kernel *k = l->k;
    const Type *x = low_in_type(l, 0), *y = low_out_type(l, 0);
    const Tensor *scales = z->scaled ? graph_val(l->g, node_in(l->g, l->n, 2))->konst : NULL;
    int64_t in[MAX_RANK] = {0}, size[MAX_RANK] = {0};
    bool fixed = !scales;
    const Tensor *wanted = fixed ? graph_val(l->g, node_in(l->g, l->n, 3))->konst : NULL;
    for (int i = 0; i < z->n && wanted; i++) {
        size[i] = dtype_load_int(wanted->type, wanted->data, i);
        fixed &= dim_is_const(k->dim, x->dim[z->axis[i]], &in[z->axis[i]]);
    }
    float common = wanted && fixed ? common_scale(l->n, z, in, size) : 0;
    for (int i = 0; i < z->n; i++) {
        int d = z->axis[i];
        Sample s = {.dim = d, .in = x->dim[d], .out = y->dim[d], .scale = common};
        if (scales) s.scale = (float)dtype_load(scales->type, scales->data, i);
        else if (common == 0 && wanted && fixed) s.scale = (float)size[i] / (float)in[d];
        if (!r->crop && dim_same(dim_canon(k->dim, s.in), dim_canon(k->dim, s.out)) && (s.scale == 1 || s.scale == 0))
            continue;
        s.s = s.scale != 0 ? low_const(l, DT_f32, s.scale)
                           : expr_div(k, f32(l, expr_dim(k, s.out)), f32(l, expr_dim(k, s.in)));
        s.a = r->crop ? roi_entry(l, i) : low_const(l, DT_f32, 0);
        s.b = r->crop ? roi_entry(l, i + z->n) : low_const(l, DT_f32, 1);
        r->at[r->n++] = s;
    }
}

/* Linear: the corners around a place, the last dimension's two first, each times its weights multiplied from that dimension on, summed in this order: as
 * ONNX Runtime does, since halves and quarters of codes make many ties. */
static Expr linear_taps(Lower *l, const Sampler *r, int x, const int *axis, Expr *at)
{
    Kernel *k = l->k;
    DType acc = dtype_compute(low_type(l, x)) == DT_f64 ? DT_f64 : DT_f32;
    Expr one = low_const(l, acc, 1), sum = 0;
    for (unsigned corner = 0; corner < 1u << r->n; corner++) {
        Expr weight = 0;
        for (int i = r->n; i-- > 0;) {
            const Sample *s = &r->at[i];
            Expr place[MAX_RANK] = {expr_axis(k, axis[s->dim])}, first = expr_load(k, s->first, place);
            Expr w = expr_cast(k, acc, expr_load(k, s->weight, place));
            bool second = corner >> (r->n - 1 - i) & 1;
            at[s->dim] = clamp_index(l, second ? expr_add(k, first, expr_index(k, 1)) : first, s->in);
            w = second ? w : expr_sub(k, one, w), weight = weight ? expr_mul(k, weight, w) : w;
        }
        Expr value = expr_cast(k, acc, expr_load(k, x, at));
        value = weight ? expr_mul(k, weight, value) : value, sum = sum ? expr_add(k, sum, value) : value;
    }
    return sum;
}

static Expr outside_crop(Lower *l, const Sampler *r, const int *axis, Expr value, DType t)
{
    Kernel *k = l->k;
    Expr in = 0, zero = low_const(l, DT_f32, 0);
    for (int i = 0; i < r->n; i++) {
        Expr x = source(l, r, &r->at[i], axis[r->at[i].dim]);
        Expr last = f32(l, expr_dim(k, dim_sub(k->dim, r->at[i].in, dim_const(k->dim, 1))));
        in = expr_and(k, in, expr_and(k, expr_le(k, zero, x), expr_le(k, x, last)));
    }
    return in ? low_select(l, in, value, low_const(l, t, node_float(l->n, "extrapolation_value"))) : value;
}

static void sample_taps(Lower *l, Sampler *r, int x, int y, const int *axis, Expr *at)
{
    Kernel *k = l->k;
    int reduce[MAX_RANK];
    Expr weight = 0;
    DType acc = dtype_compute(low_type(l, y)) == DT_f64 ? DT_f64 : DT_f32;
    for (int i = 0; i < r->n; i++) {
        Sample *s = &r->at[i];
        s->axis = reduce[i] = low_axis(l, expr_index(k, s->taps));
        Expr place[MAX_RANK] = {expr_axis(k, axis[s->dim]), expr_axis(k, s->axis)};
        Expr w = expr_load(k, s->weight, place);
        place[1] = 0;
        at[s->dim] = clamp_index(l, expr_add(k, expr_load(k, s->first, place), expr_axis(k, s->axis)), s->in);
        weight = weight ? expr_mul(k, weight, w) : w;
    }
    Expr value = expr_mul(k, expr_cast(k, acc, expr_load(k, x, at)), expr_cast(k, acc, weight)), it = expr_it(k, acc);
    if (r->crop) it = outside_crop(l, r, axis, it, acc);
    low_reduce(l, y, axis, low_rank(l, y), reduce, r->n, P_add, value, low_store_as(l, y, it));
}

static void sample_image(Lower *l, Sampler *r, int x, int y)
{
    Kernel *k = l->k;
    int axis[MAX_RANK], rank = low_rank(l, y);
    Expr at[MAX_RANK] = {0};
    low_axes(l, y, axis), low_index(l, axis, rank, at);
    if (r->n && r->mode != MODE_NEAREST && (r->mode == MODE_CUBIC || r->antialias)) {
        sample_taps(l, r, x, y, axis, at);
        return;
    }
    Expr value;
    if (r->mode == MODE_LINEAR) value = linear_taps(l, r, x, axis, at);
    else {
        for (int i = 0; i < r->n; i++) {
            const Sample *s = &r->at[i];
            Expr o = expr_axis(k, axis[s->dim]);
            at[s->dim] = s->divide ? expr_div(k, o, expr_index(k, s->divide))
                                   : clamp_index(l, expr_load(k, s->first, (Expr[MAX_RANK]){o}), s->in);
        }
        value = expr_load(k, x, at);
    }
    if (r->crop) value = outside_crop(l, r, axis, value, (DType)expr_node(k, value)->type);
    low_stage(l, y, axis, rank, low_store_as(l, y, value));
}

static void lower_resize(Lower *l)
{
    int x = low_in(l, 0), y = low_out(l, 0);
    Resize z = {.scaled = !low_in(l, 3)};
    bool good = read_axes(l->n, low_rank(l, x), &z);
    assert(good && "infer accepted this node");
    (void)good;
    const char *how = node_str(l->n, "coordinate_transformation_mode");
    Sampler r = {.mode = find_mode(node_str(l->n, "mode")), .outside = node_int(l->n, "exclude_outside")};
    r.antialias = node_int(l->n, "antialias") && r.mode != MODE_NEAREST;
    r.scaled = z.scaled, r.crop = !strcmp(how, "tf_crop_and_resize");
    r.coordinate = find_rule(coordinates, COUNT_OF(coordinates), how);
    r.nearest = find_rule(nearest_rules, COUNT_OF(nearest_rules), node_str(l->n, "nearest_mode"));
    low_channels_last(l, x), low_channels_last(l, y);
    sampler_dims(l, &r, &z);
    for (int i = 0; i < r.n; i++) {
        Sample *s = &r.at[i];
        if (r.mode == MODE_NEAREST) s->divide = whole_factor(l, s);
        if (s->divide) continue;
        if (r.mode == MODE_NEAREST) nearest_table(l, &r, s);
        else if (r.mode == MODE_LINEAR && !r.antialias) linear_tables(l, &r, s);
        else tap_tables(l, &r, s);
    }
    sample_image(l, &r, x, y);
}

/* ---- GridSample ---- */
static const Rule grid_pads[] = {
    {"zeros", "x"},
    {"border", "max(min(x, size - 1), 0)"},
    {"reflection",
     "r = max(hi - lo, 1e-30); d = max(max(lo - x, x - hi), 0); n = floor(d / r); q = d - n * r; odd = n - 2 * floor(n "
     "/ 2) > 0.5;"
     "from = select(x < lo, select(odd, hi - q, lo + q), select(odd, lo + q, hi - q)); select(d > 0, from, x)"},
};
/* The taps of a cubic sample stop at the border, it does not (as in PyTorch and ONNX Runtime); from two pixels out on all four do. */
static const char far_border[] = "max(min(x, size + 2), -3)";
static const struct {
    const char *name;
    Mode mode;
} grid_modes[] = {
    {"linear", MODE_LINEAR}, {"bilinear", MODE_LINEAR}, {"nearest", MODE_NEAREST},
    {"cubic", MODE_CUBIC},   {"bicubic", MODE_CUBIC},
};

static Mode grid_mode(const Node *n)
{
    for (size_t i = 0; i < COUNT_OF(grid_modes); i++)
        if (!strcmp(grid_modes[i].name, node_str(n, "mode"))) return grid_modes[i].mode;
    return MODES;
}

static bool infer_grid_sample(Infer *c)
{
    const Type *x = in_type(c, 0), *g = in_type(c, 1);
    if (x->rank < 0 || g->rank < 0) return out_unknown(c, 0);
    if (x->rank < 3 || g->rank != x->rank) return infer_error(c, "X and grid have rank %d and %d", x->rank, g->rank);
    if (grid_mode(c->n) == MODES) return infer_error(c, "mode '%s' is unknown", node_str(c->n, "mode"));
    if (grid_mode(c->n) == MODE_CUBIC && x->rank != 4)
        return infer_error(c, "cubic sampling needs rank 4, X has %d", x->rank);
    const char *pad = node_str(c->n, "padding_mode");
    if (!find_rule(grid_pads, COUNT_OF(grid_pads), pad)) return infer_error(c, "padding_mode '%s' is unknown", pad);
    if (!require_eq(c, g->dim[g->rank - 1], DIM(c, x->rank - 2), "coordinates of the grid") ||
        !require_eq(c, g->dim[0], x->dim[0], "batches of X and grid"))
        return false;
    Dim out[MAX_RANK] = {x->dim[0], x->dim[1]};
    for (int i = 2; i < x->rank; i++) out[i] = g->dim[i - 1];
    return out_shape(c, 0, x->rank, out);
}

typedef struct Grid {
    Mode mode;
    const char *pad;
    int x, spatial;
    bool zeros;
    Expr lo[MAX_RANK], hi[MAX_RANK], size[MAX_RANK], at[MAX_RANK], coord[MAX_RANK];
    DType acc;
} Grid;

static Expr padded(Lower *l, const Grid *g, const char *pad, int i, Expr x)
{
    Expr arg[] = {x, g->lo[i], g->hi[i], g->size[i]};
    return low_formula(l, pad, (const char *const[]){"x", "lo", "hi", "size"}, arg, 4);
}

/* The sum over the taps of dimension i and those after it; inside: 0, or that the taps chosen so far exist. */
static Expr grid_taps(Lower *l, Grid *g, int i, Expr inside)
{
    Kernel *k = l->k;
    if (i == g->spatial) {
        Expr load = expr_load(k, g->x, g->at);
        return expr_cast(k, g->acc, inside ? expr_guard(k, inside, load, low_const(l, low_type(l, g->x), 0)) : load);
    }
    static const int first[MODES] = {0, 0, -1}, taps[MODES] = {1, 2, 4};
    Expr x = g->coord[i], base = g->mode == MODE_NEAREST ? x : floor_of(l, x), sum = 0;
    Dim size = low_in_type(l, 0)->dim[i + 2];
    for (int t = 0; t < taps[g->mode]; t++) {
        Expr place = expr_add(k, base, low_const(l, DT_f32, first[g->mode] + t));
        Expr arg[] = {expr_prim(k, P_abs, expr_sub(k, x, place), 0, 0), low_const(l, DT_f32, -0.75)};
        Expr whole = g->zeros ? place : expr_prim(k, P_rint, padded(l, g, g->pad, i, place), 0, 0), ok = inside;
        /* Far coordinates are clamped before they become integers. */
        Expr bound = expr_prim(k, P_max, expr_prim(k, P_min, whole, g->size[i], 0), low_const(l, DT_f32, -1), 0);
        Expr index = expr_cast(k, DT_i64, bound);
        if (g->zeros)
            ok =
                expr_and(k, ok, expr_and(k, expr_le(k, expr_index(k, 0), index), expr_lt(k, index, expr_dim(k, size))));
        g->at[i + 2] = g->zeros ? index : clamp_index(l, index, size);
        Expr value = grid_taps(l, g, i + 1, ok);
        if (kernels[g->mode])
            value = expr_mul(
                k, value,
                expr_cast(k, g->acc, low_formula(l, kernels[g->mode], (const char *const[]){"u", "A"}, arg, 2)));
        sum = sum ? expr_add(k, sum, value) : value;
    }
    return sum;
}

static void lower_grid_sample(Lower *l)
{
    Kernel *k = l->k;
    Grid g = {.mode = grid_mode(l->n), .x = low_in(l, 0), .acc = dtype_compute(low_type(l, low_in(l, 0)))};
    int y = low_out(l, 0), rank = low_rank(l, y), grid = low_in(l, 1), axis[MAX_RANK];
    const char *pad = node_str(l->n, "padding_mode");
    bool corners = node_int(l->n, "align_corners");
    g.pad = find_rule(grid_pads, COUNT_OF(grid_pads), pad), g.zeros = !strcmp(pad, "zeros"), g.spatial = rank - 2;
    const char *of_samples = g.mode == MODE_CUBIC && !strcmp(pad, "border") ? far_border : g.pad;
    /* The coordinates in pixels, once for all channels. The grid says the last dimension first. */
    Expr dim[MAX_RANK], at[MAX_RANK] = {0}, half = low_const(l, DT_f32, 0.5), one = low_const(l, DT_f32, 1);
    for (int i = 0; i < g.spatial; i++) {
        g.size[i] = f32(l, low_dim(l, g.x, i + 2));
        g.lo[i] = corners ? low_const(l, DT_f32, 0) : low_const(l, DT_f32, -0.5);
        g.hi[i] = expr_sub(k, g.size[i], corners ? one : half);
    }
    for (int i = 0; i < rank - 1; i++) dim[i] = low_dim(l, grid, i);
    int coord[MAX_RANK];
    for (int i = 0; i < g.spatial; i++) {
        coord[i] = low_temp(l, DT_f32, rank - 1, dim);
        for (int a = 0; a < rank - 1; a++) at[a] = expr_axis(k, axis[a] = low_axis(l, dim[a]));
        at[rank - 1] = expr_index(k, g.spatial - 1 - i);
        Expr v = expr_add(k, f32(l, expr_load(k, grid, at)), one), x;
        if (corners) x = expr_mul(k, expr_mul(k, v, half), expr_sub(k, g.size[i], one));
        else x = expr_mul(k, expr_sub(k, expr_mul(k, v, g.size[i]), one), half);
        if (g.mode == MODE_NEAREST) x = expr_prim(k, P_rint, x, 0, 0);
        low_stage(l, coord[i], axis, rank - 1, padded(l, &g, of_samples, i, x));
    }
    low_axes(l, y, axis), low_index(l, axis, rank, g.at);
    Expr place[MAX_RANK] = {g.at[0]};
    for (int i = 2; i < rank; i++) place[i - 1] = g.at[i];
    for (int i = 0; i < g.spatial; i++) g.coord[i] = expr_load(k, coord[i], place);
    low_stage(l, y, axis, rank, low_store_as(l, y, grid_taps(l, &g, 0, 0)));
}

/* ---- AffineGrid: theta [N, d, d+1], size [N, C, spatial...] -> [N, spatial..., d] ---- */
static bool infer_affine_grid(Infer *c)
{
    uint32_t n;
    const Dim *size = rule_sizes(c, 1, &n);
    if (!size) return out_unknown(c, 0);
    if (n != 4 && n != 5) return infer_error(c, "size has %u entries, expected 4 or 5", n);
    Dim out[MAX_RANK] = {size[0]};
    for (uint32_t i = 2; i < n; i++) out[i - 1] = size[i];
    out[n - 1] = DIM(c, n - 2);
    Dim matrix[] = {size[0], DIM(c, n - 2), DIM(c, n - 1)};
    return rule_has_shape(c, 0, 3, matrix, "theta and size") && out_shape(c, 0, (int)n, out);
}

static void lower_affine_grid(Lower *l)
{
    Kernel *k = l->k;
    int theta = low_in(l, 0), y = low_out(l, 0), rank = low_rank(l, y), axis[MAX_RANK], spatial = rank - 2;
    bool corners = node_int(l->n, "align_corners");
    DType acc = dtype_compute(low_type(l, y));
    low_axes(l, y, axis);
    Expr at[MAX_RANK] = {expr_axis(k, axis[0]), expr_axis(k, axis[rank - 1]), expr_index(k, spatial)};
    Expr sum = expr_cast(k, acc, expr_load(k, theta, at));
    for (int j = 0; j < spatial; j++) {
        int d = spatial - 1 - j; /* x first */
        Expr arg[] = {expr_cast(k, acc, expr_axis(k, axis[d + 1])), expr_cast(k, acc, low_dim(l, y, d + 1))};
        Expr base = low_formula(l, corners ? "2 * i / max(n - 1, 1) - 1" : "(2 * i + 1) / n - 1",
                                (const char *const[]){"i", "n"}, arg, 2);
        at[2] = expr_index(k, j);
        sum = expr_add(k, sum, expr_mul(k, expr_cast(k, acc, expr_load(k, theta, at)), base));
    }
    low_stage(l, y, axis, rank, low_store_as(l, y, sum));
}

/* Nearest elements are moved; the crop may reach beyond the image, where a number stands. */
static bool is_nearest(const Node *n)
{
    return find_mode(node_str(n, "mode")) == MODE_NEAREST &&
           strcmp(node_str(n, "coordinate_transformation_mode"), "tf_crop_and_resize") != 0;
}

const OpDef ops_resize[] = {
    OP(Resize, .since = 11, .sig = "X:T roi:U? scales:f32? sizes:i64? -> Y:T", .T = "float int uint bool", .U = "float",
       .attrs = "antialias:int=0 axes:ints coordinate_transformation_mode:string=half_pixel cubic_coeff_a:float=-0.75 "
                "exclude_outside:int=0 extrapolation_value:float=0 keep_aspect_ratio_policy:string=stretch "
                "mode:string=nearest "
                "nearest_mode:string=round_prefer_floor",
       .infer = infer_resize, .lower = lower_resize, .quant = QUANT_PASS, .moves = is_nearest),
    OP(GridSample, .since = 16, .sig = "X:T grid:U -> Y:T", .T = "float", .U = "float",
       .attrs = "align_corners:int=0 mode:string=linear padding_mode:string=zeros", .infer = infer_grid_sample,
       .lower = lower_grid_sample),
    OP(AffineGrid, .since = 20, .sig = "theta:T size:i64 -> grid:T", .T = "float", .attrs = "align_corners:int=0",
       .infer = infer_affine_grid, .lower = lower_affine_grid),
    {0},
};
