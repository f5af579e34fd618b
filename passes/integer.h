/* integer.h - what pass_integer() says of contractions an operand of which came quantized, and a step that pass_scale() begins with. */
#ifndef OCTET_INTEGER_H
#define OCTET_INTEGER_H
#include "passes/pass.h"

typedef enum CodedState {
    CODED_INTEGER,               /* sums of codes */
    CODED_WEIGHTS,               /* float activations; the weights stay codes and are widened beside their products */
    CODED_FLOAT,                 /* float sums, though an operand is codes */
    CODED_STATES
} CodedState;
typedef struct Coded {
    const Loc *loc;
    const char *name;            /* of the node, or "#7" */
    CodedState state;
    DType x, w;                  /* of the codes; DT_NONE: these are floats */
    int64_t weights;             /* elements, where they are constant */
    bool rows;                   /* every row of activations has a scale of its own */
    const char *why;             /* FLOAT: the reason, lower case */
} Coded;
typedef struct IntegerNote {
    Arena *mem;
    VEC(Coded) at;               /* in the order of the graph */
    uint32_t n[CODED_STATES];    /* how many are in each state */
} IntegerNote;

/* Quantizers inside of the graph multiply by the reciprocal of their scale, and shallow sums by codes are scaled behind. */
Graph *integer_factors(const Graph *in, PassCtx *ctx);
#endif
