/* gptq.c - GPTQ: the columns of a matrix are rounded one after the other, and what a column's rounding does to the outputs is made up
 * for by the columns not rounded yet, as well as the second moments H of the inputs allow.
 * Source: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers".
 *
 * With U upper triangular and H^-1 = U^T U, column i sends its error e = (w - q) / U_ii into the columns j > i as w_j -= e U_ij: the
 * row of U. Columns go in order of falling H_ii, so that the errors of those that matter most have most columns left to go to; grids are
 * fixed before, so that groups stay groups of neighbours. H = R R^T with R upper triangular gives U = R^-1: one factorization from the
 * last column backwards, and the inverse of a triangle.
 *
 * The outputs' square error is the sum of (w - q)^2 / U_ii^2, each w as it is when its turn comes: grids are those of least square error
 * with these weights, which are H_ii less what later columns make up for. */
#include "passes/tile.h"
#include "passes/weights.h"
#include <math.h>
#include <stdlib.h>

/* LAPACK: column-major triangles; `length` are those of the texts. */
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info, size_t length);
void dtrtri_(const char *uplo, const char *diag, const int *n, double *a, const int *lda, int *info, size_t length1,
             size_t length2);

enum { BLOCK = 128, ROWS = 16 };

typedef struct Column {
    float weight;
    int index;
} Column;

static int by_weight(const void *a, const void *b)
{
    const Column *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return x->index - y->index;
}

static Column *columns_in_order(const float *h, int64_t ld, int64_t n, Arena *mem)
{
    Column *c = NEW_ARRAY(mem, Column, n + 1);
    for (int64_t i = 0; i < n; i++) c[i] = (Column){h[i * ld + i], (int)i};
    qsort(c, (size_t)n, sizeof *c, by_weight);
    return c;
}

/* H in reverse order, damped, in a's lower triangle as rows. */
static void fill_reversed(const float *h, int64_t ld, int n, const Column *order, double damp, double *a)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            int64_t p = order[n - 1 - i].index, q = order[n - 1 - j].index;
            a[i * n + j] = h[p < q ? p * ld + q : q * ld + p];
        }
    for (int64_t i = 0; i < n; i++) a[i * n + i] += damp;
}

/* U by rows in the given order, H being damped by so much; false: H is not positive then. */
static bool inverse_factor(const float *h, int64_t ld, int n, const Column *order, double damp, double *a, float *u)
{
    int info = 1;
    fill_reversed(h, ld, n, order, damp, a);
    dpotrf_("U", &n, a, &n, &info, 1);
    if (!info) dtrtri_("U", "N", &n, a, &n, &info, 1, 1);
    for (int64_t i = 0; !info && i < n; i++)
        for (int64_t j = i; j < n; j++) u[i * n + j] = (float)a[(n - 1 - i) * n + n - 1 - j];
    return !info;
}

/* What errors of equal size in all columns leave in the outputs of the block on the rows held out, when later columns make up for them as u says. */
static double left_over(const Moments *s, int64_t block, const Column *order, const float *u)
{
    Arena work = {0};
    int64_t n = s->in, first = block * s->held_room;
    double sum = 0;
    float *x = NEW_ARRAY(&work, float, s->held_rows * n + 1), *y = NEW_ARRAY(&work, float, s->held_rows * n + 1);
    for (int64_t r = 0; r < s->held_rows; r++)
        for (int64_t i = 0; i < n; i++) x[r * n + i] = s->held[(first + r) * s->ld + order[i].index];
    rows_times(x, s->held_rows, n, u, n, n, y);
    for (int64_t r = 0; r < s->held_rows; r++)
        for (int64_t i = 0; i < n; i++) {
            double e = (double)y[r * n + i] / (double)u[i * n + i];
            sum += s->held_share[first + r] * e * e;
        }
    arena_drop(&work);
    return sum;
}

static double mean_square(const Column *order, int n)
{
    double mean = 0;
    for (int i = 0; i < n; i++) mean += order[i].weight / n;
    return isfinite(mean) ? mean : 0;
}

/* U for a block; false: H is not positive however much it is damped. Damping is LEAST of the mean of H's diagonal, or GROWTH times more as long
 * as the rows held out gain by it: few rows, or rows that are much alike, say more of each other than of those to come. Where there are no such
 * rows, or the factorization takes long, damping is more where there were fewer rows than columns. */
static bool factor_of(const Moments *s, int64_t block, const Column *order, float *u, Arena *mem)
{
    enum { TRIES = 12, MOST_TRIED = 2048 };
    const double LEAST = 0.01, GROWTH = 3, MOST = 1;
    int n = (int)s->in;
    const float *h = s->second + block * s->ld * s->ld;
    bool ok = false, judged = s->held_rows && n <= MOST_TRIED;
    double mean = mean_square(order, n), best = INFINITY, *a = NEW_ARRAY(mem, double, (int64_t)n * n + 1);
    double part = judged ? LEAST : LEAST * fmax(1, (double)n / (double)s->rows);
    float *tried = NEW_ARRAY(mem, float, (int64_t)n * n + 1);
    for (int k = 0; mean > 0 && k < TRIES && (!ok || (judged && part <= MOST)); k++, part *= GROWTH) {
        if (!inverse_factor(h, s->ld, n, order, part * mean, a, tried)) continue;
        double left = judged ? left_over(s, block, order, tried) : 0;
        if (ok && !(left < best)) break;
        memcpy(u, tried, sizeof *u * (size_t)n * (size_t)n);
        ok = true, best = left;
    }
    return ok;
}

