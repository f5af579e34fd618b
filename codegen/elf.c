/* elf.c - writes one relocatable object (ET_REL): header, contents, relocations, symbols, names, section table.
 *
 * All positions are computed before the first byte is written, so the file is written front to back in one pass.
 * The same input gives the same bytes: nothing of the file's name, the time or the process gets in. */
#include "codegen/elf.h"
#include "ir/base/map.h"
#include <assert.h>
#include <elf.h>

enum { LARGE = 0x10000000 }; /* SHF_X86_64_LARGE */
typedef struct SectionRow {
    const char *name, *large;
    uint64_t flags;
} SectionRow; /* large: its name when code cannot reach across it */
static const SectionRow rows[ELF_SECTIONS] = {
    [ELF_RODATA] = {".rodata", NULL, SHF_ALLOC},
    [ELF_RELRO] = {".data.rel.ro", NULL, SHF_ALLOC | SHF_WRITE},
    [ELF_WEIGHTS] = {".rodata.weights", ".lrodata", SHF_ALLOC},
};
typedef struct Machine {
    const char *arch;
    uint16_t machine;
    uint32_t absolute, relative;
    bool large;
} Machine;
static const Machine machines[] = {{"x86_64", EM_X86_64, R_X86_64_64, R_X86_64_PC32, true},
                                   {"aarch64", EM_AARCH64, R_AARCH64_ABS64, R_AARCH64_PREL32, false}};

typedef struct Piece {
    uint64_t at, n;
    const void *p;
    ElfFill *fill;
    void *ctx;
} Piece;
typedef struct Section {
    uint64_t size, align;
    VEC(Piece) piece;
    VEC(Elf64_Rela) rela;
} Section;
struct Elf {
    Arena *mem;
    const Machine *machine;
    Section section[ELF_SECTIONS];
    Map texts, symbols;    /* text: offset + 1 in RODATA; symbol: its number among the globals + 1 */
    VEC(Elf64_Sym) symbol; /* globals */
    VEC(char) names;       /* .strtab */
};

Elf *elf_new(Arena *mem, const char *arch)
{
    Elf *e = NEW(mem, Elf);
    e->mem = mem;
    for (size_t i = 0; i < COUNT_OF(machines); i++)
        if (strcmp(machines[i].arch, arch) == 0) e->machine = &machines[i];
    assert(e->machine && "an architecture of the target table");
    for (int s = 0; s < ELF_SECTIONS; s++) e->section[s].align = 1;
    vec_push(mem, &e->names, '\0');
    return e;
}

static uint64_t piece_add(Elf *e, ElfSection s, uint64_t n, size_t align, Piece piece)
{
    Section *x = &e->section[s];
    assert(align && (align & (align - 1)) == 0);
    piece.at = (x->size + align - 1) / align * align;
    piece.n = n;
    if (align > x->align) x->align = align;
    x->size = piece.at + n;
    vec_push(e->mem, &x->piece, piece);
    return piece.at;
}

uint64_t elf_put(Elf *e, ElfSection s, const void *p, size_t n, size_t align)
{
    const void *copy = p ? arena_copy(e->mem, p, n) : arena_alloc(e->mem, n);
    return piece_add(e, s, n, align, (Piece){.p = copy});
}

uint64_t elf_stream(Elf *e, ElfSection s, uint64_t n, size_t align, ElfFill *fill, void *ctx)
{
    return piece_add(e, s, n, align, (Piece){.fill = fill, .ctx = ctx});
}

uint64_t elf_text(Elf *e, const char *text)
{
    uint32_t found = map_get(&e->texts, text);
    if (found) return found - 1;
    const char *copy = arena_text(e->mem, text, strlen(text));
    uint64_t at = elf_put(e, ELF_RODATA, copy, strlen(copy) + 1, 1);
    assert(at < UINT32_MAX);
    map_put(e->mem, &e->texts, copy, (uint32_t)at + 1);
    return at;
}

void elf_poke(Elf *e, ElfSection s, uint64_t at, const void *p, size_t n)
{
    Section *x = &e->section[s];
    for (uint32_t i = x->piece.n; i-- > 0;) {
        const Piece *f = &x->piece.at[i];
        if (at < f->at) continue;
        assert(f->p && at + n <= f->at + f->n);
        memcpy((char *)(uintptr_t)f->p + (at - f->at), p, n);
        return;
    }
    assert(0 && "bytes that were put before");
}

static uint32_t name_add(Elf *e, const char *name)
{
    uint32_t at = e->names.n;
    for (const char *p = name;; p++) {
        vec_push(e->mem, &e->names, *p);
        if (!*p) return at;
    }
}

