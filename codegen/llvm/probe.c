/* probe.c - loops of one instruction, from which `octet bench --profile` learns what the machine at hand can do.
 *
 * The same instructions as the kernels of a target use for a product (or a load), with as many independent chains as hide
 * their latency, operands in registers: what no kernel can beat. */
#include "codegen/llvm/internal.h"

enum { MAX_CHAINS = 24, SPARE = 4 }; /* SPARE: registers for operands */

typedef struct Probe {
    Emit *x;
    int chains;
    V state[MAX_CHAINS]; /* phis of the loop */
    V a, b;              /* operands */
} Probe;

static V vector_at(Probe *p, V at, T element, unsigned lanes, uint64_t byte)
{
    V by = int64(p->x, (int64_t)byte);
    V v = LLVMBuildLoad2(p->x->b, LLVMVectorType(element, lanes),
                         LLVMBuildInBoundsGEP2(p->x->b, p->x->i8, at, &by, 1, ""), "");
    LLVMSetAlignment(v, 16);
    return v;
}

static V argument(Probe *p, int list, int i) /* buf[i] or size[i] */
{
    Emit *x = p->x;
    V at = int64(x, i);
    T t = list ? x->i64 : x->ptr;
    return LLVMBuildLoad2(x->b, t, LLVMBuildInBoundsGEP2(x->b, t, LLVMGetParam(x->fn, (unsigned)list), &at, 1, ""), "");
}

/* ---- one round: each state to its next value ---- */
static V next_f32(Probe *p, V v) { return scalar_fma(p->x, v, p->a, p->b); }

static bool has_dot(const Target *t) { return t->dot == DOT_VNNI512 || t->dot == DOT_VNNI256 || t->dot == DOT_AMX; }

static V next_dot(Probe *p, V v)
{
    const char *name = p->x->target->lanes == 16 ? "llvm.x86.avx512.vpdpbusd.512" : "llvm.x86.avx512.vpdpbusd.256";
    return intrinsic(p->x, name, NULL, 0, (V[]){v, p->a, p->b}, 3);
}

static V next_bf16(Probe *p, V v)
{
    return intrinsic(p->x, "llvm.x86.avx512bf16.dpbf16ps.512", NULL, 0, (V[]){v, p->a, p->b}, 3);
}

/* Without a dot product of bytes: products of 16-bit halves summed in pairs, and one more addition. */
static V next_pairs(Probe *p, V v)
{
    Emit *x = p->x;
    const char *name = x->target->lanes == 16  ? "llvm.x86.avx512.pmaddw.d.512"
                       : x->target->lanes == 8 ? "llvm.x86.avx2.pmadd.wd"
                                               : "llvm.x86.sse2.pmadd.wd";
    V halves = LLVMBuildBitCast(x->b, v, LLVMTypeOf(p->a), ""); /* depends on the round, or it would leave the loop */
    return LLVMBuildAdd(x->b, v, intrinsic(x, name, NULL, 0, (V[]){halves, p->a}, 2), "");
}

typedef struct ProbeForm {
    T state, operand;
    V (*next)(Probe *, V);
    double operations; /* of one next() */
} ProbeForm;

static ProbeForm form_of(Emit *x, ProbeKind kind)
{
    unsigned lanes = (unsigned)x->target->lanes;
    T f = LLVMVectorType(x->f32, lanes), i = LLVMVectorType(x->i32, lanes);
    if (kind == PROBE_BF16 && x->target->pair == PAIR_DPBF16)
        return (ProbeForm){f, LLVMVectorType(LLVMBFloatTypeInContext(x->c), 2 * lanes), next_bf16, 4.0 * lanes};
    if (kind != PROBE_INT8) return (ProbeForm){f, f, next_f32, 2.0 * lanes};
    if (has_dot(x->target)) return (ProbeForm){i, LLVMVectorType(x->i8, 4 * lanes), next_dot, 8.0 * lanes};
    return (ProbeForm){i, LLVMVectorType(x->i16, 2 * lanes), next_pairs, 4.0 * lanes};
}

/* ---- loops ---- */
static void states_begin(Probe *p, const Loop *l, T t)
{
    V zero = LLVMConstNull(t);
    LLVMBasicBlockRef from = l->from;
    for (int i = 0; i < p->chains; i++) {
        p->state[i] = LLVMBuildPhi(p->x->b, t, "");
        LLVMAddIncoming(p->state[i], &zero, &from, 1);
    }
}

/* A fence in the loop keeps LLVM from seeing through the chains; it costs no instruction. */
static void loop_opaque(Probe *p)
{
    T none = LLVMFunctionType(LLVMVoidTypeInContext(p->x->c), NULL, 0, 0);
    V nothing = LLVMGetInlineAsm(none, "", 0, "", 0, 1, 0, LLVMInlineAsmDialectATT, 0);
    LLVMBuildCall2(p->x->b, none, nothing, NULL, 0, "");
}

