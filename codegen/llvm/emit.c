/* emit.c - a scheduled kernel into an LLVM function.
 *
 * A vectorised loop has no loop: its axis becomes the lane axis, a value is a vector when it depends on the lane axis and a
 * scalar when not, and an address tells by its step along the lane axis which access it needs:
 *     0 scalar    1 contiguous    other, or not affine: gather, scatter.     An `if` over lanes becomes the mask.
 * Accumulators are allocas with constant indices; SROA turns them into registers.
 * Nothing is read where the kernel does not say so: masks on tails, a branch or a mask on guards, a dummy for scalar loads
 * under a mask of which no lane may be active. */
#include "codegen/llvm/internal.h"

/* A local array up to this size lives on the stack (registers, mostly), a larger one in the caller's scratch. */
enum { STACK_BYTES = 8192, SCRATCH_ALIGN = 64, FAILED_CHECK = OCTET_ERR_INDEX };

static void emit_stmt(Emit *x, const Stmt *s);

LLVMBasicBlockRef block_new(Emit *x, const char *name) { return LLVMAppendBasicBlockInContext(x->c, x->fn, name); }
static V int64(Emit *x, int64_t i) { return LLVMConstInt(x->i64, (unsigned long long)i, 1); }
static V full_mask(Emit *x) { return x->mask ? x->mask : LLVMConstAllOnes(LLVMVectorType(x->i1, x->lanes)); }

static V iota(Emit *x, T t)
{
    V lane[64];
    assert(x->lanes <= COUNT_OF(lane));
    for (unsigned i = 0; i < x->lanes; i++) lane[i] = LLVMConstInt(t, i, 0);
    return LLVMConstVector(lane, x->lanes);
}

/* ---- loops ---- */
Loop loop_head(Emit *x, V lo, V hi)
{
    Loop l = {LLVMGetInsertBlock(x->b), block_new(x, "head"), block_new(x, "body"), block_new(x, "exit"), NULL, hi};
    LLVMBuildBr(x->b, l.head);
    LLVMPositionBuilderAtEnd(x->b, l.head);
    l.i = LLVMBuildPhi(x->b, x->i64, "i");
    LLVMAddIncoming(l.i, &lo, &l.from, 1);
    return l;
}

void loop_body(Emit *x, Loop *l)
{
    LLVMBuildCondBr(x->b, LLVMBuildICmp(x->b, LLVMIntSLT, l->i, l->hi, ""), l->body, l->exit);
    LLVMPositionBuilderAtEnd(x->b, l->body);
}

void loop_close(Emit *x, Loop *l, int64_t step)
{
    V next = LLVMBuildNSWAdd(x->b, l->i, int64(x, step), "");
    l->body = LLVMGetInsertBlock(x->b);
    LLVMAddIncoming(l->i, &next, &l->body, 1);
    LLVMBuildBr(x->b, l->head);
    LLVMPositionBuilderAtEnd(x->b, l->exit);
}

