/* scalar.c - one operation on registers: the LLVM columns of prim.def, casts, and floats of 16 bits and fewer.
 *
 * Comes in: operands as scalars or vectors, and the type they have in the kernel. Goes out: instructions that give the
 * same bits on every instruction set, apart from fused multiply-add. A libm call on a vector is made lane by lane. */
#include "codegen/llvm/internal.h"
#include <math.h>

/* ---- how each primitive is spelled: two columns of prim.def ---- */
typedef enum HowKind {
    H_NONE,
    H_OPCODE,
    H_UNOP,
    H_INTRIN,
    H_COMPARE,
    H_SELECT,
    H_SCALE2,
    H_BITS,
    H_CALL,
    H_ELSEWHERE
} HowKind;
typedef enum UnaryOp { U_FNeg, U_Neg, U_Not } UnaryOp;
typedef struct How {
    HowKind kind;
    int code, code_u; /* of unsigned operands */
    const char *name, *name_u;
} How;
/* clang-format off */
#define OPCODE(op)       {H_OPCODE, LLVM##op, LLVM##op, NULL, NULL}
#define OPCODES(op, opu) {H_OPCODE, LLVM##op, LLVM##opu, NULL, NULL}
#define UNOP(op)         {H_UNOP, U_##op, U_##op, NULL, NULL}
#define INTRIN(n)        {H_INTRIN, 0, 0, n, n}
#define INTRINS(n, nu)   {H_INTRIN, 0, 0, n, nu}
#define COMPARES(p, pu)  {H_COMPARE, LLVMInt##p, LLVMInt##pu, NULL, NULL}
#define CALL(n)          {H_CALL, 0, 0, n, n}
#define POLY(n, text)    {H_CALL, 0, 0, n, n} /* the f32 form was expanded */
#define SELECT           {H_SELECT, 0, 0, NULL, NULL}
#define SCALE2           {H_SCALE2, 0, 0, NULL, NULL}
#define BITS             {H_BITS, 0, 0, NULL, NULL}
#define GUARD            {H_ELSEWHERE, 0, 0, NULL, NULL}
#define CAST             {H_ELSEWHERE, 0, 0, NULL, NULL}
#define SAT              {H_ELSEWHERE, 0, 0, NULL, NULL}
#define EXPAND(text)     {H_ELSEWHERE, 0, 0, NULL, NULL}
#define EXPANDS(text)    {H_ELSEWHERE, 0, 0, NULL, NULL}
#define NONE             {H_NONE, 0, 0, NULL, NULL}
#define COMPARE(p)       {H_COMPARE, LLVMReal##p, LLVMReal##p, NULL, NULL}
static const How how_float[PRIM_COUNT] = {
#define PRIM(name, n, cf, ci, f, i, ...) [P_##name] = f,
#include "ir/prim.def"
#undef PRIM
};
#undef COMPARE
#define COMPARE(p)       {H_COMPARE, LLVMInt##p, LLVMInt##p, NULL, NULL}
static const How how_int[PRIM_COUNT] = {
#define PRIM(name, n, cf, ci, f, i, ...) [P_##name] = i,
#include "ir/prim.def"
#undef PRIM
};

/* clang-format on */

/* ---- floats of 16 bits and fewer: exponent and mantissa bits, bias, largest finite code, what lies above ---- */
typedef struct Format {
    int exponent, mantissa, bias;
    int64_t max, inf, nan;
    bool saturates, no_minus_zero;
} Format;
static const Format formats[DT_COUNT] = {
    [DT_f16] = {5, 10, 15, 0x7bff, 0x7c00, 0x7e00, false, false},
    [DT_bf16] = {8, 7, 127, 0x7f7f, 0x7f80, 0x7fc0, false, false},
    [DT_f8e4m3fn] = {4, 3, 7, 0x7e, 0, 0x7f, true, false},
    [DT_f8e4m3fnuz] = {4, 3, 8, 0x7f, 0, 0x80, true, true},
    [DT_f8e5m2] = {5, 2, 15, 0x7b, 0x7c, 0x7f, true, false},
    [DT_f8e5m2fnuz] = {5, 2, 16, 0x7f, 0, 0x80, true, true},
    [DT_f4e2m1] = {2, 1, 1, 7, 0, 0, true, false},
};
static bool is_narrow(DType t) { return dtype_is_float(t) && t != DT_f32 && t != DT_f64; }
static bool is_signed(DType t) { return dtypes[t].cls == DC_INT; }

/* ---- small words ---- */
T mem_type(const Emit *x, DType t)
{
    if (t == DT_f32) return x->f32;
    if (t == DT_f64) return x->f64;
    return LLVMIntTypeInContext(x->c, (unsigned)dtypes[t].bytes * 8);
}

