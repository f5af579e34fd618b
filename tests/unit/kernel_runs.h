/* kernel_runs.h - for tests of the kernel pipeline: programs as text, run by the interpreter before and after each step. */
#ifndef KERNEL_RUNS_H
#define KERNEL_RUNS_H
#include "codegen/codegen.h"
#include <criterion/criterion.h>
#include <math.h>

enum { RUN_BUFS = 96, SLACK = 64 };
typedef struct Program {
    Arena mem;
    Diag diag;
    Dims *dim;
    Kernel *k;
    int64_t symbol[8];
    void *input[RUN_BUFS]; /* per buffer: what an input holds */
    uint64_t seed;
} Program;

static inline double program_random(Program *p) /* in [-1, 1) */
{
    p->seed = p->seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(p->seed >> 40) / (double)(1 << 23) - 1;
}

static inline Program *program_new(const char *text)
{
    Arena first = {0};
    Program *p = NEW(&first, Program);
    p->mem = first, p->diag.mem = &p->mem, p->diag.subject = "test", p->seed = 1;
    p->dim = dims_new(&p->mem);
    p->k = kernel_parse(&p->mem, p->dim, text, &p->diag);
    if (!p->k) diag_print(&p->diag, stderr);
    cr_assert(p->k, "the text is a kernel");
    return p;
}

static inline void program_drop(Program *p)
{
    Arena mem = p->mem;
    arena_drop(&mem);
}

static inline void program_check(Kernel *k, const char *after)
{
    const char *why = NULL;
    cr_assert(kernel_verify(k, &why), "%s after %s: %s", k->name, after, why);
}

static inline int64_t size_value(const Kernel *k, Expr e, const int64_t *symbol)
{
    const ExprNode n = *expr_node(k, e);
    int64_t v = n.u.i;
    if (n.kind == E_INT) return v;
    if (n.kind == E_SYM) return dim_eval(k->dim, (Dim){n.id}, symbol, &v) ? v : -1;
    cr_assert(n.kind == E_PRIM);
    int64_t a = size_value(k, n.arg[0], symbol), b = size_value(k, n.arg[1], symbol);
    switch (n.prim) {
    case P_add: return a + b;
    case P_sub: return a - b;
    case P_mul: return a * b;
    case P_div: return a / b;
    default: return n.prim == P_max ? (a > b ? a : b) : a < b ? a : b;
    }
}

static inline size_t buffer_bytes(Kernel *k, int b, const int64_t *symbol)
{
    return (size_t)size_value(k, buf_elements(k, b), symbol) * (size_t)dtypes[k->buf.at[b].type].bytes;
}

static inline void fill_random(Program *p, DType t, void *at, size_t bytes)
{
    for (size_t i = 0; i < bytes / (size_t)dtypes[t].bytes; i++) {
        double v = program_random(p);
        if (dtype_is_float(t)) dtype_store(t, at, (int64_t)i, v);
        else dtype_store_int(t, at, (int64_t)i, (int64_t)(v * 10 + 10));
    }
}

/* Inputs and constants get random data. */
static inline void program_fill(Program *p)
{
    Kernel *k = p->k;
    for (uint32_t b = 1; b < k->buf.n; b++) {
        Buf *buf = &k->buf.at[b];
        Layout order = buf->layout;
        int64_t dim[MAX_RANK] = {0};
        if (buf->kind == BUF_CONST) buf->layout.n = 0; /* constant_pack() lays it out, an input is as large as its layout says */
        size_t bytes = buffer_bytes(k, (int)b, p->symbol);
        buf->layout = order;
        void *data = arena_alloc(&p->mem, bytes + 1);
        fill_random(p, buf->type, data, bytes);
        if (buf->kind == BUF_IN) p->input[b] = data;
        if (buf->kind != BUF_CONST) continue;
        for (int d = 0; d < buf->rank; d++) dim[d] = size_value(k, buf->dim[d], p->symbol);
        Tensor *t = tensor_new(&p->mem, buf->type, buf->rank, dim);
        memcpy((void *)(uintptr_t)t->data, data, bytes);
        buf->data = t;
    }
}

static inline void constant_pack(const Buf *b, void *to)
{
    int64_t n = tensor_count(b->data);
    size_t size = (size_t)dtypes[b->type].bytes;
    for (int64_t i = 0; i < n; i++) {
        int64_t at[MAX_RANK], rest = i, offset = b->layout.n ? 0 : i;
        for (int d = b->rank; d--; rest /= b->data->dim[d]) at[d] = rest % b->data->dim[d];
        for (int q = 0; q < b->layout.n; q++) {
            LayoutAxis a = b->layout.axis[q];
            int64_t div = a.div ? a.div : 1, extent = a.size ? a.size : (b->data->dim[a.dim] + div - 1) / div;
            offset = offset * extent + at[a.dim] / div % extent;
        }
        memcpy((char *)to + (size_t)offset * size, (const char *)b->data->data + (size_t)i * size, size);
    }
}

/* Memory for every buffer as the program now has it; what is not yet written is noise. */
static inline void **program_memory(Program *p)
{
    Kernel *k = p->k;
    void **at = NEW_ARRAY(&p->mem, void *, k->buf.n);
    for (uint32_t b = 1; b < k->buf.n; b++) {
        size_t bytes = buffer_bytes(k, (int)b, p->symbol);
        at[b] = arena_alloc(&p->mem, bytes + SLACK);
        memset(at[b], k->buf.at[b].kind == BUF_CONST ? 0 : 0x7f, bytes + SLACK);
        if (k->buf.at[b].kind == BUF_IN) memcpy(at[b], p->input[b], bytes);
        if (k->buf.at[b].kind == BUF_CONST && k->buf.at[b].data) constant_pack(&k->buf.at[b], at[b]);
    }
    return at;
}

