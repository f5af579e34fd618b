/* What few bits cost the outputs: costs are told apart by signs, and those count that arrive. Which products multiply 16 bits for it, and which weights
 * keep 8. */
#include "frontend/costs.h"
#include "frontend/spare.h"
#include "frontend/wide.h"
#include "tests/unit/worlds.h"
#include <stdlib.h>

static World w;
static Quantization q;
static void setup(void) { world_open(&w), q = (Quantization){.mem = &w.mem}; }
static void teardown(void) { world_close(&w); }
TestSuite(costs, .init = setup, .fini = teardown);

enum { PRODUCTS = 60, RUNS = 16 };

static uint32_t state = 1;
static int8_t some_sign(void) { return (state = state * 1664525u + 1013904223u) >> 31 ? 1 : -1; }

/* Twice as many equations as products: far fewer runs than products. */
Test(costs, are_told_apart_by_signs)
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

static const Range *chosen_in(double range, const char *loudness, bool each)
{
    const char *hole = strstr(two_products, "%s");
    char *text = arena_printf(&w.mem, "%.*s%s%s", (int)(hole - two_products), two_products, loudness, hole + 2);
    Graph *g = graph_parse(&w.module, &w.mem, text);
    SampleSource *samples = samples_random(&w.mem, 3);
    CalibrateOptions o = {.samples = samples, .threads = 1, .quiet = true, .each = each};
    cr_assert(g);
    range_set(&q, "scaled/Mul:0", -range, range);
    bool ok = wide_choose(g, &q, &o, &w.diag);
    if (!ok) diag_print(&w.diag, stderr);
    cr_assert(ok);
    samples_close(samples);
    return range_find(&q, "scaled/Mul:0");
}

static const Range *chosen(const char *loudness) { return chosen_in(1000, loudness, false); }

Test(costs, what_is_inside_together_is_told_apart_for_reports_alone)
{
    for (int each = 0; each < 2; each++) {
        const Range *r = chosen_in(1, "1", each); /* the largest elements, which are clipped, are multiplied by zeros */
        const LayerCost *heard = cost_find(&q, "heard/MatMul:0"), *hushed = cost_find(&q, "hushed/MatMul:0");
        cr_assert(heard && hushed && q.costs.known);
        cr_expect(!r->wide && !heard->spared && !hushed->spared && q.costs.left > 0 && q.costs.left < q.costs.bound);
        cr_expect(each ? heard->cost > 0 && hushed->cost > 0 : isnan(heard->cost) && isnan(hushed->cost), "%g %g", heard->cost, hushed->cost);
    }
}

Test(costs, products_that_outputs_hear_have_sixteen_bits)
{
    const Range *r = chosen("1");
    cr_expect(r->readers == 2 && r->wide && r->wide[0] && r->wide[1]);
    r = chosen("0.0001");
    cr_expect(r->readers > 0 && r->wide && r->wide[0]);
    cr_expect(r->readers < 2 || !r->wide[1], "an error that does not arrive");
    const LayerCost *heard = cost_find(&q, "heard/MatMul:0"), *hushed = cost_find(&q, "hushed/MatMul:0");
    cr_assert(heard && hushed && q.costs.known);
    cr_expect(heard->spared && !hushed->spared && heard->cost > 100 * hushed->cost, "%g %g", heard->cost, hushed->cost);
    cr_expect(heard->cost > q.costs.bound && q.costs.left <= q.costs.bound);
}

/* ---- weights ---- */
static Val weighed(Graph *g, Val x, int64_t rows, int64_t columns, const char *node)
{
    Loc *at = NEW(&w.mem, Loc);
    *at = (Loc){.node = node, .op = "MatMul"};
    return emit(g, "MatMul", at, 2, x, graph_const(g, tensor_random(&w.mem, DT_f32, 2, (int64_t[]){rows, columns}, (uint32_t)strlen(node)), node));
}

/* Few weights, two layers that share their input, one of them hardly heard, and a last one, whose place spares it. */
static Graph *four_layers(void)
{
    Graph *g = graph_new(&w.module, &w.mem, "g");
    Loc *at = NEW(&w.mem, Loc);
    Type type = {.dtype = DT_f32, .rank = 2, .dim = {dim_const(w.module.dim, 16), dim_const(w.module.dim, 64)}};
    *at = (Loc){.node = "between", .op = "Mul"};
    Val x = emit(g, "Relu", at, 1, weighed(g, graph_input(g, "x", type), 64, 64, "few"));
    Val hushed = emit(g, "Mul", at, 2, weighed(g, x, 64, 128, "hushed"), graph_const(g, tensor_scalar(&w.mem, DT_f32, 1e-3), NULL));
    x = emit(g, "Relu", at, 1, emit(g, "Add", at, 2, weighed(g, x, 64, 128, "heard"), hushed));
    graph_output(g, weighed(g, x, 128, 64, "last"), "y");
    return g;
}

static void spare_by(SampleSource *samples, double part)
{
    CalibrateOptions o = {.samples = samples, .threads = 1, .quiet = true};
    cr_assert(samples);
    q.float_activations = true, q.bound = 0.1, q.part = part, q.spared = (WeightForm){.code = DT_i8};
    bool ok = spare_weights(four_layers(), &q, &o, &w.diag);
    if (!ok) diag_print(&w.diag, stderr);
    cr_assert(ok);
    samples_close(samples);
}

static void spare(double part) { spare_by(samples_random(&w.mem, 3), part); }