/* Numbers of symbols: 0 is none, then one for each section, then the globals. */
static uint32_t symbol_number(Elf *e, const char *name)
{
    uint32_t found = map_get(&e->symbols, name);
    if (found) return ELF_SECTIONS + found;
    Elf64_Sym s = {
        .st_name = name_add(e, name), .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_NOTYPE), .st_shndx = SHN_UNDEF};
    s.st_other = STV_HIDDEN; /* of the same artefact: no indirection through the dynamic symbol table */
    uint32_t n = vec_push(e->mem, &e->symbol, s) + 1;
    map_put(e->mem, &e->symbols, arena_text(e->mem, name, strlen(name)), n);
    return ELF_SECTIONS + n;
}

static void rela_add(Elf *e, ElfSection s, uint64_t at, uint32_t symbol, uint32_t type, uint64_t addend)
{
    Elf64_Rela r = {.r_offset = at, .r_info = ELF64_R_INFO((uint64_t)symbol, type), .r_addend = (int64_t)addend};
    vec_push(e->mem, &e->section[s].rela, r);
}

void elf_pointer(Elf *e, ElfSection s, uint64_t at, ElfSection to, uint64_t addend)
{
    rela_add(e, s, at, 1 + (uint32_t)to, e->machine->absolute, addend);
}

void elf_pointer_symbol(Elf *e, ElfSection s, uint64_t at, const char *symbol)
{
    rela_add(e, s, at, symbol_number(e, symbol), e->machine->absolute, 0);
}

void elf_distance_symbol(Elf *e, ElfSection s, uint64_t at, const char *symbol)
{
    rela_add(e, s, at, symbol_number(e, symbol), e->machine->relative, 0);
}

void elf_define(Elf *e, const char *name, ElfSection s, uint64_t at, uint64_t size, bool exported)
{
    uint32_t number = symbol_number(e, name); /* may move the symbols */
    Elf64_Sym *y = &e->symbol.at[number - ELF_SECTIONS - 1];
    assert(y->st_shndx == SHN_UNDEF);
    y->st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT);
    y->st_other = exported ? STV_DEFAULT : STV_HIDDEN;
    y->st_shndx = (uint16_t)(1 + s);
    y->st_value = at, y->st_size = size;
}

bool elf_is_large(const Elf *e) { return e->section[ELF_WEIGHTS].size >= (uint64_t)1 << 30; }

/* ---- writing. Sections: none, contents, their relocations, symbols, names, section names, the stack note ---- */
enum { FIRST_RELA = 1 + ELF_SECTIONS, SYMTAB = FIRST_RELA + ELF_SECTIONS, STRTAB, SHSTRTAB, STACK_NOTE, ALL_SECTIONS };
typedef struct Writer {
    FILE *f;
    uint64_t at;
    bool failed;
} Writer;

static void write_bytes(Writer *w, const void *p, size_t n)
{
    if (n && fwrite(p, 1, n, w->f) != n) w->failed = true;
    w->at += n;
}

static void write_zeros(Writer *w, uint64_t to)
{
    static const char zero[64];
    while (w->at < to && !w->failed) write_bytes(w, zero, to - w->at < sizeof zero ? to - w->at : sizeof zero);
}

static void write_section(Writer *w, const Section *s, uint64_t begin)
{
    for (uint32_t i = 0; i < s->piece.n && !w->failed; i++) {
        const Piece *p = &s->piece.at[i];
        write_zeros(w, begin + p->at);
        if (!p->fill) {
            write_bytes(w, p->p, p->n);
            continue;
        }
        if (!p->fill(p->ctx, w->f)) w->failed = true;
        w->at += p->n;
    }
}

bool elf_move(Elf *e, ElfSection s, FILE *f)
{
    Writer w = {.f = f};
    write_section(&w, &e->section[s], 0);
    e->section[s].size = e->section[s].piece.n = 0;
    return !w.failed && fflush(f) == 0;
}

static uint32_t section_name(char *names, uint32_t *n, const char *prefix, const char *name)
{
    uint32_t at = *n;
    *n += (uint32_t)snprintf(names + at, 128, "%s%s", prefix, name) + 1;
    return at;
}

static uint64_t place(uint64_t *at, Elf64_Shdr *h)
{
    *at = (*at + h->sh_addralign - 1) / h->sh_addralign * h->sh_addralign;
    h->sh_offset = *at;
    *at += h->sh_size;
    return h->sh_offset;
}

