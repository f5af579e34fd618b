/* value.c - expressions into values: scalars, or vectors where they depend on the lane axis.
 *
 * Within one statement an expression is computed once. Nothing is read where the kernel does not say so: a guard
 * that the lanes agree on is a branch, one that they do not is a mask. */
#include "codegen/llvm/internal.h"

/* ---- sizes known at run time: computed once, in the entry block ---- */
static V floor_divide(Emit *x, LLVMBuilderRef b, V n, V d, bool truncate)
{
    V none = LLVMBuildICmp(b, LLVMIntEQ, d, int64(x, 0), "");
    d = LLVMBuildSelect(b, none, int64(x, 1), d, ""); /* the artefact has refused such sizes; this only must not trap */
    V q = LLVMBuildSDiv(b, n, d, "");
    int64_t by = LLVMIsAConstantInt(d) ? LLVMConstIntGetSExtValue(d) : 0;
    if (truncate) return q;
    for (int shift = 0; by > 0 && shift < 63; shift++)
        if (by == (int64_t)1 << shift) return LLVMBuildAShr(b, n, int64(x, shift), "");
    V rest = LLVMBuildSub(b, n, LLVMBuildMul(b, q, d, ""), ""),
      below = LLVMBuildICmp(b, LLVMIntSLT, rest, int64(x, 0), "");
    return LLVMBuildAdd(b, q, LLVMBuildSExt(b, below, x->i64, ""), "");
}

static V dim_unary(Emit *x, LLVMBuilderRef b, const DimCode *c, V a)
{
    V zero = int64(x, 0);
    if (c->op == DIMOP_POS) return LLVMBuildSelect(b, LLVMBuildICmp(b, LLVMIntSGT, a, zero, ""), a, zero, "");
    if (c->op == DIMOP_SCALE) {
        float s;
        uint32_t bits = (uint32_t)c->arg;
        memcpy(&s, &bits, sizeof s);
        V f = LLVMBuildFMul(b, LLVMBuildSIToFP(b, a, x->f32, ""), LLVMConstReal(x->f32, (double)s), "");
        return LLVMBuildFreeze(b, LLVMBuildFPToSI(b, f, x->i64, ""), "");
    }
    return LLVMBuildZExt(b, LLVMBuildICmp(b, c->op == DIMOP_GE0 ? LLVMIntSGE : LLVMIntEQ, a, zero, ""), x->i64, "");
}

static V size_symbol(Emit *x, int64_t i)
{
    V at = int64(x, i);
    return LLVMBuildLoad2(x->entry, x->i64, LLVMBuildInBoundsGEP2(x->entry, x->i64, x->size, &at, 1, ""), "size");
}

static V dim_value(Emit *x, uint32_t dim)
{
    for (uint32_t i = 0; i < x->dim.n; i++)
        if (x->dim.at[i].dim == dim) return x->dim.at[i].v;
    const DimCode *code;
    uint32_t n = dim_code(x->k->dim, (Dim){dim}, x->mem, &code), top = 0;
    V *stack = NEW_ARRAY(x->mem, V, n + 1);
    LLVMBuilderRef b = x->entry;
    for (uint32_t i = 0; i < n; i++) {
        const DimCode *c = &code[i];
        if (c->op == DIMOP_CONST) {
            stack[top++] = int64(x, c->arg);
            continue;
        }
        if (c->op == DIMOP_SYM) {
            stack[top++] = size_symbol(x, c->arg);
            continue;
        }
        if (c->op == DIMOP_POS || c->op == DIMOP_GE0 || c->op == DIMOP_EQ0 || c->op == DIMOP_SCALE) {
            stack[top - 1] = dim_unary(x, b, c, stack[top - 1]);
            continue;
        }
        V r = stack[--top], l = stack[top - 1];
        stack[top - 1] = c->op == DIMOP_ADD   ? LLVMBuildAdd(b, l, r, "")
                         : c->op == DIMOP_MUL ? LLVMBuildMul(b, l, r, "")
                                              : floor_divide(x, b, l, r, c->op == DIMOP_TDIV);
    }
    assert(top == 1);
    struct DimValue known = {dim, stack[0]};
    vec_push(x->mem, &x->dim, known);
    return stack[0];
}

/* ---- what a statement already computed: forgotten when the place it was computed in no longer dominates ---- */
static void forget(Emit *x, uint32_t mark)
{
    while (x->trail.n > mark) {
        uint32_t t = x->trail.at[--x->trail.n];
        x->memo[t & 1][t >> 1] = NULL;
    }
}

void forget_all(Emit *x) { forget(x, 0); }

static void remember(Emit *x, Expr e, V v)
{
    if (e >= x->memos) {
        uint32_t n = e * 2 + 64;
        for (int mode = 0; mode < 2; mode++) {
            V *grown = NEW_ARRAY(x->mem, V, n);
            if (x->memos) memcpy(grown, x->memo[mode], x->memos * sizeof *grown);
            x->memo[mode] = grown;
        }
        x->memos = n;
    }
    int mode = x->lane != 0;
    x->memo[mode][e] = v;
    vec_push(x->mem, &x->trail, e * 2 + (uint32_t)mode);
}