T reg_type(const Emit *x, DType t) { return t == DT_bool ? x->i1 : mem_type(x, t); }
bool is_wide(V v) { return LLVMGetTypeKind(LLVMTypeOf(v)) == LLVMVectorTypeKind; }
static unsigned lanes_of(V v) { return is_wide(v) ? LLVMGetVectorSize(LLVMTypeOf(v)) : 1; }
T like(T scalar, V v) { return is_wide(v) ? LLVMVectorType(scalar, lanes_of(v)) : scalar; }

static V filled(T t, V scalar)
{
    if (LLVMGetTypeKind(t) != LLVMVectorTypeKind) return scalar;
    V lane[64];
    unsigned n = LLVMGetVectorSize(t);
    assert(n <= COUNT_OF(lane));
    for (unsigned i = 0; i < n; i++) lane[i] = scalar;
    return LLVMConstVector(lane, n);
}

static T element(T t) { return LLVMGetTypeKind(t) == LLVMVectorTypeKind ? LLVMGetElementType(t) : t; }
V int_of(T t, int64_t i) { return filled(t, LLVMConstInt(element(t), (unsigned long long)i, 1)); }
V real_of(T t, double f) { return filled(t, LLVMConstReal(element(t), f)); }

V splat(Emit *x, V v, unsigned lanes) /* insertelement + shufflevector: the form instruction selection folds */
{
    if (is_wide(v) || !lanes) return v;
    T t = LLVMVectorType(LLVMTypeOf(v), lanes);
    if (LLVMIsConstant(v)) return filled(t, v);
    V one = LLVMBuildInsertElement(x->b, LLVMGetPoison(t), v, LLVMConstInt(x->i32, 0, 0), "");
    return LLVMBuildShuffleVector(x->b, one, LLVMGetPoison(t), LLVMConstNull(LLVMVectorType(x->i32, lanes)), "");
}

V intrinsic(Emit *x, const char *name, const T *over, size_t overs, V *arg, unsigned n)
{
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
    assert(id && "intrinsic unknown to this LLVM");
    T t = LLVMIntrinsicGetType(x->c, id, (T *)over, overs);
    return LLVMBuildCall2(x->b, t, LLVMGetIntrinsicDeclaration(x->m, id, (T *)over, overs), arg, n, "");
}

V any_lane(Emit *x, V mask)
{
    T t = LLVMTypeOf(mask);
    return is_wide(mask) ? intrinsic(x, "llvm.vector.reduce.or", &t, 1, &mask, 1) : mask;
}

V scalar_const(Emit *x, const ExprNode *n)
{
    DType t = (DType)n->type;
    if (!dtype_is_float(t)) return LLVMConstInt(reg_type(x, t), (unsigned long long)n->u.i, 1);
    double f = n->kind == E_FLOAT ? n->u.f : (double)n->u.i;
    if (!is_narrow(t)) return LLVMConstReal(reg_type(x, t), f);
    uint16_t code = 0;
    dtype_store(t, &code, 0, f);
    return LLVMConstInt(reg_type(x, t), code, 0);
}

/* shorter names for what follows */
static V select_(Emit *x, V c, V a, V b) { return LLVMBuildSelect(x->b, c, a, b, ""); }
static V icmp(Emit *x, LLVMIntPredicate p, V a, int64_t b)
{
    return LLVMBuildICmp(x->b, p, a, int_of(LLVMTypeOf(a), b), "");
}
static V fcmp(Emit *x, LLVMRealPredicate p, V a, V b) { return LLVMBuildFCmp(x->b, p, a, b, ""); }
static V op2(Emit *x, LLVMOpcode op, V a, V b) { return LLVMBuildBinOp(x->b, op, a, b, ""); }
static V opi(Emit *x, LLVMOpcode op, V a, int64_t b)
{
    return LLVMBuildBinOp(x->b, op, a, int_of(LLVMTypeOf(a), b), "");
}
static V opf(Emit *x, LLVMOpcode op, V a, double b)
{
    return LLVMBuildBinOp(x->b, op, a, real_of(LLVMTypeOf(a), b), "");
}
static V convert(Emit *x, LLVMOpcode op, V a, T scalar) { return LLVMBuildCast(x->b, op, a, like(scalar, a), ""); }
static V bitcast(Emit *x, V a, T scalar) { return convert(x, LLVMBitCast, a, scalar); }
static V intrinsic1(Emit *x, const char *name, V a)
{
    T t = LLVMTypeOf(a);
    return intrinsic(x, name, &t, 1, &a, 1);
}
static V intrinsic2(Emit *x, const char *name, V a, V b)
{
    T t = LLVMTypeOf(a);
    return intrinsic(x, name, &t, 1, (V[]){a, b}, 2);
}

