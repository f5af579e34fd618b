/* winograd.c - the row of convolutions by minimal filtering (ir/winograd.h), which passes/winograd.c puts in place of Conv.
 *
 * Three stages over blocks of tiles, p down and q across, t in the block; position (i, j) of a transformed tile:
 *
 *   V[n, p, q, i, j, t, c] = in_i(in_j(X[n, c, tile]))
 *   M[n, p, q, i, j, t, o] = sum over c of V[n, p, q, i, j, t, c] * U[i, j, c, o]
 *   Y[n, o, tile(y, x)]    = out_y(out_x(M[n, p, q, :, :, t, o])) + B[o]    where the tile lies inside Y
 *
 * V and U have the type of the products; transforms and sums are f32.
 * The position chooses the formula: unrolled, it is known, and what neighbouring positions have in common is computed once. The stages
 * share the loops over blocks, so that V and M of one block stay in the cache, or share nothing where a block holds all. */
#include "ir/winograd.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <assert.h>
#include <string.h>

typedef struct Tiles {
    Lower *l;
    Kernel *k;
    const Winograd *f[2]; /* along rows and columns */
    int64_t low[2];       /* padding before */
    Expr block[2];        /* tiles of a block, down and across */
    int x, u, bias, y, share;
    int64_t tiles;    /* in a block */
    int n, at[2], t;  /* axes: image, block down and across, tile in the block */
    Expr in_block[2]; /* the tile's place */
} Tiles;

static WinogradShape shape_of(const Dims *d, const Type *u, const Type *y, const Winograd *const *f)
{
    WinogradShape s = {.taps_y = f[0]->taps, .taps_x = f[1]->taps, .height = -1, .width = -1, .product = u->dtype};
    dim_is_const(d, u->dim[2], &s.in), dim_is_const(d, u->dim[3], &s.out);
    dim_is_const(d, y->dim[2], &s.height), dim_is_const(d, y->dim[3], &s.width);
    return s;
}

static bool read_rows(const Dims *d, const Node *n, const Type *u, const Winograd **f)
{
    uint32_t count = 0;
    const int64_t *outputs = node_ints(n, "outputs", &count);
    for (int i = 0; i < 2; i++) {
        int64_t points;
        if (count != 2 || !dim_is_const(d, u->dim[i], &points) || points > WINOGRAD_POINTS) return false;
        f[i] = winograd_find((int)outputs[i], (int)(points - outputs[i] + 1));
        if (!f[i]) return false;
    }
    return true;
}

static bool infer_winograd(Infer *c)
{
    const Type *x = in_type(c, 0), *u = in_type(c, 1);
    const Winograd *f[2];
    uint32_t pads = 0;
    const int64_t *pad = node_ints(c->n, "pads", &pads);
    if (x->rank != 4 || u->rank != 4 || pads != 4 || !read_rows(c->d, c->n, u, f))
        return infer_error(c, "expected images, transformed weights of a known algorithm and four pads");
    if (!require_eq(c, x->dim[1], u->dim[2], "channels of X and of U")) return false;
    Dim out[4] = {x->dim[0], u->dim[3]};
    for (int i = 0; i < 2; i++) out[i + 2] = dim_add(c->d, x->dim[i + 2], DIM(c, pad[i] + pad[i + 2] - f[i]->taps + 1));
    return out_shape(c, 0, 4, out);
}

/* ---- transforms ---- */
static Expr choose(Kernel *k, int axis, const Expr *of, int n)
{
    Expr e = of[n - 1];
    for (int i = n - 1; i--;)
        e = expr_guard(k, expr_prim(k, P_eq, expr_axis(k, axis), expr_index(k, i), 0), of[i], e);
    return e;
}

static Expr transform(Kernel *k, const char *const *body, int n, const Expr *d, int nd, int axis)
{
    static const char *const name[WINOGRAD_POINTS] = {"d0", "d1", "d2", "d3", "d4", "d5"};
    Expr e[WINOGRAD_POINTS] = {0};
    for (int i = 0; i < n; i++) {
        const char *error = NULL;
        e[i] = scalar_parse(k, body[i], name, d, nd, &error);
        assert(e[i] && !error);
    }
    return choose(k, axis, e, n);
}

