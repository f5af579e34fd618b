/* statistics.c - streaming statistics and the table of methods that turn them into ranges.
 *
 * Ranges are of 8-bit asymmetric quantization: 255 steps between lo and hi, both widened to hold 0. */
#include "passes/statistics.h"
#include <math.h>
#include <stdlib.h>

enum { STEPS = 255 };

/* ---- streaming ---- */
static void bin_values(Statistic *s, const float *x, int64_t n)
{
    double inv = 1 / s->width;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) continue;
        double b = (x[i] - s->from) * inv;
        s->bin[b <= 0 ? 0 : b >= STAT_BINS - 1 ? STAT_BINS - 1 : (int)b]++;
    }
}

/* Bins widen by whole factors of two around the same mass, so that repeated widening does not smear it. */
static void widen(Statistic *s)
{
    while (s->lo < s->from || s->hi > s->from + s->width * STAT_BINS) {
        uint64_t half[STAT_BINS] = {0};
        int shift = s->lo < s->from ? STAT_BINS / 2 : 0; /* the old bins end in the upper or lower half */
        for (int i = 0; i < STAT_BINS; i++) half[shift + i / 2] += s->bin[i];
        memcpy(s->bin, half, sizeof half);
        s->from -= shift * 2 * s->width, s->width *= 2;
    }
}

void stat_add(Arena *mem, Statistic *s, const float *x, int64_t n)
{
    float lo = INFINITY, hi = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        bool bad = !isfinite(x[i]);
        s->bad += bad;
        lo = !bad && x[i] < lo ? x[i] : lo, hi = !bad && x[i] > hi ? x[i] : hi;
    }
    s->seen += (uint64_t)n;
    if (lo > hi) return;
    if (!s->bin) {
        s->bin = NEW_ARRAY(mem, uint64_t, STAT_BINS);
        s->lo = lo, s->hi = hi, s->from = lo;
        s->width =
            fmax(((double)hi - lo) / STAT_BINS * (1 + 1e-9), fmax(fabs((double)lo), fabs((double)hi)) * 1e-12 + 1e-30);
    }
    s->lo = fmin(s->lo, lo), s->hi = fmax(s->hi, hi);
    s->sum_lo += lo, s->sum_hi += hi, s->samples++;
    widen(s);
    bin_values(s, x, n);
}

static void add_channels(ChannelSums *s, const float *x, int64_t inner, double weight)
{
    s->seen += weight * (double)inner;
    for (int64_t c = 0; c < s->channels; c++)
        for (int64_t i = 0; i < inner; i++) {
            float v = x[c * inner + i];
            if (isfinite(v)) s->sum[c] += weight * v;
        }
}

static void channels_begin(Arena *mem, ChannelSums *s, int64_t channels)
{
    if (!s->sum) s->channels = channels, s->sum = NEW_ARRAY(mem, double, channels);
}

void stat_channels(Arena *mem, ChannelSums *s, const float *x, int64_t outer, int64_t channels, int64_t inner)
{
    channels_begin(mem, s, channels);
    for (int64_t o = 0; o < outer; o++) add_channels(s, x + o * channels * inner, inner, 1);
}

double stat_rows(RowSums *s, const float *x, int64_t n, int64_t row)
{
    double all = 0;
    for (int64_t i = 0; i < n; i += row) {
        float most = 0;
        double square = 0;
        for (int64_t k = i; k < i + row; k++) {
            float v = isfinite(x[k]) ? fabsf(x[k]) : 0;
            most = v > most ? v : most, square += (double)v * v;
        }
        all += square, s->peak += (double)most * most;
        s->values += (uint64_t)row, s->rows++;
    }
    s->square += all;
    return all;
}

/* One after the other: what rows count does not depend on how many a sample has. */
void stat_row_channels(Arena *mem, ChannelSums *s, RowSums *sums, const float *x, int64_t rows, int64_t channels,
                       int64_t row)
{
    const double LITTLE = 0.03; /* of the mean square until then */
    channels_begin(mem, s, channels);
    for (int64_t r = 0; channels && r < rows; r++, x += channels) {
        double square = stat_rows(sums, x, channels, row) / (double)channels;
        square += LITTLE * sums->square / (double)sums->values;
        add_channels(s, x, 1, square > 0 ? 1 / square : 0);
    }
}

