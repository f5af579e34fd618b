/* pass.h - Graph to Graph: the pipeline as one table, and the runner that prints, verifies and times each pass.
 *
 * A pass reads one graph and emits another through graph_emit(); it never fails on a verified graph: it rewrites or asserts.
 * What the user must be told (a region that stays float, a pattern that did not fuse) goes to the report. */
#ifndef OCTET_PASS_H
#define OCTET_PASS_H
#include "ir/op.h"

typedef struct Quantization Quantization;    /* passes/quantize.h; NULL: no quantization asked for */
/* Values that meet weights in few bits are rounded to 8 bits in blocks (adr/0013): where a node of the model says so, nowhere, everywhere. */
typedef enum ValueForm { VALUES_SAID, VALUES_FLOAT, VALUES_INT8 } ValueForm;
typedef struct PassCtx {
    Module *module;
    Arena *mem;                  /* the new graph lives here */
    Arena *scratch;              /* dropped after the pass */
    Quantization *quant;
    struct WinogradNote *winograd; /* passes/winograd.h; NULL: convolutions stay as they are */
    struct IntegerNote *integer; /* passes/integer.h: filled by the pass of that name; NULL: nobody asks */
    bool halves;                 /* products of 16-bit codes that came with the model become integer (adr/0012) */
    ValueForm values;            /* that meet weights in few bits */
    bool standard;               /* the graph will be written as a model: no operators of Octet's own */
    void (*rest)(void *arg);     /* NULL, or gives back memory of constants that nobody reads just now */
    void *rest_arg;
} PassCtx;
static inline void pass_rest(const PassCtx *ctx)
{
    if (ctx->rest) ctx->rest(ctx->rest_arg);
}
typedef Graph *PassFn(const Graph *in, PassCtx *ctx);
typedef struct Pass {
    const char *name;
    PassFn *run;
    bool (*wanted)(const PassCtx *); /* NULL: always */
    const char *afterwards;      /* what holds of the graph after it */
} Pass;
const Pass *pass_at(uint32_t i); /* the pipeline in order; NULL past the end */

typedef struct PassRun {
    const char *print_after, *stop_after, *disable; /* pass names or NULL */
    bool verify, time;
    FILE *text;
} PassRun;
/* Runs the pipeline from the pass named `from` (NULL: the first) up to and including `to` (NULL: the last).
 * Stops where a pass reported an error: the graph is then not to be used. */
Graph *passes_run(const Graph *in, PassCtx *ctx, const char *from, const char *to, const PassRun *run);
#endif
