/* elf.h - a relocatable ELF object written by hand: read-only data, tables of pointers, symbols.
 *
 * Sections are filled by elf_put (bytes kept in memory) or elf_stream (bytes produced while the file is written: weights never
 * lie in memory twice). Pointers are said with elf_pointer and become absolute 64-bit relocations, which the
 * loader fills in; distances are known when linked. */
#ifndef OCTET_ELF_H
#define OCTET_ELF_H
#include "ir/base/diag.h"

typedef struct Elf Elf;
typedef enum ElfSection { ELF_RODATA, ELF_RELRO, ELF_WEIGHTS, ELF_SECTIONS } ElfSection; /* WEIGHTS: read-only data, past 2 GB if need be */
typedef bool ElfFill(void *ctx, FILE *f); /* writes exactly the promised bytes; false: it could not (errno) */

Elf *elf_new(Arena *mem, const char *arch);                                      /* "x86_64", "aarch64" */
uint64_t elf_put(Elf *e, ElfSection s, const void *p, size_t n, size_t align);   /* its offset in the section; p NULL: zeros */
uint64_t elf_text(Elf *e, const char *text);                                     /* a string in RODATA, shared with equal ones */
uint64_t elf_stream(Elf *e, ElfSection s, uint64_t n, size_t align, ElfFill *fill, void *ctx);
void elf_poke(Elf *e, ElfSection s, uint64_t at, const void *p, size_t n);       /* overwrites bytes put before */
/* The 8 bytes at `at` of section s become the address of `to` + addend. */
void elf_pointer(Elf *e, ElfSection s, uint64_t at, ElfSection to, uint64_t addend);
void elf_pointer_symbol(Elf *e, ElfSection s, uint64_t at, const char *symbol);  /* of another object */
void elf_distance_symbol(Elf *e, ElfSection s, uint64_t at, const char *symbol); /* 4 bytes: how far it lies behind them */
void elf_define(Elf *e, const char *name, ElfSection s, uint64_t at, uint64_t size, bool exported); /* exported: default visibility; else hidden */
bool elf_is_large(const Elf *e);                                                 /* WEIGHTS is too large to lie between code and its data: .lrodata */
bool elf_write(const Elf *e, FILE *f);                                           /* false: errno says why */
bool elf_move(Elf *e, ElfSection s, FILE *f);                                    /* what a section holds goes to f; empty, it is written with the others */
#endif
