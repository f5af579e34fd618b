/* Metrics of rows against values computed by hand, and what samples say about a loss. */
#include "frontend/metric.h"
#include "tests/unit/worlds.h"

static Arena sums;
static void teardown(void) { arena_drop(&sums); }

TestSuite(metric, .fini = teardown);

static MetricSum row(const char *name, const float *plain, const float *got, int64_t n, int64_t target)
{
    MetricSum s = {.mem = &sums};
    int k;
    const Metric *m = metric_find(name, &k);
    cr_assert(m, "%s", name);
    m->row(&(MetricRow){plain, got, n, target, k}, &s);
    return s;
}

static double loss(const char *name, const float *plain, const float *got, int64_t n, int64_t target)
{
    int k;
    MetricSum s = row(name, plain, got, n, target);
    return metric_loss(metric_find(name, &k), &s, 1);
}

Test(metric, names)
{
    int k;
    cr_expect(metric_find("top1", &k) == metric_find("top1", &k) && k == 1);
    const Metric *top = metric_find("top5", &k);
    cr_expect(top && k == 5 && !strcmp(top->name, "topK"));
    static const char *const wrong[] = {"", "top", "topK", "top0", "top5x", "top99999", "accuracy"};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) cr_expect(!metric_find(wrong[i], &k), "%s", wrong[i]);
    for (uint32_t i = 0; metric_at(i); i++) cr_expect(*metric_at(i)->help && metric_at(i)->row);
}

Test(metric, the_documentation_has_them)
{
    Arena mem = {0};
    FILE *f = fopen("docs/QUANTIZATION.md", "r");
    cr_assert(f, "run it in the source folder");
    char *text = arena_alloc(&mem, 1 << 20);
    cr_assert(fread(text, 1, (1 << 20) - 1, f) > 0);
    fclose(f);
    for (uint32_t i = 0; metric_at(i); i++)
        cr_expect(strstr(text, arena_printf(&mem, "| %s | %s |", metric_at(i)->name, metric_at(i)->help)), "%s",
                  metric_at(i)->name);
    arena_drop(&mem);
}

Test(metric, equal_rows_lose_nothing)
{
    static const float x[] = {1, -2, 3, 0.5f};
    for (uint32_t i = 0; metric_at(i); i++) {
        const char *name = strcmp(metric_at(i)->name, "topK") ? metric_at(i)->name : "top2";
        cr_expect_float_eq(loss(name, x, x, 4, 1), 0, 1e-12, "%s", name);
    }
}

Test(metric, by_hand)
{
    static const float a[] = {3, 4}, b[] = {4, 3}, p[] = {0.5f, 0.5f}, q[] = {0.25f, 0.75f}, one[] = {0.5f},
                       other[] = {0.25f};
    cr_expect_float_eq(loss("cosine", a, b, 2, -1), 1 - 24.0 / 25, 1e-12);
    cr_expect_float_eq(loss("sqnr", a, b, 2, -1), 2.0 / 25, 1e-12);
    double kl = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75);
    cr_expect_float_eq(loss("kl", p, q, 2, -1), expm1(kl), 1e-9);
    cr_expect_float_eq(loss("kl", one, other, 1, -1), expm1(kl), 1e-9); /* a probability alone has its opposite */
    double pa = 1 / (1 + exp(1)); /* softmax(a) is (pa, 1 - pa), of b the reverse */
    cr_expect_float_eq(loss("kl", a, b, 2, -1), expm1(pa * log(pa / (1 - pa)) + (1 - pa) * log((1 - pa) / pa)), 1e-6);
    double off_by_two = erfc(1 / (2 * sqrt(acos(-1)))) / 2; /* a margin of 1 */
    cr_expect_float_eq(loss("answers", a, b, 2, -1), off_by_two, 1e-9);
    cr_expect_float_eq(loss("answers", p, q, 2, -1), 0.5, 1e-9); /* a tie */
    cr_expect_float_eq(loss("perplexity", a, b, 2, 1), expm1(log((1 - pa) / pa)), 1e-6);
    cr_expect_float_eq(loss("perplexity", p, q, 2, 1), expm1(log(0.5 / 0.75)), 1e-6); /* less perplexing than float is a gain */
    cr_expect(row("perplexity", a, b, 2, -1).weight == 0, "the last token has none to come");
    cr_expect(loss("top1", a, b, 2, -1) == 1 && loss("top2", a, b, 2, -1) == 0);
}

