/* Cross-layer equalization: the graph computes the same, and weights that make a channel are as large as those that read it. */
#include "frontend/judge.h"
#include "passes/balance.h"
#include "passes/passes.h"
#include "passes/quantize.h"
#include "tests/unit/worlds.h"

static World w;
static void setup(void) { world_open(&w); }
static void teardown(void) { world_close(&w); }
TestSuite(equalize, .init = setup, .fini = teardown);

enum { CHANNELS = 8 };

/* Weights whose output channels (by 4^o) and input channels (by 3^-i) are of very different sizes. */
static Val uneven(Graph *g, int rank, const int64_t *dim, uint32_t seed)
{
    Tensor *t = (Tensor *)(uintptr_t)tensor_random(&w.mem, DT_f32, rank, dim, seed);
    int64_t inner = tensor_count(t) / (dim[0] * dim[1]);
    for (int64_t i = 0, n = tensor_count(t); i < n; i++)
        ((float *)(uintptr_t)t->data)[i] *= (float)(pow(4, (double)(i / inner / dim[1] % 5)) * pow(3, -(double)(i / inner % dim[1] % 5)));
    return graph_const(g, t, NULL);
}

static Val conv(Graph *g, Val x, int64_t in, int64_t out, int64_t kernel, uint32_t seed)
{
    static const Loc loc = {.node = "conv"};
    Tensor *b = (Tensor *)(uintptr_t)tensor_random(&w.mem, DT_f32, 1, &out, seed + 90);
    return emit(g, "Conv", &loc, 3, x, uneven(g, 4, (int64_t[]){out, in, kernel, kernel}, seed), graph_const(g, b, NULL));
}

/* Three convolutions; between the first two what keeps a factor, between the last two `between`. */
static Graph *model(const char *between)
{
    static const Loc loc = {.node = "act"};
    Graph *g = graph_new(&w.module, &w.mem, "g");
    Type t = {.dtype = DT_f32, .rank = 4, .dim = {dim_const(w.module.dim, 2), dim_const(w.module.dim, CHANNELS), dim_const(w.module.dim, 9), dim_const(w.module.dim, 9)}};
    Val x = conv(g, graph_input(g, "x", t), CHANNELS, CHANNELS, 3, 1);
    const OpDef *pool = op_find("", "MaxPool");
    Attr *attr = op_attr_defaults(&w.mem, pool);
    attr_set_ints(pool, attr, "kernel_shape", (int64_t[]){2, 2}, 2);
    x = emit(g, "Relu", &loc, 1, x);
    x = conv(g, graph_emit(g, pool, attr, &x, 1, 1, &loc, NULL), CHANNELS, CHANNELS, 3, 2);
    Val lo = graph_const(g, tensor_scalar(&w.mem, DT_f32, -0.5), NULL), hi = graph_const(g, tensor_scalar(&w.mem, DT_f32, 6), NULL);
    x = !strcmp(between, "Clip") ? emit(g, between, &loc, 3, x, lo, hi) : emit(g, between, &loc, 1, x);
    graph_output(g, conv(g, x, CHANNELS, CHANNELS, 1, 3), "y");
    return g;
}

/* The largest weight of output channel c, or of input channel c, of convolution number `which`. */
static double largest(const Graph *g, int which, int axis, int64_t c)
{
    for (uint32_t i = 0; i < g->node.n; i++) {
        if (!node_is(&g->node.at[i], "Conv") || which--) continue;
        const Tensor *t = graph_val(g, node_in(g, &g->node.at[i], 1))->konst;
        int64_t inner = tensor_count(t) / (t->dim[0] * t->dim[1]);
        double most = 0;
        for (int64_t k = 0; k < tensor_count(t); k++)
            if ((axis ? k / inner % t->dim[1] : k / inner / t->dim[1]) == c) most = fmax(most, fabs((double)((const float *)t->data)[k]));
        return most;
    }
    cr_assert_fail("no such convolution");
    return 0;
}

static double unevenness(const Graph *g, int pair)
{
    double most = 0;
    for (int64_t c = 0; c < CHANNELS; c++) most = fmax(most, fabs(log(largest(g, pair, 0, c) / largest(g, pair + 1, 1, c))));
    return most;
}

/* pairs: how many of the two become even */
static void equalizes(const char *between, int pairs)
{
    Arena scratch = {0};
    Quantization q = {.mem = &w.mem, .equalize = true};
    Graph *g = model(between);
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &scratch, .quant = &q};
    const char *why;
    Graph *e = pass_equalize(g, &ctx);
    cr_assert(graph_verify(e, &why), "%s", why);
    for (int pair = 0; pair < 2; pair++) {
        cr_expect(unevenness(g, pair) > 1);
        if (pair < pairs) cr_expect(unevenness(e, pair) < 0.02, "%s, pair %d: %g", between, pair, unevenness(e, pair));
    }
    const Tensor *x = tensor_random(&w.mem, DT_f32, 4, (int64_t[]){2, CHANNELS, 9, 9}, 7), *was = *graph_folded(&w, g, x, NULL, NULL), *is = *graph_folded(&w, e, x, NULL, NULL);
    double largest_value = 0;
    for (int64_t i = 0; i < tensor_count(was); i++) largest_value = fmax(largest_value, fabs((double)((const float *)was->data)[i]));
    for (int64_t i = 0; i < tensor_count(was); i++)
        cr_assert_float_eq(((const float *)was->data)[i], ((const float *)is->data)[i], 1e-5 * largest_value, "%s, element %ld", between, (long)i);
    arena_drop(&scratch);
}

