/* Calibration statistics: what the methods make of distributions that are known, and that --method names them all. */
#include "passes/statistics.h"
#include "tests/unit/option_rows.h"
#include "tests/unit/worlds.h"
#include <stdlib.h>

enum { MANY = 200000 };
static Arena mem;
static float *data;
static uint32_t seed;
static void setup(void) { seed = 1, data = NEW_ARRAY(&mem, float, MANY); }
static void teardown(void) { arena_drop(&mem); }
TestSuite(statistics, .init = setup, .fini = teardown);

static double uniform(void) { return (random_step(&seed) + 0.5) / (1 << 24); }
static double normal(void) { return sqrt(-2 * log(uniform())) * cos(2 * acos(-1) * uniform()); }

static void add(Statistic *s, int64_t n, int64_t piece)
{
    for (int64_t i = 0; i < n; i += piece) stat_add(&mem, s, data + i, i + piece < n ? piece : n - i);
}

static Statistic normals(void)
{
    Statistic s = {0};
    for (int i = 0; i < MANY; i++) data[i] = (float)normal();
    return add(&s, MANY, MANY), s;
}

typedef struct Ends { double lo, hi; } Ends;
static Ends range(const Statistic *s, const char *method)
{
    Ends e = {0, 0};
    StatChoice c;
    cr_assert(!stat_choose(method, &c), "%s", method);
    return stat_range(s, c, &e.lo, &e.hi), e;
}

/* What 8-bit quantization with that range does to the data, measured. */
static double measured_error(Ends e)
{
    double lo = fmin(e.lo, 0), hi = fmax(e.hi, 0), step = (hi - lo) / 255, sum = 0;
    for (int i = 0; i < MANY; i++) {
        double q = rint((fmax(lo, fmin(hi, (double)data[i])) - lo) / step) * step + lo - (double)data[i];
        sum += q * q;
    }
    return sum / MANY;
}

static uint64_t mass(const Statistic *s)
{
    uint64_t n = 0;
    for (int i = 0; i < STAT_BINS; i++) n += s->bin[i];
    return n;
}

Test(statistics, pieces_lose_nothing)
{
    Statistic s = {0};
    for (int i = 0; i < MANY; i++) data[i] = (float)(normal() * (1 + i / 1000)); /* every piece is wider than the one before */
    float lo = INFINITY, hi = -INFINITY;
    for (int i = 0; i < MANY; i++) lo = fminf(lo, data[i]), hi = fmaxf(hi, data[i]);
    add(&s, 1000, 1000);
    size_t used = mem.used;
    add(&s, MANY, 777);
    cr_expect(mem.used == used, "memory grows with the samples");
    cr_expect(s.seen == MANY + 1000 && s.bad == 0 && mass(&s) == MANY + 1000);
    cr_expect(s.lo == (double)lo && s.hi == (double)hi);
    cr_expect(s.samples == 1 + (MANY + 776) / 777);
    cr_expect(s.from <= s.lo && s.from + s.width * STAT_BINS >= s.hi);
}

Test(statistics, infinite_values_and_nan_are_counted_apart)
{
    Statistic s = {0};
    for (int i = 0; i < 1000; i++) data[i] = i % 10 == 3 ? NAN : i % 10 == 4 ? INFINITY : (float)(i * 7 % 1000) / 1000;
    add(&s, 1000, 100);
    cr_expect(s.seen == 1000 && s.bad == 200 && mass(&s) == 800);
    for (uint32_t m = 0; stat_method_at(m); m++) {
        Ends e = range(&s, stat_method_at(m)->name);
        cr_expect(e.lo >= 0 && e.hi <= 0.999f && e.hi > 0.9, "%s: [%g, %g]", stat_method_at(m)->name, e.lo, e.hi);
    }
    Statistic none = {0};
    data[0] = NAN;
    add(&none, 1, 1);
    cr_expect(none.seen == 1 && none.bad == 1 && !none.bin, "a tensor of NaN alone has no range");
}

