/* judge.h - whether a rewriting of the float graph (equalized channels, turned streams) lessens what rounding costs: both graphs are run on some
 * samples, and layers that have other weights in the second are rounded in both, operands and all. A pair of layers that loses by its
 * equalization stays as it was, and so does the whole model where turning loses. */
#ifndef OCTET_JUDGE_H
#define OCTET_JUDGE_H
#include "frontend/calibrate.h"

/* One rewriting of a graph, by the pass of that kind, as q says; made in mem. NULL: reported. */
typedef Graph *RewriteFn(void *ctx, const Graph *g, Rewriting kind, Quantization *q, Arena *mem);
/* g: the graph after "simplify". Leaves in q which rewritings are taken, and for every layer what they did. false: reported. */
bool judge_rewritings(const Graph *g, Quantization *q, RewriteFn *rewrite, void *ctx, const CalibrateOptions *o, Diag *diag);
#endif
