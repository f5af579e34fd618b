/* diag.h - what is wrong with the user's input, said where it is wrong.
 *
 * Comes in: a location (the ONNX node) and a message: lower case, no full stop, what was expected and what was found.
 * Goes out: lines on stderr such as
 *     resnet50.onnx: node 'layer1/conv2' (Conv, #17): error: W has rank 3, expected 4
 * diag_error() returns false so that a function that found a mistake ends with `return diag_error(d, loc, "...");`.
 * Errors are collected so that one run shows all of them; after DIAG_MAX they are only counted. Our own bugs assert. */
#ifndef OCTET_DIAG_H
#define OCTET_DIAG_H
#include "ir/base/vec.h"
#include <stdio.h>

enum { DIAG_MAX = 50 };
enum { EXIT_MODEL = 1, EXIT_USAGE = 2, EXIT_INTERNAL = 70 }; /* DESIGN: exit codes */

typedef struct Loc {
    const char *node; /* ONNX node name, may be "" */
    const char *op;   /* ONNX op_type */
    int index;        /* position in the file, from 0 */
    uint32_t when;    /* a Dim (ir/dim.h): the node counts only where it is 1; 0: always */
    uint32_t place;   /* tells nodes apart that come from one of the file, where somebody asks (frontend/budget_times.c); from 1, 0: nobody does */
} Loc;

typedef struct Diag {
    Arena *mem;
    const char *subject;      /* the file the errors are about, "" for none */
    VEC(const char *) line;   /* complete lines without newline */
    VEC(const char *) warning;
    unsigned errors;          /* all of them, also those not kept */
} Diag;

bool diag_error(Diag *d, const Loc *loc, const char *fmt, ...) PRINTF_LIKE(3, 4); /* loc NULL: the whole file; returns false */
void diag_note(Diag *d, const char *fmt, ...) PRINTF_LIKE(2, 3);                  /* belongs to the error before it */
void diag_warn(Diag *d, const Loc *loc, const char *fmt, ...) PRINTF_LIKE(3, 4);
void diag_print(const Diag *d, FILE *f);                                          /* everything, in order */
#endif