/* ---- values ---- */
static bool found_load(void *ctx, Expr load_expr)
{
    (void)load_expr;
    *(bool *)ctx = true;
    return false;
}

static bool reads_memory(const Kernel *k, Expr e)
{
    bool found = false;
    expr_loads(k, e, found_load, &found);
    return found;
}

/* A value under a condition that some lanes fail: loads are masked. */
static V value_masked(Emit *x, Expr e, V cond)
{
    V mask = x->mask, some = x->some;
    uint32_t mark = x->trail.n;
    x->mask = mask ? LLVMBuildAnd(x->b, mask, cond, "") : cond;
    x->some = any_lane(x, x->mask);
    V v = emit_value(x, e);
    forget(x, mark);
    x->mask = mask, x->some = some;
    return v;
}

static V guard_lanes(Emit *x, V cond, Expr value, Expr other)
{
    V v = reads_memory(x->k, value) ? value_masked(x, value, cond) : emit_value(x, value);
    V o = reads_memory(x->k, other) ? value_masked(x, other, LLVMBuildNot(x->b, cond, "")) : emit_value(x, other);
    return LLVMBuildSelect(x->b, cond, splat(x, v, x->lanes), splat(x, o, x->lanes), "");
}

static V guard_branch(Emit *x, V cond, Expr value, Expr other)
{
    LLVMBasicBlockRef in[2] = {block_new(x, "then"), block_new(x, "else")}, done = block_new(x, "guarded");
    Expr e[2] = {value, other};
    V v[2];
    LLVMBuildCondBr(x->b, cond, in[0], in[1]);
    for (int i = 0; i < 2; i++) {
        uint32_t mark = x->trail.n;
        LLVMPositionBuilderAtEnd(x->b, in[i]);
        v[i] = emit_value(x, e[i]);
        forget(x, mark);
        in[i] = LLVMGetInsertBlock(x->b);
    }
    for (int i = 0; i < 2; i++) {
        LLVMPositionBuilderAtEnd(x->b, in[i]);
        if (is_wide(v[1 - i])) v[i] = splat(x, v[i], x->lanes);
        LLVMBuildBr(x->b, done);
    }
    LLVMPositionBuilderAtEnd(x->b, done);
    V phi = LLVMBuildPhi(x->b, LLVMTypeOf(v[0]), "");
    LLVMAddIncoming(phi, v, in, 2);
    return phi;
}

static V emit_guard(Emit *x, const ExprNode *n)
{
    V cond = emit_value(x, n->arg[0]);
    if (is_wide(cond)) return guard_lanes(x, cond, n->arg[1], n->arg[2]);
    if (LLVMIsAConstantInt(cond)) return emit_value(x, n->arg[LLVMConstIntGetZExtValue(cond) ? 1 : 2]);
    if (reads_memory(x->k, n->arg[1]) || reads_memory(x->k, n->arg[2]))
        return guard_branch(x, cond, n->arg[1], n->arg[2]);
    V a[3] = {cond, emit_value(x, n->arg[1]), emit_value(x, n->arg[2])};
    return scalar_prim(x, P_select, (DType)n->type, a);
}

static V iota(Emit *x, T t)
{
    V lane[64];
    assert(x->lanes <= COUNT_OF(lane));
    for (unsigned i = 0; i < x->lanes; i++) lane[i] = LLVMConstInt(t, i, 0);
    return LLVMConstVector(lane, x->lanes);
}

/* An index comparison whose difference moves with the lanes by a small constant: one comparison of 32-bit lanes. */
static V compare_lanes(Emit *x, Prim p, Expr a, Expr b)
{
    if (!x->lane || expr_node(x->k, a)->type != DT_i64 || (p != P_lt && p != P_le)) return NULL;
    Expr d = expr_sub(x->k, b, a), step = expr_step(x->k, d, x->lane);
    int64_t s, far = 1 << 24;
    if (!step || !expr_is_index(x->k, step, &s) || !s || s > 1 << 16 || s < -(1 << 16)) return NULL;
    if (reads_memory(x->k, d)) return NULL; /* already loaded as lanes */
    int lane = x->lane;
    x->lane = 0;
    V first = emit_value(x, d), bound[2] = {int64(x, -far), int64(x, far)};
    x->lane = lane;
    for (int i = 0; i < 2; i++) {
        V closer = LLVMBuildICmp(x->b, i ? LLVMIntSLT : LLVMIntSGT, first, bound[i], "");
        first = LLVMBuildSelect(x->b, closer, first, bound[i], "");
    }
    V lanes = LLVMBuildMul(x->b, iota(x, x->i32), int_of(LLVMVectorType(x->i32, x->lanes), -s), "");
    V at = splat(x, LLVMBuildTrunc(x->b, first, x->i32, ""), x->lanes);
    return LLVMBuildICmp(x->b, p == P_lt ? LLVMIntSLT : LLVMIntSLE, lanes, at, ""); /* first + s * lane > 0, >= 0 */
}

