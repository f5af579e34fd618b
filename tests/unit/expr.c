/* The expression pool: sharing, folding, index algebra, rewriting; primitives on single numbers. */
#include "ir/kernel.h"
#include <criterion/criterion.h>
#include <math.h>

static Arena mem;
static Kernel *k;
static void setup(void) { k = kernel_new(&mem, dims_new(&mem), "k"); }
static void teardown(void) { arena_drop(&mem); }
TestSuite(expr, .init = setup, .fini = teardown);

static Expr I(int64_t i) { return expr_index(k, i); }
static Expr F(double f) { return expr_float(k, DT_f32, f); }
static Expr axis(int64_t extent) { return expr_axis(k, kernel_axis(k, NULL, I(extent))); }
static const char *text(Expr e) { return expr_text(k, e, &mem); }
static Expr size(const char *name) { return expr_dim(k, dim_symbol(k->dim, name, DIM_INPUT, 1)); }
static Expr vector(BufKind kind, Expr n, Expr at)
{
    int b = kernel_buf(k, (Buf){.kind = kind, .type = DT_f32, .rank = 1, .dim = {n}});
    return expr_load(k, b, (Expr[MAX_RANK]){at});
}

Test(expr, shares_and_folds)
{
    Expr a = axis(10), b = axis(10);
    cr_expect_eq(expr_add(k, a, b), expr_add(k, a, b));
    cr_expect_eq(expr_add(k, I(2), I(3)), I(5));
    cr_expect_eq(expr_mul(k, F(1.5), F(2)), F(3));
    cr_expect_eq(expr_sub(k, expr_add(k, a, b), b), a);
    cr_expect_eq(expr_sub(k, expr_add(k, a, I(3)), I(3)), a);
    cr_expect_eq(expr_add(k, expr_mul(k, a, I(2)), expr_mul(k, a, I(-2))), I(0));
    cr_expect_str_eq(text(expr_sub(k, b, expr_add(k, a, I(1)))), "a2 - a1 - 1");
    Expr x = vector(BUF_IN, I(10), a);
    cr_expect_eq(expr_mul(k, x, F(1)), x);
    cr_expect_eq(expr_sub(k, x, F(0)), x);
    cr_expect_neq(expr_add(k, x, F(0)), x, "-0 + 0 is 0");
    cr_expect_neq(expr_mul(k, x, F(0)), F(0), "NaN * 0 is NaN");
    cr_expect_eq(expr_prim(k, P_max, x, F(-INFINITY), 0), x);
    cr_expect_eq(expr_prim(k, P_pow, x, F(2), 0), expr_mul(k, x, x));
    cr_expect_eq(expr_cast(k, DT_u8, I(300)), expr_int(k, DT_u8, 44));
    cr_expect_eq(expr_sat(k, DT_u8, F(300.7)), expr_int(k, DT_u8, 255));
}

Test(expr, division_undoes_a_split)
{
    Expr n0 = axis(7), n1 = axis(2), n2 = axis(16);
    Expr n = expr_add(k, expr_add(k, expr_mul(k, n0, I(32)), expr_mul(k, n1, I(16))), n2);
    cr_expect_str_eq(text(expr_div(k, n, I(16))), "a1 * 2 + a2");
    cr_expect_eq(expr_mod(k, n, I(16)), n2);
    cr_expect_str_eq(text(expr_div(k, n, I(8))), "a1 * 4 + a2 * 2 + a3 / 8");
    cr_expect_eq(expr_mod(k, expr_mod(k, n, I(64)), I(16)), n2);
    cr_expect_str_eq(text(expr_div(k, n, I(48))), "(a1 * 2 + a2) / 3", "a panel within a channel");
    cr_expect_str_eq(text(expr_mod(k, n, I(48))), "(a1 * 2 + a2) % 3 * 16 + a3");
    cr_expect_str_eq(text(expr_mod(k, n, I(24))), "(a1 * 32 + a2 * 16 + a3) % 24", "a panel over two");
    cr_expect_eq(expr_div(k, expr_div(k, axis(1000), I(3)), I(4)), expr_div(k, expr_axis(k, 4), I(12)));
}

