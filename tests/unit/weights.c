/* Weights as codes: how operators' constants become matrices, what grids and tensors say, and the methods on made-up layers. */
#include "passes/weights.h"
#include "tests/unit/worlds.h"

static World w;
static void setup(void) { world_open(&w); }
static void teardown(void) { world_close(&w); }
TestSuite(weights, .init = setup, .fini = teardown);

static const WeightForm forms[] = {{.code = DT_i8},
                                   {.code = DT_i8, .asymmetric = true},
                                   {.code = DT_u8, .asymmetric = true},
                                   {.code = DT_u8},
                                   {.code = DT_i4},
                                   {.code = DT_i4, .asymmetric = true, .group = 3},
                                   {.code = DT_u4},
                                   {.code = DT_u4, .asymmetric = true},
                                   {.code = DT_u4, .asymmetric = true, .group = 4},
                                   {.code = DT_i4, .group = 2}};

/* A graph of one contraction of made-up weights: Conv of 8 channels in 2 groups (W[6,4,3,2]), MatMul (W[7,5]) or in batches (W[3,7,5]). */
static const char *const layers[] = {
    "graph \"g\" (%1 \"x\": f32[N,8,9,9]) -> (%3 \"y\") { %2 = const f32[6,4,3,2] {W} \"w\" %3 = Conv(%1, %2) {group=2} }",
    "graph \"g\" (%1 \"x\": f32[N,7]) -> (%3 \"y\") { %2 = const f32[7,5] {W} \"w\" %3 = MatMul(%1, %2) }",
    "graph \"g\" (%1 \"x\": f32[3,N,7]) -> (%3 \"y\") { %2 = const f32[3,7,5] {W} \"w\" %3 = MatMul(%1, %2) }"};
static const int counts[] = {144, 35, 105};
enum { CONV, MATMUL, BATCHES, LAYERS };

static float value(int i) { return (float)((i * 37 + 11) % 101 - 40) / 50; }

static const Node *layer(int which, Graph **g)
{
    const char *text = layers[which], *at = strstr(text, "{W}"), *all = "";
    for (int i = 0; i < counts[which]; i++) all = arena_printf(&w.mem, "%s%s%g", all, i ? ", " : "", (double)value(i));
    *g = graph_parse(&w.module, &w.mem, arena_printf(&w.mem, "%.*s{%s}%s", (int)(at - text), text, all, at + 3));
    cr_assert(*g);
    return &(*g)->node.at[0];
}

static WeightMatrix matrix(int which)
{
    Graph *g;
    const Node *n = layer(which, &g);
    return weight_matrix(g, n, &w.mem);
}

Test(weights, a_convolution_is_a_matrix_of_taps_and_channels)
{
    WeightMatrix m = matrix(CONV);
    cr_assert(m.out == 6 && m.in == 24 && m.channels == 4 && m.batches == 1 && m.blocks == 2);
    for (int o = 0; o < 6; o++)
        for (int tap = 0; tap < 6; tap++)
            for (int c = 0; c < 4; c++) cr_expect(m.w[o * 24 + tap * 4 + c] == value((o * 4 + c) * 6 + tap));
}

Test(weights, a_product_is_transposed_and_its_batches_are_blocks)
{
    WeightMatrix m = matrix(BATCHES);
    cr_assert(m.out == 15 && m.in == 7 && m.channels == 7 && m.batches == 3 && m.blocks == 3);
    for (int b = 0; b < 3; b++)
        for (int o = 0; o < 5; o++)
            for (int k = 0; k < 7; k++) cr_expect(m.w[(b * 5 + o) * 7 + k] == value((b * 7 + k) * 5 + o));
    cr_expect(matrix(MATMUL).blocks == 1);
}

static Tensor *dequantized(const CodeTensors *t)
{
    Graph *g = graph_new(&w.module, &w.mem, "d");
    g->fold_edges = true;
    const OpDef *op = op_find("", "DequantizeLinear");
    Attr *attr = op_attr_defaults(&w.mem, op);
    attr_set_int(op, attr, "axis", t->axis), attr_set_int(op, attr, "block_size", t->block);
    Val in[3] = {graph_const(g, t->code, NULL), graph_const(g, t->scale, NULL)};
    if (t->zero) in[2] = graph_const(g, t->zero, NULL);
    const Tensor *y = graph_val(g, graph_emit(g, op, attr, in, t->zero ? 3 : 2, 1, NULL, NULL))->konst;
    cr_assert(y && !w.diag.errors);
    return (Tensor *)(uintptr_t)y;
}

