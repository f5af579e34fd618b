/* A graph written as a model and read again: the same graph, whatever its operands, attributes, element types and outputs are. */
#include "frontend/export.h"
#include "frontend/interpret.h"
#include "passes/passes.h"
#include "tests/unit/worlds.h"
#include <sys/stat.h>
#include <unistd.h>

static World world;
static char folder[64], path[96];

static void begin(void)
{
    world_open(&world);
    snprintf(folder, sizeof folder, "%s/octet-export-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/m.onnx", folder);
}

static void end(void)
{
    char data[112];
    snprintf(data, sizeof data, "%s.data", path);
    unlink(path), unlink(data), rmdir(folder);
    world_close(&world);
}

TestSuite(export, .init = begin, .fini = end);

static const Loc at = {.node = "node", .op = "Op"};

static Val quantized(Graph *g, Val x, DType type)
{
    Val s = graph_const(g, tensor_scalar(g->mem, DT_f32, 0.5), NULL),
        z = graph_const(g, tensor_scalar(g->mem, type, 3), NULL);
    Val q = emit(g, "QuantizeLinear", &at, 3, x, s, z);
    return emit(g, "DequantizeLinear", &at, 3, q, s, z);
}

static Val weights(Graph *g, DType type, int64_t rows, int64_t columns)
{
    int64_t dim[2] = {rows, columns};
    Tensor *t = tensor_new(g->mem, type, 2, dim);
    for (int64_t i = 0; i < rows * columns; i++) dtype_store_int(type, (void *)(uintptr_t)t->data, i, i % 8);
    Val in[2] = {graph_const(g, t, "w"), graph_const(g, tensor_random(g->mem, DT_f32, 1, &columns, 1), NULL)};
    return graph_emit(g, op_find("", "DequantizeLinear"), NULL, in, 2, 1, &at, NULL);
}

/* A free size, a shared scale, an absent operand, lists, an output that is an input, and one value under two names. */
static Graph *made(DType weight)
{
    Dims *d = world.module.dim;
    Graph *g = graph_new(&world.module, &world.mem, "g");
    Type t = {.dtype = DT_f32, .rank = 2, .dim = {dim_symbol(d, "N", DIM_INPUT, 0), dim_const(d, 40)}};
    Val x = graph_input(g, "x", t), dq = quantized(g, x, DT_u8);
    Val y = emit(g, "MatMul", &at, 2, dq, weights(g, weight, 40, 24));
    graph_name(g, y, "product");
    Val top = graph_const(g, tensor_scalar(g->mem, DT_f32, 6), "top"), in[3] = {y, {0}, top};
    Val clipped = graph_emit(g, op_find("", "Clip"), NULL, in, 3, 1, &at, NULL);
    const OpDef *op = op_find("", "Transpose");
    Attr *attr = op_attr_defaults(g->mem, op);
    attr_set_ints(op, attr, "perm", (const int64_t[]){1, 0}, 2);
    Val turned = graph_emit(g, op, attr, &clipped, 1, 1, &at, NULL);
    graph_output(g, turned, "turned"), graph_output(g, turned, "again");
    graph_output(g, x, "same"), graph_output(g, clipped, "clipped");
    return g;
}

static Graph *written_and_read(const Graph *g, Origin *again, bool external)
{
    Origin origin = {.ir_version = 8, .graph = "the graph", .domain = "org.here", .doc = "said", .graph_doc = ""};
    vec_push(&world.mem, &origin.metadata, (Metadata){"classes", "cat, dog"});
    vec_push(&world.mem, &origin.opset.at, (Opset){"", 14});
    cr_assert(export_model(g, &origin, path, external, &world.diag));
    Module *m = module_new(&world.mem, &world.diag, path);
    Graph *read = import_file(m, &world.mem, path, &(ImportOptions){.origin = again});
    cr_assert(read, "%s", world.diag.line.n ? world.diag.line.at[0] : "");
    return read;
}

static const Node *only(const Graph *g, const char *op)
{
    const Node *found = NULL;
    for (uint32_t i = 0; i < g->node.n; i++)
        if (node_is(&g->node.at[i], op)) found = &g->node.at[i];
    return found;
}

Test(export, reads_back)
{
    Origin o;
    Graph *g = made(DT_i8), *r = written_and_read(g, &o, false);
    const Type *x = val_type(r, r->input.at[0]);
    cr_assert_eq(r->node.n, g->node.n + 2, "an Identity each for \"again\" and \"same\"");
    cr_assert_eq(r->output.n, 4);
    cr_assert_str_eq(r->output_name.at[1], "again");
    cr_assert_eq(r->node.at[graph_val(r, r->output.at[2])->def].op, op_find("", "Identity"));
    cr_assert_str_eq(dim_text(r->module->dim, x->dim[0], &world.mem), "N");
    cr_assert_str_eq(graph_val(r, only(r, "MatMul")->out)->name, "product");
    cr_assert_eq(node_in(r, only(r, "Clip"), 1).id, 0);
    uint32_t n;
    cr_assert_eq(node_ints(only(r, "Transpose"), "perm", &n)[0], 1);
    const char *why;
    cr_assert(graph_verify(r, &why));
}

/* 4-bit weights as MatMulNBits, which expands into codes and numbers that are the same: signed and unsigned, a last group that is not whole, an
 * odd number of groups. What has other groups stays. */
