/* Gains for the channels of values (SmoothQuant): where they are found, where they are not, and that the graph stays the same. */
#include "passes/smooth.h"
#include "passes/balance.h"
#include "tests/unit/worlds.h"

static World w;
static void setup(void) { world_open(&w); }
static void teardown(void) { world_close(&w); }
TestSuite(smooth, .init = setup, .fini = teardown);

enum { CHANNELS = 24, OUTPUTS = 80, ROWS = 200 };

static WeightMatrix layer(uint32_t seed)
{
    int64_t dim[] = {CHANNELS, OUTPUTS};
    Graph *g = graph_new(&w.module, &w.mem, "g");
    Val x = graph_input(g, "x", (Type){.dtype = DT_f32, .rank = 2, .dim = {dim_const(w.module.dim, ROWS), dim_const(w.module.dim, CHANNELS)}}),
        k = graph_const(g, tensor_random(&w.mem, DT_f32, 2, dim, seed), "w");
    static const Loc here = {.node = "m", .op = "MatMul"};
    Val y = emit(g, "MatMul", &here, 2, x, k);
    return weight_matrix(g, &g->node.at[graph_val(g, y)->def], &w.mem);
}

/* Rows in which one channel is `by` times as large as the others. */
static void offer(KeptRows *k, int set, int channel, float by, uint32_t seed)
{
    int64_t dim[] = {ROWS, CHANNELS};
    Tensor *t = tensor_random(&w.mem, DT_f32, 2, dim, seed);
    for (int r = 0; r < ROWS; r++) ((float *)(uintptr_t)t->data)[r * CHANNELS + channel] *= by;
    kept_rows_add(k, set, t->data, ROWS, ROWS);
}

static Smoothing found(float chosen, float judged, int judged_channel, float *gain)
{
    WeightMatrix m[2] = {layer(1), layer(2)};
    const WeightMatrix *at[] = {&m[0], &m[1]};
    WeightForm f[2] = {{.code = DT_i8}, {.code = DT_i8}};
    KeptRows *k = kept_rows_new(CHANNELS, &w.mem);
    offer(k, 0, 3, chosen, 7), offer(k, 1, judged_channel, judged, 8);
    return smooth_find(at, f, 2, k, SMOOTH_FREE, gain);
}

Test(smooth, a_large_channel_is_divided)
{
    float gain[CHANNELS];
    Smoothing s = found(60, 60, 3, gain);
    cr_assert(s.any);
    cr_expect(s.smooth > s.plain + 6, "%g dB, without gains %g dB", s.smooth, s.plain);
    double log_gain = 0;
    for (int c = 0; c < CHANNELS; c++) {
        cr_expect(c == 3 || gain[3] > 3 * gain[c], "channel %d", c);
        log_gain += log(gain[c]);
    }
    cr_expect(fabs(log_gain) < 1e-3, "the mean of the gains is 1");
}

Test(smooth, channels_that_are_alike_are_left_alone)
{
    float gain[CHANNELS];
    cr_expect(!found(1, 1, 3, gain).any);
    for (int c = 0; c < CHANNELS; c++) cr_expect(gain[c] == 1);
}

Test(smooth, what_does_not_hold_for_other_rows_is_not_done)
{
    float gain[CHANNELS];
    Smoothing s = found(60, 1, 5, gain);
    cr_expect(!s.any, "%g dB, without gains %g dB", s.smooth, s.plain);
    for (int c = 0; c < CHANNELS; c++) cr_expect(gain[c] == 1);
}

Test(smooth, few_rows_say_nothing)
{
    float gain[CHANNELS], row[CHANNELS] = {1, 100};
    WeightMatrix m = layer(1);
    const WeightMatrix *at = &m;
    WeightForm f = {.code = DT_i8};
    KeptRows *k = kept_rows_new(CHANNELS, &w.mem);
    for (int set = 0; set < SMOOTH_SETS; set++) kept_rows_add(k, set, row, 1, 1);
    Smoothing s = smooth_find(&at, &f, 1, k, SMOOTH_FREE, gain);
    cr_expect(!s.any && isnan(s.plain) && gain[1] == 1);
}

