/* The search for a budget on made-up regions: the optimum of small cases is found though it is only measured choice by choice,
 * losses that do not add up are found out, and what saves no time is not paid for. */
#include "frontend/search.h"
#include "tests/unit/worlds.h"

enum { MOST = 10 };
typedef struct Case {
    uint32_t n;
    SearchRegion region[MOST];
    double together; /* more loss where regions 0 and 1 are both quantized */
    uint32_t fails;  /* this measurement fails; 0: none does */
    uint32_t calls;
} Case;

static double loss_of(const Case *c, const bool *quantized)
{
    double sum = quantized[0] && quantized[1] ? c->together : 0;
    for (uint32_t i = 0; i < c->n; i++) sum += quantized[i] ? c->region[i].loss : 0;
    return sum;
}

static double time_of(const Case *c, const bool *quantized)
{
    double sum = 0;
    for (uint32_t i = 0; i < c->n; i++) sum += quantized[i] ? c->region[i].time : 0;
    return sum;
}

static bool measure(void *arg, const bool *quantized, double *loss)
{
    Case *c = arg;
    *loss = loss_of(c, quantized);
    return ++c->calls != c->fails;
}

static double optimum(const Case *c, double budget)
{
    double best = 0;
    for (uint32_t mask = 0; mask < 1u << c->n; mask++) {
        bool quantized[MOST] = {false};
        for (uint32_t i = 0; i < c->n; i++) quantized[i] = mask >> i & 1;
        if (loss_of(c, quantized) <= budget && time_of(c, quantized) > best) best = time_of(c, quantized);
    }
    return best;
}

static bool run(Case *c, double budget, bool *quantized, double *loss)
{
    Search s = {.n = c->n, .region = c->region, .budget = budget, .measure = measure, .arg = c, .most = 40};
    c->calls = 0;
    bool ok = search_run(&s, quantized, loss);
    cr_expect(s.measured == c->calls);
    return ok;
}

Test(search, everything_is_quantized_where_that_is_inside)
{
    Case c = {.n = 3, .region = {{0.1, 1}, {0.2, 2}, {0.1, 5}}};
    bool quantized[MOST] = {false};
    double loss;
    cr_assert(run(&c, 0.5, quantized, &loss));
    cr_expect(quantized[0] && quantized[1] && quantized[2] && c.calls == 1);
    cr_expect_float_eq(loss, 0.4, 1e-12);
}

Test(search, the_optimum_of_small_cases)
{
    uint32_t seed = 7;
    for (int round = 0; round < 200; round++) {
        Case c = {.n = 2 + random_step(&seed) % (MOST - 1)};
        double all = 0, loss;
        bool quantized[MOST] = {false};
        for (uint32_t i = 0; i < c.n; i++)
            c.region[i] = (SearchRegion){(random_step(&seed) % 1000) / 1000.0, (random_step(&seed) % 100) / 10.0},
            all += c.region[i].loss;
        double budget = all * (1 + random_step(&seed) % 9) / 10;
        cr_assert(run(&c, budget, quantized, &loss));
        cr_expect_float_eq(loss, loss_of(&c, quantized), 1e-12);
        cr_expect(loss <= budget);
        double found = time_of(&c, quantized), best = optimum(&c, budget);
        cr_expect(found >= 0.99 * best, "round %d: %g of %g", round, found, best);
    }
}

Test(search, what_does_not_add_up_is_measured)
{
    Case c = {.n = 4, .region = {{0.1, 4}, {0.1, 3}, {0.1, 2}, {0.1, 1}}, .together = 1};
    bool quantized[MOST] = {false};
    double loss;
    cr_assert(run(&c, 0.35, quantized, &loss));
    cr_expect(loss <= 0.35 && !(quantized[0] && quantized[1]));
    cr_expect(time_of(&c, quantized) == optimum(&c, 0.35), "%g of %g", time_of(&c, quantized), optimum(&c, 0.35));
}

Test(search, what_saves_no_time_is_not_paid_for)
{
    Case c = {.n = 3, .region = {{0.1, 1}, {0, -1}, {0.2, 0}}};
    bool quantized[MOST] = {false};
    double loss;
    cr_assert(run(&c, 1, quantized, &loss));
    cr_expect(quantized[0] && !quantized[1] && !quantized[2]);
}

Test(search, what_a_search_found_out_is_where_the_next_one_begins)
{
    Case c = {.n = 8, .together = 0};
    for (uint32_t i = 0; i < c.n; i++) c.region[i] = (SearchRegion){0.01 * (1 + i), 1 + i % 3};
    Case together = c; /* alone they lose a hundredth of what they lose in a choice */
    for (uint32_t i = 0; i < c.n; i++) together.region[i].loss *= 100;
    bool quantized[MOST] = {false};
    double loss;
    Search s = {.n = c.n, .region = c.region, .budget = 20, .measure = measure, .arg = &together, .most = 40};
    cr_assert(search_run(&s, quantized, &loss));
    cr_expect(loss <= 20 && s.scale > 50 && s.scale < 200, "%g", s.scale);
    s.budget = 12, s.measured = 0, s.most = 2;
    cr_assert(search_run(&s, quantized, &loss));
    cr_expect(loss <= 12 && time_of(&together, quantized) >= 0.7 * optimum(&together, 12), "%g", loss);
}

Test(search, nothing_is_inside)
{
    Case c = {.n = 3, .region = {{1, 1}, {INFINITY, 1}, {2, 1}}};
    bool quantized[MOST] = {false};
    double loss;
    cr_assert(run(&c, 1e-6, quantized, &loss));
    cr_expect(!quantized[0] && !quantized[1] && !quantized[2] && loss == 0);
}

Test(search, a_failed_measurement_ends_it)
{
    Case c = {.n = 3, .region = {{1, 1}, {1, 1}, {1, 1}}, .fails = 2};
    bool quantized[MOST] = {false};
    double loss;
    cr_expect(!run(&c, 1, quantized, &loss) && c.calls == 2);
}
