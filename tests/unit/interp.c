/* The interpreter: polynomials against libm, guards and checks, every clause of a stage, types and layouts. */
#include "ir/kernel.h"
#include "octet.h"
#include <criterion/criterion.h>
#include <math.h>

static Arena mem;
static void teardown(void) { arena_drop(&mem); }
TestSuite(interp, .fini = teardown);

static Kernel *kernel(const char *text)
{
    Diag d = {.mem = &mem, .subject = "test"};
    const char *why = NULL;
    Kernel *k = kernel_parse(&mem, dims_new(&mem), text, &d);
    if (!k) diag_print(&d, stderr);
    cr_assert(k);
    cr_assert(kernel_verify(k, &why), "%s", why);
    return k;
}

/* ---- the polynomials ---- */
static const struct {
    Prim p;
    double ulp, lo, hi;
} bounds[] = {{P_exp, 1.5, -110, 89},    {P_log, 1.5, 0, 1e30}, {P_log1p, 3, -1, 1e6}, {P_sigmoid, 3, -80, 80},
              {P_erf, 1.7, -5, 5},       {P_tanh, 6, -10, 10},  {P_sinh, 4, -89, 89},  {P_cosh, 4, -89, 89},
              {P_asinh, 4, -1e20, 1e20}, {P_acosh, 4, 1, 1e20}, {P_atanh, 3, -1, 1},   {P_pow, 1, 0, 100},
              {P_sin, 2, -1e6, 1e6},     {P_cos, 2, -1e6, 1e6}, {P_tan, 4, -1e4, 1e4}, {P_atan, 3, -1e6, 1e6},
              {P_asin, 3, -1, 1},        {P_acos, 3, -1, 1},    {P_rsqrt, 2, 0, 1e9},  {P_sign, 0, -5, 5}};
static const float special[] = {0,    -0.0f, 1,      -1,       INFINITY, -INFINITY, NAN,   2,
                                0.5f, -0.5f, 1e-40f, -1e-40f,  3e38f,    -3e38f,    88.9f, -104.5f,
                                3,    -3,    1e-10f, 0.24999f, 1e9f,     1.00001f};
enum { POINTS = 4000, ROUNDS = 16, SPECIAL = COUNT_OF(special) }; /* rounds: the points of one lie between those of the others */

static double ulps(double want, float got)
{
    float near = (float)want;
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got) ? 0 : INFINITY;
    if ((double)got == want || (isinf(near) && got == near)) return 0;
    if (isinf(near) || isinf(got)) return INFINITY;
    double unit = (double)nextafterf(fabsf(near), INFINITY) - (double)fabsf(near);
    return fabs(want - (double)got) / unit;
}

static void check_polynomial(Prim p, double limit, double lo, double hi, int round)
{
    static float a[POINTS], b[POINTS], got[POINTS];
    static double exact[POINTS];
    bool two = prims[p].arity == 2;
    Kernel *k =
        kernel(arena_printf(&mem, "kernel k() { in A[4000], B[4000] out E: f64[4000], G[4000] E[i] = %s(f64(A[i])%s) G[i] = %s(A[i]%s) }",
                            prims[p].name, two ? ", f64(B[i])" : "", prims[p].name, two ? ", B[i]" : ""));
    Expr plain = k->stage.at[1].value;
    k->stage.at[1].value = expr_expand(k, plain);
    cr_expect_neq(k->stage.at[1].value, plain, "%s has no polynomial", prims[p].name);
    for (int i = 0; i < POINTS; i++) {
        double x = ((double)i + (double)round / ROUNDS) / POINTS;
        a[i] = (float)(i % 2 ? lo + (hi - lo) * x : (lo < 0 && i % 4 ? -1 : 1) * exp(-20 + x * (20 + log(hi)))),
        b[i] = (float)(i % 41 - 20) * 0.5f;
        if (i < (two ? SPECIAL * SPECIAL : SPECIAL)) a[i] = special[i % SPECIAL], b[i] = special[i / SPECIAL % SPECIAL];
    }
    cr_assert_eq(interp_compute(k, NULL, (void *[]){NULL, a, b, exact, got}), 0);
    for (int i = 0; i < POINTS; i++) {
        bool tiny = fabs(exact[i]) < 0x1p-120 && fabsf(got[i]) < 0x1p-120f,
             far = (p == P_sin || p == P_cos || p == P_tan) && fabsf(a[i]) > 4e8f && !isinf(a[i]);
        cr_assert(tiny || far || ulps(exact[i], got[i]) <= limit, "%s(%a, %a): %a, expected %a: %g ulp", prims[p].name,
                  a[i], b[i], got[i], exact[i], ulps(exact[i], got[i]));
        cr_assert(p != P_exp || fpclassify(got[i]) != FP_SUBNORMAL, "exp(%a) = %a: slow to work with", a[i], got[i]);
    }
}

