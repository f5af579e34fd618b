/* weights.h - TensorProto to Tensor: every encoding ONNX has for constant data, checked. */
#ifndef OCTET_WEIGHTS_H
#define OCTET_WEIGHTS_H
#include "frontend/file.h"
#include "ir/tensor.h"

typedef struct Onnx__TensorProto Onnx__TensorProto;
typedef struct Onnx__SparseTensorProto Onnx__SparseTensorProto;

typedef struct Weights {
    Arena *mem;
    Diag *diag;
    Files *files;
    FileBytes model;    /* the model's own bytes: large raw_data is borrowed from here */
    const char *folder; /* of external data; NULL: there may be none */
    uint64_t left;      /* bytes that may still be taken */
} Weights;

/* NULL: reported as belonging to `what` ("initializer 'w'", "attribute 'value'"). */
Tensor *weights_tensor(Weights *w, const Onnx__TensorProto *t, const Loc *loc, const char *what);
Tensor *weights_sparse(Weights *w, const Onnx__SparseTensorProto *t, const Loc *loc, const char *what);
#endif
