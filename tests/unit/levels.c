/* Levels of an artefact that has all of them: which get code of their own for a kernel, and what others run there. */
#include "codegen/artefact.h"
#include "tests/unit/worlds.h"
#include <stdlib.h>

static World w;
static void setup(void) { world_open(&w); }
static void teardown(void) { world_close(&w); }
TestSuite(levels, .init = setup, .fini = teardown);

/* The levels that --emit kernel names for the graph's one kernel. */
static char *levels_of(const char *graph)
{
    char *text = NULL, *found = calloc(1, 1024);
    size_t n = 0;
    FILE *f = open_memstream(&text, &n), *to = fmemopen(found, 1024, "w");
    Graph *g = graph_parse(&w.module, &w.mem, graph);
    cr_assert(g, "%s", w.diag.line.n ? w.diag.line.at[0] : "?");
    CodegenOptions o = {.target = "portable", .emit = "kernel", .text = f, .quiet = true};
    cr_assert(codegen_graph(graph_with_constants(&w, g), &o, &w.diag), "%s", w.diag.line.n ? w.diag.line.at[0] : "?");
    fclose(f);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (*line == '#') fprintf(to, "%s%s", ftell(to) ? " " : "", strrchr(line, '_') + 1);
    fclose(to);
    free(text);
    return found;
}

#define GRAPH(head, body) "graph \"g\" (" head ") -> (%9 \"y\") {\n  %9 = " body "\n}\n"
static const struct {
    const char *what, *levels, *graph;
} rows[] = {
    {"floats", "portable avx2 avx512", GRAPH("%1 \"x\": f32[B,S,128], %2 \"w\": f32[128,96]", "MatMul(%1, %2)")},
    {"integers", "portable avx2 avxvnni avx512 avx512vnni amx",
     GRAPH("%1 \"x\": u8[B,S,128], %2 \"w\": i8[128,96]", "octet.MatMulDot(%1, %2)")},
    {"codes in blocks", "portable avx2 avxvnni avx512 avx512vnni amx",
     GRAPH("%1 \"x\": i8[B,S,4,32], %2 \"w\": u8[4,4,4,96], %3 \"x2\": f32[B,S,4], %4 \"x3\": f32[B,S,4], %5 \"s\": f32[4,96], %6 \"z\": u8[4,96]",
           "octet.BlockProduct(%1, %2, %3, %4, %5, %6) {bits=4}")},
};

Test(levels, integers_have_code_of_their_own_on_each)
{
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char *levels = levels_of(rows[i].graph);
        cr_expect_str_eq(levels, rows[i].levels, "%s: %s", rows[i].what, levels);
        free(levels);
    }
}
