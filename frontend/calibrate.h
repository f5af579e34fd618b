/* calibrate.h - ranges from samples: the float model, with the tensors in question as extra outputs, is compiled for this
 * machine, loaded into this process and run on every sample; statistics stream (passes/statistics.h), so memory does not grow
 * with the number of samples. */
#ifndef OCTET_CALIBRATE_H
#define OCTET_CALIBRATE_H
#include "codegen/codegen.h"
#include "frontend/file.h"
#include "frontend/samples.h"
#include "passes/quantize.h"

/* What the float model makes of a few samples, spread over all, as calibration saw it. */
typedef struct PlainRun {
    uint32_t sample;
    const Tensor **out;
} PlainRun;
typedef struct PlainRuns {
    Arena mem;
    VEC(PlainRun) run;
    uint64_t bytes;
} PlainRuns;

typedef struct CalibrateOptions {
    SampleSource *samples;         /* NULL: none */
    StatChoice method;
    int threads;
    Cache *cache;                  /* of the compiler, or NULL */
    const char *kept;              /* the file that keeps what calibration has seen (--calibration-cache), or NULL */
    const Files *files;            /* the mapped model, whose pages need not stay in memory beside an observer's; or NULL */
    uint32_t apart; /* one sample of so many is not observed, and the others are numbered without it; 0: none */
    bool quiet;
    PlainRuns *runs; /* NULL, or filled by calibrate(), unless `kept` knows all samples already */
    bool each;      /* what each rounding costs the outputs is wanted, also where all together are inside the bound (costs.h) */
} CalibrateOptions;

/* Values of a graph under samples. The graph with `watch` as its outputs is compiled for this machine and run on the first `most` samples
 * (0: all); `each` sees the values of a sample, out[i] that of watch[i], and they are gone when it returns. what: for the progress line, or
 * NULL. false: reported. */
typedef bool ObserveFn(void *ctx, const Sample *s, const Tensor *const *out, Diag *diag);
bool observe(const Graph *g, const Val *watch, uint32_t n, const CalibrateOptions *o, uint32_t most, const char *what, ObserveFn *each,
             void *ctx, Diag *diag);
/* The same on at most `most` samples spread over all; of a source that does not say how many it has, on the first. */
bool observe_some(const Graph *g, const Val *watch, uint32_t n, const CalibrateOptions *o, uint32_t most, const char *what, ObserveFn *each,
                  void *ctx, Diag *diag);

bool is_spread(uint64_t i, uint64_t n, uint64_t of); /* sample i of n is one of `of`, spread over all; n 0: one of the first */
/* Methods that round by samples are judged on others: one of so many is held out, where there are as many and their number n is known. */
enum { HELD_OUT = 8 };
bool is_held_out(uint64_t i, uint64_t n);

/* Fills q's ranges for the tensors of quantize_wanted(g), of the quotients where q has gains. With o->kept it goes on from what that file says of the same graph and of the same
 * first samples, and leaves there what it has seen, every few samples, so that little is lost when it is interrupted; ranges that somebody
 * has edited there stay as they are. g: the graph after the pass "rotate". false: reported. */
bool calibrate(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag);
/* Adds what was decided afterwards (Range.wide) to the file o->kept, if there is one. g: that of calibrate(). false: reported. */
bool calibration_note(const Graph *g, const Quantization *q, const CalibrateOptions *o, Diag *diag);
/* How far outputs are from those of float32: of the worst output, errors over values in the Euclidean norm, and the largest error over the
 * largest value. */
enum { MEASURED = 8 };
typedef struct Difference {
    double relative, largest;
    uint32_t runs;
    bool made_up;                  /* on random numbers of a fixed seed (0 and 1 for integers, free sizes 1), not on samples */
} Difference;
/* Computes `g` under the policy and `exact`, the same without its rounded products, on this machine, on the first MEASURED samples or, without samples, on random numbers. *measured
 * false: the model does not run on random numbers, or has no float output. false: reported. */
bool calibrate_difference(const Graph *g, const Graph *exact, const Storage *policy, const CalibrateOptions *o, Difference *d,
                          bool *measured, Diag *diag);
#endif
