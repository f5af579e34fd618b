/* artefact.c - a finished artefact in this process: which kind a path means, and loading a shared object.
 *
 * The one symbol an artefact exports is named after its model, so it is found by reading the file's dynamic
 * symbols. The file comes from the user: every offset in it is checked. */
#include "codegen/artefact.h"
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Suffix {
    const char *text;
    ArtefactKind kind;
} Suffix;
static const Suffix suffixes[] = {{".so", ARTEFACT_SO}, {".o", ARTEFACT_OBJECT}, {".a", ARTEFACT_ARCHIVE}};

ArtefactKind artefact_kind(const char *path)
{
    size_t n = strlen(path);
    for (size_t i = 0; i < COUNT_OF(suffixes); i++) {
        size_t s = strlen(suffixes[i].text);
        if (n > s && !strcmp(path + n - s, suffixes[i].text)) return suffixes[i].kind;
    }
    return ARTEFACT_EXECUTABLE;
}

static const char api_suffix[] = "_octet_api";

/* Part of the file, or NULL when the file does not hold it. */
static const void *part(const char *file, size_t size, uint64_t at, uint64_t n, uint64_t align)
{
    return at <= size && n <= size - at && at % align == 0 ? file + at : NULL;
}

static const char *symbol_find(const Elf64_Sym *symbol, uint64_t n, const char *text, uint64_t texts)
{
    for (uint64_t i = 0; i < n; i++) {
        if (symbol[i].st_name >= texts || symbol[i].st_shndx == SHN_UNDEF) continue;
        const char *name = text + symbol[i].st_name;
        size_t length = strnlen(name, texts - symbol[i].st_name), s = sizeof api_suffix - 1;
        if (length < texts - symbol[i].st_name && length > s && !strcmp(name + length - s, api_suffix)) return name;
    }
    return NULL;
}

static const char *api_name(const char *file, size_t size)
{
    const Elf64_Ehdr *h = part(file, size, 0, sizeof *h, 1);
    if (!h || memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 || h->e_ident[EI_CLASS] != ELFCLASS64 ||
        h->e_shentsize != sizeof(Elf64_Shdr))
        return NULL;
    const Elf64_Shdr *section = part(file, size, h->e_shoff, (uint64_t)h->e_shnum * sizeof *section, 8);
    for (uint32_t i = 0; section && i < h->e_shnum; i++) {
        if (section[i].sh_type != SHT_DYNSYM || section[i].sh_link >= h->e_shnum) continue;
        const Elf64_Shdr *texts = &section[section[i].sh_link];
        const Elf64_Sym *symbol = part(file, size, section[i].sh_offset, section[i].sh_size, 8);
        const char *text = part(file, size, texts->sh_offset, texts->sh_size, 1);
        if (symbol && text) return symbol_find(symbol, section[i].sh_size / sizeof *symbol, text, texts->sh_size);
    }
    return NULL;
}

static bool api_find(const char *path, Loaded *l, Diag *diag)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return diag_error(diag, NULL, "cannot read %s: %s", path, strerror(errno));
    bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0;
    char *file = regular ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (file == MAP_FAILED) return diag_error(diag, NULL, "%s is not a compiled model", path);
    const char *name = api_name(file, (size_t)st.st_size);
    if (name)
        l->handle = dlopen(strchr(path, '/') ? path : arena_printf(diag->mem, "./%s", path), RTLD_NOW | RTLD_LOCAL);
    if (l->handle) l->api = dlsym(l->handle, name);
    munmap(file, (size_t)st.st_size);
    if (!name) return diag_error(diag, NULL, "%s is not a compiled model: it exports no *%s", path, api_suffix);
    if (!l->api) return diag_error(diag, NULL, "cannot load %s: %s", path, dlerror());
    return true;
}

bool artefact_load(const char *path, Loaded *l, Diag *diag)
{
    *l = (Loaded){0};
    if (!api_find(path, l, diag)) {
        artefact_unload(l);
        return false;
    }
    if (l->api->version == OCTET_API_VERSION) return true;
    diag_error(diag, NULL, "%s was made by another version of octet", path);
    artefact_unload(l);
    return false;
}

/* The table that points to them is read-only since it was loaded. */
static bool weights_point(OctetModel *m, const void *weights)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)&m->weights / page * page;
    size_t n = (uintptr_t)(&m->weights + 1) - at;
    if (mprotect((void *)at, n, PROT_READ | PROT_WRITE) != 0) return false;
    m->weights = weights;
    return mprotect((void *)at, n, PROT_READ) == 0;
}

bool artefact_weights(const char *path, Loaded *l, Diag *diag)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool there = fd >= 0 && fstat(fd, &st) == 0;
    void *p = there ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    if (p != MAP_FAILED) l->weights = p, l->weight_bytes = (size_t)st.st_size;
    bool ok = p != MAP_FAILED && weights_point((OctetModel *)(uintptr_t)l->api->model, p);
    if (!ok) diag_error(diag, NULL, "cannot load %s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return ok;
}

static const char *usable_levels(const OctetApi *api, uint64_t have, Arena *mem)
{
    const char *list = "";
    for (uint32_t i = 0; i < api->model->levels; i++)
        if (!(api->model->level_needs[i] & ~have))
            list = arena_printf(mem, "%s%s%s", list, *list ? ", " : "", api->levels[i]);
    return list;
}

bool artefact_level(const Loaded *l, const char *isa, int32_t *level, Diag *diag)
{
    const OctetApi *api = l->api;
    uint64_t have = target_host_features();
    for (*level = 0; api->levels[*level] && strcmp(api->levels[*level], isa) != 0;) ++*level;
    bool known = api->levels[*level] != NULL;
    if (known && !(api->model->level_needs[*level] & ~have)) return true;
    return diag_error(diag, NULL, "--isa %s: %s; what it has and this machine runs: %s", isa,
                      known ? "this machine lacks these instructions" : "the artefact has no such level",
                      usable_levels(api, have, diag->mem));
}

/* What an object maps to read or run alone is as its file has it. */
static int object_rest(struct dl_phdr_info *o, size_t bytes, void *inside)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)inside;
    bool is = false;
    (void)bytes;
    for (int i = 0; i < o->dlpi_phnum; i++) {
        const Elf64_Phdr *p = &o->dlpi_phdr[i];
        is = is || (p->p_type == PT_LOAD && at - (o->dlpi_addr + p->p_vaddr) < p->p_memsz);
    }
    for (int i = 0; is && i < o->dlpi_phnum; i++) {
        const Elf64_Phdr *p = &o->dlpi_phdr[i];
        uintptr_t from = (o->dlpi_addr + p->p_vaddr + page - 1) / page * page, to = (o->dlpi_addr + p->p_vaddr + p->p_filesz) / page * page;
        if (p->p_type == PT_LOAD && !(p->p_flags & PF_W) && from < to) madvise((void *)from, to - from, MADV_DONTNEED);
    }
    return is;
}

void artefact_rest(const Loaded *l)
{
    if (l->api) dl_iterate_phdr(object_rest, (void *)(uintptr_t)l->api);
    if (l->weights) madvise(l->weights, l->weight_bytes, MADV_DONTNEED);
}

void artefact_unload(Loaded *l)
{
    if (l->handle) dlclose(l->handle);
    if (l->weights) munmap(l->weights, l->weight_bytes);
    *l = (Loaded){0};
}