/* w[r][j] -= e[r] . u[.][j] for j from `from` on: what a block of columns owes those behind it. All ROWS rows, used or not. */
static void pay_later_columns(float *w, const float *e, const float *u, int64_t n, int64_t from, int64_t k)
{
    for (int64_t j = from; j < n; j += TILE)
        for (int r = 0; r < ROWS; r += TALL) {
            float sum[TALL][TILE] = {{0}};
            int width = n - j < TILE ? (int)(n - j) : TILE;
            const float *left[TALL];
            for (int p = 0; p < TALL; p++) left[p] = e + (r + p) * BLOCK;
            if (width == TILE) tile_sum(sum, left, 1, u + j, n, k);
            for (int64_t i = 0; width < TILE && i < k; i++)
                for (int p = 0; p < TALL; p++)
                    for (int q = 0; q < width; q++) sum[p][q] += e[(r + p) * BLOCK + i] * u[i * n + j + q];
            for (int p = 0; p < TALL; p++)
                for (int q = 0; q < width; q++) w[(r + p) * n + j + q] -= sum[p][q];
        }
}

/* Column i of some rows, which begin at row `first`; its error goes to the columns before `end` at once. */
static void round_column(WeightCodes *c, int64_t first, int rows, float *w, float *e, const float *u, int64_t n,
                         int64_t i, int64_t begin, int64_t end, int64_t column)
{
    for (int r = 0; r < rows; r++) {
        int64_t at = codes_at(c, first + r, column);
        float *x = w + r * n;
        int code = codes_nearest(c, at, x[i]);
        c->code[(first + r) * n + column] = (int16_t)code;
        float off = (x[i] - (weight_code_number(&c->form, code) - c->zero[at]) * c->scale[at]) / u[i * n + i];
        for (int64_t j = i + 1; j < end; j++) x[j] -= off * u[i * n + j];
        e[r * BLOCK + i - begin] = off;
    }
}

static void round_rows(const WeightMatrix *m, WeightCodes *c, int64_t first, int rows, const Column *order,
                       const float *u, float *w, float *e)
{
    int64_t n = m->in;
    for (int r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) w[r * n + i] = m->w[(first + r) * n + order[i].index];
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
        int64_t end = begin + BLOCK < n ? begin + BLOCK : n;
        for (int64_t i = begin; i < end; i++)
            round_column(c, first, rows, w, e, u, n, i, begin, end, order[i].index);
        pay_later_columns(w, e, u + begin * n, n, end, end - begin);
    }
}

typedef struct Factor { /* of a block's H */
    const Column *order;
    float *u;
    bool known;
} Factor;

static Factor *factors(const WeightMatrix *m, const Moments *s, Arena *mem)
{
    int64_t n = m->in;
    Factor *f = NEW_ARRAY(mem, Factor, m->blocks);
    for (int64_t b = 0; b < m->blocks; b++) {
        Arena work = {0};
        f[b].order = columns_in_order(s->second + b * s->ld * s->ld, s->ld, n, mem), f[b].u = NEW_ARRAY(mem, float, n * n + 1);
        f[b].known = factor_of(s, b, f[b].order, f[b].u, &work);
        arena_drop(&work);
    }
    return f;
}

static double *grid_weights(const WeightMatrix *m, const Moments *s, const Factor *f, Arena *mem)
{
    double *weight = moments_squares(s, mem);
    for (int64_t b = 0; b < m->blocks; b++)
        for (int64_t i = 0; f[b].known && i < m->in; i++) {
            double u = (double)f[b].u[i * m->in + i];
            weight[b * m->in + f[b].order[i].index] = 1 / (u * u);
        }
    return weight;
}

WeightCodes weights_gptq(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem)
{
    Arena work = {0};
    int64_t n = m->in, out = m->out / m->blocks;
    const Factor *h = factors(m, s, &work);
    WeightCodes c = codes_on_grids(m, f, grid_weights(m, s, h, &work), mem);
    float *w = NEW_ARRAY(&work, float, ROWS * n + 1), *e = NEW_ARRAY(&work, float, ROWS * BLOCK);
    codes_round(m, &c);
    for (int64_t b = 0; b < m->blocks; b++)
        for (int64_t r = 0; h[b].known && r < out; r += ROWS)
            round_rows(m, &c, b * out + r, out - r < ROWS ? (int)(out - r) : ROWS, h[b].order, h[b].u, w, e);
    arena_drop(&work);
    return c;
}
