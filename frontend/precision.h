/* precision.h - what --quantize makes of a model: the precisions as rows of a table. */
#ifndef OCTET_PRECISION_H
#define OCTET_PRECISION_H
#include "frontend/options.h"
#include "passes/quantize.h"

typedef struct Precision {
    const char *name;    /* the value of --quantize */
    bool integer;        /* activations are 8-bit codes too and contractions are integer: that needs ranges */
    bool rounds;         /* values that meet matrices of weights are rounded to 8 bits in blocks, unless --values says otherwise */
    DType store;         /* of values between kernels and of weights; DT_NONE: float32 */
    DType filtered;      /* with a store: what convolutions by minimal filtering multiply; DT_NONE: there are none */
    WeightForm weights;  /* of products; code DT_NONE: floats */
    WeightForm table;    /* of constants that are looked up (embeddings) */
    WeightForm spared;   /* of products whose errors cost most; DT_NONE: as all others */
    double bound;        /* with samples: what rounding them may cost the outputs, of the bound of frontend/costs.h, before layers are spared; 0: their place alone decides */
    double part;         /* of the codes of all products: so much larger may they become */
    const char *blind, *seen; /* how weights are rounded unless the user says: without samples, with some; NULL: the first method */
    const char *searched;     /* the same where --max-loss searches: what rounding spares there is time that layers need not take in float; NULL: as `seen` */
    const char *windows;      /* how those of windows over channels one by one are, where `seen` rounds them not; NULL: as all */
    const char *nearer;  /* what to ask for instead where outputs are far from float; NULL: nothing is nearer */
    const char *help;
} Precision;
const Precision *precision_at(uint32_t i);             /* NULL past the end */
const Precision *precision_of(const Options *o);       /* the one asked for, or NULL */
const WeightMethod *precision_rounding(const Options *o); /* as --weights says, or as the precision has it */
enum { ROUNDED_MOST = 1 << 28 }; /* weights: beyond, `seen` would take too long, and is for those who ask for it by name */
const WeightMethod *precision_rounding_blind(const Options *o); /* then */
/* Do --group, --symmetric and --asymmetric go with it? false: reported. */
bool precision_check(const Options *o, Diag *d);
bool precision_packs(const Options *o); /* Has it weights of 4 bits in groups of a power of two? */
void precision_forms(const Options *o, Quantization *q); /* what was asked for, for the passes */
#endif
