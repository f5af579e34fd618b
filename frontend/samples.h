/* samples.h - calibration samples, one after the other, wherever they come from.
 *
 * A source is files, the output of a program, or random numbers on explicit request; all give named arrays, and one place binds them
 * to the model's inputs and reports everything that is wrong with a sample. One sample is in memory at a time. A source can be gone
 * through again and gives the same samples. */
#ifndef OCTET_SAMPLES_H
#define OCTET_SAMPLES_H
#include "codegen/cache.h"
#include "ir/graph.h"

typedef struct SampleSource SampleSource;
/* path: what --calibrate says, or NULL; command: what --calibrate-cmd says, or NULL. NULL: reported, or neither is given. */
SampleSource *samples_open(Arena *mem, const char *path, const char *command, Diag *diag);
SampleSource *samples_random(Arena *mem, uint32_t n); /* n samples of random numbers: in [-1, 1), 0 and 1 for integers, free sizes 1 */
void samples_close(SampleSource *s);             /* NULL: nothing to close */
bool samples_are_random(const SampleSource *s);
bool samples_are_streamed(const SampleSource *s);/* nobody knows how many there will be, or when */
const char *samples_text(const SampleSource *s); /* as the user named it */

typedef struct Sample {
    const char *name;            /* for messages */
    uint32_t index, of;          /* from 0; of 0: nobody knows how many there will be */
    const Tensor *const *in;     /* the model's inputs, in order; they live until the callback returns */
    Arena *mem;                  /* dropped after the callback */
} Sample;
typedef bool SampleFn(void *ctx, const Sample *s, Diag *diag); /* false: reported, and the end */

/* The first `most` samples (0: all) through `each`. g: whose inputs they are for. false: reported. */
bool samples_each(SampleSource *s, const Graph *g, uint32_t most, SampleFn *each, void *ctx, Diag *diag);
CacheKey sample_key(const Sample *s, const Graph *g); /* of its content */

/* One folder of the official tests: tensors[i] from PREFIX_*.pb for names[i], by the name inside the file or else by the file's number;
 * NULL where there is none. skips: there may be files for which there is no name. */
bool test_set_read(Arena *mem, Diag *d, const char *folder, const char *prefix, bool skips, const char *const *names, uint32_t n,
                   const Tensor **tensors);
#endif