Test(equalize, channels_become_even_through_what_keeps_a_factor) { equalizes("Relu", 2), equalizes("LeakyRelu", 2); }
Test(equalize, bounds_are_divided_channel_by_channel) { equalizes("Clip", 2); }
Test(equalize, other_functions_stop_it) { equalizes("Sigmoid", 1); }

/* ---- judging: on numbers that chose nothing ---- */
static Graph *even(void *ctx, const Graph *g, Rewriting kind, Quantization *q, Arena *mem)
{
    PassCtx passes = {.module = &w.module, .mem = mem, .scratch = &w.scratch, .quant = q};
    (void)ctx, (void)kind;
    return pass_equalize(g, &passes);
}

/* Makes one channel of the first value between two layers a thousand times as large as the others, unless it is to be left. */
static Graph *spoiled(void *ctx, const Graph *g, Rewriting kind, Quantization *q, Arena *mem)
{
    float by[CHANNELS];
    Quantization own = *q;
    const Node *second = ctx;
    const char *x = tensor_name(g, node_in(g, second, 0), &w.mem);
    (void)kind;
    q->pair.n = 0, own.gains.at = NULL, own.gains.n = own.gains.cap = 0;
    for (int c = 0; c < CHANNELS; c++) by[c] = c == 3 ? 1e-3F : 1;
    if (!q->uneven.n || strcmp(q->uneven.at[0], x)) {
        EqualPair p = {.x = x};
        vec_push(&w.mem, &own.gains, ((Gains){node_in(g, second, 0), CHANNELS, by}));
        vec_push(&w.mem, &p.layer, tensor_name(g, second->out, &w.mem));
        vec_push(&w.mem, &q->pair, p);
    }
    return graph_balanced(g, &own, mem);
}

static CalibrateOptions numbers(void)
{
    CalibrateOptions o = {.samples = samples_open(&w.mem, "random:8", NULL, &w.diag), .threads = 2, .quiet = true};
    cr_assert(o.samples);
    return o;
}

static const Node *product(const Graph *g, int which)
{
    for (uint32_t i = 0; i < g->node.n; i++)
        if (node_is(&g->node.at[i], "Conv") && !which--) return &g->node.at[i];
    cr_assert_fail("no such convolution");
    return NULL;
}

Test(equalize, layers_are_judged_before_and_after)
{
    Quantization q = {.mem = &w.mem, .equalize = true};
    CalibrateOptions o = numbers();
    Graph *g = model("Relu");
    cr_assert(judge_rewritings(g, &q, even, NULL, &o, &w.diag), "%s", w.diag.line.n ? w.diag.line.at[0] : "");
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        const LayerTried *t = rewritings_find(&q, tensor_name(g, product(g, i)->out, &w.mem));
        cr_assert(t && t->by[REWRITING_EQUALIZE].judged && !t->by[REWRITING_ROTATE].judged);
        cr_expect(t->by[REWRITING_EQUALIZE].before > 0 && t->by[REWRITING_EQUALIZE].after > 5, "layer %d: %g, %g dB", i, t->by[REWRITING_EQUALIZE].before, t->by[REWRITING_EQUALIZE].after);
        if (t->by[REWRITING_EQUALIZE].taken) sum += t->by[REWRITING_EQUALIZE].after - t->by[REWRITING_EQUALIZE].before;
    }
    cr_expect(sum >= 0 && (sum > 3 || q.uneven.n), "%g dB, %u left", sum, q.uneven.n);
    samples_close(o.samples);
}

Test(equalize, what_loses_falls_back)
{
    Quantization q = {.mem = &w.mem, .equalize = true, .rotate = true};
    CalibrateOptions o = numbers();
    Graph *g = model("Relu");
    const Node *second = product(g, 1);
    cr_assert(judge_rewritings(g, &q, spoiled, (void *)(uintptr_t)second, &o, &w.diag), "%s", w.diag.line.n ? w.diag.line.at[0] : "");
    const LayerTried *t = rewritings_find(&q, tensor_name(g, second->out, &w.mem));
    cr_assert(t && q.uneven.n == 1 && q.equalize && !t->by[REWRITING_EQUALIZE].taken);
    cr_expect(t->by[REWRITING_EQUALIZE].after < t->by[REWRITING_EQUALIZE].before - 10);
    q.uneven.n = 0, q.equalize = false, q.rotate = true;
    cr_assert(judge_rewritings(g, &q, spoiled, (void *)(uintptr_t)second, &o, &w.diag));
    cr_expect(!q.rotate && !t->by[REWRITING_ROTATE].taken && t->by[REWRITING_ROTATE].judged);
    samples_close(o.samples);
}

/* What is to be left is left, and the pass says what it did. */
Test(equalize, pairs_are_told_and_left)
{
    Arena scratch = {0};
    Quantization q = {.mem = &w.mem, .equalize = true};
    Graph *g = model("Relu");
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &scratch, .quant = &q};
    pass_equalize(g, &ctx);
    cr_assert_eq(q.pair.n, 2);
    for (uint32_t i = 0; i < 2; i++) cr_expect_eq(q.pair.at[i].layer.n, 2);
    vec_push(&w.mem, &q.uneven, q.pair.at[0].x);
    Graph *e = pass_equalize(g, &ctx);
    cr_expect(q.pair.n == 1 && strcmp(q.pair.at[0].x, q.uneven.at[0]) != 0);
    cr_expect(unevenness(e, 0) > 1 && unevenness(e, 1) < 0.02);
    arena_drop(&scratch);
}
