/* The importer: names, order, constants, functions, branches, old forms; models are spelt out byte by byte. */
#include "frontend/import.h"
#include "tests/unit/wire.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FLOATS = 1, INT64S = 7, BOOLS = 9 };
typedef struct Model {
    Wire graph, extra;
    int opset;
} Model;

static Arena mem;
static Diag diag;

static Wire value_info(const char *name, int type, int n, const int64_t *dim, const char *const *param)
{
    Wire shape = {0}, tensor = {0}, t = {0}, v = {0};
    for (int i = 0; i < n; i++) {
        Wire d = {0};
        if (param && param[i]) wire_text(&d, 2, param[i]);
        else if (dim) wire_int(&d, 1, dim[i]);
        wire_sub(&shape, 1, &d);
    }
    wire_int(&tensor, 1, type), wire_sub(&tensor, 2, &shape), wire_sub(&t, 1, &tensor);
    wire_text(&v, 1, name), wire_sub(&v, 2, &t);
    return v;
}

static void input(Model *m, const char *name, int type, int n, const int64_t *dim)
{
    Wire v = value_info(name, type, n, dim, NULL);
    wire_sub(&m->graph, 11, &v);
}

static void output(Wire *graph, const char *name)
{
    Wire v = {0};
    wire_text(&v, 1, name);
    wire_sub(graph, 12, &v);
}

static Wire attr_int(const char *name, int64_t v)
{
    Wire a = {0};
    wire_text(&a, 1, name), wire_int(&a, 3, v), wire_int(&a, 20, 2);
    return a;
}

static Wire attr_ints(const char *name, int64_t v)
{
    Wire a = {0};
    wire_text(&a, 1, name), wire_int(&a, 8, v), wire_int(&a, 20, 7);
    return a;
}

static Wire attr_graph(const char *name, const Wire *g)
{
    Wire a = {0};
    wire_text(&a, 1, name), wire_sub(&a, 6, g), wire_int(&a, 20, 5);
    return a;
}

/* "Op in,in out attr": commas separate names. */
static void list(Wire *node, uint32_t field, const char *names)
{
    for (const char *p = names; p;) {
        size_t n = strcspn(p, ",");
        wire_bytes(node, field, p, n);
        p = p[n] ? p + n + 1 : NULL;
    }
}

static void node(Wire *graph, uint32_t field, const char *op, const char *in, const char *out, const Wire *a,
                 const Wire *b)
{
    Wire n = {0};
    if (*in) list(&n, 1, in);
    list(&n, 2, out);
    wire_text(&n, 4, op);
    if (a) wire_sub(&n, 5, a);
    if (b) wire_sub(&n, 5, b);
    wire_sub(graph, field, &n);
}

static void initializer(Wire *graph, const char *name, int type, int64_t count, const void *raw, size_t n)
{
    Wire t = {0};
    wire_int(&t, 1, count), wire_int(&t, 2, type), wire_text(&t, 8, name), wire_bytes(&t, 9, raw, n);
    wire_sub(graph, 5, &t);
}

static Graph *import_with(const Model *m, const ImportOptions *o)
{
    Wire opset = {0}, w = {0};
    wire_int(&opset, 2, m->opset ? m->opset : 17);
    wire_int(&w, 1, 8), wire_sub(&w, 7, &m->graph), wire_sub(&w, 8, &opset);
    memcpy(w.at + w.n, m->extra.at, m->extra.n), w.n += m->extra.n;
    char path[] = "/tmp/octet-import-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, w.at, w.n), (ssize_t)w.n);
    close(fd);
    diag = (Diag){.mem = &mem, .subject = "m"};
    Graph *g = import_file(module_new(&mem, &diag, path), &mem, path, o);
    unlink(path);
    return g;
}

static Graph *imports(const Model *m)
{
    Graph *g = import_with(m, NULL);
    cr_assert_not_null(g, "%s", diag.line.n ? diag.line.at[0] : "no reason");
    return g;
}

static void refuses(const Model *m, const char *why)
{
    cr_assert_null(import_with(m, NULL));
    for (uint32_t i = 0; i < diag.line.n; i++)
        if (strstr(diag.line.at[i], why)) return;
    cr_assert_fail("'%s' does not say '%s'", diag.line.n ? diag.line.at[0] : "", why);
}

