/* Which products multiply 16 bits: costs are told apart by signs, and those count that reach the outputs. */
#include "frontend/wide.h"
#include "tests/unit/worlds.h"

static World w;
static Quantization q;
static void setup(void) { world_open(&w), q = (Quantization){.mem = &w.mem}; }
static void teardown(void) { world_close(&w); }
TestSuite(wide, .init = setup, .fini = teardown);

enum { PRODUCTS = 60, RUNS = 16 };

static uint32_t state = 1;
static int8_t some_sign(void) { return (state = state * 1664525u + 1013904223u) >> 31 ? 1 : -1; }

/* Twice as many equations as products: far fewer runs than products. */
Test(wide, costs_are_told_apart_by_signs)
{
    double cost[PRODUCTS], found[PRODUCTS], right[RUNS * RUNS];
    int8_t sign[RUNS][PRODUCTS], both[RUNS * RUNS][PRODUCTS];
    const int8_t *at[RUNS * RUNS];
    uint32_t n = 0;
    for (int i = 0; i < PRODUCTS; i++) cost[i] = i % 7 ? 0.01 * (i % 5) : i % 3;
    for (int r = 0; r < RUNS; r++)
        for (int i = 0; i < PRODUCTS; i++) sign[r][i] = some_sign();
    for (int a = 0; a < RUNS; a++)
        for (int b = 0; b <= a; b++, n++) {
            right[n] = 0, at[n] = both[n];
            for (int i = 0; i < PRODUCTS; i++) both[n][i] = (int8_t)(sign[a][i] * sign[b][i]), right[n] += both[n][i] * cost[i];
        }
    costs_solve(at, right, n, PRODUCTS, found);
    for (int i = 0; i < PRODUCTS; i++) cr_expect_float_eq(found[i], cost[i], 0.03, "%d: %g, expected %g", i, found[i], cost[i]);
}

/* One channel is a thousand times as large as the others and has no weights: 8 bits leave both products nothing. */
static const char two_products[] = "graph \"g\" (%1 \"x\": f32[16,4]) -> (%9 \"y\") {"
                                   "  %2 = const f32[4] {1000, 1, 1, 1}"
                                   "  %3 = const f32[4,2] {0, 0, 1, 2, -2, 1, 0.5, 1.5} \"w\""
                                   "  %4 = const f32[] {%s}"
                                   "  %5 = Mul(%1, %2) ; \"scaled\" #0"
                                   "  %6 = MatMul(%5, %3) ; \"heard\" #1"
                                   "  %10 = const f32[4,2] {0, 0, -1, 1, 2, 0.5, 1, 1} \"w2\""
                                   "  %7 = MatMul(%5, %10) ; \"hushed\" #2"
                                   "  %8 = Mul(%7, %4) ; \"hush\" #3"
                                   "  %9 = Add(%6, %8) ; \"sum\" #4 }";

static const Range *chosen(const char *loudness)
{
    const char *hole = strstr(two_products, "%s");
    char *text = arena_printf(&w.mem, "%.*s%s%s", (int)(hole - two_products), two_products, loudness, hole + 2);
    Graph *g = graph_parse(&w.module, &w.mem, text);
    SampleSource *samples = samples_random(&w.mem, 3);
    CalibrateOptions o = {.samples = samples, .threads = 1, .quiet = true};
    cr_assert(g);
    range_set(&q, "scaled/Mul:0", -1000, 1000);
    bool ok = wide_choose(g, &q, &o, &w.diag);
    if (!ok) diag_print(&w.diag, stderr);
    cr_assert(ok);
    samples_close(samples);
    return range_find(&q, "scaled/Mul:0");
}

Test(wide, products_that_outputs_hear_have_sixteen_bits)
{
    const Range *r = chosen("1");
    cr_expect(r->readers == 2 && r->wide && r->wide[0] && r->wide[1]);
    r = chosen("0.0001");
    cr_expect(r->readers > 0 && r->wide && r->wide[0]);
    cr_expect(r->readers < 2 || !r->wide[1], "an error that does not arrive");
}
