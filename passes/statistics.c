/* statistics.c - streaming statistics and the table of methods that turn them into ranges.
 *
 * Ranges are of 8-bit asymmetric quantization: 255 steps between lo and hi, both widened to hold 0. */
#include "passes/statistics.h"
#include <math.h>

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
    widen(s);
    bin_values(s, x, n);
}

void stat_channels(Arena *mem, ChannelSums *s, const float *x, int64_t outer, int64_t channels, int64_t inner)
{
    if (!s->sum) s->channels = channels, s->sum = NEW_ARRAY(mem, double, channels);
    s->seen += (uint64_t)(outer * inner);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t i = 0; i < inner; i++) {
                float v = x[(o * channels + c) * inner + i];
                if (isfinite(v)) s->sum[c] += v;
            }
}

void stat_rows(RowSums *s, const float *x, int64_t n, int64_t row)
{
    for (int64_t i = 0; i < n; i += row) {
        float most = 0;
        double square = 0;
        for (int64_t k = i; k < i + row; k++) {
            float v = isfinite(x[k]) ? fabsf(x[k]) : 0;
            most = v > most ? v : most, square += (double)v * v;
        }
        s->square += square, s->peak += (double)most * most;
        s->values += (uint64_t)row, s->rows++;
    }
}

/* ---- methods ---- */
static void range_minmax(const Statistic *s, double *lo, double *hi) { *lo = s->lo, *hi = s->hi; }

static void range_percentile(const Statistic *s, double *lo, double *hi)
{
    const double tail = 1e-4 / 2;
    uint64_t total = s->seen - s->bad, below = 0, above = 0;
    int a = 0, b = STAT_BINS - 1;
    while (a < STAT_BINS - 1 && (double)(below + s->bin[a]) < tail * (double)total) below += s->bin[a++];
    while (b > a && (double)(above + s->bin[b]) < tail * (double)total) above += s->bin[b--];
    *lo = fmax(s->lo, s->from + a * s->width), *hi = fmin(s->hi, s->from + (b + 1) * s->width);
}

/* Expected squared error of the range: step^2 / 12 inside, the distance to the end outside. */
static double range_error(const Statistic *s, double lo, double hi)
{
    double a = fmin(lo, 0), b = fmax(hi, 0), step = (b - a) / STEPS, sum = 0;
    for (int i = 0; i < STAT_BINS; i++) {
        if (!s->bin[i]) continue;
        double x = s->from + (i + 0.5) * s->width, d = x < a ? a - x : x > b ? x - b : 0;
        sum += (double)s->bin[i] * (d > 0 ? d * d : step * step / 12);
    }
    return sum;
}

/* Coordinate descent: each end is moved through 100 fractions of its extreme while the other stays, until neither moves. */
static void range_mse(const Statistic *s, double *lo, double *hi)
{
    double best = range_error(s, *lo = s->lo, *hi = s->hi);
    for (int round = 0; round < 4; round++) {
        double before = best;
        for (int end = 0; end < 2; end++) {
            double full = end ? s->hi : s->lo, kept = end ? *hi : *lo;
            for (int f = 20; f <= 100; f++) {
                double at = full * f / 100, e = end ? range_error(s, *lo, at) : range_error(s, at, *hi);
                if (e < best) best = e, kept = at;
            }
            if (end) *hi = fmax(*lo, kept);
            else *lo = fmin(*hi, kept);
        }
        if (best == before) return;
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

static void range_entropy(const Statistic *s, double *lo, double *hi)
{
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
    {"minmax",     "smallest and largest value seen (default)",               range_minmax    },
    {"mse",        "least squared error of the 8-bit values",                 range_mse       },
    {"percentile", "the middle 99.99 % of the values",                        range_percentile},
    {"entropy",    "least Kullback-Leibler divergence, 2048 bins; clips hard",range_entropy   },
};
/* clang-format on */

const StatMethod *stat_method_at(uint32_t i) { return i < COUNT_OF(methods) ? &methods[i] : NULL; }

const StatMethod *stat_method_find(const char *name)
{
    for (uint32_t i = 0; i < COUNT_OF(methods); i++)
        if (!strcmp(methods[i].name, name)) return &methods[i];
    return NULL;
}
