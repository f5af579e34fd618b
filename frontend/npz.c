/* npz.c - NumPy's array files, read with every size checked against the bytes there are, written reproducibly.
 *
 * An .npy is a magic, a version, a header that is a Python dictionary literal with exactly the keys descr, fortran_order and
 * shape, then the elements. An .npz is a zip of them; libzip unpacks. */
#include "frontend/npz.h"
#include "frontend/file.h"
#include <inttypes.h>
#include <zip.h>

static const unsigned char magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
static const uint64_t MAX_BYTES = (uint64_t)8 << 30;
enum { HEADER_ALIGN = 64, MAX_HEADER = 1 << 16 };

/* NumPy's letters. bfloat16 has none: NumPy writes two raw bytes. */
static const struct {
    const char *letter;
    DType type;
} letters[] = {{"f4", DT_f32}, {"f2", DT_f16},  {"f8", DT_f64},  {"i1", DT_i8},  {"i2", DT_i16},
               {"i4", DT_i32}, {"i8", DT_i64},  {"u1", DT_u8},   {"u2", DT_u16}, {"u4", DT_u32},
               {"u8", DT_u64}, {"b1", DT_bool}, {"V2", DT_bf16}, {"c8", DT_c64}, {"c16", DT_c128}};

typedef struct Header {
    DType type;
    bool big, fortran;
    int rank;
    int64_t dim[MAX_RANK];
} Header;
typedef struct Reader {
    Diag *diag;
    const char *name, *p, *end;
} Reader;

static bool fail(const Reader *r, const char *what) { return diag_error(r->diag, NULL, "%s: %s", r->name, what); }

/* ---- the header's dictionary ---- */

static void skip_space(Reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t')) r->p++;
}

static bool accept(Reader *r, const char *text)
{
    size_t n = strlen(text);
    skip_space(r);
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, text, n)) return false;
    r->p += n;
    return true;
}

static bool read_quoted(Reader *r, char *to, size_t size)
{
    skip_space(r);
    if (r->p == r->end || (*r->p != '\'' && *r->p != '"')) return false;
    char quote = *r->p++;
    size_t n = 0;
    while (r->p < r->end && *r->p != quote && n + 1 < size) to[n++] = *r->p++;
    to[n] = 0;
    return r->p < r->end && *r->p++ == quote;
}

static bool read_descr(Reader *r, Header *h)
{
    char text[32];
    if (!read_quoted(r, text, sizeof text)) return fail(r, "structured arrays are not supported");
    const char *letter = strchr("<>|=", *text) && *text ? text + 1 : text;
    h->big = *text == '>';
    for (size_t i = 0; i < COUNT_OF(letters); i++)
        if (!strcmp(letters[i].letter, letter)) return h->type = letters[i].type, true;
    return diag_error(r->diag, NULL, "%s: element type '%s' is not supported", r->name, text);
}

static bool read_size(Reader *r, int64_t *v)
{
    skip_space(r);
    const char *start = r->p;
    for (*v = 0; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++) {
        if (*v > (INT64_MAX - 9) / 10) return false;
        *v = *v * 10 + (*r->p - '0');
    }
    return r->p > start;
}

static bool read_shape(Reader *r, Header *h)
{
    if (!accept(r, "(")) return fail(r, "bad shape");
    while (!accept(r, ")")) {
        if (h->rank == MAX_RANK) return fail(r, "more than 8 dimensions");
        if (!read_size(r, &h->dim[h->rank++])) return fail(r, "bad shape");
        if (!accept(r, ",") && (r->p == r->end || *r->p != ')')) return fail(r, "bad shape");
    }
    return true;
}

