/* dtype.h - element types; the table is dtype.def. */
#ifndef OCTET_DTYPE_H
#define OCTET_DTYPE_H
#include <stdbool.h>
#include <stdint.h>

typedef enum DType {
    DT_NONE,
#define DTYPE(name, onnx, bytes, bits, cls, c, numpy, ort) DT_##name = onnx,
#include "ir/dtype.def"
#undef DTYPE
    DT_COUNT
} DType; /* the values are ONNX's TensorProto.DataType */

typedef enum DClass { DC_NONE, DC_FLOAT, DC_INT, DC_UINT, DC_BOOL, DC_OTHER } DClass;

typedef struct DTypeInfo {
    const char *name, *c, *numpy, *ort;
    int bytes, bits;
    DClass cls;
} DTypeInfo;
extern const DTypeInfo dtypes[DT_COUNT]; /* dtypes[DT_NONE].name is "none" */

DType dtype_find(const char *name, int len);          /* by our name, len characters; DT_NONE when there is none */
static inline bool dtype_is_float(DType t) { return dtypes[t].cls == DC_FLOAT; }
static inline bool dtype_is_int(DType t) { return dtypes[t].cls == DC_INT || dtypes[t].cls == DC_UINT; }
/* The type arithmetic is done in: f64 for f64, f32 for narrower floats, the type itself otherwise. */
DType dtype_compute(DType t);
int64_t dtype_min(DType t), dtype_max(DType t);       /* of INT, UINT (u64 max is clamped to INT64_MAX) and BOOL types */
/* Element i of an array of type t as a number, and back: rounded to nearest even, also to integers (Cast's truncation is the
 * caller's), f8e8m0 up; floats of 8 bits and fewer saturate as ONNX's Cast does, wider ones become infinite; integers wrap.
 * load of an integer type is exact through dtype_load_int. */
double dtype_load(DType t, const void *p, int64_t i);
void dtype_store(DType t, void *p, int64_t i, double v);
int64_t dtype_load_int(DType t, const void *p, int64_t i);
void dtype_store_int(DType t, void *p, int64_t i, int64_t v);
#endif
