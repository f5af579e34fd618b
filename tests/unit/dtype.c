/* Elements of every type as numbers. */
#include "ir/dtype.h"
#include "ir/tensor.h"
#include <criterion/criterion.h>
#include <math.h>

static double through(DType t, double v)
{
    uint64_t room[2] = {0};
    dtype_store(t, room, 1, v);
    return dtype_load(t, room, 1);
}

static unsigned code_of(DType t, double v)
{
    uint16_t room = 0;
    dtype_store(t, &room, 0, v);
    return room;
}

Test(dtype, names)
{
    cr_expect(dtype_find("bf16", 4) == DT_bf16);
    cr_expect(dtype_find("f8e4m3fn", 8) == DT_f8e4m3fn);
    cr_expect(dtype_find("f3", 2) == DT_NONE);
    cr_expect(dtype_compute(DT_f16) == DT_f32);
    cr_expect(dtype_compute(DT_i8) == DT_i8);
    cr_expect(dtype_min(DT_i4) == -8 && dtype_max(DT_u2) == 3);
    cr_expect(dtype_max(DT_u64) == INT64_MAX && dtype_min(DT_i64) == INT64_MIN);
}

/* Every finite code of a narrow float decodes to a number that encodes to it again; halfway goes to the even code. */
static void check_format(DType t, unsigned codes, unsigned step)
{
    for (unsigned c = 0; c + step < codes; c += step) {
        uint16_t room = (uint16_t)c, next = (uint16_t)(c + 1);
        double v = dtype_load(t, &room, 0), w = dtype_load(t, &next, 0);
        if (!isfinite(v)) continue;
        cr_assert(code_of(t, v) == c, "%s: code %x is %g is %x", dtypes[t].name, c, v, code_of(t, v));
        if (!isfinite(w) || (v < 0) != (w < 0) || c + 1 == codes / 2) continue;
        unsigned even = c & 1 ? c + 1 : c;
        cr_assert(code_of(t, (v + w) / 2) == even, "%s: between %x and %x", dtypes[t].name, c, c + 1);
        cr_assert(code_of(t, v + (w - v) * 0.75) == c + 1, "%s: above %x", dtypes[t].name, c);
    }
}

Test(dtype, narrow_floats)
{
    check_format(DT_f16, 65536, 7), check_format(DT_bf16, 65536, 7);
    check_format(DT_f8e4m3fn, 256, 1), check_format(DT_f8e4m3fnuz, 256, 1);
    check_format(DT_f8e5m2, 256, 1), check_format(DT_f8e5m2fnuz, 256, 1), check_format(DT_f4e2m1, 16, 1);
}

Test(dtype, narrow_float_limits)
{
    cr_expect(code_of(DT_f16, 65504) == 0x7bff && code_of(DT_f16, 65519.99) == 0x7bff);
    cr_expect(code_of(DT_f16, 65520) == 0x7c00 && code_of(DT_f16, -1e300) == 0xfc00);
    cr_expect(code_of(DT_f16, 0x1p-24) == 1 && code_of(DT_f16, 0x1p-25) == 0);
    cr_expect(isnan(through(DT_f16, NAN)) && isnan(through(DT_bf16, NAN)) && isnan(through(DT_f8e5m2fnuz, NAN)));
    cr_expect(through(DT_bf16, 1 + 0x1p-8) == 1 &&
              through(DT_bf16, 3.4e38) == (3.4e38 > 0x1.ffp127 ? INFINITY : 0x1.fep127));
    cr_expect(through(DT_f8e4m3fn, 1e6) == 448 && through(DT_f8e4m3fnuz, -1e6) == -240);
    cr_expect(through(DT_f8e5m2, 1e6) == 57344 && through(DT_f8e5m2fnuz, 1e6) == 57344);
    cr_expect(through(DT_f4e2m1, 100) == 6 && through(DT_f4e2m1, 2.5) == 2 && through(DT_f4e2m1, -0.3) == -0.5);
    cr_expect(code_of(DT_f8e4m3fnuz, -0.0) == 0 && code_of(DT_f8e4m3fn, -0.0) == 0x80);
    cr_expect(through(DT_f8e8m0, 1) == 1 && through(DT_f8e8m0, 5) == 8 && isnan(through(DT_f8e8m0, NAN)));
}

Test(dtype, integers_wrap)
{
    cr_expect(through(DT_i4, 9) == -7 && through(DT_u4, -1) == 15 && through(DT_i2, 2) == -2);
    cr_expect(through(DT_u8, 257) == 1 && through(DT_i8, 128) == -128 && through(DT_i32, 2.5) == 2);
    cr_expect(through(DT_u64, 0x1p63) == 0x1p63 && through(DT_bool, 0.25) == 1);
    int64_t big[1];
    dtype_store_int(DT_i64, big, 0, INT64_MAX - 1);
    cr_expect(dtype_load_int(DT_i64, big, 0) == INT64_MAX - 1);
    uint8_t nibble = 0xf9; /* what lies above the element's bits does not matter */
    cr_expect(dtype_load_int(DT_i4, &nibble, 0) == -7 && dtype_load_int(DT_u4, &nibble, 0) == 9);
}

Test(dtype, tensors)
{
    Arena mem = {0};
    Tensor *a = tensor_ints(&mem, (int64_t[]){1, 2, 3}, 3), *b = tensor_ints(&mem, (int64_t[]){1, 2, 3}, 3);
    cr_expect(tensor_equal(a, b) && tensor_bytes(a) == 24);
    ((int64_t *)(void *)b->data)[2] = 4;
    cr_expect_not(tensor_equal(a, b));
    Tensor *s = tensor_scalar(&mem, DT_f16, 1.5);
    cr_expect(s->rank == 0 && tensor_count(s) == 1 && dtype_load(DT_f16, s->data, 0) == 1.5);
    arena_drop(&mem);
}
