/* Metrics of rows against values computed by hand, and what samples say about a loss. */
#include "frontend/metric.h"
#include "tests/unit/worlds.h"

static MetricSum row(const char *name, const float *plain, const float *got, int64_t n, int64_t target)
{
    MetricSum s = {0};
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
    cr_expect_float_eq(loss("answers", a, b, 2, -1), erfc(1 / (2 * sqrt(2 * ((1 - pa) - pa) * log((1 - pa) / pa)))) / 2,
                       1e-6);
    cr_expect_float_eq(loss("answers", p, q, 2, -1), 0.5, 1e-9); /* a tie */
    cr_expect_float_eq(loss("perplexity", a, b, 2, 1), expm1(log((1 - pa) / pa)), 1e-6);
    cr_expect_float_eq(loss("perplexity", p, q, 2, 1), expm1(log(0.5 / 0.75)), 1e-6); /* less perplexing than float is a gain */
    cr_expect(row("perplexity", a, b, 2, -1).weight == 0, "the last token has none to come");
    cr_expect(loss("top1", a, b, 2, -1) == 1 && loss("top2", a, b, 2, -1) == 0);
}

/* Twice the errors: four times the divergence, twice the share of other answers, and four times their even loss. */
Test(metric, shares_of_rows_grow_with_the_root_of_a_divergence)
{
    enum { ROWS = 4000 };
    double share[2] = {0, 0}, kl[2] = {0, 0};
    for (int twice = 0; twice < 2; twice++)
        for (int i = 0; i < ROWS; i++) {
            float margin = 8.0f * (float)i / ROWS, error = twice ? 0.04f : 0.02f;
            float plain[] = {margin, 0}, got[] = {margin + error, 0};
            share[twice] += loss("answers", plain, got, 2, -1) / ROWS, kl[twice] += loss("kl", plain, got, 2, -1) / ROWS;
        }
    int k;
    cr_expect_float_eq(kl[1] / kl[0], 4, 0.1);
    cr_expect_float_eq(share[1] / share[0], 2, 0.1);
    const Metric *m = metric_find("answers", &k);
    cr_expect_float_eq(metric_even(m, share[1], 0.005) / metric_even(m, share[0], 0.005), 4, 0.4);
    cr_expect_float_eq(metric_even(m, 0.005, 0.005), 0.005, 1e-12, "the budget is where it was");
    cr_expect(metric_even(m, -0.01, 0.005) == -0.01 && metric_even(metric_find("kl", &k), 0.02, 0.005) == 0.02);
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
    MetricSum s[] = {{1, 10, 10}, {2, 10, 10}, {3, 10, 10}};
    /* losses of 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3), t of two degrees of freedom 2.920 */
    cr_expect_float_eq(metric_loss(cosine, s, 3), 0.2, 1e-12);
    cr_expect_float_eq(metric_bound(cosine, s, 3, 0.01, &shown, &need), 0.2 + 2.920 * 0.1 / sqrt(3), 1e-9);
    cr_expect(shown);
    cr_expect(metric_bound(cosine, s, 1, 0.01, &shown, &need) == 0.1 && !shown, "one sample has no spread");
    /* no row of 1000 is wrong: Wilson's bound is z^2 / (1000 + z^2) */
    MetricSum many = {0, 1000, 1000}, few = {0, 100, 100};
    cr_expect_float_eq(metric_bound(top, &many, 1, 0.005, &shown, &need), 2.7055 / 1002.7055, 1e-6);
    cr_expect(shown && need == 539);
    cr_expect(metric_bound(top, &few, 1, 0.005, &shown, &need) == 0 && !shown && need == 539);
}