static bool read_header(Reader *r, Header *h)
{
    unsigned seen = 0;
    char key[32];
    if (!accept(r, "{")) return fail(r, "bad header");
    while (!accept(r, "}")) {
        if (!read_quoted(r, key, sizeof key) || !accept(r, ":")) return fail(r, "bad header");
        if (!strcmp(key, "descr")) {
            if (!read_descr(r, h)) return false;
            seen |= 1;
        } else if (!strcmp(key, "fortran_order")) {
            h->fortran = accept(r, "True");
            if (!h->fortran && !accept(r, "False")) return fail(r, "bad header");
            seen |= 2;
        } else if (!strcmp(key, "shape")) {
            h->rank = 0;
            if (!read_shape(r, h)) return false;
            seen |= 4;
        } else {
            return fail(r, "bad header");
        }
        accept(r, ",");
    }
    return seen == 7 || fail(r, "bad header");
}

/* ---- the elements ---- */

static bool count_elements(const Reader *r, const Header *h, size_t have, int64_t *count)
{
    uint64_t size = (uint64_t)dtypes[h->type].bytes, n = 1;
    for (int i = 0; i < h->rank; i++) {
        if (h->dim[i] && n > MAX_BYTES / size / (uint64_t)h->dim[i]) return fail(r, "the array is too large");
        n *= (uint64_t)h->dim[i];
    }
    *count = (int64_t)n;
    return n * size == have ||
           diag_error(r->diag, NULL, "%s: %zu bytes of data, its shape needs %" PRIu64, r->name, have, n * size);
}

static void swap_bytes(uint8_t *p, int64_t n, size_t size)
{
    for (int64_t i = 0; i < n; i++, p += size)
        for (size_t k = 0; k < size / 2; k++) {
            uint8_t x = p[k];
            p[k] = p[size - 1 - k], p[size - 1 - k] = x;
        }
}

/* Element by element: the first index runs fastest in the file, the last in the result. */
static void from_fortran(const Header *h, uint8_t *to, const uint8_t *from, int64_t count)
{
    size_t size = (size_t)dtypes[h->type].bytes;
    int64_t index[MAX_RANK] = {0};
    for (int64_t i = 0; i < count; i++) {
        int64_t at = 0;
        for (int k = 0; k < h->rank; k++) at = at * h->dim[k] + index[k];
        memcpy(to + (size_t)at * size, from + (size_t)i * size, size);
        for (int k = 0; k < h->rank && ++index[k] == h->dim[k]; k++) index[k] = 0;
    }
}

/* borrow: the elements stay where they are, if they can */
static const Tensor *parse_npy(Arena *mem, Diag *d, const char *name, const uint8_t *p, size_t n, bool borrow)
{
    Reader r = {d, name, NULL, NULL};
    Header h = {0};
    int64_t count = 0;
    if (n < 10 || memcmp(p, magic, sizeof magic)) return fail(&r, "not an .npy array"), NULL;
    size_t at = p[6] == 1 ? 10 : 12, size = p[8] | (size_t)p[9] << 8;
    if (p[6] < 1 || p[6] > 3 || n < at) return fail(&r, "unknown .npy version"), NULL;
    if (p[6] > 1) size |= (size_t)p[10] << 16 | (size_t)p[11] << 24;
    if (size > n - at || size > MAX_HEADER) return fail(&r, "truncated"), NULL;
    r.p = (const char *)p + at, r.end = r.p + size;
    if (!read_header(&r, &h) || !count_elements(&r, &h, n - at - size, &count)) return NULL;
    bool swapped = h.big && dtypes[h.type].bytes > 1, turned = h.fortran && h.rank > 1;
    bool aligned = ((uintptr_t)(p + at + size) & (HEADER_ALIGN - 1)) == 0;
    if (borrow && aligned && !swapped && !turned && h.type != DT_bool) {
        Tensor *t = NEW(mem, Tensor);
        *t = (Tensor){.type = h.type, .rank = h.rank, .data = p + at + size};
        memcpy(t->dim, h.dim, sizeof h.dim);
        return t;
    }
    Tensor *t = tensor_new(mem, h.type, h.rank, h.dim);
    uint8_t *to = (uint8_t *)t->data;
    if (turned) from_fortran(&h, to, p + at + size, count);
    else if (count) memcpy(to, p + at + size, n - at - size);
    bool complex = h.type == DT_c64 || h.type == DT_c128;
    size_t bytes = (size_t)dtypes[h.type].bytes;
    if (h.big) swap_bytes(to, complex ? count * 2 : count, complex ? bytes / 2 : bytes);
    for (int64_t i = 0; h.type == DT_bool && i < count; i++) to[i] = to[i] != 0;
    return t;
}

