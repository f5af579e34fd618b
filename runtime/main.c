/* main.c - the main() of a model compiled to an executable: NumPy files in, a NumPy file out.
 *
 *     model --input IN.npz | --input NAME=IN.npy ... [--output OUT.npz] [--threads N] [--isa LEVEL]
 *     model --bench [--threads N] [--isa LEVEL]     model --selftest [--isa LEVEL]     model --help
 *
 * Reads .npy and .npz (stored or deflated) and writes .npz, with nothing but libc. A model without given inputs gets
 * made-up ones for --bench and --selftest. Unlike the rest of the runtime this file is a program: it allocates and
 * prints. */
#include "model.h"
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

extern const OctetApi octet_this_api; /* the model linked beside this file */
static const OctetApi *const api = &octet_this_api;
enum { EXIT_DATA = 1, EXIT_BAD_USAGE = 2 };

static void stop(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
static void stop(int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("error: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(code);
}

static void *take(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes / 64 + 1) * 64);
    if (!p) stop(EXIT_DATA, "out of memory: %zu bytes", bytes);
    memset(p, 0, (bytes / 64 + 1) * 64);
    return p;
}

/* ---- element types by ONNX number: what .npy calls them ---- */
typedef struct Element {
    const char *npy;
    int bytes;
} Element;
static const Element elements[] = {
    [1] = {"<f4", 4},  [2] = {"|u1", 1},  [3] = {"|i1", 1},  [4] = {"<u2", 2},    [5] = {"<i2", 2},
    [6] = {"<i4", 4},  [7] = {"<i8", 8},  [9] = {"|b1", 1},  [10] = {"<f2", 2},   [11] = {"<f8", 8},
    [12] = {"<u4", 4}, [13] = {"<u8", 8}, [14] = {"<c8", 8}, [15] = {"<c16", 16}, [16] = {"<u2", 2},
    [17] = {"|u1", 1}, [18] = {"|u1", 1}, [19] = {"|u1", 1}, [20] = {"|u1", 1},   [21] = {"|u1", 1},
    [22] = {"|i1", 1}, [23] = {"|u1", 1}, [24] = {"|u1", 1}, [25] = {"|u1", 1},   [26] = {"|i1", 1},
};
static const Element *element_of(const OctetTensorInfo *t)
{
    bool known = t->dtype > 0 && t->dtype < (int32_t)(sizeof elements / sizeof *elements) && elements[t->dtype].npy;
    if (!known) stop(EXIT_DATA, "'%s' has element type %d, which .npy cannot hold", t->name, t->dtype);
    return &elements[t->dtype];
}

static size_t tensor_bytes(const OctetTensorInfo *info, const int64_t *dim)
{
    size_t n = (size_t)element_of(info)->bytes;
    for (int32_t a = 0; a < info->rank; a++)
        if (__builtin_mul_overflow(n, (size_t)dim[a], &n)) stop(EXIT_DATA, "'%s' is too large", info->name);
    return n;
}

/* ---- inflate (RFC 1951): bits low first, canonical Huffman codes decoded length by length ---- */
typedef struct Inflate {
    const uint8_t *in;
    size_t n, at;
    uint64_t bits;
    int count;
    uint8_t *out;
    size_t made, cap;
    bool bad;
} Inflate;
typedef struct Huffman {
    uint16_t count[16], symbol[288];
} Huffman;

static uint32_t bits_take(Inflate *z, int n)
{
    while (z->count < n) {
        if (z->at == z->n) return z->bad = true, 0u;
        z->bits |= (uint64_t)z->in[z->at++] << z->count, z->count += 8;
    }
    uint32_t v = (uint32_t)(z->bits & ((1u << n) - 1));
    z->bits >>= n, z->count -= n;
    return v;
}

