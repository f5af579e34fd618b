/* Graphs: emission checks, infers, folds and shares; text goes round; verify sees damage. */
#include "ir/graph.h"
#include "ir/op.h"
#include <criterion/criterion.h>
#include <stdlib.h>

static Arena mem;
static Diag diag;
static Module module;
static Graph *g;
static Val x;
static const Loc loc = {"n1", "Op", 7, 0, 0};

static Type type_of(DType t, int rank, const char *const *dim)
{
    Type r = {.dtype = t, .rank = rank};
    for (int i = 0; i < rank; i++) {
        bool number = dim[i][0] >= '0' && dim[i][0] <= '9';
        r.dim[i] = number ? dim_const(module.dim, atoi(dim[i])) : dim_symbol(module.dim, dim[i], DIM_INPUT, 0);
    }
    return r;
}
#define TYPE(t, rank, ...) type_of(DT_##t, rank, (const char *const[]){__VA_ARGS__})

static void setup(void)
{
    mem = (Arena){0}, diag = (Diag){.mem = &mem, .subject = "m.onnx"};
    module = (Module){.mem = &mem, .dim = dims_new(&mem), .diag = &diag, .name = "m", .folder = "."};
    g = graph_new(&module, &mem, "g");
    x = graph_input(g, "x", TYPE(f32, 2, "N", "4"));
}
static void teardown(void) { arena_drop(&mem); }
TestSuite(graph, .init = setup, .fini = teardown);

static Val ints(int n, ...)
{
    int64_t v[8];
    va_list args;
    va_start(args, n);
    for (int i = 0; i < n; i++) v[i] = va_arg(args, int);
    va_end(args);
    return graph_const(g, tensor_ints(&mem, v, n), NULL);
}
static Val floats(int64_t n, double v)
{
    Tensor *t = tensor_new(&mem, DT_f32, 1, &n);
    for (int64_t i = 0; i < n; i++) dtype_store(DT_f32, (void *)t->data, i, v);
    return graph_const(g, t, NULL);
}
static void expect_type(Val v, const char *text) { cr_expect_str_eq(type_text(&module, val_type(g, v), &mem), text); }
static void expect_sound(void)
{
    const char *why;
    cr_expect(graph_verify(g, &why), "%s", why);
}

Test(graph, every_row_parses_and_has_one_meaning)
{
    uint32_t n = 0;
    for (const OpDef *op; (op = op_at(n)); n++) {
        cr_expect(op_find(op->domain, op->name) == op);
        cr_expect(op->body || op->lower || op->expand, "%s means nothing", op->name);
        cr_expect(op_schema(op)->nout > 0);
    }
    cr_expect(n > 50 && op_find("ai.onnx", "Add") == op_find(NULL, "Add") && !op_find("x", "Add") &&
              !op_find("", "add"));
}

Test(graph, equal_nodes_are_one)
{
    Val a = emit(g, "Relu", &loc, 1, x), b = emit(g, "Relu", NULL, 1, x), c = emit(g, "Abs", NULL, 1, x);
    cr_expect(a.id == b.id && a.id != c.id && g->node.n == 2);
    expect_type(a, "f32[N,4]");
    cr_expect(floats(4, 1).id == floats(4, 1).id && floats(4, 1).id != floats(4, 2).id);
    expect_sound();
}

Test(graph, constants_fold)
{
    Val two = emit(g, "Add", NULL, 2, floats(4, 1), floats(1, 1));
    const Tensor *t = graph_val(g, two)->konst;
    cr_assert(t != NULL);
    cr_expect(tensor_count(t) == 4 && dtype_load(DT_f32, t->data, 3) == 2);
    cr_expect(g->node.n == 0 && two.id == floats(4, 2).id);
    expect_sound();
}

Test(graph, sizes_go_through_shape_arithmetic)
{
    Val shape = emit(g, "Shape", NULL, 1, x);
    cr_expect(!graph_val(g, shape)->konst && graph_val(g, shape)->elems == 2);
    Val half =
        emit(g, "Div", NULL, 2, emit(g, "Gather", NULL, 2, shape, graph_const(g, tensor_scalar(&mem, DT_i64, 1), NULL)),
             ints(1, 2));
    cr_assert(graph_val(g, half)->konst != NULL);
    cr_expect(dtype_load_int(DT_i64, graph_val(g, half)->konst->data, 0) == 2);
    Val y = emit(g, "Reshape", NULL, 2, x, ints(2, -1, 2));
    expect_type(y, "f32[2*N,2]");
    expect_sound();
}

