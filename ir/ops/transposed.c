/* transposed.c - transposed convolutions as sub-pixel convolutions.
 *
 * With stride s, the results y = s*q + r of one phase r read x[q + off - t*D] for their own taps i = i0 + t*(s/g) alone, where
 * g = gcd(dilation, s) and D = dilation/g: an ordinary convolution of stride 1 with the taps reversed. So ConvTranspose expands into
 * one Conv for every combination of phases and an octet.Interleave of their results; no zero is multiplied, and quantization, layouts
 * and kernels are those of Conv. Neighbouring phases that read the same pixels are channels of one Conv.
 * Weights are cut, reversed and reordered by Slice, Concat and Transpose, which fold where they are constants.
 *
 * What that cannot say (a phase without taps, sizes whose relation is not known) stays one sum over all taps: octet.ConvTransposeTaps
 * keeps those whose index y + p - i*d is a multiple of s.
 *
 * Col2Im is the same sum without weights: columns, one a window, added where their elements came from. Without dilation the taps that
 * meet a result are every s-th one, and only they are summed over. */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include "ir/ops/window.h"
#include <assert.h>
#include <string.h>

enum { MAX_STRIDE = 64, MAX_PHASES = 4096, MAX_CONVS = 64, COLUMNS = 16 };
#define TRANSPOSED_ATTRS WINDOW_ATTRS "group:int=1 output_padding:ints output_shape:ints"

/* ---- shapes ---- */
static bool infer_conv_transpose(Infer *c)
{
    const Type *x = in_type(c, 0), *wt = in_type(c, 1);
    if (x->rank < 0 || wt->rank < 0) return out_unknown(c, 0);
    if (wt->rank != x->rank) return infer_error(c, "W has rank %d, expected %d, the rank of X", wt->rank, x->rank);
    Window w;
    const char *why = NULL;
    if (!window_read_transposed(&w, c->d, c->n, x, wt->dim + 2, &why)) return infer_error(c, "%s", why);
    int64_t group = node_int(c->n, "group"), channels;
    if (!window_groups(c, x->dim[1], dim_fdiv(c->d, wt->dim[0], DIM(c, group < 1 ? 1 : group)), group)) return false;
    if (dim_is_const(c->d, wt->dim[0], &channels) && channels % group)
        return infer_error(c, "%lld input channels do not divide into %lld groups", (long long)channels,
                           (long long)group);
    Dim m = dim_mul(c->d, wt->dim[1], DIM(c, group));
    if (in_has(c, 2) && !window_bias(c, 2, m)) return false;
    Dim out[MAX_RANK] = {x->dim[0], m};
    for (int i = 0; i < w.n; i++) {
        out[i + 2] = w.out[i];
        if (!require_ge(c, w.out[i], DIM(c, 0), "output size of ConvTranspose")) return false;
    }
    return out_shape(c, 0, x->rank, out);
}

/* ---- phases of one dimension ---- */
typedef struct Phases { /* `count` phases from `start` on, which read the same pixels */
    int64_t start, count;
    int64_t tap, taps,
        step; /* of the first phase: its first tap, how many, and how far apart; each next phase: tap + 1 */
    int64_t dilation, lo, hi; /* of its Conv */
} Phases;

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t r = a % b;
        a = b, b = r;
    }
    return a;
}

/* The phase y = s*q + r alone; false: it has no taps, or its size is no constant more than the input's. */
static bool phase_at(Dims *d, const Window *w, int i, int64_t r, Phases *p)
{
    int64_t s = w->stride[i], g = gcd(w->dilation[i], s), kernel, lo, more, least;
    Dim size = dim_cdiv(d, dim_sub(d, w->out[i], dim_const(d, r)), dim_const(d, s));
    if (!dim_is_const(d, w->kernel[i], &kernel) || !dim_is_const(d, w->lo[i], &lo)) return false;
    if (!dim_is_const(d, dim_sub(d, size, w->in[i]), &more)) return false;
    if (dim_upper(d, size, &least) && least < 1) return false;
    *p = (Phases){.start = r, .count = 1, .step = s / g, .dilation = w->dilation[i] / g};
    while (p->tap < p->step && (r + lo - p->tap * w->dilation[i]) % s) p->tap++;
    if (p->tap == p->step || p->tap >= kernel) return false;
    p->taps = (kernel - p->tap + p->step - 1) / p->step;
    int64_t off = (r + lo - p->tap * w->dilation[i]) / s;
    p->lo = (p->taps - 1) * p->dilation - off, p->hi = more + off;
    return true;
}

