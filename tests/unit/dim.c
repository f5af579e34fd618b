/* Sizes: normal form, bounds, facts, programs; random expressions against direct evaluation. */
#include "ir/dim.h"
#include "ir/base/checked.h"
#include <criterion/criterion.h>

static Arena mem;
static Dims *d;
static Dim N, M, two, three;
static void setup(void)
{
    mem = (Arena){0}, d = dims_new(&mem);
    N = dim_symbol(d, "N", DIM_INPUT, 0), M = dim_symbol(d, "M", DIM_INPUT, 0), two = dim_const(d, 2),
    three = dim_const(d, 3);
}
static void teardown(void) { arena_drop(&mem); }
TestSuite(dim, .init = setup, .fini = teardown);

#define TEXT(x, s) cr_expect_str_eq(dim_text(d, x, &mem), s)
#define SAME(x, y) cr_expect(dim_same(x, y), "%s against %s", dim_text(d, x, &mem), dim_text(d, y, &mem))
static Dim num(int64_t v) { return dim_const(d, v); }

/* A pass makes a size of data anew: what a guard said of the old one holds of the new one under a guard of its own. */
Test(dim, twins_of_learnt_sizes_are_guarded)
{
    const Guard *g;
    Dim found = dim_fresh(d, "found", DIM_DATA), again = dim_fresh(d, "found", DIM_DATA), plain = dim_fresh(d, "found", DIM_DATA);
    cr_assert(dim_require(d, GUARD_EQ, found, num(4), NULL, "rows"));
    dim_unify(d, again, found);
    TEXT(dim_canon(d, again), "4");
    cr_assert_eq(dim_guards(d, &g), 2);
    cr_expect(g[1].kind == GUARD_EQ && dim_same(g[1].a, again) && dim_same(g[1].b, num(4)));
    cr_expect_str_eq(g[1].why, "rows");
    dim_unify(d, dim_fresh(d, "found", DIM_DATA), plain);
    cr_expect_eq(dim_guards(d, &g), 2, "nothing was learnt of it");
}

Test(dim, equal_expressions_are_one_handle)
{
    SAME(dim_mul(d, dim_add(d, N, M), dim_add(d, N, M)),
         dim_add(d, dim_mul(d, N, N), dim_add(d, dim_mul(d, M, M), dim_mul(d, two, dim_mul(d, N, M)))));
    SAME(dim_sub(d, dim_add(d, N, M), N), M);
    SAME(dim_symbol(d, "N", DIM_INPUT, 0), N);
    cr_expect_not(dim_known((Dim){0}) || dim_known(dim_add(d, N, (Dim){0})));
    TEXT(dim_add(d, dim_mul(d, two, N), num(1)), "2*N + 1");
    TEXT(dim_sub(d, dim_mul(d, N, M), N), "N*M - N");
    TEXT(num(0), "0");
}

Test(dim, floor_division_simplifies)
{
    SAME(dim_fdiv(d, dim_mul(d, num(6), N), three), dim_mul(d, two, N));
    SAME(dim_fdiv(d, dim_fdiv(d, N, two), three), dim_fdiv(d, N, num(6)));
    SAME(dim_fdiv(d, dim_add(d, dim_mul(d, two, N), num(1)), two), N);
    SAME(dim_fdiv(d, dim_mul(d, N, M), N), M);
    SAME(dim_cdiv(d, dim_mul(d, num(8), N), num(4)), dim_mul(d, two, N));
    SAME(dim_mod(d, dim_add(d, dim_mul(d, num(4), N), three), num(4)), three);
    SAME(dim_add(d, dim_fdiv(d, dim_sub(d, N, num(1)), two), num(1)), dim_fdiv(d, dim_add(d, N, num(1)), two));
    Dim q;
    cr_expect(dim_exact(d, dim_mul(d, num(12), dim_mul(d, N, M)), dim_mul(d, num(4), M), &q));
    SAME(q, dim_mul(d, three, N));
    cr_expect_not(dim_exact(d, dim_add(d, N, num(1)), two, &q));
}