/* Rows are taken from all over a sample, infinite ones are not, and extremes are of all that were offered. */
Test(smooth, rows_are_kept_from_everywhere)
{
    float x[ROWS];
    KeptRows *k = kept_rows_new(1, &w.mem);
    for (int r = 0; r < ROWS; r++) x[r] = (float)r;
    x[50] = INFINITY;
    kept_rows_add(k, 0, x, ROWS, 20);
    cr_assert(k->rows[0] >= 19 && k->lo[0] == 0 && k->hi[0] == ROWS - 1);
    for (int64_t r = 0; r < k->rows[0]; r++) {
        cr_expect(isfinite(k->row[0][r]));
        cr_expect(r == 0 || k->row[0][r] > k->row[0][r - 1]);
    }
    for (int i = 0; i < 10; i++) kept_rows_add(k, 1, x, ROWS, ROWS);
    cr_expect(k->rows[1] == k->room[1], "no more than there is room for");
}

/* Gains live with ranges, by name, and a graph takes those that fit it. */
/* A product finds its channels along the last axis, a convolution along the second. */
Test(smooth, an_image_has_no_gains)
{
    for (int images = 0; images < 2; images++) {
        static const Loc here = {.node = "m", .op = "MatMul"};
        static float gain[CHANNELS];
        Graph *g = graph_new(&w.module, &w.mem, "g");
        Type t = type_of_tensor(&w.module, tensor_new(&w.mem, DT_f32, 3, (int64_t[]){1, 4, CHANNELS}));
        Val x = graph_input(g, "x", t),
            k = graph_const(g, tensor_random(&w.mem, DT_f32, 2, (int64_t[]){CHANNELS, OUTPUTS}, 1), NULL);
        graph_output(g, emit(g, "MatMul", &here, 2, x, k), "y");
        Val taps = graph_const(g, tensor_random(&w.mem, DT_f32, 3, (int64_t[]){8, 4, 1}, 2), NULL);
        if (images) graph_output(g, emit(g, "Conv", &here, 2, x, taps), "z");
        Quantization q = {.mem = &w.mem};
        Range *r = range_set(&q, "x", -1, 1);
        r->gain = gain, r->gains = CHANNELS;
        gains_of_ranges(g, &q);
        cr_expect_eq(q.gains.n, (uint32_t)!images);
    }
}

Test(smooth, gains_come_with_ranges)
{
    Quantization q = {.mem = &w.mem};
    Graph *g = graph_parse(&w.module, &w.mem, "graph \"g\" (%1 \"x\": f32[N,4]) -> (%6 \"y\", %7 \"z\") { %2 = const f32[4,2] {1, 2, 3, 4, -1, 5, 6, 7} \"w\""
                                              " %3 = const f32[4] {1, 2, 3, 4} \"gamma\" %4 = Mul(%1, %3) ; \"scale\" #0 %5 = Sigmoid(%4) ; \"act\" #1"
                                              " %6 = MatMul(%4, %2) ; \"m\" #2 %7 = MatMul(%5, %2) ; \"k\" #3 }");
    cr_assert(g);
    static const float by[] = {0.5f, 2, 3, 4};
    Range *r = range_set(&q, "scale/Mul:0", -1, 1);
    r->gain = by, r->gains = 4;
    r = range_set(&q, "act/Sigmoid:0", -1, 1);
    r->gain = by, r->gains = 3;
    gains_of_ranges(g, &q);
    cr_assert(q.gains.n == 1, "%u", q.gains.n);
    cr_expect(q.gains.at[0].channels == 4 && q.gains.at[0].by == by);
    bool folds[2];
    const Gains both[2] = {q.gains.at[0], {node_in(g, &g->node.at[3], 0), 4, by}};
    gains_fold(g, both, (const uint32_t[]){1, 1}, 2, folds);
    cr_expect(!folds[0], "the sigmoid reads it too");
    cr_expect(!folds[1], "no constant before a sigmoid takes it");
}
