/* import.h - ONNX bytes in, a Graph out, every problem of the model reported at once with node names.
 *
 * Steps: scan (iterative; bounds depth, counts, sizes before anything is allocated for them), parse (protobuf-c into an
 * arena), upgrade (frontend/upgrade.c: one form per operator), import (graph_emit in order; model-local functions inlined,
 * If with a known condition replaced by its branch). Weights are borrowed from the mapped file where the encoding allows it. */
#ifndef OCTET_IMPORT_H
#define OCTET_IMPORT_H
#include "frontend/file.h"
#include "ir/op.h"

typedef struct DimValue {
    const char *name;
    int64_t value;
} DimValue;
typedef struct Frozen {
    const char *name, *text;
} Frozen; /* --freeze NAME=TEXT: a number, FILE.npy or FILE.pb */
typedef struct Opset {
    const char *domain; /* "": ai.onnx */
    int version;
} Opset;
typedef struct Opsets {
    VEC(Opset) at;
} Opsets;

typedef struct Metadata {
    const char *key, *value;
} Metadata;

/* What a model says of itself beside its graph: what is written again when the graph becomes a model (export.h). */
typedef struct Origin {
    int64_t ir_version, model_version;
    const char *graph, *domain, *doc, *graph_doc; /* "": none */
    Opsets opset;
    VEC(Metadata) metadata;
} Origin;

typedef struct ImportOptions {
    uint64_t max_memory; /* bytes the import may use; 0: 8 GiB */
    const DimValue *dim; /* --dim NAME=VALUE */
    uint32_t dims;
    const Frozen *frozen; /* inputs that become constants */
    uint32_t frozens;
    Origin *origin; /* filled when it is not NULL */
    Files *files; /* keeps the mapped files; the caller drops it after the Module. NULL: files are read into mem */
} ImportOptions;
Module *module_new(Arena *mem, Diag *diag, const char *path);                        /* name and folder from the path */
Graph *import_file(Module *m, Arena *mem, const char *path, const ImportOptions *o); /* NULL: reported in m->diag */
/* A TensorProto file (the official tests' .pb). NULL: reported. *name: its name, may be "". */
Tensor *import_tensor(Arena *mem, Diag *diag, const char *path, const char **name);

/* What is in a model, whether or not it can be compiled: for `octet inspect`. */
typedef struct OpCount {
    const char *domain, *name;
    uint32_t n;
    bool supported;
} OpCount;
typedef struct ModelFacts {
    int64_t ir_version, opset;
    const char *producer;
    VEC(OpCount) op; /* by name, subgraphs and functions included */
    uint32_t nodes, initializers, functions;
    uint64_t weight_bytes,
        float_bytes; /* all initializers; those of float32 with two or more dims: what int8 makes 4x smaller */
} ModelFacts;
bool import_facts(Module *m, Arena *mem, const char *path, const ImportOptions *o, ModelFacts *facts);
#endif
