/* Weights and tables as codes under float activations: which constants get which form; the rows of --quantize. */
#include "codegen/analyse.h"
#include "frontend/precision.h"
#include "ir/lower.h"
#include "passes/passes.h"
#include "tests/unit/option_rows.h"
#include "tests/unit/worlds.h"
#include <math.h>

static World w;
static Quantization q;
static void setup(void)
{
    world_open(&w);
    q = (Quantization){.mem = &w.mem, .precision = "int4", .float_activations = true, .spared = {.code = DT_i8}};
    q.form = q.table = (WeightForm){.code = DT_u4, .asymmetric = true, .group = 32};
}
static void teardown(void) { world_close(&w); }
TestSuite(codes, .init = setup, .fini = teardown);

static Val input(Graph *g, const char *name, DType t, int rank, const int64_t *dim)
{
    Type type = {.dtype = t, .rank = rank};
    for (int d = 0; d < rank; d++) type.dim[d] = dim_const(w.module.dim, dim[d]);
    return graph_input(g, name, type);
}

static const Tensor *matrix(int64_t rows, int64_t columns)
{
    return tensor_random(&w.mem, DT_f32, 2, (int64_t[]){rows, columns}, (uint32_t)(rows + columns));
}

static const Loc *at(const char *node)
{
    Loc *l = NEW(&w.mem, Loc);
    *l = (Loc){.node = node, .op = "MatMul"};
    return l;
}

static Val product(Graph *g, Val x, const Tensor *t, const char *node) { return emit(g, "MatMul", at(node), 2, x, graph_const(g, t, node)); }

/* A table, three products behind it, the last of them with the table itself if `tied`. */
static Graph *model(bool tied)
{
    Graph *g = graph_new(&w.module, &w.mem, "g");
    const Tensor *table = matrix(512, 256);
    Tensor *turned = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){256, 512});
    for (int64_t i = 0; i < 512 * 256; i++) ((float *)(uintptr_t)turned->data)[i % 256 * 512 + i / 256] = ((const float *)table->data)[i];
    Val ids = input(g, "ids", DT_i64, 1, (int64_t[]){7});
    Val h = emit(g, "Gather", at("look"), 2, graph_const(g, table, "table"), ids);
    h = emit(g, "Relu", at("r1"), 1, product(g, h, matrix(256, 256), "one"));
    h = emit(g, "Relu", at("r2"), 1, product(g, h, matrix(256, 256), "two"));
    graph_output(g, product(g, h, tied ? turned : matrix(256, 512), "last"), "y");
    return g;
}

static Graph *coded(Graph *g)
{
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .quant = &q};
    const char *why;
    Graph *out = pass_codes(g, &ctx);
    cr_assert(graph_verify(out, &why), "%s", why);
    return out;
}

static unsigned constants(const Graph *g, DType t, int64_t least)
{
    unsigned n = 0;
    const uint16_t *uses = graph_uses(g, &w.scratch);
    for (uint32_t v = 1; v < g->val.n; v++) n += uses[v] && g->val.at[v].konst && g->val.at[v].konst->type == t && tensor_count(g->val.at[v].konst) >= least;
    return n;
}

Test(codes, the_last_product_is_spared)
{
    Graph *g = coded(model(false));
    cr_expect_eq(constants(g, DT_u4, 30000), 3, "a table and two products");
    cr_expect_eq(constants(g, DT_i8, 30000), 1, "the last product");
    cr_expect_eq(constants(g, DT_f32, 30000), 0);
    cr_assert_eq(q.layer.n, 3);
    for (uint32_t i = 0; i < 3; i++) cr_expect_eq(q.layer.at[i].state, LAYER_WEIGHTS);
    cr_expect_eq(q.layer.at[0].form.code, DT_u4);
    cr_expect(q.layer.at[0].weight_sqnr > 20 && q.layer.at[2].weight_sqnr > 40);
}

Test(codes, a_tied_table_is_stored_once)
{
    Graph *g = coded(model(true));
    cr_expect_eq(constants(g, DT_i8, 100000), 1, "the table, which is the last product's weights too");
    cr_expect_eq(constants(g, DT_u4, 30000), 2);
    cr_expect_eq(constants(g, DT_f32, 30000), 0);
}

Test(codes, small_and_kept_products_stay_float)
{
    Graph *g = graph_new(&w.module, &w.mem, "g");
    Val x = input(g, "x", DT_f32, 2, (int64_t[]){4, 16});
    q.keep = "kept";
    x = product(g, x, matrix(16, 1024), "shallow"), x = product(g, x, matrix(1024, 4), "small");
    x = product(g, x, matrix(4, 256), "tiny"), x = product(g, x, matrix(256, 256), "kept");
    graph_output(g, x, "y");
    g = coded(g);
    cr_expect_eq(constants(g, DT_u4, 1) + constants(g, DT_i8, 1), 0);
    for (uint32_t i = 0; i < q.layer.n; i++) cr_expect_eq(q.layer.at[i].state, LAYER_FLOAT);
    cr_expect(strstr(q.layer.at[3].why, "--keep"));
}

