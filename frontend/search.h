/* search.h - which regions of a model stay quantized so that its loss is inside a budget and as much time as possible is saved.
 *
 * Comes in: of every region the loss when it alone is quantized and the time that saves, and a function that measures the loss of any
 * choice. Losses of regions do not add up, so a choice that they suggest is always measured, and what the measurement says corrects
 * the next suggestion. Goes out: the best choice that was measured to be inside the budget. Knows nothing of models. */
#ifndef OCTET_SEARCH_H
#define OCTET_SEARCH_H
#include "ir/base/arena.h"

typedef struct SearchRegion {
    double loss; /* of this region quantized alone; below 0 counts as 0 */
    double time; /* saved by quantizing it; what is not above 0 is not worth any loss */
} SearchRegion;

typedef struct Search {
    uint32_t n;
    const SearchRegion *region;
    double budget;
    /* *loss of a choice (quantized[n]); false: it could not be measured, which ends the search */
    bool (*measure)(void *arg, const bool *quantized, double *loss);
    void *arg;
    uint32_t most;     /* measurements, about */
    double scale;      /* what the losses of regions are multiplied by at first: what a search before left here; 0: nothing is known. out: for the next one */
    uint32_t measured; /* out */
} Search;

/* best[n] receives the choice, *loss what was measured of it. Nothing quantized has no loss. false: a measurement failed. */
bool search_run(Search *s, bool *best, double *loss);
#endif
