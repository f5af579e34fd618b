/* emit.c - a scheduled kernel into an LLVM function: loops, statements, the function around them.
 *
 * A vectorised loop has no loop: its axis becomes the lane axis, a value is a vector when it depends on the lane
 * axis and a scalar when not (value.c), and an address tells by its step along the lane axis which access it needs
 * (memory.c). An `if` over lanes becomes the mask. Accumulators are allocas with constant indices; SROA turns them
 * into registers. */
#include "codegen/llvm/internal.h"

/* A local array up to this size lives on the stack (registers, mostly), a larger one in the caller's scratch. */
enum { STACK_BYTES = 8192 };

static void emit_stmt(Emit *x, const Stmt *s);

LLVMBasicBlockRef block_new(Emit *x, const char *name) { return LLVMAppendBasicBlockInContext(x->c, x->fn, name); }

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

void loop_close(Emit *x, Loop *l, int64_t step) { loop_close_by(x, l, int64(x, step)); }

void loop_close_by(Emit *x, Loop *l, V step)
{
    V next = LLVMBuildNSWAdd(x->b, l->i, step, "");
    l->body = LLVMGetInsertBlock(x->b);
    LLVMAddIncoming(l->i, &next, &l->body, 1);
    LLVMBuildBr(x->b, l->head);
    LLVMPositionBuilderAtEnd(x->b, l->exit);
}

