/* refine.h - codes for constant weights by methods that look at what the weights multiply (passes/weights.h: needs). */
#ifndef OCTET_REFINE_H
#define OCTET_REFINE_H
#include "frontend/calibrate.h"

/* Rounds the weights of every contraction that pass_quantize(g) will code, by q->weights, which needs statistics, and leaves the codes in
 * q. The model is gone through in a few rounds from its inputs on: the statistics of a round's layers come from a model in which the
 * layers of the rounds before are rounded already (unless the method divides values: then q->gains says by what, and graph_balanced() does
 * it), and a round takes no more memory than REFINE_MEMORY for them.
 * g: the graph after the pass "rotate". false: reported. */
bool refine_weights(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag);
#endif
