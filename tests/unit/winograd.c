/* winograd.c - minimal filtering: every row of the table computes what the convolution does, the cost model's limits, and the pass. */
#include "passes/winograd.h"
#include "ir/winograd.h"
#include "passes/passes.h"
#include "tests/unit/kernel_runs.h"
#include "tests/unit/worlds.h"

static Val emit_pads(World *w, Graph *g, const char *domain, const char *name, const int64_t *outputs, const Tensor *x, const Tensor *weights)
{
    const OpDef *op = op_find(domain, name);
    Attr *attr = op_attr_defaults(&w->mem, op);
    attr_set_ints(op, attr, "pads", (int64_t[]){1, 0, 1, 2}, 4);
    if (outputs) attr_set_ints(op, attr, "outputs", outputs, 2);
    return graph_emit(g, op, attr, (Val[]){graph_const(g, x, NULL), graph_const(g, weights, NULL)}, 2, 1, NULL, NULL);
}

static void compare_rows(int outputs_y, int outputs_x, int taps_y, int taps_x, DType product, double room)
{
    World w;
    world_open(&w);
    Graph *g = graph_new(&w.module, &w.mem, "g");
    WinogradPair f = {winograd_find(outputs_y, taps_y), winograd_find(outputs_x, taps_x)};
    cr_assert(f.y && f.x);
    const Tensor *x = tensor_random(&w.mem, DT_f32, 4, (int64_t[]){2, 5, 9, 10}, 1),
                 *weights = tensor_random(&w.mem, DT_f32, 4, (int64_t[]){3, 5, taps_y, taps_x}, 2);
    Val want = emit_pads(&w, g, "", "Conv", NULL, x, weights);
    Val got = emit_pads(&w, g, "octet", "ConvWinograd", (int64_t[]){outputs_y, outputs_x}, x, winograd_filter(&w.mem, f, weights, product));
    const Tensor *a = graph_val(g, want)->konst, *b = graph_val(g, got)->konst;
    cr_assert(a && b && a->dim[2] == b->dim[2] && a->dim[3] == b->dim[3]);
    for (int64_t i = 0; i < tensor_count(a); i++)
        cr_assert_float_eq(dtype_load(DT_f32, a->data, i), dtype_load(DT_f32, b->data, i), room, "%d %d %d %d at %d", outputs_y, outputs_x, taps_y,
                           taps_x, (int)i);
    world_close(&w);
}

Test(winograd, rows_compute_convolutions)
{
    static const int row[][4] = {{2, 2, 3, 3}, {4, 4, 3, 3}, {2, 4, 3, 3}, {1, 4, 1, 3}, {4, 1, 3, 1}, {1, 2, 1, 3}};
    for (size_t i = 0; i < COUNT_OF(row); i++) compare_rows(row[i][0], row[i][1], row[i][2], row[i][3], DT_f32, 2e-4);
    compare_rows(2, 2, 3, 3, DT_bf16, 0.2), compare_rows(1, 2, 1, 3, DT_bf16, 0.2);
}

Test(winograd, the_cost_model_leaves_small_layers_alone)
{
    WinogradPair f;
    cr_assert(!winograd_choose(&(WinogradShape){3, 64, 3, 3, 224, 224, DT_f32}, &f), "three channels");
    cr_assert(!winograd_choose(&(WinogradShape){64, 64, 1, 1, 56, 56, DT_f32}, &f), "one tap");
    cr_assert(!winograd_choose(&(WinogradShape){512, 512, 3, 3, -1, -1, DT_f32}, &f), "weights that do not fit, read again for every block");
    cr_assert(winograd_choose(&(WinogradShape){64, 64, 3, 3, 56, 56, DT_f32}, &f) && f.y->outputs == 4 && f.x->outputs == 4);
    cr_assert(winograd_choose(&(WinogradShape){64, 64, 3, 3, -1, -1, DT_f32}, &f));
}

Test(winograd, the_type_of_products_decides)
{
    WinogradPair f;
    cr_assert(winograd_choose(&(WinogradShape){64, 64, 3, 3, 56, 56, DT_bf16}, &f));
    cr_assert(f.y->outputs == 2 && f.x->outputs == 2, "larger tiles lose too many bits");
    cr_assert(winograd_choose(&(WinogradShape){16, 16, 3, 3, 56, 56, DT_f32}, &f));
    cr_assert(!winograd_choose(&(WinogradShape){16, 16, 3, 3, 56, 56, DT_bf16}, &f), "products are cheap, transforms are not");
    cr_assert(!winograd_choose(&(WinogradShape){64, 64, 3, 3, 56, 56, DT_f16}, &f), "no such row");
}