/* What runs often gets the registers. */
void loop_runs(Emit *x, const Loop *l, int64_t times)
{
    enum { MOST = 1 << 20 };
    T number = x->i32;
    LLVMMetadataRef weight[3] = {LLVMMDStringInContext2(x->c, "branch_weights", strlen("branch_weights"))};
    weight[1] = LLVMValueAsMetadata(LLVMConstInt(number, (unsigned)(times < MOST ? times : MOST), 0));
    weight[2] = LLVMValueAsMetadata(LLVMConstInt(number, 1, 0));
    LLVMMetadataRef all = LLVMMDNodeInContext2(x->c, weight, 3);
    LLVMSetMetadata(LLVMGetBasicBlockTerminator(l->head), LLVMGetMDKindIDInContext(x->c, "prof", strlen("prof")),
                    LLVMMetadataAsValue(x->c, all));
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

/* By halves: llvm.vector.reduce.fmaximum goes lane by lane. Sums of integers are said as what they are: of halves whose products are of bytes LLVM 22
 * makes VPDPBUSD, and counts the lanes that are left to add by the smallest half (combineVPDPBUSDPattern). */
static V horizontal(Emit *x, Prim how, DType t, V v)
{
    unsigned n = x->lanes;
    V all = NULL;
    T type = LLVMTypeOf(v);
    if (how == P_add && dtype_is_int(t)) return intrinsic(x, "llvm.vector.reduce.add", &type, 1, &v, 1);
    for (; n > 1 && n % 2 == 0; n /= 2)
        v = scalar_prim(x, how, t, (V[]){some_lanes(x, v, 0, n / 2), some_lanes(x, v, n / 2, n / 2), NULL});
    for (unsigned i = 0; i < n; i++) {
        V one = LLVMBuildExtractElement(x->b, v, int64(x, i), "");
        all = all ? scalar_prim(x, how, t, (V[]){all, one, NULL}) : one;
    }
    return all;
}

static bool is_integer_cast(const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_PRIM && n->prim == P_cast && dtype_is_int((DType)expr_node(k, n->arg[0])->type);
}

/* The same number in every term: the scale of dequantized codes, which is no integer. */
static bool is_scale(const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    bool still = n->kind == E_FLOAT || n->kind == E_LOAD;
    for (int i = 0; still && n->kind == E_LOAD && i < MAX_RANK && n->arg[i]; i++) still = expr_node(k, n->arg[i])->kind == E_INT;
    return still;
}

static bool is_bf16_cast(const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_PRIM && n->prim == P_cast && expr_node(k, n->arg[0])->type == DT_bf16;
}

static bool is_product(const Kernel *k, Expr e, DType t, ExprNode *n)
{
    *n = *expr_node(k, e);
    if (n->kind != E_PRIM || n->prim != P_mul || n->type != t || (t != DT_f32 && t != DT_f64)) return false;
    if (is_bf16_cast(k, n->arg[0]) && is_bf16_cast(k, n->arg[1])) return true;
    if (is_scale(k, n->arg[0]) || is_scale(k, n->arg[1])) return false;
    return is_integer_cast(k, n->arg[0]) || is_integer_cast(k, n->arg[1]);
}

/* buf[at] = how(buf[at], value). Products of integers held as floats (codes and the weights of a window) and of two bf16 are exact, fused or not, so they are
 * fused; every other product is rounded as the formula says, the same on every instruction set. (Contractions have their own kernels, which fuse.) */
static void emit_update(Emit *x, const Stmt *s)
{
    DType t = x->k->buf.at[s->buf].type;
    Place at = place_of(x, s->buf, s->at);
    if (x->lane && at.moves && !at.affine) {
        each_lane(x, s);
        return;
    }
    forget_all(x);
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
    if (x->mask && at.moves && at.whole)
        new = LLVMBuildSelect(x->b, x->mask, splat(x, new, x->lanes), splat(x, old, x->lanes), "");
    store_at(x, s->buf, &at, new);
}

static void emit_lanes(Emit *x, const Stmt *s, int64_t lo, int64_t n)
{
    x->lane = x->lane_axis = s->axis, x->lanes = (unsigned)n, x->lane_first = lo, x->var[s->axis] = int64(x, lo);
    emit_stmts(x, s->body);
    x->lane = 0, x->lanes = 0;
}

/* ---- interleaved stores ----
 * An unrolled loop of n values inside the lanes whose stores fill the gaps between the lanes: lane * n + i. They are one store. */
enum { MAX_WOVEN = 8 };

static bool is_woven(Emit *x, const Stmt *store, int axis, int64_t n)
{
    const Buf *b = &x->k->buf.at[store->buf];
    Place at = place_of(x, store->buf, store->at);
    Expr step = expr_step(x->k, at.at, axis), across = expr_step(x->k, at.at, x->lane);
    return n > 1 && n <= MAX_WOVEN && b->kind != BUF_LOCAL && step && expr_is(x->k, step, 1) && across &&
           expr_is(x->k, across, n);
}

V woven(Emit *x, V *v, unsigned n) /* v[0][0] v[1][0] .. v[0][1] v[1][1] .. */
{
    enum { MAX_LANES = 64 };
    V index[MAX_WOVEN * MAX_LANES], all = v[0];
    unsigned lanes = x->lanes;
    for (unsigned i = 1; i < n; i++) { /* side by side first: a shuffle has two operands of one length */
        V grown = LLVMGetPoison(LLVMVectorType(LLVMGetElementType(LLVMTypeOf(v[i])), lanes * i));
        for (unsigned l = 0; l < lanes * i; l++) index[l] = LLVMConstInt(x->i32, l < lanes ? l : lanes, 0);
        grown = i == 1 ? v[i]
                       : LLVMBuildShuffleVector(x->b, v[i], LLVMGetPoison(LLVMTypeOf(v[i])),
                                                LLVMConstVector(index, lanes * i), "");
        for (unsigned l = 0; l < lanes * (i + 1); l++) index[l] = LLVMConstInt(x->i32, l, 0);
        all = LLVMBuildShuffleVector(x->b, all, grown, LLVMConstVector(index, lanes * (i + 1)), "");
    }
    for (unsigned l = 0; l < lanes * n; l++) index[l] = LLVMConstInt(x->i32, l % n * lanes + l / n, 0);
    return LLVMBuildShuffleVector(x->b, all, LLVMGetPoison(LLVMTypeOf(all)), LLVMConstVector(index, lanes * n), "");
}

static bool emit_woven(Emit *x, const Stmt *loop, int64_t n)
{
    const Stmt *s = loop->body, *guard = s && s->kind == S_IF ? s : NULL;
    if (guard && !guard->next) s = guard->body;
    if (!x->lane || !s || s->next || s->kind != S_STORE || !is_woven(x, s, loop->axis, n)) return false;
    V outer = x->mask, value[MAX_WOVEN], mask[MAX_WOVEN];
    if ((outer || guard) && !store_masks(x, s->buf)) return false;
    for (int64_t i = 0; i < n; i++) {
        x->var[loop->axis] = int64(x, i);
        if (guard) {
            V c = splat(x, emit_fresh(x, guard->cond), x->lanes);
            x->mask = outer ? LLVMBuildAnd(x->b, outer, c, "") : c;
        }
        mask[i] = full_mask(x), value[i] = splat(x, emit_fresh(x, s->value), x->lanes);
        x->mask = outer;
    }
    x->var[loop->axis] = int64(x, 0);
    forget_all(x);
    store_run(x, s->buf, place_of(x, s->buf, s->at).at, woven(x, value, (unsigned)n),
              outer || guard ? woven(x, mask, (unsigned)n) : NULL);
    return true;
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
    if (emit_turned(x, s)) return;
    if (!fixed || (s->loop != LOOP_UNROLL && hi - lo != 1)) {
        emit_serial(x, s);
        return;
    }
    if (lo == 0 && emit_woven(x, s, hi)) return;
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
        V at = emit_scalar(x, x->scratch_at[s->buf]);
        x->buf[s->buf] = LLVMBuildInBoundsGEP2(x->b, x->i8, x->scratch, &at, 1, b->name);
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
        if (!micro_contract(x, s) && !window_sum(x, s)) emit_stmts(x, s->body); /* its body says what it means */
        break;
    }
}