static bool continues(const Phases *p, const Phases *next)
{
    return next->taps == p->taps && next->dilation == p->dilation && next->lo == p->lo && next->hi == p->hi &&
           next->step == p->step && next->tap == p->tap + p->count;
}

/* All phases of dimension i, neighbours joined where `join` says so; 0: it cannot be cut into phases. */
static int phases_of(Dims *d, const Window *w, int i, bool join, Phases *p)
{
    int n = 0;
    if (w->stride[i] > MAX_STRIDE) return 0;
    for (int64_t r = 0; r < w->stride[i]; r++) {
        if (!phase_at(d, w, i, r, &p[n])) return 0;
        if (join && n && continues(&p[n - 1], &p[n])) p[n - 1].count++;
        else n++;
    }
    return n;
}

typedef struct Cut {
    Window w;
    int64_t in, out, group; /* channels in and out of a group */
    int parts[MAX_SPATIAL], convs;
    Phases phase[MAX_SPATIAL][MAX_STRIDE];
} Cut;

/* Phases of the last dimension lie beside each other, as channels do. Those of another one are joined when the channels of one of its
 * phases fill columns, or all of them together do not. */
static bool cut_phases(Expand *x, Cut *c)
{
    Dims *d = x->m->dim;
    const Type *wt = ex_type(x, x->in[1]), *xt = ex_type(x, x->in[0]);
    const char *why = NULL;
    int64_t channels, all = 1;
    if (xt->rank < 3 || wt->rank != xt->rank || !window_read_transposed(&c->w, d, x->n, xt, wt->dim + 2, &why))
        return false;
    c->group = node_int(x->n, "group"), c->convs = 1;
    if (!dim_is_const(d, wt->dim[0], &channels) || !dim_is_const(d, wt->dim[1], &c->out)) return false;
    c->in = channels / c->group;
    int64_t wide = c->out;
    for (int i = c->w.n; i--;) {
        int64_t s = c->w.stride[i];
        bool fits = i == c->w.n - 1 || wide % COLUMNS == 0 || wide * s <= COLUMNS;
        bool join = c->group == 1 && fits && c->w.n <= 3; /* an axis more each: sums have eight */
        c->parts[i] = phases_of(d, &c->w, i, join, c->phase[i]);
        if (!c->parts[i] || (c->convs *= c->parts[i]) > MAX_CONVS || (all *= s) > MAX_PHASES) return false;
        wide *= c->phase[i][0].count;
    }
    return true;
}

/* ---- the convolution of one combination of phases ---- */
/* Its taps, last to first: W[.., tap + (taps - 1 - t) * step ..]. */
static Val cut_taps(Expand *x, const Cut *c, const Phases *const *p, const int64_t *more)
{
    int64_t from[MAX_SPATIAL], to[MAX_SPATIAL], axis[MAX_SPATIAL], step[MAX_SPATIAL];
    bool whole = true;
    for (int i = 0; i < c->w.n; i++) {
        int64_t first = p[i]->tap + more[i];
        axis[i] = i + 2, step[i] = -p[i]->step;
        from[i] = first + (p[i]->taps - 1) * p[i]->step;
        to[i] = first ? first - 1 : INT64_MIN;
        whole = whole && p[i]->taps == 1 && c->w.stride[i] == 1;
    }
    if (whole) return x->in[1];
    int64_t n = c->w.n;
    return EX(x, "Slice", x->in[1], ex_ints(x, from, n), ex_ints(x, to, n), ex_ints(x, axis, n), ex_ints(x, step, n));
}