static double uniform(uint64_t *state)
{
    return (double)((*state = *state * 6364136223846793005u + 1442695040888963407u) >> 11) / (double)(1ull << 53);
}

static double normal(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += uniform(state);
    return sum;
}

/* What is expected of rows is what happens to them, whatever the size of the errors, be few columns likely or many. */
Test(metric, as_many_answers_change_as_are_expected)
{
    enum { ROWS = 20000, COLUMNS = 5 };
    static const double errors[] = {0.02, 0.1, 0.4};
    int k;
    const Metric *m = metric_find("answers", &k);
    for (size_t e = 0; e < COUNT_OF(errors); e++) {
        uint64_t state = 1;
        MetricSum all = {.mem = &sums};
        double changed = 0;
        for (int i = 0; i < ROWS; i++) {
            float plain[COLUMNS], got[COLUMNS];
            for (int c = 0; c < COLUMNS; c++) plain[c] = (float)(3 * normal(&state));
            for (int c = 0; c < COLUMNS; c++) got[c] = plain[c] + (float)(errors[e] * normal(&state));
            m->row(&(MetricRow){plain, got, COLUMNS, -1, 0}, &all), changed += loss("top1", plain, got, COLUMNS, -1);
        }
        double expected = ROWS * metric_loss(m, &all, 1);
        cr_expect(changed > 50);
        cr_expect_float_eq(expected / changed, 1, 0.1, "errors of %g: %g expected, %g changed", errors[e], expected,
                           changed);
    }
}

/* The row near a tie was not hit, the other one was. Next time it may be the other way round. */
Test(metric, near_ties_are_not_safe_by_luck)
{
    static const float tie[] = {0.1f, 0}, far[] = {2, 0}, off[] = {2.5f, 0};
    int k;
    bool shown;
    int64_t need;
    const Metric *m = metric_find("answers", &k);
    MetricSum s[] = {row("answers", tie, tie, 2, -1), row("answers", far, off, 2, -1)};
    cr_expect(metric_loss(m, &s[0], 1) == 0);
    cr_expect(metric_loss(m, s, 2) > 0.05 && metric_bound(m, s, 2, 0.005, &shown, &need) > metric_loss(m, s, 2));
}

/* Twice the errors: four times the divergence, and four times the even losses; twice the share of other answers, where margins are of all sizes. */
Test(metric, even_losses_grow_with_a_divergence)
{
    enum { ROWS = 4000 };
    static const double BUDGET = 0.005;
    int k;
    const Metric *answers = metric_find("answers", &k), *kl = metric_find("kl", &k), *top = metric_find("top1", &k);
    double share[2], even[2], divergence[2];
    bool shown;
    int64_t need;
    for (int twice = 0; twice < 2; twice++) {
        MetricSum a[2] = {{.mem = &sums}, {.mem = &sums}}, b[2] = {{.mem = &sums}, {.mem = &sums}};
        for (int i = 0; i < ROWS; i++) {
            float margin = 8.0f * (float)i / ROWS, error = twice ? 0.04f : 0.02f;
            MetricRow r = {(float[]){margin, 0}, (float[]){margin + error, 0}, 2, -1, 0};
            answers->row(&r, &a[i % 2]), kl->row(&r, &b[i % 2]);
        }
        share[twice] = metric_loss(answers, a, 2), even[twice] = metric_even(answers, a, 2, BUDGET),
        divergence[twice] = metric_even(kl, b, 2, BUDGET);
    }
    cr_expect_float_eq(divergence[1] / divergence[0], 4, 0.1);
    cr_expect_float_eq(share[1] / share[0], 2, 0.1);
    cr_expect_float_eq(even[1] / even[0], 4, 0.01);
    MetricSum wrong[] = {{.loss = 20, .weight = 1000, .rows = 1000}, {.loss = 40, .weight = 1000, .rows = 1000}};
    for (int i = 0; i < 2; i++) {
        double bound = metric_bound(top, &wrong[i], 1, BUDGET, &shown, &need);
        cr_expect_float_eq(metric_even(top, &wrong[i], 1, BUDGET), bound / BUDGET * bound, 1e-12);
        cr_expect_float_eq(metric_even(top, &wrong[i], 1, bound), bound, 1e-12, "the budget is where it was");
    }
    MetricSum won = {.loss = -10, .weight = 1000, .rows = 1000}, lost = {.loss = log1p(0.02), .weight = 1, .rows = 1};
    cr_expect(metric_even(top, &won, 1, BUDGET) == -0.01);
    cr_expect_float_eq(metric_even(kl, &lost, 1, BUDGET), 0.02, 1e-12);
}

