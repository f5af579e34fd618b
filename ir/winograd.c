/* winograd.c - the table of minimal filtering algorithms, the transform of weights, and the cost model: see winograd.h.
 *
 * The rows interpolate at 0, 1, -1, 2, -2 and infinity. The fractions stand on the side of the filter, which is transformed in double; what
 * is left to do while the model runs are sums and products with powers of two. Neighbouring bodies have common terms, written alike so
 * that they are computed once.
 *
 * Costs are counted in multiplications of the type in question, measured on a core with two 512-bit multiply-adds (or bf16 dot products)
 * a cycle; narrower registers, or bf16 that is widened and multiplied in f32, make multiplications dearer and leave the rest as it is,
 * so that what pays there pays everywhere. */
#include "ir/winograd.h"
#include <math.h>

static const Winograd table[] = {
    {1, 1, {"d0"}, {"d0"}, {{1}}},
    {2,
     3,
     {"d0 - d2", "d2 + d1", "d2 - d1", "d1 - d3"},
     {"d0 + (d1 + d2)", "(d1 - d2) - d3"},
     {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}}},
    {4,
     3,
     {"(d4 - d2) + 4 * (d0 - d2)", "(d4 - 4 * d2) + (d3 - 4 * d1)", "(d4 - 4 * d2) - (d3 - 4 * d1)",
      "(d4 - d2) + 2 * (d3 - d1)", "(d4 - d2) - 2 * (d3 - d1)", "(d5 - d3) + 4 * (d1 - d3)"},
     {"d0 + ((d1 + d2) + (d3 + d4))", "(d1 - d2) + 2 * (d3 - d4)", "(d1 + d2) + 4 * (d3 + d4)",
      "((d1 - d2) + 8 * (d3 - d4)) + d5"},
     {{1.0 / 4, 0, 0},
      {-1.0 / 6, -1.0 / 6, -1.0 / 6},
      {-1.0 / 6, 1.0 / 6, -1.0 / 6},
      {1.0 / 24, 1.0 / 12, 1.0 / 6},
      {1.0 / 24, -1.0 / 12, 1.0 / 6},
      {0, 0, 1}}},
};

const Winograd *winograd_find(int outputs, int taps)
{
    for (size_t i = 0; i < COUNT_OF(table); i++)
        if (table[i].outputs == outputs && table[i].taps == taps) return &table[i];
    return NULL;
}

/* ---- weights ---- */
/* The filter at element (o, c) of w, transformed: [points of y][points of x] of [ins][outs]. */
static void filter_transform(WinogradPair f, const Tensor *w, int64_t o, int64_t c, const Tensor *u)
{
    int64_t outs = w->dim[0], ins = w->dim[1];
    int ny = winograd_points(f.y), nx = winograd_points(f.x), ry = f.y->taps, rx = f.x->taps;
    const float *g = (const float *)w->data + (o * ins + c) * ry * rx;
    double rows[WINOGRAD_POINTS][WINOGRAD_TAPS] = {{0}};
    for (int i = 0; i < ny; i++)
        for (int x = 0; x < rx; x++)
            for (int y = 0; y < ry; y++) rows[i][x] += f.y->filter[i][y] * (double)g[y * rx + x];
    for (int i = 0; i < ny; i++)
        for (int j = 0; j < nx; j++) {
            double v = 0;
            for (int x = 0; x < rx; x++) v += f.x->filter[j][x] * rows[i][x];
            dtype_store(u->type, (void *)(uintptr_t)u->data, ((i * nx + j) * ins + c) * outs + o, v);
        }
}

/* Few input channels at a time: the lines that their filters go to stay in the cache until neighbouring outputs have filled them. */
Tensor *winograd_filter(Arena *mem, WinogradPair f, const Tensor *w, DType product)
{
    enum { FEW = 8 };
    int64_t outs = w->dim[0], ins = w->dim[1];
    Tensor *u = tensor_new(mem, product, 4, (int64_t[]){winograd_points(f.y), winograd_points(f.x), ins, outs});
    for (int64_t from = 0; from < ins; from += FEW)
        for (int64_t o = 0; o < outs; o++)
            for (int64_t c = from; c < from + FEW && c < ins; c++) filter_transform(f, w, o, c, u);
    return u;
}

/* ---- what it costs ---- */
enum {
    LEAST_CHANNELS = 16,   /* fewer do not fill the lanes */
    FREE = 56,             /* what a free size is taken for */
    SUM = 4,               /* bytes of a sum of products */
    CACHE = 1 << 20,       /* bytes of a core's second level */
    NEAR = 3,              /* weights that a block reads again come from a nearer cache than tiles: by so much cheaper */
    LEAST_BLOCKS = 8,      /* so that threads have something to share */
    FREE_ACROSS = 7        /* tiles of a block along a free size: few, since the last block may be mostly empty */
};