static Val cut_weights(Expand *x, const Cut *c, const Phases *const *p)
{
    int rank = c->w.n + 2, n = 0;
    int64_t more[MAX_SPATIAL] = {0}, all = 1, taps = 1, dim[MAX_RANK] = {c->group * c->out, c->in};
    int64_t swap[MAX_RANK] = {1, 0, 2, 3, 4, 5, 6, 7}, swap_inside[] = {0, 2, 1, 3};
    for (int i = 0; i < c->w.n; i++) all *= p[i]->count, taps *= p[i]->taps, dim[i + 2] = p[i]->taps;
    Val *piece = NEW_ARRAY(x->m->mem, Val, all);
    while (n < all) {
        piece[n++] = cut_taps(x, c, p, more);
        for (int i = c->w.n; i-- && ++more[i] == p[i]->count;) more[i] = 0;
    }
    Val w = ex_concat(x, piece, n, 1);
    if (c->group == 1) return ex_transpose(x, w, swap, rank);
    w = ex_reshape(x, w, (int64_t[]){c->group, c->in, c->out, taps}, 4);
    return ex_reshape(x, ex_transpose(x, w, swap_inside, 4), dim, rank);
}

static Val cut_bias(Expand *x, const Phases *const *p, int n)
{
    int64_t all = 1;
    if (!ex_has(x, 2)) return (Val){0};
    for (int i = 0; i < n; i++) all *= p[i]->count;
    Val *piece = NEW_ARRAY(x->m->mem, Val, all);
    for (int64_t i = 0; i < all; i++) piece[i] = x->in[2];
    return ex_concat(x, piece, (int)all, 0);
}

static Val cut_conv(Expand *x, const Cut *c, const Phases *const *p)
{
    int n = c->w.n;
    int64_t pads[2 * MAX_SPATIAL], dilations[MAX_SPATIAL];
    for (int i = 0; i < n; i++) pads[i] = p[i]->lo, pads[i + n] = p[i]->hi, dilations[i] = p[i]->dilation;
    AttrSet set[] = {SET_INTS("pads", pads, (uint32_t)(2 * n)), SET_INTS("dilations", dilations, (uint32_t)n),
                     SET_INT("group", c->group)};
    Val in[] = {x->in[0], cut_weights(x, c, p), cut_bias(x, p, n)};
    return ex_op(x, NULL, "Conv", set, 3, in, in[2].id ? 3 : 2);
}

static bool expand_conv_transpose(Expand *x)
{
    Cut *c = NEW(x->m->mem, Cut);
    if (!cut_phases(x, c)) {
        x->out[0] = ex_op_like(x, "octet", "ConvTransposeTaps", x->in, (int)x->n->nin);
        return true;
    }
    int at[MAX_SPATIAL] = {0}, n = 0, starts = 0;
    int64_t parts[MAX_SPATIAL], start[MAX_SPATIAL * MAX_STRIDE];
    Val conv[MAX_CONVS];
    bool strided = false;
    while (n < c->convs) {
        const Phases *p[MAX_SPATIAL];
        for (int i = 0; i < c->w.n; i++) p[i] = &c->phase[i][at[i]];
        conv[n++] = cut_conv(x, c, p);
        for (int i = c->w.n; i-- && ++at[i] == c->parts[i];) at[i] = 0;
    }
    for (int i = 0; i < c->w.n; i++) {
        parts[i] = c->parts[i], strided = strided || c->w.stride[i] > 1;
        for (int j = 0; j < c->parts[i]; j++) start[starts++] = c->phase[i][j].start;
    }
    AttrSet set[] = {SET_INTS("strides", c->w.stride, (uint32_t)c->w.n), SET_INTS("parts", parts, (uint32_t)c->w.n),
                     SET_INTS("starts", start, (uint32_t)starts)};
    x->out[0] = strided ? ex_op(x, "octet", "Interleave", set, 3, conv, n) : conv[0];
    return true;
}

/* ---- octet.Interleave: Y[.., s*q + start + r, ..] = Z[(r.., channel), q..] ---- */
typedef struct Grid { /* per dimension: strides, and in how many parts the phases come, each from a start on */
    int n;
    const int64_t *stride, *parts, *start[MAX_SPATIAL];
} Grid;

