/* search.c - a knapsack whose weights are guesses: choose by the guesses, measure, correct the guesses, and fill what room is left.
 *
 * 1. Everything that saves time. Inside the budget: done.
 * 2. Losses are scaled so that their sum is what was measured, and the knapsack of the budget is solved by dynamic programming over
 *    STEPS parts of it. The measurement of its choice corrects the scale: up while choices are outside, down while there is room.
 * 3. Regions that were left out are returned one at a time, those that save most first, as long as the measurement stays inside. */
#include "frontend/search.h"
#include "ir/base/vec.h"
#include <math.h>
#include <stdlib.h>

enum { STEPS = 10000, ROUNDS = 8 };

typedef struct Found {
    bool *quantized;
    double loss, time;
} Found;

static double loss_of(const SearchRegion *r) { return r->loss > 0 ? r->loss : 0; }

static double time_of(const Search *s, const bool *quantized)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->n; i++) sum += quantized[i] ? s->region[i].time : 0;
    return sum;
}

static double guess(const Search *s, const bool *quantized)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->n; i++) sum += quantized[i] ? loss_of(&s->region[i]) : 0;
    return sum;
}

/* What was measured is known. */
typedef struct Tried {
    Arena mem;
    VEC(Found) at;
} Tried;

static bool measure(Search *s, Tried *t, const bool *quantized, double *loss)
{
    for (uint32_t i = 0; i < t->at.n; i++)
        if (!memcmp(t->at.at[i].quantized, quantized, s->n)) return *loss = t->at.at[i].loss, true;
    s->measured++;
    if (!s->measure(s->arg, quantized, loss)) return false;
    vec_push(&t->mem, &t->at, (Found){arena_copy(&t->mem, quantized, s->n), *loss, 0});
    return true;
}

/* Measures a choice and keeps it where it is the best that is inside. */
static bool try_choice(Search *s, Tried *t, const bool *quantized, Found *best, double *loss)
{
    if (!measure(s, t, quantized, loss)) return false;
    double time = time_of(s, quantized);
    if (!(*loss <= s->budget) || time < best->time || (time == best->time && *loss >= best->loss)) return true;
    memcpy(best->quantized, quantized, s->n * sizeof *quantized);
    best->loss = *loss, best->time = time;
    return true;
}

/* The regions of most time whose losses, scaled, fit into the budget. Losses are rounded up to whole steps. */
static void knapsack(const Search *s, double scale, bool *quantized)
{
    Arena mem = {0};
    double *most = NEW_ARRAY(&mem, double, STEPS + 1); /* by room: the time that can be saved with the regions so far */
    uint8_t *takes = NEW_ARRAY(&mem, uint8_t, (size_t)s->n * (STEPS + 1));
    uint32_t *steps = NEW_ARRAY(&mem, uint32_t, s->n + 1);
    for (uint32_t i = 0; i < s->n; i++) {
        double part = ceil(loss_of(&s->region[i]) * scale / s->budget * STEPS - 1e-9);
        steps[i] = s->region[i].time > 0 && part <= STEPS ? (uint32_t)part : STEPS + 1;
        for (uint32_t room = STEPS + 1; room-- > steps[i];) {
            double with = most[room - steps[i]] + s->region[i].time;
            if (with > most[room]) most[room] = with, takes[(size_t)i * (STEPS + 1) + room] = 1;
        }
    }
    uint32_t room = STEPS;
    for (uint32_t i = s->n; i-- > 0;) {
        quantized[i] = takes[(size_t)i * (STEPS + 1) + room];
        if (quantized[i]) room -= steps[i];
    }
    arena_drop(&mem);
}

typedef struct Order {
    uint32_t region;
    double time, loss;
} Order;

static int by_time(const void *a, const void *b)
{
    const Order *x = a, *y = b;
    if (x->time != y->time) return x->time < y->time ? 1 : -1;
    if (x->loss != y->loss) return x->loss > y->loss ? 1 : -1;
    return (x->region > y->region) - (x->region < y->region);
}

/* Returns what was left out, where that does not leave the budget. */
static bool fill(Search *s, Tried *t, double scale, Found *best)
{
    Arena *mem = &t->mem;
    Order *order = NEW_ARRAY(mem, Order, s->n + 1);
    bool *trial = NEW_ARRAY(mem, bool, s->n + 1);
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        if (!best->quantized[i] && s->region[i].time > 0)
            order[n++] = (Order){i, s->region[i].time, loss_of(&s->region[i])};
    qsort(order, n, sizeof *order, by_time);
    for (uint32_t i = 0; i < n && s->measured < s->most; i++) {
        if (best->loss + order[i].loss * fmin(scale, 1) > s->budget) continue; /* hopeless even if losses only add up */
        double loss;
        memcpy(trial, best->quantized, s->n * sizeof *trial);
        trial[order[i].region] = true;
        if (!try_choice(s, t, trial, best, &loss)) return false;
    }
    return true;
}

/* The scales between which choices leave the budget. */
typedef struct Bracket {
    double outside, inside; /* the largest that was too small, the smallest that was large enough; 0: none yet */
} Bracket;

/* The next scale to try; 0: nothing more to find out. off: measured over what the scale said. */
static double next_scale(Bracket *b, double scale, bool is_inside, double off)
{
    static const double near = 1.1, most = 10, least = 0.2;
    if (is_inside) b->inside = scale;
    else b->outside = scale;
    if (b->inside > 0 && b->outside > 0) return b->inside < b->outside * near ? 0 : sqrt(b->inside * b->outside);
    return is_inside ? scale * fmax(least, fmin(off, 1 / near)) : scale * fmax(near, fmin(off, most));
}

static bool solve(Search *s, Tried *t, double *scale, Found *best, bool *trial)
{
    Bracket b = {0, 0};
    double measured = 0;
    for (int round = 0; *scale > 0 && round < ROUNDS && s->measured < s->most; round++) {
        knapsack(s, *scale, trial);
        if (!try_choice(s, t, trial, best, &measured)) return false;
        bool is_inside = measured <= s->budget;
        double expected = is_inside ? s->budget : guess(s, trial) * *scale,
               off = expected > 0 && isfinite(measured) ? measured / expected : 4,
               next = next_scale(&b, *scale, is_inside, off);
        if (!(next > 0)) break;
        *scale = next;
    }
    return true;
}

bool search_run(Search *s, bool *out, double *loss)
{
    Tried t = {.at = {0}};
    Found best = {NEW_ARRAY(&t.mem, bool, s->n + 1), 0, 0};
    bool *trial = NEW_ARRAY(&t.mem, bool, s->n + 1);
    double measured = 0;
    for (uint32_t i = 0; i < s->n; i++) trial[i] = s->region[i].time > 0;
    bool ok = try_choice(s, &t, trial, &best, &measured);
    double sum = guess(s, trial), scale = s->scale > 0 ? s->scale : sum > 0 && isfinite(measured) ? measured / sum : 1;
    if (ok && s->budget > 0 && !(measured <= s->budget)) ok = solve(s, &t, &scale, &best, trial);
    ok = ok && fill(s, &t, scale, &best);
    s->scale = scale;
    memcpy(out, best.quantized, s->n * sizeof *out);
    *loss = best.loss;
    arena_drop(&t.mem);
    return ok;
}