/* What products of a type cost, against one of a direct sum, and what rounding to it admits. The row of bf16 is fitted to layers of 16 to
 * 512 channels on maps of 7 to 112, within a tenth from 14 on. A tile's values and weights are rounded once more than those of a direct
 * sum, and the transform back enlarges that: F(2x2) in bf16 loses 5 dB to direct sums of bf16, F(2x4) 12 dB, F(4x4) 20 dB, which leaves
 * an error of a fortieth. */
typedef struct WinogradCost {
    DType product;
    int outputs;      /* of a row, at most: how far rounding allows */
    double tile;      /* a product of a tile */
    double transform; /* an element of a tile, in and out */
    double fetch;     /* a weight that comes from memory */
    double steps;     /* what three steps take more than one: threads wait for each other in between */
} WinogradCost;
static const WinogradCost costs[] = {
    {DT_f32, 4, 1.08, 8, 16, 100000},
    {DT_bf16, 2, 1.0, 11, 6, 600000},
};

static const WinogradCost *cost_of(DType product)
{
    for (size_t i = 0; i < COUNT_OF(costs); i++)
        if (costs[i].product == product) return &costs[i];
    return NULL;
}

static int64_t tiles_along(int64_t size, const Winograd *f) { return (size + f->outputs - 1) / f->outputs; }

static double cost(const WinogradShape *s, WinogradPair f)
{
    const WinogradCost *c = cost_of(s->product);
    double points = winograd_points(f.y) * winograd_points(f.x), weights = (double)s->in * (double)s->out;
    double tiles = (double)(tiles_along(s->height, f.y) * tiles_along(s->width, f.x));
    return points * (weights * (tiles * c->tile + c->fetch) + tiles * c->transform * (double)(s->in + s->out)) + c->steps;
}

bool winograd_choose(const WinogradShape *shape, WinogradPair *best)
{
    WinogradShape s = *shape;
    const WinogradCost *most = cost_of(s.product);
    bool free = s.height < 0 || s.width < 0, found = false;
    if (s.height < 0) s.height = FREE;
    if (s.width < 0) s.width = FREE;
    if (!most || s.in < LEAST_CHANNELS || s.out < LEAST_CHANNELS) return false;
    double weights = (double)(s.in * s.out), taps = (double)(s.taps_y * s.taps_x);
    double least = taps * weights * ((double)(s.height * s.width) + most->fetch);
    for (size_t i = 0; i < COUNT_OF(table) * COUNT_OF(table); i++) {
        WinogradPair f = {&table[i / COUNT_OF(table)], &table[i % COUNT_OF(table)]};
        if (f.y->taps != s.taps_y || f.x->taps != s.taps_x || f.y->outputs * f.x->outputs == 1) continue;
        if (f.y->outputs > most->outputs || f.x->outputs > most->outputs) continue;
        int64_t down, across;
        if (free && !winograd_block(f, shape, &down, &across)) continue;
        double c = cost(&s, f);
        if (c < least) least = c, *best = f, found = true;
    }
    return found;
}

/* Among blocks that fit, the one that computes least: tiles past the end, rows that do not fill a register tile, and weights that are
 * read again for every block all cost. */
static double block_cost(int64_t rows, int64_t cols, int64_t down, int64_t across)
{
    enum { ROWS = 14 };
    int64_t n = down * across, blocks = ((rows + down - 1) / down) * ((cols + across - 1) / across);
    double calls = (double)(n / ROWS) + (n % ROWS ? 0.5 + 0.5 * (double)(n % ROWS) / ROWS : 0);
    return (double)blocks * (calls + 0.25);
}

bool winograd_block(WinogradPair f, const WinogradShape *s, int64_t *down, int64_t *across)
{
    int64_t points = winograd_points(f.y) * winograd_points(f.x), bytes = dtypes[s->product].bytes;
    int64_t weights = bytes * points * s->in * s->out;
    int64_t tile = points * (bytes * s->in + SUM * s->out), most = CACHE / 2 / tile;
    if (s->height < 0 || s->width < 0) {
        *across = most < FREE_ACROSS ? most : FREE_ACROSS, *down = most / FREE_ACROSS < 4 ? most / FREE_ACROSS : 4;
        return weights <= CACHE && *down > 0;
    }
    int64_t rows = tiles_along(s->height, f.y), cols = tiles_along(s->width, f.x), all = rows * cols * tile;
    double least = INFINITY;
    *down = rows, *across = cols;
    if (all <= 2 * CACHE || most < 1) return false; /* what the last stage left is still near */
    for (int64_t h = 1; h <= rows && h <= most; h++)
        for (int64_t w = 1; w <= cols && h * w <= most; w++) {
            double c = block_cost(rows, cols, h, w);
            if (((rows + h - 1) / h) * ((cols + w - 1) / w) >= LEAST_BLOCKS && c < least) least = c, *down = h, *across = w;
        }
    int64_t blocks = ((rows + *down - 1) / *down) * ((cols + *across - 1) / *across);
    bool blocked = least < INFINITY && blocks * weights < NEAR * 2 * all;
    if (!blocked) *down = rows, *across = cols;
    return blocked;
}