Test(expr, reshapes_cancel)
{
    Expr x = axis(2 * 3 * 4 * 5);
    Expr a = expr_div(k, x, I(60)), b = expr_mod(k, expr_div(k, x, I(20)), I(3)),
         c = expr_mod(k, expr_div(k, x, I(5)), I(4)), d = expr_mod(k, x, I(5));
    Expr back =
        expr_add(k, expr_mul(k, expr_add(k, expr_mul(k, expr_add(k, expr_mul(k, a, I(3)), b), I(4)), c), I(5)), d);
    cr_expect_eq(back, x, "%s", text(back));
    Expr n = size("N"), i = axis(6), j = expr_axis(k, kernel_axis(k, NULL, n)),
         linear = expr_add(k, expr_mul(k, i, n), j);
    cr_expect_eq(expr_div(k, linear, n), i);
    cr_expect_eq(expr_mod(k, linear, n), j);
    Expr y = expr_axis(k, kernel_axis(k, NULL, expr_mul(k, n, I(4))));
    Expr again = expr_add(k, expr_mul(k, expr_div(k, y, n), n), expr_mod(k, y, n));
    cr_expect_eq(again, y, "%s", text(again));
}

Test(expr, comparisons_by_extent)
{
    Expr i = axis(10), n = size("N"), j = expr_axis(k, kernel_axis(k, NULL, n)), yes = expr_int(k, DT_bool, 1),
         no = expr_int(k, DT_bool, 0);
    cr_expect_eq(expr_lt(k, i, I(10)), yes);
    cr_expect_eq(expr_le(k, I(0), i), yes);
    cr_expect_eq(expr_lt(k, expr_add(k, i, I(10)), I(10)), no);
    cr_expect_neq(expr_lt(k, expr_add(k, i, I(1)), I(10)), yes);
    cr_expect_eq(expr_lt(k, j, n), yes);
    cr_expect_eq(expr_lt(k, expr_add(k, j, I(2)), expr_add(k, n, I(2))), yes);
    cr_expect_neq(expr_lt(k, expr_add(k, j, I(1)), n), yes);
    cr_expect_eq(expr_prim(k, P_eq, i, expr_add(k, i, I(1)), 0), no);
    cr_expect_eq(expr_guard(k, expr_lt(k, i, I(10)), F(1), F(2)), F(1));
    int64_t lo, hi;
    cr_expect(expr_range(k, expr_sub(k, expr_mul(k, i, I(3)), I(5)), &lo, &hi) && lo == -5 && hi == 22);
    cr_expect(!expr_range(k, j, &lo, &hi) && lo == 0);
}

Test(expr, steps)
{
    Expr i = axis(10), j = axis(16), n = size("N");
    Expr at = expr_add(k, expr_mul(k, i, n), expr_add(k, j, I(7)));
    cr_expect_eq(expr_step(k, at, 1), n);
    cr_expect_eq(expr_step(k, at, 2), I(1));
    cr_expect_eq(expr_step(k, expr_mul(k, i, j), 1), j);
    cr_expect_eq(expr_step(k, expr_mod(k, i, I(3)), 1), 0);
    cr_expect_eq(expr_step(k, expr_mul(k, i, i), 1), 0);
}

Test(expr, rewriting)
{
    Expr i = axis(10), j = axis(10), x = vector(BUF_IN, I(10), i);
    Expr map[4] = {0, j, 0, 0};
    cr_expect_eq(expr_map(k, expr_mul(k, x, F(2)), map), expr_mul(k, expr_load(k, 1, (Expr[MAX_RANK]){j}), F(2)));
    cr_expect_eq(expr_replace(k, expr_mul(k, x, F(2)), x, F(3)), F(6));
    int t = kernel_buf(k, (Buf){.kind = BUF_TMP, .type = DT_f32, .rank = 1, .dim = {I(10)}});
    Compute def = {.out = t, .rank = 1, .space = {1}, .at = {i}, .value = expr_mul(k, x, x)};
    Expr later = expr_load(k, t, (Expr[MAX_RANK]){expr_sub(k, I(9), j)});
    cr_expect_str_eq(text(expr_inline(k, expr_add(k, later, F(1)), &def)), "t1[9 - a2] * t1[9 - a2] + 1.0");
    def.epilogue = expr_prim(k, P_max, expr_it(k, DT_f32), F(0), 0);
    cr_expect_str_eq(text(expr_inline(k, later, &def)), "max(t1[9 - a2] * t1[9 - a2], 0.0)");
    cr_expect_eq(expr_reads(k, expr_add(k, later, x), t), 1);
    cr_expect_eq(expr_move(k, expr_add(k, expr_load(k, t, (Expr[MAX_RANK]){j}), F(1)), (int[]){0, 0, 1}), expr_add(k, expr_load(k, 1, (Expr[MAX_RANK]){j}), F(1)));
    cr_expect_eq(expr_move(k, later, (int[]){0, t, 0}), later);
    k->axis.at[1].whole = expr_add(k, expr_mul(k, j, I(4)), axis(4));
    cr_expect_str_eq(text(expr_split(k, x)), "t1[a2 * 4 + a3]");
}

