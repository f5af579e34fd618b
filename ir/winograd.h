/* winograd.h - minimal filtering: convolutions of stride 1 with fewer multiplications.
 *
 * F(m, r) makes m neighbouring results of a filter of r taps out of m + r - 1 values d0, d1 ... with as many products, instead of
 * m * r: the values are transformed (`in`), so are the taps (`filter`, when the model is compiled), the products are summed over the
 * channels, and the sums are transformed back (`out`). A filter of two dimensions takes a row of the table for each.
 * The table, what it costs and when it pays are here; ir/ops/winograd.c says it as stages, passes/winograd.c applies it. */
#ifndef OCTET_WINOGRAD_H
#define OCTET_WINOGRAD_H
#include "ir/tensor.h"

enum { WINOGRAD_POINTS = 6, WINOGRAD_TAPS = 3 };
typedef struct Winograd {
    int outputs, taps;
    const char *in[WINOGRAD_POINTS], *out[WINOGRAD_POINTS]; /* scalar bodies over d0, d1 ... */
    double filter[WINOGRAD_POINTS][WINOGRAD_TAPS];
} Winograd;
const Winograd *winograd_find(int outputs, int taps); /* NULL: no such row */
static inline int winograd_points(const Winograd *w) { return w->outputs + w->taps - 1; }

typedef struct WinogradPair { const Winograd *y, *x; } WinogradPair; /* along rows and along columns */
/* A convolution: channels, taps, size of the output; a size that is free is -1. And what is multiplied: values and taps are transformed
 * in f32 or better and rounded once to this type, sums are f32. */
typedef struct WinogradShape {
    int64_t in, out, taps_y, taps_x, height, width;
    DType product;
} WinogradShape;
/* The pair that costs least; false: computing the sums directly costs less than any. */
bool winograd_choose(const WinogradShape *s, WinogradPair *best);
/* How many tiles (of y->outputs x x->outputs results) a pass over all channels takes, down and across, so that what it computes in
 * between stays in the cache. false: all of them are taken at once, one step after the other. */
bool winograd_block(WinogradPair f, const WinogradShape *s, int64_t *down, int64_t *across);
/* W[o, c, y, x] as U[i, j, c, o], rounded to `product`. */
Tensor *winograd_filter(Arena *mem, WinogradPair f, const Tensor *w, DType product);
#endif