static bool grid_read(const Node *n, int rank, Grid *g)
{
    uint32_t strides, parts, starts, used = 0, all = 1;
    g->n = rank - 2, g->stride = node_ints(n, "strides", &strides), g->parts = node_ints(n, "parts", &parts);
    const int64_t *start = node_ints(n, "starts", &starts);
    if (rank < 3 || strides != (uint32_t)g->n || parts != strides) return false;
    for (int i = 0; i < g->n; i++) {
        if (g->parts[i] < 1 || g->parts[i] > g->stride[i] || used + (uint32_t)g->parts[i] > starts) return false;
        g->start[i] = start + used, used += (uint32_t)g->parts[i], all *= (uint32_t)g->parts[i];
        for (int64_t j = 0; j < g->parts[i]; j++)
            if (j ? g->start[i][j] <= g->start[i][j - 1] || g->start[i][j] >= g->stride[i] : g->start[i][0] != 0)
                return false;
    }
    return used == starts && all == n->nin;
}

static int64_t grid_count(const Grid *g, int i, int64_t part) /* phases of a part */
{
    return (part + 1 < g->parts[i] ? g->start[i][part + 1] : g->stride[i]) - g->start[i][part];
}

static void grid_parts(const Grid *g, uint32_t input, int64_t *part)
{
    for (int i = g->n; i--;) part[i] = input % g->parts[i], input /= (uint32_t)g->parts[i];
}

static bool infer_interleave(Infer *c)
{
    Grid g;
    int rank = in_rank(c, 0);
    if (rank < 0) return out_unknown(c, 0);
    if (!grid_read(c->n, rank, &g)) return infer_error(c, "phases do not add up");
    Dim out[MAX_RANK] = {in_dim(c, 0, 0), in_dim(c, 0, 1)};
    int64_t first = 1;
    for (int i = 0; i < g.n; i++) first *= grid_count(&g, i, 0), out[i + 2] = DIM(c, 0);
    out[1] = dim_fdiv(c->d, out[1], DIM(c, first));
    for (uint32_t k = 0; k < c->n->nin; k++) {
        int64_t part[MAX_SPATIAL], all = 1;
        if (in_rank(c, k) != rank) return infer_error(c, "input %u has rank %d, expected %d", k, in_rank(c, k), rank);
        grid_parts(&g, k, part);
        for (int i = 0; i < g.n; i++) {
            bool alone = true; /* the other dimensions are at their first part: this one adds to the size */
            for (int j = 0; j < g.n; j++) alone = alone && (j == i || !part[j]);
            all *= grid_count(&g, i, part[i]);
            Dim mine = dim_mul(c->d, in_dim(c, k, i + 2), DIM(c, grid_count(&g, i, part[i])));
            if (alone) out[i + 2] = dim_add(c->d, out[i + 2], mine);
        }
        if (!require_eq(c, in_dim(c, k, 1), dim_mul(c->d, out[1], DIM(c, all)), "channels of the phases")) return false;
    }
    return out_shape(c, 0, rank, out);
}

/* All phases in one input: an index of it is made of digits of the output's. */
static void lower_digits(Lower *l, const Grid *g)
{
    Kernel *k = l->k;
    int y = low_out(l, 0), axis[MAX_RANK];
    low_axes(l, y, axis);
    Expr at[MAX_RANK] = {expr_axis(k, axis[0])}, phase = expr_index(k, 0);
    for (int i = 0; i < g->n; i++) {
        Expr a = expr_axis(k, axis[i + 2]), s = expr_index(k, g->stride[i]);
        phase = expr_add(k, expr_mul(k, phase, s), expr_mod(k, a, s)), at[i + 2] = expr_div(k, a, s);
    }
    at[1] = expr_add(k, expr_mul(k, phase, low_dim(l, y, 1)), expr_axis(k, axis[1]));
    low_move(l, y, axis, low_in(l, 0), at);
}

