/* pass.c - read the table to know what the compiler does to a graph; the runner prints, verifies and times each pass. */
#include "ir/base/stage.h"
#include "passes/passes.h"
#include "passes/quantize.h"
#include <assert.h>

static bool quantizing(const PassCtx *ctx) { return ctx->quant && !ctx->quant->float_activations; }

static bool equalizing(const PassCtx *ctx) { return ctx->quant && ctx->quant->equalize; }

static bool rotating(const PassCtx *ctx) { return ctx->quant && ctx->quant->rotate; }

static bool coding(const PassCtx *ctx) { return ctx->quant && ctx->quant->table.code; }

static bool rounding(const PassCtx *ctx) { return ctx->values == VALUES_INT8; }

static bool filtering(const PassCtx *ctx) { return ctx->winograd != NULL; }

static const Pass pipeline[] = {
    {"expand", pass_expand, NULL, "only rows with a body or a lowering remain"},
    {"simplify", pass_simplify, NULL, "no identity, no pair that cancels, no affine map behind a contraction"},
    {"equalize", pass_equalize, equalizing, "a channel's weights are as large in the contraction that makes it as in those that read it"},
    {"rotate", pass_rotate, rotating, "streams of RMS norms are turned: no channel of theirs is much larger than the others"},
    {"quantize", pass_quantize, quantizing, "Q/DQ around every quantized contraction, by the ranges"},
    {"codes", pass_codes, coding, "weights of float products, where asked for or no slower, and tables are constants behind a DequantizeLinear"},
    {"integer", pass_integer, NULL, "contractions between DequantizeLinear and QuantizeLinear are integer operators"},
    {"blocks", pass_blocks, rounding, "products of float values with weights in few bits round these values in blocks"},
    {"expand-integer", pass_expand, NULL, "integer operators are raw dot products and elementwise arithmetic"},
    {"finish", pass_finish, NULL, "no constant is dequantized while the model runs where that costs speed"},
    {"scale", pass_scale, quantizing, "the constants between an integer sum and the next quantizer are one factor and one summand"},
    {"winograd", pass_winograd, filtering, "float convolutions of stride 1 multiply less where that pays"},
};

const Pass *pass_at(uint32_t i) { return i < COUNT_OF(pipeline) ? &pipeline[i] : NULL; }

static bool named(const char *want, const Pass *p) { return want && !strcmp(want, p->name); }

static Graph *pass_run(const Pass *p, const Graph *in, PassCtx *ctx, const PassRun *run)
{
    double start = seconds_now();
    Graph *g = p->run(in, ctx);
    const char *why = NULL;
    if (run->time) fprintf(run->text, "%-16s %8.1f ms  %u nodes\n", p->name, (seconds_now() - start) * 1e3, g->node.n);
    if (run->verify && !ctx->module->diag->errors && !graph_verify(g, &why)) {
        fprintf(stderr, "octet: internal error: after pass '%s': %s\n", p->name, why);
        graph_print(g, stderr);
        assert(!"a pass made an invalid graph");
    }
    if (named(run->print_after, p)) graph_print(g, run->text);
    arena_drop(ctx->scratch);
    pass_rest(ctx);
    return g;
}

Graph *passes_run(const Graph *in, PassCtx *ctx, const char *from, const char *to, const PassRun *run)
{
    const Graph *g = in;
    bool on = !from;
    for (const Pass *p = pipeline; p < pipeline + COUNT_OF(pipeline); p++) {
        on = on || named(from, p);
        if (!on) continue;
        bool wanted = (!p->wanted || p->wanted(ctx)) && !named(run->disable, p);
        if (wanted) g = pass_run(p, g, ctx, run);
        if (ctx->module->diag->errors) break; /* an expansion refused its node: what follows would need its types */
        if (named(to, p) || named(run->stop_after, p)) break;
    }
    return (Graph *)g;
}
