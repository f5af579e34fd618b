/* tensor.h - constant data: element type, dims, bytes. Row-major, dense. Data is owned by an arena or borrowed from a mapped
 * file that lives as long as the Module; nobody writes to a Tensor that has been handed out. */
#ifndef OCTET_TENSOR_H
#define OCTET_TENSOR_H
#include "ir/base/arena.h"
#include "ir/dtype.h"

enum { MAX_RANK = 8 };

typedef struct Tensor {
    DType type;
    int rank;
    int64_t dim[MAX_RANK];
    const void *data; /* tensor_count() elements; NULL only when there are none */
} Tensor;

int64_t tensor_count(const Tensor *t);                                    /* product of the dims; 1 for a scalar */
double tensor_element(const Tensor *t, int64_t i); /* of any type that dtype_load() reads */
size_t tensor_bytes(const Tensor *t);
Tensor *tensor_new(Arena *a, DType type, int rank, const int64_t *dim);   /* zeroed, writable through (void *)t->data until handed out */
Tensor *tensor_copy(Arena *a, const Tensor *t);
Tensor *tensor_scalar(Arena *a, DType type, double v);
Tensor *tensor_ints(Arena *a, const int64_t *v, int64_t n);               /* 1-D i64 */
/* Random: in [-1, 1), or 0 and 1; the same for the same seed. */
Tensor *tensor_made_up(Arena *a, DType type, int rank, const int64_t *dim, uint32_t seed);
int64_t tensor_largest_sum(const Tensor *t, int axis);                    /* of absolute integers over all axes but this one (-1: over all) */
Tensor *tensor_sums(Arena *a, const Tensor *t, unsigned axes, bool keep);  /* of integers over a set of axes (bits), as i32; keep: as sizes of 1 */
bool tensor_alike(const Tensor *a, const Tensor *b);                      /* same type and dims */
bool tensor_equal(const Tensor *a, const Tensor *b);                      /* same type, dims and bytes */
#endif
