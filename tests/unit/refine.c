/* What weights are rounded by: the rows that count. */
#include "frontend/refine.h"
#include "frontend/samples.h"
#include "tests/unit/worlds.h"

static World w;
static void setup(void) { world_open(&w); }
static void teardown(void) { world_close(&w); }
TestSuite(refine, .init = setup, .fini = teardown);

enum { ROWS = 32, FEW = 32, DEPTH = 128, COLUMNS = 64, SAMPLES = 16 }; /* FEW x DEPTH weights stay float */

static Val konst(Graph *g, int64_t rows, int64_t columns, uint32_t seed)
{
    return graph_const(g, tensor_random(&w.mem, DT_f32, 2, (int64_t[]){rows, columns}, seed), NULL);
}

static const Loc *at(const char *node)
{
    Loc *l = NEW(&w.mem, Loc);
    *l = (Loc){.node = node, .op = "MatMul"};
    return l;
}

/* Attention whose factors are 0 where `hides` says: of the second half of all rows, which are times `loud`. */
static const LayerCodes *rounded(float loud, bool hides)
{
    Graph *g = graph_new(&w.module, &w.mem, "g");
    Tensor *gain = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){ROWS, 1}), *mask = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){1, ROWS});
    for (int i = 0; i < ROWS; i++) {
        ((float *)(uintptr_t)gain->data)[i] = i < ROWS / 2 ? 1 : loud;
        ((float *)(uintptr_t)mask->data)[i] = i < ROWS / 2 || !hides;
    }
    Val x = graph_input(g, "x", type_of_tensor(&w.module, tensor_new(&w.mem, DT_f32, 3, (int64_t[]){1, ROWS, FEW})));
    Val rows = emit(g, "Mul", at("rows"), 2, emit(g, "MatMul", at("mix"), 2, x, konst(g, FEW, DEPTH, 3)), graph_const(g, gain, NULL));
    Val factors = emit(g, "MatMul", at("factors"), 2, x, konst(g, FEW, ROWS, 1));
    factors = emit(g, "Mul", at("hide"), 2, factors, graph_const(g, mask, NULL));
    Val y = emit(g, "MatMul", at("values"), 2, rows, konst(g, DEPTH, COLUMNS, 2));
    graph_output(g, emit(g, "MatMul", at("attend"), 2, factors, y), "y");
    Quantization *q = NEW(&w.mem, Quantization);
    *q = (Quantization){.mem = &w.mem, .float_activations = true, .weights = weight_method_find("gptq")};
    q->form = (WeightForm){.code = DT_u4, .asymmetric = true, .group = 32};
    SampleSource *samples = samples_random(&w.mem, SAMPLES);
    CalibrateOptions o = {.samples = samples, .threads = 1, .quiet = true};
    bool ok = refine_weights(g, q, &o, &w.diag);
    if (!ok) diag_print(&w.diag, stderr);
    samples_close(samples);
    const LayerCodes *c = codes_find(q, tensor_name(g, y, &w.mem));
    cr_assert(ok && c && !c->fallback);
    return c;
}

static bool is_same(const LayerCodes *a, const LayerCodes *b)
{
    return !memcmp(a->codes.code->data, b->codes.code->data, tensor_bytes(a->codes.code)) && a->error == b->error;
}

/* A value that is divided for the product behind it (passes/balance.h) has the name of what it was: its divisors are no weights. */
Test(refine, quotients_have_no_codes)
{
    Graph *g = graph_new(&w.module, &w.mem, "g");
    Val x = graph_input(g, "x", type_of_tensor(&w.module, tensor_new(&w.mem, DT_f32, 2, (int64_t[]){ROWS, DEPTH})));
    Val a = emit(g, "MatMul", at("a"), 2, x, konst(g, DEPTH, DEPTH, 1));
    graph_name(g, a, "a");
    Val divisors = graph_const(g, tensor_random(&w.mem, DT_f32, 1, (int64_t[]){DEPTH}, 2), NULL),
        quotient = emit(g, "Mul", at("b"), 2, a, divisors);
    graph_name(g, quotient, "a");
    Val y = emit(g, "MatMul", at("b"), 2, quotient, konst(g, DEPTH, COLUMNS, 3));
    graph_output(g, y, "y");
    Quantization *q = NEW(&w.mem, Quantization);
    *q = (Quantization){.mem = &w.mem, .float_activations = true, .weights = weight_method_find("gptq")};
    q->form = (WeightForm){.code = DT_u4, .asymmetric = true, .group = 32};
    SampleSource *samples = samples_random(&w.mem, SAMPLES);
    bool ok = refine_weights(g, q, &(CalibrateOptions){.samples = samples, .threads = 1, .quiet = true}, &w.diag);
    samples_close(samples);
    cr_assert(ok && codes_find(q, "a") && codes_find(q, tensor_name(g, y, &w.mem)));
}

/* As zeros, which weigh nothing. */
Test(refine, rows_that_a_mask_hides_weigh_nothing)
{
    const LayerCodes *none = rounded(0, false);
    cr_expect(is_same(rounded(100, true), none));
    cr_expect(!is_same(rounded(100, false), none), "rows that are read count");
}

typedef struct Seen {
    float first[8]; /* element of a sample */
    uint32_t index[8], of, n;
} Seen;

static bool note_sample(void *ctx, const Sample *s, const Tensor *const *out, Diag *diag)
{
    Seen *seen = ctx;
    (void)diag;
    seen->first[seen->n] = ((const float *)out[0]->data)[0], seen->index[seen->n++] = s->index, seen->of = s->of;
    return true;
}

/* What is fitted to samples knows nothing of those that judge it, not even that there are any. */
Test(refine, samples_that_judge_are_not_looked_at)
{
    Graph *g =
        graph_parse(&w.module, &w.mem, "graph \"g\" (%1 \"x\": f32[4]) -> (%2 \"y\") { %2 = Neg(%1) ; \"n\" #0 }");
    cr_assert(g);
    Seen seen[2] = {{.n = 0}, {.n = 0}};
    for (uint32_t apart = 0; apart <= 1; apart++) {
        CalibrateOptions o = {.samples = samples_random(&w.mem, 7), .threads = 1, .quiet = true, .apart = 2 * apart};
        cr_assert(observe(g, g->output.at, 1, &o, 0, NULL, note_sample, &seen[apart], &w.diag));
        samples_close(o.samples);
    }
    cr_assert(seen[0].n == 7 && seen[0].of == 7 && seen[1].n == 4 && seen[1].of == 4);
    for (uint32_t i = 0; i < 4; i++)
        cr_expect(seen[1].index[i] == i && seen[1].first[i] == seen[0].first[2 * i] && seen[0].first[2 * i] != 0);
}
