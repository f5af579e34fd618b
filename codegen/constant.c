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

/* ---- runs into the file ---- */
enum { CHUNK = 4096 };
typedef struct Sink {
    FILE *f;
    int bytes;   /* of an element */
    size_t held; /* elements in the chunk */
    char chunk[CHUNK * 16];
} Sink;

static bool sink_flush(Sink *s)
{
    size_t n = s->held;
    s->held = 0;
    return fwrite(s->chunk, (size_t)s->bytes, n, s->f) == n;
}

/* n elements, the first `real` from `from` on, `stride` apart, and zeros. */
static bool sink_run(Sink *s, const char *from, int64_t real, int64_t n, int64_t stride)
{
    while (n) {
        int64_t room = CHUNK - (int64_t)s->held, some = n < room ? n : room, copied = real < some ? real : some;
        char *to = s->chunk + s->held * (size_t)s->bytes;
        gather(to, from, s->bytes, copied, stride);
        if (copied < some) memset(to + copied * s->bytes, 0, (size_t)((some - copied) * s->bytes));
        s->held += (size_t)some, n -= some, real -= copied, from += some * stride * s->bytes;
        if (s->held == CHUNK && !sink_flush(s)) return false;
    }
    return true;
}

/* Do all elements of the runs along the last two physical axes exist? */
static bool block_exists(const Walk *w, int64_t *index)
{
    int64_t last = w->n - 1, from;
    index[last - 1] = w->size[last - 1] - 1;
    bool whole = run_find(w, index, &from) == w->size[last];
    index[last - 1] = 0;
    return whole;
}

/* Runs are short: where a block of them exists, they are not looked for one by one. */
static bool walk_write(const Walk *w, Sink *s)
{
    int64_t index[MAX_PHYS] = {0}, last = w->n - 1, size = w->size[last], runs = last ? w->size[last - 1] : 1, from;
    for (uint64_t done = 0; done < w->count; done += (uint64_t)(runs * size)) {
        bool whole = last && block_exists(w, index);
        int64_t have = run_find(w, index, &from);
        for (int64_t r = 0; r < runs; r++) {
            if (r && whole) from += w->stride[last - 1];
            else if (r) index[last - 1] = r, have = run_find(w, index, &from);
            if (!sink_run(s, (const char *)w->t->data + from * w->bytes, have, size, w->stride[last])) return false;
        }
        if (last) index[last - 1] = 0;
        for (int p = (int)last - 2; p >= 0 && ++index[p] == w->size[p]; p--) index[p] = 0;
    }
    return sink_flush(s);
}

bool constant_write(const Tensor *t, const Layout *l, FILE *f)
{
    assert(dtypes[t->type].bytes > 0 && dtypes[t->type].bytes <= 16);
    size_t bytes = tensor_bytes(t);
    if (!l->n) return bytes == 0 || fwrite(t->data, 1, bytes, f) == bytes;
    Walk w = walk_make(t, l);
    Sink s; /* of which the chunk needs no zeros */
    s.f = f, s.bytes = w.bytes, s.held = 0;
    return walk_write(&w, &s);
}
