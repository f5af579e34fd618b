/* wide.h - which products of a quantized model multiply values of 16 bits, at twice the time: as few multiplications as possible, so that what rounding
 * values costs the outputs stays inside the bound of costs.h. */
#ifndef OCTET_WIDE_H
#define OCTET_WIDE_H
#include "frontend/calibrate.h"

/* Fills `wide` of q's ranges and notes what 8 bits of each product cost. g: the graph before the pass "quantize", with gains in it; q: with ranges. false: reported. */
bool wide_choose(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag);
#endif