static bool has_op(const Graph *g, const char *op)
{
    for (uint32_t i = 0; i < g->node.n; i++)
        if (node_is(&g->node.at[i], op)) return true;
    return false;
}

static Model with_input(void)
{
    Model m = {0};
    input(&m, "x", FLOATS, 2, (int64_t[]){2, 3});
    return m;
}

Test(import, order_does_not_matter)
{
    Model m = with_input();
    node(&m.graph, 1, "Abs", "a", "y", NULL, NULL), node(&m.graph, 1, "Neg", "x", "a", NULL, NULL);
    output(&m.graph, "y");
    Graph *g = imports(&m);
    cr_assert(node_is(&g->node.at[0], "Neg"));
    cr_assert(node_is(&g->node.at[1], "Abs"));
}

Test(import, cycles_undefined_names_and_duplicates_are_errors)
{
    Model cycle = with_input();
    node(&cycle.graph, 1, "Add", "x,b", "a", NULL, NULL), node(&cycle.graph, 1, "Neg", "a", "b", NULL, NULL);
    output(&cycle.graph, "b");
    refuses(&cycle, "cycle");
    Model undefined = with_input();
    node(&undefined.graph, 1, "Add", "x,q", "y", NULL, NULL), output(&undefined.graph, "y");
    refuses(&undefined, "input 'q' is not defined");
    Model twice = with_input();
    node(&twice.graph, 1, "Neg", "x", "y", NULL, NULL), node(&twice.graph, 1, "Abs", "x", "y", NULL, NULL);
    output(&twice.graph, "y");
    refuses(&twice, "defined twice");
    Model more = with_input();
    node(&more.graph, 1, "OptionalHasElement", "x", ",y", NULL, NULL), output(&more.graph, "y");
    refuses(&more, "output 'y' is one more than the operator has");
    Model hole = with_input();
    node(&hole.graph, 1, "Min", "x,,x", "y", NULL, NULL), output(&hole.graph, "y");
    refuses(&hole, "input 1 of inputs is missing");
    Model nothing = with_input();
    output(&nothing.graph, "y");
    refuses(&nothing, "not computed");
}

Test(import, all_blockers_are_reported_together)
{
    Model m = with_input();
    node(&m.graph, 1, "Foo", "x", "a", NULL, NULL), node(&m.graph, 1, "Bar", "a", "b", NULL, NULL);
    node(&m.graph, 1, "Foo", "b", "y", NULL, NULL);
    output(&m.graph, "y");
    refuses(&m, "#1 (Bar)");
    cr_assert_eq(diag.errors, 2, "one error for each operator");
    cr_assert(strstr(diag.line.at[1], "1 more Foo node"));
}

Test(import, attributes_are_checked)
{
    Model m = with_input();
    Wire wrong = attr_int("axis", 1), unknown = attr_int("colour", 1), kind = attr_ints("axis", 1);
    node(&m.graph, 1, "Softmax", "x", "y", &wrong, &unknown), output(&m.graph, "y");
    refuses(&m, "unknown attribute 'colour'");
    Model k = with_input();
    node(&k.graph, 1, "Softmax", "x", "y", &kind, NULL), output(&k.graph, "y");
    refuses(&k, "is a list of integers, expected an integer");
}

Test(import, initializers_that_are_inputs_are_constants)
{
    Model m = with_input();
    const float w[] = {1, 2, 3};
    input(&m, "w", FLOATS, 1, (int64_t[]){3});
    initializer(&m.graph, "w", FLOATS, 3, w, sizeof w);
    node(&m.graph, 1, "Mul", "x,w", "y", NULL, NULL), output(&m.graph, "y");
    cr_assert_eq(imports(&m)->input.n, 1);
}

Test(import, weights_are_checked)
{
    const float w[] = {1, 2, 3};
    Model shorter = with_input();
    initializer(&shorter.graph, "w", FLOATS, 4, w, sizeof w);
    node(&shorter.graph, 1, "Mul", "x,w", "y", NULL, NULL), output(&shorter.graph, "y");
    refuses(&shorter, "12 bytes of data, its type and sizes need 16");
    Model huge = with_input();
    initializer(&huge.graph, "w", FLOATS, INT64_MAX / 2, w, sizeof w);
    output(&huge.graph, "x");
    refuses(&huge, "too many elements");
    Model unknown = with_input();
    initializer(&unknown.graph, "w", 99, 3, w, sizeof w);
    output(&unknown.graph, "x");
    refuses(&unknown, "unknown element type 99");
}