/* The outputs of two runs, within `room` of each other. */
static inline void program_near(Program *p, void **want, void **got, const char *after, double room)
{
    Kernel *k = p->k;
    for (uint32_t b = 1; b < k->buf.n; b++) {
        if (k->buf.at[b].kind != BUF_OUT) continue;
        DType t = k->buf.at[b].type;
        size_t n = buffer_bytes(k, (int)b, p->symbol) / (size_t)dtypes[t].bytes;
        for (size_t i = 0; i < n; i++) {
            double x = dtype_load(t, want[b], (int64_t)i), y = dtype_load(t, got[b], (int64_t)i);
            bool same = x == y || fabs(x - y) <= room * (1 + fabs(x)) || (x != x && y != y);
            cr_assert(same, "%s after %s: %s[%zu] is %g, expected %g", k->name, after, k->buf.at[b].name, i, y, x);
        }
    }
}

/* ... which may have summed in another order. */
static inline void program_compare(Program *p, void **want, void **got, const char *after)
{
    program_near(p, want, got, after, 2e-4);
}

static inline void **program_run(Program *p, int code)
{
    void **at = program_memory(p);
    cr_assert_eq(interp_compute(p->k, p->symbol, at), code);
    return at;
}

/* What the stages say, with row-major buffers. */
static inline void **program_reference(Program *p)
{
    Layout *order = NEW_ARRAY(&p->mem, Layout, p->k->buf.n);
    for (uint32_t b = 1; b < p->k->buf.n; b++) order[b] = p->k->buf.at[b].layout, p->k->buf.at[b].layout.n = 0;
    void **at = program_run(p, 0);
    for (uint32_t b = 1; b < p->k->buf.n; b++) p->k->buf.at[b].layout = order[b];
    return at;
}

static inline Kernel *kernel_tuned(const Kernel *k, const char *level, bool small)
{
    Kernel copy = *k;
    const char *error = NULL;
    tune(&copy, target_find(level), small);
    Kernel *s = schedule_apply(&copy, &error);
    cr_assert(s, "%s for %s: %s", k->name, level, error);
    program_check(s, level);
    return s;
}

static inline Kernel *kernel_scheduled(const Kernel *k, const char *level) { return kernel_tuned(k, level, false); }

/* The steps of a cut program, scheduled for a level and interpreted. */
typedef enum CutForm { CUT_PLAIN, CUT_SMALL, CUT_GENERAL } CutForm;
static inline void **cut_run_as(Program *p, const Cut *cut, const char *level, CutForm form)
{
    void **at = program_memory(p);
    for (uint32_t i = 0; i < cut->steps; i++) {
        const struct CutStep *s = &cut->step[i];
        const Kernel *general = form == CUT_GENERAL ? cut->general[s->kernel] : NULL;
        Kernel *k = kernel_tuned(general ? general : cut->kernel.at[s->kernel], level, form != CUT_PLAIN);
        int64_t size[64], runs = 1;
        cr_assert(s->sizes <= COUNT_OF(size) && (!s->when.id || dim_eval(p->dim, s->when, p->symbol, &runs)));
        if (!runs) continue;
        void *data[RUN_BUFS] = {0};
        for (uint32_t d = 0; d < s->sizes; d++) cr_assert(dim_eval(p->dim, s->size[d], p->symbol, &size[d]));
        for (uint32_t b = 0; b < s->bufs; b++)
            if (k->buf.at[b + 1].kind < BUF_LOCAL) data[b + 1] = at[s->buf[b]];
        cr_assert_eq(interp_loops(k, size, data), 0, "step %u, %s", i, k->name);
    }
    return at;
}

static inline void **cut_run(Program *p, const Cut *cut, const char *level) { return cut_run_as(p, cut, level, CUT_PLAIN); }

/* Kernels that stand for others compute the same bits. */
static inline void program_generalize(Program *p, const char *level)
{
    Cut *cut = program_cut(p->k, &p->mem);
    cut_generalize(cut, p->dim, &p->mem);
    for (uint32_t i = 0; i < cut->kernel.n; i++)
        if (cut->general[i]) program_check(cut->general[i], "generalizing");
    program_near(p, cut_run_as(p, cut, level, CUT_SMALL), cut_run_as(p, cut, level, CUT_GENERAL), level, 0);
}

/* The whole of cluster, fork, layout, cut, tune, schedule: every step must leave the outputs as they are. */
static inline Cut *program_through(Program *p)
{
    static const char *const level[] = {"portable", "avx2", "avx512vnni"};
    program_check(p->k, "parsing");
    program_fill(p);
    void **want = program_reference(p);
    program_cluster(p->k);
    program_check(p->k, "cluster");
    program_compare(p, want, program_run(p, 0), "cluster");
    program_fork(p->k);
    program_check(p->k, "fork");
    program_compare(p, want, program_run(p, 0), "fork");
    program_layout(p->k, NULL);
    program_check(p->k, "layout");
    program_compare(p, want, program_run(p, 0), "layout");
    program_widen(p->k, true);
    program_check(p->k, "widen");
    program_compare(p, want, program_run(p, 0), "widen");
    program_join(p->k);
    program_check(p->k, "join");
    program_compare(p, want, program_run(p, 0), "join");
    Cut *cut = program_cut(p->k, &p->mem);
    for (size_t l = 0; l < COUNT_OF(level); l++) program_compare(p, want, cut_run(p, cut, level[l]), level[l]);
    for (size_t l = 0; l < COUNT_OF(level); l++) program_generalize(p, level[l]);
    return cut;
}
#endif
