/* rename.c - the symbols of a compiled kernel get the names that profilers show.
 *
 * Kernels are compiled under one name, so that equal ones are equal bytes wherever they are used. Comes in: an ELF object of
 * llvm/. Goes out: the same object with a longer table of names, in which the functions have theirs. Names end alike, since linkers
 * keep equal ends once. The name of a source file, which there is none of, becomes one more name for a section: linkers drop it. */
#include "codegen/codegen.h"
#include <assert.h>
#include <elf.h>

typedef struct Object {
    char *at;
    size_t n;
    Elf64_Shdr *section;
    Elf64_Shdr *symbols, *names;
} Object;

static Object object_open(char *at, size_t n)
{
    Object o = {.at = at, .n = n};
    const Elf64_Ehdr *h = (const void *)at;
    assert(n > sizeof *h && !memcmp(h->e_ident, ELFMAG, SELFMAG));
    o.section = (void *)(at + h->e_shoff);
    for (uint32_t i = 0; i < h->e_shnum; i++)
        if (o.section[i].sh_type == SHT_SYMTAB) o.symbols = &o.section[i];
    assert(o.symbols && "an object that defines something");
    o.names = &o.section[o.symbols->sh_link];
    return o;
}

Bytes object_rename(Arena *mem, Bytes from, const char *symbol, const char *to)
{
    enum { MOST_BEFORE = 64 }; /* the common part of a name */
    size_t end = strlen(symbol), length = strlen(to);
    Object old = object_open((char *)(uintptr_t)from.at, from.n);
    uint64_t symbols = old.symbols->sh_size / sizeof(Elf64_Sym), n = old.names->sh_size;
    char *at = arena_alloc(mem, from.n + n + symbols * (length + MOST_BEFORE)), *names = at + from.n;
    memcpy(at, from.at, from.n), memcpy(names, at + old.names->sh_offset, n);
    Object o = object_open(at, from.n);
    Elf64_Sym *y = (void *)(at + o.symbols->sh_offset);
    uint16_t code = 0;
    for (uint64_t i = 1; i < symbols; i++) {
        const char *name = names + y[i].st_name;
        size_t own = strlen(name), before = own - end;
        if (own < end || strcmp(name + before, symbol) || (before && name[before - 1] != '.')) continue;
        assert(before < MOST_BEFORE);
        y[i].st_name = (uint32_t)n, code = y[i].st_shndx;
        memcpy(names + n, name, before), n += before;
        memcpy(names + n, to, length + 1), n += length + 1;
    }
    for (uint64_t i = 1; i < symbols; i++)
        if (ELF64_ST_TYPE(y[i].st_info) == STT_FILE)
            y[i] = (Elf64_Sym){.st_info = ELF64_ST_INFO(STB_LOCAL, STT_SECTION), .st_shndx = code};
    o.names->sh_offset = from.n, o.names->sh_size = n;
    return (Bytes){at, from.n + n};
}
