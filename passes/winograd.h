/* winograd.h - what the winograd pass tells the report. */
#ifndef OCTET_WINOGRAD_PASS_H
#define OCTET_WINOGRAD_PASS_H
#include "passes/pass.h"

typedef struct WinogradNote {
    uint32_t convs, of; /* convolutions by minimal filtering, of all float ones that could be */
    double error;       /* the largest difference from f64 a sampled tile had, relative to its largest result */
} WinogradNote;
#endif
