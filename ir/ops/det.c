/* det.c - Det: the determinants of square matrices, by elimination.
 *
 * A step takes the row with the largest element of its column as the pivot, puts the row that it stands in in its place, and clears the
 * column below: a scan, of which two matrices are kept, the one before a step and the one behind it. The determinant is the product of
 * the pivots, whose sign changes with each exchange. Source: ONNX, clause of Det; elimination with partial pivots, as LAPACK's getrf. */
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <string.h>

static bool infer_det(Infer *c)
{
    int rank = in_rank(c, 0);
    if (rank < 2 || rank >= MAX_RANK) return infer_error(c, "X has rank %d, expected 2 to %d", rank, MAX_RANK - 1);
    return require_eq(c, in_dim(c, 0, rank - 2), in_dim(c, 0, rank - 1), "sides of a square matrix") &&
           out_shape(c, 0, rank - 2, in_type(c, 0)->dim);
}

typedef struct Elimination {
    int x, state, batch; /* batch: how many dimensions */
    int space[MAX_RANK]; /* axes of the batch and then the step, which all stages share */
    Expr at[MAX_RANK], step, size;
    DType acc;
} Elimination;

/* Element (i, j) as the steps before this one have left it. */
static Expr element(Lower *l, const Elimination *e, Expr i, Expr j)
{
    Kernel *k = l->k;
    Expr first[MAX_RANK] = {0}, later[MAX_RANK] = {expr_mod(k, e->step, expr_index(k, 2))};
    memcpy(first, e->at, (size_t)e->batch * sizeof *first);
    memcpy(later + 1, e->at, (size_t)e->batch * sizeof *first);
    first[e->batch] = later[e->batch + 1] = i, first[e->batch + 1] = later[e->batch + 2] = j;
    Expr is_first = expr_prim(k, P_eq, e->step, expr_index(k, 0), 0);
    return expr_guard(k, is_first, low_load(l, e->x, first), expr_load(k, e->state, later));
}

/* One number for each matrix and step, reduced over the rows from the step's on. */
static int column_stage(Lower *l, const Elimination *e, DType t, Prim how, int row, Expr value)
{
    Kernel *k = l->k;
    Expr dim[MAX_RANK];
    for (int i = 0; i <= e->batch; i++) dim[i] = k->axis.at[e->space[i]].extent;
    int out = low_temp(l, t, e->batch + 1, dim);
    value = low_select(l, expr_le(k, e->step, expr_axis(k, row)), value, reduce_identity(k, how, t));
    low_reduce(l, out, e->space, e->batch + 1, &row, 1, how, value, 0)->scan = e->space[e->batch];
    return out;
}

/* The row of the pivot; one that exists, also where nothing compares. */
static Expr pivot_row(Lower *l, const Elimination *e, Expr *largest)
{
    Kernel *k = l->k;
    int rows = low_axis(l, e->size), again = low_axis(l, e->size);
    Expr size = expr_prim(k, P_abs, element(l, e, expr_axis(k, rows), e->step), 0, 0);
    *largest = expr_load(k, column_stage(l, e, e->acc, P_max, rows, size), e->at);
    size = expr_prim(k, P_abs, element(l, e, expr_axis(k, again), e->step), 0, 0);
    Expr last = expr_sub(k, e->size, expr_index(k, 1));
    Expr found = low_select(l, expr_prim(k, P_eq, size, *largest, 0), expr_axis(k, again), last);
    return expr_prim(k, P_min, expr_load(k, column_stage(l, e, DT_i64, P_min, again, found), e->at), last, 0);
}

/* The matrix behind the step: of the rows and columns after it, the rest is not read again. */
static void clear_column(Lower *l, const Elimination *e, Expr pivot, Expr largest)
{
    Kernel *k = l->k;
    int axis[MAX_RANK], n = e->batch + 1;
    memcpy(axis, e->space, (size_t)n * sizeof *axis);
    Expr i = expr_axis(k, axis[n++] = low_axis(l, e->size)), j = expr_axis(k, axis[n++] = low_axis(l, e->size));
    Expr from = low_select(l, expr_prim(k, P_eq, i, pivot, 0), e->step, i), zero = low_const(l, e->acc, 0);
    Expr factor = expr_div(k, element(l, e, from, e->step), element(l, e, pivot, e->step));
    factor = low_select(l, expr_prim(k, P_eq, largest, zero, 0), zero, factor); /* a column of zeros is clear */
    Expr value = expr_sub(k, element(l, e, from, j), expr_mul(k, factor, element(l, e, pivot, j)));
    Expr left = expr_and(k, expr_lt(k, e->step, i), expr_lt(k, e->step, j));
    Compute *s = low_stage(l, e->state, axis, n, expr_guard(k, left, value, zero));
    memset(s->at, 0, sizeof s->at);
    s->at[0] = expr_mod(k, expr_add(k, e->step, expr_index(k, 1)), expr_index(k, 2));
    memcpy(s->at + 1, e->at, (size_t)e->batch * sizeof *s->at);
    s->at[e->batch + 1] = i, s->at[e->batch + 2] = j, s->scan = axis[e->batch];
}

static void lower_det(Lower *l)
{
    Kernel *k = l->k;
    Elimination e = {.x = low_in(l, 0), .acc = dtype_compute(low_type(l, low_in(l, 0)))};
    int out = low_out(l, 0), axis[MAX_RANK];
    e.batch = low_rank(l, out), e.size = low_dim(l, e.x, e.batch);
    Expr dim[MAX_RANK] = {expr_index(k, 2)}, at[MAX_RANK] = {0};
    low_axes(l, out, e.space);
    e.space[e.batch] = low_axis(l, e.size);
    low_index(l, e.space, e.batch + 1, e.at);
    e.step = e.at[e.batch];
    for (int i = 0; i < e.batch + 2; i++) dim[i + 1] = low_dim(l, e.x, i);
    e.state = low_temp(l, e.acc, e.batch + 3, dim);
    Expr largest, row = pivot_row(l, &e, &largest), stays = expr_prim(k, P_eq, row, e.step, 0),
                  pivot = element(l, &e, row, e.step);
    int pivots = low_temp(l, e.acc, e.batch + 1, dim + 1);
    low_stage(l, pivots, e.space, e.batch + 1, low_select(l, stays, pivot, expr_prim(k, P_neg, pivot, 0, 0)))->scan =
        e.space[e.batch];
    clear_column(l, &e, row, largest);
    low_axes(l, out, axis), low_index(l, axis, e.batch, at);
    int steps = low_axis(l, e.size);
    at[e.batch] = expr_axis(k, steps);
    low_reduce(l, out, axis, e.batch, &steps, 1, P_mul, expr_load(k, pivots, at), 0);
}

const OpDef ops_det[] = {
    OP(Det, .since = 11, .sig = "X:T -> Y:T", .T = "float", .infer = infer_det, .lower = lower_det),
    {0},
};