Test(graph, dequantized_constants_stay_until_asked)
{
    Val w = graph_const(g, tensor_new(&mem, DT_i8, 1, (int64_t[]){4}), NULL),
        s = graph_const(g, tensor_scalar(&mem, DT_f32, 2), NULL);
    cr_expect(!graph_val(g, emit(g, "DequantizeLinear", NULL, 2, w, s))->konst && g->node.n == 1);
    g = graph_new(&module, &mem, "late");
    g->fold_edges = true;
    w = graph_const(g, tensor_new(&mem, DT_i8, 1, (int64_t[]){4}), NULL),
    s = graph_const(g, tensor_scalar(&mem, DT_f32, 2), NULL);
    cr_expect(graph_val(g, emit(g, "DequantizeLinear", NULL, 2, w, s))->konst != NULL);
}

Test(graph, large_results_do_not_fold)
{
    Val big = emit(g, "Expand", NULL, 2, floats(1, 1), ints(2, 1024, 1024));
    cr_expect(!graph_val(g, big)->konst && g->node.n == 1);
    expect_type(big, "f32[1024,1024]");
}

/* A table of sines is made once, not in every run; a mask, or more than all such tables may take, is not. */
Test(graph, what_arithmetic_makes_folds)
{
    Val column = graph_const(g, tensor_new(&mem, DT_f32, 2, (int64_t[]){1000, 1}), NULL);
    Val row = graph_const(g, tensor_new(&mem, DT_f32, 2, (int64_t[]){1, 1000}), NULL);
    Val table = emit(g, "Mul", NULL, 2, column, row);
    cr_expect(graph_val(g, table)->konst && graph_val(g, emit(g, "Sin", NULL, 1, table))->konst);
    cr_expect(!graph_val(g, emit(g, "Less", NULL, 2, column, row))->konst);
    int folded = 0;
    for (int i = 0; i < 40; i++) {
        Val other = graph_const(g, tensor_made_up(&mem, DT_f32, 2, (int64_t[]){1000, 1}, (uint32_t)i + 1), NULL);
        folded += graph_val(g, emit(g, "Mul", NULL, 2, other, row))->konst != NULL;
    }
    cr_expect(folded > 5 && folded < 20, "%d tables of 4 MB", folded);
}

Test(graph, mistakes_are_said_once)
{
    Val y = emit(g, "Add", &loc, 2, x, ints(1, 3));
    cr_expect_str_eq(diag.line.at[0], "m.onnx: node 'n1' (Op, #7): error: input B is i64, but A is f32");
    emit(g, "Relu", &loc, 1, y);
    cr_expect(diag.errors == 1 && g->failed && !val_type(g, y)->dtype);
    emit(g, "Add", &loc, 2, x, floats(3, 1));
    cr_expect(diag.errors == 2 && strstr(diag.line.at[1], "do not broadcast: size 4 against 3 on axis 1"), "%s",
              diag.line.at[1]);
    emit(g, "Add", &loc, 1, x);
    cr_expect(strstr(diag.line.at[2], "input B is missing") != NULL);
    emit(g, "Add", &loc, 3, x, x, x);
    cr_expect(strstr(diag.line.at[3], "3 inputs, at most 2 expected") != NULL);
    emit(g, "Concat", &loc, 1, x);
    cr_expect(strstr(diag.line.at[4], "attribute axis is missing") != NULL);
    expect_sound();
}

Test(graph, callers_attributes_are_copied)
{
    const OpDef *op = op_find(NULL, "Transpose");
    int64_t perm[2] = {1, 0};
    Attr *attr = op_attr_defaults(&mem, op);
    attr_set_ints(op, attr, "perm", perm, 2);
    Val y = graph_emit(g, op, attr, &x, 1, 1, NULL, NULL);
    perm[0] = 9;
    uint32_t n;
    const int64_t *kept = node_ints(&g->node.at[graph_val(g, y)->def], "perm", &n);
    cr_expect(n == 2 && kept[0] == 1 && kept[1] == 0);
    expect_type(y, "f32[4,N]");
}