const Tensor *npy_read(Arena *mem, Diag *diag, const char *path)
{
    FileBytes f;
    return file_bytes(mem, NULL, diag, path, &f) ? parse_npy(mem, diag, path, f.at, f.n, false) : NULL;
}

const Tensor *npy_map(Arena *mem, Files *files, Diag *diag, const char *path)
{
    FileBytes f;
    return file_bytes(mem, files, diag, path, &f) ? parse_npy(mem, diag, path, f.at, f.n, true) : NULL;
}

/* ---- zip ---- */

static bool read_entry(Arena *mem, Diag *d, const char *path, zip_t *z, zip_uint64_t i, NamedTensors *out)
{
    zip_stat_t st;
    if (zip_stat_index(z, i, 0, &st) || !(st.valid & ZIP_STAT_NAME) || !(st.valid & ZIP_STAT_SIZE))
        return diag_error(d, NULL, "%s: entry %" PRIu64 " is damaged", path, (uint64_t)i);
    const char *label = arena_printf(mem, "%s:%s", path, st.name);
    if (st.size > MAX_BYTES) return diag_error(d, NULL, "%s: the array is too large", label);
    /* Deflate makes at most about 1,032 bytes out of one: what claims more is not worth its memory. */
    if (st.comp_method != ZIP_CM_STORE && (!(st.valid & ZIP_STAT_COMP_SIZE) || st.size / 1100 > st.comp_size))
        return diag_error(d, NULL, "%s: implausible size", label);
    zip_file_t *f = zip_fopen_index(z, i, 0);
    uint8_t *bytes = f ? arena_alloc(mem, st.size) : NULL;
    bool ok = f && zip_fread(f, bytes, st.size) == (zip_int64_t)st.size;
    if (f) ok = !zip_fclose(f) && ok;
    if (!ok) return diag_error(d, NULL, "%s: cannot be unpacked", label);
    const Tensor *t = parse_npy(mem, d, label, bytes, st.size, false);
    size_t n = strlen(st.name);
    if (n > 4 && !strcmp(st.name + n - 4, ".npy")) n -= 4;
    if (t) vec_push(mem, out, (NamedTensor){arena_text(mem, st.name, n), t});
    return t != NULL;
}

bool npz_read(Arena *mem, Diag *diag, const char *path, NamedTensors *out)
{
    FileBytes f;
    return file_bytes(mem, NULL, diag, path, &f) && npz_parse(mem, diag, path, f, out);
}

bool npz_parse(Arena *mem, Diag *diag, const char *path, FileBytes f, NamedTensors *out)
{
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *source = zip_source_buffer_create(f.at, f.n, 0, &error);
    zip_t *z = source ? zip_open_from_source(source, ZIP_RDONLY, &error) : NULL;
    if (!z) {
        diag_error(diag, NULL, "%s: not an .npz file (%s)", path, zip_error_strerror(&error));
        if (source) zip_source_free(source);
        zip_error_fini(&error);
        return false;
    }
    bool ok = true;
    for (zip_int64_t i = 0, n = zip_get_num_entries(z, 0); ok && i < n; i++)
        ok = read_entry(mem, diag, path, z, (zip_uint64_t)i, out);
    zip_discard(z);
    zip_error_fini(&error);
    return ok;
}

const NamedTensor *npz_find(const NamedTensors *t, const char *name)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (!strcmp(t->at[i].name, name)) return &t->at[i];
    return NULL;
}

/* ---- writing ---- */

static const char *letter_of(DType t)
{
    for (size_t i = 0; i < COUNT_OF(letters); i++)
        if (letters[i].type == t) return letters[i].letter;
    return dtypes[t].bytes == 1 ? dtypes[t].cls == DC_INT ? "i1" : "u1"
                                : NULL; /* 8-, 4- and 2-bit types: their bytes */
}

