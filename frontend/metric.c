/* metric.c - see metric.h. What is not a number makes a loss infinite: it is in no budget. Unless the float model has none there either, or the same
 * infinite one, as scores that a mask rules out: such elements, and rows of scores that are nothing else, say nothing. */
#include "frontend/metric.h"
#include <math.h>
#include <stdlib.h>

static const double Z95 = 1.6448536269514722;

/* ---- rows ---- */
static int64_t first_of(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* Is column `at` among the k largest? NaN is in none. */
static bool among(const float *x, int64_t n, int64_t at, int k)
{
    int64_t above = 0;
    for (int64_t i = 0; i < n; i++) above += x[i] > x[at] || (x[i] == x[at] && i < at);
    return !isnan(x[at]) && above < k;
}

/* ln of the sum of exp, and the largest; finite where scores say something */
static double log_sum(const float *x, int64_t n)
{
    double most = (double)x[first_of(x, n)], sum = 0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum);
}

static void row_top(const MetricRow *r, MetricSum *s)
{
    if (!isfinite(log_sum(r->plain, r->n))) return;
    bool labelled = r->target >= 0 && r->target < r->n;
    bool was = !labelled || among(r->plain, r->n, r->target, r->k);
    bool is = among(r->got, r->n, labelled ? r->target : first_of(r->plain, r->n), r->k);
    s->loss += was - is, s->weight += was;
}

bool says_nothing(double plain, double other) { return isnan(plain) || (isinf(plain) && plain == other); }

static void row_cosine(const MetricRow *r, MetricSum *s)
{
    double a = 0, b = 0, ab = 0;
    for (int64_t i = 0; i < r->n; i++) {
        double x = (double)r->plain[i], y = (double)r->got[i];
        if (says_nothing(x, y)) continue;
        a += x * x, b += y * y, ab += x * y;
    }
    double cosine = a > 0 && b > 0 ? ab / sqrt(a * b) : a == b;
    s->loss += isnan(ab) || isnan(cosine) ? INFINITY : 1 - fmin(cosine, 1), s->weight++;
}

static void row_sqnr(const MetricRow *r, MetricSum *s)
{
    for (int64_t i = 0; i < r->n; i++) {
        double x = (double)r->plain[i], y = (double)r->got[i], e = x - y;
        if (says_nothing(x, y)) continue;
        s->loss += isnan(e) ? INFINITY : e * e, s->weight += isinf(x) ? 0 : x * x;
    }
}

double row_dot(const float *x, const float *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * y[i];
    return sum;
}

bool row_is_distribution(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(x[i] >= 0)) return false;
        sum += (double)x[i];
    }
    return n > 1 ? fabs(sum - 1) < 1e-3 : sum <= 1;
}

static double term(double p, double q)
{
    return p > 0 ? p * log(p / fmax(q, LEAST_PROBABILITY)) : 0;
}

/* Of a row; infinite where it holds what is not a number; NaN where the float model says nothing. */
static double divergence(const MetricRow *r)
{
    double kl = 0, a = 0, b = 0;
    bool known = true, ready = row_is_distribution(r->plain, r->n), single = ready && r->n == 1;
    if (!ready) a = log_sum(r->plain, r->n), b = log_sum(r->got, r->n);
    if (!isfinite(a)) return NAN;
    for (int64_t i = 0; i < r->n; i++) {
        double x = (double)r->plain[i], y = (double)r->got[i];
        known = known && !isnan(y);
        if (ready) kl += term(x, y);
        else if (x > -INFINITY) kl += exp(x - a) * (x - a - y + b);
        if (single) kl += term(1 - x, 1 - y);
    }
    return known && !isnan(kl) ? fmax(0, kl) : INFINITY;
}

static void row_kl(const MetricRow *r, MetricSum *s)
{
    double kl = divergence(r);
    if (isnan(kl)) return;
    s->loss += isinf(kl) ? kl : fmin(kl, 1), s->weight++;
}