/* What multiplies the state of a recurrence is a layer like any other: codes, by form, and kept by name. */
static Graph *recurrence(int64_t hidden)
{
    Graph *g = graph_new(&w.module, &w.mem, "g");
    const OpDef *op = op_find("", "LSTM");
    Attr *attr = op_attr_defaults(&w.mem, op);
    attr_set_int(op, attr, "hidden_size", hidden);
    const Tensor *weights = tensor_random(&w.mem, DT_f32, 3, (int64_t[]){1, 4 * hidden, 16}, 1), *r = tensor_random(&w.mem, DT_f32, 3, (int64_t[]){1, 4 * hidden, hidden}, 2);
    Val y[3], in[] = {input(g, "x", DT_f32, 3, (int64_t[]){5, 1, 16}), graph_const(g, weights, "W"), graph_const(g, r, "R")};
    graph_emit(g, op, attr, in, 3, 3, at("rnn"), y);
    Val x = emit(g, "Reshape", at("flat"), 2, y[0], graph_const(g, tensor_ints(&w.mem, (int64_t[]){5, hidden}, 2), NULL));
    graph_output(g, product(g, x, matrix(hidden, 64), "last"), "y");
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch};
    return pass_expand(g, &ctx);
}

Test(codes, recurrent_weights)
{
    static const struct {
        int64_t hidden;
        const char *keep;
        DType codes;
    } row[] = {{128, NULL, DT_i8}, {256, NULL, DT_u4}, {128, "^rnn$", DT_NONE}}; /* few weights, which every step uses again, are spared */
    for (size_t i = 0; i < COUNT_OF(row); i++) {
        int64_t h = row[i].hidden;
        q.layer.n = 0, q.kept = NULL, q.keep = row[i].keep;
        Graph *g = coded(recurrence(h));
        const Layer *l = NULL;
        for (uint32_t k = 0; k < q.layer.n; k++)
            if (q.layer.at[k].weights == 4 * h * h) l = &q.layer.at[k];
        cr_assert(l && l->loc && !strcmp(l->loc->node, "rnn"));
        cr_expect_eq(l->state, row[i].codes ? LAYER_WEIGHTS : LAYER_FLOAT);
        cr_expect(!row[i].codes || (l->form.code == row[i].codes && !strcmp(l->input, l->tensor)));
        cr_expect_eq(constants(g, row[i].codes ? row[i].codes : DT_f32, 4 * h * h), 1);
        cr_expect_eq(constants(g, DT_f32, 4 * h * h), row[i].codes ? 0 : 1);
    }
}

/* A depthwise convolution. */
static Graph *depthwise(int64_t channels, int64_t size)
{
    Graph *g = graph_new(&w.module, &w.mem, "g");
    const OpDef *conv = op_find("", "Conv");
    Attr *attr = op_attr_defaults(&w.mem, conv);
    attr_set_int(conv, attr, "group", channels);
    Val x = input(g, "x", DT_f32, 4, (int64_t[]){1, channels, 12, 12});
    const Tensor *t = tensor_random(&w.mem, DT_f32, 4, (int64_t[]){channels, 1, size, size}, 7), *bias = tensor_random(&w.mem, DT_f32, 1, &channels, 8);
    graph_output(g, graph_emit(g, conv, attr, (Val[]){x, graph_const(g, t, "w"), graph_const(g, bias, "b")}, 3, 1, at("dw"), NULL), "y");
    return g;
}