/* An integer in a float that sat(rint(a) + it) can add as one: a number, or what a cast of an element of that type gives. NULL: it is none. */
static V whole_number(Emit *x, Expr e, DType to)
{
    const ExprNode n = *expr_node(x->k, e);
    if (n.kind == E_FLOAT && n.u.f == (double)(int32_t)n.u.f && n.u.f * n.u.f < 0x1p40)
        return LLVMConstInt(x->i32, (unsigned long long)(int64_t)n.u.f, 1);
    if (n.kind != E_PRIM || n.prim != P_cast || (DType)expr_node(x->k, n.arg[0])->type != to) return NULL;
    return scalar_cast(x, to, DT_i32, emit_value(x, n.arg[0]));
}

/* sat(rint(a)) and sat(rint(a) + integer) round and convert in one instruction. */
static V sat_value(Emit *x, const ExprNode *n)
{
    ExprNode in = *expr_node(x->k, n->arg[0]);
    DType to = (DType)n->type;
    V plus = NULL;
    bool small = dtype_is_int(to) && dtypes[to].bits <= 16 && in.type == DT_f32 && in.kind == E_PRIM;
    for (int i = 0; small && i < 2 && in.prim == P_add; i++) {
        const ExprNode l = *expr_node(x->k, in.arg[i]);
        if (l.kind == E_PRIM && l.prim == P_rint && (plus = whole_number(x, in.arg[1 - i], to))) in = l;
    }
    if (small && in.prim == P_rint) return scalar_sat_rint(x, to, emit_value(x, in.arg[0]), plus);
    return scalar_sat(x, (DType)expr_node(x->k, n->arg[0])->type, to, emit_value(x, n->arg[0]));
}

static bool non_negative(Kernel *k, Expr e)
{
    int64_t lo, hi;
    return expr_range(k, e, &lo, &hi) && lo >= 0;
}

static V prim_value(Emit *x, const ExprNode *n)
{
    Prim p = (Prim)n->prim;
    DType first = (DType)expr_node(x->k, n->arg[0])->type, t = p == P_select ? (DType)n->type : first;
    if (p == P_guard) return emit_guard(x, n);
    if (p == P_sat) return sat_value(x, n);
    if (p == P_cast) return scalar_cast(x, first, (DType)n->type, emit_value(x, n->arg[0]));
    V a[3] = {0};
    if ((a[0] = compare_lanes(x, p, n->arg[0], n->arg[1]))) return a[0];
    for (int i = 0; i < prims[p].arity; i++) a[i] = emit_value(x, n->arg[i]);
    bool divides = (p == P_div || p == P_mod) && t == DT_i64;
    int64_t lo, hi;
    if (divides && non_negative(x->k, n->arg[0]) && expr_range(x->k, n->arg[1], &lo, &hi) && lo > 0) { /* an index */
        unsigned lanes = is_wide(a[0]) || is_wide(a[1]) ? x->lanes : 0;
        return LLVMBuildBinOp(x->b, p == P_div ? LLVMUDiv : LLVMURem, splat(x, a[0], lanes), splat(x, a[1], lanes), "");
    }
    return scalar_prim(x, p, t, a);
}

static V axis_value(Emit *x, uint32_t axis)
{
    V v = x->var[axis];
    assert(v);
    if ((int)axis != x->lane) return v;
    return LLVMBuildAdd(x->b, splat(x, v, x->lanes), iota(x, x->i64), "");
}

V emit_value(Emit *x, Expr e)
{
    int mode = x->lane != 0;
    if (e < x->memos && x->memo[mode][e]) return x->memo[mode][e];
    const ExprNode n = *expr_node(x->k, e);
    V v = NULL;
    switch ((ExprKind)n.kind) {
    case E_FLOAT:
    case E_INT: return scalar_const(x, &n);
    case E_SYM: return dim_value(x, n.id);
    case E_IT: assert(x->it); return x->it;
    case E_AXIS: v = axis_value(x, n.id); break;
    case E_LOAD: v = load_value(x, (int)n.id, n.arg); break;
    case E_PRIM: v = prim_value(x, &n); break;
    case E_NONE: assert(!"an absent expression has no value");
    }
    remember(x, e, v);
    return v;
}

V emit_fresh(Emit *x, Expr e)
{
    forget(x, 0);
    return emit_value(x, expr_expand(x->k, e));
}

V emit_scalar(Emit *x, Expr e)
{
    int lane = x->lane;
    x->lane = 0;
    V v = emit_fresh(x, e);
    x->lane = lane;
    return v;
}
