/* npy.h - reads an array from a .npy file or from an uncompressed .npz (numpy.savez): all the samples need, in C alone.
 *
 *     Array images = array_load("images.npz", "image");    a member of an .npz
 *     Array labels = array_load("labels.npy", NULL);
 *
 * A file that is missing or in another form ends the program with a message: samples read their own files. */
#ifndef SAMPLES_NPY_H
#define SAMPLES_NPY_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Array {
    char type[8]; /* "<f4", "<i8", ... */
    int rank;
    int64_t dim[8];
    const void *data; /* row-major, aligned to 64 bytes */
} Array;

static inline void array_stop(const char *path, const char *why)
{
    fprintf(stderr, "%s: %s\n", path, why);
    exit(1);
}

static inline unsigned char *file_load(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) array_stop(path, "cannot be read");
    long n = ftell(f);
    unsigned char *p = n >= 0 ? malloc((size_t)n + 1) : NULL;
    rewind(f);
    if (!p || fread(p, 1, (size_t)n, f) != (size_t)n) array_stop(path, "cannot be read");
    fclose(f);
    p[n] = 0;
    return *size = (size_t)n, p;
}

static inline uint32_t little(const unsigned char *p, int bytes)
{
    uint32_t v = 0;
    while (bytes-- > 0) v = v << 8 | p[bytes];
    return v;
}

/* The member NAME.npy of a zip whose members are stored; *size receives its length. */
static inline const unsigned char *zip_member(const char *path, const unsigned char *p, size_t *size, const char *name)
{
    size_t n = *size, end = n < 22 ? 0 : n - 22, length = strlen(name);
    while (end && little(p + end, 4) != 0x06054b50) end--;
    if (!end) array_stop(path, "not an .npz file");
    size_t at = little(p + end + 16, 4);
    for (uint32_t left = little(p + end + 10, 2); left; left--) {
        if (at + 46 > n) array_stop(path, "damaged directory");
        const unsigned char *d = p + at;
        uint32_t text = little(d + 28, 2), local = little(d + 42, 4), stored = little(d + 20, 4);
        at += 46 + text + little(d + 30, 2) + little(d + 32, 2);
        if (at > n || text != length + 4 || memcmp(d + 46, name, length)) continue;
        if (little(d + 10, 2)) array_stop(path, "the array is compressed (save it with numpy.savez)");
        if ((size_t)local + 30 > n) array_stop(path, "damaged directory");
        size_t data = local + 30 + little(p + local + 26, 2) + little(p + local + 28, 2);
        if (data > n || stored > n - data) array_stop(path, "the file ends early");
        return *size = stored, p + data;
    }
    return array_stop(path, "holds no such array"), p;
}

static inline Array array_load(const char *path, const char *name)
{
    size_t n;
    Array a = {.rank = 0};
    const unsigned char *p = file_load(path, &n);
    if (name) p = zip_member(path, p, &n, name);
    if (n < 12 || memcmp(p, "\x93NUMPY\1", 7)) array_stop(path, "not a .npy file");
    size_t head = 10 + little(p + 8, 2), bytes = 1;
    const char *descr = strstr((const char *)p + 10, "'descr': '"), *shape = strstr((const char *)p + 10, "'shape': (");
    if (!descr || !shape || head > n) array_stop(path, "damaged .npy header");
    snprintf(a.type, sizeof a.type, "%.3s", descr + 10);
    bytes = (size_t)(a.type[2] - '0');
    for (char *s = (char *)shape + 10; *s != ')' && a.rank < 8; s += strspn(s, ", ")) {
        a.dim[a.rank] = strtoll(s, &s, 10);
        bytes *= (size_t)a.dim[a.rank++];
    }
    void *data = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (bytes > n - head || !data) array_stop(path, "the file ends early");
    return memcpy(data, p + head, bytes), a.data = data, a;
}

/* A picture of 8 x 8 pixels from 0 to 1, two characters each. */
static inline void picture_print(const float *pixel, const char *margin)
{
    static const char shade[] = " .:+*#@";
    for (int y = 0; y < 8; y++) {
        fputs(margin, stdout);
        for (int x = 0; x < 8; x++) {
            char c = shade[(int)(pixel[y * 8 + x] * (sizeof shade - 2) + 0.5f)];
            putchar(c), putchar(c);
        }
        putchar('\n');
    }
}

static inline int largest(const float *v, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (v[i] > v[best]) best = i;
    return best;
}
#endif