static char *text_of(const Graph *graph)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    graph_print(graph, f);
    fclose(f);
    return text;
}

Test(graph, text_goes_round)
{
    static const char text[] =
        "graph \"g\" (%1 \"x\": f32[N,4], %2: i64['a b',$k + 2*fdiv(N, 2)]) -> (%6 \"y \\\"q\\\"\", %9) {\n"
        "  %3 = const f32[4] {1, 0.100000001, -0, inf} \"w\"\n"
        "  %4 = Add(%1, %3) : f32[N,4] ; \"add/1\" #12\n"
        "  %5 = const i64[1] {2}\n"
        "  %6 = Clip(%4, _, %7) : f32[N,4]\n"
        "  %8, %9 = Split(%4) {axis=1, num_outputs=2} : f32[N,2], f32[N,2] ; \"\" #0\n"
        "}\n";
    char fixed[sizeof text + 64];
    strcpy(fixed, text);
    memcpy(strstr(fixed, "  %5 = const i64[1] {2}\n"), "  %7 = const f32[] { 6}\n",
           strlen("  %7 = const f32[] { 6}\n"));
    Graph *a = graph_parse(&module, &mem, fixed);
    cr_assert(a != NULL, "%s", diag.line.n ? diag.line.at[0] : "?");
    const char *why;
    cr_expect(graph_verify(a, &why), "%s", why);
    char *once = text_of(a);
    Graph *b = graph_parse(&module, &mem, once);
    cr_assert(b != NULL, "%s", diag.line.n ? diag.line.at[0] : "?");
    char *twice = text_of(b);
    cr_expect_str_eq(once, twice);
    cr_expect(strstr(once, "i64['a b',$k + 2*fdiv(N, 2)]") != NULL, "%s", once);
    cr_expect(strstr(once, "const f32[4] {1, 0.100000001, -0, inf} \"w\"") != NULL, "%s", once);
    cr_expect(strstr(once, " = Split(%4) {axis=1, num_outputs=2} : f32[N,2], f32[N,2] ; \"\" #0") != NULL, "%s", once);
    free(once), free(twice);
}

Test(graph, large_constants_are_hashes)
{
    Tensor *t = tensor_new(&mem, DT_f32, 2, (int64_t[]){4, 300});
    dtype_store(DT_f32, (void *)t->data, 5, 1);
    graph_output(g, emit(g, "MatMul", NULL, 2, x, graph_const(g, t, "w")), "y");
    char *text = text_of(g);
    cr_expect(strstr(text, "const f32[4,300] @") && strstr(text, "MatMul(%1, %2) : f32[N,300]"), "%s", text);
    Graph *b = graph_parse(&module, &mem, text);
    cr_assert(b != NULL);
    cr_expect(dtype_load(DT_f32, b->val.at[2].konst->data, 5) == 0);
    free(text);
}

Test(graph, placeholders_are_not_shared)
{
    static const char text[] =
        "graph (%1: f32[100]) -> (%5) {\n"
        "  %2 = const f32[100] @1111111111111111\n  %3 = const f32[100] @2222222222222222 \"b\"\n"
        "  %4 = Add(%1, %2)\n  %5 = Add(%4, %3)\n}";
    Graph *a = graph_parse(&module, &mem, text);
    cr_assert(a != NULL);
    cr_expect(a->node.n == 2 && a->val.n == 6);
    for (int i = 0; i < 200; i++) graph_const(a, tensor_scalar(&mem, DT_f32, i), NULL);
    cr_expect(a->consts == 202);
}

Test(graph, bad_text_is_reported)
{
    static const char *const bad[] = {"",
                                      "graph",
                                      "graph (%1: f32[N]) -> (%2) {}",
                                      "graph () -> () { %1 = Nope() }",
                                      "graph (%1: f32[N]) -> (%2) { %2 = Relu(%1) : f32[M] }",
                                      "graph (%1: f32[N) -> () {}",
                                      "graph (%1: f32[N]) -> () { %2 = Relu(%3) }",
                                      "graph () -> () {} x",
                                      "graph () -> () { %1 = const f32[99999999999] @0 }",
                                      "graph () -> () { %1 = Relu(%1) {q=1} }"};
    for (uint32_t i = 0; i < COUNT_OF(bad); i++) {
        unsigned before = diag.errors;
        cr_expect(!graph_parse(&module, &mem, bad[i]) && diag.errors > before, "%s", bad[i]);
    }
}