/* "heard", "hushed" and "last" have as many weights: of 4.5, 4.5 and 8 bits, scales included. One with 8 bits instead of 4.5 makes all larger by 0.206,
 * one in groups of 16 by 0.029. */
Test(costs, no_more_weights_have_more_bits_than_may)
{
    q.form = (WeightForm){.code = DT_i4, .group = 32};
    spare(0.21);
    const LayerCost *heard = cost_find(&q, "heard/MatMul:0"), *hushed = cost_find(&q, "hushed/MatMul:0");
    cr_assert(heard && hushed && heard->spared && !hushed->spared);
    cr_expect_eq(codes_find(&q, "heard/MatMul:0")->form.group, 0, "8 bits of a channel are finer than 4 of a group");
    double left[2];
    for (int groups = 0; groups < 2; groups++) {
        q = (Quantization){.mem = &w.mem, .form = q.form};
        spare(groups ? 0.05 : 0.02);
        const LayerCodes *codes = codes_find(&q, "heard/MatMul:0");
        cr_expect(cost_find(&q, "heard/MatMul:0")->spared == (groups == 1) && !cost_find(&q, "hushed/MatMul:0")->spared);
        cr_expect(codes->form.code == DT_i4 && codes->form.group == (groups ? 16 : 32) && codes->codes.block == codes->form.group);
        cr_expect(q.costs.known && q.costs.left > q.costs.bound, "%g of %g", q.costs.left, q.costs.bound);
        left[groups] = q.costs.left;
    }
    cr_expect(left[1] < 0.95 * left[0] && left[1] > 0.5 * left[0], "%g, in smaller groups %g", left[0], left[1]);
}

/* Scales that are codes take half the bits of those that are not, and what that saves may be spent. */
Test(costs, what_scales_save_may_be_spent)
{
    for (int fine = 0; fine < 2; fine++) {
        q = (Quantization){.mem = &w.mem, .form = {.code = DT_u4, .fine = fine == 1, .group = 32}};
        cr_expect_float_eq(weight_bits(&q.form), fine ? 4.25 : 4.5, 1e-9);
        spare(0.2);
        const LayerCodes *heard = codes_find(&q, "heard/MatMul:0");
        cr_expect_eq(heard->form.code, fine ? DT_i8 : DT_u4);
    }
}

Test(costs, weights_that_outputs_hear_keep_eight_bits)
{
    q.form = (WeightForm){.code = DT_f8e5m2, .group = 32};
    spare(1);
    const LayerCost *heard = cost_find(&q, "heard/MatMul:0"), *hushed = cost_find(&q, "hushed/MatMul:0"), *last = cost_find(&q, "last/MatMul:0");
    cr_assert(heard && hushed && last && !cost_find(&q, "few/MatMul:0"));
    cr_expect(heard->spared && !hushed->spared && !last->spared, "the place of the last one decides");
    cr_expect(heard->cost > 100 * hushed->cost && heard->cost > 10 * last->cost, "%g %g %g", heard->cost, hushed->cost, last->cost);
    cr_expect(q.costs.known && q.costs.left <= q.costs.bound, "%g of %g", q.costs.left, q.costs.bound);
    const LayerCodes *eight = codes_find(&q, "heard/MatMul:0"), *few = codes_find(&q, "hushed/MatMul:0");
    cr_expect(eight->form.code == DT_i8 && eight->form.group == 32 && eight->codes.code->type == DT_i8 && eight->sqnr > 40);
    cr_expect(few->form.code == DT_f8e5m2 && few->sqnr < 30);
}

/* A folder of samples, of which the last is times `loud`. */
static char *samples_in_files(float loud)
{
    enum { FILES = HELD_OUT, HEADER = 118 };
    char *folder = arena_text(&w.mem, "/tmp/octet-costs-XXXXXX", 23);
    cr_assert(mkdtemp(folder));
    for (int i = 0; i < FILES; i++) {
        const Tensor *x = tensor_random(&w.mem, DT_f32, 2, (int64_t[]){16, 64}, (uint32_t)i + 1);
        FILE *f = fopen(arena_printf(&w.mem, "%s/%d.npy", folder, i), "wb");
        cr_assert(f);
        fprintf(f, "\x93NUMPY\x01%c%c%c%-*s\n", 0, HEADER, 0, HEADER - 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (16, 64), }");
        for (int64_t k = 0; k < tensor_count(x); k++) {
            float v = ((const float *)x->data)[k] * (i == FILES - 1 ? loud : 1);
            fwrite(&v, sizeof v, 1, f);
        }
        fclose(f);
    }
    return folder;
}

/* What is fitted to samples costs less on them than on others. */
Test(costs, samples_that_weights_were_fitted_to_say_nothing_of_their_costs)
{
    const char *folder = samples_in_files(0);
    for (int fitted = 0; fitted <= 1; fitted++) {
        q = (Quantization){.mem = &w.mem, .form = {.code = DT_i4, .group = 32}, .weights = weight_method_find(fitted ? "gptq" : "rtn")};
        spare_by(samples_open(&w.mem, folder, NULL, &w.diag), 1);
        cr_expect_eq(cost_find(&q, "heard/MatMul:0")->spared, !fitted, "the one held out is all zeros");
        cr_expect(q.costs.scores, "that all scores are equal there does not make them numbers");
    }
    for (int i = 0; i < HELD_OUT; i++) remove(arena_printf(&w.mem, "%s/%d.npy", folder, i));
    remove(folder);
}
