/* graph.h - a program as a graph of tensor operators.
 *
 *   Val     a tensor value: an index into g->val. 0 means "no value" (an absent optional input).
 *   Node    one operator application; its outputs are consecutive Vals.
 *   Graph   nodes in an order where definitions precede uses. Never changed by passes: a pass reads one graph and emits another.
 *   Module  what the graphs of one compilation share: names, sizes, diagnostics, memory.
 *
 * Everything is born in graph_emit(): it infers the types (the row's infer), folds what is constant, and returns an existing
 * equal node if there is one, so common subexpressions and dead code need no pass of their own (what the next rebuild does
 * not reach is gone). Text form: graph_text.c, docs/IR.md. */
#ifndef OCTET_GRAPH_H
#define OCTET_GRAPH_H
#include "ir/base/diag.h"
#include "ir/base/map.h"
#include "ir/dim.h"
#include "ir/tensor.h"

typedef struct OpDef OpDef;
typedef struct Graph Graph;
typedef struct Val { uint32_t id; } Val;

typedef struct Type {
    DType dtype;
    int rank;          /* -1: unknown */
    Dim dim[MAX_RANK]; /* unknown sizes have id 0 */
} Type;

typedef enum AttrKind { ATTR_NONE, ATTR_INT, ATTR_FLOAT, ATTR_STRING, ATTR_INTS, ATTR_FLOATS, ATTR_STRINGS, ATTR_TENSOR, ATTR_GRAPH } AttrKind;
typedef struct Attr { /* one value of a node's attribute list, in the order of the row's schema; ATTR_NONE: absent, no default */
    AttrKind kind;
    uint32_t n;        /* INTS, FLOATS, STRINGS: how many */
    union {
        int64_t i;
        float f;
        const char *s;
        const int64_t *ints;
        const float *floats;
        const char *const *strings;
        const Tensor *tensor;
        Graph *graph;
    };
} Attr;

typedef struct Node {
    const OpDef *op;
    uint32_t in;        /* first of its nin operands in g->operand */
    uint32_t nin, nout; /* nin counts trailing absent inputs that were given */
    Val out;            /* first output; the others follow */
    const Attr *attr;   /* op->nattrs values, defaults filled in */
    const Loc *loc;     /* the ONNX node it came from: survives every rewrite */
} Node;

typedef struct Value {
    Type type;
    uint32_t def;         /* node number, or NO_NODE for inputs and constants */
    const Tensor *konst;  /* not NULL: its data is known */
    const Dim *elem;      /* not NULL: its elements (integers, at most MAX_ELEMS) as sizes, id 0 where unknown */
    uint32_t elems;
    const char *name;     /* ONNX name, for people; may be NULL */
} Value;
enum { NO_NODE = UINT32_MAX, MAX_ELEMS = 512, MAX_TRACKED = 64 };

typedef struct Module {
    Arena *mem;
    Map names;
    Dims *dim;
    Diag *diag;
    const char *name;      /* of the model, a C identifier */
    const char *folder;    /* of the model file, for external data */
} Module;

struct Graph {
    Module *module;
    Arena *mem;            /* arrays below */
    const char *name;
    VEC(Node) node;
    VEC(Value) val;        /* val.at[0] is the absent value */
    VEC(Val) operand, input, output;
    VEC(const char *) output_name;  /* beside output: two outputs may be one value */
    uint32_t *hash, hash_cap;       /* of nodes, for sharing */
    uint32_t *const_hash, const_cap, consts; /* of constants */
    int64_t made;          /* bytes of constants that arithmetic made larger than what it read */
    bool fold_edges;       /* also fold DequantizeLinear and the like of constants: only once nobody looks for the pattern any more */
    bool failed;           /* a graph_emit reported an error: later ones on values without type stay silent */
};

Graph *graph_new(Module *m, Arena *mem, const char *name);
Val graph_input(Graph *g, const char *name, Type type);
Val graph_const(Graph *g, const Tensor *t, const char *name); /* equal small tensors (<= 1 KB) are shared */
void graph_output(Graph *g, Val v, const char *name);

