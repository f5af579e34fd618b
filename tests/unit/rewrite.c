/* The pattern engine of passes/rewrite.h, with rules made for it: names that repeat, constants, absent inputs, use counts, attributes. */
#include "passes/rewrite.h"
#include "tests/unit/worlds.h"
#include <stdlib.h>

static World w;
static void setup(void) { world_open(&w); }
static void teardown(void) { world_close(&w); }
TestSuite(rewrite, .init = setup, .fini = teardown);

/* The operators of the graph after the rules, in order, with what the outputs are. */
static const char *rewritten(const char *graph, const Rule *rules, uint32_t *fired)
{
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch};
    Graph *g = graph_parse(&w.module, &w.mem, graph);
    const char *why, *text = "";
    if (!g) diag_print(&w.diag, stderr);
    cr_assert(g);
    rules_check(rules);
    g = rewrite(g, &ctx, rules, fired);
    cr_assert(graph_verify(g, &why), "%s", why);
    for (uint32_t i = 0; i < g->node.n; i++) text = arena_printf(&w.mem, "%s%s ", text, g->node.at[i].op->name);
    return text;
}
#define GRAPH(lines) "graph \"g\" (%1 \"x\": f32[2,3], %2 \"y\": f32[2,3]) -> (%9 \"z\") {" lines "}"
#define END {NULL, NULL, NULL, NULL, NULL}

Test(rewrite, a_name_twice_is_one_value)
{
    static const Rule rules[] = {{"double", "Add(a, a)", "Neg(a)", NULL, NULL}, END};
    uint32_t fired[1] = {0};
    cr_expect_str_eq(rewritten(GRAPH("%9 = Add(%1, %1)"), rules, fired), "Neg ");
    cr_expect_str_eq(rewritten(GRAPH("%9 = Add(%1, %2)"), rules, fired), "Add ");
    cr_expect(fired[0] == 1);
}

Test(rewrite, constants_and_values)
{
    static const Rule rules[] = {{"const", "Mul(a, #k)", "Neg(a)", NULL, NULL}, END};
    cr_expect_str_eq(rewritten(GRAPH("%3 = const f32[] {2} %9 = Mul(%1, %3)"), rules, NULL), "Neg ");
    cr_expect_str_eq(rewritten(GRAPH("%3 = const f32[] {2} %9 = Mul(%3, %1)"), rules, NULL), "Mul ");
    cr_expect_str_eq(rewritten(GRAPH("%9 = Mul(%1, %2)"), rules, NULL), "Mul ");
}

Test(rewrite, absent_inputs_must_be_allowed)
{
    static const Rule some[] = {{"clip", "Clip(a, lo?, hi?)", "Neg(a)", NULL, NULL}, END};
    static const Rule none[] = {{"clip", "Clip(a, lo)", "Neg(a)", NULL, NULL}, END};
    cr_expect_str_eq(rewritten(GRAPH("%9 = Clip(%1)"), some, NULL), "Neg ");
    cr_expect_str_eq(rewritten(GRAPH("%3 = const f32[] {2} %9 = Clip(%1, _, %3)"), some, NULL), "Neg ");
    cr_expect_str_eq(rewritten(GRAPH("%3 = const f32[] {2} %9 = Clip(%1, _, %3)"), none, NULL), "Clip ");
    cr_expect_str_eq(rewritten(GRAPH("%3 = const f32[] {2} %9 = Clip(%1, %3)"), none, NULL), "Neg ");
}

Test(rewrite, alone_means_no_other_reader)
{
    static const Rule rules[] = {{"fuse", "Neg(!e@Exp(a))", "Abs(a)", NULL, NULL}, END};
    cr_expect_str_eq(rewritten(GRAPH("%3 = Exp(%1) %9 = Neg(%3)"), rules, NULL), "Abs ");
    cr_expect_str_eq(rewritten(GRAPH("%3 = Exp(%1) %4 = Neg(%3) %9 = Add(%3, %4)"), rules, NULL), "Exp Neg Add ");
    /* A reader that no output needs does not count. */
    cr_expect_str_eq(rewritten(GRAPH("%3 = Exp(%1) %4 = Abs(%3) %9 = Neg(%3)"), rules, NULL), "Abs ");
}

Test(rewrite, attributes_come_from_the_named_node)
{
    static const Rule rules[] = {{"swap", "s@Softmax(n@Neg(a))", "Neg(Softmax@s(a))", NULL, NULL}, END};
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch};
    Graph *g = graph_parse(&w.module, &w.mem, GRAPH("%3 = Neg(%1) %9 = Softmax(%3) {axis=0}"));
    g = rewrite(g, &ctx, rules, NULL);
    cr_assert(g->node.n == 2 && node_is(&g->node.at[0], "Softmax") && node_int(&g->node.at[0], "axis") == 0);
}

static bool refuse(const Match *m) { return (void)m, false; }
static Val decline(Match *m) { return (void)m, (Val){0}; }

Test(rewrite, guards_and_makers_may_decline_and_the_next_rule_is_tried)
{
    static const Rule rules[] = {
        {"guarded", "Exp(a)", "Abs(a)", refuse, NULL}, {"declined", "Exp(a)", NULL, NULL, decline}, {"last", "Exp(a)", "Neg(a)", NULL, NULL}, END};
    uint32_t fired[3] = {0};
    cr_expect_str_eq(rewritten(GRAPH("%9 = Exp(%1)"), rules, fired), "Neg ");
    cr_expect(!fired[0] && !fired[1] && fired[2] == 1);
}

Test(rewrite, rounds_go_on_until_nothing_fires)
{
    static const Rule rules[] = {{"twice", "Neg(Neg(a))", "a", NULL, NULL}, END};
    uint32_t fired[1] = {0};
    cr_expect_str_eq(rewritten(GRAPH("%3 = Neg(%1) %4 = Neg(%3) %5 = Neg(%4) %6 = Neg(%5) %9 = Exp(%6)"), rules, fired), "Exp ");
    cr_expect(fired[0] >= 2);
}