/* ---- methods ---- */
static void range_minmax(const Statistic *s, double parameter, double *lo, double *hi)
{
    (void)parameter;
    *lo = s->lo, *hi = s->hi;
}

static void range_mean(const Statistic *s, double parameter, double *lo, double *hi)
{
    (void)parameter;
    *lo = s->sum_lo / (double)s->samples, *hi = s->sum_hi / (double)s->samples;
}

/* The middle of the values, `parameter` per cent of them. */
static void range_percentile(const Statistic *s, double parameter, double *lo, double *hi)
{
    const double tail = (1 - parameter / 100) / 2;
    uint64_t total = s->seen - s->bad, below = 0, above = 0;
    int a = 0, b = STAT_BINS - 1;
    while (a < STAT_BINS - 1 && (double)(below + s->bin[a]) < tail * (double)total) below += s->bin[a++];
    while (b > a && (double)(above + s->bin[b]) < tail * (double)total) above += s->bin[b--];
    *lo = fmax(s->lo, s->from + a * s->width), *hi = fmin(s->hi, s->from + (b + 1) * s->width);
}

/* Sums over the bins before each: how many values, their sum, the sum of their squares. */
typedef struct Sums {
    double n[STAT_BINS + 1], x[STAT_BINS + 1], square[STAT_BINS + 1];
} Sums;

static void sums_make(const Statistic *s, Sums *t)
{
    t->n[0] = t->x[0] = t->square[0] = 0;
    for (int i = 0; i < STAT_BINS; i++) {
        double n = (double)s->bin[i], x = s->from + (i + 0.5) * s->width;
        t->n[i + 1] = t->n[i] + n, t->x[i + 1] = t->x[i] + n * x, t->square[i + 1] = t->square[i] + n * x * x;
    }
}

/* The first bin whose middle is not below x. */
static int bin_at(const Statistic *s, double x)
{
    double b = ceil((x - s->from) / s->width - 0.5);
    return b <= 0 ? 0 : b >= STAT_BINS ? STAT_BINS : (int)b;
}

/* Sum of the squared distances to x of the values in bins [a, b). */
static double distance(const Sums *t, double x, int a, int b)
{
    double n = t->n[b] - t->n[a], sum = t->x[b] - t->x[a], square = t->square[b] - t->square[a];
    return fmax(0, square - 2 * x * sum + n * x * x);
}

/* Expected squared error of the range: step^2 / 12 inside, outside the distance to the end, `weight` times. */
static double range_error(const Statistic *s, const Sums *t, double lo, double hi, double weight)
{
    double a = fmin(lo, 0), b = fmax(hi, 0), step = (b - a) / STEPS;
    int from = bin_at(s, a), to = bin_at(s, b);
    if (to < from) to = from;
    return (t->n[to] - t->n[from]) * step * step / 12 +
           weight * (distance(t, a, 0, from) + distance(t, b, to, STAT_BINS));
}

/* Both ends through 100 fractions of their extremes. */
static void range_least_error(const Statistic *s, double weight, double *lo, double *hi)
{
    enum { STEPS_OF_END = 100 };
    Sums t;
    sums_make(s, &t);
    double best = range_error(s, &t, *lo = s->lo, *hi = s->hi, weight);
    int ends[2] = {s->lo < 0 ? STEPS_OF_END : 1, s->hi > 0 ? STEPS_OF_END : 1}; /* an end beyond 0 is 0 in any case */
    for (int a = 0; a < ends[0]; a++)
        for (int b = 0; b < ends[1]; b++) {
            double x = s->lo * (1 - (double)a / STEPS_OF_END), y = s->hi * (1 - (double)b / STEPS_OF_END);
            double e = range_error(s, &t, x, y, weight);
            if (e < best) best = e, *lo = fmin(x, fmax(y, 0)), *hi = fmax(y, fmin(x, 0));
        }
}

