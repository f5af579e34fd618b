/* A simulation computes the quantized model where switches are on and the float one where they are off, and regions that go back to
 * float are those that were asked for. */
#include "passes/simulate.h"
#include "frontend/budget.h"
#include "frontend/interpret.h"
#include "passes/passes.h"
#include "passes/quantize.h"
#include "tests/unit/worlds.h"

static World w;
static Quantization q;
static void setup(void) { world_open(&w), q = (Quantization){.mem = &w.mem}; }
static void teardown(void) { world_close(&w); }
TestSuite(simulate, .init = setup, .fini = teardown);

static const char three_layers[] = "graph \"g\" (%1 \"x\": f32[2,2]) -> (%8 \"y\") {"
                                   "  %2 = const f32[2,2] {1, 2, 3, 4} \"w\""
                                   "  %4 = const f32[2,2] {0.3, -0.7, 0.11, 0.9} \"w2\""
                                   "  %5 = MatMul(%1, %2) ; \"a\" #0"
                                   "  %6 = MatMul(%1, %4) ; \"a2\" #1"
                                   "  %7 = Relu(%5) ; \"act\" #2"
                                   "  %9 = MatMul(%7, %4) ; \"b\" #3"
                                   "  %8 = Add(%9, %6) ; \"sum\" #4 }";

static Graph *parsed(void)
{
    Graph *g = graph_parse(&w.module, &w.mem, three_layers);
    cr_assert(g);
    range_set(&q, "x", -1, 1), range_set(&q, "act/Relu:0", 0, 4);
    return g;
}

static Graph *quantized(const Graph *g, bool simulate, const bool *reverted)
{
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .quant = &q};
    q.simulate = simulate, q.reverted = reverted;
    memset(&q.layer, 0, sizeof q.layer);
    Graph *out = pass_quantize(g, &ctx);
    const char *why;
    cr_assert(graph_verify(out, &why), "%s", why);
    return out;
}

/* Of a graph of one input; switches: of its simulation, or NULL. */
static const float *computed(const Graph *g, const Tensor *x, const bool *switches)
{
    int *buf_of;
    Kernel *program = lower_graph(g, &w.mem, &buf_of);
    int64_t regions = q.regions;
    Tensor *s = tensor_new(&w.mem, DT_bool, 1, &regions);
    if (switches) memcpy((void *)(uintptr_t)s->data, switches, (size_t)regions);
    const Tensor *in[] = {x, s}, *out[1];
    cr_assert(program && interpret(g, program, &w.mem, in, out, &w.diag));
    return out[0]->data;
}

static const float *run(const Graph *g, const bool *switches)
{
    static const float data[] = {0.31f, -0.77f, 0.123f, 0.9f};
    return computed(g, &(Tensor){.type = DT_f32, .rank = 2, .dim = {2, 2}, .data = data}, switches);
}

Test(simulate, regions_share_what_they_read)
{
    quantized(region_places(parsed(), &w.mem), false, NULL);
    cr_expect(q.regions == 2 && q.located == 6);
    cr_expect(q.region_at[1] == 1 && q.region_at[2] == 1 && q.region_at[4] == 2);
    cr_expect_str_eq(q.region_reads[1], "x");
    cr_expect_str_eq(q.region_reads[2], "act/Relu:0");
    for (uint32_t i = 0; i < q.layer.n; i++)
        cr_expect(q.layer.at[i].region == (strcmp(q.layer.at[i].loc->node, "b") ? 1u : 2u), "%s",
                  q.layer.at[i].loc->node);
}

/* As products of an LSTM are, and of branches whose nodes are counted from 0 again. */
Test(simulate, times_tell_nodes_of_one_place_apart)
{
    static const Loc same = {.node = "n", .op = "LSTM", .index = 3};
    Graph *g = parsed();
    for (uint32_t i = 0; i < g->node.n; i++) g->node.at[i].loc = &same;
    range_set(&q, "n/Relu:0", 0, 4);
    const Graph *placed = region_places(g, &w.mem), *both[] = {quantized(placed, false, NULL), placed};
    cr_assert(q.regions == 2);
    for (int k = 0; k < 2; k++) {
        const Graph *labelled = region_labels(both[k], &q, &w.mem);
        int found[3] = {0};
        for (uint32_t i = 0; i < labelled->node.n; i++) {
            const Node *n = &labelled->node.at[i];
            if (strcmp(n->op->name, "MatMul")) continue;
            int region = !strcmp(n->loc->node, "#1") ? 1 : !strcmp(n->loc->node, "#2") ? 2 : 0;
            found[region]++;
        }
        cr_expect(found[0] == 0 && found[1] == 2 && found[2] == 1, "%d %d %d", found[0], found[1], found[2]);
    }
}

