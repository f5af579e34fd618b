/* region.c - what is read from an image at places that data says: RoiAlign, MaxRoiPool, DeformConv.
 *
 * RoiAlign cuts a region into bins and takes the mean (or the maximum) of samples between pixels in each. How many samples a bin has may
 * depend on its region: octet.RoiGrid finds the most of any region, which is read when the model runs, as sizes are, and bounds the loops
 * of octet.RoiSample; each bin stops at its own count. A sample further out than a pixel is zero, so of a bin that is larger than the
 * image only the samples around it are visited: they stand at least half a pixel apart.
 * MaxRoiPool takes the largest pixel of each bin: octet.MaxRoiGrid and octet.MaxRoiPixels do the same with pixels.
 * DeformConv is a convolution whose taps are moved by data: octet.DeformColumns reads the taps, as columns, and a Conv multiplies them.
 * Source: ONNX, clauses of RoiAlign, MaxRoiPool and DeformConv; samples at the edges as its reference does them. */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include "ir/ops/window.h"
#include <assert.h>
#include <math.h>
#include <string.h>

#define NAMES(...)                                                                                                     \
    (const char *const[]) { __VA_ARGS__ }
#define ARGS(...) (const Expr[]){__VA_ARGS__}, (int)(sizeof((const Expr[]){__VA_ARGS__}) / sizeof(Expr))

static Expr inside(Lower *l, Expr i, Expr size)
{
    return expr_and(l->k, expr_le(l->k, expr_index(l->k, 0), i), expr_lt(l->k, i, size));
}

static bool is_positive(Infer *c, const char *attr)
{
    int64_t v = node_int(c->n, attr);
    return v >= 1 || infer_error(c, "%s is %lld, expected a positive number", attr, (long long)v);
}

/* ---- RoiAlign: X [N, C, H, W], rois [R, 4] (x, y, x, y), batch_indices [R] -> Y [R, C, output_height, output_width] ---- */
static bool one_of(Infer *c, const char *attr, const char *a, const char *b)
{
    const char *v = node_str(c->n, attr);
    return !strcmp(v, a) || !strcmp(v, b) || infer_error(c, "%s '%s' is unknown", attr, v);
}

static bool is_roi_grid(Infer *c, uint32_t rois)
{
    return one_of(c, "coordinate_transformation_mode", "half_pixel", "output_half_pixel") &&
           is_positive(c, "output_height") && is_positive(c, "output_width") &&
           require_eq(c, in_dim(c, rois, 1), DIM(c, 4), "a region is 4 numbers");
}

static bool is_image(Infer *c, int rank)
{
    if (in_rank(c, 0) != rank) return infer_error(c, "X has rank %d, expected %d", in_rank(c, 0), rank);
    bool filled = true;
    for (int i = 2; i < rank; i++)
        filled = filled && require_ge(c, in_dim(c, 0, i), DIM(c, 1), "an image is not empty");
    return filled;
}

static bool infer_roi_align(Infer *c)
{
    if (in_rank(c, 1) != 2 || in_rank(c, 2) != 1)
        return infer_error(c, "rois and batch_indices have rank %d and %d, expected 2 and 1", in_rank(c, 1),
                           in_rank(c, 2));
    if (node_int(c->n, "sampling_ratio") < 0)
        return infer_error(c, "sampling_ratio is %lld, expected 0 or more",
                           (long long)node_int(c->n, "sampling_ratio"));
    Dim out[] = {in_dim(c, 1, 0), in_rank(c, 0) == 4 ? in_dim(c, 0, 1) : DIM(c, 0),
                 DIM(c, node_int(c->n, "output_height")), DIM(c, node_int(c->n, "output_width"))};
    return is_image(c, 4) && one_of(c, "mode", "avg", "max") && is_roi_grid(c, 1) &&
           require_eq(c, in_dim(c, 1, 0), in_dim(c, 2, 0), "a batch index for every region") && out_shape(c, 0, 4, out);
}

static bool expand_roi_align(Expand *x)
{
    Val in[] = {x->in[0], x->in[1], x->in[2], {0}};
    if (node_int(x->n, "sampling_ratio") == 0) in[3] = ex_op_like(x, "octet", "RoiGrid", &x->in[1], 1);
    x->out[0] = ex_op_like(x, "octet", "RoiSample", in, 4);
    return true;
}

/* Along one dimension of the image (0: height, 1: width): where a region starts, how long a bin is, how many samples it has. */
typedef struct Side {
    Expr start, bin, grid;
} Side;