/* Kullback-Leibler divergence of the magnitudes clipped after n bins (the clipped mass counts in the last bin) from their
 * 128-level form (made without it): Migacz, "8-bit Inference with TensorRT", GTC 2017. */
static double divergence(const double *mag, int n, double clipped)
{
    enum { LEVELS = 128 };
    const double empty = 1e-4; /* what a level without mass counts, so that losing a bin costs */
    double q[STAT_BINS], sum_p = clipped, sum_q = 0, d = 0;
    for (int l = 0; l < LEVELS; l++) {
        int a = (int)((int64_t)l * n / LEVELS), b = (int)((int64_t)(l + 1) * n / LEVELS), filled = 0;
        double mass = 0;
        for (int i = a; i < b; i++) mass += mag[i], filled += mag[i] > 0;
        for (int i = a; i < b; i++) q[i] = mag[i] > 0 ? mass / filled : empty;
    }
    for (int i = 0; i < n; i++) sum_p += mag[i], sum_q += q[i];
    for (int i = 0; i < n; i++) {
        double p = mag[i] + (i == n - 1 ? clipped : 0);
        if (p > 0) d += p / sum_p * log(p / sum_p / (q[i] / sum_q));
    }
    return d;
}

static void range_entropy(const Statistic *s, double parameter, double *lo, double *hi)
{
    (void)parameter;
    double mag[STAT_BINS] = {0}, most = fmax(fabs(s->lo), fabs(s->hi)), best = INFINITY, clipped = 0;
    int cut = STAT_BINS;
    for (int i = 0; i < STAT_BINS && most > 0; i++) {
        double b = fabs(s->from + (i + 0.5) * s->width) / most * STAT_BINS;
        mag[b >= STAT_BINS ? STAT_BINS - 1 : (int)b] += (double)s->bin[i];
    }
    mag[0] =
        mag[1]; /* zeros of an activation are exact at any scale: they must not outweigh the rest (as in TensorRT) */
    for (int n = STAT_BINS; n >= STAT_BINS / 8; n--) {
        double d = divergence(mag, n, clipped);
        if (d < best) best = d, cut = n;
        clipped += mag[n - 1];
    }
    double clip = most * cut / STAT_BINS;
    *hi = fmin(s->hi, clip), *lo = fmin(*hi, fmax(s->lo, -clip));
}

/* clang-format off */
static const StatMethod methods[] = {
    {"minmax",      "smallest and largest value seen",                                                    0,      range_minmax,      false},
    {"mean-minmax", "mean over the samples of their smallest and largest values",                         0,      range_mean,        false},
    {"percentile",  "the middle P per cent of the values, 99.999 unless given",                           99.999, range_percentile,  false},
    {"mse",         "least squared error of the 8-bit values",                                            1,      range_least_error, false},
    {"sqnr",        "the same, where what is clipped counts three times, or as often as given",           3,      range_least_error, false},
    {"entropy",     "least Kullback-Leibler divergence over 2048 bins; clips hard",                       0,      range_entropy,     true },
};
/* clang-format on */

const StatMethod *stat_method_at(uint32_t i) { return i < COUNT_OF(methods) ? &methods[i] : NULL; }

const char *stat_choose(const char *text, StatChoice *out)
{
    size_t n = strcspn(text, ":");
    for (uint32_t i = 0; i < COUNT_OF(methods); i++) {
        const StatMethod *m = &methods[i];
        char *end;
        if (strlen(m->name) != n || strncmp(m->name, text, n) != 0) continue;
        *out = (StatChoice){m, m->usual};
        if (!text[n]) return NULL;
        if (m->usual == 0) return "this method takes no number";
        out->parameter = strtod(text + n + 1, &end);
        return end == text + n + 1 || *end || !(out->parameter > 0) || out->parameter > 100 ? "expected a number from 0 to 100 behind the colon" : NULL;
    }
    return "no such method";
}

void stat_range(const Statistic *s, StatChoice c, double *lo, double *hi) { c.method->range(s, c.parameter, lo, hi); }