/* 2^300 paths, 600 nodes. */
Test(expr, walks_are_linear, .timeout = 10)
{
    Expr i = axis(10), j = axis(10), e = vector(BUF_IN, I(10), i);
    for (int n = 0; n < 300; n++) e = expr_prim(k, P_fma, e, e, expr_mul(k, e, F(0.5)));
    Expr map[3] = {0, j, 0};
    Expr moved = expr_map(k, e, map);
    cr_expect(expr_uses(k, moved, 2) && !expr_uses(k, moved, 1));
    cr_expect_eq(expr_cost(k, e), 600);
    cr_expect_eq(expr_reads(k, e, 1), 1);
    cr_expect_eq(expr_expand(k, e), e);
}

Test(expr, addresses)
{
    Expr n = axis(40), d = axis(9);
    Buf b = {.kind = BUF_CONST, .type = DT_i8, .rank = 2, .dim = {I(40), I(9)}};
    int plain = kernel_buf(k, b);
    b.layout = (Layout){.n = 4, .axis = {{0, 16, 0}, {1, 4, 0}, {0, 1, 16}, {1, 1, 4}}};
    int panels = kernel_buf(k, b);
    cr_expect_str_eq(text(buf_address(k, plain, (Expr[]){n, d})), "a1 * 9 + a2");
    cr_expect_str_eq(text(buf_address(k, panels, (Expr[]){n, d})),
                     "a1 / 16 * 192 + a2 / 4 * 64 + a1 % 16 * 4 + a2 % 4");
    cr_expect_eq(buf_elements(k, plain), I(360));
    cr_expect_eq(buf_elements(k, panels), I(3 * 3 * 16 * 4));
    k->buf.at[plain].block[0] = 1;
    cr_expect_eq(buf_address(k, plain, (Expr[]){n, d}), d);
    k->buf.at[plain].block[0] = 8;
    cr_expect_str_eq(text(buf_address(k, plain, (Expr[]){n, d})), "a1 % 8 * 9 + a2");
}

Test(expr, expansion_reaches_every_type)
{
    Expr at = axis(4);
    int h = kernel_buf(k, (Buf){.kind = BUF_IN, .type = DT_f16, .rank = 1, .dim = {I(4)}}),
        w = kernel_buf(k, (Buf){.kind = BUF_IN, .type = DT_f64, .rank = 1, .dim = {I(4)}});
    int i = kernel_buf(k, (Buf){.kind = BUF_IN, .type = DT_i32, .rank = 1, .dim = {I(4)}});
    Expr half = expr_load(k, h, &at), wide = expr_load(k, w, &at), whole = expr_load(k, i, &at);
    cr_expect_eq(expr_node(k, expr_expand(k, expr_prim(k, P_exp, half, 0, 0)))->type, DT_f16);
    cr_expect_eq(expr_expand(k, expr_prim(k, P_exp, wide, 0, 0)), expr_prim(k, P_exp, wide, 0, 0), "f64 calls libm");
    cr_expect_str_eq(text(expr_expand(k, expr_prim(k, P_rsqrt, wide, 0, 0))), "1.0 / sqrt(t2[a1])");
    cr_expect_str_eq(text(expr_expand(k, expr_prim(k, P_abs, whole, 0, 0))), "select(t3[a1] < 0, neg(t3[a1]), t3[a1])");
    cr_expect_str_eq(text(expr_expand(k, expr_prim(k, P_max, expr_cast(k, DT_f32, half), F(0), 0))),
                     "select(f32(t1[a1]) < 0.0, 0.0, f32(t1[a1]))");
}