Test(graph, copies_keep_meaning_and_names)
{
    Val y = emit(g, "Relu", &loc, 1, emit(g, "NonZero", &loc, 1, x));
    graph_val(g, y)->name = "y";
    Graph *to = graph_new(&module, &mem, "copy");
    Val *map = NEW_ARRAY(&mem, Val, g->val.n);
    map[x.id] = graph_input(to, "x", *val_type(g, x));
    for (uint32_t i = 0; i < g->node.n; i++) graph_copy_node(to, g, i, map);
    const Value *v = graph_val(to, map[y.id]);
    cr_expect_str_eq(v->name, "y");
    cr_expect(to->node.n == 2 && to->node.at[1].loc == &loc);
    cr_expect_str_eq(type_text(&module, &v->type, &mem), type_text(&module, val_type(g, y), &mem));
}

Test(graph, elements_that_say_sizes_are_symbols)
{
    Val shape = graph_input(g, "s", TYPE(i64, 1, "2")), many = graph_input(g, "m", TYPE(i64, 1, "65"));
    Val real = graph_input(g, "r", TYPE(f32, 1, "2"));
    graph_track(g, shape), graph_track(g, many), graph_track(g, real);
    cr_assert_eq(graph_val(g, shape)->elems, 2);
    cr_expect(!graph_val(g, many)->elem && !graph_val(g, real)->elem);
    Val sum = emit(g, "Add", &loc, 2, shape, ints(2, 0, 1)), y = emit(g, "ConstantOfShape", &loc, 1, sum);
    expect_type(y, "f32[$'s[0]',$'s[1]' + 1]");
    graph_output(g, y, "y");
    Graph *copy = graph_new(&module, &mem, "copy");
    Val *map = graph_begin(copy, g, &mem);
    for (uint32_t i = 0; i < g->node.n; i++) graph_copy_node(copy, g, i, map);
    for (int a = 0; a < 2; a++) cr_expect(dim_same(val_type(copy, map[y.id])->dim[a], val_type(g, y)->dim[a]), "no new symbols");
    expect_sound();
}

Test(graph, data_tells_the_size_of_a_reshape)
{
    Val shape = graph_input(g, "s", TYPE(i64, 1, "2")), none = graph_input(g, "z", TYPE(i64, 1, "1"));
    graph_track(g, shape);
    Val y = emit(g, "Reshape", &loc, 2, x, shape);
    int64_t v, zero_hole[] = {8, 0, -1}, sizes[] = {8, 4, 8}; /* N, s[0], s[1] */
    cr_assert_eq(dim_symbols(module.dim), 3);
    cr_expect(dim_eval(module.dim, val_type(g, y)->dim[0], zero_hole, &v) && v == 8);
    cr_expect(dim_eval(module.dim, val_type(g, y)->dim[1], zero_hole, &v) && v == 4);
    cr_expect(dim_eval(module.dim, val_type(g, y)->dim[0], sizes, &v) && v == 4);
    cr_expect(dim_eval(module.dim, val_type(g, y)->dim[1], sizes, &v) && v == 8);
    expect_type(emit(g, "Reshape", &loc, 2, x, none), "f32[4*N]"); /* one size: the count tells it, nothing is read */
}

Test(graph, uses_and_damage)
{
    Val y = emit(g, "Add", NULL, 2, x, x), z = emit(g, "Relu", NULL, 1, y);
    graph_output(g, z, "z"), graph_output(g, z, "again");
    uint16_t *uses = graph_uses(g, &mem);
    cr_expect(uses[x.id] == 2 && uses[y.id] == 1 && uses[z.id] == 2);
    const char *why;
    expect_sound();
    g->operand.at[g->node.at[0].in] = z;
    cr_expect_not(graph_verify(g, &why));
    cr_expect_str_eq(why, "a value is used before it is defined");
}
