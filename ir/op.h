/* op.h - the operator table: an operator is a row.
 *
 * A row says its name, versions, signature, attributes, and its meaning, in exactly one of these ways:
 *   body     elementwise: a scalar expression. Shape is the broadcast of the inputs. Interpreter, folding, LLVM, CUDA and the
 *            256-entry int8 tables all read it.
 *   lower    as tensor expressions (lower.h), with `infer` as the shape rule.
 *   expand   as other operators.
 * Signature text, `sig`:  "X:T W:T B:T? -> Y:T"
 *   name:type   type is a dtype name (f32, i64, bool ...), or one upper-case letter/word that binds a type variable
 *   ?           optional        ?=k  optional, k (a number, `lowest` or `highest`) stands for it in a body
 *   *           variadic (last): one or more
 * Type variables: `T`, `U`, `V` columns list what they may be: dtype names or the classes float int uint bool any
 * (int means signed and unsigned; float means f16 bf16 f32 f64).
 * Output types that depend on an attribute are set by infer.
 * Attribute text, `attrs`:  "axis:int=-1 keepdims:int=1 axes:ints mode:string=nearest value:tensor"; without =, no default;
 * a trailing ! means required. A string default may not hold spaces. */
#ifndef OCTET_OP_H
#define OCTET_OP_H
#include "ir/graph.h"

typedef struct Infer Infer;
typedef struct Lower Lower;
typedef struct Expand Expand;

/* What 8-bit quantization means for an operator; passes/quantize.c reads it, no operator implements quantization. */
typedef enum Quant {
    QUANT_NONE,    /* stays float */
    QUANT_PASS,    /* moves elements: same scale and zero point in and out (input 0; variadic: all inputs share one) */
    QUANT_LUT,     /* unary elementwise: a 256-entry table */
    QUANT_RESCALE, /* elementwise arithmetic on dequantized values, requantized */
    QUANT_INTEGER, /* contraction of inputs 0 and 1: int32 accumulation */
    QUANT_STATE,   /* recurrence: input 1 multiplies what the step before has made of output 0; codes of it multiply the state's, int32 accumulation */
    QUANT_SUMS,    /* exact sums of codes: what the operators on integers become */
    QUANT_EDGE     /* is itself a boundary */
} Quant;

struct OpDef {
    const char *name;
    const char *domain;     /* NULL is ai.onnx; "com.microsoft"; "octet" for our own */
    int since;              /* oldest opset with this meaning: older forms are upgraded on import (frontend/upgrade.c) */
    const char *sig, *T, *U, *V, *attrs;
    const char *body;
    bool (*infer)(Infer *);      /* NULL: broadcast of all inputs */
    void (*lower)(Lower *);
    bool (*expand)(Expand *);    /* false: reported */
    Quant quant;
    bool (*moves)(const Node *); /* QUANT_PASS: does this node move elements? NULL: always */
    const char *integer;         /* QUANT_INTEGER: the ai.onnx row of the same product on integers, (x, w, x_zero, w_zero) -> i32 */
    int8_t w_channel, y_channel; /* QUANT_INTEGER: the axis of output channels in input 1 (QUANT_STATE too) and in the output */
    int8_t x_input, w_input;     /* QUANT_INTEGER: the axis of input channels in input 0 and in input 1 (one group; QUANT_STATE too) */
    int8_t w_taps;               /* QUANT_INTEGER: from this axis of input 1 on, axes are summed over too; its other axes are batches. 0: none */
    int8_t w_scales;             /* QUANT_STATE: the input that has a scale for each output channel of s8 codes in input 1; the next one has their sums */
    Dim (*value)(Dims *, DType t, const Dim *arg, uint32_t n); /* elementwise rows that compute with sizes: one element of the
                                  result, all arguments known; t: type of input 0; id 0: not a size (ops/rules.c calls it) */
    unsigned flags;
};
static inline int axis_at(int axis, int rank) { return axis < 0 ? axis + rank : axis; } /* those above may count from the end */
enum {
    OP_UNIQUE = 1,   /* never shared (random) */
    OP_VALUES = 2,   /* its infer also computes the elements of small integer results (shape arithmetic) */
    OP_SHAPE_ONLY = 4, /* reads shapes of its inputs, not their data */
    OP_NO_FOLD = 8,  /* graph_emit leaves it alone on constants: passes look for it (DequantizeLinear of weights) */
    OP_UNRANKED = 16 /* its infer is called also when the rank of an input is unknown: it finds the element type */
};
#define OP(n, ...) {.name = #n, __VA_ARGS__}

