/* alone.h - what quantizing one layer alone does to its output. */
#ifndef OCTET_ALONE_H
#define OCTET_ALONE_H
#include "frontend/calibrate.h"

/* SQNR in dB of every integer layer's output with only its input and its weights quantized, per layer of q (NaN: not known), on the first
 * MEASURED samples. plain: the graph before the pass "quantize"; simulated: behind it. false: reported. */
bool measure_alone(const Graph *plain, const Graph *simulated, const Quantization *q, const CalibrateOptions *o, double *sqnr,
                   Diag *diag);
#endif
