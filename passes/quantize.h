/* quantize.h - post-training quantization of a graph: ranges in, a graph with QuantizeLinear and DequantizeLinear out.
 *
 * Which tensors: the activation inputs of every row with QUANT_INTEGER whose weights are constant, where an estimate of both forms says
 * that the integer one is faster (quantize_wanted(); of the others passes/codes.c makes codes of weights alone). Everything else stays float and is fused around the integer contractions; where a quantized tensor is read by elementwise, moving or pooling
 * rows they read its 8-bit form too. Activations are u8, asymmetric, per tensor: scale = (hi - lo) / 255, zero point =
 * round(-lo / scale), the range widened to hold 0. Where a few large elements make that scale too coarse for the others, as in
 * transformers, and only matrix products read the tensor, each row has a scale of its own, max|x| / 127 (255 without negative elements),
 * computed while the model runs (Yao et al. 2022, "ZeroQuant", section 4.1.2); and where that costs
 * the outputs too much (frontend/costs.h), products have rows of 16 bits. Weights are s8, symmetric, per output channel: scale =
 * max|w| / 127; passes/weights.h has other forms and methods.
 * The state that a recurrence multiplies its weights with (QUANT_STATE) has a range of its own in every step and entry of the batch, found
 * while the model runs, as in DynamicQuantizeLSTM: no calibration bounds what a state becomes after many calls.
 * Rounding the weights shifts an output channel by the rounding errors times the mean of the inputs they multiply; that shift is
 * known from calibration and goes into the bias (Nagel et al. 2019, "Data-Free Quantization", section 4.2); of rows with the mean that leaves the least error
 * relative to each (passes/statistics.h), or what loud rows need would be added to silent ones.
 * A bias becomes int32 multiples of the two scales' product, as every engine wants it.
 * Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference". */
#ifndef OCTET_QUANTIZE_H
#define OCTET_QUANTIZE_H
#include "passes/pass.h"
#include "passes/statistics.h"
#include "passes/weights.h"
#include <regex.h>

typedef struct Range {
    const char *name;            /* of the tensor */
    double lo, hi;               /* lo <= hi, finite */
    double rms, row_peak;        /* root mean squares: of all values, of the largest |value| of each row along the last axis; 0: not known */
    const float *mean;           /* of every channel, or NULL: not known */
    int64_t channels;
    const float *gain;           /* NULL, or what its channels (of the last axis) are divided by: the rest is of the quotients */
    int64_t gains;
    const bool *wide;            /* NULL, or of the contractions that read it, in their order: they multiply 16 bits */
    int64_t readers;
    double tensor_db, row_db;    /* of outputs of the products it is multiplied in over what its rounding to 8 bits takes from them; 0: not known */
    const Statistic *stat;       /* what calibration saw, or NULL: not known */
    const ChannelSums *sums;     /* the same */
    const RowSums *rows;         /* the same */
} Range;

/* What is done to the float graph for the sake of rounding, by the passes "equalize" and "rotate", judged layer by layer (frontend/judge.h). */
typedef enum Rewriting { REWRITING_EQUALIZE, REWRITING_ROTATE, REWRITINGS } Rewriting;
typedef struct LayerRewriting {
    bool judged, taken;
    double before, after;        /* dB, of the layer's outputs over what rounding both operands takes from them */
} LayerRewriting;
typedef struct LayerTried {
    LayerRewriting by[REWRITINGS];
} LayerTried;

typedef struct EqualPair {       /* layers that a factor of channels moves between */
    const char *x;               /* the value whose channels are divided */
    VEC(const char *) layer;     /* outputs of those that make it and that read it */
} EqualPair;