static void lower_part(Lower *l, const Grid *g, uint32_t input)
{
    Kernel *k = l->k;
    int y = low_out(l, 0), z = low_in(l, input), axis[MAX_RANK], n = 0;
    int64_t part[MAX_SPATIAL];
    grid_parts(g, input, part);
    Expr from[MAX_RANK] = {expr_axis(k, axis[n++] = low_axis(l, low_dim(l, y, 0)))}, to[MAX_RANK] = {from[0]};
    Expr phase = expr_index(k, 0);
    for (int i = 0; i < g->n; i++) {
        int64_t count = grid_count(g, i, part[i]);
        Expr r = count > 1 ? expr_axis(k, axis[n++] = low_axis(l, expr_index(k, count))) : expr_index(k, 0);
        phase = expr_add(k, expr_mul(k, phase, expr_index(k, count)), r);
        to[i + 2] = expr_add(k, r, expr_index(k, g->start[i][part[i]]));
    }
    to[1] = expr_axis(k, axis[n++] = low_axis(l, low_dim(l, y, 1)));
    from[1] = expr_add(k, expr_mul(k, phase, low_dim(l, y, 1)), to[1]);
    for (int i = 0; i < g->n; i++) {
        from[i + 2] = expr_axis(k, axis[n++] = low_axis(l, low_dim(l, z, i + 2)));
        to[i + 2] = expr_add(k, expr_mul(k, from[i + 2], expr_index(k, g->stride[i])), to[i + 2]);
    }
    Compute *s = low_stage(l, y, axis, n, expr_load(k, z, from));
    memcpy(s->at, to, sizeof to);
}

static void lower_interleave(Lower *l)
{
    Grid g;
    bool good = grid_read(l->n, low_rank(l, low_out(l, 0)), &g);
    assert(good && "infer accepted this node");
    (void)good;
    low_channels_last(l, low_out(l, 0));
    if (l->n->nin == 1) lower_digits(l, &g);
    else
        for (uint32_t i = 0; i < l->n->nin; i++) lower_part(l, &g, i);
}

/* ---- octet.ConvTransposeTaps ---- */
typedef struct Tap {
    Expr index, cond; /* where X is read; does it exist */
} Tap;

static Tap tap_of(Lower *l, const Window *w, int i, int at, int tap)
{
    Kernel *k = l->k;
    Dims *d = k->dim;
    Expr y = expr_add(k, expr_axis(k, at), expr_dim(k, w->lo[i]));
    Tap t = {.index = expr_sub(k, y, expr_mul(k, expr_axis(k, tap), expr_index(k, w->dilation[i])))};
    if (w->stride[i] > 1) {
        Dim one = dim_const(d, 1), shift = dim_mul(d, dim_sub(d, w->kernel[i], one), dim_const(d, w->dilation[i]));
        Expr s = expr_index(k, w->stride[i]), moved = expr_add(k, t.index, expr_mul(k, expr_dim(k, shift), s));
        t.cond = expr_prim(k, P_eq, expr_mod(k, moved, s), expr_index(k, 0), 0); /* moved: never negative */
        t.index = expr_sub(k, expr_div(k, moved, s), expr_dim(k, shift));
    }
    t.cond = expr_and(k, t.cond, expr_le(k, expr_index(k, 0), t.index));
    t.cond = expr_and(k, t.cond, expr_lt(k, t.index, expr_dim(k, w->in[i])));
    return t;
}

static void lower_taps(Lower *l)
{
    Kernel *k = l->k;
    Dims *d = k->dim;
    const Type *wt = low_in_type(l, 1);
    int x = low_in(l, 0), y = low_out(l, 0), space[MAX_RANK], spaces = 0, reduce[MAX_RANK], reduces = 0;
    DType t = low_type(l, x), acc = dtype_compute(t);
    Window w;
    const char *why = NULL;
    bool good = window_read_transposed(&w, d, l->n, low_in_type(l, 0), wt->dim + 2, &why);
    assert(good && "infer accepted this node");
    (void)good;
    low_channels_last(l, x), low_channels_last(l, y);
    int64_t group = node_int(l->n, "group");
    Expr out = low_dim(l, low_in(l, 1), 1), in_of = expr_dim(k, dim_fdiv(d, wt->dim[0], dim_const(d, group)));
    Expr n = expr_axis(k, space[spaces++] = low_axis(l, low_dim(l, y, 0)));
    Expr g = group > 1 ? expr_axis(k, space[spaces++] = low_axis(l, expr_index(k, group))) : expr_index(k, 0);
    Expr o = expr_axis(k, space[spaces++] = low_axis(l, out));
    Expr in = expr_add(k, expr_mul(k, g, in_of), expr_axis(k, reduce[reduces++] = low_axis(l, in_of))), cond = 0;
    Expr from[MAX_RANK] = {n, in}, weight[MAX_RANK] = {in, o}, to[MAX_RANK] = {n, expr_add(k, expr_mul(k, g, out), o)};
    for (int i = 0; i < w.n; i++) {
        int at = space[spaces++] = low_axis(l, expr_dim(k, w.out[i]));
        int tap = reduce[reduces++] = low_axis(l, expr_dim(k, w.kernel[i]));
        Tap s = tap_of(l, &w, i, at, tap);
        from[i + 2] = s.index, weight[i + 2] = expr_axis(k, tap), to[i + 2] = expr_axis(k, at);
        cond = expr_and(k, cond, s.cond);
    }
    Expr left = expr_guard(k, cond, expr_load(k, x, from), low_const(l, t, 0)), it = expr_it(k, acc);
    Expr value = expr_mul(k, expr_cast(k, acc, left), expr_cast(k, acc, expr_load(k, low_in(l, 1), weight)));
    int bias = low_in(l, 2);
    if (bias) it = expr_add(k, it, expr_cast(k, acc, expr_load(k, bias, (Expr[MAX_RANK]){to[1]})));
    Compute *s = low_reduce(l, y, space, spaces, reduce, reduces, P_add, value, low_store_as(l, y, it));
    memcpy(s->at, to, sizeof to);
}