Test(expr, identities)
{
    cr_expect_eq(reduce_identity(k, P_max, DT_i8), expr_int(k, DT_i8, -128));
    cr_expect_eq(reduce_identity(k, P_min, DT_u64), expr_int(k, DT_u64, -1));
    cr_expect_eq(reduce_identity(k, P_min, DT_f32), F(INFINITY));
    cr_expect_eq(reduce_identity(k, P_and, DT_bool), expr_int(k, DT_bool, 1));
    cr_expect_eq(reduce_identity(k, P_mul, DT_f64), expr_float(k, DT_f64, 1));
}

/* ---- primitives: every row, at its edges ---- */
typedef struct FloatCase {
    Prim p;
    double a, b, c, want;
} FloatCase;
typedef struct IntCase {
    Prim p;
    DType t;
    int64_t a, b, c, want;
} IntCase;

/* clang-format off */
static const FloatCase floats[] = {
    {P_add, 1, 0x1p-24, 0, 1}, {P_add, INFINITY, -INFINITY, 0, NAN}, {P_sub, 1, 3, 0, -2}, {P_mul, 0x1p-100, 0x1p-100, 0, 0}, {P_mul, 0, INFINITY, 0, NAN},
    {P_div, 1, 0, 0, INFINITY}, {P_div, -1, 0, 0, -INFINITY}, {P_div, 0, 0, 0, NAN}, {P_mod, -7, 3, 0, -1}, {P_mod, 7, 0, 0, NAN}, {P_mod, 5.5, INFINITY, 0, 5.5},
    {P_floormod, -7, 3, 0, 2}, {P_floormod, 7, -3, 0, -2}, {P_neg, 0, 0, 0, -0.0}, {P_abs, -0.0, 0, 0, 0}, {P_abs, -INFINITY, 0, 0, INFINITY},
    {P_sign, -3, 0, 0, -1}, {P_sign, 0, 0, 0, 0}, {P_sign, NAN, 0, 0, NAN}, {P_max, NAN, 1, 0, NAN}, {P_max, 1, NAN, 0, NAN}, {P_max, -1, 2, 0, 2}, {P_larger, -1, 2, 0, 2}, {P_larger, 3, 2, 0, 3}, {P_larger, 1, NAN, 0, NAN}, {P_larger, NAN, 1, 0, 1},
    {P_min, NAN, 1, 0, NAN}, {P_min, 1, NAN, 0, NAN}, {P_min, -1, 2, 0, -1}, {P_fma, 1 + 0x1p-12, 1 - 0x1p-12, -1, -0x1p-24},
    {P_sqrt, 2, 0, 0, 0x1.6a09e6p0}, {P_sqrt, -1, 0, 0, NAN}, {P_sqrt, -0.0, 0, 0, -0.0}, {P_rsqrt, 4, 0, 0, 0.5}, {P_rsqrt, 0, 0, 0, INFINITY},
    {P_rint, 2.5, 0, 0, 2}, {P_rint, -3.5, 0, 0, -4}, {P_floor, -0.5, 0, 0, -1}, {P_ceil, -0.5, 0, 0, -0.0}, {P_trunc, -1.7, 0, 0, -1},
    {P_scale2, 1.5, 10, 0, 1536}, {P_scale2, 1, -149, 0, 0x1p-149}, {P_scale2, 1, -150, 0, 0}, {P_scale2, 1, 128, 0, INFINITY},
    {P_lt, 1, NAN, 0, 0}, {P_lt, -0.0, 0, 0, 0}, {P_le, -0.0, 0, 0, 1}, {P_gt, INFINITY, 1, 0, 1}, {P_ge, NAN, NAN, 0, 0}, {P_eq, NAN, NAN, 0, 0}, {P_eq, -0.0, 0, 0, 1},
    {P_ne, NAN, NAN, 0, 1}, {P_isnan, NAN, 0, 0, 1}, {P_isnan, INFINITY, 0, 0, 0}, {P_isinf, -INFINITY, 0, 0, 1}, {P_isinf, NAN, 0, 0, 0},
    {P_select, 0, 1, 2, 2}, {P_guard, 1, 1, 2, 1}, {P_exp, -INFINITY, 0, 0, 0}, {P_exp, 89, 0, 0, INFINITY}, {P_exp, 0, 0, 0, 1}, {P_log, 0, 0, 0, -INFINITY},
    {P_log, -1, 0, 0, NAN}, {P_log, INFINITY, 0, 0, INFINITY}, {P_log1p, -1, 0, 0, -INFINITY}, {P_log1p, 1e-10, 0, 0, 1e-10}, {P_sigmoid, 0, 0, 0, 0.5},
    {P_sigmoid, -INFINITY, 0, 0, 0}, {P_erf, INFINITY, 0, 0, 1}, {P_erf, -0.0, 0, 0, -0.0}, {P_tanh, -INFINITY, 0, 0, -1}, {P_sinh, 0, 0, 0, 0},
    {P_cosh, -INFINITY, 0, 0, INFINITY}, {P_asinh, INFINITY, 0, 0, INFINITY}, {P_acosh, 0.5, 0, 0, NAN}, {P_acosh, 1, 0, 0, 0}, {P_atanh, 1, 0, 0, INFINITY},
    {P_pow, -8, 3, 0, -512}, {P_pow, -8, 0.5, 0, NAN}, {P_pow, 0, 0, 0, 1}, {P_pow, NAN, 0, 0, 1}, {P_pow, 0, -1, 0, INFINITY}, {P_sin, INFINITY, 0, 0, NAN},
    {P_sin, 0, 0, 0, 0}, {P_cos, 0, 0, 0, 1}, {P_tan, 0, 0, 0, 0}, {P_atan, INFINITY, 0, 0, 0x1.921fb6p0}, {P_asin, 2, 0, 0, NAN}, {P_acos, 1, 0, 0, 0},
};

