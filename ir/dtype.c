/* dtype.c - element types: the table, and elements of any type as numbers.
 *
 * Floats of 16 bits and fewer are rows of one table (exponent bits, mantissa bits, bias, what lies above the largest
 * finite code), encoded and decoded by one pair of functions in exact double arithmetic; no format
 * needs code of its own. */
#include "ir/dtype.h"
#include <assert.h>
#include <math.h>
#include <string.h>

const DTypeInfo dtypes[DT_COUNT] = {
    [DT_NONE] = {"none", "void", "void", "undefined", 0, 0, DC_NONE},
#define DTYPE(name_, onnx, bytes_, bits_, cls_, c_, numpy_, ort_)                                                      \
    [DT_##name_] = {#name_, c_, numpy_, ort_, bytes_, bits_, DC_##cls_},
#include "ir/dtype.def"
#undef DTYPE
};

DType dtype_find(const char *name, int len)
{
    for (int t = 1; t < DT_COUNT; t++)
        if (dtypes[t].name && (int)strlen(dtypes[t].name) == len && !memcmp(dtypes[t].name, name, (size_t)len))
            return (DType)t;
    return DT_NONE;
}

DType dtype_compute(DType t) { return dtypes[t].cls == DC_FLOAT && t != DT_f64 ? DT_f32 : t; }

int64_t dtype_min(DType t)
{
    assert(dtype_is_int(t) || t == DT_bool);
    return dtypes[t].cls == DC_INT ? INT64_MIN >> (64 - dtypes[t].bits) : 0;
}

int64_t dtype_max(DType t)
{
    assert(dtype_is_int(t) || t == DT_bool);
    if (t == DT_bool) return 1;
    int bits = dtypes[t].bits - (dtypes[t].cls == DC_INT);
    return bits >= 63 ? INT64_MAX : ((int64_t)1 << bits) - 1;
}

/* ---- narrow floats ---- */
typedef struct Format {
    int exponent, mantissa, bias; /* bits, bits; sign is the bit above them, except where there is none */
    unsigned max;                 /* the largest finite code without sign */
    unsigned inf, nan;            /* codes; 0: the format has none */
    bool saturates;               /* ONNX's Cast (saturate=1) clamps to the largest finite value */
    bool no_minus_zero;
} Format;

static const Format formats[DT_COUNT] = {
    [DT_f16] = {5, 10, 15, 0x7bff, 0x7c00, 0x7e00, false, false},
    [DT_bf16] = {8, 7, 127, 0x7f7f, 0x7f80, 0x7fc0, false, false},
    [DT_f8e4m3fn] = {4, 3, 7, 0x7e, 0, 0x7f, true, false},
    [DT_f8e4m3fnuz] = {4, 3, 8, 0x7f, 0, 0x80, true, true},
    [DT_f8e5m2] = {5, 2, 15, 0x7b, 0x7c, 0x7e, true, false},
    [DT_f8e5m2fnuz] = {5, 2, 16, 0x7f, 0, 0x80, true, true},
    [DT_f4e2m1] = {2, 1, 1, 7, 0, 0, true, false},
};

static double float_decode(const Format *f, unsigned code)
{
    int bits = f->exponent + f->mantissa;
    unsigned sign = code >> bits & 1, rest = code & ((1u << bits) - 1);
    if (f->nan && f->no_minus_zero && code == f->nan) return NAN;
    if (f->inf && rest == f->inf) return sign ? -INFINITY : INFINITY;
    if (f->nan && rest > f->max) return NAN;
    int e = (int)(rest >> f->mantissa);
    unsigned m = rest & ((1u << f->mantissa) - 1);
    double v = e ? ldexp((double)(m + (1u << f->mantissa)), e - f->bias - f->mantissa)
                 : ldexp((double)m, 1 - f->bias - f->mantissa);
    return sign ? -v : v;
}

static unsigned float_encode(const Format *f, double v)
{
    unsigned top = 1u << (f->exponent + f->mantissa), sign = signbit(v) ? top : 0;
    if (isnan(v))
        return f->nan ? (f->no_minus_zero ? f->nan : sign | f->nan) : top; /* without NaN: -0, as ONNX's Cast */
    unsigned code = f->max + 1;
    if (!isinf(v)) {
        int e;
        frexp(v, &e);
        e = v == 0 || e - 1 < 1 - f->bias ? 1 - f->bias : e - 1;
        if (e <= f->bias + 1) /* else far above every format's range */
            code = ((unsigned)(e + f->bias - 1) << f->mantissa) + (unsigned)rint(ldexp(fabs(v), f->mantissa - e));
    }
    /* An infinity that the type has stays one: moving elements changes nothing. */
    if (code > f->max) code = f->inf && (isinf(v) || !f->saturates) ? f->inf : f->max;
    return code == 0 && f->no_minus_zero ? 0 : sign | code;
}

/* f8e8m0: a power of two, no sign, no zero, 255 is NaN. Rounds up, the default of ONNX's
 * Cast. */
static unsigned scale_encode(double v)
{
    if (isnan(v) || isinf(v)) return isnan(v) ? 255 : signbit(v) ? 0 : 254;
    int e;
    double m = frexp(fabs(v), &e); /* |v| = m * 2^e, m in [0.5, 1) */
    int code = v == 0 ? 0 : e - 1 + 127 + (m > 0.5);
    return (unsigned)(code < 0 ? 0 : code > 254 ? 254 : code);
}

/* ---- elements ---- */
static uint64_t bits_load(DType t, const void *p, int64_t i)
{
    const char *at = (const char *)p + i * dtypes[t].bytes;
    switch (dtypes[t].bytes) {
    case 1: return *(const uint8_t *)at;
    case 2: return *(const uint16_t *)(const void *)at;
    case 4: return *(const uint32_t *)(const void *)at;
    default: return *(const uint64_t *)(const void *)at;
    }
}

static void bits_store(DType t, void *p, int64_t i, uint64_t v)
{
    char *at = (char *)p + i * dtypes[t].bytes;
    switch (dtypes[t].bytes) {
    case 1: *(uint8_t *)at = (uint8_t)v; break;
    case 2: *(uint16_t *)(void *)at = (uint16_t)v; break;
    case 4: *(uint32_t *)(void *)at = (uint32_t)v; break;
    default: *(uint64_t *)(void *)at = v;
    }
}

double dtype_load(DType t, const void *p, int64_t i)
{
    if (t == DT_f32) return ((const float *)p)[i];
    if (t == DT_f64) return ((const double *)p)[i];
    if (t == DT_u64) return (double)((const uint64_t *)p)[i];
    if (t == DT_f8e8m0) {
        unsigned code = ((const uint8_t *)p)[i];
        return code == 255 ? NAN : ldexp(1, (int)code - 127);
    }
    if (formats[t].exponent) return float_decode(&formats[t], (unsigned)bits_load(t, p, i));
    return (double)dtype_load_int(t, p, i);
}

int64_t dtype_load_int(DType t, const void *p, int64_t i)
{
    if (dtype_is_float(t)) {
        double v = dtype_load(t, p, i);
        return isnan(v) ? 0 : v >= 0x1p63 ? INT64_MAX : v < -0x1p63 ? INT64_MIN : (int64_t)v;
    }
    assert(dtypes[t].cls != DC_OTHER && dtypes[t].cls != DC_NONE);
    uint64_t v = bits_load(t, p, i);
    if (t == DT_bool) return v != 0;
    int unused = 64 - dtypes[t].bits;
    v <<= unused;
    return dtypes[t].cls == DC_INT ? (int64_t)v >> unused : (int64_t)(v >> unused);
}

/* A double as an integer, to nearest even, modulo 2^64. */
static int64_t wrap(double v)
{
    if (isnan(v) || isinf(v)) return 0;
    v = rint(v);
    if (v >= -0x1p63 && v < 0x1p63) return (int64_t)v;
    v = fmod(v, 0x1p64);
    return (int64_t)(v < 0 ? (uint64_t)0 - (uint64_t)-v : (uint64_t)v);
}

void dtype_store(DType t, void *p, int64_t i, double v)
{
    if (t == DT_f32) {
        ((float *)p)[i] = (float)v;
    } else if (t == DT_f64) {
        ((double *)p)[i] = v;
    } else if (t == DT_f8e8m0) {
        ((uint8_t *)p)[i] = (uint8_t)scale_encode(v);
    } else if (formats[t].exponent) {
        bits_store(t, p, i, float_encode(&formats[t], v));
    } else if (t == DT_bool) {
        ((uint8_t *)p)[i] = v != 0;
    } else {
        dtype_store_int(t, p, i, wrap(v));
    }
}

void dtype_store_int(DType t, void *p, int64_t i, int64_t v)
{
    if (dtype_is_float(t)) {
        dtype_store(t, p, i, (double)v);
        return;
    }
    assert(dtypes[t].cls != DC_OTHER && dtypes[t].cls != DC_NONE);
    if (t == DT_bool) {
        ((uint8_t *)p)[i] = v != 0;
        return;
    }
    int unused = 64 - dtypes[t].bits;
    uint64_t u = (uint64_t)v << unused;
    bits_store(t, p, i, dtypes[t].cls == DC_INT ? (uint64_t)((int64_t)u >> unused) : u >> unused);
}