typedef enum LayerState { LAYER_INTEGER, LAYER_WEIGHTS, LAYER_FLOAT } LayerState; /* WEIGHTS: they alone are codes */
typedef struct Layer {           /* one contraction of the model, for the report */
    const Loc *loc;
    const char *tensor;          /* its output */
    const char *input;           /* the tensor that its activation range is of */
    LayerState state;
    DType x;                     /* of the codes that its activations came as; DT_NONE: they did not */
    const char *why;             /* FLOAT: the reason, lower case */
    double lo, hi, scale;        /* INTEGER: of its activation input */
    int zero_point;
    bool rows;                   /* ... every row of which has a scale of its own, found while the model runs */
    bool states;                 /* ... which are the states of a recurrence, zero points found too */
    bool wide;                   /* ... and 16 bits */
    int64_t block;               /* WEIGHTS: 0, or of so many its values are rounded to 8 bits together, while the model runs (passes/blocks.c) */
    double eight_db;             /* of its outputs over what 8 bits of its values take; 0: not known */
    bool smooth;                 /* its channels were divided by gains (passes/smooth.h) */
    int64_t weights;             /* elements */
    WeightForm form;             /* of the weights, unless they are FLOAT */
    const char *method;          /* the same: how its weights were rounded (passes/weights.h) */
    double error_nearest, error; /* of its output by rounding its weights to nearest and by the method, on held-out rows; NaN: not known */
    const char *fallback;        /* NULL, or why the nearest were taken although a method was asked for */
    double weight_sqnr;          /* dB, of the quantized weights against the float ones */
    double sqnr;                 /* dB, of its output in the quantized model against the float model; NaN: not measured */
    uint32_t region;             /* passes/simulate.h; 0: it cannot be integer */
    const LayerTried *tried;     /* NULL: no rewriting was judged by it */
    double saved;                /* INTEGER: float multiply-adds that its integer form saves, estimated */
    double cost;                 /* what the outputs pay for its few bits (OutputCosts); NaN: not known */
    bool spared;                 /* too much: it has more */
} Layer;

typedef struct LayerCodes {      /* weights that a method has rounded */
    const char *tensor;          /* the layer's output */
    const WeightMethod *method;
    WeightForm form;
    CodeTensors codes;
    double sqnr, error_nearest, error;
    const char *fallback;
    const float *lost;           /* by rounding, of every output channel on average; NULL: not known */
} LayerCodes;

typedef struct CodesKept {
    Map index;                   /* tensor -> number + 1 in layer */
    VEC(LayerCodes) layer;
} CodesKept;

typedef struct OutputCosts {     /* what rounding costs the outputs, measured there (frontend/costs.h) */
    bool scores;                 /* in nats of divergence, which outputs that look like scores have; else of the outputs' energy */
    double bound, left;          /* the most that layers may cost for which fewer bits were to be decided, and what they do; NaN: not measured */
    bool known;
} OutputCosts;
typedef struct LayerCost {
    const char *tensor;          /* its output */
    double cost;                 /* of few bits; NaN: nothing could be measured */
    bool spared;                 /* too much: it has more bits */
} LayerCost;

typedef struct Gains {           /* weights were multiplied by them before they were rounded: what they multiply must be divided */
    Val x;                       /* of the graph after the pass "rotate" */
    int64_t channels;
    const float *by;
} Gains;