/* Of region r; side: an expression. grid: f32 or f64, a whole number. */
static Side side_of(Lower *l, int rois, Expr r, Expr side)
{
    Kernel *k = l->k;
    Expr rows = expr_index(k, node_int(l->n, "output_height")), columns = expr_index(k, node_int(l->n, "output_width"));
    Expr bins = low_select(l, expr_prim(k, P_eq, side, expr_index(k, 0), 0), rows, columns);
    DType t = dtype_compute(low_type(l, rois));
    bool half = !strcmp(node_str(l->n, "coordinate_transformation_mode"), "half_pixel");
    Expr near = expr_load(k, rois, (Expr[MAX_RANK]){r, expr_sub(k, expr_index(k, 1), side)}),
         far = expr_load(k, rois, (Expr[MAX_RANK]){r, expr_sub(k, expr_index(k, 3), side)});
    Expr scale = low_const(l, t, node_float(l->n, "spatial_scale")), offset = low_const(l, t, half ? 0.5 : 0);
    Side s = {.start = expr_sub(k, expr_mul(k, expr_cast(k, t, near), scale), offset)};
    Expr length = expr_sub(k, expr_sub(k, expr_mul(k, expr_cast(k, t, far), scale), offset), s.start);
    if (!half) length = expr_prim(k, P_max, length, low_const(l, t, 1), 0);
    s.bin = expr_div(k, length, expr_cast(k, t, bins));
    /* Counts that f32 has exactly; a region that is no number has no samples. */
    s.grid = low_formula(l, "n = ceil(b); select(n > 0, min(n, 0x1p22), 0)", NAMES("b"), ARGS(s.bin));
    int64_t ratio = node_int(l->n, "sampling_ratio");
    if (ratio) s.grid = low_const(l, t, (double)ratio);
    return s;
}

/* The most samples that a bin of any region has, down and across: i64 [2]. */
static bool infer_samples_most(Infer *c)
{
    if (in_rank(c, 0) != 2) return infer_error(c, "rois have rank %d, expected 2", in_rank(c, 0));
    return is_roi_grid(c, 0) && out_shape(c, 0, 1, (Dim[]){DIM(c, 2)});
}

static void lower_samples_most(Lower *l)
{
    Kernel *k = l->k;
    int out = low_out(l, 0), rois = low_in(l, 0), side = low_axis(l, expr_index(k, 2)),
        r = low_axis(l, low_dim(l, rois, 0));
    Side s = side_of(l, rois, expr_axis(k, r), expr_axis(k, side));
    Expr most = expr_prim(k, P_max, expr_it(k, DT_i64), expr_index(k, 0), 0);
    low_reduce(l, out, &side, 1, &r, 1, P_max, low_i64(l, s.grid), most);
}

static bool infer_roi_sample(Infer *c)
{
    uint32_t n;
    if (in_has(c, 3)) rule_sizes(c, 3, &n);
    else if (node_int(c->n, "sampling_ratio") == 0) return infer_error(c, "grid is missing");
    return infer_roi_align(c);
}

/* A sample along one dimension: is it one of the bin's (0: it is), is it in the image too or on its edge, between which pixels does it
 * stand, and how near to the second of them? */
typedef struct Place {
    Expr counts, exists, low, high, part;
} Place;

typedef struct Samples {
    int axis; /* of the samples of a bin */
    Expr size;
    Side of; /* this region */
    Place at;
} Samples;

/* What side_of says of both sides of all regions, [2, R]: made once for all channels and bins. which: of its members. */
static int side_table(Lower *l, int rois, int which)
{
    Kernel *k = l->k;
    Expr dim[] = {expr_index(k, 2), low_dim(l, rois, 0)};
    int axis[] = {low_axis(l, dim[0]), low_axis(l, dim[1])};
    Side s = side_of(l, rois, expr_axis(k, axis[1]), expr_axis(k, axis[0]));
    Expr value = which == 0 ? s.start : which == 1 ? s.bin : s.grid;
    int buf = low_temp(l, (DType)expr_node(k, value)->type, 2, dim);
    low_stage(l, buf, axis, 2, value);
    return buf;
}

/* How many samples of a bin are visited: those that the attribute says, or the most that any region has, of which so many can lie
 * around the image. */
static Expr visits(Lower *l, int side, Dim size)
{
    Dims *d = l->k->dim;
    int64_t ratio = node_int(l->n, "sampling_ratio");
    if (ratio) return expr_index(l->k, ratio);
    uint32_t n;
    const Dim *most = low_elems(l, 3, &n);
    Dim all = dim_add(d, dim_mul(d, size, dim_const(d, 2)), dim_const(d, 8));
    return expr_dim(l->k, most && n == 2 ? dim_min(d, dim_max(d, most[side], dim_const(d, 0)), all) : all);
}

