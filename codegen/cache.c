/* cache.c - see cache.h. Memory is lists of kernels, by bits of their keys. A file is a head and the object; its name is the key. Several compilers
 * may use a folder at a time. */
#include "codegen/cache.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = "octet-1";
static const char suffix[] = ".kernel";

typedef struct Head {
    char magic[8];
    CacheKey key, content;
    uint64_t bytes;
} Head;

/* Two independent sums over words: not against somebody who wants them to collide, who may write to the folder anyway. */
CacheKey cache_key(const void *p, size_t n)
{
    const unsigned char *at = p;
    CacheKey k = {{0x9e3779b97f4a7c15u ^ n, 0xc2b2ae3d27d4eb4fu + n}};
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = 0;
        memcpy(&v, at + i, n - i < 8 ? n - i : 8);
        k.word[0] = (k.word[0] ^ v) * 0x9fb21c651e98df25u, k.word[0] ^= k.word[0] >> 32;
        k.word[1] = (k.word[1] + v) * 0xd6e8feb86659fd93u, k.word[1] ^= k.word[1] >> 29;
    }
    return k;
}

bool cache_keys_equal(CacheKey a, CacheKey b) { return a.word[0] == b.word[0] && a.word[1] == b.word[1]; }

/* ---- memory ---- */
typedef struct Known {
    CacheKey key;
    Bytes object;
    struct Known *next;
} Known;

enum { LISTS = 1024 };
struct Cache {
    const char *folder;
    pthread_mutex_t lock; /* of what follows */
    Arena mem;
    uint64_t bytes;
    Known *list[LISTS];
};

