/* smooth.h - gains that make values easier to round to 8 bits (passes/smooth.h), found by calibration. */
#ifndef OCTET_FRONTEND_SMOOTH_H
#define OCTET_FRONTEND_SMOOTH_H
#include "frontend/calibrate.h"

/* Finds gains for what the integer matrix products of g multiply (gains false: none) and how much rounding it to 8 bits takes from their
 * outputs, and leaves both with q's ranges, whose lowest and highest value calibrate() finds. g: the graph after the pass "rotate".
 * false: reported. */
bool smooth_values(const Graph *g, Quantization *q, const CalibrateOptions *o, bool gains, Diag *diag);
#endif
