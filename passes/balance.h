/* balance.h - gains for the input channels of contractions: weights are multiplied by them, and the values they meet divided, which
 * changes nothing but what rounding does. */
#ifndef OCTET_BALANCE_H
#define OCTET_BALANCE_H
#include "passes/quantize.h"

/* g, which q->gains and q's codes are for, with the gains in its constants; a value whose division no constant before it can take is
 * multiplied by the inverse. Codes of what takes a division are adjusted: their scales are divided. */
Graph *graph_balanced(const Graph *g, Quantization *q, Arena *mem);
#endif
