/* codes.c - sums of codes in blocks: integers inside a block, floats of blocks.
 *
 * Comes in: a matched `contract` call (micro.c) whose blocks are (steps * sum of value * code - zero * sum of values) * scale, all but values and codes
 * chosen by the first loops of the sum. Goes out: its float sums.
 *
 * Inside a block nothing is rounded. Where f32 holds it, its number is made of floats, in steps, and steps are multiplied out when all blocks are added:
 * a power of two, which only products too small for normal floats would notice. Else it is made of integers. */
#include "codegen/analyse.h"
#include "codegen/llvm/micro.h"
#include <math.h>

/* ---- a block's number ---- */
/* The largest magnitude an integer may have, as far as that is easily seen. */
static double int_bound(const Kernel *k, Expr e)
{
    ExprNode n = *expr_node(k, e);
    if (n.kind == E_INT) return fabs((double)n.u.i);
    if (n.kind == E_LOAD && dtype_is_int((DType)n.type))
        return fmax((double)dtype_max((DType)n.type), -(double)dtype_min((DType)n.type));
    if (n.kind != E_PRIM) return INFINITY;
    if (n.prim == P_cast && dtypes[n.type].bits >= 32) return int_bound(k, n.arg[0]);
    if (n.prim == P_and && expr_node(k, n.arg[1])->kind == E_INT) return fabs((double)expr_node(k, n.arg[1])->u.i);
    if (n.prim == P_add || n.prim == P_sub) return int_bound(k, n.arg[0]) + int_bound(k, n.arg[1]);
    if (n.prim == P_mul) return int_bound(k, n.arg[0]) * int_bound(k, n.arg[1]);
    return INFINITY;
}

/* Does f32 hold steps * sum - zero * values? */
static bool is_exact(const Micro *m)
{
    enum { MOST_VALUE = 128, EXACT = 1 << 24 };
    const Kernel *k = m->x->k;
    double terms = 1, code = m->t->mask ? (double)m->t->mask : UINT8_MAX;
    if (m->t->steps & (m->t->steps - 1)) return false;
    for (int d = m->t->blocks; d < m->t->depths; d++)
        terms *= (double)expr_constant(k, k->axis.at[m->t->depth[d]].extent, EXACT);
    return terms * MOST_VALUE * (code * (double)m->t->steps + (m->t->zero ? int_bound(k, m->t->zero) : 0)) <= EXACT;
}

/* What is multiplied with the scale, in steps: of floats, which hold it. zero: negative, in steps; NULL: none. */
static V number_of(const Micro *m, V sum, V values, V zero)
{
    V number = LLVMBuildSIToFP(m->x->b, sum, m->total_type, "");
    return zero ? scalar_fma(m->x, splat(m->x, values, LLVMGetVectorSize(m->total_type)), zero, number) : number;
}

static V zero_steps(const Micro *m, V zero)
{
    Emit *x = m->x;
    T floats = like(x->f32, zero);
    return LLVMBuildFMul(x->b, LLVMBuildSIToFP(x->b, zero, floats, ""), real_of(floats, -1 / (double)m->t->steps), "");
}

/* ---- vectors ---- */
static V part_of(Micro *m, V all, unsigned part) /* the lanes of one register */
{
    V index[64];
    unsigned lanes = m->lanes / m->parts;
    if (m->parts == 1) return all;
    for (unsigned i = 0; i < lanes; i++) index[i] = LLVMConstInt(m->x->i32, part * lanes + i, 0);
    return LLVMBuildShuffleVector(m->x->b, all, LLVMGetUndef(LLVMTypeOf(all)), LLVMConstVector(index, lanes), "");
}

/* The totals of sums in blocks: registers while these are enough for them beside a block's sums, else volatile memory, or they would be moved
 * to and fro in the hot loop. */
static V code_total(Micro *m, V totals, int i, unsigned j, unsigned p)
{
    V at = int64(m->x, (i * (int)m->cols + (int)j) * (int)m->parts + (int)p);
    return LLVMBuildInBoundsGEP2(m->x->b, m->total_type, totals, &at, 1, "");
}