/* ---- Col2Im: X [N, C * taps, windows], image_shape, block_shape -> Y [N, C, image...] ---- */
typedef struct Columns {
    Window w; /* of the image; out: how many windows */
    Dim channels, taps, windows;
} Columns;

static bool columns_read(Columns *c, Dims *d, const Node *n, const Type *x, const Dim *image, const Dim *block,
                         int dims, const char **why)
{
    Type y = {.dtype = x->dtype, .rank = dims + 2, .dim = {x->dim[0], x->dim[1]}};
    memcpy(y.dim + 2, image, (size_t)dims * sizeof *image);
    if (!window_read(&c->w, d, n, &y, block, why)) return false;
    c->taps = dim_product(d, block, dims), c->windows = dim_product(d, c->w.out, dims);
    c->channels = dim_fdiv(d, x->dim[1], c->taps);
    return true;
}

static bool known(const Dim *d, uint32_t n)
{
    bool all = true;
    for (uint32_t i = 0; i < n; i++) all = all && dim_known(d[i]);
    return all;
}

/* The other way round than a convolution, an image that is cut off would be no smaller sum, but other windows. */
static bool pads_are_pads(const Node *n)
{
    uint32_t count;
    const int64_t *pads = node_ints(n, "pads", &count);
    for (uint32_t i = 0; i < count; i++)
        if (pads[i] < 0) return false;
    return true;
}

static bool infer_col2im(Infer *c)
{
    const Type *x = in_type(c, 0);
    uint32_t n, blocks;
    const Dim *image = rule_sizes(c, 1, &n), *block = rule_sizes(c, 2, &blocks);
    if (x->rank != 3) return infer_error(c, "input has rank %d, expected 3", x->rank);
    if (!image || !block || !known(image, n) || !known(block, blocks)) return out_unknown(c, 0);
    if (n != blocks || n < 1 || n > MAX_SPATIAL)
        return infer_error(c, "image_shape and block_shape have %u and %u entries, expected as many, 1 to %d", n,
                           blocks, (int)MAX_SPATIAL);
    if (!pads_are_pads(c->n)) return infer_error(c, "pads must not be negative");
    for (uint32_t i = 0; i < n; i++)
        if (!require_ge(c, image[i], DIM(c, 0), "sizes of the image") ||
            !require_ge(c, block[i], DIM(c, 1), "sizes of a block"))
            return false;
    Columns cols;
    const char *why = NULL;
    if (!columns_read(&cols, c->d, c->n, x, image, block, (int)n, &why)) return infer_error(c, "%s", why);
    Dim out[MAX_RANK] = {x->dim[0], cols.channels};
    for (uint32_t i = 0; i < n; i++) {
        out[i + 2] = image[i];
        if (!require_ge(c, cols.w.out[i], DIM(c, 0), "the block fits into the padded image")) return false;
    }
    return require_eq(c, dim_mul(c->d, cols.channels, cols.taps), x->dim[1],
                      "rows of the columns and channels times the block") &&
           require_eq(c, cols.windows, x->dim[2], "columns and places of the block") &&
           out_shape(c, 0, (int)n + 2, out);
}