/* It is the budget where the bound is, were there rows near a tie alone. */
Test(metric, even_losses_are_inside_where_bounds_are)
{
    static const float tie[] = {0.04f, 0}, far[] = {1, 0};
    int k;
    bool shown;
    int64_t need;
    const Metric *m = metric_find("answers", &k);
    for (float error = 0.001f; error < 0.5f; error *= 1.5f) {
        MetricSum s[] = {row("answers", tie, (float[]){0.04f + error, 0}, 2, -1),
                         row("answers", far, (float[]){1 - error, 0}, 2, -1)};
        double bound = metric_bound(m, s, 2, 0.005, &shown, &need), even = metric_even(m, s, 2, 0.005);
        cr_expect((bound <= 0.005) == (even <= 0.005), "%g: %g and %g", (double)error, bound, even);
        cr_expect(even > 0);
    }
    MetricSum same[] = {row("answers", tie, tie, 2, -1), row("answers", far, far, 2, -1)};
    cr_expect(metric_even(m, same, 2, 0.005) == 0);
}

Test(metric, language_models_predict)
{
    static const float logits[] = {9, 1, 0, -3, 1, 8, 0, 2}, shares[] = {0.97f, 0.01f, 0.01f, 0.01f};
    static const int64_t next[] = {0, 1}, other[] = {3, 0}, untold[] = {-1, -1}, large[] = {0, 4};
    cr_expect(rows_predict(logits, next, 2, 4) && rows_predict(shares, next, 1, 4));
    cr_expect(!rows_predict(logits, other, 2, 4) && !rows_predict(shares, other, 1, 4));
    cr_expect(!rows_predict(logits, untold, 2, 4) && !rows_predict(logits, large, 2, 4), "these are no columns");
}

/* Texts that differ much in how hard they are, all of which become harder by the same part: nothing is uncertain about it. */
Test(metric, perplexity_compares_the_same_tokens)
{
    enum { SAMPLES = 8 };
    MetricSum s[SAMPLES];
    int k;
    bool shown;
    int64_t need;
    const Metric *m = metric_find("perplexity", &k);
    for (int i = 0; i < SAMPLES; i++) {
        float p = 0.9f / (float)(1 << i), q = p * 0.998f, plain[] = {p, 1 - p}, got[] = {q, 1 - q};
        s[i] = row("perplexity", plain, got, 2, 0);
    }
    cr_expect_float_eq(metric_loss(m, s, SAMPLES), 1 / 0.998 - 1, 1e-6);
    cr_expect_float_eq(metric_bound(m, s, SAMPLES, 0.005, &shown, &need), 1 / 0.998 - 1, 1e-5);
    static const float never[] = {0, -INFINITY}, ever[] = {0, 1};
    MetricSum nothing = row("perplexity", never, ever, 2, 1);
    cr_expect(nothing.weight == 0 && metric_loss(m, &nothing, 1) == 0, "what the float model rules out cannot become worse");
}

Test(metric, labels_count_wins_and_losses)
{
    static const float a[] = {3, 4}, b[] = {4, 3};
    MetricSum lost = row("top1", a, b, 2, 1), won = row("top1", a, b, 2, 0);
    cr_expect(lost.loss == 1 && lost.weight == 1 && won.loss == -1 && won.weight == 0);
}