static bool totals_fit(const Micro *m)
{
    enum { BESIDE = 3 }; /* a row, ones, a mask */
    return fits_beside(m, (m->rows + 1) * (int)(m->cols * m->parts) + BESIDE);
}

/* The same of integers, in whole numbers. */
static V whole_number(const Micro *m, V sum, V values, V zero)
{
    Emit *x = m->x;
    T ints = LLVMTypeOf(sum);
    if (m->t->steps != 1) sum = LLVMBuildMul(x->b, sum, int_of(ints, m->t->steps), "");
    if (zero) {
        V whole = splat(x, LLVMBuildFPToSI(x->b, values, x->i32, ""), LLVMGetVectorSize(ints));
        sum = LLVMBuildSub(x->b, sum, LLVMBuildMul(x->b, zero, whole, ""), "");
    }
    return LLVMBuildSIToFP(x->b, sum, m->total_type, "");
}

/* Adds to the totals what a block sums to: (steps * sum - zero * values) * scale. */
static void add_block(Micro *m, V totals)
{
    Emit *x = m->x;
    const Tile *t = m->t;
    bool exact = is_exact(m);
    for (unsigned j = 0; j < m->cols; j++) {
        x->var[t->col] = m->col[j];
        V zero = t->zero ? in_lanes(m, m->mask[j], t->zero) : NULL, values = NULL;
        if (zero && exact) zero = zero_steps(m, zero);
        for (int i = 0; i < m->rows; i++) {
            tile_row(x, t, m->row[i]), x->var[t->col] = m->col[j];
            if (zero) values = emit_scalar(x, t->sum);
            V scale = in_lanes(m, m->mask[j], t->scale);
            for (unsigned p = 0; p < m->parts; p++) {
                V sum = m->acc[i][j][p], at = code_total(m, totals, i, j, p), part = zero ? part_of(m, zero, p) : NULL;
                V number = exact ? number_of(m, sum, values, part) : whole_number(m, sum, values, part);
                V total = LLVMBuildLoad2(x->b, m->total_type, at, "");
                V store = LLVMBuildStore(x->b, scalar_fma(x, number, part_of(m, scale, p), total), at);
                LLVMSetVolatile(total, !totals_fit(m)), LLVMSetVolatile(store, !totals_fit(m));
                LLVMSetAlignment(total, SCRATCH_ALIGN / m->parts), LLVMSetAlignment(store, SCRATCH_ALIGN / m->parts);
            }
        }
    }
}

static void each_block(Micro *m, int d, V totals)
{
    Emit *x = m->x;
    if (d == m->t->blocks) {
        EACH_ACC(m, i, j, p) m->acc[i][j][p] = LLVMConstNull(m->acc_type);
        depth_loop(m, d);
        add_block(m, totals);
        return;
    }
    int axis = m->t->depth[d];
    Loop l = loop_head(x, int64(x, 0), emit_scalar(x, x->k->axis.at[axis].extent));
    loop_body(x, &l);
    x->var[axis] = l.i;
    each_block(m, d + 1, totals);
    loop_close(x, &l, 1);
}

void sum_codes(Micro *m)
{
    Emit *x = m->x;
    T all = LLVMArrayType2(m->acc_type, (uint64_t)m->rows * m->cols * m->parts);
    V totals = LLVMBuildAlloca(x->entry, all, "totals");
    bool steps = m->t->steps != 1 && is_exact(m);
    LLVMSetAlignment(totals, SCRATCH_ALIGN);
    EACH_ACC(m, i, j, p) LLVMBuildStore(x->b, m->acc[i][j][p], code_total(m, totals, i, j, p));
    m->acc_type = LLVMVectorType(x->i32, m->lanes / m->parts);
    each_block(m, 0, totals);
    m->acc_type = m->total_type;
    EACH_ACC(m, i, j, p)
    {
        V total = LLVMBuildLoad2(x->b, m->acc_type, code_total(m, totals, i, j, p), "");
        if (steps) total = LLVMBuildFMul(x->b, total, real_of(m->acc_type, (double)m->t->steps), "");
        m->acc[i][j][p] = total;
    }
}