extern const OpDef *const op_tables[];                              /* ir/ops/registry.c; ends with NULL */
const OpDef *op_find(const char *domain, const char *name);        /* NULL, "" and "ai.onnx" are the same domain */
const OpDef *op_at(uint32_t i);                                    /* all rows in registry order; NULL past the end */

/* ---- parsed schema, made once from the texts above ---- */
typedef struct OpArg { const char *name, *type; bool optional, variadic; const char *fallback; } OpArg;
typedef struct OpAttr { const char *name; AttrKind kind; bool required; Attr fallback; } OpAttr;
typedef struct OpSchema { uint32_t nin, nout, nattr; OpArg in[24], out[12]; OpAttr attr[24]; } OpSchema;
const OpSchema *op_schema(const OpDef *op);                        /* a malformed text is a bug: asserts with the row's name */
/* Operand or result i: the last one stands for all that follow it. */
static inline const OpArg *schema_in(const OpSchema *s, uint32_t i) { return &s->in[i < s->nin ? i : s->nin - 1]; }
static inline const OpArg *schema_out(const OpSchema *s, uint32_t i) { return &s->out[i < s->nout ? i : s->nout - 1]; }
bool op_takes(const OpDef *op, uint32_t input, DType t);           /* may the input be of this type, as the signature says? */
uint32_t op_attrs(const OpDef *op);
int op_attr_index(const OpDef *op, const char *name);              /* -1: none */
Attr *op_attr_defaults(Arena *a, const OpDef *op);                 /* an array of op_attrs() entries to change and pass to graph_emit */
void attr_set_int(const OpDef *op, Attr *attr, const char *name, int64_t v);
void attr_set_ints(const OpDef *op, Attr *attr, const char *name, const int64_t *v, uint32_t n);
void attr_set_float(const OpDef *op, Attr *attr, const char *name, float v);
void attr_set_str(const OpDef *op, Attr *attr, const char *name, const char *v);

/* ---- shape rules: types are already set from sig where it says them ---- */
struct Infer {
    Graph *g;
    Module *m;
    Dims *d;
    const Node *n;
    const Loc *loc;
    Type *out;                     /* nout entries */
    const Dim **elem; uint32_t *elems; /* nout entries: element values, for OP_VALUES rows */
};
static inline Dim DIM(Infer *c, int64_t v) { return dim_const(c->d, v); }
bool in_has(const Infer *c, uint32_t i);
const Type *in_type(const Infer *c, uint32_t i);          /* rank -1 when unknown or absent */
int in_rank(const Infer *c, uint32_t i);
Dim in_dim(const Infer *c, uint32_t i, int axis);          /* axis may be negative; DIM(1)-free: axis must be in range */
const Tensor *in_const(const Infer *c, uint32_t i);        /* NULL: not constant */
const Dim *in_elems(const Infer *c, uint32_t i, uint32_t *n); /* integer elements as sizes (constants too); NULL: none known */
bool in_axis(Infer *c, int64_t axis, int rank, int *out);  /* normalises, reports */
bool out_shape(Infer *c, uint32_t o, int rank, const Dim *dim); /* true */
bool out_like(Infer *c, uint32_t o, uint32_t i);           /* dims of input i; true */
bool out_unknown(Infer *c, uint32_t o);                    /* rank unknown: becomes an error when it is compiled */
bool out_elems(Infer *c, uint32_t o, const Dim *elem, uint32_t n);
bool out_broadcast(Infer *c, uint32_t o, uint32_t nin, const uint32_t *in); /* of those inputs, reports */
bool require_eq(Infer *c, Dim a, Dim b, const char *why);  /* reports when impossible */
bool require_ge(Infer *c, Dim a, Dim b, const char *why);
bool infer_error(Infer *c, const char *fmt, ...) PRINTF_LIKE(2, 3); /* false */

/* ---- expansion into other operators ---- */
struct Expand {
    Graph *g;           /* emit here */
    Module *m;
    const Node *n;      /* the node, its inputs already mapped into g */
    const Val *in;      /* n->nin of them, in g */
    Val *out;           /* fill n->nout */
    const Loc *loc;
    bool exact_values;  /* a node that allows values to be rounded does not get them rounded */
};
bool expand_error(Expand *x, const char *fmt, ...) PRINTF_LIKE(2, 3);
#endif
