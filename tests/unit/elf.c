/* Objects written by hand: what a linker would read is what was put. */
#include "codegen/elf.h"
#include "codegen/image.h"
#include <criterion/criterion.h>
#include <elf.h>
#include <stdlib.h>

static bool fill(void *ctx, FILE *f) { return fwrite(ctx, 1, 5, f) == 5; }

static Elf *object_new(Arena *mem)
{
    Elf *e = elf_new(mem, "x86_64");
    for (int i = 0; i < 50; i++)
        elf_pointer_symbol(e, ELF_RELRO, elf_put(e, ELF_RELRO, NULL, 8, 8), arena_printf(mem, "kernel%d", i));
    elf_distance_symbol(e, ELF_RODATA, elf_put(e, ELF_RODATA, NULL, 4, 4), "kernel7");
    uint64_t text = elf_text(e, "hello");
    cr_assert_eq(elf_text(e, "hello"), text);
    elf_put(e, ELF_WEIGHTS, "x", 1, 1);
    cr_assert_eq(elf_stream(e, ELF_WEIGHTS, 5, 64, fill, "abcde"), 64);
    uint64_t at = elf_put(e, ELF_RELRO, NULL, 16, 64);
    elf_pointer(e, ELF_RELRO, at + 8, ELF_RODATA, text);
    elf_poke(e, ELF_RELRO, at, "\1\2", 2);
    elf_define(e, "model", ELF_RELRO, at, 16, true);
    return e;
}

static char *object_bytes(const Elf *e, size_t *n)
{
    char *p;
    FILE *f = open_memstream(&p, n);
    cr_assert(elf_write(e, f));
    fclose(f);
    return p;
}

static char *object_write(Arena *mem, size_t *n) { return object_bytes(object_new(mem), n); }

Test(elf, a_section_goes_to_a_file_of_its_own)
{
    Arena mem = {0};
    size_t whole, rest, apart;
    char *p = object_write(&mem, &whole), *weights;
    Elf *e = object_new(&mem);
    FILE *f = open_memstream(&weights, &apart);
    cr_assert(elf_move(e, ELF_WEIGHTS, f) && !fclose(f));
    cr_assert(apart == 69 && weights[0] == 'x' && !weights[1] && !memcmp(weights + 64, "abcde", 5));
    char *q = object_bytes(e, &rest);
    const Elf64_Shdr *s = (const void *)(q + ((const Elf64_Ehdr *)(const void *)q)->e_shoff);
    cr_expect(rest < whole && s[1 + ELF_WEIGHTS].sh_size == 0, "its contents are not written twice");
    free(p), free(q), free(weights);
    arena_drop(&mem);
}

