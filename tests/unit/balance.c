/* Gains of input channels: the balanced graph computes the same, divisions go into constants where there are any, and codes follow. */
#include "passes/balance.h"
#include "tests/unit/worlds.h"

static World w;
static Quantization q;
static void setup(void)
{
    world_open(&w);
    q = (Quantization){.mem = &w.mem};
}
static void teardown(void) { world_close(&w); }
TestSuite(balance, .init = setup, .fini = teardown);

enum { CHANNELS = 4 };
static const float by[CHANNELS] = {0.5f, 2, 3, 0.25f};

static const Node *node_named(const Graph *g, const char *name)
{
    for (uint32_t i = 0; i < g->node.n; i++)
        if (!strcmp(g->node.at[i].loc->node, name)) return &g->node.at[i];
    cr_assert_fail("no node %s", name);
    return NULL;
}

static LayerCodes *code_layer(const Graph *g, const char *name, WeightForm f)
{
    const Node *n = node_named(g, name);
    WeightMatrix m = weight_matrix(g, n, &w.mem);
    WeightCodes c = weight_method_find("rtn")->find(&m, &f, NULL, &w.mem);
    static const float lost[CHANNELS] = {1, 2, 3, 4};
    const char *tensor = tensor_name(g, n->out, &w.mem);
    codes_set(&q, (LayerCodes){.tensor = tensor, .codes = weight_tensors(&m, &c, &w.mem), .lost = arena_copy(&w.mem, lost, sizeof lost)});
    return (LayerCodes *)(uintptr_t)codes_find(&q, tensor);
}

static uint32_t count(const Graph *g, const char *op)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->node.n; i++) n += node_is(&g->node.at[i], op);
    return n;
}

/* The readers get gains for what they read; yields the balanced graph, which must compute what g does. */
static Graph *balanced(const char *text, const char *const *readers, uint32_t n)
{
    Graph *g = graph_parse(&w.module, &w.mem, text);
    const char *why;
    cr_assert(g);
    Val x = node_in(g, node_named(g, readers[0]), 0);
    for (uint32_t i = 0; i < n; i++) code_layer(g, readers[i], (WeightForm){.code = DT_i8});
    vec_push(&w.mem, &q.gains, (Gains){x, CHANNELS, by});
    Graph *b = graph_balanced(g, &q, &w.mem);
    cr_assert(graph_verify(b, &why), "%s", why);
    for (uint32_t i = 0; i < b->node.n; i++) cr_expect(b->node.at[i].loc, "node %u comes from nowhere", i);
    const Type *in = val_type(g, g->input.at[0]);
    int64_t dim[MAX_RANK];
    for (int d = 0; d < in->rank; d++)
        if (!dim_is_const(w.module.dim, in->dim[d], &dim[d])) dim[d] = 3;
    const Tensor *data = tensor_random(&w.mem, DT_f32, in->rank, dim, 7), **was = graph_folded(&w, g, data, NULL, NULL), **is = graph_folded(&w, b, data, NULL, NULL);
    for (uint32_t o = 0; o < g->output.n; o++)
        for (int64_t i = 0; i < tensor_count(was[o]); i++)
            cr_assert_float_eq(((const float *)was[o]->data)[i], ((const float *)is[o]->data)[i], 1e-4, "output %u, element %ld", o, (long)i);
    return b;
}

#define W44 "const f32[4,4] {1, 2, -3, 4, 0.5, 6, 7, -8, 1, 1, 2, 3, -2, 0.25, 1, 5}"

Test(balance, a_norm_takes_the_division)
{
    const char *const readers[] = {"q", "k"};
    Graph *b = balanced("graph \"g\" (%1 \"x\": f32[N,4]) -> (%8 \"y\", %9 \"z\") { %2 = " W44 " \"wq\" %3 = const f32[4,2] {1, 2, 3, 4, -1, 5, 6, 7} \"wk\""
                        " %4 = const f32[4] {1, 2, 3, 4} \"gamma\" %5 = const f32[4] {0.1, 0.2, -0.3, 0.4} \"beta\""
                        " %6 = Mul(%1, %4) ; \"scale\" #0 %7 = Add(%6, %5) ; \"shift\" #1"
                        " %8 = MatMul(%7, %2) ; \"q\" #2 %9 = MatMul(%7, %3) ; \"k\" #3 }", readers, 2);
    cr_expect(b->node.n == 4 && count(b, "Mul") == 1);
}