Test(dim, bounds_decide)
{
    int64_t v;
    SAME(dim_max(d, N, num(0)), N);
    SAME(dim_min(d, N, num(INT64_MAX)), N);
    SAME(dim_max(d, dim_add(d, N, num(INT64_MIN + 1)), num(0)), num(0));
    SAME(dim_ge(d, dim_add(d, N, num(1)), N), num(1));
    SAME(dim_eq(d, dim_add(d, N, num(1)), num(0)), num(0));
    SAME(dim_eq(d, dim_mul(d, two, N), three), num(0));
    cr_expect(dim_lower(d, dim_add(d, dim_mul(d, N, M), three), &v) && v == 3);
    cr_expect_not(dim_upper(d, N, &v));
    cr_expect(dim_upper(d, dim_min(d, N, num(512)), &v) && v == 512);
    cr_expect(dim_lower(d, dim_fdiv(d, dim_add(d, N, num(7)), two), &v) && v == 3);
    SAME(dim_max(d, N, M), dim_max(d, M, N));
    SAME(dim_add(d, dim_max(d, N, M), dim_min(d, N, M)), dim_add(d, N, M));
}

Test(dim, equalities_are_learnt)
{
    cr_expect(dim_require(d, GUARD_EQ, dim_add(d, N, num(1)), M, NULL, "sizes"));
    SAME(dim_canon(d, dim_sub(d, M, N)), num(1));
    cr_expect_not(dim_require(d, GUARD_EQ, M, N, NULL, "sizes"));
    const Guard *g;
    cr_expect(dim_guards(d, &g) == 1);
    cr_expect(dim_require(d, GUARD_EQ, dim_mul(d, M, two), dim_add(d, dim_mul(d, two, N), two), NULL, "sizes"));
    cr_expect(dim_guards(d, &g) == 1, "what is proven needs no guard");
    int64_t v;
    cr_expect(dim_lower(d, M, &v) && v == 1);
}

Test(dim, data_symbols_are_solved_first)
{
    Dim k = dim_fresh(d, "k", DIM_DATA);
    cr_expect(dim_require(d, GUARD_EQ, dim_add(d, k, two), N, NULL, "sizes"));
    SAME(dim_canon(d, k), dim_sub(d, N, two));
    int64_t v;
    cr_expect(dim_lower(d, N, &v) && v == 2);
    cr_expect(dim_has_data(d, k) && !dim_has_data(d, dim_canon(d, k)));
}

Test(dim, elements_are_kept_where_other_data_symbols_go)
{
    Dim e = dim_element(d, "k"), other = dim_element(d, "k"), k = dim_fresh(d, "k", DIM_DATA);
    int64_t v;
    cr_expect(!dim_same(e, other) && dim_has_data(d, e), "two elements of one name are two symbols");
    cr_expect(dim_lower(d, e, &v) && v < 0);
    dim_unify(d, k, e);
    SAME(dim_canon(d, k), e);
    cr_expect(dim_lower(d, dim_canon(d, e), &v) && v == 0, "what is known of the size is known of the element");
}

Test(dim, bounds_are_learnt)
{
    cr_expect(dim_require(d, GUARD_EQ, dim_min(d, N, num(512)), N, NULL, "positions"));
    int64_t v;
    cr_expect(dim_upper(d, N, &v) && v == 512);
    SAME(dim_canon(d, dim_min(d, N, num(512))), N);
    cr_expect(dim_require(d, GUARD_GE, M, three, NULL, "window"));
    SAME(dim_canon(d, dim_max(d, M, two)), M);
    cr_expect_not(dim_require(d, GUARD_GE, two, M, NULL, "window"));
}

Test(dim, ones_and_inequalities)
{
    const Guard *g;
    cr_expect(dim_require(d, GUARD_EQ_OR_ONE, N, num(4), NULL, "w"));
    cr_expect(dim_require(d, GUARD_EQ_OR_ONE, num(1), M, NULL, "w"));
    cr_expect_not(dim_require(d, GUARD_EQ_OR_ONE, three, two, NULL, "w"));
    cr_expect(dim_require(d, GUARD_NE, M, num(0), NULL, "w"));
    cr_expect(dim_guards(d, &g) == 2);
    SAME(dim_canon(d, dim_ge(d, M, num(1))), num(1));
    cr_expect_not(dim_require(d, GUARD_NE, N, N, NULL, "w"));
}

