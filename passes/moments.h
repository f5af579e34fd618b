/* moments.h - what calibration learns of the inputs of one matrix of weights, in memory that does not grow with the number of samples:
 * the second moments X^T X of the rows it multiplies (a convolution's windows as rows), means of values and magnitudes, and some rows that
 * are held out of all, on which results are judged.
 *
 * Rows are divided by their lengths there: each counts by what its error is of itself. Norms, and softmax, make most of what comes after
 * see no more than that, and where a few rows are much longer than the others (the first token of a text, in language models) a sum
 * of plain squares would be theirs alone.
 *
 * InputRows says where the rows lie in a tensor of one sample; it is made by one thread. Moments of different matrices can then be
 * added to by different threads: each sees its rows in their order, so that results do not depend on the number of threads. */
#ifndef OCTET_MOMENTS_H
#define OCTET_MOMENTS_H
#include "ir/op.h"

typedef struct WeightMatrix WeightMatrix;

typedef struct InputRows {
    int64_t rows, blocks, in;    /* rows of every block (WeightMatrix.blocks), of `in` elements */
    const struct RowMap *map;
    const float *x;
    int64_t every;               /* 0, or of every so many rows the last (rest: all but the last) are these */
    bool rest;
    const int64_t *only;         /* NULL, or the numbers of the rows that these are */
} InputRows;
/* Of x, input 0 of the node in some run. rows 0: x has none, or its windows cannot be told. */
InputRows input_rows(const Graph *g, const Node *n, const WeightMatrix *m, const Tensor *x, Arena *mem);
InputRows rows_part(InputRows r, int64_t every, bool last); /* of `every` rows the last, or the others */
InputRows rows_read(InputRows r, const Tensor *read, Arena *mem); /* those whose element of read, a float for each, is not 0; all where its size is another */
/* Row number k of `taken`, one somewhere in each of as many equal stretches of all rows. */
int64_t row_spread(uint32_t seed, int64_t k, int64_t taken, int64_t rows);
double row_squares(const float *x, int64_t n); /* their sum */
bool row_is_finite(const float *x, int64_t n);
void input_row(const InputRows *r, int64_t block, int64_t row, float *out);

typedef struct Moments {
    int64_t in, blocks;
    int64_t ld;                  /* of a row in memory: `in` and zeros */
    int64_t rows;                /* of every block, seen so far */
    float *second;               /* [blocks][ld][ld], only where row <= column: sums of products of rows of length 1, not divided */
    double *size, *sum;          /* [blocks][in]: sums of magnitudes, of values */
    float *held;                 /* [blocks][held_room][ld], as they are */
    double *held_share;          /* [blocks][held_room]: what the squares of one count, 1 / its length squared */
    int64_t held_rows, held_room;
    uint32_t seed;
} Moments;
enum { MOMENTS_MOST = 6144 };    /* columns: beyond, second moments take too much memory and time */
size_t moments_bytes(const WeightMatrix *m);
Moments *moments_new(const WeightMatrix *m, Arena *mem);
/* At most `most` rows of each block, spread over all; held: they are kept to judge by, and take part in nothing else. */
void moments_add(Moments *s, const InputRows *r, int64_t most, bool held);
/* The same from rows in memory, [blocks][rows][in]: for tests. */
void moments_add_rows(Moments *s, const float *x, int64_t rows, bool held);

/* Second moments as [blocks][in][in], both triangles, with a hundredth of the mean square of all inputs as noise in each: what calibration
 * has not seen may come. */
float *moments_full(const Moments *s, Arena *mem);
/* The same of their diagonals alone, [blocks][in]: a column that multiplies nothing weighs a little too. */
double *moments_squares(const Moments *s, Arena *mem);

/* sum over rows r and columns c of y[r][c] += x[r][.] . w[c][.], the inner product of everything here: y [rows][n], x rows of ld, w rows of k. */
void rows_times(const float *x, int64_t rows, int64_t ld, const float *w, int64_t n, int64_t k, float *y);
#endif