/* Under every precision of codes these weights are 8 bits with a scale a channel, if there are enough of them to be worth a kernel's change. */
Test(codes, windows_of_channels)
{
    static const struct {
        int64_t channels, size;
        bool integer, coded;
        const char *keep;
    } row[] = {{64, 3, false, false, NULL}, {128, 3, false, true, NULL}, {64, 5, true, true, NULL}, {64, 3, true, false, NULL}, {64, 5, true, false, "dw"}};
    for (size_t i = 0; i < COUNT_OF(row); i++) {
        q.layer.n = 0, q.kept = NULL, q.keep = row[i].keep, q.float_activations = !row[i].integer, q.windows = weight_method_find("even");
        if (row[i].integer) q.form = q.table = (WeightForm){.code = DT_i8};
        PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .quant = &q};
        Graph *g = passes_run(depthwise(row[i].channels, row[i].size), &ctx, "quantize", "scale", &(PassRun){.verify = true});
        int64_t all = row[i].channels * row[i].size * row[i].size;
        cr_assert_eq(q.layer.n, 1, "row %zu: %u", i, q.layer.n);
        const Layer *l = &q.layer.at[0];
        cr_expect_eq(l->state, row[i].coded ? LAYER_WEIGHTS : LAYER_FLOAT, "row %zu", i);
        cr_expect_eq(constants(g, DT_i8, all), row[i].coded, "row %zu", i);
        cr_expect_eq(constants(g, DT_f32, all), !row[i].coded, "row %zu", i);
        cr_expect(row[i].coded ? l->form.code == DT_i8 && !l->form.group && l->weight_sqnr > 35 && !strcmp(l->method, "even") : l->why != NULL, "row %zu", i);
        unsigned scaled = 0; /* behind the sum, once a result, where nothing must be the same to the bit */
        for (uint32_t n = 0; n < g->node.n; n++) scaled += node_is(&g->node.at[n], "Mul");
        cr_expect_eq(scaled, row[i].integer && row[i].coded, "row %zu", i);
    }
}

/* Short entries are codes too, unless they are positions: those change little from one to the next. */
Test(codes, tables_of_positions_stay)
{
    q.float_activations = false;
    for (int positions = 0; positions < 2; positions++) {
        Graph *g = graph_new(&w.module, &w.mem, "g");
        const Tensor *table = matrix(2048, 64);
        float *v = (float *)(uintptr_t)table->data;
        for (int64_t i = 0; i < 2048 * 64 && positions; i++)
            v[i] = (float)cos((double)(i / 64) * pow(10000, -(double)(i % 64 / 2) / 32));
        Val ids = input(g, "ids", DT_i64, 1, (int64_t[]){4});
        Val h = emit(g, "Gather", at("look"), 2, graph_const(g, table, "table"), ids);
        graph_output(g, product(g, h, matrix(64, 64), "last"), "y");
        g = coded(g);
        cr_expect_eq(constants(g, DT_u4, 30000), positions ? 0 : 1);
        cr_expect_eq(constants(g, DT_f32, 30000), positions ? 1 : 0);
    }
}

Test(codes, tables_alone)
{
    q.float_activations = false;
    Graph *g = coded(model(false));
    cr_expect_eq(constants(g, DT_u4, 30000), 1);
    cr_expect_eq(constants(g, DT_f32, 30000), 3);
}

/* --quantize's row in options.def says the names of the table and their help. */
Test(codes, the_option_names_the_precisions)
{
    const OptionRow row = option_row("--quantize");
    const char *names = "", *help = "";
    for (uint32_t i = 0; precision_at(i); i++) {
        const Precision *p = precision_at(i);
        names = arena_printf(&w.mem, "%s%s%s", names, i ? "|" : "", p->name);
        help = arena_printf(&w.mem, "%s%s%s: %s", help, i ? ". " : "", p->name, p->help);
        cr_expect(!p->blind == !p->seen);
        if (p->seen) cr_expect(weight_method_find(p->seen) && !weight_method_find(p->blind)->needs, "%s", p->name);
    }
    cr_expect_str_eq(row.value, names);
    cr_expect_str_eq(row.help, help);
}

/* Values in blocks of 8-bit codes: the head multiplies the words that look-ups read, and every product is one of codes. */
Test(codes, a_tied_table_is_stored_once_as_words)
{
    Arena mem = {0};
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .quant = &q, .values = VALUES_INT8};
    Graph *g = passes_run(model(true), &ctx, NULL, NULL, &(PassRun){.verify = true});
    int *buf_of, sums = 0, large = 0;
    Kernel *k = lower_graph(g, &w.mem, &buf_of);
    cr_assert(k && !w.diag.errors);
    program_alike(k);
    bool *seen = NEW_ARRAY(&mem, bool, k->buf.n);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Contraction r;
        LoadList l = {0};
        sums += contraction_of(k, &k->stage.at[i], &r) && r.scale;
        stage_loads(k, &mem, &k->stage.at[i], &l);
        for (uint32_t j = 0; j < l.at.n; j++) {
            uint32_t b = expr_node(k, l.at.at[j])->id;
            bool one = k->buf.at[b].kind == BUF_CONST && tensor_count(k->buf.at[b].data) >= 30000 && !seen[b];
            large += one, seen[b] = seen[b] || one;
        }
    }
    cr_expect_eq(sums, 3, "products of codes: %d", sums);
    cr_expect_eq(large, 3, "constants: %d", large);
    arena_drop(&mem);
}