Test(dim, broadcast_policy)
{
    const Guard *g;
    SAME(dim_broadcast(d, N, num(1), NULL), N);
    SAME(dim_broadcast(d, N, num(7), NULL), num(7));
    cr_expect((int)(dim_guards(d, &g), g[0].kind) == GUARD_EQ_OR_ONE);
    cr_expect_not(dim_known(dim_broadcast(d, two, three, NULL)));
    SAME(dim_broadcast(d, N, M, NULL), N);
    SAME(dim_canon(d, M), N);
    Dim k = dim_fresh(d, "k", DIM_DATA), s = dim_broadcast(d, N, k, NULL);
    int64_t v, symbol[3] = {5, 5, 1};
    cr_expect(dim_eval(d, s, symbol, &v) && v == 5);
    symbol[0] = 1, symbol[2] = 9;
    cr_expect(dim_eval(d, s, symbol, &v) && v == 9);
}

Test(dim, scale_is_float32)
{
    SAME(dim_scale(d, N, 2.0f), dim_mul(d, two, N));
    SAME(dim_scale(d, N, 0.5f), dim_fdiv(d, N, two));
    SAME(dim_scale(d, num(10), 0.3f), num((int64_t)(10.0f * 0.3f)));
    int64_t v, symbol[2] = {7, 0};
    cr_expect(dim_eval(d, dim_scale(d, N, 0.7f), symbol, &v) && v == (int64_t)(7.0f * 0.7f));
}

Test(dim, overflow_stays_exact)
{
    int64_t v, symbol[2] = {1, 1};
    Dim big = dim_mul(d, num(INT64_MAX), num(2));
    cr_expect(dim_known(big) && !dim_eval(d, big, symbol, &v));
    cr_expect(dim_eval(d, dim_sub(d, N, num(INT64_MIN + 2)), symbol, &v) && v == INT64_MAX);
    Dim many = num(0), product = num(1);
    for (int i = 0; i < 20; i++) many = dim_add(d, many, dim_symbol(d, (char[]){(char)('a' + i), 0}, DIM_INPUT, 0));
    for (int i = 0; i < 3; i++) product = dim_mul(d, product, many);
    int64_t ones[22];
    for (int i = 0; i < 22; i++) ones[i] = 1;
    cr_expect(dim_eval(d, product, ones, &v) && v == 8000);
}

/* ---- random expressions ---- */
static uint64_t state = 1;
static int64_t pick(int64_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((state >> 33) % (uint64_t)n);
}
enum { SAMPLES = 4, SYMBOLS = 3 };
static int64_t sample[SAMPLES][SYMBOLS];
typedef struct Both {
    Dim dim;
    int64_t v[SAMPLES];
} Both;

static Both random_expr(int depth)
{
    Both r = {.dim = {0}}, a, b;
    int64_t kind = depth ? pick(11) : pick(2), k = pick(9) + 1;
    if (kind == 0) {
        r.dim = num(k - 5);
        for (int i = 0; i < SAMPLES; i++) r.v[i] = k - 5;
        return r;
    }
    if (kind == 1) {
        int s = (int)pick(SYMBOLS);
        r.dim = dim_symbol(d, (char[]){(char)('a' + s), 0}, DIM_INPUT, 0);
        for (int i = 0; i < SAMPLES; i++) r.v[i] = sample[i][s];
        return r;
    }
    a = random_expr(depth - 1), b = random_expr(depth - 1);
    for (int i = 0; i < SAMPLES; i++) {
        int64_t x = a.v[i], y = b.v[i];
        r.v[i] = kind < 4    ? x + y
                 : kind == 4 ? x - y
                 : kind == 5 ? x * y
                 : kind == 6 ? floor_div(x, k)
                 : kind == 7 ? (x < y ? x : y)
                 : kind == 8 ? x >= y
                 : kind == 9 ? x == y
                             : x / k;
    }
    r.dim = kind < 4    ? dim_add(d, a.dim, b.dim)
            : kind == 4 ? dim_sub(d, a.dim, b.dim)
            : kind == 5 ? dim_mul(d, a.dim, b.dim)
            : kind == 6 ? dim_fdiv(d, a.dim, num(k))
            : kind == 7 ? dim_min(d, a.dim, b.dim)
            : kind == 8 ? dim_ge(d, a.dim, b.dim)
            : kind == 9 ? dim_eq(d, a.dim, b.dim)
                        : dim_tdiv(d, a.dim, num(k));
    return r;
}

