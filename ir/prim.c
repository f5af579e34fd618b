/* prim.c - the primitives as a table and as arithmetic on single numbers: prim.def's meaning column compiled on f64,
 * f32, int64 and uint64. Interpreter and folding use nothing else, so what they compute is exactly f32 (or i8, ...)
 * arithmetic. */
#include "ir/kernel.h"
#include <assert.h>
#include <math.h>

/* ---- the table: the two LLVM columns say here what a row is on floats and on integers ---- */
#define OPCODE(op)       .exact = false
#define OPCODES(s, u)    .exact = false
#define UNOP(op)         .exact = false
#define INTRIN(name)     .exact = false
#define INTRINS(s, u)    .exact = false
#define COMPARE(p)       .compares = true
#define COMPARES(s, u)   .compares = true
#define SELECT           .exact = false
#define GUARD            .exact = false
#define CAST             .exact = false
#define SAT              .exact = false
#define BITS             .exact = false
#define SCALE2           .exact = false
#define CALL(name)       .libm = name
#define EXPAND(text)     .expansion = text, .exact = true
#define EXPANDS(text)    .expansion = text, .exact = true, .compares = true
#define POLY(name, text) .libm = name, .expansion = text
#define NONE             .none = true
const PrimInfo prims[PRIM_COUNT] = {
#define PRIM(name_, n, c_, ci, f, i, meaning)                                                                          \
    [P_##name_] = {.name = #name_, .arity = n, .c = c_, .c_int = ci, f, .integer = {i}},
#include "ir/prim.def"
#undef PRIM
};
#undef BITS

bool prim_chooses(Prim p) { return p == P_select || p == P_guard; }

bool prim_takes(Prim p, DType t) { return dtype_is_float(t) ? !prims[p].none : !prims[p].integer.none; }

/* ---- meaning on floats ---- */
#define WRAP_ADD(a, b) ((a) + (b))
#define WRAP_SUB(a, b) ((a) - (b))
#define WRAP_MUL(a, b) ((a) * (b))
#define WRAP_NEG(a)    (-(a))
#define DIV(a, b)      ((a) / (b))
#define MOD(a, b)      fmod(a, b)
#define FLOORMOD(a, b) floor_mod(a, b)
#define ABS(a)         fabs(a)
#define SIGNED(a)      (a)
#define NEGATIVE(a)    ((a) < 0)
#define ISNAN(a)       ((a) != (a))
#define ISINF(a)       (fabs(a) == (double)INFINITY)
#define BITS(a)        ((int64_t)(a))
#define SHL(a, b)      (a)
#define SHR(a, b)      (a)
#define FMA(a, b, c)   fma(a, b, c)

static double floor_mod(double a, double b)
{
    double r = fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static double prim_f64(Prim p, double a, double b, double c)
{
    switch (p) {
#define PRIM(name, n, c_, ci, f, i, meaning)                                                                           \
    case P_##name:                                                                                                     \
        return (double)(meaning);
#include "ir/prim.def"
#undef PRIM
    case P_NONE:
    case PRIM_COUNT: break;
    }
    assert(!"no such primitive");
    return 0;
}

/* f32 operands are exact in f64, and rounding + - * / sqrt twice is rounding once; only fma needs its own width. */
double prim_float(Prim p, DType t, double a, double b, double c)
{
    if (t == DT_f64) return prim_f64(p, a, b, c);
    double v = p == P_fma ? (double)fmaf((float)a, (float)b, (float)c) : prim_f64(p, a, b, c);
    return t == DT_f32 ? (double)(float)v : float_round(t, v);
}

#undef WRAP_ADD
#undef WRAP_SUB
#undef WRAP_MUL
#undef WRAP_NEG
#undef DIV
#undef MOD
#undef FLOORMOD
#undef ABS
#undef NEGATIVE
#undef ISNAN
#undef ISINF
#undef BITS
#undef SHL
#undef SHR
#undef FMA

/* ---- meaning on integers: 64 bits wide, wrapped to the type afterwards ---- */
#define WRAP_ADD(a, b) ((Word)((uint64_t)(a) + (uint64_t)(b)))
#define WRAP_SUB(a, b) ((Word)((uint64_t)(a) - (uint64_t)(b)))
#define WRAP_MUL(a, b) ((Word)((uint64_t)(a) * (uint64_t)(b)))
#define WRAP_NEG(a)    ((Word)(0 - (uint64_t)(a)))
#define DIV(a, b)      ((b) == 0 ? 0 : (b) == -1 ? WRAP_NEG(a) : (a) / (b))
#define MOD(a, b)      ((b) == 0 || (b) == -1 ? 0 : (a) % (b))
#define FLOORMOD(a, b) (MOD(a, b) != 0 && NEGATIVE(MOD(a, b)) != NEGATIVE(b) ? WRAP_ADD(MOD(a, b), b) : MOD(a, b))
#define ABS(a)         (NEGATIVE(a) ? WRAP_NEG(a) : (a))
#define ISNAN(a)       0
#define ISINF(a)       0
#define BITS(a)        ((uint64_t)(a))
#define SHL(a, b)      ((uint64_t)(a) << (b))
#define SHR(a, b)      ((a) >> (b))
#define FMA(a, b, c)   WRAP_ADD(WRAP_MUL(a, b), c)

#define Word        int64_t
#define NEGATIVE(a) ((a) < 0)
static int64_t prim_signed(Prim p, int64_t a, int64_t b, int64_t c)
{
    switch (p) {
#define PRIM(name, n, c_, ci, f, i, meaning)                                                                           \
    case P_##name:                                                                                                     \
        return (int64_t)(meaning);
#include "ir/prim.def"
#undef PRIM
    case P_NONE:
    case PRIM_COUNT: break;
    }
    assert(!"no such primitive");
    return 0;
}
#undef NEGATIVE
#undef DIV
#undef MOD
#undef SIGNED
#undef Word
#define Word        uint64_t
#define NEGATIVE(a) false
#define SIGNED(a)   ((Word)(a))
#define DIV(a, b)   ((b) == 0 ? 0 : (a) / (b))
#define MOD(a, b)   ((b) == 0 ? 0 : (a) % (b))

static int64_t prim_unsigned(Prim p, uint64_t a, uint64_t b, uint64_t c)
{
    switch (p) {
#define PRIM(name, n, c_, ci, f, i, meaning)                                                                           \
    case P_##name:                                                                                                     \
        return (int64_t)(meaning);
#include "ir/prim.def"
#undef PRIM
    case P_NONE:
    case PRIM_COUNT: break;
    }
    assert(!"no such primitive");
    return 0;
}

int64_t prim_int(Prim p, DType t, int64_t a, int64_t b, int64_t c)
{
    if ((p == P_shl || p == P_shr) && (b < 0 || b >= dtypes[t].bits)) return 0;
    if (t == DT_u64) return prim_unsigned(p, (uint64_t)a, (uint64_t)b, (uint64_t)c);
    if (t == DT_bool && p == P_fma) return (a && b) || c; /* arithmetic on bool is logic */
    if (t == DT_bool && p == P_add) p = P_or;
    return int_wrap(t, prim_signed(p, a, b, c));
}

/* ---- types ---- */
double float_round(DType t, double f)
{
    if (t == DT_f64) return f;
    if (t == DT_f32) return (double)(float)f;
    uint64_t cell = 0;
    dtype_store(t, &cell, 0, f);
    return dtype_load(t, &cell, 0);
}

int64_t int_wrap(DType t, int64_t i)
{
    int spare = 64 - dtypes[t].bits;
    if (t == DT_bool) return i & 1;
    if (spare <= 0) return i;
    if (dtypes[t].cls == DC_INT) return (int64_t)((uint64_t)i << spare) >> spare;
    return i & (int64_t)(UINT64_MAX >> spare);
}

static int64_t int_of_double(DType to, double f)
{
    if (f != f) return INT64_MIN;
    if (to == DT_u64 && f >= 0x1p63) return f < 0x1p64 ? (int64_t)(uint64_t)f : -1;
    return f >= 0x1p63 || f < -0x1p63 ? INT64_MIN : (int64_t)f;
}

static int64_t sat_of_double(DType to, double f)
{
    if (f != f) return 0;
    if (to == DT_u64) return f <= 0 ? 0 : int_of_double(to, f);
    if (f <= (double)dtype_min(to)) return dtype_min(to);
    return f >= (double)dtype_max(to) ? dtype_max(to) : (int64_t)f;
}

static int64_t sat_of_int(DType to, DType from, int64_t i)
{
    bool huge = from == DT_u64 && i < 0; /* above every signed value */
    if (to == DT_u64) return huge || i > 0 ? i : 0;
    if (huge || i > dtype_max(to)) return dtype_max(to);
    return i < dtype_min(to) ? dtype_min(to) : i;
}

Number number_convert(DType to, bool saturate, DType from, Number v)
{
    bool float_from = dtype_is_float(from);
    if (dtype_is_float(to)) {
        double f = float_from ? v.f : from == DT_u64 ? (double)(uint64_t)v.i : (double)v.i;
        if (to == DT_f32 && !float_from) f = from == DT_u64 ? (double)(float)(uint64_t)v.i : (double)(float)v.i;
        return (Number){.f = float_round(to, f)};
    }
    if (to == DT_bool) return (Number){.i = float_from ? v.f != 0 : v.i != 0};
    if (saturate) return (Number){.i = float_from ? sat_of_double(to, v.f) : sat_of_int(to, from, v.i)};
    return (Number){.i = int_wrap(to, float_from ? int_of_double(to, v.f) : v.i)};
}

DType type_bits(DType t)
{
    static const DType of[DT_COUNT] = {[DT_f32] = DT_i32, [DT_i32] = DT_f32, [DT_f64] = DT_i64, [DT_i64] = DT_f64};
    return of[t];
}

Number number_bits(DType from, Number v)
{
    Number r = v;
    float f;
    int32_t i;
    switch (dtypes[from].bits) {
    case 32:
        if (from == DT_f32) f = (float)v.f, memcpy(&i, &f, sizeof i), r.i = i;
        else i = (int32_t)v.i, memcpy(&f, &i, sizeof f), r.f = (double)f;
        break;
    default:
        if (from == DT_f64) memcpy(&r.i, &v.f, sizeof r.i);
        else memcpy(&r.f, &v.i, sizeof r.f);
    }
    return r;
}
