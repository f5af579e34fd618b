/* digits.c - a compiled model called from C. Builds against digits.h, which `octet compile digits.onnx -o digits.so`
 * writes beside digits.so; nothing else of Octet is needed to build or to run.
 *
 *     digits images.npz labels.npy [THREADS]
 *
 * Shows the life of a model in a program: a context, a pool when there is more than one thread, the sizes of a call,
 * the arena, run. Everything lives in memory of this program; the model allocates nothing. */
#define _POSIX_C_SOURCE 200809L
#include "digits.h"
#include "npy.h"
#include <time.h>

static void *take(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) fputs("out of memory\n", stderr), exit(1);
    return p;
}

static void check(const OctetContext *c, OctetStatus s)
{
    if (s == OCTET_OK) return;
    fprintf(stderr, "digits: status %d: %s\n", (int)s, digits_error_text(c));
    exit(1);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Runs n images as one batch and yields the best time of some runs. The batch is a free size of the model: prepare() takes
 * it from in->dim. run() may be called any number of times, with other data, until a size changes. */
static double classify(OctetContext *c, const float *image, int64_t n, float *logits)
{
    OctetTensor in[DIGITS_INPUTS] = {{(void *)image, {n, 1, 8, 8}}}, out[DIGITS_OUTPUTS] = {{.data = logits}};
    size_t bytes;
    check(c, digits_prepare(c, in, out, &bytes));
    void *arena = take(bytes);
    double best = 1e9;
    for (int i = 0; i < 20; i++) {
        double start = seconds();
        check(c, digits_run(c, in, out, arena, bytes));
        double took = seconds() - start;
        if (took < best) best = took;
    }
    free(arena);
    return best;
}

/* A call whose sizes do not fit is refused with a code and a text, and nothing is written. */
static void show_refusal(OctetContext *c)
{
    float pixel[7 * 8] = {0}, logits[10];
    OctetTensor in[DIGITS_INPUTS] = {{pixel, {1, 1, 7, 8}}}, out[DIGITS_OUTPUTS] = {{.data = logits}};
    size_t bytes;
    OctetStatus s = digits_prepare(c, in, out, &bytes);
    printf("an image of 7 x 8 pixels: status %d, \"%s\"\n", (int)s, digits_error_text(c));
    if (s != OCTET_ERR_DIM) exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 3) return fprintf(stderr, "usage: digits images.npz labels.npy [THREADS]\n"), 2;
    Array images = array_load(argv[1], "image"), labels = array_load(argv[2], NULL);
    int32_t threads = argc > 3 ? (int32_t)strtol(argv[3], NULL, 10) : 1;
    int64_t n = images.dim[0], right = 0;
    if (images.rank != 4 || labels.dim[0] != n || threads < 1) return fprintf(stderr, "digits: unexpected data\n"), 1;

    OctetContext *c = take(digits_context_bytes());
    if (digits_context_init(c) != OCTET_OK) return fprintf(stderr, "digits: no instruction set for this CPU\n"), 1;
    OctetPool *pool = NULL;
    if (threads > 1) {
        pool = take(digits_octet_api.pool_bytes(threads));
        check(c, digits_octet_api.pool_init(pool, threads));
        digits_context_threads(c, pool, NULL, NULL, threads);
    }

    float *logits = take((size_t)n * 10 * sizeof *logits);
    double best = classify(c, images.data, n, logits);
    for (int64_t i = 0; i < n; i++) right += largest(logits + i * 10, 10) == ((const int64_t *)labels.data)[i];
    picture_print(images.data, "    ");
    printf("the first image is a %d\n", largest(logits, 10));
    const char *level = digits_octet_api.levels[digits_octet_api.cpu_level(digits_octet_api.model)];
    printf("%lld of %lld right, instruction set %s, %d thread%s, %.3f ms for all\n", (long long)right,
           (long long)n, level, threads, threads > 1 ? "s" : "", best * 1e3);
    show_refusal(c);
    if (pool) digits_octet_api.pool_finish(pool);
    free(pool), free(c), free(logits);
    return right * 100 >= n * 95 ? 0 : 1;
}