static V fit(Emit *x, DType t, V v) /* types of fewer bits than their register: wrap */
{
    int unused = dtypes[t].bytes * 8 - dtypes[t].bits;
    if (!unused || t == DT_bool) return v;
    return opi(x, is_signed(t) ? LLVMAShr : LLVMLShr, opi(x, LLVMShl, v, unused), unused);
}

/* ---- rounding: SSE2 has no instruction for it, and LLVM would call libm for every lane ---- */
static bool lacks_rounding(const Emit *x) { return !strcmp(x->target->arch, "x86_64") && x->target->lanes < 8; }

static V rint_by_hand(Emit *x, V v)
{
    T t = LLVMTypeOf(v);
    V big = real_of(t, element(t) == x->f64 ? 0x1p52 : 0x1p23), m = intrinsic2(x, "llvm.copysign", big, v);
    V r = intrinsic2(x, "llvm.copysign", op2(x, LLVMFSub, op2(x, LLVMFAdd, v, m), m), v);
    return select_(x, fcmp(x, LLVMRealOLT, intrinsic1(x, "llvm.fabs", v), big), r, v);
}

static V round_by_hand(Emit *x, Prim p, V v)
{
    V from = p == P_trunc ? intrinsic1(x, "llvm.fabs", v) : v, r = rint_by_hand(x, from);
    if (p == P_rint) return r;
    bool up = p == P_ceil;
    V off = fcmp(x, up ? LLVMRealOLT : LLVMRealOGT, r, from);
    r = select_(x, off, opf(x, LLVMFAdd, r, up ? 1 : -1), r);
    return intrinsic2(x, "llvm.copysign", r, v);
}

/* ---- single operations ---- */
V scalar_fma(Emit *x, V a, V b, V c)
{
    T t = LLVMTypeOf(a);
    if (x->target->fma) return intrinsic(x, "llvm.fma", &t, 1, (V[]){a, b, c}, 3);
    return op2(x, LLVMFAdd, op2(x, LLVMFMul, a, b), c);
}

static bool is_known_divisor(V b, double *d) /* the same in all lanes; no quotient overflows */
{
    LLVMBool lossy;
    V one = LLVMIsConstant(b) ? LLVMGetAggregateElement(b, 0) : NULL;
    if (!one || !LLVMIsAConstantFP(one)) return false;
    *d = LLVMConstRealGetDouble(one, &lossy);
    return b == real_of(LLVMTypeOf(b), *d) && fabs(*d) >= 1 && fabs(*d) < 0x1p40;
}

/* By a known divisor: its reciprocal, and the rest that leaves (Brisebarre, Muller and Raina, "Accelerating correctly rounded floating-point
 * division when the divisor is known in advance", 2004). The same quotients in four instructions that do not wait for the divider; where there is
 * no rest, or no number, the first product is the quotient. Those below 2^-60 may be off by their last bit. */
static V divide_float(Emit *x, V a, V b)
{
    double d;
    T t = LLVMTypeOf(a);
    if (!x->target->fma || !is_wide(a) || element(t) != x->f32 || !is_known_divisor(b, &d)) return op2(x, LLVMFDiv, a, b);
    V by = real_of(t, (double)(1 / (float)d)), q = op2(x, LLVMFMul, a, by);
    V rest = scalar_fma(x, LLVMBuildFNeg(x->b, q, ""), b, a);
    return select_(x, fcmp(x, LLVMRealONE, rest, LLVMConstNull(t)), scalar_fma(x, rest, by, q), q);
}

/* a * 2^b: one vscalefps, or two factors of half the exponent so that subnormal results and overflow come out right. */
static V scale2(Emit *x, V a, V b)
{
    T t = LLVMTypeOf(a);
    bool f64 = element(t) == x->f64;
    if (!f64 && lanes_of(a) == 16 && x->target->lanes == 16)
        return intrinsic(x, "llvm.x86.avx512.mask.scalef.ps.512", NULL, 0,
                         (V[]){a, b, a, LLVMConstAllOnes(x->i16), LLVMConstInt(x->i32, 4, 0)}, 5);
    T whole = f64 ? x->i64 : x->i32;
    int bias = f64 ? 1023 : 127, mantissa = f64 ? 52 : 23;
    V n = LLVMBuildFreeze(x->b, convert(x, LLVMFPToSI, b, whole), ""), h = opi(x, LLVMAShr, n, 1),
      half[2] = {h, op2(x, LLVMSub, n, h)};
    for (int i = 0; i < 2; i++)
        a = op2(x, LLVMFMul, a, bitcast(x, opi(x, LLVMShl, opi(x, LLVMAdd, half[i], bias), mantissa), element(t)));
    return a;
}