Test(interp, polynomials)
{
    for (size_t i = 0; i < COUNT_OF(bounds); i++)
        for (int round = 0; round < ROUNDS; round++) {
            check_polynomial(bounds[i].p, bounds[i].ulp, bounds[i].lo, bounds[i].hi, round);
            arena_drop(&mem);
        }
}

Test(interp, every_polynomial_is_bounded)
{
    for (Prim p = 1; p < PRIM_COUNT; p++) {
        bool listed = !prims[p].expansion || prims[p].compares || p == P_floormod;
        for (size_t i = 0; i < COUNT_OF(bounds); i++) listed = listed || bounds[i].p == p;
        cr_expect(listed, "%s", prims[p].name);
    }
}

/* ---- stages ---- */
Test(interp, softmax_by_stages)
{
    Kernel *k = kernel("kernel softmax(R, C) { in X[R, C] out Y[R, C] tmp m[R], s[R]"
                       "  m[r] = max(c: C) X[r, c]"
                       "  s[r] = sum(c: C) exp(X[r, c] - m[r]) keep Y[r, c] then 1 / it"
                       "  Y[r, c] = Y[r, c] * s[r] }");
    float x[] = {1, 2, 3, -1, -1, -1}, y[6], m[2], s[2];
    cr_assert_eq(interp_compute(k, (int64_t[]){2, 3}, (void *[]){NULL, x, y, m, s}), 0);
    cr_expect(fabsf(y[0] - 0.09003057f) < 1e-6f && fabsf(y[2] - 0.66524096f) < 1e-6f && fabsf(y[4] - 1 / 3.0f) < 1e-6f);
}

Test(interp, guards_protect_loads)
{
    Kernel *k = kernel("kernel pad() { in X[3] out Y[5] Y[i] = guard(1 <= i && i < 4, X[i - 1], 9) * 2 }");
    float x[] = {1, 2, 3}, y[5];
    cr_assert_eq(interp_compute(k, NULL, (void *[]){NULL, x, y}), 0);
    cr_expect(y[0] == 18 && y[1] == 2 && y[3] == 6 && y[4] == 18);
    Kernel *wrong = kernel("kernel pad() { in X[3] out Y[5] Y[i] = select(1 <= i && i < 4, X[i - 1], 9) }");
    cr_expect_eq(interp_compute(wrong, NULL, (void *[]){NULL, x, y}), OCTET_ERR_INDEX);
}

Test(interp, checks_and_indices)
{
    Kernel *k =
        kernel("kernel gather(N, V) { in X[V], I: i64[N] out Y[N] Y[i] = X[I[i]] check 0 <= I[i] && I[i] < V }");
    float x[] = {10, 20, 30}, y[2];
    int64_t index[] = {2, 0}, bad[] = {1, 3};
    cr_assert_eq(interp_compute(k, (int64_t[]){2, 3}, (void *[]){NULL, x, index, y}), 0);
    cr_expect(y[0] == 30 && y[1] == 10);
    cr_expect_eq(interp_compute(k, (int64_t[]){2, 3}, (void *[]){NULL, x, bad, y}), OCTET_ERR_INDEX);
    Kernel *store = kernel("kernel s() { in I: i64[1] out Y[3] Y[I[i]] for i: 1 = 1 }");
    cr_expect_eq(interp_compute(store, NULL, (void *[]){NULL, bad + 1, x}), OCTET_ERR_INDEX);
}

Test(interp, where_update_and_places)
{
    Kernel *k = kernel("kernel s() { in X[4], I: i64[4] out Y[3]"
                       "  Y[j] = 100"
                       "  Y[I[i]] for i: 4 add= X[i]"
                       "  Y[0] for i: 4 = X[i] where X[i] == 3 }");
    float x[] = {1, 2, 3, 4}, y[3];
    int64_t index[] = {1, 1, 2, 1};
    cr_assert_eq(interp_compute(k, NULL, (void *[]){NULL, x, index, y}), 0);
    cr_expect(y[0] == 3 && y[1] == 107 && y[2] == 103);
}

/* Two stages together, step by step: each reads what both wrote one step before. */
Test(interp, scan)
{
    Kernel *k = kernel("kernel s(T) { in X[T] out H[T + 1], C[T + 1]"
                       "  H[0] for = 1  C[0] for = 0"
                       "  C[t + 1] for t: T = C[t] + H[t] * X[t] scan t"
                       "  H[t + 1] for t: T = C[t + 1] * 2 scan t }");
    float x[] = {1, 2, 3}, h[4], c[4];
    cr_assert_eq(interp_compute(k, (int64_t[]){3}, (void *[]){NULL, x, h, c}), 0);
    cr_expect(c[1] == 1 && h[1] == 2 && c[2] == 5 && h[2] == 10 && c[3] == 35 && h[3] == 70);
}

