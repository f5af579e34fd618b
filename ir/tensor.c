/* tensor.c - constant data. */
#include "ir/tensor.h"
#include <assert.h>

int64_t tensor_count(const Tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

/* Most are of float32. */
double tensor_element(const Tensor *t, int64_t i)
{
    return t->type == DT_f32 ? (double)((const float *)t->data)[i] : dtype_load(t->type, t->data, i);
}

size_t tensor_bytes(const Tensor *t) { return (size_t)tensor_count(t) * (size_t)dtypes[t->type].bytes; }

Tensor *tensor_new(Arena *a, DType type, int rank, const int64_t *dim)
{
    assert(rank >= 0 && rank <= MAX_RANK);
    Tensor *t = NEW(a, Tensor);
    t->type = type, t->rank = rank;
    for (int i = 0; i < rank; i++) t->dim[i] = dim[i];
    t->data = arena_alloc(a, tensor_bytes(t));
    return t;
}

Tensor *tensor_copy(Arena *a, const Tensor *t)
{
    Tensor *copy = arena_copy(a, t, sizeof *t);
    copy->data = arena_copy(a, t->data, tensor_bytes(t));
    return copy;
}

Tensor *tensor_scalar(Arena *a, DType type, double v)
{
    Tensor *t = tensor_new(a, type, 0, NULL);
    dtype_store(type, (void *)t->data, 0, v);
    return t;
}

Tensor *tensor_ints(Arena *a, const int64_t *v, int64_t n)
{
    Tensor *t = tensor_new(a, DT_i64, 1, &n);
    if (n) memcpy((void *)t->data, v, (size_t)n * sizeof *v);
    return t;
}

static bool strings_equal(const char *const *a, const char *const *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (strcmp(a[i], b[i])) return false;
    return true;
}

Tensor *tensor_made_up(Arena *a, DType type, int rank, const int64_t *dim, uint32_t seed)
{
    Tensor *t = tensor_new(a, type, rank, dim);
    seed = seed * 2654435769u + 1;
    for (int64_t i = 0, n = tensor_count(t); i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        if (dtype_is_float(type)) dtype_store(type, (void *)t->data, i, (double)(seed >> 8) / (1 << 23) - 1);
        else if (dtypes[type].cls != DC_OTHER) dtype_store_int(type, (void *)t->data, i, seed >> 31);
    }
    return t;
}

bool tensor_alike(const Tensor *a, const Tensor *b)
{
    bool alike = a->type == b->type && a->rank == b->rank;
    for (int d = 0; alike && d < a->rank; d++) alike = a->dim[d] == b->dim[d];
    return alike;
}

bool tensor_equal(const Tensor *a, const Tensor *b)
{
    if (!tensor_alike(a, b)) return false;
    if (a->data == b->data || !tensor_count(a)) return true;
    if (a->type == DT_str) return strings_equal(a->data, b->data, tensor_count(a));
    return !memcmp(a->data, b->data, tensor_bytes(a));
}

/* dtype_load_int(); weights in 8 bits are many. */
static inline int64_t integer_at(const Tensor *t, int64_t i)
{
    if (t->type == DT_i8) return ((const int8_t *)t->data)[i];
    return dtype_load_int(t->type, t->data, i);
}

/* One run along the last axis at a time. */
Tensor *tensor_sums(Arena *a, const Tensor *t, unsigned axes, bool keep)
{
    int64_t dim[MAX_RANK] = {0}, step[MAX_RANK] = {0}, at[MAX_RANK] = {0}, stride = 1, n = tensor_count(t), to = 0;
    int rank = 0, last = t->rank - 1;
    for (int d = 0; d < t->rank; d++)
        if (keep || !(axes >> d & 1)) dim[rank++] = axes >> d & 1 ? 1 : t->dim[d];
    for (int d = t->rank; d-- > 0;)
        if (!(axes >> d & 1)) step[d] = stride, stride *= t->dim[d];
    Tensor *sum = tensor_new(a, DT_i32, rank, dim);
    uint32_t *out = (uint32_t *)(uintptr_t)sum->data; /* sums that are too large wrap around, as those of ReduceSum */
    for (int64_t from = 0, run = t->rank ? t->dim[last] : 1; from < n; from += run) {
        for (int64_t i = 0; i < run; i++) out[to + (t->rank ? i * step[last] : 0)] += (uint32_t)integer_at(t, from + i);
        for (int d = last - 1; d >= 0; d--) {
            to += step[d];
            if (++at[d] < t->dim[d]) break;
            to -= step[d] * t->dim[d], at[d] = 0;
        }
    }
    return sum;
}

int64_t tensor_largest_sum(const Tensor *t, int axis)
{
    int64_t inner = 1, n = tensor_count(t), most = 0, count = axis < 0 ? 1 : t->dim[axis];
    for (int d = axis < 0 ? t->rank : axis + 1; d < t->rank; d++) inner *= t->dim[d];
    if (axis < 0) inner = n;
    for (int64_t c = 0; n && c < count; c++) {
        int64_t sum = 0;
        for (int64_t at = c * inner; at < n; at += count * inner)
            for (int64_t i = 0; i < inner; i++) {
                int64_t v = integer_at(t, at + i);
                sum += v < 0 ? -v : v;
            }
        if (sum > most) most = sum;
    }
    return most;
}