static bool never_nan(V v)
{
    LLVMBool lossy;
    if (is_wide(v)) return false;
    return LLVMIsAConstantFP(v) && !isnan(LLVMConstRealGetDouble(v, &lossy));
}

/* maxps and minps: the second operand if either is NaN. As an intrinsic where a NaN is put back behind it, or LLVM makes of both selects a
 * chain of three comparisons and masks. */
static V second_if_nan(Emit *x, Prim p, V a, V b)
{
    if (lanes_of(a) == 16 && element(LLVMTypeOf(a)) == x->f32 && x->target->lanes == 16)
        return intrinsic(x, p == P_max ? "llvm.x86.avx512.max.ps.512" : "llvm.x86.avx512.min.ps.512", NULL, 0,
                         (V[]){a, b, LLVMConstInt(x->i32, 4, 0)}, 3);
    return select_(x, fcmp(x, p == P_max ? LLVMRealOGT : LLVMRealOLT, a, b), a, b);
}

/* The larger (smaller) of two, NaN if either is. x86's maxps gives its second operand when one is NaN: with a constant
 * on the other side that is all there is to do; otherwise a NaN on the first side is put back. */
static V extremum(Emit *x, Prim p, V a, V b, bool first_is_plain, bool second_is_plain)
{
    LLVMRealPredicate better = p == P_max ? LLVMRealOGT : LLVMRealOLT;
    if (second_is_plain && !first_is_plain) return select_(x, fcmp(x, better, b, a), b, a);
    if (first_is_plain) return select_(x, fcmp(x, better, a, b), a, b);
    return select_(x, fcmp(x, LLVMRealUNO, a, a), a, second_if_nan(x, p, a, b));
}

static bool int_constant(V v, int64_t *i) /* of all lanes */
{
    if (!LLVMIsConstant(v)) return false;
    V one = is_wide(v) ? LLVMGetAggregateElement(v, 0) : v;
    for (unsigned l = 1; l < lanes_of(v); l++)
        if (LLVMGetAggregateElement(v, l) != one) return false;
    if (!one || !LLVMIsAConstantInt(one)) return false;
    *i = LLVMConstIntGetSExtValue(one);
    return true;
}

/* Division that no data can make trap: x / 0 is 0, x % 0 is 0, the smallest number divided by -1 wraps. */
static V divide(Emit *x, LLVMOpcode op, DType t, V a, V b)
{
    int64_t d;
    if (int_constant(b, &d) && d != 0 && d != -1) return op2(x, op, a, b);
    bool remainder = op == LLVMSRem || op == LLVMURem;
    V zero = icmp(x, LLVMIntEQ, b, 0), minus = is_signed(t) ? icmp(x, LLVMIntEQ, b, -1) : NULL, odd = zero;
    if (minus) odd = op2(x, LLVMOr, zero, minus);
    V q = op2(x, op, a, select_(x, odd, int_of(LLVMTypeOf(b), 1), b)); /* % 1 is 0, as wanted for both */
    if (remainder) return q;
    if (minus) q = select_(x, minus, LLVMBuildNeg(x->b, a, ""), q);
    return select_(x, zero, LLVMConstNull(LLVMTypeOf(q)), q);
}

static V shift(Emit *x, LLVMOpcode op, V a, V b)
{
    int64_t width = LLVMGetIntTypeWidth(element(LLVMTypeOf(a)));
    int64_t by;
    if (int_constant(b, &by) && by >= 0 && by < width) return op2(x, op, a, b);
    V inside = icmp(x, LLVMIntULT, b, width), r = op2(x, op, a, select_(x, inside, b, LLVMConstNull(LLVMTypeOf(b))));
    return select_(x, inside, r, LLVMConstNull(LLVMTypeOf(r)));
}

static V integer_op(Emit *x, LLVMOpcode op, DType t, V a, V b)
{
    bool logic = t == DT_bool; /* arithmetic on bool is logic */
    switch ((int)op) {
    case LLVMSDiv:
    case LLVMUDiv:
    case LLVMSRem:
    case LLVMURem: return divide(x, op, t, a, b);
    case LLVMShl:
    case LLVMAShr:
    case LLVMLShr: return shift(x, op, a, b);
    case LLVMAdd: return op2(x, logic ? LLVMOr : op, a, b);
    case LLVMMul: return op2(x, logic ? LLVMAnd : op, a, b);
    default: return op2(x, op, a, b);
    }
}