/* Appends (or finds, or folds) a node; yields its first output, the others follow it consecutively when the result is a node;
 * out[] receives all nout outputs when it is not NULL. attr: op->nattrs entries, or NULL for all defaults. Reports type and shape errors to the
 * module's diag and yields outputs of unknown type then. */
Val graph_emit(Graph *g, const OpDef *op, const Attr *attr, const Val *in, uint32_t nin, uint32_t nout, const Loc *loc, Val *out);
Val emit(Graph *g, const char *op, const Loc *loc, int nin, ...);    /* graph_emit of an ai.onnx operator with default attributes; Vals follow */

static inline Value *graph_val(const Graph *g, Val v) { return &g->val.at[v.id]; }
static inline const Type *val_type(const Graph *g, Val v) { return &g->val.at[v.id].type; }
static inline const Tensor *val_const(const Graph *g, Val v) { return v.id ? graph_val(g, v)->konst : NULL; } /* NULL: it is none, or absent */
static inline const Node *val_def(const Graph *g, Val v) /* that made it; NULL: an input, a constant, or absent */
{
    uint32_t def = v.id ? graph_val(g, v)->def : NO_NODE;
    return def == NO_NODE ? NULL : &g->node.at[def];
}
static inline Val node_in(const Graph *g, const Node *n, uint32_t i) { return i < n->nin ? g->operand.at[n->in + i] : (Val){0}; }
static inline Val node_out(const Node *n, uint32_t i) { return (Val){n->out.id + i}; }
uint16_t *graph_uses(const Graph *g, Arena *scratch);                /* per Val, by live nodes, saturating; an output counts as a use */

/* Copying into another graph: map[old id] is the new Val. Sizes that are computed from data keep their symbols. */
Val graph_copy_node(Graph *to, const Graph *from, uint32_t node, Val *map);

/* How a pass rebuilds (graph_rebuild.c): begin maps inputs and constants, the pass copies or replaces the live nodes in order, end
 * adds the outputs. */
Val *graph_begin(Graph *to, const Graph *from, Arena *scratch);
void graph_end(Graph *to, const Graph *from, const Val *map);
bool *graph_live(const Graph *g, Arena *scratch);                    /* per node: an output depends on it */
void graph_name(Graph *g, Val v, const char *name);                  /* names a nameless value; NULL does nothing */
/* v stands for `old` of another graph: takes over its name and its elements, and sizes that data tells stay the same sizes. */
void graph_stand_for(Graph *g, Val v, const Value *old);
/* Every element that is not a known size becomes a symbol (dim_element), read when the model runs: for values that say sizes. Does
 * nothing unless v is not constant and has at most MAX_TRACKED 32- or 64-bit integers in at most one dimension, or is an input that is
 * one bool: the condition of an If. */
void graph_track(Graph *g, Val v);

bool graph_knows(const Graph *g, uint32_t symbol);                    /* before it runs: a size of an input, or a tracked element of one */
bool graph_knows_size(const Graph *g, Dim size);                      /* all symbols of it, with what was learnt */
/* The single element of a condition as a size that is 1 or 0; id 0: not known as one. */
Dim graph_condition(const Graph *g, Val v);
/* Where v counts: 1 there; id 0: always. */
Dim graph_when(const Graph *g, Val v);

/* By name; the schema says the kinds, so a wrong name or kind is a bug (assert). */
int64_t node_int(const Node *n, const char *attr);
double node_float(const Node *n, const char *attr);
const char *node_str(const Node *n, const char *attr);                /* NULL when absent */
const int64_t *node_ints(const Node *n, const char *attr, uint32_t *count); /* NULL, 0 when absent */
const Attr *node_attr(const Node *n, const char *attr);
bool attr_equal(const Attr *a, const Attr *b);
bool node_is(const Node *n, const char *op);                          /* by name, ai.onnx or Octet's own */

/* graph_text.c, graph_verify.c */
void graph_print(const Graph *g, FILE *f);
Graph *graph_parse(Module *m, Arena *mem, const char *text);          /* NULL: reported */
bool graph_verify(const Graph *g, const char **why);                  /* every invariant of this page; false is a bug of ours */
const char *type_text(const Module *m, const Type *t, Arena *mem);    /* "f32[N,3,224,224]" */
Type type_of_tensor(Module *m, const Tensor *t);
#endif