static Graph *product_of_codes(DType type, int64_t block, bool zeros)
{
    enum { K = 72, N = 5 };
    Graph *g = graph_new(&world.module, &world.mem, "g");
    int64_t blocks = (K + block - 1) / block;
    Type t = {.dtype = DT_f32, .rank = 2, .dim = {dim_const(world.module.dim, 3), dim_const(world.module.dim, K)}};
    Tensor *code = tensor_new(g->mem, type, 2, (int64_t[]){K, N}), *zero = tensor_new(g->mem, type, 2, (int64_t[]){blocks, N});
    for (int64_t i = 0; i < K * N; i++) dtype_store_int(type, (void *)(uintptr_t)code->data, i, i * 7 % 16 + (type == DT_i4 ? -8 : 0));
    for (int64_t i = 0; i < blocks * N; i++) dtype_store_int(type, (void *)(uintptr_t)zero->data, i, i % 8);
    const OpDef *op = op_find("", "DequantizeLinear");
    Attr *attr = op_attr_defaults(g->mem, op);
    attr_set_int(op, attr, "axis", 0), attr_set_int(op, attr, "block_size", block);
    Val in[3] = {graph_const(g, code, "w"), graph_const(g, tensor_random(g->mem, DT_f32, 2, (int64_t[]){blocks, N}, 1), NULL)};
    if (zeros) in[2] = graph_const(g, zero, NULL);
    Val y = emit(g, "MatMul", &at, 2, graph_input(g, "x", t), graph_emit(g, op, attr, in, zeros ? 3 : 2, 1, &at, NULL));
    graph_output(g, y, "y");
    return g;
}

static const Tensor *computed(const Graph *g, const Tensor *x)
{
    PassCtx ctx = {.module = g->module, .mem = &world.mem, .scratch = &world.scratch};
    const Graph *flat = pass_expand(g, &ctx);
    int *buf_of;
    Kernel *k = lower_graph(flat, &world.mem, &buf_of);
    const Tensor *in[] = {x}, *y[1];
    cr_assert(k && interpret(flat, k, &world.mem, in, y, &world.diag), "%s", world.diag.line.n ? world.diag.line.at[0] : "not lowered");
    return y[0];
}

Test(export, products_of_4_bits)
{
    static const struct {
        DType type;
        int64_t block;
        bool zeros, taken;
    } row[] = {{DT_u4, 32, true, true}, {DT_i4, 32, false, true}, {DT_i4, 16, true, true}, {DT_u4, 16, false, true}, {DT_u4, 24, true, false}, {DT_u8, 32, true, false}};
    for (size_t i = 0; i < COUNT_OF(row); i++) {
        Origin o;
        Graph *g = product_of_codes(row[i].type, row[i].block, row[i].zeros), *packed = graph_nbits(g, &world.mem, false);
        const char *why;
        cr_assert(graph_verify(packed, &why), "%s", why);
        bool taken = packed->node.at[graph_val(packed, packed->output.at[0])->def].op == op_find("com.microsoft", "MatMulNBits");
        cr_expect_eq(taken, row[i].taken, "row %zu", i);
        const Tensor *x = tensor_random(&world.mem, DT_f32, 2, (int64_t[]){3, 72}, 7);
        const Tensor *is = computed(written_and_read(packed, &o, false), x), *was = computed(g, x);
        for (int64_t k = 0; k < tensor_count(was); k++)
            cr_expect_float_eq(((const float *)is->data)[k], ((const float *)was->data)[k], 1e-4, "row %zu", i);
    }
}

Test(export, says_what_the_model_said)
{
    Origin o;
    written_and_read(made(DT_i8), &o, false);
    cr_assert_str_eq(o.graph, "the graph");
    cr_assert_str_eq(o.domain, "org.here");
    cr_assert_str_eq(o.doc, "said");
    cr_assert_eq(o.metadata.n, 1);
    cr_assert_str_eq(o.metadata.at[0].value, "cat, dog");
    cr_assert_eq(o.opset.at.at[0].version, 14);
    cr_assert_eq(o.ir_version, 8);
}

Test(export, raises_the_opset_for_types)
{
    Origin o;
    Graph *g = made(DT_i4), *r = written_and_read(g, &o, false);
    cr_assert_eq(o.opset.at.at[0].version, 21);
    cr_assert_eq(o.ir_version, 10);
    for (uint32_t v = 1; v < r->val.n; v++) {
        const Tensor *t = r->val.at[v].konst;
        for (int64_t i = 0; t && t->type == DT_i4 && i < tensor_count(t); i++)
            cr_assert(dtype_load_int(DT_i4, t->data, i) == i % 8);
    }
}

Test(export, weights_beside_the_model)
{
    Origin o;
    char data[112];
    struct stat st;
    snprintf(data, sizeof data, "%s.data", path);
    Graph *r = written_and_read(made(DT_i32), &o, true); /* 40 x 24 x 4 bytes */
    cr_assert(!stat(data, &st) && st.st_size == 3840);
    for (uint32_t v = 1; v < r->val.n; v++) {
        const Tensor *t = r->val.at[v].konst;
        for (int64_t i = 0; t && t->type == DT_i32 && i < tensor_count(t); i++)
            cr_assert_eq(((const int32_t *)t->data)[i], i % 8);
    }
}

Test(export, refuses_what_onnx_lacks)
{
    Graph *g = graph_new(&world.module, &world.mem, "g");
    Type t = {.dtype = DT_i8, .rank = 1, .dim = {dim_const(world.module.dim, 4)}};
    Val x = graph_input(g, "x", t);
    Origin origin = {.graph = "", .domain = "", .doc = "", .graph_doc = ""};
    graph_output(g, graph_emit(g, op_find("octet", "ToU8"), NULL, &x, 1, 1, &at, NULL), "y");
    cr_assert(!export_model(g, &origin, path, false, &world.diag));
    cr_assert(access(path, F_OK) != 0);
}
