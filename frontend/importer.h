/* importer.h - what the files of the importer share: the model being imported and the scopes of its names. */
#ifndef OCTET_IMPORTER_H
#define OCTET_IMPORTER_H
#include "frontend/import.h"
#include "frontend/upgrade.h"
#include "frontend/weights.h"
#include "onnx.pb-c.h"

/* IR 14 is what files of opset 28 say; its 6-bit floats and opaque types are refused where they are used. */
enum { OPSET_OLDEST = 1, OPSET_NEWEST = 28, IR_OLDEST = 3, IR_NEWEST = 14, MICROSOFT_OPSET = 1 };
enum { MAX_CALLS = 32, MAX_NODES = 1 << 20 }; /* functions inside functions; nodes after inlining */
enum { BLOCKED_NAMES = 4 };

/* Names of one graph or function body; a name not found is looked up outside. */
typedef struct Scope {
    struct Scope *outer; /* NULL: the model's graph, or a function, which sees nothing outside */
    Map name;            /* to Val.id */
    Map absent;          /* inputs of a function that its caller left out */
    const Opsets *opset;
    const CallAttr *attr; /* a function's attributes, for ref_attr_name */
    uint32_t attrs;
    int calls;          /* functions this one is inside of */
    const char *prefix; /* of node names: "" or "caller/" */
    Dim when;           /* its nodes count only where this is 1, the branches of an If; id 0: always */
} Scope;

/* An operator that cannot be compiled, with the nodes that use it. */
typedef struct Blocked {
    const char *op, *why;
    Loc loc;
    uint32_t n;
    const char *more[BLOCKED_NAMES];
} Blocked;

typedef struct Import {
    Module *m;
    Graph *g;
    Arena *mem, *scratch; /* the graph's; dropped after the import */
    Diag *diag;
    Weights weights;
    const Onnx__ModelProto *model;
    Opsets opset;
    Map taken;      /* names of values, with the last number that told one from others */
    Map read;       /* names that some node or output reads */
    Map function;   /* "domain:name:overload" to index + 1 */
    Map blocked_at; /* "domain:name" to index + 1 */
    VEC(Blocked) blocked;
    uint32_t nodes;
} Import;

/* AttributeProto.AttributeType */
enum {
    PB_UNDEFINED,
    PB_FLOAT,
    PB_INT,
    PB_STRING,
    PB_TENSOR,
    PB_GRAPH,
    PB_FLOATS,
    PB_INTS,
    PB_STRINGS,
    PB_TENSORS,
    PB_GRAPHS,
    PB_SPARSE
};

/* attrs.c */
bool read_attr(Import *im, const Scope *s, const Onnx__AttributeProto *a, const Loc *loc, CallAttr *out, bool *absent);
const char *copy_name(Import *im, const char *s); /* interned; "" for NULL */

/* nodes.c */
bool opsets_read(Import *im, Onnx__OperatorSetIdProto *const *set, size_t n, const Loc *loc, Opsets *out);
void functions_index(Import *im);
bool scope_bind(Import *im, Scope *s, const char *name, Val v,
                const Loc *loc);                                       /* false: there is one already, reported */
Val scope_find(const Scope *s, const char *name);                      /* id 0: no such name */
void body_import(Import *im, Scope *s, const Onnx__GraphProto *graph); /* initializers and nodes */
void blocked_report(Import *im);
bool op_supported(const Import *im, const char *domain,
                  const char *op);                   /* by a row, by the importer itself, or by a function */
Val value_placeholder(Import *im, const char *name); /* stands for what could not be made; the graph has failed */
static inline const char *text_of(const char *s) { return s ? s : ""; }
const char *domain_of(const char *domain); /* "" for ai.onnx */
#endif
