/* spare.h - which layers have smaller groups, or keep 8-bit integers, under a precision of weights that rounds further: as few bits more as possible, so
 * that what rounding costs the outputs stays inside a bound (costs.h). Where the place of a layer decides already (passes/codes.c), it is left at that. */
#ifndef OCTET_SPARE_H
#define OCTET_SPARE_H
#include "frontend/calibrate.h"

/* Rounds the weights that are codes under q and have none yet, notes what they cost the outputs, and gives those that cost too much other codes.
 * g: the graph before the pass "codes", with gains in it. false: reported. */
bool spare_weights(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag);
#endif