/* Of rows that differ in size, the mean is one of their directions; of pixels, and of rows of one size, it is the mean. */
Test(statistics, rows_count_by_what_is_an_error_to_them)
{
    const float rows[] = {1, 0, 1, 0, 1, 0, 0, 100}, alike[] = {1, 0, 0, 1, 1, 0, 0, 1};
    ChannelSums of = {0}, same = {0}, pixels = {0}, zeros = {0};
    RowSums sums[3] = {{0}};
    stat_row_channels(&mem, &of, &sums[0], rows, 4, 2, 2);
    cr_expect(of.sum[0] / of.seen > 0.9 && of.sum[1] / of.seen < 0.5, "%g %g, plain means are 0.75 and 25", of.sum[0] / of.seen, of.sum[1] / of.seen);
    cr_expect(sums[0].square == 10003 && sums[0].rows == 4 && sums[0].values == 8);
    stat_row_channels(&mem, &same, &sums[1], alike, 4, 2, 2);
    cr_expect(fabs(same.sum[0] / same.seen - 0.5) < 1e-6 && fabs(same.sum[1] / same.seen - 0.5) < 1e-6);
    stat_channels(&mem, &pixels, rows, 1, 2, 4);
    cr_expect(pixels.seen == 4 && pixels.sum[0] == 2 && pixels.sum[1] == 101);
    stat_row_channels(&mem, &zeros, &sums[2], (const float[8]){0}, 4, 2, 2);
    cr_expect(zeros.seen == 0 && zeros.sum[0] == 0, "they say nothing");
}

Test(statistics, constants_have_a_finite_range)
{
    static const float values[] = {0, 3, -2e-30f, 1e30f};
    for (size_t v = 0; v < COUNT_OF(values); v++) {
        Statistic s = {0};
        for (int i = 0; i < 100; i++) data[i] = values[v];
        add(&s, 100, 10);
        for (uint32_t m = 0; stat_method_at(m); m++) {
            Ends e = range(&s, stat_method_at(m)->name);
            cr_expect(isfinite(e.lo) && isfinite(e.hi) && e.lo <= e.hi, "%s of %g: [%g, %g]", stat_method_at(m)->name, (double)values[v], e.lo, e.hi);
        }
    }
}

Test(statistics, minmax_is_exact)
{
    Statistic s = normals();
    data[5] = 31.25f, data[6] = -7.5f;
    add(&s, 10, 10);
    Ends e = range(&s, "minmax");
    cr_expect(e.lo == -7.5 && e.hi == 31.25);
}

Test(statistics, percentile_clips_outliers)
{
    Statistic s = {0};
    for (int i = 0; i < MANY; i++) data[i] = (float)uniform();
    data[100] = 10, data[200] = -3; /* 5e-6 each; the tails hold 5e-5 */
    add(&s, MANY, MANY);
    Ends e = range(&s, "percentile:99.99");
    cr_expect(e.hi > 0.99 && e.hi < 1.01 && e.lo > -0.01 && e.lo < 0.01, "[%g, %g]", e.lo, e.hi);
}

/* The ends of 10 samples are averaged. */
Test(statistics, mean_minmax_is_the_mean_of_the_samples)
{
    Statistic s = {0};
    double hi = 0;
    for (int i = 0; i < 100; i++) data[i] = i % 10 ? 0 : (float)(i / 10), hi += i % 10 ? 0 : i / 10 / 10.0;
    add(&s, 100, 10);
    Ends e = range(&s, "mean-minmax");
    cr_expect(e.lo == 0 && fabs(e.hi - hi) < 1e-9 && s.hi == 9, "[%g, %g]", e.lo, e.hi);
}

