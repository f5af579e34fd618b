/* weights.h - constant float weights as integer codes with scales: what a contraction's weights look like to every method, and
 * the methods as rows of a table.
 *
 * A method sees a matrix W[out][in] whatever the operator: rows are output channels (of every batch, batches outermost), columns
 * are what is summed over, taps outermost: column j multiplies tap j / channels of input channel j % channels. Which axis is what is read
 * from the operator's row (ir/op.h: w_channel, w_input, w_taps).
 * A weight is scale * (code - zero). Codes, scales and zero points found here are what ships: nothing is rounded twice. */
#ifndef OCTET_WEIGHTS_H
#define OCTET_WEIGHTS_H
#include "passes/moments.h"

typedef struct WeightForm {
    DType code;                  /* i8, u8, i4 or u4; or float8, symmetric: codes are its bits */
    bool asymmetric;             /* a zero point with every scale; otherwise it is the middle of the codes */
    bool fine;                   /* groups: scales are 8-bit codes with a scale of each output channel, and zero points, if there are any, in sixteenths */
    int64_t group;               /* so many consecutive input channels share a scale, the last ones perhaps fewer; 0: a whole output channel */
} WeightForm;
int weight_code_least(const WeightForm *f), weight_code_most(const WeightForm *f); /* symmetric i8 is -127..127; of float8 the largest numbers */
double weight_bits(const WeightForm *f);                                          /* of a weight, with its part of what is kept of a group */
float weight_code_number(const WeightForm *f, int code);                          /* what a code counts */
int weight_code_middle(const WeightForm *f);                                      /* the zero point of symmetric codes */

struct WeightMatrix {
    const Tensor *tensor;        /* where it comes from */
    int channel_axis, input_axis; /* of the tensor */
    int64_t out, in;
    int64_t channels;            /* of the input: taps = in / channels */
    int64_t batches;             /* row r is output channel r % (out / batches) of batch r / (out / batches) */
    int64_t blocks;              /* rows are in so many equal blocks; each multiplies inputs of its own (groups, batches) */
    int64_t *row, *col;          /* element (r, c) is number row[r] + col[c] of the tensor */
    float *w;                    /* [out][in] */
};
/* The constant f32 weights (input 1) of a row with QUANT_INTEGER. */
WeightMatrix weight_matrix(const Graph *g, const Node *n, Arena *mem);

WeightMatrix weight_table(const Tensor *t, Arena *mem); /* a table [entries][values] that is looked up: an entry is a row */

typedef struct WeightCodes {
    WeightForm form;
    int64_t owners, groups;      /* scales are [owners][groups]; row r has those of owner r % owners: without groups, batches share theirs */
    int32_t *group;              /* of every column */
    int16_t *code;               /* [out][in] */
    float *scale, *zero;         /* zero: whole numbers, or sixteenths */
    int64_t rows;                /* output channels of a batch */
    float *scale_of;             /* fine: of each output channel; a scale is 1 to 255 times that, symmetric ones -127 to 127 times. Else NULL */
} WeightCodes;
static inline int64_t codes_at(const WeightCodes *c, int64_t row, int64_t col)
{
    return row % c->owners * c->groups + c->group[col];
}
/* What the codes of a row mean: `in` weights. */
void codes_row(const WeightMatrix *m, const WeightCodes *c, int64_t row, float *to);
void weights_rounded(WeightMatrix *m, const WeightForm *f); /* w becomes what its codes mean, when they are the nearest */

/* As tensors for DequantizeLinear(code, scale, zero) with these attributes; zero NULL: there is none. Fine ones: for octet.Dequantize, a zero that
 * is no middle being f32, and scale is DequantizeLinear(scale_code, scale_of) along scale_axis. */
typedef struct CodeTensors {
    Tensor *code, *scale, *zero;
    Tensor *scale_code, *scale_of; /* NULL: scales are no codes */
    int scale_axis;
    int axis;
    int64_t block;
} CodeTensors;
CodeTensors weight_tensors(const WeightMatrix *m, const WeightCodes *c, Arena *mem);
Tensor *code_values(const CodeTensors *t, Arena *mem);                          /* what they mean, f32 */
double weight_sqnr(const WeightMatrix *m, const WeightCodes *c);                /* dB, of the codes' values against the weights */