/* A libm function, called once for every lane. */
static V call_libm(Emit *x, const char *name, DType t, V *a, int n)
{
    T scalar = reg_type(x, t), param[3] = {scalar, scalar, scalar},
      type = LLVMFunctionType(scalar, param, (unsigned)n, 0);
    const char *symbol = arena_printf(x->mem, "%s%s", name, t == DT_f64 ? "" : "f");
    V f = LLVMGetNamedFunction(x->m, symbol), r = NULL;
    if (!f) f = LLVMAddFunction(x->m, symbol, type);
    if (!is_wide(a[0])) return LLVMBuildCall2(x->b, type, f, a, (unsigned)n, "");
    r = LLVMGetPoison(LLVMTypeOf(a[0]));
    for (unsigned i = 0; i < lanes_of(a[0]); i++) {
        V lane[3], at = LLVMConstInt(x->i32, i, 0);
        for (int j = 0; j < n; j++) lane[j] = LLVMBuildExtractElement(x->b, a[j], at, "");
        r = LLVMBuildInsertElement(x->b, r, LLVMBuildCall2(x->b, type, f, lane, (unsigned)n, ""), at, "");
    }
    return r;
}

static V unary(Emit *x, int op, V a)
{
    return op == U_FNeg  ? LLVMBuildFNeg(x->b, a, "")
           : op == U_Neg ? LLVMBuildNeg(x->b, a, "")
                         : LLVMBuildNot(x->b, a, "");
}

static V float_intrinsic(Emit *x, Prim p, const char *name, V *a, const bool *plain)
{
    if (p == P_max || p == P_min) return extremum(x, p, a[0], a[1], plain[0], plain[1]);
    if (p == P_larger) return select_(x, fcmp(x, LLVMRealOGT, a[0], a[1]), a[0], a[1]);
    if (p == P_fma) return scalar_fma(x, a[0], a[1], a[2]);
    if (lacks_rounding(x) && (p == P_rint || p == P_floor || p == P_ceil || p == P_trunc))
        return round_by_hand(x, p, a[0]);
    T t = LLVMTypeOf(a[0]);
    return intrinsic(x, name, &t, 1, a, (unsigned)prims[p].arity);
}

V scalar_prim(Emit *x, Prim p, DType t, V *a)
{
    int n = prims[p].arity;
    if (is_narrow(t) && p != P_select && p != P_bits) { /* computed in f32 */
        V wide[3] = {0};
        for (int i = 0; i < n; i++) wide[i] = scalar_cast(x, t, DT_f32, a[i]);
        V r = scalar_prim(x, p, DT_f32, wide);
        return prims[p].compares ? r : scalar_cast(x, DT_f32, t, r);
    }
    bool real = dtype_is_float(t), plain[3] = {false}, u = dtypes[t].cls != DC_INT;
    How h = real ? how_float[p] : how_int[p];
    unsigned lanes = 0;
    for (int i = 0; i < n; i++) {
        plain[i] = real && never_nan(a[i]);
        if (is_wide(a[i])) lanes = lanes_of(a[i]);
    }
    for (int i = 0; i < n; i++)
        if (p != P_select || i || is_wide(a[0])) a[i] = splat(x, a[i], lanes);
    switch (h.kind) {
    case H_OPCODE:
        if (real && h.code == LLVMFDiv) return divide_float(x, a[0], a[1]);
        return real ? op2(x, (LLVMOpcode)h.code, a[0], a[1])
                    : fit(x, t, integer_op(x, (LLVMOpcode)(u ? h.code_u : h.code), t, a[0], a[1]));
    case H_UNOP: return unary(x, h.code, a[0]);
    case H_INTRIN:
        return real ? float_intrinsic(x, p, h.name, a, plain) : intrinsic2(x, u ? h.name_u : h.name, a[0], a[1]);
    case H_COMPARE:
        return real ? fcmp(x, (LLVMRealPredicate)h.code, a[0], a[1])
                    : LLVMBuildICmp(x->b, (LLVMIntPredicate)(u ? h.code_u : h.code), a[0], a[1], "");
    case H_SELECT: return select_(x, a[0], a[1], a[2]);
    case H_SCALE2: return scale2(x, a[0], a[1]);
    case H_BITS:
        return bitcast(x, a[0],
                       t == DT_f32                  ? x->i32
                       : t == DT_f64                ? x->i64
                       : t == DT_i32 || t == DT_u32 ? x->f32
                                                    : x->f64);
    case H_CALL: return call_libm(x, h.name, t, a, n);
    case H_NONE:
    case H_ELSEWHERE: break;
    }
    assert(!"a primitive that this class of operands does not have");
    return NULL;
}

