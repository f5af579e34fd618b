/* What every layer of a quantized model loses, alone and with all others, whatever the order in which the layers were noted. */
#include "frontend/layers.h"
#include "passes/passes.h"
#include "passes/quantize.h"
#include "tests/unit/worlds.h"

enum { LAYERS = 4, WIDTH = 32 };

static World w;
static Quantization q;
static void setup(void) { world_open(&w), q = (Quantization){.mem = &w.mem}; }
static void teardown(void) { world_close(&w); }
TestSuite(layers, .init = setup, .fini = teardown);

static Graph *chain(void)
{
    Graph *g = graph_new(&w.module, &w.mem, "chain");
    Type t = {.dtype = DT_f32, .rank = 2, .dim = {dim_const(w.module.dim, 3), dim_const(w.module.dim, WIDTH)}};
    Val x = graph_input(g, "x0", t);
    for (uint32_t i = 0; i < LAYERS; i++) {
        Loc *loc = NEW(&w.mem, Loc);
        *loc = (Loc){.node = arena_printf(&w.mem, "l%u", i), .op = "MatMul", .index = (int)i};
        range_set(&q, arena_printf(&w.mem, "x%u", i), -4, 4);
        x = emit(g, "MatMul", loc, 2, x, graph_const(g, tensor_random(&w.mem, DT_f32, 2, (int64_t[]){WIDTH, WIDTH}, i), NULL));
        x = emit(g, "Mul", loc, 2, x, graph_const(g, tensor_scalar(&w.mem, DT_f32, 0.15), NULL));
        graph_name(g, x, arena_printf(&w.mem, "x%u", i + 1));
    }
    graph_output(g, x, "y");
    return g;
}

static void measured(const Graph *g, const Graph *simulated, double *alone)
{
    SampleSource *s = samples_random(&w.mem, 2);
    CalibrateOptions o = {.samples = s, .threads = 1, .quiet = true};
    cr_assert(measure_layers(g, simulated, &q, &o, alone, &w.diag), "%s", w.diag.line.n ? w.diag.line.at[0] : "");
    samples_close(s);
}

Test(layers, in_any_order)
{
    Graph *g = chain();
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .quant = &q};
    const Graph *simulated = passes_run(g, &ctx, "quantize", "quantize", &(PassRun){.verify = true});
    double alone[LAYERS], again[LAYERS], together[LAYERS];
    cr_assert(q.layer.n == LAYERS);
    measured(g, simulated, alone);
    for (uint32_t i = 0; i < LAYERS; i++) {
        together[i] = q.layer.at[i].sqnr;
        cr_expect(alone[i] > 15 && alone[i] < 70 && together[i] < alone[i] + 1e-6, "layer %u: %g dB alone, %g dB", i, alone[i], together[i]);
    }
    for (uint32_t i = 0; i < LAYERS / 2; i++) {
        Layer l = q.layer.at[i];
        q.layer.at[i] = q.layer.at[LAYERS - 1 - i], q.layer.at[LAYERS - 1 - i] = l;
    }
    measured(g, simulated, again);
    for (uint32_t i = 0; i < LAYERS; i++) {
        cr_expect(alone[i] == again[LAYERS - 1 - i], "layer %u", i);
        cr_expect(together[i] == q.layer.at[LAYERS - 1 - i].sqnr, "layer %u", i);
    }
}