struct Quantization {
    Arena *mem;
    Map index;                   /* name -> number + 1 in range */
    VEC(Range) range;
    const char *precision;       /* its name, for reports */
    bool float_activations;      /* only weights and tables are codes: no integer contractions, no ranges */
    WeightForm form;             /* of weights; code DT_NONE: s8, symmetric, per output channel */
    WeightForm table, spared;    /* passes/codes.c: of tables (DT_NONE: they stay float) and of weights that need more bits (DT_NONE: none do) */
    double bound;                /* 0, or what rounding weights may cost the outputs, of the bound of frontend/costs.h: what costs too much is spared, */
    double part;                 /* and the codes of products become at most by so much larger than they would be with f16 scales */
    const WeightMethod *weights; /* NULL: the first */
    const WeightMethod *windows; /* NULL, or how those of is_channelwise() are rounded, where they have no codes yet */
    struct CodesKept *kept;      /* codes found so far; copies of a Quantization share them. NULL: none yet */
    struct CodesKept *finer;     /* the same of form_finer(), which layers may need */
    VEC(Gains) gains;
    Map cost_of;                 /* output of a layer -> number + 1 in cost */
    VEC(LayerCost) cost;
    OutputCosts costs;
    bool narrow;                 /* no values have 16 bits */
    const char *keep;            /* --keep REGEX over node names, or NULL */
    VEC(Layer) layer;
    const bool *reverted;        /* NULL, or per region, from 1: it stays float to stay inside a budget */
    bool equalize, rotate;       /* the passes of these names are wanted */
    VEC(EqualPair) pair;         /* what the former has equalized last */
    VEC(const char *) uneven;    /* values whose channels it leaves as they are: that was judged to be better */
    Map tried_of;                /* output of a layer -> number + 1 in tried */
    VEC(LayerTried *) tried;
    bool simulate;               /* make a simulation (passes/simulate.h) instead, by the passes up to "codes": another input, no reverted regions */
    uint32_t regions;            /* found by pass_quantize() */
    uint32_t *region_at, located; /* by Loc.place: the region of every node; 0: none */
    const char **region_reads;   /* by region: the tensor that it reads; NULL: it is that of tables */
    uint32_t tables;             /* the region of what is codes alone, tables that are looked up and weights of float products, the last one; 0: there is none */
    struct Budget *budget;       /* frontend/budget.h: what was tried to stay inside it; NULL: there is none */
};

/* The tensors whose ranges pass_quantize() will ask for, by number of Val: the observers' list. */
bool *quantize_wanted(const Graph *g, const Quantization *q, Arena *scratch); /* q: as it is asked for; NULL: integer activations */
/* What is so of q's regions, from 1, said of those of another graph of the same model, which are known by what they read; what reads something else is. */
bool *regions_elsewhere(const Quantization *q, const bool *chosen, const Quantization *there, Arena *mem);
/* The forms of weights that will be codes, by number of node; code DT_NONE: they will not. No ranges are asked for. */
WeightForm *quantize_forms(const Graph *g, const Quantization *q, Arena *mem);
WeightForm *codes_forms(const Graph *g, const Quantization *q, Arena *mem); /* the same of pass_codes() */
WeightForm *weight_forms(const Graph *g, const Quantization *q, Arena *mem); /* of both */
int64_t weights_coded(const Graph *g, const Quantization *q); /* how many weights have such forms */
/* Will the constant weights of a product, once they are codes, be widened by its kernel (codegen/widen.c)? Many and deep ones, a block at a
 * time, and those of windows that pass over channels one by one, as they are loaded. */
bool widens_weights(const Graph *g, const Node *n);
/* Would pass_codes() make codes of the weights of a contraction that is no faster with integers? */
bool codes_beside_integers(const Graph *g, const Quantization *q, const Node *n);
bool integer_is_slower(const Graph *g, const Node *n);
bool is_channelwise(const Graph *g, const Node *n);            /* does every channel have a window of its own (a depthwise convolution)? */
bool codes_tables(const Graph *g, const Quantization *q, const Node *n); /* would pass_codes() make codes of the table that this node looks up? */
bool looks_up(const Graph *g, const Node *n);                /* entries of a constant table, input 0, where only the call knows */
/* A matrix product whose values could have 16 bits: each of its results sums over a row, short enough for 32 bits. */
typedef struct RowProduct {
    uint32_t node, reader;       /* its number, and among the contractions that read its values */
    bool rows;                   /* 8 bits would be with a scale for each row */
    double products;             /* multiplications, a free size taken for 64 */
} RowProduct;
uint32_t row_products(const Graph *g, Quantization *q, RowProduct **list, Arena *mem); /* q: with ranges */
Val through_eight_bits(Graph *g, Val x, const Range *r, bool rows, const Loc *loc); /* x rounded to 8 bits, in float */
/* Few large elements make the codes of all others coarse: where a tensor's one scale leaves too little of signal over noise and scales
 * of rows clearly more, both in dB, rows pay for their own. */