/* ---- narrow floats ---- */
static bool has_f16c(const Emit *x) { return strcmp(x->target->arch, "x86_64") || x->target->lanes >= 8; }

static V widen_scale(Emit *x, V v) /* f8e8m0: a power of two */
{
    V bits = opi(x, LLVMShl, convert(x, LLVMZExt, v, x->i32), 23);
    bits = select_(x, icmp(x, LLVMIntEQ, v, 0), int_of(LLVMTypeOf(bits), 0x00400000), bits);
    return bitcast(x, select_(x, icmp(x, LLVMIntEQ, v, 255), int_of(LLVMTypeOf(bits), 0x7fc00000), bits), x->f32);
}

static V widen(Emit *x, DType t, V v) /* to f32, exactly */
{
    if (t == DT_f8e8m0) return widen_scale(x, v);
    if (t == DT_f16 && has_f16c(x)) return convert(x, LLVMFPExt, bitcast(x, v, LLVMHalfTypeInContext(x->c)), x->f32);
    V code = convert(x, LLVMZExt, v, x->i32);
    if (t == DT_bf16) return bitcast(x, opi(x, LLVMShl, code, 16), x->f32);
    const Format *f = &formats[t];
    int bits = f->exponent + f->mantissa, up = 23 - f->mantissa;
    V sign = opi(x, LLVMShl, opi(x, LLVMLShr, code, bits), 31), rest = opi(x, LLVMAnd, code, (1 << bits) - 1);
    V normal = opi(x, LLVMAdd, opi(x, LLVMShl, rest, up), (int64_t)(127 - f->bias) << 23);
    V tiny = opf(x, LLVMFMul, convert(x, LLVMSIToFP, rest, x->f32), ldexp(1, 1 - f->bias - f->mantissa));
    V r = select_(x, icmp(x, LLVMIntULT, rest, 1 << f->mantissa), bitcast(x, tiny, x->i32), normal);
    T t32 = LLVMTypeOf(r);
    if (f->nan && !f->no_minus_zero) r = select_(x, icmp(x, LLVMIntUGT, rest, f->max), int_of(t32, 0x7fc00000), r);
    if (f->inf) r = select_(x, icmp(x, LLVMIntEQ, rest, f->inf), int_of(t32, 0x7f800000), r);
    r = op2(x, LLVMOr, r, sign);
    if (f->no_minus_zero) r = select_(x, icmp(x, LLVMIntEQ, code, f->nan), int_of(t32, 0x7fc00000), r);
    return bitcast(x, r, x->f32);
}

static V narrow_scale(Emit *x, V bits, V a) /* to the nearest power of two, ties up */
{
    V code = intrinsic2(x, "llvm.umin", opi(x, LLVMLShr, opi(x, LLVMAdd, a, 0x400000), 23), int_of(LLVMTypeOf(a), 254));
    code = select_(x, icmp(x, LLVMIntEQ, bits, 0xff800000), LLVMConstNull(LLVMTypeOf(a)), code);
    code = select_(x, icmp(x, LLVMIntUGT, a, 0x7f800000), int_of(LLVMTypeOf(a), 255), code);
    return convert(x, LLVMTrunc, code, x->i8);
}