Cache *cache_new(const char *folder)
{
    Arena mem = {0};
    Cache *c = NEW(&mem, Cache);
    c->folder = folder, c->mem = mem;
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

void cache_drop(Cache *c)
{
    if (!c) return;
    pthread_mutex_destroy(&c->lock);
    Arena mem = c->mem; /* which c lies in */
    arena_drop(&mem);
}

static const Known *known_find(const Cache *c, CacheKey key)
{
    const Known *k = c->list[key.word[0] % LISTS];
    while (k && !cache_keys_equal(k->key, key)) k = k->next;
    return k;
}

static bool known_get(Cache *c, CacheKey key, Arena *mem, Bytes *out)
{
    pthread_mutex_lock(&c->lock);
    const Known *k = known_find(c, key);
    if (k) *out = (Bytes){arena_copy(mem, k->object.at, k->object.n), k->object.n};
    pthread_mutex_unlock(&c->lock);
    return k != NULL;
}

static void known_put(Cache *c, CacheKey key, Bytes b)
{
    pthread_mutex_lock(&c->lock);
    if (!known_find(c, key) && c->bytes + b.n <= (uint64_t)CACHE_MEMORY << 20) {
        Known *k = NEW(&c->mem, Known), **first = &c->list[key.word[0] % LISTS];
        *k = (Known){key, {arena_copy(&c->mem, b.at, b.n), b.n}, *first};
        *first = k, c->bytes += b.n;
    }
    pthread_mutex_unlock(&c->lock);
}

/* ---- the folder ---- */
bool cache_open(Cache *c, Diag *diag)
{
    struct stat st;
    const char *folder = c->folder;
    if (!folder) return true;
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return diag_error(diag, NULL, "--cache %s: cannot be made: %s", folder, strerror(errno));
    if (stat(folder, &st) == 0 && S_ISDIR(st.st_mode) && access(folder, R_OK | W_OK | X_OK) == 0) return true;
    return diag_error(diag, NULL, "--cache %s: not a folder that can be written to", folder);
}

static const char *path_of(Arena *mem, const char *folder, CacheKey k)
{
    return arena_printf(mem, "%s/%016llx%016llx%s", folder, (unsigned long long)k.word[0],
                        (unsigned long long)k.word[1], suffix);
}

/* ---- one file ---- */
static bool read_whole(int fd, void *to, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t got = read(fd, (char *)to + at, n - at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        at += (size_t)got;
    }
    return true;
}

static bool write_whole(int fd, const void *from, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t put = write(fd, (const char *)from + at, n - at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        at += (size_t)put;
    }
    return true;
}

static bool head_fits(const Head *h, CacheKey key, const struct stat *st)
{
    return !memcmp(h->magic, magic, sizeof magic) && cache_keys_equal(h->key, key) &&
           (uint64_t)st->st_size == sizeof *h + h->bytes;
}

static bool file_get(const char *folder, CacheKey key, Arena *mem, Bytes *out)
{
    Arena scratch = {0};
    struct stat st;
    Head h;
    int fd = open(path_of(&scratch, folder, key), O_RDONLY | O_CLOEXEC);
    arena_drop(&scratch);
    if (fd < 0) return false;
    bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && read_whole(fd, &h, sizeof h) && head_fits(&h, key, &st);
    void *at = ok ? arena_alloc(mem, (size_t)h.bytes + 1) : NULL;
    ok = ok && read_whole(fd, at, (size_t)h.bytes) && cache_keys_equal(cache_key(at, (size_t)h.bytes), h.content);
    if (ok) futimens(fd, NULL); /* when it was last used */
    close(fd);
    if (ok) *out = (Bytes){at, (size_t)h.bytes};
    return ok;
}

static void file_put(const char *folder, CacheKey key, Bytes b)
{
    Arena scratch = {0};
    Head h = {.key = key, .content = cache_key(b.at, b.n), .bytes = b.n};
    memcpy(h.magic, magic, sizeof magic);
    char *made = arena_printf(&scratch, "%s/made.XXXXXX", folder);
    int fd = mkstemp(made);
    bool ok = fd >= 0 && write_whole(fd, &h, sizeof h) && write_whole(fd, b.at, b.n);
    if (fd >= 0) ok = close(fd) == 0 && ok;
    if (fd >= 0 && (!ok || rename(made, path_of(&scratch, folder, key)) != 0)) unlink(made);
    arena_drop(&scratch);
}

bool cache_get(Cache *c, CacheKey key, Arena *mem, Bytes *out)
{
    if (known_get(c, key, mem, out)) return true;
    if (!c->folder || !file_get(c->folder, key, mem, out)) return false;
    return known_put(c, key, *out), true;
}

void cache_put(Cache *c, CacheKey key, Bytes b)
{
    known_put(c, key, b);
    if (c->folder) file_put(c->folder, key, b);
}

/* ---- the size of the folder ---- */
typedef struct Entry {
    const char *path;
    struct timespec used;
    uint64_t bytes;
} Entry;

static int by_use(const void *a, const void *b)
{
    const Entry *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec) return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return (x->used.tv_nsec > y->used.tv_nsec) - (x->used.tv_nsec < y->used.tv_nsec);
}

static bool is_ours(const char *name)
{
    size_t n = strlen(name), s = sizeof suffix - 1;
    return n == 32 + s && !strcmp(name + 32, suffix) && strspn(name, "0123456789abcdef") == 32;
}

void cache_trim(Cache *c)
{
    const char *folder = c->folder;
    if (!folder) return;
    Arena mem = {0};
    VEC(Entry) entry = {0};
    uint64_t all = 0, most = (uint64_t)CACHE_MEGABYTES << 20;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        const char *path = arena_printf(&mem, "%s/%s", folder, e->d_name);
        if (!is_ours(e->d_name) || stat(path, &st) != 0) continue;
        vec_push(&mem, &entry, (Entry){path, st.st_mtim, (uint64_t)st.st_size});
        all += (uint64_t)st.st_size;
    }
    if (d) closedir(d);
    if (all > most) qsort(entry.at, entry.n, sizeof *entry.at, by_use);
    for (uint32_t i = 0; i < entry.n && all > most; i++)
        if (unlink(entry.at[i].path) == 0) all -= entry.at[i].bytes;
    arena_drop(&mem);
}