Test(metric, nan_is_in_no_budget)
{
    static const float x[] = {0.25f, 0.75f}, bad[] = {0.5f, NAN}, logits[] = {2, -1};
    static const char *const names[] = {"kl", "answers", "cosine", "sqnr", "perplexity"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        cr_expect(!(loss(names[i], x, bad, 2, 1) < 1e30), "%s", names[i]);
        cr_expect(!(loss(names[i], logits, bad, 2, 1) < 1e30), "%s", names[i]);
    }
    cr_expect(loss("top1", x, bad, 2, -1) == 1);
}

/* A mask rules out the last column: the others count as they do without it. */
Test(metric, what_both_rule_out_is_not_compared)
{
    static const float a[] = {3, 4, -INFINITY}, b[] = {4, 3, -INFINITY}, open[] = {4, 3, 0};
    static const char *const names[] = {"kl", "answers", "cosine", "sqnr", "top1", "perplexity"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        double with = loss(names[i], a, b, 3, 1), without = loss(names[i], a, b, 2, 1);
        cr_expect(without > 0.01);
        cr_expect_float_eq(with, without, 1e-12, "%s", names[i]);
        cr_expect(loss(names[i], a, open, 3, 1) >= without, "%s", names[i]);
    }
    cr_expect(isinf(loss("cosine", a, open, 3, -1)) && isinf(loss("sqnr", a, open, 3, -1)));
    static const float masked[] = {9, 1, -INFINITY, 0, 8, -INFINITY};
    cr_expect(rows_are_scores(masked, 2, 3));
}

Test(metric, rows_without_a_number_say_nothing)
{
    static const float none[] = {NAN, NAN}, ruled_out[] = {-INFINITY, -INFINITY}, half[] = {NAN, 2}, got[] = {1, 2};
    static const char *const names[] = {"kl", "answers", "top1", "perplexity"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        cr_expect(row(names[i], none, got, 2, 1).weight == 0 && row(names[i], ruled_out, got, 2, 1).weight == 0, "%s",
                  names[i]);
    cr_expect(loss("sqnr", half, got, 2, -1) == 0 && loss("cosine", half, got, 2, -1) == 0);
    cr_expect(!rows_are_scores(none, 1, 2) && !rows_are_scores(ruled_out, 1, 2));
}

Test(metric, scores_and_other_rows)
{
    static const float probabilities[] = {0.25f, 0.75f, 1, 0}, logits[] = {9, 1, 0, -3, 1, 8, 0, 2},
                       features[] = {0.3f, -0.2f, 0.1f, 0.4f, -0.1f, 0.2f, 0.3f, -0.3f}, single[] = {0.5f, 0.1f},
                       numbers[] = {5, -3};
    cr_expect(rows_are_scores(probabilities, 2, 2));
    cr_expect(rows_are_scores(logits, 2, 4));
    cr_expect(!rows_are_scores(features, 2, 4));
    cr_expect(rows_are_scores(single, 2, 1) && !rows_are_scores(numbers, 2, 1) && !rows_are_scores(NULL, 0, 4));
}

Test(metric, bounds)
{
    int k;
    bool shown;
    int64_t need;
    const Metric *cosine = metric_find("cosine", &k), *top = metric_find("top1", &k);
    MetricSum s[] = {{.loss = 1, .weight = 10, .rows = 10},
                     {.loss = 2, .weight = 10, .rows = 10},
                     {.loss = 3, .weight = 10, .rows = 10}};
    /* losses of 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3), t of two degrees of freedom 2.920 */
    cr_expect_float_eq(metric_loss(cosine, s, 3), 0.2, 1e-12);
    cr_expect_float_eq(metric_bound(cosine, s, 3, 0.01, &shown, &need), 0.2 + 2.920 * 0.1 / sqrt(3), 1e-9);
    cr_expect(shown);
    cr_expect(metric_bound(cosine, s, 1, 0.01, &shown, &need) == 0.1 && !shown, "one sample has no spread");
    /* no row of 1000 is wrong: Wilson's bound is z^2 / (1000 + z^2) */
    MetricSum many = {.weight = 1000, .rows = 1000}, few = {.weight = 100, .rows = 100};
    cr_expect_float_eq(metric_bound(top, &many, 1, 0.005, &shown, &need), 2.7055 / 1002.7055, 1e-6);
    cr_expect(shown && need == 539);
    cr_expect(metric_bound(top, &few, 1, 0.005, &shown, &need) == 0 && !shown && need == 539);
}