static void huffman_make(Huffman *h, const uint8_t *length, int n)
{
    uint16_t at[16] = {0};
    memset(h->count, 0, sizeof h->count);
    for (int i = 0; i < n; i++) h->count[length[i]]++;
    for (int l = 1; l < 15; l++) at[l + 1] = at[l] + h->count[l];
    for (int i = 0; i < n; i++)
        if (length[i]) h->symbol[at[length[i]]++] = (uint16_t)i;
    h->count[0] = 0;
}

static int huffman_take(Inflate *z, const Huffman *h)
{
    int code = 0, first = 0, index = 0;
    for (int l = 1; l <= 15 && !z->bad; l++) {
        code |= (int)bits_take(z, 1);
        int count = h->count[l];
        if (code - count < first) return h->symbol[index + code - first];
        index += count, first = (first + count) << 1, code <<= 1;
    }
    z->bad = true;
    return 256;
}

static void inflate_codes(Inflate *z, const Huffman *lit, const Huffman *dist)
{
    static const uint16_t len_base[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                        31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t len_bits[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                       2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t dist_base[] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                         33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                         1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    while (!z->bad) {
        int s = huffman_take(z, lit);
        if (z->bad || s == 256) return;
        if (s < 256) {
            if (z->made == z->cap) z->bad = true;
            else z->out[z->made++] = (uint8_t)s;
            continue;
        }
        s -= 257;
        if (s >= 29) {
            z->bad = true;
            return;
        }
        size_t length = len_base[s] + bits_take(z, len_bits[s]);
        int d = huffman_take(z, dist);
        if (z->bad || d >= 30) {
            z->bad = true;
            return;
        }
        size_t back = dist_base[d] + bits_take(z, d < 4 ? 0 : d / 2 - 1);
        if (z->bad || back > z->made || length > z->cap - z->made) {
            z->bad = true;
            return;
        }
        for (; length; length--, z->made++) z->out[z->made] = z->out[z->made - back];
    }
}

static void inflate_stored(Inflate *z)
{
    z->bits = 0, z->count = 0;
    if (z->n - z->at < 4) {
        z->bad = true;
        return;
    }
    size_t n = z->in[z->at] | (size_t)z->in[z->at + 1] << 8;
    z->at += 4;
    if (n > z->n - z->at || n > z->cap - z->made) {
        z->bad = true;
        return;
    }
    memcpy(z->out + z->made, z->in + z->at, n);
    z->at += n, z->made += n;
}

static void inflate_fixed(Inflate *z)
{
    uint8_t length[288 + 30];
    Huffman lit, dist;
    for (int i = 0; i < 288; i++) length[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    memset(length + 288, 5, 30);
    huffman_make(&lit, length, 288), huffman_make(&dist, length + 288, 30);
    inflate_codes(z, &lit, &dist);
}

static void inflate_dynamic(Inflate *z)
{
    static const uint8_t order[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    int lits = (int)bits_take(z, 5) + 257, dists = (int)bits_take(z, 5) + 1, codes = (int)bits_take(z, 4) + 4;
    uint8_t length[320] = {0};
    Huffman lit, dist;
    if (lits > 286 || dists > 30) {
        z->bad = true;
        return;
    }
    for (int i = 0; i < codes; i++) length[order[i]] = (uint8_t)bits_take(z, 3);
    huffman_make(&lit, length, 19);
    memset(length, 0, sizeof length);
    for (int n = 0; n < lits + dists && !z->bad;) {
        int s = huffman_take(z, &lit), times = 1;
        uint8_t value = (uint8_t)s;
        if (s > 18) {
            z->bad = true;
            return;
        }
        if (s >= 16) value = s == 16 && n ? length[n - 1] : 0;
        if (s == 16) times = 3 + (int)bits_take(z, 2);
        if (s == 17) times = 3 + (int)bits_take(z, 3);
        if (s == 18) times = 11 + (int)bits_take(z, 7);
        if (n + times > lits + dists) {
            z->bad = true;
            return;
        }
        while (times--) length[n++] = value;
    }
    huffman_make(&lit, length, lits), huffman_make(&dist, length + lits, dists);
    if (!z->bad) inflate_codes(z, &lit, &dist);
}

static bool inflate_all(const uint8_t *in, size_t n, uint8_t *out, size_t cap)
{
    Inflate z = {.in = in, .n = n, .out = out, .cap = cap};
    for (uint32_t last = 0; !last && !z.bad;) {
        last = bits_take(&z, 1);
        uint32_t kind = bits_take(&z, 2);
        if (kind == 0) inflate_stored(&z);
        else if (kind == 1) inflate_fixed(&z);
        else if (kind == 2) inflate_dynamic(&z);
        else z.bad = true;
    }
    return !z.bad && z.made == cap;
}

/* ---- files ---- */
typedef struct Text {
    uint8_t *at;
    size_t n;
} Text;
static Text file_read(const char *path)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!f) stop(EXIT_DATA, "%s: %s", path, strerror(errno));
    Text t = {NULL, 0};
    for (size_t cap = 0;;) {
        if (t.n == cap && !(t.at = realloc(t.at, cap = cap ? cap * 2 : 1 << 16)))
            stop(EXIT_DATA, "%s: out of memory", path);
        size_t got = fread(t.at + t.n, 1, cap - t.n, f);
        t.n += got;
        if (!got) break;
    }
    if (ferror(f)) stop(EXIT_DATA, "%s: %s", path, strerror(errno));
    if (f != stdin) fclose(f);
    return t;
}

static uint32_t le(const uint8_t *p, int bytes)
{
    uint32_t v = 0;
    for (int i = bytes; i-- > 0;) v = v << 8 | p[i];
    return v;
}

/* "'descr': '<f4'": where the value of a key of the header begins. */
static const char *header_value(const char *h, const char *key)
{
    const char *p = strstr(h, key);
    if (!p) return "";
    p += strlen(key);
    while (*p == '\'' || *p == '"' || *p == ':' || *p == ' ') p++;
    return p;
}

static bool descr_fits(const char *descr, const Element *e, int32_t dtype)
{
    bool one = e->bytes == 1;
    size_t n = strlen(e->npy + 1);
    if (strncmp(descr + 1, e->npy + 1, n) == 0 && (descr[n + 1] == '\'' || descr[n + 1] == '"'))
        return one || *descr == '<' || *descr == '=' || *descr == '|';
    return dtype >= 16 && descr[1] == 'V' && strtol(descr + 2, NULL, 10) == e->bytes; /* ml_dtypes: bfloat16, float8 */
}

/* One .npy file in memory becomes input i. */
static void npy_take(const uint8_t *p, size_t n, int32_t i, OctetTensor *in, const char *from)
{
    const OctetTensorInfo *info = &api->input[i];
    const Element *e = element_of(info);
    if (n < 12 || memcmp(p, "\x93NUMPY", 6) != 0) stop(EXIT_DATA, "%s: not a .npy file", from);
    int wide = p[6] > 1 ? 4 : 2;
    size_t length = le(p + 8, wide), head = 8 + (size_t)wide + length;
    if (length > 65536 || head > n) stop(EXIT_DATA, "%s: damaged .npy header", from);
    char h[65537];
    memcpy(h, p + 8 + wide, length), h[length] = 0;
    if (!descr_fits(header_value(h, "descr"), e, info->dtype))
        stop(EXIT_DATA, "%s: input '%s' must have the type %s", from, info->name, e->npy);
    if (strncmp(header_value(h, "fortran_order"), "False", 5) != 0)
        stop(EXIT_DATA, "%s: arrays in Fortran order are not read", from);
    const char *s = strchr(header_value(h, "shape"), '(');
    int32_t rank = 0;
    for (s = s ? s + 1 : ""; *s && *s != ')';) {
        char *end;
        long long d = strtoll(s, &end, 10);
        if (end == s || d < 0 || rank == OCTET_MAX_RANK) stop(EXIT_DATA, "%s: damaged .npy header", from);
        in[i].dim[rank++] = d;
        for (s = end; *s == ',' || *s == ' ' || *s == 'L'; s++) {}
    }
    if (rank != info->rank)
        stop(EXIT_DATA, "%s: input '%s' has rank %d, expected %d", from, info->name, rank, info->rank);
    size_t bytes = tensor_bytes(info, in[i].dim);
    if (bytes > n - head) stop(EXIT_DATA, "%s: the file ends early", from);
    in[i].data = take(bytes);
    memcpy(in[i].data, p + head, bytes);
}

static int32_t input_find(const char *name, size_t n)
{
    for (int32_t i = 0; i < api->inputs; i++)
        if (strlen(api->input[i].name) == n && memcmp(api->input[i].name, name, n) == 0) return i;
    return -1;
}

/* An .npz is a zip: the central directory at its end lists the members. Arrays that are no inputs are passed over. */
static void npz_take(Text t, OctetTensor *in, const char *path)
{
    size_t end = t.n < 22 ? 0 : t.n - 22;
    while (end && le(t.at + end, 4) != 0x06054b50) end--;
    if (t.n < 22 || le(t.at + end, 4) != 0x06054b50) stop(EXIT_DATA, "%s: not a .npz file", path);
    uint32_t members = le(t.at + end + 10, 2);
    size_t at = le(t.at + end + 16, 4);
    for (uint32_t m = 0; m < members; m++) {
        if (at + 46 > t.n || le(t.at + at, 4) != 0x02014b50) stop(EXIT_DATA, "%s: damaged directory", path);
        const uint8_t *d = t.at + at;
        uint32_t method = le(d + 10, 2), name_n = le(d + 28, 2);
        size_t packed = le(d + 20, 4), plain = le(d + 24, 4), local = le(d + 42, 4);
        at += 46 + (size_t)name_n + le(d + 30, 2) + le(d + 32, 2);
        if (at > t.n || local + 30 > t.n) stop(EXIT_DATA, "%s: damaged directory", path);
        if (packed == UINT32_MAX || plain == UINT32_MAX || local == UINT32_MAX)
            stop(EXIT_DATA, "%s: arrays of 4 GB and more are not read: use .npy", path);
        const char *name = (const char *)d + 46;
        size_t n = name_n > 4 && memcmp(name + name_n - 4, ".npy", 4) == 0 ? name_n - 4 : name_n;
        int32_t i = input_find(name, n);
        if (i < 0) continue;
        size_t data = local + 30 + le(t.at + local + 26, 2) + le(t.at + local + 28, 2);
        if (data > t.n || packed > t.n - data) stop(EXIT_DATA, "%s: damaged member '%.*s'", path, (int)n, name);
        if (method != 0 && method != 8)
            stop(EXIT_DATA, "%s: member '%.*s' is compressed in a way that is not read", path, (int)n, name);
        if (method == 0) {
            npy_take(t.at + data, packed, i, in, path);
            continue;
        }
        if (plain / 1100 > packed)
            stop(EXIT_DATA, "%s: damaged member '%.*s'", path, (int)n, name); /* deflate packs 1032 to 1 at best */
        uint8_t *out = take(plain);
        if (!inflate_all(t.at + data, packed, out, plain))
            stop(EXIT_DATA, "%s: damaged member '%.*s'", path, (int)n, name);
        npy_take(out, plain, i, in, path);
        free(out);
    }
}

static uint32_t crc32_of(uint32_t crc, const uint8_t *p, size_t n)
{
    static const uint32_t nibble[] = {0,          0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                      0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                      0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return ~crc;
}

static void put(uint8_t *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) p[i] = (uint8_t)(v >> 8 * i);
}

static size_t npy_header(char *h, const OctetTensorInfo *info, const int64_t *dim)
{
    char shape[256] = "";
    size_t n = 0;
    for (int32_t a = 0; a < info->rank; a++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, a ? ", %lld" : "%lld", (long long)dim[a]);
    int text = snprintf(h + 10, 400, "{'descr': '%s', 'fortran_order': False, 'shape': (%s%s), }",
                        element_of(info)->npy, shape, info->rank == 1 ? "," : "");
    size_t all = (10 + (size_t)text + 1 + 63) / 64 * 64;
    memcpy(h, "\x93NUMPY\x01", 8);
    memset(h + 10 + text, ' ', all - 10 - (size_t)text - 1);
    h[all - 1] = '\n';
    put((uint8_t *)h + 8, all - 10, 2);
    return all;
}

static void npz_write(const char *path, const OctetTensor *out)
{
    char *temporary = take(strlen(path) + 16);
    snprintf(temporary, strlen(path) + 16, "%s.%d", path, (int)getpid());
    struct stat st;
    bool standard = strcmp(path, "-") == 0;
    bool in_place =
        standard || (stat(path, &st) == 0 && !S_ISREG(st.st_mode)); /* a device, a pipe: nothing to rename */
    FILE *f = standard ? stdout : fopen(in_place ? path : temporary, "wb");
    if (!f) stop(EXIT_DATA, "%s: %s", path, strerror(errno));
    uint8_t *central = take((size_t)api->outputs * 4096 + 64);
    size_t c = 0, at = 0;
    for (int32_t o = 0; o < api->outputs; o++) {
        char head[512];
        size_t h = npy_header(head, &api->output[o], out[o].dim), bytes = tensor_bytes(&api->output[o], out[o].dim);
        size_t name = strlen(api->output[o].name) + 4;
        if (h + bytes >= UINT32_MAX || at + h + bytes >= UINT32_MAX || name > 4000)
            stop(EXIT_DATA, "output '%s' is too large for .npz", api->output[o].name);
        uint32_t crc = crc32_of(crc32_of(0, (uint8_t *)head, h), out[o].data, bytes);
        uint8_t local[30] = {'P', 'K', 3, 4, 20, 0};
        put(local + 12, 0x21, 2), put(local + 14, crc, 4), put(local + 18, h + bytes, 4), put(local + 22, h + bytes, 4),
            put(local + 26, name, 2);
        memcpy(central + c, "PK\1\2\x14\0", 6);
        memcpy(central + c + 6, local + 4, 26);
        put(central + c + 42, at, 4);
        c += 46 + (size_t)snprintf((char *)central + c + 46, 4008, "%s.npy", api->output[o].name);
        fwrite(local, 1, sizeof local, f);
        fprintf(f, "%s.npy", api->output[o].name);
        fwrite(head, 1, h, f);
        fwrite(out[o].data, 1, bytes, f);
        at += 30 + name + h + bytes;
    }
    uint8_t end[22] = {'P', 'K', 5, 6};
    put(end + 8, (uint64_t)api->outputs, 2), put(end + 10, (uint64_t)api->outputs, 2), put(end + 12, c, 4),
        put(end + 16, at, 4);
    fwrite(central, 1, c, f);
    fwrite(end, 1, sizeof end, f);
    bool failed = ferror(f) != 0;
    if (standard ? fflush(f) : fclose(f)) failed = true;
    if (!failed && !in_place && rename(temporary, path) != 0) failed = true;
    if (failed && !in_place) remove(temporary);
    if (failed) stop(EXIT_DATA, "%s: %s", path, strerror(errno));
    free(temporary), free(central);
}

/* ---- running ---- */
typedef struct Run {
    OctetContext *c;
    OctetTensor *in, *out;
    void *arena;
    size_t arena_bytes;
} Run;

static void check(const Run *r, OctetStatus s)
{
    if (s != OCTET_OK) stop(EXIT_DATA, "%s", *api->error_text(r->c) ? api->error_text(r->c) : "the model did not run");
}

static void arena_take(Run *r)
{
    size_t need;
    check(r, api->prepare(r->c, r->in, r->out, &need));
    free(r->arena);
    r->arena = take(need), r->arena_bytes = need;
}

static void run_begin(Run *r, int threads, int32_t level)
{
    r->c = take(api->context_bytes);
    check(r, api->context_init(r->c, api->model));
    if (threads > 1 && api->pool_bytes) {
        OctetPool *pool = take(api->pool_bytes(threads));
        if (api->pool_init(pool, threads) != OCTET_OK) stop(EXIT_DATA, "%d threads could not be started", threads);
        api->context_threads(r->c, pool, NULL, NULL, threads);
    }
    api->context_level(r->c, level);
    arena_take(r);
    for (int32_t o = 0; o < api->outputs; o++) {
        bool known = true;
        for (int32_t a = 0; a < api->output[o].rank; a++) known = known && r->out[o].dim[a] >= 0;
        if (known) r->out[o].data = take(tensor_bytes(&api->output[o], r->out[o].dim));
    }
}

/* A model whose sizes depend on data may find out while running how much memory it needs. */
static void run_once(Run *r)
{
    OctetStatus s = api->run(r->c, r->in, r->out, r->arena, r->arena_bytes);
    for (int again = 0; s == OCTET_ERR_ARENA && again < 64; again++) {
        arena_take(r);
        s = api->run(r->c, r->in, r->out, r->arena, r->arena_bytes);
    }
    check(r, s);
}

/* Inputs for --bench and --selftest: small numbers, the same every time; free sizes are 1. */
static void input_make_up(int32_t i, OctetTensor *in)
{
    const OctetTensorInfo *info = &api->input[i];
    for (int32_t a = 0; a < info->rank; a++) in[i].dim[a] = info->dim[a] < 0 ? 1 : info->dim[a];
    size_t bytes = tensor_bytes(info, in[i].dim);
    in[i].data = take(bytes);
    uint32_t x = 12345;
    for (size_t k = 0; k < bytes / 4 && info->dtype == 1; k++) {
        x = x * 1664525u + 1013904223u;
        ((float *)in[i].data)[k] = (float)(x >> 8) / (float)(1 << 24) - 0.5f;
    }
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench(Run *r, int threads, int32_t level)
{
    enum { MOST = 2000 };
    double ms[MOST], begin = seconds();
    int n = 0;
    run_once(r);
    while (n < MOST && (n < 5 || seconds() - begin < 3.0)) {
        double t = seconds();
        run_once(r);
        ms[n++] = (seconds() - t) * 1e3;
    }
    qsort(ms, (size_t)n, sizeof *ms, by_size);
    printf("%d runs on %d thread%s (%s): median %.4f ms, best %.4f ms\n", n, threads, threads > 1 ? "s" : "",
           api->levels[level], ms[n / 2], ms[0]);
}

/* The same inputs give the same bytes, run after run. */
static void selftest(Run *r)
{
    run_once(r);
    uint32_t crc = 0;
    for (int again = 0; again < 3; again++) {
        uint32_t now = 0;
        run_once(r);
        for (int32_t o = 0; o < api->outputs; o++)
            now = crc32_of(now, r->out[o].data, tensor_bytes(&api->output[o], r->out[o].dim));
        if (again && now != crc) stop(EXIT_DATA, "two runs on the same inputs gave different outputs");
        crc = now;
    }
    printf("ok %08x\n", crc);
}

static void tensor_print(const OctetTensorInfo *t)
{
    printf("  %-24s %s[", t->name, element_of(t)->npy + 1);
    for (int32_t a = 0; a < t->rank; a++) {
        if (a) putchar(',');
        if (t->dim[a] < 0) fputs(t->dim_name[a], stdout);
        else printf("%lld", (long long)t->dim[a]);
    }
    puts("]");
}

/* ---- instruction sets ---- */
static bool level_runs(int32_t l)
{
    uint64_t needs = api->model->level_needs[l];
    return !(needs & ~octet_cpu_features(needs));
}

static int32_t level_find(const char *name)
{
    for (int32_t l = 0; api->levels[l]; l++)
        if (!strcmp(api->levels[l], name) && level_runs(l)) return l;
    stop(EXIT_BAD_USAGE, "--isa %s: no such level, or not on this machine: --help lists them", name);
}

static int help(const char *program)
{
    printf("usage: %s --input IN.npz | --input NAME=IN.npy ... [--output OUT.npz] [--threads N] [--isa LEVEL]\n"
           "       %s --bench [--input ...] [--threads N] [--isa LEVEL]\n"
           "       %s --selftest [--isa LEVEL]\n"
           "levels:",
           program, program, program);
    for (int32_t l = 0; api->levels[l]; l++) printf(" %s%s", api->levels[l], level_runs(l) ? "" : " (not here)");
    puts("\ninputs:");
    for (int32_t i = 0; i < api->inputs; i++) tensor_print(&api->input[i]);
    puts("outputs:");
    for (int32_t o = 0; o < api->outputs; o++) tensor_print(&api->output[o]);
    return 0;
}

static void input_read(const char *what, OctetTensor *in)
{
    const char *eq = strchr(what, '=');
    int32_t i = eq ? input_find(what, (size_t)(eq - what)) : -1;
    Text t = file_read(i >= 0 ? eq + 1 : what);
    if (i < 0 && t.n > 4 && memcmp(t.at, "PK", 2) == 0) npz_take(t, in, what);
    else if (i >= 0 || api->inputs == 1) npy_take(t.at, t.n, i < 0 ? 0 : i, in, what);
    else stop(EXIT_BAD_USAGE, "--input %s: say NAME=FILE.npy, or give an .npz", what);
    free(t.at);
}

int main(int argc, char **argv)
{
    OctetTensor *in = take(sizeof *in * (size_t)(api->inputs + 1)),
                *out = take(sizeof *out * (size_t)(api->outputs + 1));
    const char *output = NULL;
    bool benchmark = false, test = false;
    int threads = 1;
    int32_t level = api->cpu_level(api->model);
    for (int a = 1; a < argc; a++) {
        const char *value = a + 1 < argc ? argv[a + 1] : NULL;
        if (!strcmp(argv[a], "--help") || !strcmp(argv[a], "-h")) return help(argv[0]);
        if (!strcmp(argv[a], "--bench")) {
            benchmark = true;
            continue;
        }
        if (!strcmp(argv[a], "--selftest")) {
            test = true;
            continue;
        }
        bool known = !strcmp(argv[a], "--input") || !strcmp(argv[a], "--output") || !strcmp(argv[a], "--threads") ||
                     !strcmp(argv[a], "--isa");
        if (!known) stop(EXIT_BAD_USAGE, "unknown option %s: see --help", argv[a]);
        if (!value) stop(EXIT_BAD_USAGE, "%s needs a value", argv[a]);
        if (!strcmp(argv[a], "--input")) input_read(value, in);
        if (!strcmp(argv[a], "--output")) output = value;
        if (!strcmp(argv[a], "--isa")) level = level_find(value);
        if (!strcmp(argv[a], "--threads") && ((threads = (int)strtol(value, NULL, 10)) < 1 || threads > 1024))
            stop(EXIT_BAD_USAGE, "--threads %s: expected 1 to 1024", value);
        a++;
    }
    if (!benchmark && !test && !output)
        stop(EXIT_BAD_USAGE, "nothing to do: give --output, --bench or --selftest (see --help)");
    for (int32_t i = 0; i < api->inputs; i++) {
        if (in[i].data) continue;
        if (!benchmark && !test) stop(EXIT_BAD_USAGE, "input '%s' is missing", api->input[i].name);
        input_make_up(i, in);
    }
    Run r = {.in = in, .out = out};
    run_begin(&r, threads, level);
    if (benchmark) bench(&r, threads, level);
    else if (test) selftest(&r);
    else run_once(&r);
    if (output) npz_write(output, out);
    return 0;
}