static void place_sample(Lower *l, Samples *s, Expr bin)
{
    Kernel *k = l->k;
    DType t = (DType)expr_node(k, s->of.bin)->type;
    Expr p = expr_cast(k, t, bin), size = expr_cast(k, t, s->size), turn = expr_cast(k, t, expr_axis(k, s->axis));
    Place *at = &s->at;
    if (!node_int(l->n, "sampling_ratio")) { /* from the last one before the image on */
        Expr first = low_formula(l, "i = floor((-1 - s - p * b) * g / b - 0.5) - 1; max(min(i, g - 1), 0)",
                                 NAMES("s", "p", "b", "g"), ARGS(s->of.start, p, s->of.bin, s->of.grid));
        turn = expr_add(k, turn, first);
        at->counts = expr_prim(k, P_not, expr_le(k, s->of.grid, turn), 0, 0); /* no number is beside the image */
    }
    Expr x = low_formula(l, "s + p * b + (i + 0.5) * b / g", NAMES("s", "p", "b", "g", "i"),
                         ARGS(s->of.start, p, s->of.bin, s->of.grid, turn));
    Expr last = expr_sub(k, s->size, expr_index(k, 1)),
         near = low_formula(l, "max(min(x, n), 0)", NAMES("x", "n"), ARGS(x, size));
    at->exists = expr_and(k, at->counts, low_formula(l, "(x >= -1) && (x <= n)", NAMES("x", "n"), ARGS(x, size)));
    at->low = expr_prim(k, P_min, low_i64(l, near), last, 0);
    at->high = expr_prim(k, P_min, expr_add(k, at->low, expr_index(k, 1)), last, 0);
    Expr edge = expr_prim(k, P_eq, at->low, last, 0);
    at->part = low_select(l, edge, low_const(l, t, 0), expr_sub(k, near, expr_cast(k, t, at->low)));
}

/* The four pixels around a sample by their weights, together: added up, or the largest (as ONNX's maximum has it). */
static Expr four_pixels(Lower *l, int x, Expr batch, Expr channel, const Samples *s, Prim how)
{
    Kernel *k = l->k;
    DType acc = dtype_compute(low_type(l, x));
    Expr sum = 0, one = low_const(l, acc, 1);
    for (int i = 0; i < 4; i++) {
        Expr at[MAX_RANK] = {batch, channel}, weight = 0;
        for (int d = 0; d < 2; d++) {
            bool far = d ? i & 1 : i >> 1;
            at[d + 2] = far ? s[d].at.high : s[d].at.low;
            Expr w = far ? s[d].at.part : expr_sub(k, one, s[d].at.part);
            weight = weight ? expr_mul(k, weight, w) : w;
        }
        Expr value = expr_mul(k, weight, expr_cast(k, acc, expr_load(k, x, at)));
        sum = sum ? expr_prim(k, how, sum, value, 0) : value;
    }
    return sum;
}

static void lower_roi_sample(Lower *l)
{
    Kernel *k = l->k;
    int x = low_in(l, 0), rois = low_in(l, 1), y = low_out(l, 0), axis[4], reduce[2];
    bool mean = !strcmp(node_str(l->n, "mode"), "avg");
    DType acc = dtype_compute(low_type(l, x));
    low_channels_last(l, x), low_channels_last(l, y);
    low_axes(l, y, axis);
    Expr at[MAX_RANK] = {0}, counts = 0, exists = 0, zero = low_const(l, acc, 0);
    low_index(l, axis, 4, at);
    Samples s[2] = {0};
    int table[] = {side_table(l, rois, 0), side_table(l, rois, 1), side_table(l, rois, 2)};
    for (int d = 0; d < 2; d++) {
        s[d].size = low_dim(l, x, d + 2);
        Expr row[MAX_RANK] = {expr_index(k, d), at[0]};
        s[d].of = (Side){expr_load(k, table[0], row), expr_load(k, table[1], row), expr_load(k, table[2], row)};
        s[d].axis = reduce[d] = low_axis(l, visits(l, d, low_in_type(l, 0)->dim[d + 2]));
        place_sample(l, &s[d], at[d + 2]);
        counts = expr_and(k, counts, s[d].at.counts), exists = expr_and(k, exists, s[d].at.exists);
    }
    Expr batch = expr_load(k, low_in(l, 2), (Expr[MAX_RANK]){at[0]}), it = expr_it(k, acc);
    Expr beside = mean || !counts ? zero : low_select(l, counts, zero, reduce_identity(k, P_max, acc));
    Expr value = expr_guard(k, exists, four_pixels(l, x, batch, at[1], s, mean ? P_add : P_max), beside);
    Expr samples = expr_mul(k, s[0].of.grid, s[1].of.grid);
    if (mean) it = expr_div(k, it, expr_prim(k, P_max, samples, low_const(l, acc, 1), 0));
    else it = low_select(l, expr_lt(k, zero, samples), it, zero);
    low_reduce(l, y, axis, 4, reduce, 2, mean ? P_add : P_max, value, low_store_as(l, y, it))->check =
        inside(l, batch, low_dim(l, x, 0));
}

