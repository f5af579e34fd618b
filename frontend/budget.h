/* budget.h - --max-loss: which contractions go back to float so that the quantized model stays inside a budget of accuracy and is as
 * fast as it can be; and everything that was tried, for the report.
 *
 * Samples are parted in two: the search looks at one part, the other one judges the result. A choice of regions (passes/simulate.h) is
 * tried in a simulation, compiled once; what a search suggests is compiled as it will be, and judged. The budget holds where the
 * upper confidence bound of the loss is inside, on the part that the search never saw, or on all where BudgetCondition.every says so: then what
 * errors are like is told by that part, and all tell what they lead to.
 * Nothing inside is found: the search starts again with a smaller budget of its own. */
#ifndef OCTET_BUDGET_H
#define OCTET_BUDGET_H
#include "frontend/calibrate.h"
#include "frontend/metric.h"
#include "frontend/options.h"
#include <cjson/cJSON.h>

/* Every second sample judges. Methods that round by samples must not be fitted to it (CalibrateOptions.apart). */
enum { JUDGES = 2 };

typedef struct BudgetOptions {
    double max_loss;             /* 0.005 of 0.5% */
    const char *metric;          /* of metric.h; NULL: chosen by the outputs */
    const char *command;         /* --metric-cmd, or NULL */
    const char *labels;          /* --labels, or NULL */
    const char *target;          /* --target, or NULL */
    bool estimate;               /* times are estimated, not measured: the same choice on any machine, at any time */
    CalibrateOptions calibrate;  /* samples, threads, cache */
} BudgetOptions;

/* All but the samples, without --max-loss too. false: a usage error, reported. */
bool budget_options(BudgetOptions *b, const Options *o, Diag *d);

typedef struct BudgetRegion {
    double loss;                 /* of this region quantized alone, in the metric that orders; NaN: not measured */
    double plain, quantized;     /* seconds of a run spent in it; NaN: not measured */
    double saved;                /* seconds, or multiply-adds in the estimate */
    bool reverted;
} BudgetRegion;

typedef struct BudgetPoint {     /* one choice that was tried */
    uint32_t quantized;          /* regions */
    double loss, bound;          /* on the part that it says */
    double seconds;              /* of a run: measured of an artefact, predicted of a simulation; NaN: unknown */
    bool artefact;               /* compiled and run, on the samples that judge; else simulated on those of the search */
    bool chosen;
} BudgetPoint;

typedef struct BudgetCondition { /* of the choice */
    const char *metric, *output;
    double loss, bound;
    int64_t rows;                /* that were compared */
    bool shown, every;           /* the bound is one; every sample is judged, those of the search too */
} BudgetCondition;

typedef struct Budget {
    double max_loss, loss, bound;    /* of the condition that is nearest to failing */
    BudgetCondition *condition;      /* all of them */
    uint32_t conditions;
    const char *metric;              /* for people: "kl of 'logits'" */
    const char *command;
    double figure[2];                /* what the command printed: of the float model, of the choice */
    uint32_t samples[2];             /* that the search looks at, that judge */
    int64_t rows, need;              /* of the samples that judge; how many would show the loss, 0: these do */
    bool shown, measured;            /* the bound is one; times were measured */
    double plain, all, chosen;       /* seconds of a run: float, everything quantized, the choice; NaN: not measured */
    uint32_t looks;                  /* how often the part that judges was asked */
    BudgetRegion *region;            /* from 1 */
    uint32_t regions, reverted;
    VEC(BudgetPoint) point;
} Budget;

/* The passes from "quantize" on, into mem; q NULL: of the float model; simulate: up to "codes". NULL: reported. */
typedef Graph *BudgetPasses(void *ctx, Quantization *q, bool simulate, Arena *mem);
/* Finds q->reverted and q->budget. g: the graph before "quantize", of region_places(); q: with ranges. false: reported. */
bool budget_run(const Graph *g, Quantization *q, const BudgetOptions *o, BudgetPasses *passes, void *ctx, Diag *diag);

/* budget_report.c */
void budget_print(const Quantization *q, const char *model, FILE *f);
cJSON *budget_json(const Quantization *q);

/* budget_times.c: seconds of a run by region (0: nodes outside of regions), of programs whose nodes region_labels() named and which take turns,
 * so that what else the machine does meets them alike. region_places(): the same graph, in which every node has a Loc.place. */
typedef struct Program Program;
Graph *region_places(const Graph *g, Arena *mem);
Graph *region_labels(const Graph *g, const Quantization *q, Arena *mem);
typedef struct RegionTimes {
    Program *program;
    double *region, *run;        /* out */
} RegionTimes;
bool region_times(const RegionTimes *t, uint32_t n, const Tensor *const *in, uint32_t regions, Diag *diag);
#endif
