/* wide.h - which products of a quantized model multiply values of 16 bits, at twice the time: as few as keep what rounding values takes from
 * the model's outputs inside a bound that is the same for every model. A quarter of a per cent of perplexity where outputs are scores (a divergence of
 * 0.0025 nats), a thousandth of the energy of others (30 dB).
 *
 * What 8 bits of one product cost the outputs is measured there, with everything between: how far a product is off says nothing of
 * what softmax, norms and later layers make of it. Small errors of many products add up, and they are told apart by signs: a run moves every
 * product's values by its rounding, times a sign of its own that is drawn for each run. The outputs of two runs are then off alike by what products
 * add that have equal signs in both, and opposite by the others: a linear equation in what each product costs. N products take some
 * 2 sqrt(N) runs, not N. */
#ifndef OCTET_WIDE_H
#define OCTET_WIDE_H
#include "frontend/calibrate.h"

/* Fills `wide` of q's ranges. g: the graph before the pass "quantize", with gains in it; q: with ranges. false: reported. */
bool wide_choose(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag);

/* Part of it: costs[n], none negative, with the least squares of the residuals of equations `sum of sign[e][i] * costs[i] = right[e]`. */
void costs_solve(const int8_t *const *sign, const double *right, uint32_t equations, uint32_t n, double *costs);
#endif