/* ---- MaxRoiPool: X [N, C, H, W], rois [R, 5] (batch, x, y, x, y) -> Y [R, C, pooled_shape...] ---- */
static bool is_pool(Infer *c, uint32_t rois)
{
    uint32_t n;
    const int64_t *pooled = node_ints(c->n, "pooled_shape", &n);
    if (n != 2 || pooled[0] < 1 || pooled[1] < 1) return infer_error(c, "pooled_shape must be two positive numbers");
    if (in_rank(c, rois) != 2) return infer_error(c, "rois have rank %d, expected 2", in_rank(c, rois));
    return require_eq(c, in_dim(c, rois, 1), DIM(c, 5), "a region is 5 numbers");
}

static bool infer_max_roi_pool(Infer *c)
{
    if (!is_image(c, 4) || !is_pool(c, 1)) return false;
    uint32_t n;
    const int64_t *pooled = node_ints(c->n, "pooled_shape", &n);
    return out_shape(c, 0, 4, (Dim[]){in_dim(c, 1, 0), in_dim(c, 0, 1), DIM(c, pooled[0]), DIM(c, pooled[1])});
}

static bool expand_max_roi_pool(Expand *x)
{
    Val grid = ex_op_like(x, "octet", "MaxRoiGrid", &x->in[1], 1);
    x->out[0] = ex_op_like(x, "octet", "MaxRoiPixels", (const Val[]){x->in[0], x->in[1], grid}, 3);
    return true;
}

/* Along one dimension: the first pixel of a region, and how many a bin has. A region has whole pixels, the last one included. */
typedef struct Span {
    Expr start, bin;
} Span;

static Span span_of(Lower *l, int rois, Expr r, Expr side)
{
    static const char rounded[] =
        "v = x * scale; t = trunc(v); t + select(abs(v - t) >= 0.5, sign(v), 0)"; /* half away from zero */
    Kernel *k = l->k;
    uint32_t n;
    const int64_t *pooled = node_ints(l->n, "pooled_shape", &n);
    DType t = dtype_compute(low_type(l, rois));
    Expr rows = low_const(l, t, (double)pooled[0]), columns = low_const(l, t, (double)pooled[1]);
    Expr bins = low_select(l, expr_prim(k, P_eq, side, expr_index(k, 0), 0), rows, columns);
    Expr end[2], scale = low_const(l, t, node_float(l->n, "spatial_scale"));
    for (int i = 0; i < 2; i++) {
        Expr x = low_load(l, rois, (Expr[MAX_RANK]){r, expr_sub(k, expr_index(k, i ? 4 : 2), side)});
        end[i] = low_formula(l, rounded, NAMES("x", "scale"), ARGS(x, scale));
    }
    return (Span){end[0], low_formula(l, "max(b - a + 1, 1) / n", NAMES("a", "b", "n"), ARGS(end[0], end[1], bins))};
}

/* The most pixels that a bin of any region touches, down and across: i64 [2]. */
static bool infer_pixels_most(Infer *c) { return is_pool(c, 0) && out_shape(c, 0, 1, (Dim[]){DIM(c, 2)}); }

static void lower_pixels_most(Lower *l)
{
    Kernel *k = l->k;
    int out = low_out(l, 0), rois = low_in(l, 0), side = low_axis(l, expr_index(k, 2)),
        r = low_axis(l, low_dim(l, rois, 0));
    Span s = span_of(l, rois, expr_axis(k, r), expr_axis(k, side));
    Expr pixels =
        low_formula(l, "min(ceil(h), 0x1p30) + 2", NAMES("h"), ARGS(s.bin)); /* both ends, and what is rounded */
    low_reduce(l, out, &side, 1, &r, 1, P_max, expr_sat(k, DT_i64, pixels),
               expr_prim(k, P_max, expr_it(k, DT_i64), expr_index(k, 0), 0));
}

