/* tile.h - the loop that statistics, products and GPTQ spend their time in: a tile of sums of products, in registers. Each sum is added up in the
 * order of its terms, with a rounding after every multiplication and every addition, so that it is the same number on every machine. */
#ifndef OCTET_TILE_H
#define OCTET_TILE_H
#include <stdint.h>

enum { TALL = 4, TILE = 8 };
/* sum[p][q] += a[p][i * a_step] * b[i * b_step + q] for i from 0 to k - 1 */
void tile_sum(float sum[TALL][TILE], const float *const a[TALL], int64_t a_step, const float *b, int64_t b_step, int64_t k);
#endif