static void states_end(Probe *p, Loop *l, V *next, int64_t step)
{
    loop_opaque(p);
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(p->x->b);
    for (int i = 0; i < p->chains; i++) LLVMAddIncoming(p->state[i], &next[i], &latch, 1);
    loop_close(p->x, l, step);
}

static V states_sum(Probe *p, bool floats)
{
    V sum = p->state[0];
    for (int i = 1; i < p->chains; i++)
        sum = floats ? LLVMBuildFAdd(p->x->b, sum, p->state[i], "") : LLVMBuildAdd(p->x->b, sum, p->state[i], "");
    return sum;
}

static void result_store(Probe *p, V v) { LLVMSetAlignment(LLVMBuildStore(p->x->b, v, argument(p, 0, 1)), 16); }

static double arithmetic(Probe *p, ProbeKind kind)
{
    Emit *x = p->x;
    ProbeForm f = form_of(x, kind);
    V next[MAX_CHAINS], data = argument(p, 0, 0);
    p->a = LLVMBuildBitCast(x->b, vector_at(p, data, x->f32, (unsigned)x->target->lanes, 0), f.operand, "");
    p->b = LLVMBuildBitCast(x->b, vector_at(p, data, x->f32, (unsigned)x->target->lanes, 64), f.operand, "");
    p->chains = x->target->registers - SPARE < MAX_CHAINS ? x->target->registers - SPARE : MAX_CHAINS;
    Loop l = loop_head(x, x->lo, x->hi);
    states_begin(p, &l, f.state);
    loop_body(x, &l);
    for (int i = 0; i < p->chains; i++) next[i] = f.next(p, p->state[i]);
    states_end(p, &l, next, 1);
    result_store(p, states_sum(p, kind != PROBE_INT8));
    return p->chains * f.operations;
}

static double tiles(Probe *p, int word) /* elements of a word: 4 bytes, 2 bf16 */
{
    Emit *x = p->x;
    x->tiles = (TileShape){.most = 16, .rows = 16, .words = 16};
    tiles_configure(x);
    Loop l = loop_head(x, x->lo, x->hi);
    loop_body(x, &l);
    tiles_busy(x, word);
    loop_close(x, &l, 1);
    tiles_free(x);
    return 2.0 * word * TILES_BUSY_PRODUCTS;
}

/* Every byte once a round, in whole pages. */
static double reading(Probe *p)
{
    enum { STREAMS = 8 };
    Emit *x = p->x;
    unsigned lanes = (unsigned)x->target->lanes, bytes = lanes * 4;
    T t = LLVMVectorType(x->i32, lanes);
    V data = argument(p, 0, 0), size = argument(p, 1, 0), outer[STREAMS], next[STREAMS];
    p->chains = STREAMS;
    Loop round = loop_head(x, x->lo, x->hi);
    states_begin(p, &round, t);
    memcpy(outer, p->state, sizeof outer);
    loop_body(x, &round);
    Loop l = loop_head(x, int64(x, 0), size);
    for (int i = 0; i < STREAMS; i++) {
        p->state[i] = LLVMBuildPhi(x->b, t, "");
        LLVMAddIncoming(p->state[i], &outer[i], &l.from, 1);
    }
    loop_body(x, &l);
    V at = LLVMBuildInBoundsGEP2(x->b, x->i8, data, &l.i, 1, "");
    for (unsigned i = 0; i < STREAMS; i++)
        next[i] = LLVMBuildAdd(x->b, p->state[i], vector_at(p, at, x->i32, lanes, (uint64_t)i * bytes), "");
    states_end(p, &l, next, (int64_t)STREAMS * bytes);
    memcpy(next, p->state, sizeof next), memcpy(p->state, outer, sizeof outer);
    states_end(p, &round, next, 1);
    result_store(p, states_sum(p, false));
    return 0;
}

double probe_emit(LLVMModuleRef m, const Target *target, ProbeKind kind, const char *symbol, Arena *mem)
{
    Probe p = {.x = emit_new(m, target, mem)};
    Emit *x = p.x;
    x->fn = function_new(x, symbol, (T[]){x->ptr, x->ptr, x->i64, x->i64, x->ptr}, 5);
    x->lo = LLVMGetParam(x->fn, 2), x->hi = LLVMGetParam(x->fn, 3);
    LLVMBasicBlockRef entry = block_new(x, "entry"), start = block_new(x, "start");
    LLVMPositionBuilderAtEnd(x->b, entry);
    LLVMPositionBuilderBefore(x->entry, LLVMBuildBr(x->b, start));
    LLVMPositionBuilderAtEnd(x->b, start);
    int word = kind == PROBE_INT8 && target->dot == DOT_AMX     ? 4
               : kind == PROBE_BF16 && target->pair == PAIR_AMX ? 2
                                                                : 0;
    double operations = kind == PROBE_READ ? reading(&p) : word ? tiles(&p, word) : arithmetic(&p, kind);
    LLVMBuildRet(x->b, LLVMConstInt(x->i32, 0, 0));
    emit_drop(x);
    return operations;
}