/* What a method found, judged on rows that it has not seen: where it does worse than rounding to nearest, that is taken instead. */
typedef struct WeightChoice {
    WeightCodes codes;
    double error_nearest, error; /* weight_error() of rounding to nearest, and of the method; NaN: no rows */
    const char *why;             /* NULL, or why codes are the nearest */
    double sqnr;                 /* dB, of the codes' values against the weights, times gains if there are any */
    float *lost;                 /* of each row, what rounding takes from its output on average; NULL: not known */
} WeightChoice;

enum { WEIGHT_MOMENTS = 1 };     /* needs: Moments of the matrix's inputs */
typedef struct WeightMethod {
    const char *name, *help;
    unsigned needs;
    WeightCodes (*find)(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem); /* s: where needed, else perhaps NULL */
    /* NULL, or: codes for n layers that multiply the same values, for weights that are multiplied by gains of the input channels, and values
     * that are divided by them. gain: to be filled; NULL: there can be none. */
    void (*balance)(const WeightMatrix *const *m, const WeightForm *f, uint32_t n, const Moments *s, float *gain, WeightChoice *c,
                    Arena *const *mem);
} WeightMethod;
const WeightMethod *weight_method_at(uint32_t i);     /* NULL past the end; the first is the default */
const WeightMethod *weight_method_find(const char *name);
const WeightMethod *weight_method_blind(const WeightMethod *how); /* for what has no moments, as tables: grids as those with moments have */
WeightChoice weight_choose(const WeightMethod *how, const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem);
double weight_error(const WeightMatrix *m, const WeightCodes *c, const Moments *s); /* of the outputs, errors over values in the Euclidean norm, of rows of length 1 */
float *weight_lost(const WeightMatrix *m, const WeightCodes *c, const Moments *s, Arena *mem); /* WeightChoice.lost; s has rows */

/* ---- for methods ---- */
typedef struct Extremes {
    float lo, hi; /* lo <= 0 <= hi */
} Extremes;
typedef struct Grid {
    float scale, zero;
} Grid;
WeightCodes codes_new(const WeightMatrix *m, const WeightForm *f, Arena *mem);
Extremes *codes_extremes(const WeightMatrix *m, const WeightCodes *c, Arena *mem); /* of every group, [owners][groups] */
enum { GRID_STEPS = 20 };
Grid grid_candidate(const WeightForm *f, Extremes e, int step); /* the grid for extremes that are shrunk the more the larger the step; from GRID_STEPS on turned. Of floats they grow, up to twice */
int grid_code(const WeightForm *f, Grid g, float w);            /* the nearest */
float grid_value(const WeightForm *f, Grid g, int code);
Grid grid_settled(const WeightCodes *c, int64_t at, Grid g);    /* with a scale that has a code, where scales are codes */
extern const char weight_no_better[];
const char *weight_unseen(const Moments *s);                     /* why they say nothing; NULL: they do */
/* Codes to be found on grids of least square error, a column's times its weight ([blocks][in]; NULL: 1). */
WeightCodes codes_on_grids(const WeightMatrix *m, const WeightForm *f, const double *weight, Arena *mem);
int codes_nearest(const WeightCodes *c, int64_t at, float w); /* at: of codes_at() */
void codes_round(const WeightMatrix *m, WeightCodes *c);      /* all to the nearest */
WeightCodes weights_gptq(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem); /* gptq.c */
WeightCodes weights_seqmse(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem); /* seqmse.c */
WeightCodes weights_adaround(const WeightMatrix *m, const WeightForm *f, const Moments *s, Arena *mem); /* adaround.c */
void weights_awq(const WeightMatrix *const *m, const WeightForm *f, uint32_t n, const Moments *s, float *gain, WeightChoice *c,
                 Arena *const *mem);                                                                  /* awq.c */
#endif