/* d[i][j]: the tile; result i (an axis, of outs[0] values) of column transforms over result j of row transforms. */
static Expr transform_tile(Tiles *x, bool back, Expr d[][WINOGRAD_POINTS], const int *axis)
{
    Expr rows[WINOGRAD_POINTS] = {0};
    int ny = winograd_points(x->f[0]), nx = winograd_points(x->f[1]);
    const char *const *by[2] = {back ? x->f[0]->out : x->f[0]->in, back ? x->f[1]->out : x->f[1]->in};
    for (int i = 0; i < ny; i++)
        rows[i] = transform(x->k, by[1], back ? x->f[1]->outputs : nx, d[i], nx, axis[1]);
    return transform(x->k, by[0], back ? x->f[0]->outputs : ny, rows, ny, axis[0]);
}

/* Row or column `i` of the tile, in the input or the output. */
static Expr place(const Tiles *x, int d, Expr i)
{
    Kernel *k = x->k;
    Expr tile = expr_add(k, expr_mul(k, expr_axis(k, x->at[d]), x->block[d]), x->in_block[d]);
    return expr_add(k, expr_mul(k, tile, expr_index(k, x->f[d]->outputs)), i);
}

static Expr load_input(Tiles *x, int channel, int i, int j)
{
    Kernel *k = x->k;
    Expr at[MAX_RANK] = {expr_axis(k, x->n), expr_axis(k, channel)}, inside = 0;
    for (int d = 0; d < 2; d++) {
        at[d + 2] = place(x, d, expr_index(k, (d ? j : i) - x->low[d]));
        inside = expr_and(k, inside, expr_le(k, expr_index(k, 0), at[d + 2]));
        inside = expr_and(k, inside, expr_lt(k, at[d + 2], low_dim(x->l, x->x, d + 2)));
    }
    return expr_guard(k, inside, expr_load(k, x->x, at), expr_float(k, DT_f32, 0));
}

/* ---- stages: each goes through the tiles of a block on its own ---- */
static void next_stage(Tiles *x)
{
    Kernel *k = x->k;
    x->t = low_axis(x->l, expr_index(k, x->tiles));
    x->in_block[0] = expr_div(k, expr_axis(k, x->t), x->block[1]);
    x->in_block[1] = expr_mod(k, expr_axis(k, x->t), x->block[1]);
}

static int temp_tiles(Tiles *x, DType type, Expr channels)
{
    Kernel *k = x->k;
    Expr dim[MAX_RANK] = {k->axis.at[x->n].extent, k->axis.at[x->at[0]].extent, k->axis.at[x->at[1]].extent};
    for (int d = 0; d < 2; d++) dim[3 + d] = expr_index(k, winograd_points(x->f[d]));
    dim[5] = expr_index(k, x->tiles), dim[6] = channels;
    return low_temp(x->l, type, 7, dim);
}

static int transform_input(Tiles *x, const int *position)
{
    Expr d[WINOGRAD_POINTS][WINOGRAD_POINTS];
    next_stage(x);
    DType product = x->k->buf.at[x->u].type;
    int channel = low_axis(x->l, low_dim(x->l, x->u, 2)), v = temp_tiles(x, product, low_dim(x->l, x->u, 2));
    for (int i = 0; i < winograd_points(x->f[0]); i++)
        for (int j = 0; j < winograd_points(x->f[1]); j++) d[i][j] = load_input(x, channel, i, j);
    int space[] = {x->n, x->at[0], x->at[1], position[0], position[1], x->t, channel};
    Expr value = expr_cast(x->k, product, transform_tile(x, false, d, position));
    low_stage(x->l, v, space, 7, value)->share = x->share;
    return v;
}

