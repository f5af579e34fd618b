/* winograd.h - what the winograd pass is told, and what it tells the report. */
#ifndef OCTET_WINOGRAD_PASS_H
#define OCTET_WINOGRAD_PASS_H
#include "passes/pass.h"
#include <regex.h>

typedef struct WinogradNote {
    DType product;       /* what products are made of */
    const regex_t *keep; /* NULL, or: nodes whose products are f32 nevertheless */
    uint32_t convs, of; /* convolutions by minimal filtering, of all float ones that could be */
    double error;       /* the largest difference from f64 a sampled tile had, relative to its largest result */
} WinogradNote;
#endif
