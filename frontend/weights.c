/* weights.c - constant data out of protobuf messages.
 *
 * Comes in: a TensorProto, already scanned, so its parts are inside their buffers. Goes out: a Tensor whose size agrees with
 * its dims; nothing is allocated before that was checked. Raw data (little-endian, as this machine) is borrowed when it is
 * aligned and needs no change, else copied; 4- and 2-bit elements are unpacked to one a byte. */
#include "frontend/weights.h"
#include "onnx.pb-c.h"
#include <inttypes.h>

enum { EXTERNAL = 1 };
static const int64_t MAX_COUNT = (int64_t)1 << 40;

typedef struct Source {
    Weights *w;
    const Onnx__TensorProto *t;
    const Loc *loc;
    const char *what;
} Source;

static bool reserve(const Source *s, uint64_t bytes)
{
    if (bytes > s->w->left)
        return diag_error(s->w->diag, s->loc, "%s: %" PRIu64 " bytes exceed the memory allowed (--max-memory)", s->what,
                          bytes);
    s->w->left -= bytes;
    return true;
}

static bool check_shape(const Source *s, size_t rank, const int64_t *dim, int64_t *count)
{
    Diag *d = s->w->diag;
    if (rank > MAX_RANK) return diag_error(d, s->loc, "%s: rank %zu, at most %d is supported", s->what, rank, MAX_RANK);
    bool zero = false;
    for (size_t i = 0; i < rank; i++) {
        if (dim[i] < 0) return diag_error(d, s->loc, "%s: negative size %" PRId64, s->what, dim[i]);
        zero |= !dim[i];
    }
    *count = zero ? 0 : 1;
    for (size_t i = 0; i < rank && !zero; i++) {
        if (dim[i] > MAX_COUNT / *count) return diag_error(d, s->loc, "%s: too many elements", s->what);
        *count *= dim[i];
    }
    return true;
}

/* ---- raw bytes ---- */

static void unpack_bits(uint8_t *to, const uint8_t *from, int64_t n, int bits, bool sign)
{
    int per = 8 / bits, mask = (1 << bits) - 1, top = 1 << (bits - 1);
    for (int64_t i = 0; i < n; i++) {
        int v = from[i / per] >> (i % per * bits) & mask;
        to[i] = (uint8_t)(sign ? (v ^ top) - top : v);
    }
}

static bool needs_copy(DType t, const uint8_t *p, int64_t count)
{
    if ((uintptr_t)p % (uintptr_t)(dtypes[t].bytes < 8 ? dtypes[t].bytes : 8)) return true;
    if (t != DT_bool) return false;
    for (int64_t i = 0; i < count; i++)
        if (p[i] > 1) return true;
    return false;
}

static bool raw_bytes(const Source *s, Tensor *out, int64_t count, FileBytes raw)
{
    const DTypeInfo *type = &dtypes[out->type];
    uint64_t want =
        type->bits < 8 ? ((uint64_t)count * (unsigned)type->bits + 7) / 8 : (uint64_t)count * (unsigned)type->bytes;
    if (out->type == DT_str) return diag_error(s->w->diag, s->loc, "%s: strings cannot be raw data", s->what);
    if (raw.n != want)
        return diag_error(s->w->diag, s->loc, "%s: %zu bytes of data, its type and sizes need %" PRIu64, s->what, raw.n,
                          want);
    out->data = raw.at;
    if (type->bits >= 8 && !needs_copy(out->type, raw.at, count)) return true;
    size_t bytes = (size_t)count * (size_t)type->bytes;
    if (!reserve(s, bytes)) return false;
    uint8_t *p = arena_alloc(s->w->mem, bytes);
    if (type->bits < 8) unpack_bits(p, raw.at, count, type->bits, type->cls == DC_INT);
    else memcpy(p, raw.at, bytes);
    files_forget(s->w->files, raw.at, raw.n);
    for (int64_t i = 0; out->type == DT_bool && i < count; i++) p[i] = p[i] != 0;
    out->data = p;
    return true;
}

/* ---- external files ---- */

static bool parse_size(const char *text, uint64_t *v)
{
    *v = 0;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || *v > (INT64_MAX - 9) / 10) return false;
        *v = *v * 10 + (uint64_t)(*p - '0');
    }
    return *text != 0;
}