/* Every form of every layer: the tensors mean what the codes mean, and rounding is at most half a step, one where symmetric codes end. */
Test(weights, tensors_mean_what_the_codes_mean)
{
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < COUNT_OF(forms); i++) {
            const WeightForm *f = &forms[i];
            WeightMatrix m = matrix(l);
            WeightCodes c = weight_method_at(0)->find(&m, f, &w.mem);
            CodeTensors t = weight_tensors(&m, &c, &w.mem);
            cr_expect(tensor_equal(dequantized(&t), weight_values(&m, &c, &w.mem)), "layer %d, form %zu", l, i);
            cr_expect((t.zero != NULL) == (f->asymmetric || dtypes[f->code].cls == DC_UINT));
            for (int64_t r = 0; r < m.out; r++)
                for (int64_t j = 0; j < m.in; j++) {
                    int code = c.code[r * m.in + j];
                    double step = fabs((double)c.scale[codes_at(&c, r, j)]), off = fabs((double)codes_value(&c, r, j, m.in) - m.w[r * m.in + j]);
                    cr_assert(code >= weight_code_least(f) && code <= weight_code_most(f));
                    cr_assert(off <= step * (f->asymmetric || f->code == DT_i8 ? 0.5001 : 1.0001), "layer %d, form %zu: %g, step %g", l, i, off, step);
                }
        }
}

static double square_error(const WeightMatrix *m, const WeightCodes *c)
{
    double sum = 0;
    for (int64_t r = 0; r < m->out; r++)
        for (int64_t j = 0; j < m->in; j++) {
            double e = (double)codes_value(c, r, j, m->in) - m->w[r * m->in + j];
            sum += e * e;
        }
    return sum;
}

Test(weights, clipping_never_has_the_larger_square_error)
{
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < COUNT_OF(forms); i++) {
            WeightMatrix m = matrix(l);
            m.w[3] = 5; /* far out */
            WeightCodes rtn = weight_method_find("rtn")->find(&m, &forms[i], &w.mem), mse = weight_method_find("mse")->find(&m, &forms[i], &w.mem);
            cr_expect(square_error(&m, &mse) <= square_error(&m, &rtn), "layer %d, form %zu", l, i);
        }
}

/* Codes cover what is there: one group far larger than its neighbours does not coarsen them. */
Test(weights, groups_have_their_own_scales)
{
    WeightMatrix m = matrix(MATMUL);
    WeightForm f = {.code = DT_i4, .group = 3};
    m.w[0] = 100;
    WeightCodes c = weight_method_at(0)->find(&m, &f, &w.mem);
    cr_assert(c.groups == 3 && c.owners == 5 && c.group[2] == 0 && c.group[3] == 1 && c.group[6] == 2);
    cr_expect(fabsf(c.scale[0]) > 10 && fabsf(c.scale[1]) < 0.2f && fabsf(c.scale[3]) < 0.2f);
    CodeTensors t = weight_tensors(&m, &c, &w.mem);
    cr_expect(t.block == 3 && t.axis == 0 && t.scale->dim[0] == 3 && t.scale->dim[1] == 5);
}

Test(weights, nothing_but_zeros)
{
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        WeightMatrix m = matrix(MATMUL);
        memset(m.w, 0, sizeof *m.w * (size_t)(m.out * m.in));
        for (uint32_t k = 0; weight_method_at(k); k++) {
            WeightCodes c = weight_method_at(k)->find(&m, &forms[i], &w.mem);
            cr_expect(square_error(&m, &c) == 0 && c.scale[0] == 1, "%s, form %zu", weight_method_at(k)->name, i);
        }
    }
}

/* --weights' row in options.def says the names of the table, and its default is the first. */
Test(weights, the_option_names_the_methods)
{
#define OPTION(id, name, kind, commands, value, later, fallback, help) {name, value, fallback},
    static const struct {
        const char *name, *value, *fallback;
    } rows[] = {
#include "frontend/options.def"
    };
#undef OPTION
    const char *all = "";
    for (uint32_t m = 0; weight_method_at(m); m++) all = arena_printf(&w.mem, "%s%s%s", all, m ? "|" : "", weight_method_at(m)->name);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (strcmp(rows[i].name, "--weights") != 0) continue;
        cr_expect_str_eq(rows[i].value, all);
        cr_expect_str_eq(rows[i].fallback, weight_method_at(0)->name);
        return;
    }
    cr_assert_fail("options.def has no --weights");
}