static Model external(const char *location, const char *offset)
{
    Model m = with_input();
    Wire t = {0}, key = {0}, at = {0};
    wire_text(&key, 1, "location"), wire_text(&key, 2, location);
    wire_text(&at, 1, "offset"), wire_text(&at, 2, offset);
    wire_int(&t, 1, 3), wire_int(&t, 2, FLOATS), wire_text(&t, 8, "w"), wire_sub(&t, 13, &key), wire_sub(&t, 13, &at),
        wire_int(&t, 14, 1);
    wire_sub(&m.graph, 5, &t);
    output(&m.graph, "x");
    return m;
}

Test(import, external_data_stays_in_the_folder)
{
    const struct {
        const char *location, *offset, *why;
    } cases[] = {{"../../etc/passwd", "0", "must lie in the model's folder"},
                 {"a/../../etc/passwd", "0", "must lie in the model's folder"},
                 {"/etc/passwd", "0", "absolute"},
                 {"", "0", "empty"},
                 {".", "0", "part"},
                 {"a/", "0", "folder"},
                 {"a\\b", "0", "backslash"},
                 {"octet-no-such-file", "0", "cannot open"},
                 {"x", "-1", "offset"},
                 {"x", "1e9", "offset"},
                 {"x", "18446744073709551616", "offset"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Model m = external(cases[i].location, cases[i].offset);
        refuses(&m, cases[i].why);
    }
    cr_assert_eq(symlink("/etc/passwd", "/tmp/octet-import-link"), 0);
    Model m = external("octet-import-link", "0");
    cr_assert_null(import_with(&m, NULL));
    unlink("/tmp/octet-import-link");
    cr_assert(strstr(diag.line.at[0], "symbolic links"));
}

Test(import, sizes_have_names_and_can_be_fixed)
{
    Model m = {0};
    Wire v = value_info("x", FLOATS, 2, (int64_t[]){0, -1}, (const char *const[]){"N", NULL});
    wire_sub(&m.graph, 11, &v);
    node(&m.graph, 1, "Neg", "x", "y", NULL, NULL), output(&m.graph, "y");
    Graph *g = imports(&m);
    cr_assert_str_eq(type_text(g->module, val_type(g, g->input.at[0]), &mem), "f32[N,x_d1]");
    const DimValue fixed[] = {{"N", 5}, {"x_d1", 7}};
    g = import_with(&m, &(ImportOptions){.dim = fixed, .dims = 2});
    cr_assert_str_eq(type_text(g->module, val_type(g, g->input.at[0]), &mem), "f32[5,7]");
    const DimValue wrong[] = {{"M", 5}};
    cr_assert_null(import_with(&m, &(ImportOptions){.dim = wrong, .dims = 1}));
}

Test(import, inputs_can_be_frozen)
{
    Model m = with_input();
    input(&m, "k", FLOATS, 0, NULL);
    node(&m.graph, 1, "Mul", "x,k", "y", NULL, NULL), output(&m.graph, "y");
    const Frozen f[] = {{"k", "2.5"}};
    Graph *g = import_with(&m, &(ImportOptions){.frozen = f, .frozens = 1});
    cr_assert_not_null(g);
    cr_assert_eq(g->input.n, 1);
}

static Wire branch(const char *op)
{
    Wire g = {0};
    node(&g, 1, op, "x", "r", NULL, NULL), output(&g, "r");
    return g;
}

Test(import, known_if_is_its_branch)
{
    for (int condition = 0; condition < 2; condition++) {
        Model m = with_input();
        uint8_t c = (uint8_t)condition;
        Wire yes = branch("Neg"), no = branch("Abs"), a = attr_graph("then_branch", &yes),
             b = attr_graph("else_branch", &no);
        initializer(&m.graph, "c", BOOLS, 1, &c, 1);
        node(&m.graph, 1, "If", "c", "y", &a, &b), output(&m.graph, "y");
        Graph *g = imports(&m);
        cr_assert_eq(has_op(g, "Neg"), condition);
        cr_assert_eq(has_op(g, "Abs"), !condition);
    }
}

/* x.squeeze() as PyTorch exports it: which branch is right only the size tells, so a call must have the size of the first. */
Test(import, sizes_choose_the_first_branch)
{
    Model m = {0};
    Wire x = value_info("x", FLOATS, 2, NULL, (const char *const[]){"N", "K"}), yes = {0}, no = {0};
    int64_t zero = 0, one = 1;
    wire_sub(&m.graph, 11, &x);
    initializer(&m.graph, "zero", INT64S, 1, &zero, 8), initializer(&m.graph, "one", INT64S, 1, &one, 8);
    node(&m.graph, 1, "Shape", "x", "s", NULL, NULL), node(&m.graph, 1, "Gather", "s,zero", "n", NULL, NULL);
    node(&m.graph, 1, "Equal", "n,one", "c", NULL, NULL);
    node(&yes, 1, "Flatten", "x", "r", NULL, NULL), node(&yes, 1, "Reshape", "r,minus", "t", NULL, NULL), output(&yes, "t");
    int64_t minus = -1;
    initializer(&m.graph, "minus", INT64S, 1, &minus, 8);
    node(&no, 1, "Identity", "x", "r", NULL, NULL), output(&no, "r");
    Wire a = attr_graph("then_branch", &yes), b = attr_graph("else_branch", &no);
    node(&m.graph, 1, "If", "c", "y", &a, &b), output(&m.graph, "y");
    Graph *g = imports(&m);
    const Guard *guard;
    uint32_t guards = dim_guards(g->module->dim, &guard);
    cr_assert_eq(val_type(g, g->output.at[0])->rank, 1);
    cr_assert_geq(guards, 1);
    cr_assert_str_eq(guard[guards - 1].why, "the sizes choose the first branch of If");
}

Test(import, unknown_if_is_refused_for_what_is_inside)
{
    Model m = with_input();
    Wire yes = branch("Neg"), no = branch("Mystery"), a = attr_graph("then_branch", &yes),
         b = attr_graph("else_branch", &no);
    input(&m, "c", BOOLS, 0, NULL);
    node(&m.graph, 1, "If", "c", "y", &a, &b), output(&m.graph, "y");
    refuses(&m, "(Mystery): error: operator is not supported");
    cr_assert_eq(diag.errors, 1);
}

static void function(Model *m, const char *name, const char *callee)
{
    Wire f = {0}, opset = {0};
    wire_int(&opset, 2, 17);
    wire_text(&f, 1, name), wire_text(&f, 4, "a"), wire_text(&f, 5, "b"), wire_text(&f, 10, "");
    node(&f, 7, callee, "a", "b", NULL, NULL);
    wire_sub(&f, 9, &opset);
    wire_sub(&m->extra, 25, &f);
}

Test(import, functions_are_inlined_and_bounded)
{
    Model m = with_input();
    function(&m, "Twice", "Neg");
    node(&m.graph, 1, "Twice", "x", "y", NULL, NULL), output(&m.graph, "y");
    cr_assert(has_op(imports(&m), "Neg"));
    Model loop = with_input();
    function(&loop, "Ouro", "Boros"), function(&loop, "Boros", "Ouro");
    node(&loop.graph, 1, "Ouro", "x", "y", NULL, NULL), output(&loop.graph, "y");
    refuses(&loop, "call each other");
}

Test(import, old_forms_become_new_ones)
{
    Model squeeze = {.opset = 11};
    input(&squeeze, "x", FLOATS, 2, (int64_t[]){1, 3});
    Wire axes = attr_ints("axes", 0);
    node(&squeeze.graph, 1, "Squeeze", "x", "y", &axes, NULL), output(&squeeze.graph, "y");
    Graph *g = imports(&squeeze);
    cr_assert_eq(val_type(g, g->output.at[0])->rank, 1);
    Model softmax = {.opset = 11};
    input(&softmax, "x", FLOATS, 3, (int64_t[]){2, 3, 4});
    node(&softmax.graph, 1, "Softmax", "x", "y", NULL, NULL), output(&softmax.graph, "y");
    g = imports(&softmax);
    cr_assert_eq(val_type(g, g->output.at[0])->rank, 3);
    cr_assert_gt(g->node.n, 1, "flattened before");
}

Test(import, versions_are_checked)
{
    Model m = with_input();
    m.opset = 99;
    output(&m.graph, "x");
    refuses(&m, "opset 99 of ai.onnx is not supported");
}
