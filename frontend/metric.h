/* metric.h - how much worse a model's outputs are than those of the float model, as one number for a budget: 0 is "as good", 0.005 is
 * what --max-loss 0.5% allows. One row of a table for each metric; what its number means is its help text.
 *
 * Outputs are looked at in rows, vectors along the last axis that is longer than 1. Where the float model has no number,
 * or both the same infinite one, nothing is compared. A sample's rows add up to a MetricSum; the loss of several samples comes from their
 * sums, and so does its upper confidence bound, by samples: rows of one sample resemble each other. */
#ifndef OCTET_METRIC_H
#define OCTET_METRIC_H
#include "ir/base/vec.h"
#include "ir/tensor.h"

typedef struct MetricRow {
    const float *plain, *got; /* of the float model, of the other one */
    int64_t n;
    int64_t target;           /* the right column, or -1: nobody says */
    int k;                    /* of topK */
} MetricRow;

typedef struct MetricSum {
    double loss, weight;
    int64_t rows;
    Arena *mem;         /* by who begins one, for metrics that settle: */
    VEC(float) margin;  /* of rows whose losses follow from the errors of all, */
    double off, likely; /* and their errors, weighed, and the weights, added up */
} MetricSum;

typedef struct Metric {
    const char *name, *help;  /* help: what a loss of 1 % means */
    void (*row)(const MetricRow *r, MetricSum *s);
    /* Adds the losses that follow from the errors of all rows of all samples, were these so many times as large; or NULL. */
    void (*settle)(MetricSum *sample, uint32_t n, double times);
    bool grows;               /* the mean is a logarithm: the loss is the factor less one */
    bool root;                /* the mean grows as the root of a small divergence, not with it */
    bool counts;              /* rows without targets are right or wrong */
    bool labels, tokens;      /* can use targets given with --labels; takes the next token of the input as target */
    const char *finer;        /* the metric that orders layers in its place, since it sees less than a wrong row; or NULL */
} Metric;
const Metric *metric_at(uint32_t i);                   /* NULL past the end */
const Metric *metric_find(const char *name, int *k);   /* "top5" is topK with k = 5; NULL: no such metric */
/* Does softmax of these rows say something (or are they probabilities already)? Then kl suits them, else cosine. */
bool rows_are_scores(const float *x, int64_t rows, int64_t n);
/* Do these scores tell what comes, target[] of each row (-1: nobody says): are they a language model's? */
bool rows_predict(const float *x, const int64_t *target, int64_t rows, int64_t n);
bool row_is_distribution(const float *x, int64_t n); /* probabilities, which add up to 1; of one number: or less */
#define LEAST_PROBABILITY 1e-7 /* one that underflowed or was rounded to nothing counts so */
double row_surprise(const float *x, int64_t n, int64_t target); /* in nats; of scores or of probabilities */
/* No number of the float model, or the same infinite one: it is not compared. */
bool says_nothing(double plain, double other);
double row_dot(const float *x, const float *y, int64_t n);

double metric_loss(const Metric *m, const MetricSum *sample, uint32_t n);
/* What the loss is below with 95 % confidence. *shown false: there are too few rows to show a loss of `budget`, even if none is wrong;
 * the loss itself then. *need: rows that could. */
double metric_bound(const Metric *m, const MetricSum *sample, uint32_t n, double budget, bool *shown, int64_t *need);
/* That bound as a number that grows as divergences and squared errors do, so that it adds up over regions of a model; inside the budget where the bound is. */
double metric_even(const Metric *m, const MetricSum *sample, uint32_t n, double budget);
#endif