static const uint8_t *npy_bytes(Arena *mem, Diag *d, const NamedTensor *t, size_t *size)
{
    const char *letter = letter_of(t->tensor->type), *shape = "";
    if (!letter)
        return diag_error(d, NULL, "output '%s': type %s has no place in an .npz", t->name,
                          dtypes[t->tensor->type].name),
               NULL;
    for (int i = 0; i < t->tensor->rank; i++)
        shape = arena_printf(mem, "%s%" PRId64 "%s", shape, t->tensor->dim[i],
                             t->tensor->rank == 1      ? ","
                             : i + 1 < t->tensor->rank ? ", "
                                                       : "");
    char order = dtypes[t->tensor->type].bytes == 1 ? '|' : '<';
    const char *head =
        arena_printf(mem, "{'descr': '%c%s', 'fortran_order': False, 'shape': (%s), }", order, letter, shape);
    size_t used = strlen(head), padded = (10 + used + 1 + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN,
           bytes = tensor_bytes(t->tensor);
    uint8_t *p = arena_alloc(mem, padded + bytes);
    memcpy(p, magic, sizeof magic);
    p[6] = 1, p[8] = (uint8_t)(padded - 10), p[9] = (uint8_t)((padded - 10) >> 8);
    memset(p + 10, ' ', padded - 10);
    memcpy(p + 10, head, used);
    p[padded - 1] = '\n';
    if (bytes) memcpy(p + padded, t->tensor->data, bytes);
    *size = padded + bytes;
    return p;
}

static bool add_entry(Arena *mem, Diag *d, zip_t *z, const NamedTensor *t)
{
    size_t n;
    const uint8_t *bytes = npy_bytes(mem, d, t, &n);
    zip_source_t *source = bytes ? zip_source_buffer(z, bytes, n, 0) : NULL;
    if (!bytes) return false;
    zip_int64_t at = source ? zip_file_add(z, arena_printf(mem, "%s.npy", t->name), source, ZIP_FL_ENC_UTF_8) : -1;
    if (at < 0 && source) zip_source_free(source);
    /* Stored, at zip's first moment: the same arrays give the same bytes. */
    bool ok = at >= 0 && !zip_set_file_compression(z, (zip_uint64_t)at, ZIP_CM_STORE, 0) &&
              !zip_file_set_dostime(z, (zip_uint64_t)at, 0, 0x21, 0);
    return ok || diag_error(d, NULL, "cannot pack '%s': %s", t->name, zip_strerror(z));
}

static bool copy_out(Arena *mem, Diag *d, const char *path, zip_source_t *source)
{
    zip_stat_t st;
    if (zip_source_stat(source, &st) || zip_source_open(source)) return diag_error(d, NULL, "cannot write %s", path);
    uint8_t *bytes = arena_alloc(mem, st.size);
    bool ok = zip_source_read(source, bytes, st.size) == (zip_int64_t)st.size;
    zip_source_close(source);
    return ok ? file_write(mem, d, path, bytes, st.size) : diag_error(d, NULL, "cannot write %s", path);
}

bool npz_write(Diag *diag, const char *path, const NamedTensors *in)
{
    Arena mem = {0};
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *source = zip_source_buffer_create(NULL, 0, 0, &error);
    zip_t *z = source ? zip_open_from_source(source, ZIP_TRUNCATE, &error) : NULL;
    bool ok = z != NULL || diag_error(diag, NULL, "cannot write %s", path);
    if (z) zip_source_keep(source); /* closing the archive drops one reference; its bytes are read after that */
    for (uint32_t i = 0; ok && i < in->n; i++) ok = add_entry(&mem, diag, z, &in->at[i]);
    if (ok && zip_close(z))
        ok = diag_error(diag, NULL, "cannot write %s: %s", path, zip_strerror(z)), z && (zip_discard(z), 0);
    else if (!ok && z) zip_discard(z);
    ok = ok && copy_out(&mem, diag, path, source);
    if (source) zip_source_free(source);
    zip_error_fini(&error);
    arena_drop(&mem);
    return ok;
}
