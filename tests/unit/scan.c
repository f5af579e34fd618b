/* The pre-scan: what protobuf-c could be harmed with is refused or removed before it sees it. The message type is the model's,
 * reached through import_file(), so these tests need no generated header. */
#include "frontend/import.h"
#include "tests/unit/wire.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

static Arena mem;
static Diag diag;

static Graph *import_bytes(const uint8_t *p, size_t n)
{
    char path[] = "/tmp/octet-scan-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, p, n), (ssize_t)n);
    close(fd);
    diag = (Diag){.mem = &mem, .subject = ""};
    Graph *g = import_file(module_new(&mem, &diag, path), &mem, path, NULL);
    unlink(path);
    return g;
}

static void refuses(const uint8_t *p, size_t n, const char *why)
{
    cr_assert_null(import_bytes(p, n));
    cr_assert_geq(diag.line.n, 1);
    cr_assert(strstr(diag.line.at[0], why), "'%s' does not say '%s'", diag.line.at[0], why);
}

/* x -> Relu -> y, opset 13. */
static Wire relu_model(void)
{
    Wire dim = {0}, shape = {0}, tensor = {0}, type = {0}, x = {0}, y = {0}, node = {0}, graph = {0}, opset = {0},
         model = {0};
    wire_int(&dim, 1, 4), wire_sub(&shape, 1, &dim);
    wire_int(&tensor, 1, 1), wire_sub(&tensor, 2, &shape), wire_sub(&type, 1, &tensor);
    wire_text(&x, 1, "x"), wire_sub(&x, 2, &type), wire_text(&y, 1, "y");
    wire_text(&node, 1, "x"), wire_text(&node, 2, "y"), wire_text(&node, 4, "Relu");
    wire_sub(&graph, 1, &node), wire_text(&graph, 2, "g"), wire_sub(&graph, 11, &x), wire_sub(&graph, 12, &y);
    wire_int(&opset, 2, 13);
    wire_int(&model, 1, 8), wire_sub(&model, 7, &graph), wire_sub(&model, 8, &opset);
    return model;
}

Test(scan, a_model_passes)
{
    Wire m = relu_model();
    Graph *g = import_bytes(m.at, m.n);
    cr_assert_not_null(g, "%s", diag.line.n ? diag.line.at[0] : "");
    cr_assert_eq(g->input.n, 1);
    cr_assert_eq(g->output.n, 1);
}

Test(scan, every_truncation_is_refused_without_harm)
{
    Wire m = relu_model();
    for (size_t n = 0; n < m.n; n++) {
        Graph *g = import_bytes(m.at, n);
        cr_assert(g || diag.errors, "%zu bytes: neither a graph nor an error", n);
    }
}

Test(scan, every_flipped_byte_ends_in_a_graph_or_an_error)
{
    Wire m = relu_model();
    for (size_t i = 0; i < m.n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            m.at[i] ^= (uint8_t)(1 << bit);
            Graph *g = import_bytes(m.at, m.n);
            cr_assert(g || diag.errors);
            m.at[i] ^= (uint8_t)(1 << bit);
        }
        arena_drop(&mem);
    }
}

Test(scan, depth_is_bounded)
{
    Wire inner = {0};
    wire_text(&inner, 2, "deep");
    for (int i = 0; i < 300 && inner.n < 4000; i++) { /* graph { node { attribute { g ... */
        Wire attribute = {0}, node = {0}, graph = {0};
        wire_sub(&attribute, 6, &inner), wire_sub(&node, 5, &attribute), wire_sub(&graph, 1, &node);
        inner = graph;
    }
    Wire model = {0};
    wire_int(&model, 1, 8), wire_sub(&model, 7, &inner);
    refuses(model.at, model.n, "nested too deeply");
}

Test(scan, repeated_singular_messages_are_refused)
{
    Wire model = {0}, graph = {0};
    wire_text(&graph, 2, "g");
    wire_sub(&model, 7, &graph), wire_sub(&model, 7, &graph);
    refuses(model.at, model.n, "appears twice");
}

Test(scan, bad_wire_is_refused)
{
    const struct {
        uint8_t at[12];
        size_t n;
        const char *why;
    } cases[] = {
        {{0}, 0, "empty"},
        {{0x00, 0x01}, 2, "bad field number"},
        {{0x0b, 0x0c}, 2, "unknown wire type"},
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 6, "overlong"},
        {{0x08, 0x80}, 2, "truncated"},
        {{0x3a, 0x7f}, 2, "truncated"},
        {{0x38, 0x01}, 2, "wrong encoding"},
        {{0x12, 0x02, 0xc0, 0x80}, 4, "not UTF-8"},
        {{0x12, 0x02, 'a', 0x00}, 4, "not UTF-8"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) refuses(cases[i].at, cases[i].n, cases[i].why);
}

Test(scan, unknown_fields_are_left_out)
{
    Wire m = relu_model();
    for (int i = 0; i < 100; i++) wire_text(&m, 900, "nothing of ours");
    cr_assert_not_null(import_bytes(m.at, m.n));
}

Test(scan, memory_is_bounded)
{
    Wire tensor = {0}, graph = {0}, model = {0};
    for (int i = 0; i < 2000; i++) wire_sub(&graph, 5, &tensor);
    wire_int(&model, 1, 8), wire_sub(&model, 7, &graph);
    char path[] = "/tmp/octet-scan-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, model.at, model.n), (ssize_t)model.n);
    close(fd);
    diag = (Diag){.mem = &mem, .subject = ""};
    cr_assert_null(import_file(module_new(&mem, &diag, path), &mem, path, &(ImportOptions){.max_memory = 100000}));
    cr_assert(strstr(diag.line.at[0], "--max-memory"));
    unlink(path);
}