/* A row as probabilities. Of one number its opposite is the second. */
typedef struct Shares {
    const float *x;
    int64_t n;
    bool ready;
    double sum; /* where they are scores: ln of the sum of exp */
} Shares;

static Shares shares_of(const float *x, int64_t n, bool ready)
{
    return (Shares){x, n, ready, ready ? 0 : log_sum(x, n)};
}

static double share_at(const Shares *s, int64_t i)
{
    double x = i < s->n ? (double)s->x[i] : 1 - (double)s->x[0];
    return s->ready ? x : exp(x - s->sum);
}

static double log_at(const Shares *s, int64_t i)
{
    if (!s->ready) return (double)s->x[i] - s->sum;
    double p = share_at(s, i);
    return log(p < LEAST_PROBABILITY ? LEAST_PROBABILITY : p); /* of NaN: NaN */
}

/* The largest score is above each other one by a margin, which is off by the difference of two scores' errors. They are weighed by how likely the models
 * think the other score; what both hold for impossible, or the float model rules out, does not count. */
static void row_answers(const MetricRow *r, MetricSum *s)
{
    bool ready = row_is_distribution(r->plain, r->n);
    Shares plain = shares_of(r->plain, r->n, ready), got = shares_of(r->got, r->n, ready);
    if (!isfinite(plain.sum)) return;
    bool single = ready && r->n == 1;
    int64_t columns = single ? 2 : r->n, first = single ? r->plain[0] < 0.5f : first_of(r->plain, r->n);
    double least = INFINITY, off = 0, likely = 0, top = log_at(&plain, first), now = log_at(&got, first);
    for (int64_t i = 0; i < columns; i++) {
        double weight = share_at(&plain, i) + share_at(&got, i), p;
        if (i == first || weight <= LEAST_PROBABILITY || (p = log_at(&plain, i)) == -INFINITY) continue;
        off += weight * fabs(now - log_at(&got, i) - (top - p)), likely += weight;
        least = fmin(least, top - p);
    }
    s->weight++;
    if (!isfinite(off)) s->loss = INFINITY;
    else vec_push(s->mem, &s->margin, (float)least), s->off += off, s->likely += likely;
}

/* Whether the errors of a row that is near a tie happen to be small or large is luck: those of all rows tell how large they are. Of normal errors the
 * mean of the magnitudes is sqrt(2 / pi) of the deviation, and they exceed the least margin with this probability. */
static void settle_answers(MetricSum *s, uint32_t n, double times)
{
    static const double PI = 3.14159265358979323846;
    double off = 0, likely = 0;
    for (uint32_t i = 0; i < n; i++) off += s[i].off, likely += s[i].likely;
    double error = likely > 0 ? off / likely * times : 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; error > 0 && k < s[i].margin.n; k++)
            s[i].loss += erfc(s[i].margin.at[k] / (sqrt(PI) * error)) / 2;
}

double row_surprise(const float *x, int64_t n, int64_t target)
{
    if (row_is_distribution(x, n)) return -log(fmax((double)x[target], LEAST_PROBABILITY));
    return log_sum(x, n) - (double)x[target];
}

/* Both models read the same tokens, so the differences of their surprises are what varies, not the surprises. What the float model rules out cannot
 * become worse. */
static void row_perplexity(const MetricRow *r, MetricSum *s)
{
    if (r->target < 0 || r->target >= r->n) return;
    double plain = row_surprise(r->plain, r->n, r->target), got = row_surprise(r->got, r->n, r->target);
    if (!isfinite(plain)) return;
    s->loss += isnan(got) ? INFINITY : got - plain, s->weight++;
}