/* ---- sizes known at run time: computed once, in the entry block ---- */
static V floor_divide(Emit *x, LLVMBuilderRef b, V n, V d, bool truncate)
{
    V none = LLVMBuildICmp(b, LLVMIntEQ, d, int64(x, 0), "");
    d = LLVMBuildSelect(b, none, int64(x, 1), d, ""); /* the artefact has refused such sizes; this only must not trap */
    V q = LLVMBuildSDiv(b, n, d, "");
    if (truncate) return q;
    V rest = LLVMBuildSub(b, n, LLVMBuildMul(b, q, d, ""), ""), below = LLVMBuildICmp(b, LLVMIntSLT, rest, int64(x, 0), "");
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
        if (c->op == DIMOP_CONST) { stack[top++] = int64(x, c->arg); continue; }
        if (c->op == DIMOP_SYM) { stack[top++] = size_symbol(x, c->arg); continue; }
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

/* ---- places in memory ---- */
typedef struct Place {
    Expr at;       /* element offset */
    bool moves;    /* with the lanes */
    bool dense;    /* by one element */
    bool affine;   /* by a fixed step: no two lanes meet */
    bool whole;    /* all lanes may be touched whatever the mask says */
} Place;

static bool holds_all_lanes(Emit *x, int buf)
{
    const Buf *b = &x->k->buf.at[buf];
    int64_t n;
    if (b->kind != BUF_LOCAL) return false;
    if (x->lane_private[buf]) return true;
    return b->rank && !b->layout.n && expr_is_index(x->k, b->dim[b->rank - 1], &n) && n % x->lanes == 0;
}

static Place place_of(Emit *x, int buf, const Expr *index)
{
    Place p = {.at = buf_address(x->k, buf, index)};
    if (!x->lane) return p;
    if (x->lane_private[buf]) {
        Expr at = expr_mul(x->k, p.at, expr_index(x->k, x->lanes));
        p.at = expr_add(x->k, at, expr_axis(x->k, x->lane));
    }
    Expr step = expr_step(x->k, p.at, x->lane);
    p.moves = step ? !expr_is(x->k, step, 0) : expr_uses(x->k, p.at, x->lane);
    p.affine = step != 0, p.dense = step && expr_is(x->k, step, 1);
    p.whole = !x->mask || holds_all_lanes(x, buf);
    return p;
}

static T element_type(Emit *x, int buf) { return mem_type(x, x->k->buf.at[buf].type); }

V emit_address(Emit *x, int buf, Expr at)
{
    int lane = x->lane;
    x->lane = 0;
    V i = emit_value(x, at);
    x->lane = lane;
    assert(x->buf[buf]);
    return LLVMBuildInBoundsGEP2(x->b, element_type(x, buf), x->buf[buf], &i, 1, "");
}

static V addresses(Emit *x, int buf, Expr at) /* of every lane */
{
    V i = splat(x, emit_value(x, at), x->lanes);
    return LLVMBuildInBoundsGEP2(x->b, element_type(x, buf), x->buf[buf], &i, 1, "");
}

static unsigned element_align(Emit *x, int buf) { return (unsigned)dtypes[x->k->buf.at[buf].type].bytes; }

static V masked(Emit *x, V v, unsigned pointer_arg, unsigned align) /* masked intrinsics take the alignment on the pointer */
{
    unsigned kind = LLVMGetEnumAttributeKindForName("align", 5);
    LLVMAddCallSiteAttribute(v, pointer_arg + 1, LLVMCreateEnumAttribute(x->c, kind, align));
    return v;
}

static V load_scalar(Emit *x, int buf, Expr at)
{
    V p = emit_address(x, buf, at);
    if (x->some) { /* perhaps no lane wants it */
        if (!x->dummy) {
            x->dummy = LLVMBuildAlloca(x->entry, x->i64, "dummy");
            LLVMBuildStore(x->entry, int64(x, 0), x->dummy);
        }
        p = LLVMBuildSelect(x->b, x->some, p, x->dummy, "");
    }
    V v = LLVMBuildLoad2(x->b, element_type(x, buf), p, "");
    LLVMSetAlignment(v, element_align(x, buf));
    return v;
}

static V load(Emit *x, int buf, const Expr *index)
{
    Place at = place_of(x, buf, index);
    T t = element_type(x, buf);
    unsigned align = element_align(x, buf);
    if (!at.moves) return load_scalar(x, buf, at.at);
    T over[2] = {LLVMVectorType(t, x->lanes), NULL};
    V zero = LLVMConstNull(over[0]), p = at.dense ? emit_address(x, buf, at.at) : addresses(x, buf, at.at);
    over[1] = LLVMTypeOf(p);
    if (!at.dense) return masked(x, intrinsic(x, "llvm.masked.gather", over, 2, (V[]){p, full_mask(x), zero}, 3), 0, align);
    if (!at.whole) return masked(x, intrinsic(x, "llvm.masked.load", over, 2, (V[]){p, x->mask, zero}, 3), 0, align);
    V v = LLVMBuildLoad2(x->b, over[0], p, "");
    LLVMSetAlignment(v, align);
    return v;
}

static V load_value(Emit *x, int buf, const Expr *index)
{
    V v = load(x, buf, index);
    if (x->k->buf.at[buf].type != DT_bool) return v;
    return LLVMBuildICmp(x->b, LLVMIntNE, v, LLVMConstNull(LLVMTypeOf(v)), "");
}

static void store_at(Emit *x, int buf, const Place *at, V v)
{
    DType t = x->k->buf.at[buf].type;
    unsigned align = element_align(x, buf);
    if (t == DT_bool) v = LLVMBuildZExt(x->b, v, like(x->i8, v), "");
    if (!at->moves) {
        LLVMSetAlignment(LLVMBuildStore(x->b, v, emit_address(x, buf, at->at)), align);
        return;
    }
    v = splat(x, v, x->lanes);
    V p = at->dense ? emit_address(x, buf, at->at) : addresses(x, buf, at->at);
    T over[2] = {LLVMTypeOf(v), LLVMTypeOf(p)};
    if (!at->dense) masked(x, intrinsic(x, "llvm.masked.scatter", over, 2, (V[]){v, p, full_mask(x)}, 3), 1, align);
    else if (!at->whole) masked(x, intrinsic(x, "llvm.masked.store", over, 2, (V[]){v, p, x->mask}, 3), 1, align);
    else LLVMSetAlignment(LLVMBuildStore(x->b, v, p), align);
}

void emit_store(Emit *x, int buf, const Expr *index, V v)
{
    Place at = place_of(x, buf, index);
    store_at(x, buf, &at, v);
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
    if (reads_memory(x->k, n->arg[1]) || reads_memory(x->k, n->arg[2])) return guard_branch(x, cond, n->arg[1], n->arg[2]);
    V a[3] = {cond, emit_value(x, n->arg[1]), emit_value(x, n->arg[2])};
    return scalar_prim(x, P_select, (DType)n->type, a);
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

/* sat(rint(a)) and sat(rint(a) + integer) round and convert in one instruction. */
static V sat_value(Emit *x, const ExprNode *n)
{
    ExprNode in = *expr_node(x->k, n->arg[0]);
    double plus = 0;
    bool small = dtype_is_int((DType)n->type) && dtypes[n->type].bits <= 16 && in.type == DT_f32 && in.kind == E_PRIM;
    if (small && in.prim == P_add) {
        ExprNode l = *expr_node(x->k, in.arg[0]), r = *expr_node(x->k, in.arg[1]);
        if (l.kind == E_FLOAT) { ExprNode t = l; l = r, r = t; }
        if (l.kind == E_PRIM && l.prim == P_rint && r.kind == E_FLOAT && r.u.f == (double)(int32_t)r.u.f && r.u.f * r.u.f < 0x1p40)
            in = l, plus = r.u.f;
    }
    if (small && in.prim == P_rint) return scalar_sat_rint(x, (DType)n->type, emit_value(x, in.arg[0]), plus);
    return scalar_sat(x, (DType)expr_node(x->k, n->arg[0])->type, (DType)n->type, emit_value(x, n->arg[0]));
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
    case E_FLOAT: case E_INT: return scalar_const(x, &n);
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

/* ---- statements ---- */
/* One store after the other, for lanes that may meet in one place. */
static void each_lane(Emit *x, const Stmt *s)
{
    V mask = x->mask, first = x->var[x->lane];
    int lane = x->lane;
    unsigned lanes = x->lanes;
    Loop l = loop_head(x, int64(x, 0), int64(x, lanes));
    loop_body(x, &l);
    LLVMBasicBlockRef then = block_new(x, "lane"), done = block_new(x, "lanedone");
    if (mask) LLVMBuildCondBr(x->b, LLVMBuildExtractElement(x->b, mask, l.i, ""), then, done);
    else LLVMBuildBr(x->b, then);
    LLVMPositionBuilderAtEnd(x->b, then);
    Stmt one = *s;
    one.next = NULL;
    x->lane = 0, x->mask = NULL, x->var[lane] = LLVMBuildAdd(x->b, first, l.i, "");
    emit_stmt(x, &one);
    LLVMBuildBr(x->b, done);
    LLVMPositionBuilderAtEnd(x->b, done);
    loop_close(x, &l, 1);
    x->lane = lane, x->mask = mask, x->var[lane] = first;
}

static void emit_assign(Emit *x, const Stmt *s)
{
    Place at = place_of(x, s->buf, s->at);
    if (x->lane && !at.moves && (x->mask || expr_uses(x->k, s->value, x->lane))) {
        each_lane(x, s);
        return;
    }
    V v = emit_fresh(x, s->value);
    store_at(x, s->buf, &at, v);
}

static V some_lanes(Emit *x, V v, unsigned from, unsigned n)
{
    V index[64];
    for (unsigned i = 0; i < n; i++) index[i] = LLVMConstInt(x->i32, from + i, 0);
    return LLVMBuildShuffleVector(x->b, v, LLVMGetPoison(LLVMTypeOf(v)), LLVMConstVector(index, n), "");
}

static V horizontal(Emit *x, Prim how, DType t, V v) /* by halves: llvm.vector.reduce.fmaximum goes lane by lane */
{
    unsigned n = x->lanes;
    V all = NULL;
    for (; n > 1 && n % 2 == 0; n /= 2) v = scalar_prim(x, how, t, (V[]){some_lanes(x, v, 0, n / 2), some_lanes(x, v, n / 2, n / 2), NULL});
    for (unsigned i = 0; i < n; i++) {
        V one = LLVMBuildExtractElement(x->b, v, int64(x, i), "");
        all = all ? scalar_prim(x, how, t, (V[]){all, one, NULL}) : one;
    }
    return all;
}

static bool is_product(const Kernel *k, Expr e, DType t, ExprNode *n)
{
    *n = *expr_node(k, e);
    return n->kind == E_PRIM && n->prim == P_mul && n->type == t && (t == DT_f32 || t == DT_f64);
}

/* buf[at] = how(buf[at], value). Sums of products are fused: they are reductions, where one rounding less only helps;
 * elsewhere nothing is fused, so that quantized results are the same on every instruction set. */
static void emit_update(Emit *x, const Stmt *s)
{
    DType t = x->k->buf.at[s->buf].type;
    Place at = place_of(x, s->buf, s->at);
    if (x->lane && at.moves && !at.affine) {
        each_lane(x, s);
        return;
    }
    forget(x, 0);
    Expr value = expr_expand(x->k, s->value);
    ExprNode product;
    V old = NULL, new = NULL;
    if (x->lane && !at.moves) { /* all lanes meet in one place */
        V v = splat(x, emit_value(x, value), x->lanes);
        V none = splat(x, emit_value(x, reduce_identity(x->k, s->how, t)), x->lanes);
        if (x->mask) v = LLVMBuildSelect(x->b, x->mask, v, none, "");
        v = horizontal(x, s->how, t, v);
        old = load_value(x, s->buf, s->at);
        new = scalar_prim(x, s->how, t, (V[]){old, v, NULL});
    } else if (s->how == P_add && is_product(x->k, value, t, &product)) {
        V a = emit_value(x, product.arg[0]), b = emit_value(x, product.arg[1]);
        old = load_value(x, s->buf, s->at);
        unsigned lanes = is_wide(a) || is_wide(b) || is_wide(old) ? x->lanes : 0;
        new = scalar_fma(x, splat(x, a, lanes), splat(x, b, lanes), splat(x, old, lanes));
    } else {
        V v = emit_value(x, value);
        old = load_value(x, s->buf, s->at);
        new = scalar_prim(x, s->how, t, (V[]){old, v, NULL});
    }
    if (x->mask && at.moves && at.whole) new = LLVMBuildSelect(x->b, x->mask, splat(x, new, x->lanes), splat(x, old, x->lanes), "");
    store_at(x, s->buf, &at, new);
}

static void emit_lanes(Emit *x, const Stmt *s, int64_t lo, int64_t n)
{
    x->lane = s->axis, x->lanes = (unsigned)n, x->var[s->axis] = int64(x, lo);
    emit_stmts(x, s->body);
    x->lane = 0, x->lanes = 0;
}

static void emit_serial(Emit *x, const Stmt *s)
{
    V lo = emit_scalar(x, s->lo), hi = emit_scalar(x, s->hi);
    Loop l = loop_head(x, lo, hi);
    x->var[s->axis] = l.i;
    loop_body(x, &l);
    emit_stmts(x, s->body);
    loop_close(x, &l, 1);
}

static void emit_for(Emit *x, const Stmt *s)
{
    int64_t lo, hi;
    bool fixed = expr_is_index(x->k, s->lo, &lo) && expr_is_index(x->k, s->hi, &hi);
    if (fixed && s->loop == LOOP_VECTOR && !x->lane && hi - lo > 1 && hi - lo <= 64) {
        emit_lanes(x, s, lo, hi - lo);
        return;
    }
    if (!fixed || (s->loop != LOOP_UNROLL && hi - lo != 1)) {
        emit_serial(x, s);
        return;
    }
    for (int64_t i = lo; i < hi; i++) x->var[s->axis] = int64(x, i), emit_stmts(x, s->body);
}

static void emit_if(Emit *x, const Stmt *s)
{
    V outer = x->mask, c = emit_fresh(x, s->cond);
    if (is_wide(c)) {
        x->mask = outer ? LLVMBuildAnd(x->b, outer, c, "") : c;
        c = any_lane(x, x->mask);
    }
    LLVMBasicBlockRef then = block_new(x, "then"), done = block_new(x, "done");
    LLVMBuildCondBr(x->b, c, then, done);
    LLVMPositionBuilderAtEnd(x->b, then);
    emit_stmts(x, s->body);
    LLVMBuildBr(x->b, done);
    LLVMPositionBuilderAtEnd(x->b, done);
    x->mask = outer;
}

static void emit_check(Emit *x, const Stmt *s)
{
    V bad = LLVMBuildNot(x->b, emit_fresh(x, s->cond), "");
    if (is_wide(bad)) bad = any_lane(x, LLVMBuildAnd(x->b, bad, full_mask(x), ""));
    LLVMBasicBlockRef next = block_new(x, "checked");
    LLVMBuildCondBr(x->b, bad, x->fail, next);
    LLVMPositionBuilderAtEnd(x->b, next);
}

static void emit_alloc(Emit *x, const Stmt *s)
{
    const Buf *b = &x->k->buf.at[s->buf];
    if (x->scratch_at[s->buf]) {
        V at = int64(x, (int64_t)x->scratch_at[s->buf] - 1);
        x->buf[s->buf] = LLVMBuildInBoundsGEP2(x->entry, x->i8, x->scratch, &at, 1, b->name);
        return;
    }
    int64_t n = 0;
    bool fixed = expr_is_index(x->k, buf_elements(x->k, s->buf), &n);
    assert(fixed && "a local array has a constant size"), (void)fixed;
    x->lane_private[s->buf] = x->lane != 0;
    n = (n > 1 ? n : 1) * (x->lane ? (int64_t)x->lanes : 1);
    x->buf[s->buf] = LLVMBuildAlloca(x->entry, LLVMArrayType2(element_type(x, s->buf), (uint64_t)n), b->name);
    LLVMSetAlignment(x->buf[s->buf], SCRATCH_ALIGN);
}

static void emit_stmt(Emit *x, const Stmt *s)
{
    switch (s->kind) {
    case S_FOR: emit_for(x, s); break;
    case S_IF: emit_if(x, s); break;
    case S_STORE: emit_assign(x, s); break;
    case S_UPDATE: emit_update(x, s); break;
    case S_CHECK: emit_check(x, s); break;
    case S_ALLOC: emit_alloc(x, s); break;
    case S_BARRIER: break; /* one thread runs the whole of what it guards */
    case S_CALL:
        if (!micro_contract(x, s)) emit_stmts(x, s->body); /* its body says what it means */
        break;
    }
}

void emit_stmts(Emit *x, const Stmt *s)
{
    for (; s; s = s->next) emit_stmt(x, s);
}

/* ---- local arrays too large for the stack ---- */
static size_t place_locals(Kernel *k, const Stmt *s, size_t at, size_t *offset)
{
    for (; s; s = s->next) {
        int64_t n = 0;
        bool lanes = s->kind == S_FOR && s->loop == LOOP_VECTOR; /* a local array of every lane: small, on the stack */
        if (s->kind == S_ALLOC && expr_is_index(k, buf_elements(k, s->buf), &n)) {
            size_t bytes = (size_t)n * (size_t)dtypes[k->buf.at[s->buf].type].bytes;
            if (bytes <= STACK_BYTES) continue;
            if (offset) offset[s->buf] = at + 1;
            at += (bytes + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
        }
        if (!lanes) at = place_locals(k, s->body, at, offset);
    }
    return at;
}

size_t kernel_scratch(const Kernel *k)
{
    Kernel *mutable_k = (Kernel *)k; /* sizes are expressions, made in the pool when asked for */
    return place_locals(mutable_k, k->loops, 0, NULL);
}

/* ---- the parallel range: [lo, hi) counts the points of the leading parallel loops, the last one fastest ---- */
static const Stmt *leading_parallel(const Stmt *s)
{
    return s && s->kind == S_FOR && s->loop == LOOP_PARALLEL && !s->next ? s : NULL;
}

static void emit_range(Emit *x)
{
    const Stmt *nest[MAX_RANK * 2], *s = x->k->loops;
    int n = 0;
    int64_t one;
    if (expr_is_index(x->k, kernel_range(x->k), &one) && one == 1) { /* not to be divided */
        emit_stmts(x, s);
        return;
    }
    for (const Stmt *f; n < (int)COUNT_OF(nest) && (f = leading_parallel(s)); s = f->body) nest[n++] = f;
    assert(n && "a parallel range comes from leading parallel loops");
    V extent[COUNT_OF(nest)];
    for (int i = 0; i < n; i++) extent[i] = emit_scalar(x, nest[i]->hi);
    Loop l = loop_head(x, x->lo, x->hi);
    loop_body(x, &l);
    V rest = l.i;
    for (int i = n - 1; i > 0; i--) {
        x->var[nest[i]->axis] = LLVMBuildURem(x->b, rest, extent[i], "");
        rest = LLVMBuildUDiv(x->b, rest, extent[i], "");
    }
    x->var[nest[0]->axis] = rest;
    emit_stmts(x, s);
    loop_close(x, &l, 1);
}

/* ---- the function: `body` with the buffers as parameters, and a wrapper with the one signature every kernel has ---- */
static void attribute(Emit *x, V fn, unsigned at, const char *name)
{
    unsigned kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
    assert(kind);
    LLVMAddAttributeAtIndex(fn, at, LLVMCreateEnumAttribute(x->c, kind, 0));
}

static void attribute_text(Emit *x, V fn, const char *name, const char *value)
{
    LLVMAttributeRef a = LLVMCreateStringAttribute(x->c, name, (unsigned)strlen(name), value, (unsigned)strlen(value));
    LLVMAddAttributeAtIndex(fn, LLVMAttributeFunctionIndex, a);
}

static V function_new(Emit *x, const char *name, T *param, unsigned n)
{
    V fn = LLVMAddFunction(x->m, name, LLVMFunctionType(x->i32, param, n, 0));
    attribute(x, fn, LLVMAttributeFunctionIndex, "nounwind");
    if (x->target->cpu) attribute_text(x, fn, "target-cpu", x->target->cpu);
    if (x->target->features) attribute_text(x, fn, "target-features", x->target->features);
    attribute_text(x, fn, "no-trapping-math", "true");
    return fn;
}

static void mark_written(const Stmt *s, bool *written)
{
    for (; s; s = s->next) {
        if (s->kind == S_STORE || s->kind == S_UPDATE || s->kind == S_CALL) written[s->buf] = true;
        mark_written(s->body, written);
    }
}

static void return_code(Emit *x, int code) { LLVMBuildRet(x->b, LLVMConstInt(x->i32, (unsigned long long)code, 0)); }

static V emit_body(Emit *x, const char *name, uint32_t bufs)
{
    Kernel *k = x->k;
    T *param = NEW_ARRAY(x->mem, T, bufs + 4);
    bool *written = NEW_ARRAY(x->mem, bool, k->buf.n);
    for (uint32_t i = 0; i < bufs; i++) param[i] = x->ptr;
    param[bufs] = x->ptr, param[bufs + 1] = x->i64, param[bufs + 2] = x->i64, param[bufs + 3] = x->ptr;
    x->fn = function_new(x, arena_printf(x->mem, "%s.body", name), param, bufs + 4);
    LLVMSetLinkage(x->fn, LLVMInternalLinkage);
    attribute(x, x->fn, LLVMAttributeFunctionIndex, "noinline"); /* inlined, the buffers would lose what is said of them here */
    mark_written(k->loops, written);
    for (uint32_t i = 0; i < bufs; i++) {
        attribute(x, x->fn, i + 1, "noalias");
        if (!written[i + 1]) attribute(x, x->fn, i + 1, "readonly");
        x->buf[i + 1] = LLVMGetParam(x->fn, i);
        LLVMSetValueName2(x->buf[i + 1], k->buf.at[i + 1].name, strlen(k->buf.at[i + 1].name));
    }
    attribute(x, x->fn, bufs + 1, "noalias"), attribute(x, x->fn, bufs + 1, "readonly");
    attribute(x, x->fn, bufs + 4, "noalias");
    x->size = LLVMGetParam(x->fn, bufs), x->lo = LLVMGetParam(x->fn, bufs + 1);
    x->hi = LLVMGetParam(x->fn, bufs + 2), x->scratch = LLVMGetParam(x->fn, bufs + 3);
    LLVMBasicBlockRef entry = block_new(x, "entry"), start = block_new(x, "start");
    LLVMPositionBuilderAtEnd(x->b, entry);
    LLVMPositionBuilderBefore(x->entry, LLVMBuildBr(x->b, start));
    x->fail = block_new(x, "fail");
    LLVMPositionBuilderAtEnd(x->b, x->fail);
    return_code(x, FAILED_CHECK);
    LLVMPositionBuilderAtEnd(x->b, start);
    emit_range(x);
    return_code(x, 0);
    return x->fn;
}

static void emit_wrapper(Emit *x, const char *name, V body, uint32_t bufs)
{
    V *arg = NEW_ARRAY(x->mem, V, bufs + 4);
    V fn = function_new(x, name, (T[]){x->ptr, x->ptr, x->i64, x->i64, x->ptr}, 5);
    LLVMSetVisibility(fn, LLVMHiddenVisibility);
    LLVMPositionBuilderAtEnd(x->b, LLVMAppendBasicBlockInContext(x->c, fn, "entry"));
    for (uint32_t i = 0; i < bufs; i++) {
        V at = int64(x, i);
        arg[i] = LLVMBuildLoad2(x->b, x->ptr, LLVMBuildInBoundsGEP2(x->b, x->ptr, LLVMGetParam(fn, 0), &at, 1, ""), "");
    }
    for (unsigned i = 0; i < 4; i++) arg[bufs + i] = LLVMGetParam(fn, i + 1);
    LLVMBuildRet(x->b, LLVMBuildCall2(x->b, LLVMGlobalGetValueType(body), body, arg, bufs + 4, ""));
}

void llvm_emit(LLVMModuleRef m, const LlvmJob *job, Arena *mem)
{
    Kernel *k = job->kernel;
    LLVMContextRef c = LLVMGetModuleContext(m);
    Emit *x = NEW(mem, Emit);
    uint32_t bufs = kernel_params(k);
    *x = (Emit){.k = k, .target = job->target, .mem = mem, .c = c, .m = m};
    x->b = LLVMCreateBuilderInContext(c), x->entry = LLVMCreateBuilderInContext(c);
    x->i1 = LLVMInt1TypeInContext(c), x->i8 = LLVMInt8TypeInContext(c), x->i16 = LLVMInt16TypeInContext(c);
    x->i32 = LLVMInt32TypeInContext(c), x->i64 = LLVMInt64TypeInContext(c), x->ptr = LLVMPointerTypeInContext(c, 0);
    x->f32 = LLVMFloatTypeInContext(c), x->f64 = LLVMDoubleTypeInContext(c);
    x->buf = NEW_ARRAY(mem, V, k->buf.n), x->var = NEW_ARRAY(mem, V, k->axis.n);
    x->lane_private = NEW_ARRAY(mem, bool, k->buf.n), x->scratch_at = NEW_ARRAY(mem, size_t, k->buf.n);
    place_locals(k, k->loops, 0, x->scratch_at);
    V body = emit_body(x, job->symbol, bufs);
    emit_wrapper(x, job->symbol, body, bufs);
    LLVMDisposeBuilder(x->b), LLVMDisposeBuilder(x->entry);
}
