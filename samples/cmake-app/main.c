/* main.c - reads a digit drawn with characters and says which one it is: twice, with the INT8 and with the float model.
 *
 *     app PICTURE.txt      8 lines of 8 characters; darker characters of " .:+*#@" are more ink
 *
 * digits.h and digits_float.h are made by octet_add_model() in CMakeLists.txt. Both models live in one program: the only
 * symbols they bring are digits_octet_api and digits_float_octet_api. */
#include "digits.h"
#include "digits_float.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int picture_read(const char *path, float *pixel)
{
    static const char shade[] = " .:+*#@";
    char line[64];
    FILE *f = fopen(path, "r");
    if (!f) return fprintf(stderr, "%s cannot be read\n", path), 0;
    for (int y = 0; y < 8 && fgets(line, sizeof line, f); y++) {
        fputs(line, stdout);
        for (int x = 0; x < 8 && line[x] && line[x] != '\n'; x++) {
            const char *s = strchr(shade, line[x]);
            pixel[y * 8 + x] = s ? (float)(s - shade) / (sizeof shade - 2) : 0;
        }
    }
    return fclose(f), 1;
}

/* Any compiled model, by its table of functions: what the inline functions of digits.h call. */
static int classify(const OctetApi *api, float *pixel, float *score)
{
    OctetContext *c = aligned_alloc(64, api->context_bytes);
    OctetTensor in = {pixel, {1, 1, 8, 8}}, out = {.data = score};
    size_t bytes = 0;
    void *arena = NULL;
    int best = 0, failed = !c || api->context_init(c, api->model) || api->prepare(c, &in, &out, &bytes);
    if (!failed) arena = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (failed || !arena || api->run(c, &in, &out, arena, bytes)) {
        fprintf(stderr, "the model did not run: %s\n", c ? api->error_text(c) : "out of memory");
        exit(1);
    }
    for (int i = 1; i < 10; i++)
        if (score[i] > score[best]) best = i;
    free(arena), free(c);
    return best;
}

int main(int argc, char **argv)
{
    float pixel[64] = {0}, score[10];
    if (argc != 2) return fprintf(stderr, "usage: app PICTURE.txt\n"), 2;
    if (!picture_read(argv[1], pixel)) return 1;
    int eight = classify(&digits_octet_api, pixel, score);
    printf("INT8:  %d (score %.2f)\n", eight, score[eight]);
    int full = classify(&digits_float_octet_api, pixel, score);
    printf("float: %d (score %.2f)\n", full, score[full]);
    return eight == full ? 0 : 1;
}