/* ---- the table ---- */
static const Metric metrics[] = {
    {.name = "kl",
     .help = "mean Kullback-Leibler divergence of softmax along the last axis (rows that are probabilities are taken "
             "as they are), of "
             "a row at most 1: 1% is ln 1.01 nats, which makes the model's own answers 1% more perplexing",
     .row = row_kl,
     .grows = true},
    {.name = "answers",
     .help = "expected share of rows whose largest column becomes another one, from the rows' margins and how far "
             "margins are off: 1% is one row in a hundred; what top1 counts, from fewer rows",
     .row = row_answers,
     .settle = settle_answers,
     .finer = "kl"},
    {.name = "cosine", .help = "mean of 1 - cosine of the rows: 1% is a mean cosine of 0.99", .row = row_cosine},
    {.name = "sqnr", .help = "squared error over squared values: 1% is 20 dB, 0.1% is 30 dB", .row = row_sqnr},
    {.name = "top1",
     .help =
         "1% is one row in a hundred whose largest column is another one; with --labels, 1% of the rows that the float "
         "model has right, those lost less those won",
     .row = row_top,
     .root = true,
     .counts = true,
     .labels = true,
     .finer = "kl"},
    {.name = "topK",
     .help = "K is a number, as in top5: 1% is one row in a hundred whose largest column is no longer among the K "
             "largest; with "
             "--labels as top1",
     .row = row_top,
     .root = true,
     .counts = true,
     .labels = true,
     .finer = "kl"},
    {.name = "perplexity",
     .help = "language models: 1% is 1.01 times the perplexity of the next tokens, the input being the text",
     .row = row_perplexity,
     .grows = true,
     .tokens = true,
     .finer = "kl"},
};

const Metric *metric_at(uint32_t i) { return i < COUNT_OF(metrics) ? &metrics[i] : NULL; }

const Metric *metric_find(const char *name, int *k)
{
    char *end = NULL;
    long top = strncmp(name, "top", 3) || name[3] < '1' || name[3] > '9' ? 0 : strtol(name + 3, &end, 10);
    *k = top > 0 && top <= 1000 && !*end ? (int)top : 1;
    if (end && (*end || top > 1000)) return NULL;
    if (!strcmp(name, "topK")) return NULL;
    for (const Metric *m = metrics; m < metrics + COUNT_OF(metrics); m++)
        if (!strcmp(m->name, top > 1 ? "topK" : name)) return m;
    return NULL;
}

/* ---- choosing ---- */
static double entropy(const float *x, int64_t n)
{
    double all = log_sum(x, n), sum = 0;
    if (!isfinite(all)) return NAN;
    for (int64_t i = 0; i < n; i++) {
        double lp = (double)x[i] - all;
        sum -= lp > -INFINITY ? exp(lp) * lp : 0;
    }
    return sum;
}

static const double decided = 0.7; /* of the entropy of equal scores */

bool rows_are_scores(const float *x, int64_t rows, int64_t n)
{
    bool ready = rows > 0;
    double sum = 0;
    int64_t told = 0;
    for (int64_t r = 0; r < rows && ready; r++) ready = row_is_distribution(x + r * n, n);
    if (ready || n < 2) return ready;
    for (int64_t r = 0; r < rows; r++) {
        double e = entropy(x + r * n, n);
        if (!isnan(e)) sum += e, told++;
    }
    return told && sum / (double)told < decided * log((double)n);
}

bool rows_predict(const float *x, const int64_t *target, int64_t rows, int64_t n)
{
    double sum = 0;
    int64_t told = 0;
    for (int64_t r = 0; r < rows; r++) {
        if (target[r] >= n) return false;
        if (target[r] < 0) continue;
        sum += row_surprise(x + r * n, n, target[r]), told++;
    }
    return told && n > 1 && sum / (double)told < decided * log((double)n);
}

/* ---- several samples ---- */
static double finish(const Metric *m, double mean) { return m->grows ? expm1(mean) : mean; }

static MetricSum total(const MetricSum *sample, uint32_t n)
{
    MetricSum t = {.mem = NULL};
    for (uint32_t i = 0; i < n; i++) t.loss += sample[i].loss, t.weight += sample[i].weight, t.rows += sample[i].rows;
    return t;
}

