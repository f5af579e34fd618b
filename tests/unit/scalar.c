/* Scalar bodies: grammar, types of numbers, errors. */
#include "ir/kernel.h"
#include <criterion/criterion.h>
#include <math.h>

static Arena mem;
static Kernel *k;
static const char *const names[] = {"X", "Y", "alpha", "n", "B"};
static Expr args[5];
static void setup(void)
{
    k = kernel_new(&mem, dims_new(&mem), "k");
    Expr four = expr_index(k, 4), at[MAX_RANK] = {expr_axis(k, kernel_axis(k, "i", four))};
    const DType type[] = {DT_f32, DT_f32, DT_NONE, DT_NONE, DT_bool};
    for (int i = 0; i < 5; i++)
        if (type[i])
            args[i] = expr_load(
                k, kernel_buf(k, (Buf){.name = names[i], .kind = BUF_IN, .type = type[i], .rank = 1, .dim = {four}}),
                at);
    args[2] = expr_float(k, DT_f64, 0.1), args[3] = expr_index(k, 3);
}
static void teardown(void) { arena_drop(&mem); }
TestSuite(scalar, .init = setup, .fini = teardown);

static const char *parse(const char *body)
{
    const char *error = NULL;
    Expr e = scalar_parse(k, body, names, args, 5, &error);
    return e ? expr_text(k, e, &mem) : error;
}

Test(scalar, grammar)
{
    cr_expect_str_eq(parse("X + Y * 2 - 1"), "X[i] + Y[i] * 2.0 - 1.0");
    cr_expect_str_eq(parse("(X + Y) * 2"), "(X[i] + Y[i]) * 2.0");
    cr_expect_str_eq(parse("X - (Y - X)"), "X[i] - (Y[i] - X[i])");
    cr_expect_str_eq(parse("X > 0 && Y <= 1 || B"), "0.0 < X[i] && Y[i] <= 1.0 || B[i]");
    cr_expect_str_eq(parse("!B"), "not(B[i])");
    cr_expect_str_eq(parse("-X * X"), "neg(X[i]) * X[i]");
    cr_expect_str_eq(parse("t = X * X; t = t + 1; t / t"), "(X[i] * X[i] + 1.0) / (X[i] * X[i] + 1.0)");
    cr_expect_str_eq(parse("u8(X) + 1"), "u8(X[i]) + 1");
    cr_expect_str_eq(parse("sat_i8(rint(X))"), "sat_i8(rint(X[i]))");
    cr_expect_str_eq(parse("and(bits(X), 0x7fffffff)"), "and(bits(X[i]), 2147483647)");
    cr_expect_str_eq(parse("max(X, -inf) * 0x1p-3 # half a quarter"), "X[i] * 0.125");
}

Test(scalar, numbers_take_types)
{
    cr_expect_str_eq(parse("select(X < 0, alpha * X, X)"), "select(X[i] < 0.0, X[i] * 0.100000001, X[i])");
    cr_expect_str_eq(parse("X / n"), "X[i] / 3.0");
    cr_expect_str_eq(parse("select(B, 1, 0)"), "select(B[i], 1.0, 0.0)");
    cr_expect_str_eq(parse("select(n == 3, X, Y)"), "X[i]");
    cr_expect_str_eq(parse("X * sqrt(2 / 3.14159265358979)"), "X[i] * 0.797884583");
    cr_expect_str_eq(parse("select(X == inf, nan, 1.0)"), "select(X[i] == inf, nan, 1.0)");
    cr_expect_str_eq(parse("f64(X) * alpha"), "f64(X[i]) * 0.10000000000000001");
}

Test(scalar, errors)
{
    cr_expect_str_eq(parse("X + Z"), "unknown name 'Z' at ''");
    cr_expect_str_eq(parse("X * (1 / 3)"), "two whole numbers are divided: write one with a point at ')'");
    cr_expect_str_eq(parse("X + B"), "bool meets f32 at ''");
    cr_expect_str_eq(parse("X + u8(Y)"), "u8 meets f32 at ''");
    cr_expect_str_eq(parse("f(X)"), "no function 'f' at 'X)'");
    cr_expect_str_eq(parse("select(X, 1, 2)"), "f32 meets bool at ''");
    cr_expect_str_eq(parse("max(X)"), "expected ',' at ')'");
    cr_expect_str_eq(parse("X Y"), "unexpected text at 'Y'");
    cr_expect_str_eq(parse("u8(X) + 0.5"), "f64 meets u8 at ''");
    cr_expect_str_eq(parse("and(X, X)"), "and of f32 at ''");
}