static const IntCase ints[] = {
    {P_add, DT_i8, 127, 1, 0, -128}, {P_add, DT_u8, 255, 1, 0, 0}, {P_sub, DT_u32, 0, 1, 0, UINT32_MAX}, {P_mul, DT_i32, 1 << 16, 1 << 16, 0, 0},
    {P_mul, DT_i64, INT64_MAX, 2, 0, -2}, {P_div, DT_i32, 7, 0, 0, 0}, {P_div, DT_i32, -7, 2, 0, -3}, {P_div, DT_i32, INT32_MIN, -1, 0, INT32_MIN},
    {P_div, DT_i64, INT64_MIN, -1, 0, INT64_MIN}, {P_div, DT_u64, -2, 2, 0, INT64_MAX}, {P_mod, DT_i64, -7, 3, 0, -1}, {P_mod, DT_u64, 7, 0, 0, 0}, {P_mod, DT_i64, INT64_MIN, -1, 0, 0},
    {P_floormod, DT_i32, -7, 3, 0, 2}, {P_floormod, DT_i32, 7, -3, 0, -2}, {P_floormod, DT_i32, 7, 0, 0, 0}, {P_floormod, DT_u8, 250, 7, 0, 5}, {P_neg, DT_i8, -128, 0, 0, -128},
    {P_abs, DT_i8, -128, 0, 0, -128}, {P_abs, DT_i32, -5, 0, 0, 5}, {P_sign, DT_i64, -9, 0, 0, -1}, {P_sign, DT_u64, -9, 0, 0, 1}, {P_max, DT_u64, -1, 1, 0, -1}, {P_larger, DT_u64, -1, 1, 0, -1}, {P_larger, DT_i8, -1, 1, 0, 1}, {P_max, DT_i64, -1, 1, 0, 1},
    {P_min, DT_u64, -1, 1, 0, 1}, {P_lt, DT_u64, -1, 1, 0, 0}, {P_lt, DT_i64, -1, 1, 0, 1}, {P_le, DT_i8, 1, 1, 0, 1}, {P_gt, DT_u64, -1, 1, 0, 1}, {P_ge, DT_i64, 1, 2, 0, 0},
    {P_eq, DT_bool, 1, 1, 0, 1}, {P_ne, DT_u8, 1, 2, 0, 1}, {P_and, DT_u8, 12, 10, 0, 8}, {P_or, DT_bool, 0, 1, 0, 1}, {P_xor, DT_i32, -1, 1, 0, -2}, {P_not, DT_bool, 1, 0, 0, 0},
    {P_not, DT_u8, 1, 0, 0, 254}, {P_shl, DT_u8, 255, 1, 0, 254}, {P_shl, DT_u8, 1, 8, 0, 0}, {P_shl, DT_i32, 1, -1, 0, 0}, {P_shr, DT_i32, -8, 1, 0, -4}, {P_shr, DT_u64, -1, 63, 0, 1},
    {P_shr, DT_u32, 1, 32, 0, 0}, {P_fma, DT_i32, 3, 4, 5, 17}, {P_isnan, DT_i32, 1, 0, 0, 0}, {P_isinf, DT_i32, 1, 0, 0, 0}, {P_select, DT_bool, 0, 1, 0, 0}, {P_guard, DT_bool, 1, 1, 0, 1},
};
/* clang-format on */