void emit_stmts(Emit *x, const Stmt *s)
{
    for (; s; s = s->next) emit_stmt(x, s);
}

/* ---- local arrays too large for the stack, or of a size that only the call knows ---- */
/* Places them one behind the other from `at` on; yields where the last ends. */
static Expr place_locals(Kernel *k, const Stmt *s, Expr at, Expr *offset)
{
    for (; s; s = s->next) {
        int64_t n = 0;
        bool lanes = s->kind == S_FOR && s->loop == LOOP_VECTOR; /* a local array of every lane: small, on the stack */
        if (s->kind == S_ALLOC) {
            Expr elements = buf_elements(k, s->buf), align = expr_index(k, SCRATCH_ALIGN);
            int64_t bytes = dtypes[k->buf.at[s->buf].type].bytes;
            if (expr_is_index(k, elements, &n) && n * bytes <= STACK_BYTES) continue;
            Expr size = expr_add(k, expr_mul(k, elements, expr_index(k, bytes)), expr_index(k, SCRATCH_ALIGN - 1));
            if (offset) offset[s->buf] = at;
            at = expr_add(k, at, expr_mul(k, expr_div(k, size, align), align));
        }
        if (!lanes) at = place_locals(k, s->body, at, offset);
    }
    return at;
}

Expr kernel_scratch(Kernel *k) { return place_locals(k, k->loops, expr_index(k, 0), NULL); }