static int multiply(Tiles *x, int v, const int *position)
{
    Kernel *k = x->k;
    next_stage(x);
    int in = low_axis(x->l, low_dim(x->l, x->u, 2)), out = low_axis(x->l, low_dim(x->l, x->u, 3));
    int m = temp_tiles(x, DT_f32, low_dim(x->l, x->u, 3));
    int space[] = {x->n, x->at[0], x->at[1], position[0], position[1], x->t, out};
    Expr at[MAX_RANK] = {0}, u[MAX_RANK] = {expr_axis(k, position[0]), expr_axis(k, position[1]), expr_axis(k, in),
                                            expr_axis(k, out)};
    low_index(x->l, space, 6, at), at[6] = expr_axis(k, in);
    Expr product = expr_mul(k, expr_cast(k, DT_f32, expr_load(k, v, at)), expr_cast(k, DT_f32, expr_load(k, x->u, u)));
    low_reduce(x->l, m, space, 7, &in, 1, P_add, product, 0)->share = x->share;
    return m;
}

static void transform_output(Tiles *x, int m)
{
    Kernel *k = x->k;
    Expr d[WINOGRAD_POINTS][WINOGRAD_POINTS], where = 0;
    next_stage(x);
    int out = low_axis(x->l, low_dim(x->l, x->u, 3)), pixel[2];
    for (int i = 0; i < 2; i++) pixel[i] = low_axis(x->l, expr_index(k, x->f[i]->outputs));
    int space[] = {x->n, x->at[0], x->at[1], x->t, pixel[0], pixel[1], out};
    for (int i = 0; i < winograd_points(x->f[0]); i++)
        for (int j = 0; j < winograd_points(x->f[1]); j++) {
            Expr at[MAX_RANK] = {0};
            low_index(x->l, space, 3, at);
            at[3] = expr_index(k, i), at[4] = expr_index(k, j), at[5] = expr_axis(k, x->t), at[6] = expr_axis(k, out);
            d[i][j] = expr_load(k, m, at);
        }
    Expr value = transform_tile(x, true, d, pixel);
    if (x->bias) value = expr_add(k, value, expr_load(k, x->bias, (Expr[MAX_RANK]){expr_axis(k, out)}));
    Compute *s = low_stage(x->l, x->y, space, 7, value);
    memset(s->at, 0, sizeof s->at);
    s->at[0] = expr_axis(k, x->n), s->at[1] = expr_axis(k, out);
    for (int i = 0; i < 2; i++) {
        s->at[2 + i] = place(x, i, expr_axis(k, pixel[i]));
        where = expr_and(k, where, expr_lt(k, s->at[2 + i], low_dim(x->l, x->y, 2 + i)));
    }
    s->where = expr_is(k, where, 1) ? 0 : where, s->share = x->share;
}

static void lower_winograd(Lower *l)
{
    Kernel *k = l->k;
    Tiles x = {.l = l, .k = k, .x = low_in(l, 0), .u = low_in(l, 1), .bias = low_in(l, 2), .y = low_out(l, 0)};
    int64_t block[2];
    int position[2];
    bool known = read_rows(k->dim, l->n, low_in_type(l, 1), x.f);
    assert(known && "infer accepted this node"), (void)known;
    WinogradShape shape = shape_of(k->dim, low_in_type(l, 1), low_out_type(l, 0), x.f);
    if (winograd_block((WinogradPair){x.f[0], x.f[1]}, &shape, &block[0], &block[1])) x.share = low_share(l);
    low_channels_last(l, x.x), low_channels_last(l, x.y);
    x.n = low_axis(l, low_dim(l, x.y, 0));
    for (int d = 0; d < 2; d++) {
        Dim span = dim_const(k->dim, block[d] * x.f[d]->outputs);
        x.low[d] = node_ints(l->n, "pads", &(uint32_t){0})[d];
        x.block[d] = expr_index(k, block[d]);
        x.at[d] = low_axis(l, expr_dim(k, dim_cdiv(k->dim, low_out_type(l, 0)->dim[d + 2], span)));
        position[d] = low_axis(l, expr_index(k, winograd_points(x.f[d])));
    }
    x.tiles = block[0] * block[1];
    transform_output(&x, multiply(&x, transform_input(&x, position), position));
}

const OpDef ops_winograd[] = {
    OP(ConvWinograd, .domain = "octet", .since = 1, .sig = "X:f32 U:T B:f32? -> Y:f32", .T = "f32 bf16",
       .attrs = "outputs:ints! pads:ints!", .infer = infer_winograd, .lower = lower_winograd),
    {0},
};
