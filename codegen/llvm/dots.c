/* dots.c - sums whose terms lie side by side in both factors, and whose columns lie apart: the keys of attention, as caches hold them.
 *
 * Comes in: a matched `contract` call of one row and one panel (micro.c). Goes out: its sums, one in each lane.
 *
 * Lanes are terms: some columns at a time have a vector of partial sums each. The vectors are then added up by halves, two of them in one, until
 * a lane is left for each column: what that takes for a vector of columns is about what one column would take alone. Turning the factor
 * into panels beforehand would take longer than such a sum, unless many rows read it.
 *
 * A column has as many partial sums on every level, and they are added in the same order. */
#include "codegen/analyse.h"
#include "codegen/llvm/micro.h"

/* Terms of a factor from `at` on, in lanes. */
static V terms(Micro *m, Expr factor, DType type, V at)
{
    Emit *x = m->x;
    int axis = m->t->depth[0];
    V outside = x->var[axis];
    x->lane = axis, x->lanes = DOTS, x->var[axis] = at;
    V v = splat(x, emit_fresh(x, factor), DOTS);
    x->lane = 0, x->var[axis] = outside;
    return scalar_cast(x, type, DT_f32, v);
}

/* Each column's partial sums added up by halves: those of a and, unless it is NULL, of b behind them. */
static V halved(Emit *x, V a, V b, unsigned columns)
{
    unsigned lanes = LLVMGetVectorSize(LLVMTypeOf(a)), each = lanes / columns, n = 0;
    V half[2], index[2][DOTS];
    for (unsigned v = 0; v < (b ? 2 : 1); v++)
        for (unsigned c = 0; c < columns; c++)
            for (unsigned i = 0; i < each / 2; i++, n++)
                for (unsigned h = 0; h < 2; h++)
                    index[h][n] = LLVMConstInt(x->i32, v * lanes + c * each + h * each / 2 + i, 0);
    for (unsigned h = 0; h < 2; h++)
        half[h] =
            LLVMBuildShuffleVector(x->b, a, b ? b : LLVMGetPoison(LLVMTypeOf(a)), LLVMConstVector(index[h], n), "");
    return LLVMBuildFAdd(x->b, half[0], half[1], "");
}

static V folded(Emit *x, V *sum, unsigned n) /* n vectors, a power of two; yields a vector of n sums */
{
    unsigned columns = 1;
    for (; columns < n; columns *= 2)
        for (unsigned i = 0; i < n / columns / 2; i++) sum[i] = halved(x, sum[2 * i], sum[2 * i + 1], columns);
    for (V *v = sum; LLVMGetVectorSize(LLVMTypeOf(*v)) > n;) *v = halved(x, *v, NULL, n);
    return sum[0];
}

/* Columns that do not exist read the first again. */
static V some_columns(Micro *m, unsigned first, unsigned n)
{
    Emit *x = m->x;
    const Tile *t = m->t;
    V column[DOTS], sum[DOTS], zero = LLVMConstNull(LLVMVectorType(x->f32, DOTS));
    for (unsigned c = 0; c < n; c++) {
        column[c] = x->var[t->lane] = int64(x, first + c);
        if (t->lane_guard) column[c] = select2(x, emit_scalar(x, t->lane_guard), column[c], int64(x, 0));
    }
    Loop l = loop_head(x, int64(x, 0), emit_scalar(x, x->k->axis.at[t->depth[0]].extent));
    for (unsigned c = 0; c < n; c++) {
        sum[c] = LLVMBuildPhi(x->b, LLVMTypeOf(zero), "sum");
        LLVMAddIncoming(sum[c], &zero, &l.from, 1);
    }
    loop_body(x, &l);
    V phi[DOTS], left = terms(m, m->left, m->left_type, l.i);
    memcpy(phi, sum, sizeof phi);
    for (unsigned c = 0; c < n; c++) {
        x->var[t->lane] = column[c];
        sum[c] = scalar_fma(x, left, terms(m, m->right, m->right_type, l.i), sum[c]);
    }
    loop_close(x, &l, DOTS);
    for (unsigned c = 0; c < n; c++) LLVMAddIncoming(phi[c], &sum[c], &l.body, 1);
    return folded(x, phi, n);
}

bool sums_dots(const Micro *m)
{
    Kernel *k = m->x->k;
    const Tile *t = m->t;
    int64_t n;
    ExprNode right = *expr_node(k, m->right);
    if (t->dot || t->scale || t->acc != DT_f32 || m->rows != 1 || m->cols != 1 || m->lanes != DOTS || m->depths != 1)
        return false;
    if (right.kind != E_LOAD || !m->left_at || !expr_is_index(k, k->axis.at[t->depth[0]].extent, &n) || n % DOTS)
        return false;
    Expr at = buf_address(k, (int)right.id, right.arg);
    return step_is(k, m->left_at, t->depth[0], 1) && step_is(k, at, t->depth[0], 1) && !step_is(k, at, t->lane, 1);
}

/* Half of the registers have sums, or a quarter where products need some, too. */
void sum_dots(Micro *m)
{
    const Target *t = m->x->target;
    unsigned registers = (unsigned)(t->fma ? t->registers / 2 : t->registers / 4),
             n = registers * (unsigned)t->lanes / DOTS;
    V part[DOTS];
    tile_row(m->x, m->t, m->row[0]), m->x->var[m->t->col] = m->col[0];
    for (unsigned i = 0; i < DOTS / n; i++) part[i] = some_columns(m, i * n, n);
    m->acc[0][0][0] = joined(m->x, part, DOTS / n);
}