Test(balance, a_product_before_takes_it_with_its_codes)
{
    const char *const readers[] = {"down"};
    static const char text[] = "graph \"g\" (%1 \"x\": f32[N,4]) -> (%9 \"y\") { %2 = " W44 " \"up\" %3 = const f32[4,4] {2, 1, 1, 1, 3, 1, 1, -1, 1, 1, 4, 1, 1, 2, 1, 1} \"gate\" %4 = " W44 " \"down\""
                               " %5 = MatMul(%1, %2) ; \"up\" #0 %6 = MatMul(%1, %3) ; \"gate\" #1 %7 = Sigmoid(%6) ; \"act\" #2"
                               " %8 = Mul(%7, %5) ; \"times\" #3 %9 = MatMul(%8, %4) ; \"down\" #4 }";
    static const WeightForm form[] = {{.code = DT_i8}, {.code = DT_u4, .asymmetric = true, .fine = true, .group = 4}};
    for (int f = 0; f < 2; f++) {
        q = (Quantization){.mem = &w.mem};
        Graph *g = graph_parse(&w.module, &w.mem, text);
        cr_assert(g);
        const LayerCodes *up = code_layer(g, "up", form[f]);
        float was[CHANNELS];
        memcpy(was, up->codes.scale->data, sizeof was);
        Graph *b = balanced(text, readers, 1);
        cr_expect(b->node.n == 5);
        up = codes_find(&q, tensor_name(g, node_named(g, "up")->out, &w.mem));
        const float *is = up->codes.scale->data;
        for (int c = 0; c < CHANNELS; c++) {
            cr_expect_float_eq(is[c], was[c] / by[c], 1e-7);
            cr_expect_float_eq(up->lost[c], (float)(c + 1) / by[c], 1e-6);
            if (!form[f].fine) continue;
            float shipped = (float)((const uint8_t *)up->codes.scale_code->data)[c] * ((const float *)up->codes.scale_of->data)[c];
            cr_expect_float_eq(shipped, is[c], 1e-6, "channel %d: %g, not %g", c, shipped, is[c]);
        }
    }
}

/* Nothing before can take it: an activation, an input of the model, a value that others read. */
Test(balance, otherwise_one_multiplication_is_added)
{
    const char *const readers[] = {"m"};
    Graph *b = balanced("graph \"g\" (%1 \"x\": f32[N,4]) -> (%5 \"y\") { %2 = " W44 " \"w\" %3 = Mul(%1, %1) ; \"square\" #0"
                        " %4 = Sigmoid(%3) ; \"act\" #1 %5 = MatMul(%4, %2) ; \"m\" #2 }", readers, 1);
    cr_expect(b->node.n == 4 && count(b, "Mul") == 2);
    q = (Quantization){.mem = &w.mem};
    b = balanced("graph \"g\" (%1 \"x\": f32[N,4]) -> (%3 \"y\") { %2 = " W44 " \"w\" %3 = MatMul(%1, %2) ; \"m\" #0 }", readers, 1);
    cr_expect(b->node.n == 2);
    q = (Quantization){.mem = &w.mem};
    b = balanced("graph \"g\" (%1 \"x\": f32[N,4]) -> (%5 \"y\", %4 \"z\") { %2 = " W44 " \"w\" %3 = const f32[4] {1, 2, 3, 4} \"gamma\""
                 " %4 = Mul(%1, %3) ; \"scale\" #0 %5 = MatMul(%4, %2) ; \"m\" #1 }", readers, 1);
    cr_expect(b->node.n == 3);
}

Test(balance, convolutions_and_their_biases_take_it)
{
    const char *const readers[] = {"second"};
    Graph *b = balanced("graph \"g\" (%1 \"x\": f32[N,2,3,3]) -> (%6 \"y\") { %2 = const f32[4,2,1,1] {1, 2, 3, 4, 5, -6, 7, 8} \"w\" %3 = const f32[4] {1, 2, 3, 4} \"bias\""
                        " %4 = const f32[1,4,2,2] {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 9, 8, -7, 6} \"v\" %5 = Conv(%1, %2, %3) ; \"first\" #0"
                        " %6 = Conv(%5, %4) ; \"second\" #1 }", readers, 1);
    cr_expect(b->node.n == 2);
}

/* What an LSTM's two directions multiply with comes from one node of the model: their codes are not one. */
Test(balance, layers_of_one_node_have_codes_of_their_own)
{
    Graph *g = graph_parse(&w.module, &w.mem, "graph \"g\" (%1 \"x\": f32[N,4]) -> (%6 \"y\") { %2 = " W44 " \"f\" %3 = const f32[4,4] {2, 1, 1, 1, 3, 1, 1, -1, 1, 1, 4, 1, 1, 2, 1, 1} \"b\""
                           " %4 = MatMul(%1, %2) ; \"rnn\" #3 %5 = MatMul(%1, %3) ; \"rnn\" #3 %6 = Add(%4, %5) ; \"sum\" #4 }");
    cr_assert(g);
    const char *one = tensor_name(g, g->node.at[0].out, &w.mem), *two = tensor_name(g, g->node.at[1].out, &w.mem);
    cr_expect(strcmp(one, two) != 0, "%s", one);
    for (int i = 0; i < 2; i++) {
        Layer note;
        layer_codes(g, &g->node.at[i], &q, (WeightForm){.code = DT_i8}, &note);
    }
    const Quantization copy = q;
    cr_expect(codes_find(&copy, one) && codes_find(&copy, two) && codes_find(&copy, one)->codes.code != codes_find(&copy, two)->codes.code);
}

/* Layers that stay float read what they always did. */
Test(balance, gains_that_nobody_reads_do_nothing)
{
    Graph *g = graph_parse(&w.module, &w.mem, "graph \"g\" (%1 \"x\": f32[N,4]) -> (%3 \"y\") { %2 = " W44 " \"w\" %3 = MatMul(%1, %2) ; \"m\" #0 }");
    cr_assert(g);
    q.keep = "^m$";
    vec_push(&w.mem, &q.gains, ((Gains){g->input.at[0], CHANNELS, by}));
    cr_expect(graph_balanced(g, &q, &w.mem)->node.n == 1);
}