static V narrow(Emit *x, DType t, V v) /* f32 rounded to nearest even */
{
    if (t == DT_f16 && has_f16c(x)) return bitcast(x, convert(x, LLVMFPTrunc, v, LLVMHalfTypeInContext(x->c)), x->i16);
    if (t == DT_bf16 && is_wide(v) && x->target->pair != PAIR_FMA)
        return bitcast(x, convert(x, LLVMFPTrunc, v, LLVMBFloatTypeInContext(x->c)), x->i16);
    V raw = bitcast(x, v, x->i32), a = opi(x, LLVMAnd, raw, 0x7fffffff);
    if (t == DT_f8e8m0) return narrow_scale(x, raw, a);
    const Format *f = &formats[t];
    T t32 = LLVMTypeOf(a);
    int down = 23 - f->mantissa, bits = f->exponent + f->mantissa;
    V even = opi(x, LLVMAnd, opi(x, LLVMLShr, a, down), 1);
    V code = opi(x, LLVMLShr, op2(x, LLVMAdd, opi(x, LLVMAdd, a, ((int64_t)1 << (down - 1)) - 1), even), down);
    code = opi(x, LLVMSub, code, (int64_t)(127 - f->bias) << f->mantissa);
    if (f->bias != 127) { /* below the least normal number: adding one whose last place is the format's rounds */
        double unit = ldexp(1, 23 + 1 - f->bias - f->mantissa);
        V sum = bitcast(x, opf(x, LLVMFAdd, bitcast(x, a, x->f32), unit), x->i32),
          base = bitcast(x, real_of(like(x->f32, v), unit), x->i32);
        int64_t least = (int64_t)(127 + 1 - f->bias) << 23;
        code = select_(x, icmp(x, LLVMIntULT, a, least), op2(x, LLVMSub, sum, base), code);
    }
    V over = icmp(x, LLVMIntSGT, code, f->max), nan = icmp(x, LLVMIntUGT, a, 0x7f800000);
    code = select_(x, over, int_of(t32, f->saturates || !f->inf ? f->max : f->inf), code);
    if (f->saturates && f->inf) code = select_(x, icmp(x, LLVMIntEQ, a, 0x7f800000), int_of(t32, f->inf), code);
    code = select_(x, nan, int_of(t32, f->nan && !f->no_minus_zero ? f->nan : f->nan ? f->max : 0), code);
    V sign = opi(x, LLVMShl, opi(x, LLVMLShr, raw, 31), bits);
    if (!f->nan) sign = select_(x, nan, int_of(t32, (int64_t)1 << bits), sign); /* NaN gives -0, as dtype.c does */
    V r = op2(x, LLVMOr, code, sign);
    if (f->no_minus_zero) {
        r = select_(x, icmp(x, LLVMIntEQ, code, 0), LLVMConstNull(t32), r);
        r = select_(x, nan, int_of(t32, f->nan), r);
    }
    return convert(x, LLVMTrunc, r, reg_type(x, t));
}

/* f64 to f32 rounded to odd: a second rounding to fewer bits then gives what one rounding would have. */
static V round_to_odd(Emit *x, V v)
{
    V f = convert(x, LLVMFPTrunc, v, x->f32), back = convert(x, LLVMFPExt, f, x->f64), bits = bitcast(x, f, x->i32);
    V beyond = fcmp(x, LLVMRealOGT, intrinsic1(x, "llvm.fabs", back), intrinsic1(x, "llvm.fabs", v));
    V odd = opi(x, LLVMOr, select_(x, beyond, opi(x, LLVMSub, bits, 1), bits), 1);
    return bitcast(x, select_(x, fcmp(x, LLVMRealONE, back, v), odd, bits), x->f32);
}

/* ---- casts ---- */

static V resize(Emit *x, DType from, V v, T to) /* integers and bool */
{
    unsigned have = LLVMGetIntTypeWidth(element(LLVMTypeOf(v))), want = LLVMGetIntTypeWidth(to);
    return have == want ? v : convert(x, have > want ? LLVMTrunc : is_signed(from) ? LLVMSExt : LLVMZExt, v, to);
}

/* Truncation; unspecified out of range, so a conversion to a wider integer serves narrow and unsigned ones. */
static V float_to_int(Emit *x, DType to, V v)
{
    T via = dtypes[to].bits < 32 || to == DT_i32 ? x->i32 : x->i64;
    V i = LLVMBuildFreeze(x->b, convert(x, to == DT_u64 ? LLVMFPToUI : LLVMFPToSI, v, via), "");
    return fit(x, to, resize(x, DT_i64, i, reg_type(x, to)));
}

V scalar_cast(Emit *x, DType from, DType to, V v)
{
    if (from == to) return v;
    if (is_narrow(from)) return scalar_cast(x, DT_f32, to, widen(x, from, v));
    bool real = dtype_is_float(from);
    if (is_narrow(to)) {
        if (from == DT_f64) return narrow(x, to, round_to_odd(x, v));
        if (real) return narrow(x, to, v);
        if (dtypes[from].bits > 16) return scalar_cast(x, DT_f64, to, scalar_cast(x, from, DT_f64, v));
        return narrow(x, to, scalar_cast(x, from, DT_f32, v));
    }
    T t = reg_type(x, to);
    if (to == DT_bool) return real ? fcmp(x, LLVMRealUNE, v, LLVMConstNull(LLVMTypeOf(v))) : icmp(x, LLVMIntNE, v, 0);
    if (real && dtype_is_float(to)) return convert(x, to == DT_f32 ? LLVMFPTrunc : LLVMFPExt, v, t);
    if (real) return float_to_int(x, to, v);
    if (dtype_is_float(to)) return convert(x, is_signed(from) ? LLVMSIToFP : LLVMUIToFP, v, t);
    return fit(x, to, resize(x, from, v, t));
}

