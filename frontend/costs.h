/* costs.h - what rounding costs a model's outputs, operand by operand, and which are not worth it: as few stay as they are as keep the costs of the others
 * inside a bound, if that may be paid, that is the same for every model. What is not worth its cost may become less of it first, for less. A quarter of a per cent of perplexity where outputs are scores (a divergence of 0.0025 nats), a
 * thousandth of the energy of others (30 dB).
 *
 * What rounding one operand costs the outputs is measured there, with everything between: how far a product is off says nothing of
 * what softmax, norms and later layers make of it. Small errors of many products add up, and they are told apart by signs: a run moves every
 * operand by its rounding, times a sign of its own that is drawn for each run. The outputs of two runs are then off alike by what roundings
 * add that have equal signs in both, and opposite by the others: a linear equation in what each costs. N roundings take some
 * 2 sqrt(N) runs, not N. First all are rounded together: where that is inside the bound, there is nothing to tell apart. */
#ifndef OCTET_COSTS_H
#define OCTET_COSTS_H
#include "frontend/calibrate.h"

enum { MOST_RELIEFS = 2 };
typedef struct Relief {     /* what may become of a rounding that costs too much */
    double price, left;     /* left: of the cost */
} Relief;
typedef struct Rounding {
    uint32_t node, operand; /* which is rounded; in the order of nodes */
    Relief by[MOST_RELIEFS];
    uint32_t reliefs;       /* dearer ones leave less; the last leaves nothing; 0: it is rounded whatever it costs */
    double cost;            /* filled: of rounding it; NaN: not measured, CalibrateOptions.each */
    uint32_t relief;        /* filled: 0: it is worth it; else by[relief - 1] */
} Rounding;

typedef struct Roundings {
    Rounding *at;
    uint32_t n;
    double part;            /* of the bound, for them all but fixed ones */
    bool fitted;            /* to the samples but those held out (calibrate.h), which alone say what it costs then */
    double most;            /* prices that may be paid in all, whatever the others cost then */
    /* What rounding number i adds to the operand `was`, as a value of the graph `to`; of a constant it is one. */
    Val (*off)(const void *ctx, Graph *to, uint32_t i, Val was);
    /* The same of the node's first output, for what is known of the errors on average; an id of 0: nothing. NULL: never. */
    Val (*shift)(const void *ctx, Graph *to, uint32_t i, Val was);
    const void *ctx;
    OutputCosts costs;      /* filled: of the choice */
} Roundings;
/* g: the graph that is rounded; false: reported. */
bool costs_choose(const Graph *g, Roundings *r, const CalibrateOptions *o, Diag *diag);

/* Part of it: costs[n], none negative, with the least squares of the residuals of equations `sum of sign[e][i] * costs[i] = right[e]`. */
void costs_solve(const int8_t *const *sign, const double *right, uint32_t equations, uint32_t n, double *costs);
#endif