static const MetricSum *settled(const Metric *m, const MetricSum *sample, uint32_t n, double times, Arena *mem)
{
    if (!m->settle) return sample;
    MetricSum *s = arena_copy(mem, sample, n * sizeof *s);
    m->settle(s, n, times);
    return s;
}

static double mean_loss(const Metric *m, const MetricSum *t)
{
    return t->weight > 0 ? finish(m, t->loss / t->weight) : t->loss > 0 ? INFINITY : 0;
}

double metric_loss(const Metric *m, const MetricSum *sample, uint32_t n)
{
    Arena mem = {0};
    MetricSum t = total(settled(m, sample, n, 1, &mem), n);
    arena_drop(&mem);
    return mean_loss(m, &t);
}

/* Student's t, one-sided 95 %, by its expansion around the normal distribution from 5 degrees of freedom on. */
static double student(uint32_t freedom)
{
    static const double few[] = {0, 6.314, 2.920, 2.353, 2.132};
    double v = freedom, z = Z95, z3 = z * z * z, z5 = z3 * z * z;
    if (freedom < COUNT_OF(few)) return few[freedom];
    return z + (z3 + z) / (4 * v) + (5 * z5 + 16 * z3 + 3 * z) / (96 * v * v);
}

/* Wilson's upper bound of a proportion */
static double wilson(double wrong, double rows)
{
    double z2 = Z95 * Z95, p = wrong / rows;
    return (p + z2 / (2 * rows) + Z95 * sqrt(p * (1 - p) / rows + z2 / (4 * rows * rows))) / (1 + z2 / rows);
}

/* Of settled samples. */
static double bound(const Metric *m, const MetricSum *sample, uint32_t n, double budget, bool *shown, int64_t *need)
{
    MetricSum t = total(sample, n);
    double loss = mean_loss(m, &t), spread = 0;
    *shown = true, *need = 0;
    if (!isfinite(loss) || !(t.weight > 0)) return loss;
    if (m->counts && t.weight == (double)t.rows && t.loss >= 0) {
        *need = (int64_t)ceil(Z95 * Z95 * (1 - budget) / budget);
        *shown = t.rows >= *need;
        return *shown ? wilson(t.loss, t.weight) : loss;
    }
    *shown = n > 1;
    if (n < 2) return loss;
    double mean = t.loss / t.weight;
    for (uint32_t i = 0; i < n; i++) {
        double off = sample[i].loss - mean * sample[i].weight;
        spread += off * off;
    }
    double error = sqrt(spread * n / (n - 1)) / t.weight;
    return finish(m, mean + student(n - 1) * error);
}

static double bound_of(const Metric *m, const MetricSum *sample, uint32_t n, double budget, double times, bool *shown,
                       int64_t *need)
{
    Arena mem = {0};
    double b = bound(m, settled(m, sample, n, times, &mem), n, budget, shown, need);
    arena_drop(&mem);
    return b;
}

double metric_bound(const Metric *m, const MetricSum *sample, uint32_t n, double budget, bool *shown, int64_t *need)
{
    return bound_of(m, sample, n, budget, 1, shown, need);
}

/* Times the errors of all rows that lead to the end of the budget. */
static double room(const Metric *m, const MetricSum *sample, uint32_t n, double budget)
{
    enum { HALVINGS = 20 };
    static const double MOST = 64;
    double inside = 1 / MOST, outside = MOST;
    bool shown;
    int64_t need;
    for (int i = 0; i < HALVINGS; i++) {
        double times = sqrt(inside * outside);
        if (bound_of(m, sample, n, budget, times, &shown, &need) <= budget) inside = times;
        else outside = times;
    }
    return inside;
}

double metric_even(const Metric *m, const MetricSum *sample, uint32_t n, double budget)
{
    bool shown;
    int64_t need;
    double loss = metric_bound(m, sample, n, budget, &shown, &need);
    if (!(loss > 0) || !isfinite(loss)) return loss;
    double times = m->settle ? room(m, sample, n, budget) : 1;
    return m->settle ? budget / (times * times) : m->root ? loss / budget * loss : loss;
}