Test(elf, sections_symbols_and_relocations)
{
    Arena mem = {0};
    size_t n, again;
    char *p = object_write(&mem, &n), *q = object_write(&mem, &again);
    cr_assert(n == again && !memcmp(p, q, n), "the same input gives the same bytes");
    const Elf64_Ehdr *h = (const void *)p;
    const Elf64_Shdr *s = (const void *)(p + h->e_shoff);
    cr_assert(h->e_type == ET_REL && h->e_machine == EM_X86_64 && h->e_shoff + h->e_shnum * sizeof *s == n);
    const char *names = p + s[h->e_shstrndx].sh_offset;
    int seen = 0;
    for (int i = 1; i < h->e_shnum; i++) {
        cr_assert(s[i].sh_offset + s[i].sh_size <= n);
        if (!strcmp(names + s[i].sh_name, ".rodata.weights")) {
            seen++;
            cr_assert(!memcmp(p + s[i].sh_offset + 64, "abcde", 5) && !(s[i].sh_flags & SHF_WRITE));
        }
        if (!strcmp(names + s[i].sh_name, ".data.rel.ro")) {
            seen++;
            cr_assert(p[s[i].sh_offset + 448] == 1);
        }
        if (!strcmp(names + s[i].sh_name, ".rela.rodata")) {
            seen++;
            const Elf64_Rela *y = (const void *)(p + s[i].sh_offset);
            cr_assert(s[i].sh_size == sizeof *y && ELF64_R_TYPE(y->r_info) == R_X86_64_PC32 && !y->r_addend);
        }
        if (!strcmp(names + s[i].sh_name, ".rela.data.rel.ro")) {
            seen++;
            cr_assert_eq(s[i].sh_size, 51 * sizeof(Elf64_Rela));
        }
        if (s[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *y = (const void *)(p + s[i].sh_offset);
        uint64_t symbols = s[i].sh_size / sizeof *y;
        const Elf64_Sym *last = &y[symbols - 1];
        cr_assert_eq(s[i].sh_info, 4); /* locals first */
        cr_assert_str_eq(p + s[s[i].sh_link].sh_offset + last->st_name, "model");
        cr_assert(last->st_value == 448 && last->st_size == 16 && ELF64_ST_VISIBILITY(last->st_other) == STV_DEFAULT);
        cr_assert_eq(ELF64_ST_VISIBILITY(y[5].st_other), STV_HIDDEN);
        seen++;
    }
    cr_assert_eq(seen, 5);
    free(p), free(q), arena_drop(&mem);
}

/* Physical element i, by the definition: each physical axis counts steps of `div` of its dimension; zero where there is no element. */
static int64_t stored(const Tensor *t, const Layout *l, int64_t i)
{
    int64_t at[MAX_RANK] = {0}, from = 0;
    for (int p = l->n; p-- > 0;) {
        const LayoutAxis *a = &l->axis[p];
        int64_t size = a->size ? a->size : (t->dim[a->dim] + a->div - 1) / a->div;
        at[a->dim] += i % size * a->div, i /= size;
    }
    for (int d = 0; d < t->rank; d++) {
        if (at[d] >= t->dim[d]) return 0;
        from = from * t->dim[d] + at[d];
    }
    return dtype_load_int(t->type, t->data, from);
}

static const struct {
    DType type;
    int rank;
    int64_t dim[3];
    Layout layout;
} constants[] = {
    {DT_i32, 2, {19, 3}, {.n = 3, .axis = {{0, 16, 0}, {1, 1, 0}, {0, 1, 16}}}},            /* panels of 16 rows */
    {DT_i8, 2, {40, 35}, {.n = 4, .axis = {{1, 16, 0}, {0, 4, 0}, {1, 1, 16}, {0, 1, 4}}}}, /* of words */
    {DT_i8, 2, {42, 32}, {.n = 4, .axis = {{1, 16, 0}, {0, 4, 0}, {1, 1, 16}, {0, 1, 4}}}}, /* whose last are partial */
    {DT_u8, 3, {5, 3000, 2}, {.n = 3, .axis = {{0, 1, 0}, {2, 1, 0}, {1, 1, 3008}}}},       /* runs that fill chunks */
    {DT_i64, 2, {3, 7}, {.n = 2, .axis = {{1, 1, 0}, {0, 1, 0}}}},
    {DT_i32, 1, {5}, {.n = 1, .axis = {{0, 1, 8}}}},
    {DT_i32, 2, {0, 4}, {.n = 2, .axis = {{1, 1, 0}, {0, 1, 0}}}}};

Test(elf, constants_are_written_in_their_layout)
{
    for (size_t c = 0; c < COUNT_OF(constants); c++) {
        Arena mem = {0};
        const Layout *l = &constants[c].layout;
        DType type = constants[c].type;
        Tensor *t = tensor_new(&mem, type, constants[c].rank, constants[c].dim);
        for (int64_t i = 0; i < tensor_count(t); i++) dtype_store_int(type, (void *)(uintptr_t)t->data, i, i % 119 + 1);
        int64_t n = (int64_t)layout_elements(l, t->rank, t->dim);
        size_t bytes = (size_t)n * (size_t)dtypes[type].bytes;
        char *got = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&got, &size);
        cr_assert(constant_write(t, l, f));
        fclose(f);
        cr_assert_eq(size, bytes, "constant %zu: %zu bytes", c, size);
        for (int64_t i = 0; i < n; i++)
            cr_assert_eq(dtype_load_int(type, got, i), stored(t, l, i), "constant %zu, element %ld", c, (long)i);
        free(got), arena_drop(&mem);
    }
}
