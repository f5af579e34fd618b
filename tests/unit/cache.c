/* Finished kernels in a folder: what is found is what was kept, and what is damaged is not found. */
#include "codegen/cache.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <elf.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Folder {
    Arena mem;
    Diag diag;
    char path[64];
    Cache *cache;
} Folder;

static void folder_new(Folder *f)
{
    *f = (Folder){.path = "/tmp/octet-cache-XXXXXX"};
    f->diag.mem = &f->mem, f->diag.subject = "";
    cr_assert(mkdtemp(f->path));
    f->cache = cache_new(f->path);
    cr_assert(cache_open(f->cache, &f->diag));
}

/* Calls `visit` on every file; returns how many there are. */
static int folder_files(Folder *f, void (*visit)(const char *path))
{
    int n = 0;
    DIR *d = opendir(f->path);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        visit(arena_printf(&f->mem, "%s/%s", f->path, e->d_name)), n++;
    }
    closedir(d);
    return n;
}

static void file_remove(const char *path) { unlink(path); }

static void folder_drop(Folder *f)
{
    folder_files(f, file_remove);
    rmdir(f->path), cache_drop(f->cache);
    arena_drop(&f->mem);
}

/* In the folder alone: by a cache that has nothing in memory. */
static bool found(Folder *f, CacheKey key, Arena *mem, Bytes *out)
{
    Cache *another = cache_new(f->path);
    bool is = cache_get(another, key, mem, out);
    cache_drop(another);
    return is;
}

Test(cache, keeps_bytes)
{
    Folder f;
    folder_new(&f);
    Bytes out, b = {"some bytes", 10};
    CacheKey key = cache_key("a", 1), other = cache_key("b", 1);
    cr_assert(!found(&f, key, &f.mem, &out));
    cache_put(f.cache, key, b), cache_put(f.cache, key, b);
    cr_assert(found(&f, key, &f.mem, &out) && out.n == b.n && !memcmp(out.at, b.at, b.n));
    cr_assert(!found(&f, other, &f.mem, &out));
    cache_trim(f.cache);
    cr_assert(found(&f, key, &f.mem, &out));
    folder_drop(&f);
}

Test(cache, memory_is_enough)
{
    enum { MEGABYTE = 1 << 20 };
    Arena mem = {0};
    Cache *c = cache_new(NULL);
    Diag diag = {.mem = &mem, .subject = ""};
    Bytes out, b = {"some bytes", 10}, large = {arena_alloc(&mem, MEGABYTE), MEGABYTE};
    CacheKey key = cache_key("a", 1);
    cr_assert(cache_open(c, &diag) && !cache_get(c, key, &mem, &out));
    cache_put(c, key, b), cache_trim(c);
    cr_assert(cache_get(c, key, &mem, &out) && out.n == b.n && !memcmp(out.at, b.at, b.n) && out.at != b.at);
    uint64_t kept = 0;
    for (uint32_t i = 0; i < CACHE_MEMORY + 10; i++) cache_put(c, cache_key(&i, sizeof i), large);
    for (uint32_t i = 0; i < CACHE_MEMORY + 10; i++) kept += cache_get(c, cache_key(&i, sizeof i), &mem, &out);
    cr_assert_eq(kept, CACHE_MEMORY - 1, "%d", (int)kept);
    cr_assert(cache_get(c, key, &mem, &out));
    cache_drop(c), cache_drop(NULL);
    arena_drop(&mem);
}

static int64_t damage_at; /* a byte to change; -1: cut off */
static void file_damage(const char *path)
{
    struct stat st;
    cr_assert(stat(path, &st) == 0);
    if (damage_at < 0) {
        cr_assert(truncate(path, st.st_size - 1) == 0);
        return;
    }
    FILE *f = fopen(path, "r+b");
    fseek(f, damage_at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, damage_at, SEEK_SET), fputc(c ^ 1, f);
    fclose(f);
}

Test(cache, damaged_files_are_not_found)
{
    Folder f;
    folder_new(&f);
    Bytes out, b = {"some bytes", 10};
    CacheKey key = cache_key("a", 1);
    for (damage_at = -1; damage_at < 8 + 16 + 16 + 8 + 10; damage_at++) {
        cache_put(f.cache, key, b);
        cr_assert_eq(folder_files(&f, file_damage), 1);
        cr_assert(!found(&f, key, &f.mem, &out), "byte %d", (int)damage_at);
    }
    cache_put(f.cache, key, b); /* and is replaced */
    cr_assert(found(&f, key, &f.mem, &out));
    folder_drop(&f);
}

Test(cache, keys_differ)
{
    char text[64] = {0};
    CacheKey zero = cache_key(text, sizeof text);
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = 1;
        CacheKey k = cache_key(text, sizeof text), shorter = cache_key(text, i);
        cr_assert(memcmp(&k, &zero, sizeof k) && memcmp(&k, &shorter, sizeof k));
        text[i] = 0;
    }
}

/* ---- whole kernels ---- */
static LlvmJob job_new(Arena *mem, Diag *diag, const char *symbol)
{
    const char *error;
    Kernel *k = kernel_parse(mem, dims_new(mem),
                             "kernel k(N) { in X[N] out Y[N] Y[i] = exp(X[i]) schedule: split i 16; vectorize i.1 }", diag);
    return (LlvmJob){schedule_apply(k, &error), target_find("avx2"), symbol, false};
}

static bool object_has(Bytes b, const char *name, unsigned type)
{
    const Elf64_Ehdr *h = b.at;
    const Elf64_Shdr *s = (const void *)((const char *)b.at + h->e_shoff);
    for (uint32_t i = 0; i < h->e_shnum; i++) {
        if (s[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *y = (const void *)((const char *)b.at + s[i].sh_offset);
        const char *names = (const char *)b.at + s[s[i].sh_link].sh_offset;
        for (uint64_t k = 1; k < s[i].sh_size / sizeof *y; k++)
            if ((!name || !strcmp(names + y[k].st_name, name)) && ELF64_ST_TYPE(y[k].st_info) == type) return true;
    }
    return false;
}

static bool object_defines(Bytes b, const char *name) { return object_has(b, name, STT_FUNC); }

Test(cache, kernels_come_back_under_any_name)
{
    Folder f;
    folder_new(&f);
    LlvmJob a = job_new(&f.mem, &f.diag, "first"), b = job_new(&f.mem, &f.diag, "a_longer_name");
    Bytes *made, *kept, *plain;
    cr_assert(llvm_compile(&f.mem, &f.diag, &a, 1, 1, f.cache, &made));
    cr_assert(llvm_compile(&f.mem, &f.diag, &b, 1, 1, f.cache, &kept));
    cr_assert(llvm_compile(&f.mem, &f.diag, &b, 1, 1, NULL, &plain));
    cr_assert(object_defines(*made, "first") && object_defines(*made, "body.first"));
    cr_assert(object_defines(*kept, "a_longer_name") && object_defines(*kept, "body.a_longer_name"));
    cr_assert_not(object_has(*kept, NULL, STT_FILE));
    cr_assert(kept->n == plain->n && !memcmp(kept->at, plain->at, kept->n));
    cr_assert_eq(folder_files(&f, file_remove), 1);
    folder_drop(&f);
}
