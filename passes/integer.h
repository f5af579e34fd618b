/* integer.h - what pass_integer() says: contractions that stayed float though an operand of theirs came quantized. */
#ifndef OCTET_INTEGER_H
#define OCTET_INTEGER_H
#include "passes/pass.h"

typedef struct Unfused {
    const Loc *loc;
    const char *name;            /* of the node, or "#7" */
    const char *why;             /* lower case */
} Unfused;
typedef struct IntegerNote {
    Arena *mem;
    uint32_t integer;            /* contractions that are integer, of those with quantized operands */
    VEC(Unfused) unfused;        /* the others, in the order of the graph */
} IntegerNote;
#endif
