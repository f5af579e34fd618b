/* awq.c - activation-aware weight quantization: input channels whose values are large have their weights made larger before they are
 * rounded, and the values smaller by as much, so that what matters most is rounded finest.
 * Source: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration".
 *
 * All layers that multiply the same values share their gains: mean|x|^ratio of every channel, divided by the root of the largest times
 * the smallest; the ratio with the least square error of all their outputs, on some of their rows, is taken. Grids are clipped as with
 * "mse", columns weighed by their mean squares, when ratios are compared; in the end whole grids, these, and those of "seqmse" (the
 * paper clips by the error of outputs too) compete on held-out rows. Where a layer ends no better on them than by rounding to nearest,
 * the gains of all of them are 1 again. */
#include "passes/weights.h"
#include <math.h>

enum { RATIOS = 20, JUDGED_ROWS = 128 };

/* Mean magnitudes to the power ratio / RATIOS; 0: no gains. */
static void gains_of(const WeightMatrix *m, const Moments *s, int ratio, float *gain)
{
    double least = INFINITY, most = 0;
    for (int64_t c = 0; c < m->channels; c++) {
        double size = 0;
        for (int64_t j = c; j < m->in; j += m->channels) size += s->size[j];
        double g = fmax(pow(size / ((double)s->rows * (double)(m->in / m->channels)), (double)ratio / RATIOS), 1e-4);
        gain[c] = (float)g, least = fmin(least, g), most = fmax(most, g);
    }
    for (int64_t c = 0; c < m->channels; c++) gain[c] = (float)((double)gain[c] / sqrt(least * most));
}

/* `rows` of m's rows, spread over all, times the gains. */
static WeightMatrix gained(const WeightMatrix *m, const float *gain, int64_t rows, Arena *mem)
{
    WeightMatrix x = *m;
    x.out = rows, x.w = NEW_ARRAY(mem, float, rows * m->in + 1);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < m->in; j++)
            x.w[r * m->in + j] = m->w[r * m->out / rows * m->in + j] * gain[j % m->channels];
    return x;
}

/* Nearest codes of m, whose columns have the gains, on clipped grids; square: the mean squares of the values before they are divided. */
static WeightCodes clipped(const WeightMatrix *m, const WeightForm *f, const double *square, const float *gain, Arena *mem)
{
    Arena work = {0};
    double *left = NEW_ARRAY(&work, double, m->blocks * m->in + 1);
    for (int64_t i = 0; i < m->blocks * m->in; i++) {
        double by = (double)gain[i % m->in % m->channels];
        left[i] = square[i] / by / by;
    }
    WeightCodes c = codes_on_grids(m, f, left, mem);
    codes_round(m, &c);
    arena_drop(&work);
    return c;
}

/* The square error of the outputs by second moments h, whose diagonal is `square`. */
static double output_error(const WeightMatrix *m, const WeightForm *f, const float *h, const double *square, const float *gain)
{
    Arena work = {0};
    int64_t rows = m->out < JUDGED_ROWS ? m->out : JUDGED_ROWS, in = m->in;
    WeightMatrix x = gained(m, gain, rows, &work);
    WeightCodes c = clipped(&x, f, square, gain, &work);
    float *off = NEW_ARRAY(&work, float, rows * in + 1), *y = NEW_ARRAY(&work, float, rows * in + 1);
    double error = 0;
    for (int64_t r = 0; r < rows; r++) {
        codes_row(&x, &c, r, off + r * in);
        for (int64_t j = 0; j < in; j++) off[r * in + j] = (off[r * in + j] - x.w[r * in + j]) / gain[j % m->channels];
    }
    rows_times(off, rows, in, h, in, in, y);
    for (int64_t i = 0; i < rows * in; i++) error += (double)off[i] * y[i];
    arena_drop(&work);
    return error * (double)m->out / (double)rows;
}

