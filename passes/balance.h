/* balance.h - gains for the input channels of contractions: weights are multiplied by them, and the values they meet divided, which
 * changes nothing but what rounding does. */
#ifndef OCTET_BALANCE_H
#define OCTET_BALANCE_H
#include "passes/quantize.h"

/* g, which q->gains and q's codes are for, with the gains in its constants; a value whose division no constant before it can take is
 * multiplied by the inverse. Codes of what takes a division are adjusted: their scales are divided. */
/* Readers are the contractions that will have codes (quantize_forms()). */
Graph *graph_balanced(const Graph *g, Quantization *q, Arena *mem);
/* Would constants before take the division of gains[i].x (channels of its last axis), and does nothing but `readers[i]` contractions read it? */
void gains_fold(const Graph *g, const Gains *gains, const uint32_t *readers, uint32_t n, bool *folds);
/* For each node whose constants take a division, whose: of gains[i].x along axis from_end[i], counted from the end; folds as above, one after the other. */
const Gains **gains_taken(const Graph *g, const Gains *gains, const uint32_t *readers, const int *from_end, uint32_t n, bool *folds,
                          Arena *mem);
/* Do all products that read the value find their channels along its last axis? Others would need a range of what is not divided. */
bool multiplies_rows_alone(const Graph *g, Val x);
/* q's gains from its ranges, which have them by name, for a graph. */
void gains_of_ranges(const Graph *g, Quantization *q);
#endif