static bool external_bytes(const Source *s, FileBytes *out)
{
    const char *location = NULL, *offset = NULL, *length = NULL;
    const struct {
        const char *key;
        const char **value;
    } keys[] = {{"location", &location}, {"offset", &offset}, {"length", &length}};
    for (size_t i = 0; i < s->t->n_external_data; i++)
        for (size_t k = 0; k < COUNT_OF(keys); k++)
            if (s->t->external_data[i]->key && !strcmp(s->t->external_data[i]->key, keys[k].key))
                *keys[k].value = s->t->external_data[i]->value;
    Diag *d = s->w->diag;
    uint64_t at = 0, n = 0;
    if (!s->w->folder) return diag_error(d, s->loc, "%s: external data, but the file came without a folder", s->what);
    if (!location) return diag_error(d, s->loc, "%s: external data without a location", s->what);
    if (offset && !parse_size(offset, &at))
        return diag_error(d, s->loc, "%s: bad external data offset '%.40s'", s->what, offset);
    if (length && !parse_size(length, &n))
        return diag_error(d, s->loc, "%s: bad external data length '%.40s'", s->what, length);
    FileBytes file;
    if (!file_below(s->w->mem, s->w->files, d, s->loc, s->w->folder, location, &file)) return false;
    if (at > file.n || (length && n > file.n - at))
        return diag_error(d, s->loc, "%s: external data ends outside '%s' (%zu bytes)", s->what, location, file.n);
    *out = (FileBytes){file.at + at, length ? (size_t)n : file.n - (size_t)at};
    return true;
}

/* ---- typed fields ---- */

/* Where a type's elements are when they are not raw: which field, how many numbers an element takes. Bits under 8 come
 * packed, a byte in every int32. */
typedef enum Home { HOME_NONE, HOME_FLOAT, HOME_INT32, HOME_INT64, HOME_DOUBLE, HOME_UINT64, HOME_STRING } Home;
static const struct {
    Home home;
    int parts;
} homes[DT_COUNT] = {
    [DT_f32] = {HOME_FLOAT, 1},    [DT_c64] = {HOME_FLOAT, 2},        [DT_f64] = {HOME_DOUBLE, 1},
    [DT_c128] = {HOME_DOUBLE, 2},  [DT_i64] = {HOME_INT64, 1},        [DT_u32] = {HOME_UINT64, 1},
    [DT_u64] = {HOME_UINT64, 1},   [DT_str] = {HOME_STRING, 1},       [DT_i32] = {HOME_INT32, 1},
    [DT_i16] = {HOME_INT32, 1},    [DT_i8] = {HOME_INT32, 1},         [DT_u16] = {HOME_INT32, 1},
    [DT_u8] = {HOME_INT32, 1},     [DT_bool] = {HOME_INT32, 1},       [DT_f16] = {HOME_INT32, 1},
    [DT_bf16] = {HOME_INT32, 1},   [DT_f8e4m3fn] = {HOME_INT32, 1},   [DT_f8e4m3fnuz] = {HOME_INT32, 1},
    [DT_f8e5m2] = {HOME_INT32, 1}, [DT_f8e5m2fnuz] = {HOME_INT32, 1}, [DT_f8e8m0] = {HOME_INT32, 1},
    [DT_u4] = {HOME_INT32, 1},     [DT_i4] = {HOME_INT32, 1},         [DT_f4e2m1] = {HOME_INT32, 1},
    [DT_u2] = {HOME_INT32, 1},     [DT_i2] = {HOME_INT32, 1},
};

static size_t field_count(const Onnx__TensorProto *t, Home h)
{
    const size_t n[] = {
        0, t->n_float_data, t->n_int32_data, t->n_int64_data, t->n_double_data, t->n_uint64_data, t->n_string_data};
    return n[h];
}

static void narrow_int32(const Onnx__TensorProto *t, DType type, uint8_t *to)
{
    for (size_t i = 0; i < t->n_int32_data; i++) {
        int32_t v = type == DT_bool ? t->int32_data[i] != 0 : t->int32_data[i];
        memcpy(to + i * (size_t)dtypes[type].bytes, &v,
               (size_t)dtypes[type].bytes); /* little-endian: the low bytes come first */
    }
}

static bool fill_strings(const Source *s, const char **to)
{
    for (size_t i = 0; i < s->t->n_string_data; i++) {
        const ProtobufCBinaryData *b = &s->t->string_data[i];
        if (b->len && memchr(b->data, 0, b->len))
            return diag_error(s->w->diag, s->loc, "%s: a string with a zero byte", s->what);
        to[i] = arena_text(s->w->mem, (const char *)b->data, b->len);
    }
    return true;
}

static bool typed_values(const Source *s, Tensor *out, int64_t count)
{
    const DTypeInfo *type = &dtypes[out->type];
    Home home = homes[out->type].home;
    bool packed = type->bits < 8;
    uint64_t want =
        packed ? ((uint64_t)count * (unsigned)type->bits + 7) / 8 : (uint64_t)count * (unsigned)homes[out->type].parts;
    size_t have = field_count(s->t, home), bytes = (size_t)count * (size_t)type->bytes;
    if (have != want)
        return diag_error(s->w->diag, s->loc, "%s: %zu values, its type and sizes need %" PRIu64, s->what, have, want);
    if (!reserve(s, bytes)) return false;
    void *p = arena_alloc(s->w->mem, bytes + 1);
    out->data = p;
    if (home == HOME_STRING) return fill_strings(s, p);
    if (packed) {
        uint8_t *raw = arena_alloc(s->w->mem, have);
        narrow_int32(s->t, DT_u8, raw);
        unpack_bits(p, raw, count, type->bits, type->cls == DC_INT);
    } else if (home == HOME_INT32) {
        narrow_int32(s->t, out->type, p);
    } else if (home == HOME_UINT64 && type->bytes == 4) {
        for (int64_t i = 0; i < count; i++) ((uint32_t *)p)[i] = (uint32_t)s->t->uint64_data[i];
    } else if (have) {
        const void *const from[] = {
            NULL, s->t->float_data, NULL, s->t->int64_data, s->t->double_data, s->t->uint64_data, NULL};
        memcpy(p, from[home], bytes);
    }
    return true;
}