/* The tap of dimension i that `step`, a fresh axis, stands for, and which window has it at result `at`. */
static Tap fold_tap(Lower *l, const Window *w, int i, int at, int *step, Expr *tap)
{
    Kernel *k = l->k;
    if (w->dilation[i] > 1) {
        Window columns = *w; /* what is read is the windows */
        columns.in[i] = w->out[i];
        *tap = expr_axis(k, *step = low_axis(l, expr_dim(k, w->kernel[i])));
        return tap_of(l, &columns, i, at, *step);
    }
    Dim stride = dim_const(k->dim, w->stride[i]), taps = dim_cdiv(k->dim, w->kernel[i], stride);
    Expr s = expr_index(k, w->stride[i]), y = expr_add(k, expr_axis(k, at), expr_dim(k, w->lo[i]));
    Expr turn = expr_axis(k, *step = low_axis(l, expr_dim(k, taps)));
    *tap = expr_add(k, expr_mod(k, y, s), expr_mul(k, turn, s));
    Tap t = {.index = expr_sub(k, expr_div(k, y, s), turn)};
    t.cond = expr_and(k, expr_le(k, expr_index(k, 0), t.index), expr_lt(k, t.index, expr_dim(k, w->out[i])));
    bool whole = dim_same(dim_canon(k->dim, dim_mul(k->dim, taps, stride)), dim_canon(k->dim, w->kernel[i]));
    if (!whole) t.cond = expr_and(k, t.cond, expr_lt(k, *tap, expr_dim(k, w->kernel[i])));
    return t;
}

static void lower_col2im(Lower *l)
{
    if (!low_sized(l)) return;
    Kernel *k = l->k;
    int x = low_in(l, 0), y = low_out(l, 0), space[MAX_RANK], reduce[MAX_RANK];
    DType t = low_type(l, x), acc = dtype_compute(t);
    Columns c;
    uint32_t n;
    const char *why = NULL;
    const Dim *image = low_out_type(l, 0)->dim + 2, *block = low_elems(l, 2, &n);
    bool good = block && columns_read(&c, k->dim, l->n, low_in_type(l, 0), image, block, (int)n, &why);
    assert(good && "infer accepted this node");
    (void)good;
    low_axes(l, y, space);
    Expr row = expr_axis(k, space[1]), window = expr_index(k, 0), cond = 0;
    for (int i = 0; i < c.w.n; i++) {
        Expr tap;
        Tap from = fold_tap(l, &c.w, i, space[i + 2], &reduce[i], &tap);
        row = expr_add(k, expr_mul(k, row, expr_dim(k, c.w.kernel[i])), tap);
        window = expr_add(k, expr_mul(k, window, expr_dim(k, c.w.out[i])), from.index);
        cond = expr_and(k, cond, from.cond);
    }
    Expr load = expr_load(k, x, (Expr[MAX_RANK]){expr_axis(k, space[0]), row, window});
    Expr value = expr_cast(k, acc, expr_guard(k, cond, load, low_const(l, t, 0)));
    low_reduce(l, y, space, c.w.n + 2, reduce, c.w.n, P_add, value, low_store_as(l, y, expr_it(k, acc)));
}

const OpDef ops_transposed[] = {
    OP(ConvTranspose, .since = 1, .sig = "X:T W:T B:T? -> Y:T", .T = "float", .attrs = TRANSPOSED_ATTRS,
       .infer = infer_conv_transpose, .expand = expand_conv_transpose),
    OP(ConvTransposeTaps, .domain = "octet", .since = 1, .sig = "X:T W:T B:T? -> Y:T", .T = "float",
       .attrs = TRANSPOSED_ATTRS, .infer = infer_conv_transpose, .lower = lower_taps),
    OP(Interleave, .domain = "octet", .since = 1, .sig = "phases:T* -> Y:T", .T = "any",
       .attrs = "strides:ints! parts:ints! starts:ints!", .infer = infer_interleave, .lower = lower_interleave,
       .quant = QUANT_PASS),
    OP(Col2Im, .since = 18, .sig = "input:T image_shape:i64 block_shape:i64 -> output:T", .T = "any",
       .attrs = "dilations:ints pads:ints strides:ints", .infer = infer_col2im, .lower = lower_col2im),
    {0},
};