static int64_t run_code(const DimCode *c, uint32_t n, const int64_t *symbol)
{
    int64_t s[256];
    uint32_t top = 0;
    for (uint32_t i = 0; i < n; i++) {
        int64_t y = c[i].op == DIMOP_CONST || c[i].op == DIMOP_SYM ? 0 : s[--top], *x = top ? &s[top - 1] : s;
        switch ((DimOp)c[i].op) {
        case DIMOP_CONST: s[top++] = c[i].arg; break;
        case DIMOP_SYM: s[top++] = symbol[c[i].arg]; break;
        case DIMOP_ADD: *x += y; break;
        case DIMOP_MUL: *x *= y; break;
        case DIMOP_FDIV: *x = floor_div(*x, y); break;
        case DIMOP_TDIV: *x /= y; break;
        case DIMOP_POS: s[top++] = y > 0 ? y : 0; break;
        case DIMOP_GE0: s[top++] = y >= 0; break;
        case DIMOP_EQ0: s[top++] = y == 0; break;
        case DIMOP_SCALE: cr_assert_fail("no scale was made");
        }
    }
    cr_expect(top == 1);
    return s[0];
}

Test(dim, random_expressions_have_their_values_and_bounds)
{
    d = dims_new(&mem);
    for (int s = 0; s < SYMBOLS; s++) dim_symbol(d, (char[]){(char)('a' + s), 0}, DIM_INPUT, 0);
    for (int round = 0; round < 4000; round++) {
        for (int i = 0; i < SAMPLES; i++)
            for (int s = 0; s < SYMBOLS; s++) sample[i][s] = pick(s == 1 ? 30 : 8);
        Both r = random_expr(4);
        int64_t v, lo, hi;
        bool low = dim_lower(d, r.dim, &lo), high = dim_upper(d, r.dim, &hi);
        const DimCode *code;
        uint32_t n = dim_code(d, r.dim, &mem, &code);
        for (int i = 0; i < SAMPLES; i++) {
            cr_assert(dim_eval(d, r.dim, sample[i], &v) && v == r.v[i], "%s", dim_text(d, r.dim, &mem));
            cr_assert(!low || lo <= v, "lower bound of %s", dim_text(d, r.dim, &mem));
            cr_assert(!high || hi >= v, "upper bound of %s", dim_text(d, r.dim, &mem));
            cr_assert(run_code(code, n, sample[i]) == v);
        }
    }
}

/* What a branch requires counts where it is taken; what both require counts always, and only that is learnt. */
Test(dim, guards_of_branches)
{
    d = dims_new(&mem);
    Dim n = dim_symbol(d, "N", DIM_INPUT, 0), m = dim_symbol(d, "M", DIM_INPUT, 0), rate = dim_element(d, "rate");
    Dim yes = dim_eq(d, rate, dim_const(d, 16)), no = dim_not(d, yes);
    const Guard *g;
    cr_expect(dim_same(dim_mul(d, yes, yes), yes) && dim_is(d, dim_either(d, yes, no), 1) && dim_is(d, dim_mul(d, yes, no), 0));
    Dim flag = dim_truth(d, "flag"); /* an input that is one bool is a condition too */
    cr_expect(dim_same(dim_mul(d, flag, flag), flag) && dim_is(d, dim_either(d, flag, dim_not(d, flag)), 1));
    cr_expect(!dim_known(dim_assume(d, yes)));
    cr_expect(dim_require(d, GUARD_EQ, n, dim_const(d, 6), NULL, "then") && dim_require(d, GUARD_EQ, n, m, NULL, "both"));
    cr_expect_not(dim_require(d, GUARD_EQ, dim_const(d, 2), dim_const(d, 3), NULL, "never"));
    dim_assume(d, no);
    cr_expect(dim_require(d, GUARD_EQ, n, dim_const(d, 8), NULL, "else")); /* no contradiction to the other branch's */
    cr_expect(dim_same(dim_canon(d, m), m));
    cr_expect(dim_require(d, GUARD_EQ, n, m, NULL, "both"));
    cr_expect(dim_same(dim_assume(d, (Dim){0}), no));
    cr_assert_eq(dim_guards(d, &g), 3);
    cr_expect(dim_same(g[0].when, yes) && dim_same(g[2].when, no) && !dim_known(g[1].when));
    cr_expect(dim_same(dim_canon(d, m), dim_canon(d, n)) && dim_same(dim_canon(d, n), n));
    cr_expect(dim_require(d, GUARD_EQ, yes, dim_const(d, 1), NULL, "decided"));
    cr_expect(dim_is(d, dim_canon(d, rate), 16)); /* a condition that must be 1 says what it compares */
}