static void headers_fill(const Elf *e, Elf64_Shdr *h, char *names, uint32_t *names_n, uint64_t *at)
{
    for (uint32_t s = 0; s < ELF_SECTIONS; s++) {
        const Section *x = &e->section[s];
        bool large = rows[s].large && elf_is_large(e);
        const char *name = large ? rows[s].large : rows[s].name;
        h[1 + s] = (Elf64_Shdr){
            .sh_type = SHT_PROGBITS, .sh_flags = rows[s].flags, .sh_size = x->size, .sh_addralign = x->align};
        if (large && e->machine->large) h[1 + s].sh_flags |= LARGE;
        h[1 + s].sh_name = section_name(names, names_n, "", name);
        h[FIRST_RELA + s] = (Elf64_Shdr){.sh_type = SHT_RELA,
                                         .sh_flags = SHF_INFO_LINK,
                                         .sh_size = x->rela.n * sizeof(Elf64_Rela),
                                         .sh_link = SYMTAB,
                                         .sh_info = 1 + s,
                                         .sh_addralign = 8,
                                         .sh_entsize = sizeof(Elf64_Rela)};
        h[FIRST_RELA + s].sh_name = section_name(names, names_n, ".rela", name);
    }
    uint64_t symbols = 1 + ELF_SECTIONS + e->symbol.n;
    h[SYMTAB] = (Elf64_Shdr){.sh_type = SHT_SYMTAB,
                             .sh_size = symbols * sizeof(Elf64_Sym),
                             .sh_link = STRTAB,
                             .sh_info = 1 + ELF_SECTIONS,
                             .sh_addralign = 8,
                             .sh_entsize = sizeof(Elf64_Sym),
                             .sh_name = section_name(names, names_n, "", ".symtab")};
    h[STRTAB] = (Elf64_Shdr){.sh_type = SHT_STRTAB,
                             .sh_size = e->names.n,
                             .sh_addralign = 1,
                             .sh_name = section_name(names, names_n, "", ".strtab")};
    h[STACK_NOTE] = (Elf64_Shdr){
        .sh_type = SHT_PROGBITS, .sh_addralign = 1, .sh_name = section_name(names, names_n, "", ".note.GNU-stack")};
    h[SHSTRTAB] = (Elf64_Shdr){
        .sh_type = SHT_STRTAB, .sh_addralign = 1, .sh_name = section_name(names, names_n, "", ".shstrtab")};
    h[SHSTRTAB].sh_size = *names_n;
    for (uint32_t s = 1; s < ALL_SECTIONS; s++) place(at, &h[s]);
}

bool elf_write(const Elf *e, FILE *f)
{
    Elf64_Shdr h[ALL_SECTIONS] = {{0}};
    char names[1024] = "";
    uint32_t names_n = 1;
    uint64_t end = sizeof(Elf64_Ehdr);
    headers_fill(e, h, names, &names_n, &end);
    Elf64_Ehdr head = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                       .e_type = ET_REL,
                       .e_machine = e->machine->machine,
                       .e_version = EV_CURRENT,
                       .e_shoff = (end + 7) / 8 * 8,
                       .e_ehsize = sizeof head,
                       .e_shentsize = sizeof *h,
                       .e_shnum = ALL_SECTIONS,
                       .e_shstrndx = SHSTRTAB};
    Writer w = {.f = f};
    write_bytes(&w, &head, sizeof head);
    for (uint32_t s = 0; s < ELF_SECTIONS; s++) {
        write_zeros(&w, h[1 + s].sh_offset);
        write_section(&w, &e->section[s], h[1 + s].sh_offset);
    }
    for (uint32_t s = 0; s < ELF_SECTIONS; s++) {
        write_zeros(&w, h[FIRST_RELA + s].sh_offset);
        write_bytes(&w, e->section[s].rela.at, h[FIRST_RELA + s].sh_size);
    }
    write_zeros(&w, h[SYMTAB].sh_offset);
    Elf64_Sym none = {0};
    write_bytes(&w, &none, sizeof none);
    for (uint32_t s = 0; s < ELF_SECTIONS; s++) {
        Elf64_Sym y = {.st_info = ELF64_ST_INFO(STB_LOCAL, STT_SECTION), .st_shndx = (uint16_t)(1 + s)};
        write_bytes(&w, &y, sizeof y);
    }
    write_bytes(&w, e->symbol.at, e->symbol.n * sizeof(Elf64_Sym));
    write_bytes(&w, e->names.at, e->names.n);
    write_bytes(&w, names, names_n);
    write_zeros(&w, head.e_shoff);
    write_bytes(&w, h, sizeof h);
    return !w.failed && fflush(f) == 0;
}
