/* smooth.h - gains for the channels of values that matrix products multiply, where values are rounded to 8 bits: a channel with large
 * values is divided, and its weights multiplied, so that one scale fits all channels better. What that gains is tried out on rows that
 * calibration has kept, both operands rounded.
 * Source: Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models". */
#ifndef OCTET_SMOOTH_H
#define OCTET_SMOOTH_H
#include "passes/weights.h"

enum { SMOOTH_SETS = 2 };        /* 0: rows to choose by; 1: rows to judge the choice by */
typedef struct KeptRows {        /* of one tensor, in memory that does not grow with the number of samples */
    int64_t channels;
    float *lo, *hi;              /* of every channel, in all rows of set 0 that were offered */
    float *row[SMOOTH_SETS];     /* [rows][channels] */
    int64_t rows[SMOOTH_SETS], room[SMOOTH_SETS];
    uint32_t seed;
} KeptRows;
KeptRows *kept_rows_new(int64_t channels, Arena *mem);
/* x: [rows][channels], of which at most `most`, spread over all, are kept in a set. Rows that are not finite are left out. */
void kept_rows_add(KeptRows *k, int set, const float *x, int64_t rows, int64_t most);

typedef struct Smoothing {
    bool any;                    /* there are gains */
    double plain, smooth;        /* dB, of the layers' outputs on the rows of set 1, without and with them; NaN: no rows, or none were tried */
    double tensor, rows;         /* dB, of that layer's that loses most on set 0, weights not rounded, values with one scale and with one for each row; 0: no rows */
} Smoothing;
typedef enum SmoothCost { SMOOTH_FREE, SMOOTH_MULTIPLIES, SMOOTH_NEVER } SmoothCost; /* constants before take the division; nothing does; no gains */
/* gain: [channels], to be filled, for n layers that multiply the rows kept: 1 where there are none, which is where they do not lessen
 * the error clearly on rows that did not choose them; cost: of the division. */
Smoothing smooth_find(const WeightMatrix *const *m, const WeightForm *f, uint32_t n, const KeptRows *k, SmoothCost cost, float *gain);
#endif