static bool infer_max_roi_pixels(Infer *c)
{
    uint32_t n;
    rule_sizes(c, 2, &n);
    return infer_max_roi_pool(c);
}

/* Where the pixels of every bin start in the image, or end: a table [R, bins]. */
static int pixel_table(Lower *l, int rois, int side, Expr bins, Expr size, bool end)
{
    Kernel *k = l->k;
    Expr dim[] = {low_dim(l, rois, 0), bins};
    int axis[] = {low_axis(l, dim[0]), low_axis(l, dim[1])}, buf = low_temp(l, DT_i64, 2, dim);
    Span s = span_of(l, rois, expr_axis(k, axis[0]), expr_index(k, side));
    DType t = (DType)expr_node(k, s.bin)->type;
    Expr p = expr_cast(k, t, expr_axis(k, axis[1])), n = expr_cast(k, t, size);
    Expr at = low_formula(l, end ? "max(min(ceil((p + 1) * h) + a, n), 0)" : "max(min(floor(p * h) + a, n), 0)",
                          NAMES("a", "p", "h", "n"), ARGS(s.start, p, s.bin, n));
    low_stage(l, buf, axis, 2, expr_prim(k, P_min, expr_sat(k, DT_i64, at), size, 0));
    return buf;
}

static void lower_max_roi_pixels(Lower *l)
{
    Kernel *k = l->k;
    Dims *d = k->dim;
    int x = low_in(l, 0), rois = low_in(l, 1), y = low_out(l, 0), axis[4], reduce[2];
    DType t = dtype_compute(low_type(l, x));
    low_channels_last(l, x), low_channels_last(l, y);
    low_axes(l, y, axis);
    uint32_t n;
    const Dim *most = low_elems(l, 2, &n);
    Expr at[MAX_RANK] = {0}, exists = 0, filled = 0;
    low_index(l, axis, 4, at);
    Expr batch = expr_sat(k, DT_i64, low_load(l, rois, (Expr[MAX_RANK]){at[0], expr_index(k, 0)}));
    Expr from[MAX_RANK] = {batch, at[1]};
    for (int i = 0; i < 2; i++) {
        Expr size = low_dim(l, x, i + 2), bin[MAX_RANK] = {at[0], at[i + 2]};
        Expr lo = expr_load(k, pixel_table(l, rois, i, low_dim(l, y, i + 2), size, false), bin);
        Expr hi = expr_load(k, pixel_table(l, rois, i, low_dim(l, y, i + 2), size, true), bin);
        Dim all = low_in_type(l, 0)->dim[i + 2], zero = dim_const(d, 0);
        reduce[i] = low_axis(l, expr_dim(k, most && n == 2 ? dim_min(d, dim_max(d, most[i], zero), all) : all));
        Expr pixel = expr_add(k, lo, expr_axis(k, reduce[i]));
        /* Clamped: few pixels of many channels are read, so that lanes are better off on channels than on a run of pixels. */
        from[i + 2] = expr_prim(k, P_min, pixel, expr_sub(k, size, expr_index(k, 1)), 0);
        exists = expr_and(k, exists, expr_lt(k, pixel, hi)), filled = expr_and(k, filled, expr_lt(k, lo, hi));
    }
    Expr value = expr_guard(k, exists, low_load(l, x, from), reduce_identity(k, P_max, t));
    Expr it = low_select(l, filled, expr_it(k, t), low_const(l, t, 0));
    low_reduce(l, y, axis, 4, reduce, 2, P_max, value, low_store_as(l, y, it))->check =
        inside(l, batch, low_dim(l, x, 0));
}

/* ---- DeformConv: X [N, C, in...], W [M, C / group, taps...], offset [N, offset_group * taps * n, out...], B?, mask? ---- */
enum { DEFORM_OFFSET = 2, DEFORM_BIAS, DEFORM_MASK };

typedef struct Deform {
    Window w;
    Dim taps;
    int64_t groups, offsets, blocks; /* blocks: of channels that have one group and one set of offsets */
} Deform;

static int64_t least_multiple(int64_t a, int64_t b)
{
    int64_t x = a, y = b;
    while (y) {
        int64_t r = x % y;
        x = y, y = r;
    }
    return a / x * b;
}

