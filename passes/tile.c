/* tile.c - see tile.h. */
#include "passes/tile.h"
#include <string.h>

/* One row of sums. Said as a vector: what compilers make of the loops themselves takes up to twice the time. */
typedef float Row __attribute__((vector_size(sizeof(float[TILE]))));

/* A second copy for processors with wider registers, chosen when the program is loaded. */
#if defined __x86_64__ && defined __GLIBC__ && !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
#define WIDER __attribute__((target_clones("avx2", "default")))
#else
#define WIDER
#endif

WIDER void tile_sum(float sum[TALL][TILE], const float *const a[TALL], int64_t a_step, const float *b, int64_t b_step, int64_t k)
{
    Row all[TALL], right;
    const float *left[TALL];
    memcpy(all, sum, sizeof all), memcpy(left, a, sizeof left);
    for (int64_t i = 0; i < k; i++) {
        memcpy(&right, b + i * b_step, sizeof right);
        for (int p = 0; p < TALL; p++) all[p] += left[p][i * a_step] * right;
    }
    memcpy(sum, all, sizeof all);
}
