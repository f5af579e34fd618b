/* statistics.h - what calibration learns of a tensor, in memory that does not grow with the number of samples, and how a range
 * comes from it. One Statistic a tensor: extremes and a histogram of STAT_BINS bins whose width doubles as values leave it. */
#ifndef OCTET_STATISTICS_H
#define OCTET_STATISTICS_H
#include "ir/base/arena.h"

enum { STAT_BINS = 2048 };
typedef struct Statistic {
    double lo, hi;               /* of all finite values seen */
    double sum_lo, sum_hi;       /* of the extremes of every sample */
    double from, width;          /* the histogram: bin i holds [from + i * width, from + (i + 1) * width) */
    uint64_t samples;            /* with a finite value */
    uint64_t seen, bad;          /* values; NaN or infinite ones among them */
    uint64_t *bin;               /* NULL until the first value */
} Statistic;

void stat_add(Arena *mem, Statistic *s, const float *x, int64_t n); /* all values of one sample */

/* Means of the channels of a tensor [outer][channels][inner]. */
typedef struct ChannelSums {
    int64_t channels;
    double seen;                 /* values of one channel; of rows their weights */
    double *sum;                 /* of the finite ones, times these; NULL until the first value */
} ChannelSums;
void stat_channels(Arena *mem, ChannelSums *s, const float *x, int64_t outer, int64_t channels, int64_t inner);

/* How large values are, and the largest |value| of each row of `row` values: sums of squares. */
typedef struct RowSums {
    uint64_t values, rows;
    double square, peak;
} RowSums;
double stat_rows(RowSums *s, const float *x, int64_t n, int64_t row); /* the square of these */

/* Both, where a row is all channels: [rows][channels], which holds whole rows of `row` values. For the means, rows count by the error relative to
 * themselves: a mean that few large rows make would be too much for the others. Rows of next to nothing count as if they were a little. */
void stat_row_channels(Arena *mem, ChannelSums *s, RowSums *sums, const float *x, int64_t rows, int64_t channels, int64_t row);

typedef struct StatMethod {
    const char *name, *help;
    double usual;                /* its parameter unless another is given; 0: it has none */
    void (*range)(const Statistic *s, double parameter, double *lo, double *hi); /* s has seen a finite value */
    bool clips_hard;             /* few large values count little: not for models that carry what matters in them */
} StatMethod;
const StatMethod *stat_method_at(uint32_t i);                   /* NULL past the end; the first is the default */

typedef struct StatChoice { const StatMethod *method; double parameter; } StatChoice;
/* "name", or "name:number" of a method with a parameter. NULL: chosen; otherwise what is wrong. */
const char *stat_choose(const char *text, StatChoice *out);
void stat_range(const Statistic *s, StatChoice c, double *lo, double *hi);
#endif