static bool deform_read(Deform *f, Dims *d, const Node *n, const Type *x, const Type *w, const char **why)
{
    enum { MOST = 1 << 20 };
    if (!window_read(&f->w, d, n, x, w->dim + 2, why)) return false;
    f->taps = dim_product(d, w->dim + 2, f->w.n);
    f->groups = node_int(n, "group"), f->offsets = node_int(n, "offset_group");
    *why = f->groups < 1 || f->groups > MOST     ? "group must be positive"
           : f->offsets < 1 || f->offsets > MOST ? "offset_group must be positive"
                                                 : NULL;
    if (!*why && f->w.n > MAX_RANK - 4) *why = "more than 4 spatial dimensions are not supported";
    if (*why) return false;
    f->blocks = least_multiple(f->groups, f->offsets);
    return true;
}

/* offset or mask: `each` numbers for every set of offsets and tap, at every place of the result. */
static bool deform_input(Infer *c, uint32_t i, const Deform *f, int64_t each, const char *name)
{
    if (in_rank(c, i) != f->w.n + 2)
        return infer_error(c, "%s has rank %d, expected %d", name, in_rank(c, i), f->w.n + 2);
    Dim numbers = dim_mul(c->d, f->taps, DIM(c, f->offsets * each));
    bool fits = require_eq(c, in_dim(c, i, 0), in_dim(c, 0, 0), "entries of the batch") &&
                require_eq(c, in_dim(c, i, 1), numbers, "numbers for every tap of a set of offsets");
    for (int d = 0; d < f->w.n; d++)
        fits = fits && require_eq(c, in_dim(c, i, d + 2), f->w.out[d], "places of the result");
    return fits;
}

/* Everything of X, W, offset and mask, which are these inputs. */
static bool deform_inputs(Infer *c, Deform *f, uint32_t mask)
{
    const Type *x = in_type(c, 0), *w = in_type(c, 1);
    const char *why = NULL;
    if (w->rank != x->rank) return infer_error(c, "W has rank %d, expected %d, the rank of X", w->rank, x->rank);
    if (!deform_read(f, c->d, c->n, x, w, &why)) return infer_error(c, "%s", why);
    Dim sets = DIM(c, f->offsets);
    if (!require_ge(c, x->dim[1], DIM(c, 1), "X has channels")) return false;
    for (int i = 0; i < f->w.n; i++)
        if (!require_ge(c, w->dim[i + 2], DIM(c, 1), "taps of W") ||
            !require_ge(c, f->w.out[i], DIM(c, 0), "the kernel fits into the padded input"))
            return false;
    return window_groups(c, x->dim[1], w->dim[1], f->groups) &&
           require_eq(c, dim_mul(c->d, dim_fdiv(c->d, x->dim[1], sets), sets), x->dim[1],
                      "channels of X and offset_group") &&
           deform_input(c, DEFORM_OFFSET, f, f->w.n, "offset") &&
           (!in_has(c, mask) || deform_input(c, mask, f, 1, "mask"));
}

static bool infer_deform_conv(Infer *c)
{
    Deform f;
    if (!deform_inputs(c, &f, DEFORM_MASK)) return false;
    Dim m = in_dim(c, 1, 0), groups = DIM(c, f.groups), out[MAX_RANK] = {in_dim(c, 0, 0), m};
    if (!require_eq(c, dim_mul(c->d, dim_fdiv(c->d, m, groups), groups), m, "output channels and group")) return false;
    if (in_has(c, DEFORM_BIAS) && !window_bias(c, DEFORM_BIAS, m)) return false;
    memcpy(out + 2, f.w.out, (size_t)f.w.n * sizeof *out);
    return out_shape(c, 0, f.w.n + 2, out);
}

/* Channels of the columns are (group, tap, channel of the group), so that neighbours are read side by side; W is put in that order. */
static bool expand_deform_conv(Expand *x)
{
    int rank = ex_type(x, x->in[0])->rank;
    int64_t order[MAX_RANK] = {0}, dim[MAX_RANK] = {0, -1};
    for (int i = 1; i < rank; i++) order[i] = i + 1 < rank ? i + 1 : 1;
    for (int i = 2; i < rank; i++) dim[i] = 1;
    Val columns = ex_op_like(x, "octet", "DeformColumns",
                             (const Val[]){x->in[0], x->in[1], x->in[DEFORM_OFFSET], ex_in(x, DEFORM_MASK)}, 4);
    Val w = ex_reshape(x, ex_transpose(x, x->in[1], order, rank), dim, rank);
    AttrSet set[] = {SET_INT("group", node_int(x->n, "group"))};
    x->out[0] = ex_op(x, NULL, "Conv", set, 1, (const Val[]){columns, w, ex_in(x, DEFORM_BIAS)}, 3);
    return true;
}

