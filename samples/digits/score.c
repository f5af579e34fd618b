/* score.c - how often a classifier is right: the arrays an executable wrote against the labels.
 *
 *     score OUT.npz labels.npy [--show images.npz N] [--least PERCENT]
 *
 * Prints the first N images with what was predicted, and the accuracy. Exit code 1 when it is under PERCENT. */
#include "npy.h"
#include <stdbool.h>

int main(int argc, char **argv)
{
    int64_t show = 0, right = 0;
    double least = 0;
    if (argc < 3)
        return fprintf(stderr, "usage: score OUT.npz labels.npy [--show images.npz N] [--least PERCENT]\n"), 2;
    Array logits = array_load(argv[1], "logits"), labels = array_load(argv[2], NULL), images = {.rank = 0};
    for (int a = 3; a < argc; a++) {
        if (!strcmp(argv[a], "--show") && a + 2 < argc)
            images = array_load(argv[a + 1], "image"), show = strtoll(argv[a + 2], NULL, 10), a += 2;
        else if (!strcmp(argv[a], "--least") && a + 1 < argc) least = strtod(argv[++a], NULL);
        else return fprintf(stderr, "unknown option %s\n", argv[a]), 2;
    }
    int64_t n = logits.dim[0], classes = logits.dim[1];
    bool fits = logits.rank == 2 && labels.rank == 1 && labels.dim[0] == n && n > 0;
    if (!fits || strcmp(logits.type, "<f4") || strcmp(labels.type, "<i8"))
        return fprintf(stderr, "%s and %s do not belong together\n", argv[1], argv[2]), 1;
    if (show > n || (show && images.dim[0] != n)) return fprintf(stderr, "there are %lld images\n", (long long)n), 1;
    for (int64_t i = 0; i < n; i++) {
        int64_t label = ((const int64_t *)labels.data)[i];
        int got = largest((const float *)logits.data + i * classes, (int)classes);
        right += got == label;
        if (i >= show) continue;
        picture_print((const float *)images.data + i * 64, "    ");
        printf("    predicted %d, is %lld\n\n", got, (long long)label);
    }
    double percent = 100.0 * (double)right / (double)n;
    printf("%lld of %lld right, %.2f %%\n", (long long)right, (long long)n, percent);
    if (percent >= least) return 0;
    return fprintf(stderr, "expected at least %.2f %%\n", least), 1;
}