Test(simulate, switches_choose)
{
    Graph *g = parsed(), *simulation = quantized(g, true, NULL);
    cr_assert(simulation->input.n == 2 && q.regions == 2);
    for (int mask = 0; mask < 4; mask++) {
        bool on[2] = {mask & 1, mask >> 1}, reverted[3] = {false, !on[0], !on[1]};
        const float *got = run(simulation, on);
        const float *want = run(quantized(g, false, reverted), NULL);
        for (int i = 0; i < 4; i++)
            cr_expect_float_eq(got[i], want[i], 1e-5, "mask %d: %g, expected %g", mask, (double)got[i],
                               (double)want[i]);
    }
    bool none[2] = {false}, all[2] = {true, true};
    const float *plain = run(g, NULL), *off = run(simulation, none), *on = run(simulation, all);
    float apart = 0;
    for (int i = 0; i < 4; i++) {
        cr_expect_float_eq(off[i], plain[i], 1e-6);
        apart = fmaxf(apart, fabsf(on[i] - plain[i]));
    }
    cr_expect(apart > 1e-4f, "the quantized model is another one");
}

/* ---- a table that is looked up is a region, too ---- */
enum { WORDS = 512, WIDTH = 130, TEXT = 3, OUT = 4 };

static Graph *looked_up(void)
{
    static const Loc gather = {.node = "words", .op = "Gather", .index = 0}, product = {.node = "p", .op = "MatMul", .index = 1};
    Graph *g = graph_new(&w.module, &w.mem, "words");
    Type ids = {.dtype = DT_i64, .rank = 1, .dim = {dim_const(w.module.dim, TEXT)}};
    Val table = graph_const(g, tensor_random(&w.mem, DT_f32, 2, (int64_t[]){WORDS, WIDTH}, 5), "table"),
        weights = graph_const(g, tensor_random(&w.mem, DT_f32, 2, (int64_t[]){WIDTH, OUT}, 6), "w");
    Val x = emit(g, "Gather", &gather, 2, table, graph_input(g, "ids", ids));
    graph_output(g, emit(g, "MatMul", &product, 2, x, weights), "y");
    range_set(&q, "words/Gather:0", -2, 2), q.table.code = DT_i8;
    return g;
}

static Graph *coded(const Graph *g, bool simulate, const bool *reverted)
{
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .quant = &q};
    q.simulate = simulate, q.reverted = reverted;
    memset(&q.layer, 0, sizeof q.layer);
    return passes_run(g, &ctx, "quantize", simulate ? "codes" : NULL, &(PassRun){.verify = true});
}

static const float *look(const Graph *g, const bool *switches)
{
    static const int64_t ids[TEXT] = {7, 500, 7};
    return computed(g, &(Tensor){.type = DT_i64, .rank = 1, .dim = {TEXT}, .data = ids}, switches);
}

Test(simulate, tables_are_a_region)
{
    Graph *g = region_places(looked_up(), &w.mem), *simulation = coded(g, true, NULL);
    cr_assert(q.regions == 2 && q.tables == 2 && q.region_at[1] == 2 && q.region_at[2] == 1);
    const float *first = NULL;
    for (int mask = 0; mask < 4; mask++) {
        bool on[2] = {mask & 1, mask >> 1}, reverted[3] = {false, !on[0], !on[1]};
        const float *got = look(simulation, on), *want = look(coded(g, false, reverted), NULL);
        cr_expect(q.regions == 2 && q.tables == 2);
        for (int i = 0; i < TEXT * OUT; i++) cr_expect_float_eq(got[i], want[i], 1e-4, "mask %d: %g, expected %g", mask, (double)got[i], (double)want[i]);
        if (!mask) first = got;
        else cr_expect(memcmp(first, got, sizeof *got * TEXT * OUT), "mask %d: codes are other numbers", mask);
    }
}

/* As the graph that is written is, in which composites stay: its regions are others, of the same tensors or of none that was judged. */
Test(simulate, regions_are_known_in_another_graph)
{
    const Quantization here = {.regions = 4, .tables = 4, .region_reads = (const char *[]){NULL, "a", "b", "c", NULL}},
                       there = {.regions = 4, .tables = 4, .region_reads = (const char *[]){NULL, "c", "d", "a", NULL}};
    static const bool chosen[][5] = {{0, 1, 0, 0, 0}, {0, 0, 1, 1, 1}}, want[][5] = {{0, 0, 1, 1, 0}, {0, 1, 1, 0, 1}};
    for (int k = 0; k < 2; k++) {
        const bool *got = regions_elsewhere(&here, chosen[k], &there, &w.mem);
        cr_expect_arr_eq(got, want[k], sizeof want[k]);
    }
}

Test(simulate, reverted_regions_are_float)
{
    static const bool reverted[] = {false, true, false};
    quantized(parsed(), false, reverted);
    for (uint32_t i = 0; i < q.layer.n; i++) {
        const Layer *l = &q.layer.at[i];
        bool first = strcmp(l->loc->node, "b") != 0;
        cr_expect(l->state == (first ? LAYER_FLOAT : LAYER_INTEGER), "%s", l->loc->node);
        if (first) cr_expect(strstr(l->why, "--max-loss") && l->region == 1);
    }
}