/* X, W (whose sizes alone count), offset, mask? -> [N, group * taps * C / group, out...] */
static bool infer_deform_columns(Infer *c)
{
    Deform f;
    if (!deform_inputs(c, &f, 3)) return false;
    Dim out[MAX_RANK] = {in_dim(c, 0, 0), dim_mul(c->d, in_dim(c, 0, 1), f.taps)};
    memcpy(out + 2, f.w.out, (size_t)f.w.n * sizeof *out);
    return out_shape(c, 0, f.w.n + 2, out);
}

typedef struct Corners { /* of a place in an image */
    int x, n;
    DType acc;
    Expr place[MAX_SPATIAL], size[MAX_SPATIAL], at[MAX_RANK];
} Corners;

/* The sum over both sides of dimension i and of those after it; exists: that the pixel does, so far. */
static Expr corners(Lower *l, Corners *c, int i, Expr exists)
{
    Kernel *k = l->k;
    Expr none = low_const(l, low_type(l, c->x), 0), sum = 0;
    if (i == c->n) return expr_cast(k, c->acc, expr_guard(k, exists, expr_load(k, c->x, c->at), none));
    Expr near =
        low_formula(l, "max(min(x, n), -1)", NAMES("x", "n"), ARGS(c->place[i], expr_cast(k, c->acc, c->size[i])));
    Expr low = expr_prim(k, P_floor, near, 0, 0), part = expr_sub(k, near, low);
    for (int far = 0; far < 2; far++) {
        Expr pixel = expr_add(k, low_i64(l, low), expr_index(k, far)),
             weight = far ? part : expr_sub(k, low_const(l, c->acc, 1), part);
        c->at[i + 2] = pixel;
        Expr value = expr_mul(k, corners(l, c, i + 1, expr_and(k, exists, inside(l, pixel, c->size[i]))), weight);
        sum = sum ? expr_add(k, sum, value) : value;
    }
    return sum;
}

typedef struct Columns {
    Deform f;
    int x, y, axis[MAX_RANK], axes;
    Expr tap, number, to[MAX_RANK]; /* number: of the tap among those of all sets of offsets */
    Corners at;
} Columns;

static Expr column_axis(Lower *l, Columns *c, Expr extent)
{
    return expr_axis(l->k, c->axis[c->axes++] = low_axis(l, extent));
}

/* Axes of the batch, blocks of channels, taps, channels of a block and places; with them the channel of X and that of the columns. */
static void column_axes(Lower *l, Columns *c)
{
    Kernel *k = l->k;
    Dim channels = low_in_type(l, 0)->dim[1];
    int64_t blocks = c->f.blocks;
    Expr taps = expr_dim(k, c->f.taps), part = expr_dim(k, dim_fdiv(k->dim, channels, dim_const(k->dim, blocks)));
    Expr width = expr_dim(k, dim_fdiv(k->dim, channels, dim_const(k->dim, c->f.groups)));
    Expr batch = column_axis(l, c, low_dim(l, c->y, 0)), block = column_axis(l, c, expr_index(k, blocks));
    c->tap = column_axis(l, c, taps);
    Expr channel = expr_add(k, expr_mul(k, block, part), column_axis(l, c, part));
    Expr group = expr_div(k, block, expr_index(k, blocks / c->f.groups)),
         set = expr_div(k, block, expr_index(k, blocks / c->f.offsets));
    Expr in_group = expr_sub(k, channel, expr_mul(k, group, width));
    c->number = expr_add(k, expr_mul(k, set, taps), c->tap);
    c->to[0] = c->at.at[0] = batch, c->at.at[1] = channel;
    c->to[1] = expr_add(k, expr_mul(k, expr_add(k, expr_mul(k, group, taps), c->tap), width), in_group);
    for (int i = 0; i < c->f.w.n; i++) c->to[i + 2] = column_axis(l, c, low_dim(l, c->y, i + 2));
}

/* Input i, which has `each` numbers for every tap, at this one. */
static Expr of_tap(Lower *l, const Columns *c, uint32_t i, int each, int which)
{
    Kernel *k = l->k;
    Expr at[MAX_RANK];
    memcpy(at, c->to, sizeof at);
    at[1] = expr_add(k, expr_mul(k, c->number, expr_index(k, each)), expr_index(k, which));
    return low_load(l, low_in(l, i), at);
}