Test(statistics, the_more_clipping_counts_the_less_is_clipped)
{
    Statistic s = normals();
    Ends mse = range(&s, "mse"), sqnr = range(&s, "sqnr"), more = range(&s, "sqnr:50"), same = range(&s, "sqnr:1");
    cr_expect(mse.hi < sqnr.hi && sqnr.hi < more.hi && more.hi <= s.hi && same.hi == mse.hi, "%g %g %g", mse.hi, sqnr.hi, more.hi);
}

Test(statistics, what_is_no_method_is_refused)
{
    static const char *const wrong[] = {"", "luck", "minmax:3", "percentile:", "percentile:x", "percentile:0", "percentile:101", "mse:nan", "percentile:99x", "percent"};
    StatChoice c;
    for (size_t i = 0; i < COUNT_OF(wrong); i++) cr_expect(stat_choose(wrong[i], &c), "%s", wrong[i]);
    cr_expect(!stat_choose("percentile:99.5", &c) && c.parameter == 99.5);
    cr_expect(!stat_choose("percentile", &c) && c.parameter == 99.999);
}

/* The best step of a uniform 8-bit quantizer of a normal distribution is 0.0308 deviations (Max 1960, extended): ends near 3.9. */
Test(statistics, mse_finds_the_quantizer_of_a_normal_distribution)
{
    Statistic s = normals();
    Ends e = range(&s, "mse"), all = range(&s, "minmax");
    cr_expect(e.hi > 3.5 && e.hi < 4.4 && e.lo < -3.5 && e.lo > -4.4, "[%g, %g]", e.lo, e.hi);
    cr_expect(measured_error(e) < measured_error(all), "%g, all of it %g", measured_error(e), measured_error(all));
    cr_expect(measured_error(e) < 1.03 * measured_error((Ends){-3.93, 3.93}));
}

Test(statistics, mse_is_never_worse_than_minmax)
{
    for (int trial = 0; trial < 6; trial++) {
        Statistic s = {0};
        for (int i = 0; i < MANY; i++) data[i] = (float)(trial < 3 ? pow(fabs(normal()), trial + 1) : trial == 3 ? uniform() - 3 : normal() * exp(normal()));
        add(&s, MANY, 5000);
        double e = measured_error(range(&s, "mse")), all = measured_error(range(&s, "minmax"));
        cr_expect(e <= 1.001 * all, "trial %d: %g, all of it %g", trial, e, all);
    }
}

Test(statistics, entropy_clips_a_long_tail)
{
    Statistic s = {0};
    for (int i = 0; i < MANY; i++) data[i] = (float)normal();
    for (int i = 0; i < 20; i++) data[i] = (float)(20 + i);
    add(&s, MANY, MANY);
    Ends e = range(&s, "entropy");
    cr_expect(e.hi > 3 && e.hi < 12 && e.lo <= -3, "[%g, %g] of [%g, %g]", e.lo, e.hi, s.lo, s.hi);
}

Test(statistics, entropy_keeps_a_body_without_tail)
{
    Statistic s = {0};
    for (int i = 0; i < MANY; i++) data[i] = (float)uniform();
    add(&s, MANY, MANY);
    Ends e = range(&s, "entropy");
    cr_expect(e.hi > 0.95 && e.lo >= 0, "[%g, %g]", e.lo, e.hi);
}

static const char *without_letters(const char *value)
{
    char *out = NEW_ARRAY(&mem, char, strlen(value) + 1), *to = out;
    for (; *value; value++) {
        if (*value == ':') value += 2;
        if (*value) *to++ = *value;
        else break;
    }
    return out;
}

/* --method's row in options.def says the names of the table, and its default is the first. */
Test(statistics, the_option_names_the_methods)
{
    const OptionRow row = option_row("--method");
    const char *all = "";
    for (uint32_t m = 0; stat_method_at(m); m++) all = arena_printf(&mem, "%s%s%s", all, m ? "|" : "", stat_method_at(m)->name); /* a letter behind the colon of those with a number */
    cr_expect_str_eq(without_letters(row.value), all);
    cr_expect_str_eq(row.fallback, stat_method_at(0)->name);
}