Test(interp, types_round_and_wrap)
{
    Kernel *k =
        kernel("kernel t() { in A: u8[2], H: f16[2], B: bool[2] out S: u8[2], F: f16[2], N: bool[2], Q: i8[2]"
               "  S[i] = A[i] + 10  F[i] = f16(f32(H[i]) * 3)  N[i] = !B[i]  Q[i] = sat_i8(rint(f32(A[i]) * 0.5)) }");
    uint8_t a[] = {250, 5}, b[] = {0, 1}, s[2], n[2];
    uint16_t h[] = {0x3c01, 0x7bff}, f[2]; /* 1 + 2^-10, 65504 */
    int8_t q[2];
    cr_assert_eq(interp_compute(k, NULL, (void *[]){NULL, a, h, b, s, f, n, q}), 0);
    cr_expect(s[0] == 4 && s[1] == 15 && n[0] == 1 && n[1] == 0 && q[0] == 125 && q[1] == 2);
    cr_expect(f[0] == 0x4202 && f[1] == 0x7c00, "%x %x", f[0], f[1]); /* 3 + 3 * 2^-10 is halfway: to even */
}

Test(interp, integer_reduction_and_layout)
{
    Kernel *k = kernel("kernel m() { in A: u8[2, 5] const W: i8[3, 5] layout(0/2, 1/4, 0%2, 1%4) out Y: i32[2, 3]"
                       "  Y[m, n] = sum(k: 5) i32(A[m, k]) * i32(W[n, k]) }");
    uint8_t a[] = {1, 2, 3, 4, 255, 0, 0, 0, 0, 1};
    int8_t w[2 * 2 * 2 * 4] = {0};
    for (int n = 0; n < 3; n++)
        for (int d = 0; d < 5; d++) w[((n / 2 * 2 + d / 4) * 2 + n % 2) * 4 + d % 4] = (int8_t)(n * 10 - d);
    int32_t y[6];
    cr_assert_eq(interp_compute(k, NULL, (void *[]){NULL, a, w, y}), 0);
    for (int m = 0; m < 2; m++)
        for (int n = 0; n < 3; n++) {
            int want = 0;
            for (int d = 0; d < 5; d++) want += a[m * 5 + d] * (n * 10 - d);
            cr_expect_eq(y[m * 3 + n], want);
        }
}

Test(interp, fma_rounds_once)
{
    Kernel *k = kernel("kernel f() { in A[1], B[1], C[1] out Y[1] Y[i] = fma(A[i], B[i], C[i]) }");
    float a = 0x1.000002p0f, b = 0x1.000002p0f, c = 0x1p-60f, y;
    cr_assert_eq(interp_compute(k, NULL, (void *[]){NULL, &a, &b, &c, &y}), 0);
    cr_expect_eq(y, fmaf(a, b, c));
}

Test(interp, empty_and_scalar)
{
    Kernel *k = kernel("kernel e(N) { in X[N] out Y, Z[N] Y for = sum(i: N) X[i] then it + 1  Z[i] = X[i] }");
    float y = 0;
    cr_assert_eq(interp_compute(k, (int64_t[]){0}, (void *[]){NULL, &y, &y, &y}), 0);
    cr_expect_eq(y, 1);
}

/* Long axes go in blocks; the guard is undecided in the first and the last block, in the others it is not. */
Test(interp, blocks_are_points)
{
    enum { N = 700, PAD = 40, OUT = N + 2 * PAD };
    Kernel *k = kernel("kernel p() { in X[700], T: u8[780] out Y[780], Z: i32[2] tmp S"
                       "  Y[i] = guard(40 <= i && i < 740, X[i - 40] * 3, f32(i)) / 7"
                       "  Z[j] = max(i: 780) i32(T[i]) * (1 - 2 * i32(j))"
                       "  S for = sum(i: 780) Y[i] keep Y[i] check T[i] < 251 }");
    static float x[N], y[OUT];
    static uint8_t t[OUT];
    int32_t z[2];
    float sum, want = 0;
    for (int i = 0; i < N; i++) x[i] = (float)i * 0.37f - 100;
    for (int i = 0; i < OUT; i++) t[i] = (uint8_t)(i * 7 % 251);
    cr_assert_eq(interp_compute(k, NULL, (void *[]){NULL, x, t, y, z, &sum}), 0);
    for (int i = 0; i < OUT; i++) {
        float v = i < PAD || i >= N + PAD ? (float)i : x[i - PAD] * 3;
        cr_assert_eq(y[i], v / 7, "%d", i);
        want += y[i];
    }
    cr_expect(sum == want && z[0] == 250 && z[1] == 0);
    t[500] = 251;
    cr_expect_eq(interp_compute(k, NULL, (void *[]){NULL, x, t, y, z, &sum}), OCTET_ERR_INDEX);
}