/* A convolution through the pass, which is told to make products of `product`, and to keep nodes that `keep` names. */
static DType through_pass(DType product, const char *keep, double *error)
{
    World w;
    regex_t kept;
    world_open(&w);
    if (keep) cr_assert(!regcomp(&kept, keep, REG_EXTENDED | REG_NOSUB));
    WinogradNote note = {.product = product, .keep = keep ? &kept : NULL};
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .winograd = &note};
    Graph *g = graph_new(&w.module, &w.mem, "g");
    Type x = {.dtype = DT_f32, .rank = 4};
    static const int64_t image[] = {1, 64, 28, 28};
    for (int d = 0; d < 4; d++) x.dim[d] = dim_const(w.module.dim, image[d]);
    const OpDef *conv = op_find("", "Conv");
    Attr *attr = op_attr_defaults(&w.mem, conv);
    attr_set_ints(conv, attr, "pads", (int64_t[]){1, 1, 1, 1}, 4);
    Val in[] = {graph_input(g, "x", x), graph_const(g, tensor_random(&w.mem, DT_f32, 4, (int64_t[]){64, 64, 3, 3}, 3), "w")};
    graph_output(g, graph_emit(g, conv, attr, in, 2, 1, &(Loc){.node = "conv", .op = "Conv"}, NULL), "y");
    g = pass_winograd(g, &ctx);
    const Node *n = &g->node.at[g->node.n - 1];
    cr_assert_str_eq(n->op->name, "ConvWinograd");
    cr_assert_eq(note.convs, 1);
    *error = note.error;
    DType made = val_type(g, node_in(g, n, 1))->dtype;
    if (keep) regfree(&kept);
    world_close(&w);
    return made;
}

Test(winograd, the_pass_says_what_products_cost)
{
    double exact, narrow, kept;
    cr_assert_eq(through_pass(DT_f32, NULL, &exact), DT_f32);
    cr_assert_eq(through_pass(DT_bf16, NULL, &narrow), DT_bf16);
    cr_assert_eq(through_pass(DT_bf16, "^conv$", &kept), DT_f32);
    cr_assert(exact < 1e-5 && exact == kept && narrow > 1e-4 && narrow < 2e-2, "%g %g %g", exact, kept, narrow);
}

Test(winograd, blocks_fit_and_cover)
{
    WinogradPair f = {winograd_find(4, 3), winograd_find(4, 3)};
    int64_t down, across;
    cr_assert(winograd_block(f, &(WinogradShape){64, 64, 3, 3, 224, 224, DT_f32}, &down, &across));
    cr_assert(down * across * 36 * 128 * 4 <= 1 << 20);
    cr_assert(!winograd_block(f, &(WinogradShape){256, 256, 3, 3, 14, 14, DT_f32}, &down, &across));
    cr_assert_eq(down * across, 16);
}

#define D(a) "guard(0 <= t * 2 + " #a " - 1 && t * 2 + " #a " - 1 < 29, x[0, c, p, t * 2 + " #a " - 1], 0)"
#define M(a) "m[p, " #a ", u, o]"
Test(winograd, stages_through_every_step)
{ /* F(2, 3) along rows of 29, a block a row, into the halo of another */
    Program *p = program_new("kernel k() { in X[1, 16, 9, 29] const U[4, 16, 16], B[16] out Y[1, 16, 9, 29]"
                             " tmp x[1, 16, 9, 29] layout(0, 2, 3, 1), v[9, 4, 15, 16], m[9, 4, 15, 16], y[1, 16, 9, 29] layout(0, 2, 3, 1)"
                             " x[n, c, h, w] = tanh(X[n, c, h, w])"
                             " v[p, i, t, c] = guard(i == 0, " D(0) " - " D(2) ", guard(i == 1, " D(2) " + " D(1) ", guard(i == 2, " D(2) " - " D(1)
                             ", " D(1) " - " D(3) "))) share 1"
                             " m[p, i, r, o] = sum(k: 16) v[p, i, r, k] * U[i, k, o] share 1"
                             " y[0, o, p, u * 2 + s] for p: 9, u: 15, s: 2, o: 16 = guard(s == 0, " M(0) " + (" M(1) " + " M(2) "), (" M(1) " - " M(2)
                             ") - " M(3) ") where u * 2 + s < 29 share 1"
                             " Y[n, o, h, w] = max(y[n, o, h, w] + B[o], 0) }");
    Cut *c = program_through(p);
    cr_assert_eq(c->steps, 3, "halo and its border, blocks"); /* bias and maximum are stored by the last stage */
    program_drop(p);
}