static V clamp(Emit *x, V v, V lo, V hi, bool nan_is_zero)
{
    if (nan_is_zero) v = select_(x, fcmp(x, LLVMRealORD, v, v), v, LLVMConstNull(LLVMTypeOf(v)));
    v = select_(x, fcmp(x, LLVMRealOGT, v, lo), v, lo); /* NaN: lo */
    return select_(x, fcmp(x, LLVMRealOLT, v, hi), v, hi);
}

static V sat_float(Emit *x, DType to, V v)
{
    double lo = (double)dtype_min(to), hi = (double)dtype_max(to);
    T over[2] = {like(reg_type(x, to), v), LLVMTypeOf(v)};
    if (dtypes[to].bits >= 32)
        return intrinsic(x, is_signed(to) ? "llvm.fptosi.sat" : "llvm.fptoui.sat", over, 2, &v, 1);
    T t = LLVMTypeOf(v);
    return float_to_int(x, to, clamp(x, v, real_of(t, lo), real_of(t, hi), lo < 0));
}

/* To unsigned: what is too large is 2^31 or more after x86's conversion, which gives 0x80000000 for all it cannot hold, and AVX-512 has
 * one instruction for a least value and a truncation. */
static V sat_rint_unsigned(Emit *x, DType to, V v, V plus)
{
    T t = LLVMTypeOf(v), over[2] = {like(x->i32, v), t};
    V least = plus ? LLVMBuildFNeg(x->b, convert(x, LLVMSIToFP, plus, x->f32), "") : LLVMConstNull(t);
    V c = select_(x, fcmp(x, LLVMRealOGT, v, least), v, least); /* NaN: the least */
    V i = intrinsic(x, "llvm.lrint", over, 2, &c, 1);
    if (plus) i = op2(x, LLVMAdd, i, plus);
    return resize(x, DT_u32, intrinsic2(x, "llvm.umin", i, int_of(over[0], dtype_max(to))), reg_type(x, to));
}

V scalar_sat_rint(Emit *x, DType to, V v, V plus)
{
    double lo = (double)dtype_min(to), hi = (double)dtype_max(to);
    T t = LLVMTypeOf(v);
    bool is_code = !plus || !LLVMIsAConstantInt(plus) || (double)LLVMConstIntGetSExtValue(plus) >= 0;
    if (plus) plus = splat(x, plus, is_wide(v) ? lanes_of(v) : 0);
    if (lo == 0 && is_code && dtypes[to].bits % 8 == 0 && !strcmp(x->target->arch, "x86_64"))
        return sat_rint_unsigned(x, to, v, plus);
    /* NaN must give 0 whatever `plus` is; with lo == 0 the clamp does that already. */
    V nan = lo != 0 ? fcmp(x, LLVMRealUNO, v, v) : NULL, end[2] = {real_of(t, lo), real_of(t, hi)};
    for (int i = 0; i < 2 && plus; i++) end[i] = op2(x, LLVMFSub, end[i], convert(x, LLVMSIToFP, plus, x->f32));
    V c = clamp(x, v, end[0], end[1], false);
    T over[2] = {like(x->i32, v), t};
    V i = intrinsic(x, "llvm.lrint", over, 2, &c, 1);
    if (plus) i = op2(x, LLVMAdd, i, plus);
    if (nan) i = select_(x, nan, LLVMConstNull(LLVMTypeOf(i)), i);
    return fit(x, to, resize(x, DT_i32, i, reg_type(x, to)));
}

static V sat_int(Emit *x, DType from, DType to, V v)
{
    T t = LLVMTypeOf(v);
    bool sfrom = is_signed(from);
    int64_t lo = dtype_min(to), hi = dtype_max(to);
    if (sfrom && lo > dtype_min(from)) v = intrinsic2(x, "llvm.smax", v, int_of(t, lo));
    if (to != DT_u64 && hi < dtype_max(from)) v = intrinsic2(x, sfrom ? "llvm.smin" : "llvm.umin", v, int_of(t, hi));
    if (from == DT_u64 && to == DT_i64) v = intrinsic2(x, "llvm.umin", v, int_of(t, INT64_MAX));
    return resize(x, from, v, reg_type(x, to));
}

V scalar_sat(Emit *x, DType from, DType to, V v)
{
    if (is_narrow(from)) return scalar_sat(x, DT_f32, to, widen(x, from, v));
    if (!dtype_is_int(to) || from == DT_bool) return scalar_cast(x, from, to, v);
    if (dtype_is_float(from)) return sat_float(x, to, v);
    return sat_int(x, from, to, v);
}
