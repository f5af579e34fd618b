/* Streams of RMS norms are turned: the graph computes the same, large channels are gone where products read, and what cannot take a turn is
 * given, or gives, the stream as it was by one product more. */
#include "passes/passes.h"
#include "passes/quantize.h"
#include "tests/unit/worlds.h"

static World w;
static void setup(void) { world_open(&w); }
static void teardown(void) { world_close(&w); }
TestSuite(rotate, .init = setup, .fini = teardown);

enum { CHANNELS = 96, INNER = 640, TOKENS = 5, WORDS = 11 };

static uint32_t seed;
static Val numbers(Graph *g, int64_t rows, int64_t columns, float by)
{
    Tensor *t = (Tensor *)(uintptr_t)tensor_random(&w.mem, DT_f32, rows ? 2 : 1, rows ? (int64_t[]){rows, columns} : (int64_t[]){columns}, ++seed);
    for (int64_t i = 0, n = tensor_count(t); i < n; i++) ((float *)(uintptr_t)t->data)[i] *= by;
    return graph_const(g, t, NULL);
}

static Val ints(Graph *g, int64_t v) { return graph_const(g, tensor_ints(&w.mem, &v, 1), NULL); }

/* Two ways of writing the norm, with gains. */
static Val norm(Graph *g, const Loc *loc, Val x, bool whole)
{
    Val gain = numbers(g, 0, CHANNELS, 1), eps = graph_const(g, tensor_scalar(&w.mem, DT_f32, 1e-5), NULL);
    if (whole) return emit(g, "RMSNormalization", loc, 2, x, gain);
    Val mean = emit(g, "ReduceMean", loc, 2, emit(g, "Mul", loc, 2, x, x), ints(g, -1));
    return emit(g, "Mul", loc, 2, emit(g, "Div", loc, 2, x, emit(g, "Sqrt", loc, 1, emit(g, "Add", loc, 2, mean, eps))), gain);
}

/* Words or an input, two blocks of product, sigmoid, product, bias and addition, and a head behind the last norm. */
static Graph *model(bool words, bool tied, bool whole, bool shown)
{
    static const Loc loc = {.node = "n"};
    Graph *g = graph_new(&w.module, &w.mem, "g");
    Type t = {.dtype = words ? DT_i64 : DT_f32, .rank = words ? 1 : 2, .dim = {dim_const(w.module.dim, TOKENS), dim_const(w.module.dim, CHANNELS)}};
    Val in = graph_input(g, "x", t), table = numbers(g, WORDS, CHANNELS, 1), x = words ? emit(g, "Gather", &loc, 2, table, in) : in;
    seed = 5;
    for (int i = 0; i < 2; i++) {
        Val y = norm(g, &loc, x, whole), up = emit(g, "MatMul", &loc, 2, y, numbers(g, CHANNELS, INNER, 0.2f));
        Val gate = emit(g, "Sigmoid", &loc, 1, emit(g, "MatMul", &loc, 2, y, numbers(g, CHANNELS, INNER, 0.2f)));
        Val down = emit(g, "MatMul", &loc, 2, emit(g, "Mul", &loc, 2, up, gate), numbers(g, INNER, CHANNELS, 0.2f));
        x = emit(g, "Add", &loc, 2, x, emit(g, "Add", &loc, 2, down, numbers(g, 0, CHANNELS, 1)));
    }
    Val head = tied ? emit(g, "Transpose", &loc, 1, table) : numbers(g, CHANNELS, WORDS, 1);
    graph_output(g, emit(g, "MatMul", &loc, 2, norm(g, &loc, x, whole), head), "y");
    if (shown) graph_output(g, x, "stream");
    return g;
}

static Graph *rotated(const Graph *g)
{
    Arena scratch = {0};
    Quantization q = {.mem = &w.mem, .rotate = true};
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &scratch, .quant = &q};
    Graph *r = pass_rotate(g, &ctx);
    const char *why;
    cr_assert(graph_verify(r, &why), "%s", why);
    for (uint32_t i = 0; i < r->node.n; i++) cr_expect(r->node.at[i].loc, "node %u comes from nowhere", i);
    arena_drop(&scratch);
    return r;
}

/* Of what products multiply: the largest element over the root mean square. */
static void see_peak(void *ctx, const Graph *out, const Node *n, const Val *arg)
{
    double *peak = ctx, most = 0, squares = 0;
    const Tensor *t = node_is(n, "MatMul") ? graph_val(out, arg[0])->konst : NULL;
    if (!t || t->dim[t->rank - 1] != CHANNELS || val_type(out, arg[1])->dim[1].id == val_type(out, arg[1])->dim[0].id) return; /* R itself */
    for (int64_t c = 0; c < tensor_count(t); c++) {
        double v = (double)((const float *)t->data)[c];
        most = fmax(most, fabs(v)), squares += v * v;
    }
    *peak = fmax(*peak, most / sqrt(squares / (double)tensor_count(t)));
}

static uint32_t products(const Graph *g)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->node.n; i++) n += node_is(&g->node.at[i], "MatMul");
    return n;
}

static const Tensor *input_of(bool words)
{
    Tensor *t = words ? tensor_new(&w.mem, DT_i64, 1, (int64_t[]){TOKENS})
                      : (Tensor *)(uintptr_t)tensor_random(&w.mem, DT_f32, 2, (int64_t[]){TOKENS, CHANNELS}, 3);
    for (int i = 0; i < TOKENS; i++)
        if (words) ((int64_t *)(uintptr_t)t->data)[i] = i * 7 % WORDS;
        else ((float *)(uintptr_t)t->data)[i * CHANNELS + 17] = 60; /* a channel that is much larger */
    return t;
}

/* added: products beyond those that were there */
static void computes_the_same(bool words, bool tied, bool whole, bool shown, uint32_t added)
{
    Graph *g = model(words, tied, whole, shown), *r = rotated(g);
    double before = 0, after = 0;
    const Tensor *x = input_of(words), **was = graph_folded(&w, g, x, see_peak, &before), **is = graph_folded(&w, r, x, see_peak, &after);
    for (uint32_t o = 0; o < g->output.n; o++)
        for (int64_t i = 0; i < tensor_count(was[o]); i++) {
            float a = ((const float *)was[o]->data)[i], b = ((const float *)is[o]->data)[i];
            cr_assert_float_eq(a, b, 2e-3f + 1e-4f * fabsf(a), "output %u, element %ld: %g, not %g", o, (long)i, (double)b, (double)a);
        }
    cr_expect(products(r) == products(g) + added, "%u products more", products(r) - products(g));
    if (!words) cr_expect(before > 5 && after < 4, "largest over root mean square: %g, was %g", after, before);
}

Test(rotate, all_weights_take_it) { computes_the_same(true, false, false, false, 0); }
Test(rotate, norms_that_are_one_operator) { computes_the_same(true, false, true, false, 0); }
Test(rotate, a_table_that_is_the_head_too_stays) { computes_the_same(true, true, false, false, 2); }
Test(rotate, large_channels_are_spread) { computes_the_same(false, false, false, false, 1); }
Test(rotate, a_stream_that_is_an_output_is_turned_back) { computes_the_same(true, false, false, true, 1); }
