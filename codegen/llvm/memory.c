/* memory.c - loads and stores: how an address moves with the lanes says which access it is.
 *
 *     not at all: scalar    by one element: contiguous    by anything else: gather, scatter
 *
 * Lanes that are masked off touch nothing. Where the target has no masked instruction, wanted lanes are copied one
 * by one through an array on the stack: a small loop, where LLVM would make a branch for every lane. */
#include "codegen/llvm/internal.h"

V full_mask(Emit *x) { return x->mask ? x->mask : LLVMConstAllOnes(LLVMVectorType(x->i1, x->lanes)); }

/* ---- places ---- */
static bool holds_all_lanes(Emit *x, int buf)
{
    const Buf *b = &x->k->buf.at[buf];
    if (b->kind != BUF_LOCAL) return false;
    if (x->lane_private[buf]) return true;
    LayoutAxis inner = b->layout.n ? b->layout.axis[b->layout.n - 1] : (LayoutAxis){b->rank - 1, 1, 0};
    return b->rank && !inner.size && expr_is(x->k, expr_mod(x->k, b->dim[inner.dim], expr_index(x->k, x->lanes)), 0);
}

/* A table read at what the lanes have summed: no axis says that it differs from lane to lane. */
static bool at_results(const Emit *x, Expr at) { return x->it && is_wide(x->it) && expr_uses_it(x->k, at); }

Place place_of(Emit *x, int buf, const Expr *index)
{
    Place p = {.at = expr_expand(x->k, buf_address(x->k, buf, index))}; /* a store's index may be any arithmetic on data */
    if (x->lane_private[buf]) {
        Expr at = expr_mul(x->k, p.at, expr_index(x->k, x->lanes)), first = expr_index(x->k, x->lane_first);
        p.at = expr_add(x->k, at, expr_sub(x->k, expr_axis(x->k, x->lane_axis), first));
    }
    if (!x->lane) return p;
    bool looks_up = at_results(x, p.at);
    Expr step = looks_up ? 0 : expr_step(x->k, p.at, x->lane);
    p.moves = looks_up || (step ? !expr_is(x->k, step, 0) : expr_uses(x->k, p.at, x->lane));
    p.affine = step != 0, p.dense = step && expr_is(x->k, step, 1);
    p.whole = !x->mask || holds_all_lanes(x, buf);
    return p;
}

T element_type(Emit *x, int buf) { return mem_type(x, x->k->buf.at[buf].type); }

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

/* Masked intrinsics take the alignment on the pointer. */
static V masked(Emit *x, V v, unsigned pointer_arg, unsigned align)
{
    unsigned kind = LLVMGetEnumAttributeKindForName("align", 5);
    LLVMAddCallSiteAttribute(v, pointer_arg + 1, LLVMCreateEnumAttribute(x->c, kind, align));
    return v;
}

static V zeros(Emit *x) /* what a scalar load reads when no lane wants it */
{
    if (x->zeros) return x->zeros;
    x->zeros = LLVMBuildAlloca(x->entry, x->i64, "zeros");
    LLVMBuildStore(x->entry, int64(x, 0), x->zeros);
    return x->zeros;
}

static V load_scalar(Emit *x, int buf, Expr at)
{
    V p = emit_address(x, buf, at);
    if (x->some) p = LLVMBuildSelect(x->b, x->some, p, zeros(x), "");
    V v = LLVMBuildLoad2(x->b, element_type(x, buf), p, "");
    LLVMSetAlignment(v, element_align(x, buf));
    return v;
}

/* Which masked accesses are instructions; LLVM makes a branch for every lane of the others. */
static bool has_masked(const Emit *x, bool dense, bool store, unsigned bytes)
{
    bool avx512 = x->target->lanes >= 16, avx2 = x->target->lanes >= 8;
    if (strcmp(x->target->arch, "x86_64")) return false;
    if (dense) return avx512 || (avx2 && bytes >= 4);
    return bytes >= 4 && (store ? avx512 : avx2);
}

/* A vector in memory, for loops over its lanes. */
static V spill(Emit *x, V v)
{
    V at = LLVMBuildAlloca(x->entry, LLVMTypeOf(v), "lanes");
    LLVMSetAlignment(at, SCRATCH_ALIGN);
    LLVMSetAlignment(LLVMBuildStore(x->b, v, at), SCRATCH_ALIGN);
    return at;
}

static V lane_of(Emit *x, T t, V array, V lane) { return LLVMBuildInBoundsGEP2(x->b, t, array, &lane, 1, ""); }

/* Element by element, for the lanes of the mask alone; one of `from` and `to` may be a vector of pointers. */
static void copy_lanes(Emit *x, int buf, V from, V to, V mask)
{
    T t = element_type(x, buf), bits = LLVMIntTypeInContext(x->c, x->lanes);
    V set = LLVMBuildIntCast2(x->b, LLVMBuildBitCast(x->b, mask, bits, ""), x->i64, 0, ""), pointers = NULL;
    if (is_wide(from) || is_wide(to)) pointers = spill(x, is_wide(from) ? from : to);
    LLVMBasicBlockRef before = LLVMGetInsertBlock(x->b), head = block_new(x, "lanes"), body = block_new(x, "lane"),
                      done = block_new(x, "lanesdone");
    LLVMBuildBr(x->b, head);
    LLVMPositionBuilderAtEnd(x->b, head);
    V left = LLVMBuildPhi(x->b, x->i64, "left");
    LLVMBuildCondBr(x->b, LLVMBuildICmp(x->b, LLVMIntNE, left, int64(x, 0), ""), body, done);
    LLVMPositionBuilderAtEnd(x->b, body);
    V lane = intrinsic(x, "llvm.cttz", &x->i64, 1, (V[]){left, LLVMConstInt(x->i1, 1, 0)}, 2);
    V p = pointers ? LLVMBuildLoad2(x->b, x->ptr, lane_of(x, x->ptr, pointers, lane), "") : NULL;
    V v = LLVMBuildLoad2(x->b, t, is_wide(from) ? p : lane_of(x, t, from, lane), "");
    LLVMSetAlignment(v, element_align(x, buf));
    LLVMSetAlignment(LLVMBuildStore(x->b, v, is_wide(to) ? p : lane_of(x, t, to, lane)), element_align(x, buf));
    V next[2] = {set, LLVMBuildAnd(x->b, left, LLVMBuildSub(x->b, left, int64(x, 1), ""), "")};
    LLVMBuildBr(x->b, head);
    LLVMAddIncoming(left, next, (LLVMBasicBlockRef[]){before, body}, 2);
    LLVMPositionBuilderAtEnd(x->b, done);
}

