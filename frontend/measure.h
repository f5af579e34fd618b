/* measure.h - a float program and what was made of it, side by side on samples: how far the outputs are apart, how long a run takes, where
 * the time goes, and how much memory a run needs. For reports.
 *
 * The float program is compiled for this machine. So is the other one, unless an artefact that runs here is at hand: then it is that. */
#ifndef OCTET_MEASURE_H
#define OCTET_MEASURE_H
#include "frontend/calibrate.h"

/* An output of both programs, over all samples that were run. */
typedef struct OutputFigures {
    const char *name;
    bool is_float;
    uint32_t samples, unequal;   /* compared; of other sizes in the two programs, not compared */
    double sqnr;                 /* dB, all samples together; infinite: equal; NaN: integers */
    double worst;                /* the least of a sample */
    uint32_t worst_at;           /* that sample, from 0 */
    double cosine, cosine_half;  /* mean of the samples; half of its 95 % interval, NaN with one sample */
    bool scores;                 /* looks like scores of classes along its last axis; else, of integers, elements are compared */
    uint64_t rows, agree;        /* rows, and those with the largest value at the same place; of integers elements, and equal ones */
    double low, high;            /* 95 % interval of agree / rows, by samples: rows of one sample resemble each other */
} OutputFigures;

typedef struct NodeTime {
    const char *node;            /* of the model; "" for steps without a name */
    double seconds;              /* of a run */
} NodeTime;

typedef struct ProgramFigures {
    double median, least;        /* seconds of a run, on the first sample */
    uint32_t runs;
    uint64_t memory;             /* bytes of working memory of a run */
    VEC(NodeTime) node;
    double steps;                /* seconds of all steps of a run while they are timed */
} ProgramFigures;

typedef struct Measured {
    OutputFigures *output;
    uint32_t outputs, samples;
    ProgramFigures program[2];   /* the float one, the other one */
    const char *level;           /* instruction set of both */
    int threads;
    bool artefact;               /* the other one is the artefact itself */
} Measured;

/* plain: the float graph; made: the other one, with its storage; artefact: a file made of it, or NULL. The samples are o->samples, at most
 * MEASURED_MOST; strings and arrays lie in mem. false: reported. */
enum { MEASURED_MOST = 256 };
bool measure_programs(const Graph *plain, const Graph *made, const Storage *store, const char *artefact, const CalibrateOptions *o,
                      Arena *mem, Measured *m, Diag *diag);
/* The outputs alone, beside what the float model made of the samples of o->runs. */
bool measure_outputs(const Graph *made, const Storage *store, const char *artefact, const CalibrateOptions *o,
                     Arena *mem, Measured *m, Diag *diag);
/* Seconds of a run spent in a node; NaN: no step is called so. */
double measured_node(const ProgramFigures *p, const char *node);
#endif
