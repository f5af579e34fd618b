/* constant.c - a constant written in the layout of its buffer, straight to the file: row-major elements in, physical
 * order out, zeros where the layout pads. One run along the last physical axis at a time, through a small buffer. */
#include "codegen/image.h"
#include <assert.h>

typedef struct Walk {
    const Tensor *t;
    int n, bytes;
    int64_t size[MAX_PHYS], div[MAX_PHYS],
        stride[MAX_PHYS]; /* physical extents; steps of the logical index and of the source */
    int dim[MAX_PHYS];
    uint64_t count;
} Walk;

static int64_t phys_size(const LayoutAxis *a, const int64_t *dim)
{
    return a->size ? a->size : (dim[a->dim] + a->div - 1) / a->div;
}

uint64_t layout_elements(const Layout *l, int rank, const int64_t *dim)
{
    uint64_t n = 1;
    for (int p = 0; p < l->n; p++) n *= (uint64_t)phys_size(&l->axis[p], dim);
    for (int d = 0; d < rank && !l->n; d++) n *= (uint64_t)dim[d];
    return n;
}

static Walk walk_make(const Tensor *t, const Layout *l)
{
    Walk w = {.t = t, .n = l->n, .bytes = dtypes[t->type].bytes, .count = layout_elements(l, t->rank, t->dim)};
    int64_t stride[MAX_RANK + 1] = {1}, s = 1;
    for (int d = t->rank; d-- > 0; s *= t->dim[d]) stride[d] = s;
    for (int p = 0; p < l->n; p++) {
        const LayoutAxis *a = &l->axis[p];
        w.dim[p] = a->dim, w.div[p] = a->div, w.size[p] = phys_size(a, t->dim), w.stride[p] = stride[a->dim] * a->div;
    }
    return w;
}

/* Copies element by element; the width is a constant in each case so that the compiler makes plain moves of it. */
static void gather(char *to, const char *from, int bytes, int64_t n, int64_t stride)
{
    for (int64_t i = 0; i < n; i++) {
        const char *p = from + i * stride * bytes;
        char *q = to + i * bytes;
        if (bytes == 4) memcpy(q, p, 4);
        else if (bytes == 1) *q = *p;
        else memcpy(q, p, (size_t)bytes);
    }
}

/* Where the run at `index` begins and how many of its elements exist. */
static int64_t run_find(const Walk *w, const int64_t *index, int64_t *from)
{
    int64_t at[MAX_RANK] = {0}, last = w->n - 1;
    *from = 0;
    for (int p = 0; p < last; p++) {
        at[w->dim[p]] += index[p] * w->div[p];
        *from += index[p] * w->stride[p];
    }
    for (int d = 0; d < w->t->rank; d++)
        if (at[d] >= w->t->dim[d]) return 0;
    int64_t room = w->t->dim[w->dim[last]] - at[w->dim[last]], n = (room + w->div[last] - 1) / w->div[last];
    return n < w->size[last] ? n : w->size[last];
}

static bool walk_write(const Walk *w, FILE *f)
{
    enum { CHUNK = 4096 };
    char chunk[CHUNK * 16];
    int64_t index[MAX_PHYS] = {0}, last = w->n - 1;
    size_t held = 0; /* elements in the chunk */
    for (uint64_t done = 0; done < w->count; done += (uint64_t)w->size[last]) {
        int64_t from, have = run_find(w, index, &from);
        for (int64_t i = 0; i < w->size[last];) {
            int64_t n = w->size[last] - i < (int64_t)(CHUNK - held) ? w->size[last] - i : (int64_t)(CHUNK - held);
            int64_t real = have - i < 0 ? 0 : have - i < n ? have - i : n;
            char *to = chunk + held * (size_t)w->bytes;
            gather(to, (const char *)w->t->data + (from + i * w->stride[last]) * w->bytes, w->bytes, real,
                   w->stride[last]);
            memset(to + real * w->bytes, 0, (size_t)((n - real) * w->bytes));
            held += (size_t)n, i += n;
            if (held < CHUNK) continue;
            if (fwrite(chunk, (size_t)w->bytes, held, f) != held) return false;
            held = 0;
        }
        for (int p = (int)last - 1; p >= 0 && ++index[p] == w->size[p]; p--) index[p] = 0;
    }
    return fwrite(chunk, (size_t)w->bytes, held, f) == held;
}

bool constant_write(const Tensor *t, const Layout *l, FILE *f)
{
    assert(dtypes[t->type].bytes > 0 && dtypes[t->type].bytes <= 16);
    size_t bytes = tensor_bytes(t);
    if (!l->n) return bytes == 0 || fwrite(t->data, 1, bytes, f) == bytes;
    Walk w = walk_make(t, l);
    return walk_write(&w, f);
}
