/* passes.h - the passes by name, for the pipeline table (pass.c) and for tests of one pass alone. */
#ifndef OCTET_PASSES_H
#define OCTET_PASSES_H
#include "passes/pass.h"

Graph *pass_expand(const Graph *in, PassCtx *ctx);   /* expand.c */
Graph *pass_simplify(const Graph *in, PassCtx *ctx); /* simplify.c */
Graph *pass_equalize(const Graph *in, PassCtx *ctx); /* equalize.c */
Graph *pass_rotate(const Graph *in, PassCtx *ctx);   /* rotate.c */
Graph *pass_quantize(const Graph *in, PassCtx *ctx); /* quantize.c */
Graph *pass_codes(const Graph *in, PassCtx *ctx);    /* codes.c */
Graph *pass_integer(const Graph *in, PassCtx *ctx);  /* integer.c */
Graph *pass_blocks(const Graph *in, PassCtx *ctx);   /* blocks.c */
Graph *pass_finish(const Graph *in, PassCtx *ctx);   /* integer.c */
Graph *pass_scale(const Graph *in, PassCtx *ctx);    /* scale.c */
Graph *pass_winograd(const Graph *in, PassCtx *ctx); /* winograd.c */
Graph *graph_nbits(const Graph *in, Arena *mem, bool rounds); /* nbits.c: products with 4-bit weights as com.microsoft.MatMulNBits; rounds: values may be rounded to 8 bits */
#endif