static size_t typed_count(const Onnx__TensorProto *t)
{
    size_t n = 0;
    for (Home h = HOME_FLOAT; h <= HOME_STRING; h++) n += field_count(t, h);
    return n;
}

static bool fill(const Source *s, Tensor *out, int64_t count)
{
    FileBytes raw;
    const Onnx__TensorProto *t = s->t;
    if (t->has_data_location && t->data_location == EXTERNAL)
        return external_bytes(s, &raw) && raw_bytes(s, out, count, raw);
    bool borrowed = t->has_raw_size;
    if (!borrowed && !t->has_raw_data) return typed_values(s, out, count);
    if (typed_count(t)) return diag_error(s->w->diag, s->loc, "%s: has both raw data and typed values", s->what);
    if (borrowed) raw = (FileBytes){s->w->model.at + t->raw_at, (size_t)t->raw_size};
    else raw = (FileBytes){arena_copy(s->w->mem, t->raw_data.data, t->raw_data.len), t->raw_data.len};
    return raw_bytes(s, out, count, raw);
}

Tensor *weights_tensor(Weights *w, const Onnx__TensorProto *t, const Loc *loc, const char *what)
{
    Source s = {w, t, loc, what};
    int64_t count;
    if (!t->has_data_type || t->data_type <= DT_NONE || t->data_type >= DT_COUNT)
        return diag_error(w->diag, loc, "%s: unknown element type %d", what, t->data_type), NULL;
    if (t->segment) return diag_error(w->diag, loc, "%s: tensors in segments are not supported", what), NULL;
    if (!check_shape(&s, t->n_dims, t->dims, &count)) return NULL;
    Tensor *out = NEW(w->mem, Tensor);
    out->type = (DType)t->data_type, out->rank = (int)t->n_dims;
    for (size_t i = 0; i < t->n_dims; i++) out->dim[i] = t->dims[i];
    return fill(&s, out, count) ? out : NULL;
}

/* ---- sparse ---- */

static bool scatter(const Source *s, Tensor *out, const Tensor *values, const Tensor *indices, int64_t count)
{
    int64_t n = values->dim[0], last = -1, size = dtypes[out->type].bytes;
    const int64_t *index = indices->data;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = 0;
        if (indices->rank == 1) at = index[i];
        for (int k = 0; indices->rank == 2 && k < out->rank; k++) {
            int64_t v = index[i * out->rank + k];
            if (v < 0 || v >= out->dim[k])
                return diag_error(s->w->diag, s->loc, "%s: sparse index %" PRId64 " out of range", s->what, v);
            at = at * out->dim[k] + v;
        }
        if (at <= last || at >= count)
            return diag_error(s->w->diag, s->loc, "%s: sparse indices must rise and stay below %" PRId64, s->what,
                              count);
        memcpy((uint8_t *)out->data + at * size, (const uint8_t *)values->data + i * size, (size_t)size);
        last = at;
    }
    return true;
}

Tensor *weights_sparse(Weights *w, const Onnx__SparseTensorProto *t, const Loc *loc, const char *what)
{
    Source s = {w, NULL, loc, what};
    int64_t count;
    if (!t->values || !t->indices)
        return diag_error(w->diag, loc, "%s: sparse tensor without values or indices", what), NULL;
    if (!check_shape(&s, t->n_dims, t->dims, &count)) return NULL;
    Tensor *values = weights_tensor(w, t->values, loc, what), *indices = weights_tensor(w, t->indices, loc, what);
    if (!values || !indices) return NULL;
    bool shaped = values->rank == 1 && values->type != DT_str && indices->type == DT_i64 && indices->rank >= 1 &&
                  indices->rank <= 2 && indices->dim[0] == values->dim[0] &&
                  (indices->rank == 1 || indices->dim[1] == (int64_t)t->n_dims);
    if (!shaped) return diag_error(w->diag, loc, "%s: sparse values and indices do not fit together", what), NULL;
    if (!reserve(&s, (uint64_t)count * (unsigned)dtypes[values->type].bytes)) return NULL;
    Tensor *out = tensor_new(w->mem, values->type, (int)t->n_dims, t->dims);
    return scatter(&s, out, values, indices, count) ? out : NULL;
}