/* Where the tap looks; yields the condition that this is in the image or less than a pixel beside it. */
static Expr column_places(Lower *l, Columns *c)
{
    Kernel *k = l->k;
    const Window *w = &c->f.w;
    Expr rest = c->tap, exists = 0;
    for (int i = w->n; i--;) {
        Expr taps = expr_dim(k, w->kernel[i]), size = low_dim(l, c->x, i + 2);
        Expr step = expr_mul(k, i ? expr_mod(k, rest, taps) : rest, expr_index(k, w->dilation[i]));
        Expr start = expr_sub(k, expr_mul(k, c->to[i + 2], expr_index(k, w->stride[i])), expr_dim(k, w->lo[i]));
        Expr place =
            expr_add(k, expr_cast(k, c->at.acc, expr_add(k, start, step)), of_tap(l, c, DEFORM_OFFSET, w->n, i));
        exists = expr_and(
            k, exists,
            low_formula(l, "(x > -1) && (x < n)", NAMES("x", "n"), ARGS(place, expr_cast(k, c->at.acc, size))));
        c->at.place[i] = place, c->at.size[i] = size;
        rest = expr_div(k, rest, taps);
    }
    return exists;
}

static void lower_deform_columns(Lower *l)
{
    enum { MASK = 3 };
    Columns c = {.x = low_in(l, 0), .y = low_out(l, 0)};
    const char *why = NULL;
    bool good = deform_read(&c.f, l->k->dim, l->n, low_in_type(l, 0), low_in_type(l, 1), &why);
    assert(good && "infer accepted this node");
    (void)good;
    c.at.x = c.x, c.at.n = c.f.w.n, c.at.acc = dtype_compute(low_type(l, c.x));
    low_channels_last(l, c.x), low_channels_last(l, c.y);
    column_axes(l, &c);
    Expr exists = column_places(l, &c), value = corners(l, &c.at, 0, exists);
    if (low_in(l, MASK)) value = expr_mul(l->k, value, of_tap(l, &c, MASK, 1, 0));
    Compute *s = low_stage(l, c.y, c.axis, c.axes, low_store_as(l, c.y, value));
    memcpy(s->at, c.to, sizeof c.to);
}

/* clang-format off */
#define ROI_ATTRS "coordinate_transformation_mode:string=half_pixel output_height:int=1 output_width:int=1 sampling_ratio:int=0 spatial_scale:float=1 "
#define POOL_ATTRS "pooled_shape:ints! spatial_scale:float=1"
#define DEFORM_ATTRS "dilations:ints group:int=1 kernel_shape:ints offset_group:int=1 pads:ints strides:ints"
const OpDef ops_region[] = {
    OP(RoiAlign, .since = 10, .sig = "X:T rois:T batch_indices:i64 -> Y:T", .T = "float", .attrs = ROI_ATTRS "mode:string=avg",
       .infer = infer_roi_align, .expand = expand_roi_align),
    OP(RoiGrid, .domain = "octet", .since = 1, .sig = "rois:T -> grid:i64", .T = "float", .attrs = ROI_ATTRS, .infer = infer_samples_most, .lower = lower_samples_most),
    OP(RoiSample, .domain = "octet", .since = 1, .sig = "X:T rois:T batch_indices:i64 grid:i64? -> Y:T", .T = "float", .attrs = ROI_ATTRS "mode:string=avg",
       .infer = infer_roi_sample, .lower = lower_roi_sample),
    OP(MaxRoiPool, .since = 1, .sig = "X:T rois:T -> Y:T", .T = "float", .attrs = POOL_ATTRS, .infer = infer_max_roi_pool, .expand = expand_max_roi_pool),
    OP(MaxRoiGrid, .domain = "octet", .since = 1, .sig = "rois:T -> grid:i64", .T = "float", .attrs = POOL_ATTRS, .infer = infer_pixels_most, .lower = lower_pixels_most),
    OP(MaxRoiPixels, .domain = "octet", .since = 1, .sig = "X:T rois:T grid:i64 -> Y:T", .T = "float", .attrs = POOL_ATTRS, .infer = infer_max_roi_pixels,
       .lower = lower_max_roi_pixels),
    OP(DeformConv, .since = 19, .sig = "X:T W:T offset:T B:T? mask:T? -> Y:T", .T = "float", .attrs = DEFORM_ATTRS, .infer = infer_deform_conv,
       .expand = expand_deform_conv),
    OP(DeformColumns, .domain = "octet", .since = 1, .sig = "X:T W:T offset:T mask:T? -> columns:T", .T = "float", .attrs = DEFORM_ATTRS,
       .infer = infer_deform_columns, .lower = lower_deform_columns),
    {0},
};
/* clang-format on */