bool rows_pay(double tensor_db, double row_db);
bool *tables_looked_up(const Graph *g, Arena *mem);          /* such tables, by number of Val */
/* The constant whose transpose these weights are, when it is a table that is looked up, or the transpose itself is not folded; or id 0. */
Val table_of(const Graph *g, const bool *looked, Val weights);
LayerRewriting *rewriting_note(Quantization *q, const char *tensor, Rewriting kind); /* of the layer with this output, made on first need */
const LayerTried *rewritings_find(const Quantization *q, const char *tensor);          /* NULL: none was judged */
/* Codes that the passes take for the layer with this output. */
void codes_set(Quantization *q, LayerCodes c);
void finer_set(Quantization *q, LayerCodes c);                          /* others of it, should these cost too much */
const LayerCodes *codes_find(const Quantization *q, const char *tensor);
CodesKept *codes_copied(const Quantization *q); /* those found so far, and what is added to q later is not in them */
/* Those, or codes by a method without statistics where it needs none or has none, which q keeps for the next graph. note: gets what was done. */
LayerCodes layer_codes(const Graph *g, const Node *n, Quantization *q, WeightForm form, Layer *note); /* note: or NULL */
void cost_note(Quantization *q, const char *tensor, double cost, bool spared);
void layer_note_cost(const Quantization *q, Layer *l);
const LayerCost *cost_find(const Quantization *q, const char *tensor); /* NULL: nothing is known */
/* What weights that are spared because of their cost become; that needs no samples. */
WeightForm form_spared(const Quantization *q);
/* What those of n may become before: groups of half the size. code DT_NONE: there are no smaller ones, they are asymmetric, it is a convolution, or what layers cost is not asked. */
WeightForm form_finer(const Quantization *q, const Node *n);
/* Codes of it: those set, or by a method that needs no statistics. NULL: there are none. */
const LayerCodes *layer_finer(const Graph *g, const Node *n, Quantization *q);
void layer_spare(const Graph *g, const Node *n, Quantization *q);
/* Codes as a value of g, dequantized where they are read. */
Val codes_emit(Graph *g, const CodeTensors *t, const char *name, const Loc *loc);
/* What a node multiplies its constant weights with: its first input, or the states that it makes (all of which but the last one it multiplies). */
Val multiplied(const Graph *g, const Node *n);
/* Does a contraction multiply two tensors that are computed, as attention does? */
bool multiplies_computed(const Graph *g);
/* The name a tensor's range is kept under: its ONNX name, or one made from its node's and the output's number. */
const char *tensor_name(const Graph *g, Val v, Arena *mem);
const Range *range_find(const Quantization *q, const char *name);
Range *range_set(Quantization *q, const char *name, double lo, double hi);
/* The axis of channels of a wanted tensor, as its readers see it; -1: they disagree, or the number of channels is free. */
int channel_axis(const Graph *g, const Quantization *q, Val v);
/* What rounding took from every output channel on average: what the codes' method has seen, or the sum over the weights w of
 * (w - value) * mean(x), which takes padding for more of x. NULL: not known, r may be NULL. */
const float *lost_by_rounding(const Node *n, const Tensor *w, const LayerCodes *codes, const Range *r, Arena *mem);
/* The same under a precision of weights, where rows that were seen are pixels; means over tokens are those of padding too. */
const float *lost_of_pixels(const Node *n, const Tensor *w, const LayerCodes *codes, const Range *r, Arena *mem);
Val add_lost(Graph *g, const Node *n, const Tensor *w, Val y, const float *lost); /* y plus that, along its channels */

/* The text file of ranges (passes/ranges.c). Its head may say what its statistics come from; read: fields it lacks are NULL and 0. */
typedef struct RangesHead {
    const char *model;           /* written on the first line */
    const char *graph, *content; /* keys: of the float graph; of the samples, one after the other */
    const char *method;          /* that chose the ranges */
    uint32_t samples;
} RangesHead;
bool ranges_read(Quantization *q, Diag *diag, const char *path);
bool ranges_read_head(Quantization *q, Diag *diag, const char *path, RangesHead *head);
bool ranges_write(const Quantization *q, Diag *diag, const char *path, const char *model);
void ranges_print(const Quantization *q, FILE *f, const RangesHead *head); /* with the statistics */
#endif