Test(expr, primitives_on_floats)
{
    for (size_t i = 0; i < COUNT_OF(floats); i++) {
        const FloatCase *f = &floats[i];
        double v = prim_float(f->p, DT_f32, f->a, f->b, f->c);
        bool same = isnan(f->want) ? isnan(v) : v == (double)(float)f->want && !signbit(v) == !signbit(f->want);
        cr_expect(same, "%s(%g, %g, %g) = %a, expected %a", prims[f->p].name, f->a, f->b, f->c, v, f->want);
    }
}

Test(expr, primitives_on_integers)
{
    for (size_t i = 0; i < COUNT_OF(ints); i++) {
        const IntCase *n = &ints[i];
        int64_t v = prim_int(n->p, n->t, n->a, n->b, n->c);
        cr_expect(v == n->want, "%s %s(%lld, %lld) = %lld", dtypes[n->t].name, prims[n->p].name, (long long)n->a,
                  (long long)n->b, (long long)v);
    }
}

Test(expr, every_primitive_has_a_case)
{
    for (Prim p = 1; p < PRIM_COUNT; p++) {
        bool f = prims[p].none, i = prims[p].integer.none, change = p == P_cast || p == P_sat || p == P_bits;
        for (size_t c = 0; c < COUNT_OF(floats); c++) f = f || floats[c].p == p;
        for (size_t c = 0; c < COUNT_OF(ints); c++) i = i || ints[c].p == p;
        cr_expect(change || (f && i), "%s", prims[p].name);
    }
}

static Number real(double f) { return (Number){.f = f}; }
static Number whole(int64_t i) { return (Number){.i = i}; }

Test(expr, conversions)
{
    cr_expect_eq(number_convert(DT_i32, false, DT_f32, real(-1.9)).i, -1);
    cr_expect_eq(number_convert(DT_u8, false, DT_i64, whole(-1)).i, 255);
    cr_expect_eq(number_convert(DT_bool, false, DT_f32, real(0.25)).i, 1);
    cr_expect_eq(number_convert(DT_u64, false, DT_f64, real(0x1p63)).i, INT64_MIN);
    cr_expect_eq(number_convert(DT_f32, false, DT_u64, whole(-1)).f, 0x1p64);
    cr_expect_eq(number_convert(DT_f32, false, DT_i64, whole(16777217)).f, 16777216);
    cr_expect_eq(number_convert(DT_f16, false, DT_f32, real(65520)).f, INFINITY);
    cr_expect_eq(number_convert(DT_i8, true, DT_f32, real(-1e9)).i, -128);
    cr_expect_eq(number_convert(DT_u8, true, DT_f32, real(NAN)).i, 0);
    cr_expect_eq(number_convert(DT_i8, true, DT_u64, whole(-1)).i, 127);
    cr_expect_eq(number_convert(DT_u64, true, DT_i64, whole(-1)).i, 0);
    cr_expect_eq(number_convert(DT_i64, true, DT_f64, real(1e30)).i, INT64_MAX);
    cr_expect_eq(number_bits(DT_f32, real(-0.0)).i, INT32_MIN);
    cr_expect_eq(number_bits(DT_i64, whole(0x3ff0000000000000)).f, 1);
}