static void search(const WeightMatrix *const *m, const WeightForm *f, uint32_t n, const Moments *s, float *gain)
{
    Arena work = {0};
    const float *h = moments_full(s, &work);
    const double *square = moments_squares(s, &work);
    float *tried = NEW_ARRAY(&work, float, m[0]->channels);
    double least = INFINITY;
    for (int ratio = 0; ratio < RATIOS; ratio++) {
        double error = 0;
        gains_of(m[0], s, ratio, tried);
        for (uint32_t i = 0; i < n; i++) error += output_error(m[i], &f[i], h, square, tried);
        if (error < least) least = error, memcpy(gain, tried, sizeof *gain * (size_t)m[0]->channels);
    }
    arena_drop(&work);
}

/* What s would be if the values were divided by the gains. */
static Moments divided(const WeightMatrix *m, const Moments *s, const float *gain, Arena *mem)
{
    Moments d = *s;
    d.second = NEW_ARRAY(mem, float, s->blocks * s->ld * s->ld);
    d.held = NEW_ARRAY(mem, float, s->blocks * s->held_room * s->ld);
    d.sum = NEW_ARRAY(mem, double, s->blocks * s->in);
    for (int64_t b = 0; b < s->blocks; b++)
        for (int64_t j = 0; j < s->in; j++) {
            float by = gain[j % m->channels];
            d.sum[b * s->in + j] = s->sum[b * s->in + j] / (double)by;
            for (int64_t i = 0, at = (b * s->ld + j) * s->ld; i < s->in; i++)
                d.second[at + i] = s->second[at + i] / by / gain[i % m->channels];
            for (int64_t r = b * s->held_room; r < b * s->held_room + s->held_rows; r++)
                d.held[r * s->ld + j] = s->held[r * s->ld + j] / by;
        }
    return d;
}

/* The best nearest codes: on whole grids, on clipped ones, and on those that seqmse clips by what they do to the outputs. */
static void choose(const WeightMatrix *m, const WeightForm *f, const Moments *s, const float *gain, WeightChoice *c,
                   Arena *mem)
{
    Arena work = {0};
    Moments d = divided(m, s, gain, &work);
    WeightMatrix x = gained(m, gain, m->out, &work);
    WeightCodes found[] = {weight_method_at(0)->find(&x, f, NULL, mem),
                           clipped(&x, f, moments_squares(s, &work), gain, mem), weights_seqmse(&x, f, &d, mem)};
    c->error = INFINITY;
    for (size_t i = 0; i < COUNT_OF(found); i++) {
        double error = weight_error(&x, &found[i], &d);
        if (error < c->error) c->codes = found[i], c->error = error;
    }
    c->why = c->error < c->error_nearest ? NULL : weight_no_better;
    c->lost = weight_lost(&x, &c->codes, &d, mem), c->sqnr = weight_sqnr(&x, &c->codes);
    arena_drop(&work);
}

static bool choose_all(const WeightMatrix *const *m, const WeightForm *f, uint32_t n, const Moments *s,
                       const float *gain, WeightChoice *choice, Arena *const *mem)
{
    bool better = true;
    for (uint32_t i = 0; i < n; i++) choose(m[i], &f[i], s, gain, &choice[i], mem[i]), better = better && !choice[i].why;
    return better;
}

void weights_awq(const WeightMatrix *const *m, const WeightForm *f, uint32_t n, const Moments *s, float *gain,
                 WeightChoice *choice, Arena *const *mem)
{
    Arena work = {0};
    float *one = NEW_ARRAY(&work, float, m[0]->channels + 1);
    const char *why = weight_unseen(s);
    for (int64_t c = 0; c < m[0]->channels; c++) one[c] = 1;
    if (gain) memcpy(gain, one, sizeof *gain * (size_t)m[0]->channels);
    for (uint32_t i = 0; i < n; i++) {
        choice[i] = weight_choose(weight_method_at(0), m[i], &f[i], NULL, mem[i]), choice[i].why = why;
        if (!why) choice[i].error_nearest = weight_error(m[i], &choice[i].codes, s);
    }
    if (!why && gain) search(m, f, n, s, gain);
    if (!why && !(gain && choose_all(m, f, n, s, gain, choice, mem))) {
        if (gain) memcpy(gain, one, sizeof *gain * (size_t)m[0]->channels);
        choose_all(m, f, n, s, one, choice, mem);
    }
    arena_drop(&work);
}
