/* layers.h - what quantization does to the output of every layer. */
#ifndef OCTET_LAYERS_H
#define OCTET_LAYERS_H
#include "frontend/calibrate.h"

/* SQNR in dB of every quantized layer's output on the first MEASURED samples, NaN: not known: with everything quantized into the layers of q,
 * and with this layer's input and weights alone into alone[], per layer. plain: the graph before the pass "quantize"; simulated: behind
 * those that quantize, whose layers' outputs still exist. false: reported. */
bool measure_layers(const Graph *plain, const Graph *simulated, Quantization *q, const CalibrateOptions *o, double *alone, Diag *diag);
#endif