/* ---- the parallel range: [lo, hi) counts the points of the leading parallel loops, the last one fastest. What it has of one pass of the
 * last one is a loop, so that a point costs no division, and what the points of a pass have in common is computed before them ---- */
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
    V rest = l.i, first = rest, pass = LLVMBuildSub(x->b, x->hi, l.i, "");
    for (int i = n - 1; i > 0; i--) {
        x->var[nest[i]->axis] = LLVMBuildURem(x->b, rest, extent[i], "");
        rest = LLVMBuildUDiv(x->b, rest, extent[i], "");
    }
    x->var[nest[0]->axis] = rest;
    if (n > 1) {
        first = x->var[nest[n - 1]->axis];
        V left = LLVMBuildSub(x->b, extent[n - 1], first, "");
        pass = LLVMBuildSelect(x->b, LLVMBuildICmp(x->b, LLVMIntSLT, pass, left, ""), pass, left, "");
    }
    Loop last = loop_head(x, first, LLVMBuildAdd(x->b, first, pass, ""));
    x->var[nest[n - 1]->axis] = last.i;
    loop_body(x, &last);
    emit_stmts(x, s);
    loop_close(x, &last, 1);
    loop_close_by(x, &l, pass);
}

/* ---- the function: a body with the buffers as parameters, and a wrapper with the signature every kernel has ---- */
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

V function_new(Emit *x, const char *name, T *param, unsigned n)
{
    V fn = LLVMAddFunction(x->m, name, LLVMFunctionType(x->i32, param, n, 0));
    attribute(x, fn, LLVMAttributeFunctionIndex, "nounwind");
    if (x->target->cpu) attribute_text(x, fn, "target-cpu", x->target->cpu);
    if (x->target->features) attribute_text(x, fn, "target-features", x->target->features);
    attribute_text(x, fn, "no-trapping-math", "true");
    if (x->small) attribute(x, fn, LLVMAttributeFunctionIndex, "optsize");
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
    x->fn = function_new(x, arena_printf(x->mem, "body.%s", name), param, bufs + 4);
    LLVMSetLinkage(x->fn, LLVMInternalLinkage);
    attribute(x, x->fn, LLVMAttributeFunctionIndex, "noinline"); /* inlined, buffers would lose what is said of them */
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
    return_code(x, OCTET_ERR_INDEX);
    LLVMPositionBuilderAtEnd(x->b, start);
    micro_plan(x, k->loops);
    if (x->tiles.most) tiles_configure(x);
    emit_range(x);
    micro_finish(x);
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

Emit *emit_new(LLVMModuleRef m, const Target *target, Arena *mem)
{
    LLVMContextRef c = LLVMGetModuleContext(m);
    Emit *x = NEW(mem, Emit);
    *x = (Emit){.target = target, .mem = mem, .c = c, .m = m};
    x->b = LLVMCreateBuilderInContext(c), x->entry = LLVMCreateBuilderInContext(c);
    x->i1 = LLVMInt1TypeInContext(c), x->i8 = LLVMInt8TypeInContext(c), x->i16 = LLVMInt16TypeInContext(c);
    x->i32 = LLVMInt32TypeInContext(c), x->i64 = LLVMInt64TypeInContext(c), x->ptr = LLVMPointerTypeInContext(c, 0);
    x->f32 = LLVMFloatTypeInContext(c), x->f64 = LLVMDoubleTypeInContext(c);
    return x;
}

void emit_drop(Emit *x) { LLVMDisposeBuilder(x->b), LLVMDisposeBuilder(x->entry); }

void llvm_emit(LLVMModuleRef m, const LlvmJob *job, Arena *mem)
{
    Kernel *k = job->kernel;
    Emit *x = emit_new(m, job->target, mem);
    x->small = job->small;
    uint32_t bufs = kernel_params(k);
    x->k = k, x->buf = NEW_ARRAY(mem, V, k->buf.n), x->var = NEW_ARRAY(mem, V, k->axis.n);
    x->lane_private = NEW_ARRAY(mem, bool, k->buf.n), x->scratch_at = NEW_ARRAY(mem, Expr, k->buf.n);
    place_locals(k, k->loops, expr_index(k, 0), x->scratch_at);
    V body = emit_body(x, job->symbol, bufs);
    emit_wrapper(x, job->symbol, body, bufs);
    emit_drop(x);
}