static V load_each(Emit *x, int buf, V p)
{
    T t = element_type(x, buf);
    V v = LLVMGetPoison(LLVMVectorType(t, x->lanes));
    for (unsigned l = 0; l < x->lanes; l++) {
        V one = LLVMBuildLoad2(x->b, t, LLVMBuildExtractElement(x->b, p, int64(x, l), ""), "");
        LLVMSetAlignment(one, element_align(x, buf));
        v = LLVMBuildInsertElement(x->b, v, one, int64(x, l), "");
    }
    return v;
}

static V load_by_lane(Emit *x, int buf, V p, T wide)
{
    if (!x->mask) return load_each(x, buf, p);
    V array = spill(x, LLVMConstNull(wide));
    copy_lanes(x, buf, p, array, x->mask);
    V v = LLVMBuildLoad2(x->b, wide, array, "");
    LLVMSetAlignment(v, SCRATCH_ALIGN);
    return v;
}

static void store_by_lane(Emit *x, int buf, V p, V v)
{
    if (x->mask) {
        copy_lanes(x, buf, spill(x, v), p, x->mask);
        return;
    }
    for (unsigned l = 0; l < x->lanes; l++) {
        V at = LLVMBuildExtractElement(x->b, p, int64(x, l), ""),
          one = LLVMBuildExtractElement(x->b, v, int64(x, l), "");
        LLVMSetAlignment(LLVMBuildStore(x->b, one, at), element_align(x, buf));
    }
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
    if (at.dense && at.whole) {
        V v = LLVMBuildLoad2(x->b, over[0], p, "");
        LLVMSetAlignment(v, align);
        return v;
    }
    if (!has_masked(x, at.dense, false, align)) return load_by_lane(x, buf, p, over[0]);
    const char *name = at.dense ? "llvm.masked.load" : "llvm.masked.gather";
    return masked(x, intrinsic(x, name, over, 2, (V[]){p, full_mask(x), zero}, 3), 0, align);
}

V load_value(Emit *x, int buf, const Expr *index)
{
    V v = load(x, buf, index);
    if (x->k->buf.at[buf].type != DT_bool) return v;
    return LLVMBuildICmp(x->b, LLVMIntNE, v, LLVMConstNull(LLVMTypeOf(v)), "");
}

void store_at(Emit *x, int buf, const Place *at, V v)
{
    DType t = x->k->buf.at[buf].type;
    unsigned align = element_align(x, buf);
    if (t == DT_bool) v = LLVMBuildZExt(x->b, v, like(x->i8, v), "");
    if (!at->moves) { /* a column that is the only one: it is in the first lane */
        if (is_wide(v)) v = LLVMBuildExtractElement(x->b, v, int64(x, 0), "");
        LLVMSetAlignment(LLVMBuildStore(x->b, v, emit_address(x, buf, at->at)), align);
        return;
    }
    v = splat(x, v, x->lanes);
    V p = at->dense ? emit_address(x, buf, at->at) : addresses(x, buf, at->at);
    T over[2] = {LLVMTypeOf(v), LLVMTypeOf(p)};
    if (at->dense && at->whole) {
        LLVMSetAlignment(LLVMBuildStore(x->b, v, p), align);
        return;
    }
    if (!has_masked(x, at->dense, true, align)) {
        store_by_lane(x, buf, p, v);
        return;
    }
    const char *name = at->dense ? "llvm.masked.store" : "llvm.masked.scatter";
    masked(x, intrinsic(x, name, over, 2, (V[]){v, p, full_mask(x)}, 3), 1, align);
}

bool store_masks(const Emit *x, int buf)
{
    return has_masked(x, true, true, (unsigned)dtypes[x->k->buf.at[buf].type].bytes);
}

/* Elements side by side from `at` on, as many as v has. mask: NULL, or which of them */
void store_run(Emit *x, int buf, Expr at, V v, V mask)
{
    unsigned align = element_align(x, buf);
    if (x->k->buf.at[buf].type == DT_bool) v = LLVMBuildZExt(x->b, v, like(x->i8, v), "");
    V p = emit_address(x, buf, at);
    if (!mask) LLVMSetAlignment(LLVMBuildStore(x->b, v, p), align);
    else {
        T over[2] = {LLVMTypeOf(v), LLVMTypeOf(p)};
        masked(x, intrinsic(x, "llvm.masked.store", over, 2, (V[]){v, p, mask}, 3), 1, align);
    }
}

void emit_store(Emit *x, int buf, const Expr *index, V v)
{
    Place at = place_of(x, buf, index);
    store_at(x, buf, &at, v);
}
