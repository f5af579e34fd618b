/* rt.c - runs a model: reads the tables of model.h, checks the sizes of a call, places its buffers, walks its steps.
 *
 * Steps are done in groups whose members do not depend on each other. A group that is worth more than one thread is cut into
 * chunks of its steps' ranges, which the threads of a team (team.h) claim; what lies between two such groups is done
 * by the thread that completed the first. Nothing is allocated and nothing global is written: the context holds the size
 * table, the offsets of a dynamic plan and the resolved arguments of every step. On one thread a run makes no system call. */
#include "model.h"
#include "cpus.h"
#include "team.h"
#include <stdio.h>
#include <string.h>

typedef union Arg {
    void *buf;
    int64_t size;
} Arg;

struct OctetContext {
    const OctetModel *model;
    OctetPool *pool;
    OctetParallelFor host_for;
    void *host;
    int32_t threads, active; /* active: of the run in progress */
    int32_t usable, allowed; /* usable: threads that have a CPU; allowed: of these, see stall_note() */
    int32_t best, level;     /* best: of this CPU; level: in use, after the cap */
    uint32_t phase;          /* phases done; 0: sizes are not valid */
    uint64_t plan;           /* bytes the plan takes so far, without scratch */
    uint64_t learnt;         /* most that a run with these input sizes turned out to need */
    uint64_t scratch;        /* bytes a thread needs for the steps of the phases done */
    uint64_t learnt_scratch; /* as learnt */
    uint64_t *profile;
    int64_t *size;
    uint64_t *block_at;
    uint32_t *order; /* 2 * blocks: candidates of a phase, placed ones by offset */
    Arg *arg;
    const OctetTensor *in; /* of the run in progress */
    OctetTensor *out;
    char *arena;
    size_t arena_bytes;
    _Atomic int32_t failed; /* OctetStatus of the run in progress */
    _Atomic uint32_t failed_step;
    char text[320];
    OctetTeam team;      /* of the host's threads; a pool has its own */
    uint32_t done;       /* steps that are done */
    uint32_t end;        /* of the group in progress */
    uint64_t stamp;      /* profile: when the step in progress began */
    uint64_t opened;     /* when the group in progress was */
    uint64_t good;       /* nanoseconds of several threads since the last stall */
    uint64_t rest, left; /* how long fewer threads are allowed after a stall; what is left of it */
};
_Static_assert(sizeof(OctetContext) <= OCTET_CONTEXT_HEAD, "the head must hold the context");

#define FAIL(c, status, ...) (snprintf((c)->text, sizeof(c)->text, __VA_ARGS__), (status))

/* ---- set-up ---- */
static uint64_t wanted_features(const OctetModel *m)
{
    uint64_t wanted = 0;
    for (uint32_t i = 0; i < m->levels; i++) wanted |= m->level_needs[i];
    return wanted;
}

int32_t octet_cpu_level(const OctetModel *m)
{
    uint64_t have = octet_cpu_features(wanted_features(m));
    int32_t best = -1;
    for (uint32_t i = 0; i < m->levels; i++)
        if (!(m->level_needs[i] & ~have)) best = (int32_t)i;
    return best;
}

OctetStatus octet_context_init(OctetContext *c, const OctetModel *m)
{
    if (!c || !m || (uintptr_t)c % 64) return OCTET_ERR_ARGUMENT;
    memset(c, 0, sizeof *c);
    c->model = m;
    c->threads = c->usable = c->allowed = 1;
    c->size = (int64_t *)(void *)((char *)c + OCTET_CONTEXT_HEAD);
    c->arg = (Arg *)(void *)(c->size + m->sizes);
    c->block_at = (uint64_t *)(void *)(c->arg + m->args);
    c->order = (uint32_t *)(void *)(c->block_at + m->blocks);
    c->best = c->level = octet_cpu_level(m);
    if (c->best < 0) return FAIL(c, OCTET_ERR_CPU, "this processor lacks the instruction set '%s'", m->level_name[0]);
    return OCTET_OK;
}

void octet_context_threads(OctetContext *c, OctetPool *pool, OctetParallelFor host_for, void *host, int32_t threads)
{
    const OctetPoolHead *head = (const OctetPoolHead *)(const void *)pool;
    int32_t most = pool ? head->threads : host_for ? OCTET_MOST_THREADS : 1;
    if (threads > most) threads = most;
    c->pool = pool, c->host_for = host_for, c->host = host;
    c->threads = threads > 1 ? threads : 1;
    int32_t cpus = c->threads > 1 ? usable_cpus() : 1;
    c->usable = c->allowed = c->threads < cpus ? c->threads : cpus;
    c->team = (OctetTeam){0};
    c->good = INT64_MAX; /* a first stall is no pattern */
}

const char *octet_error_text(const OctetContext *c) { return c->text; }

void octet_context_profile(OctetContext *c, uint64_t *nanoseconds) { c->profile = nanoseconds; }

/* A level that this processor lacks is never used: among those up to the cap, the best one it has. */
void octet_context_level(OctetContext *c, int32_t level)
{
    const OctetModel *m = c->model;
    uint64_t have = octet_cpu_features(wanted_features(m));
    c->level = c->best, c->phase = 0; /* another level needs other sizes */
    for (int32_t i = 0; i <= level && i < (int32_t)m->levels; i++)
        if (!(m->level_needs[i] & ~have)) c->level = i;
}

/* ---- sizes ---- */
static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

/* Resize by a scale: ONNX says floor of the float32 product; sizes are not negative, so truncation is the same. */
static bool scale_size(int64_t a, int64_t bits, int64_t *v)
{
    uint32_t u = (uint32_t)bits;
    float s;
    memcpy(&s, &u, sizeof s);
    float r = (float)a * s;
    if (!(r > -9.0e18f && r < 9.0e18f)) return false;
    *v = (int64_t)r;
    return true;
}

/* false: a number does not fit into 64 bits, or a division by zero. */
static bool size_eval(const OctetContext *c, OctetSpan span, int64_t *value)
{
    const OctetCode *code = c->model->code + span.at;
    const int64_t *number = c->model->number;
    int64_t s[2 + OCTET_CODE_DEPTH]; /* two below the bottom, so that top and under always point at something */
    int n = 2;
    bool ok = true;
    for (uint32_t i = 0; i < span.n && ok; i++) {
        int64_t *top = &s[n - 1], *under = &s[n - 2];
        switch (code[i].op) {
        case OCTET_CODE_CONST: s[n++] = number[code[i].arg]; break;
        case OCTET_CODE_SYM: s[n++] = c->size[code[i].arg]; break;
        case OCTET_CODE_ADD: ok = !__builtin_add_overflow(*under, *top, under), n--; break;
        case OCTET_CODE_MUL: ok = !__builtin_mul_overflow(*under, *top, under), n--; break;
        case OCTET_CODE_FDIV: ok = *top > 0, *under = ok ? floor_div(*under, *top) : 0, n--; break;
        case OCTET_CODE_TDIV: ok = *top > 0, *under = ok ? *under / *top : 0, n--; break;
        case OCTET_CODE_POS: *top = *top > 0 ? *top : 0; break;
        case OCTET_CODE_GE0: *top = *top >= 0; break;
        case OCTET_CODE_EQ0: *top = *top == 0; break;
        case OCTET_CODE_SCALE: ok = scale_size(*top, number[code[i].arg], top); break;
        default: return false;
        }
    }
    *value = s[2];
    return ok;
}

static int64_t work_size(const OctetContext *c, uint32_t formula)
{
    OctetSpan span = c->model->formula[formula];
    int64_t v;
    return span.n && c->phase && size_eval(c, span, &v) ? v : 0;
}

void octet_step_work(const OctetContext *c, int32_t step, OctetWork *w)
{
    const OctetWorkRow *row = &c->model->work[step];
    w->what = (const char *)row + row->what, w->math = row->math;
    for (int i = 0; i < 4; i++) w->size[i] = work_size(c, row->size[i]);
    w->operations = (double)work_size(c, row->operations), w->bytes = (double)work_size(c, row->bytes);
}

/* Sizes are computed from elements in +-2^61: no formula overflows on "to the end", which is often the largest integer. */
static int64_t element_saturate(int64_t v)
{
    const int64_t most = (int64_t)1 << 61;
    return v > most ? most : v < -most ? -most : v;
}

static bool load_element(int32_t dtype, const void *p, uint32_t at, int64_t *v)
{
    enum { U8 = 2, I8, U16, I16, I32, I64, BOOL = 9, U32 = 12, U64 = 13 }; /* ONNX's numbers */
    switch (dtype) {
    case U8: *v = ((const uint8_t *)p)[at]; return true;
    case I8: *v = ((const int8_t *)p)[at]; return true;
    case U16: *v = ((const uint16_t *)p)[at]; return true;
    case I16: *v = ((const int16_t *)p)[at]; return true;
    case I32: *v = ((const int32_t *)p)[at]; return true;
    case I64: *v = element_saturate(((const int64_t *)p)[at]); return true;
    case BOOL: *v = ((const uint8_t *)p)[at] != 0; return true;
    case U32: *v = ((const uint32_t *)p)[at]; return true;
    case U64: *v = (int64_t)((const uint64_t *)p)[at]; return true;
    default: return false;
    }
}

static const void *buffer_address(const OctetContext *c, uint32_t b);

/* The data of an input whose elements are sizes; NULL when it has too few. */
static const void *value_source(const OctetContext *c, const OctetSymbol *s, const OctetTensor *in)
{
    int64_t n = 1;
    for (int32_t a = 0; a < c->model->input[s->index].rank; a++)
        if (__builtin_mul_overflow(n, in[s->index].dim[a], &n)) return NULL;
    return n > s->at ? in[s->index].data : NULL;
}

static OctetStatus symbol_read(OctetContext *c, uint32_t i, const OctetTensor *in)
{
    const OctetModel *m = c->model;
    const OctetSymbol *s = &m->symbol[i];
    if (s->source == SOURCE_DIM) {
        c->size[i] = in[s->index].dim[s->at];
        if (c->size[i] >= 0) return OCTET_OK;
        return FAIL(c, OCTET_ERR_DIM, "input '%s': dimension %u is negative", m->input[s->index].name, s->at);
    }
    if (s->when != UINT32_MAX && !c->size[s->when]) return c->size[i] = 0, OCTET_OK;
    const void *p = s->source == SOURCE_VALUE ? value_source(c, s, in) : buffer_address(c, s->index);
    if (!p) return FAIL(c, OCTET_ERR_ARGUMENT, "an input whose values are sizes lacks element %u", s->at);
    return load_element(s->dtype, p, s->at, &c->size[i]) ? OCTET_OK
                                                         : FAIL(c, OCTET_ERR_ARGUMENT, "a size of a type that is none");
}

static OctetStatus dims_check(OctetContext *c, const OctetTensor *in)
{
    const OctetModel *m = c->model;
    const uint32_t *at = m->input_dim;
    for (uint32_t i = 0; i < m->inputs; i++)
        for (int32_t a = 0; a < m->input[i].rank; a++, at++)
            if (in[i].dim[a] != c->size[*at])
                return FAIL(c, OCTET_ERR_DIM, "input '%s': dimension %d is %lld, expected %lld", m->input[i].name, a,
                            (long long)in[i].dim[a], (long long)c->size[*at]);
    return OCTET_OK;
}

static bool guard_holds(int32_t kind, int64_t a, int64_t b)
{
    const bool holds[] = {a == b, a >= b, a == b || a == 1, a != b}; /* GuardKind */
    return holds[kind];
}

static OctetStatus guards_check(OctetContext *c, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        const OctetGuard *g = &c->model->guard[i];
        int64_t a = c->size[g->a], b = c->size[g->b];
        if (!guard_holds(g->kind, a, b))
            return FAIL(c, OCTET_ERR_GUARD, "%s (%lld and %lld)", g->text, (long long)a, (long long)b);
    }
    return OCTET_OK;
}

/* ---- the dynamic plan: largest first, each at the lowest offset that is free while it is alive ---- */
static uint64_t block_bytes(const OctetContext *c, uint32_t b)
{
    return ((uint64_t)c->size[c->model->block[b].size] + 127) / 64 *
           64; /* 64 bytes of slack: vectors may read past the end */
}

static void sort_by(uint32_t *v, uint32_t n, const OctetContext *c)
{
    for (uint32_t gap = n / 2; gap > 0;
         gap /= 2) /* Shell's sort: no recursion, no memory, equal ones in a fixed order */
        for (uint32_t i = gap; i < n; i++)
            for (uint32_t j = i; j >= gap; j -= gap) {
                uint64_t x = block_bytes(c, v[j - gap]), y = block_bytes(c, v[j]);
                if (x > y || (x == y && v[j - gap] < v[j])) break;
                uint32_t t = v[j];
                v[j] = v[j - gap], v[j - gap] = t;
            }
}

static uint64_t lowest_free(const OctetContext *c, uint32_t b, const uint32_t *placed, uint32_t n)
{
    const OctetBlock *x = &c->model->block[b];
    uint64_t at = 0, bytes = block_bytes(c, b);
    for (uint32_t i = 0; i < n; i++) { /* by offset */
        const OctetBlock *y = &c->model->block[placed[i]];
        uint64_t lo = c->block_at[placed[i]], hi = lo + block_bytes(c, placed[i]);
        if (y->last < x->first || x->last < y->first || hi <= at) continue;
        if (at + bytes <= lo) break;
        at = hi;
    }
    return at;
}

/* Blocks of earlier phases stay where they are; they are already in order[blocks...]. */
static OctetStatus blocks_place(OctetContext *c, uint32_t from, uint32_t to)
{
    const OctetModel *m = c->model;
    uint32_t *todo = c->order, *placed = c->order + m->blocks, n = from;
    for (uint32_t b = from; b < to; b++) {
        int64_t bytes = c->size[m->block[b].size];
        if (bytes < 0 || bytes > INT64_MAX / 4)
            return FAIL(c, OCTET_ERR_OVERFLOW, "an intermediate result is too large");
        todo[b - from] = b;
    }
    sort_by(todo, to - from, c);
    for (uint32_t i = 0; i < to - from; i++) {
        uint32_t b = todo[i], k = n++;
        uint64_t at = lowest_free(c, b, placed, k), end;
        if (__builtin_add_overflow(at, block_bytes(c, b), &end) || end > INT64_MAX / 2)
            return FAIL(c, OCTET_ERR_OVERFLOW, "the intermediate results are too large");
        c->block_at[b] = at;
        if (end > c->plan) c->plan = end;
        for (; k > 0 && c->block_at[placed[k - 1]] > at; k--) placed[k] = placed[k - 1];
        placed[k] = b;
    }
    return OCTET_OK;
}

/* ---- phases ---- */
static OctetPhase phase_start(const OctetModel *m, uint32_t p)
{
    return p ? m->phase[p - 1] : (OctetPhase){0, 0, m->symbols, 0, 0};
}

static OctetStatus phase_sizes(OctetContext *c, uint32_t p, const OctetTensor *in)
{
    const OctetModel *m = c->model;
    OctetPhase a = phase_start(m, p), z = m->phase[p];
    if (p == 0) a.sizes = m->symbols;
    OctetStatus s = OCTET_OK;
    for (uint32_t i = a.symbols; i < z.symbols && s == OCTET_OK; i++) s = symbol_read(c, i, in);
    for (uint32_t i = a.sizes; i < z.sizes && s == OCTET_OK; i++)
        if (!size_eval(c, m->program[i - m->symbols], &c->size[i]))
            s = FAIL(c, OCTET_ERR_OVERFLOW, "a size is too large");
    if (s == OCTET_OK && p == 0) s = dims_check(c, in);
    if (s == OCTET_OK) s = guards_check(c, a.guards, z.guards);
    if (s == OCTET_OK) s = blocks_place(c, a.blocks, z.blocks);
    return s;
}

/* Sizes of later phases read as -1 until their phase is done. */
static OctetStatus outputs_size(OctetContext *c, OctetTensor *out)
{
    const OctetModel *m = c->model;
    uint32_t known = m->phase[c->phase - 1].sizes, symbols = m->phase[c->phase - 1].symbols;
    const uint32_t *at = m->output_dim;
    for (uint32_t o = 0; o < m->outputs; o++)
        for (int32_t a = 0; a < m->output[o].rank; a++, at++) {
            bool done = *at < m->symbols ? *at < symbols : *at < known;
            out[o].dim[a] = done ? c->size[*at] : -1;
            if (done && c->size[*at] < 0)
                return FAIL(c, OCTET_ERR_GUARD, "output '%s': dimension %d would be %lld", m->output[o].name, a,
                            (long long)c->size[*at]);
        }
    return OCTET_OK;
}

static const OctetSlice *slice_of(const OctetContext *c, uint32_t step)
{
    return &c->model->slice[c->model->level_slice[c->level][step]];
}

static OctetKernel kernel_of(const OctetContext *c, uint32_t step)
{
    const OctetModel *m = c->model;
    const int32_t *at = &m->function[m->level_kernel[c->level][m->step[step].kernel]];
    return (OctetKernel)((uintptr_t)at + (uintptr_t)(intptr_t)*at);
}

/* Kernel arguments that are sizes, and how much scratch there must be, for the steps of the phase just done. */
static void sizes_resolve(OctetContext *c)
{
    const OctetModel *m = c->model;
    uint32_t from = c->phase > 1 ? m->phase[c->phase - 1].step : 0;
    uint32_t to = c->phase < m->phases ? m->phase[c->phase].step : m->steps;
    for (uint32_t s = from; s < to; s++) {
        OctetSpan z = m->step[s].size;
        for (uint32_t i = z.at; i < z.at + z.n; i++) c->arg[i].size = c->size[m->arg[i]];
        uint32_t scratch = c->level < 0 ? UINT32_MAX : slice_of(c, s)->scratch;
        if (scratch != UINT32_MAX && (uint64_t)c->size[scratch] > c->scratch) c->scratch = (uint64_t)c->size[scratch];
    }
}

/* How a step's range is shared out: a slice for every thread it keeps busy, each in as many equal chunks as pay. Which
 * thread computes a point, and in which chunk, never changes the point. */
typedef struct Share {
    int64_t range, slices, each; /* each: chunks of a slice */
} Share;

static Share step_share(const OctetContext *c, uint32_t s, int32_t threads)
{
    enum { EACH = 4, WORTH = 512 }; /* chunks of a slice at most; grains that are worth a chunk more */
    const OctetSlice *slice = slice_of(c, s);
    Share h = {c->size[slice->range], 1, 1};
    if (threads <= 1 || h.range <= slice->grain) return h;
    int64_t grains = h.range / slice->grain;
    h.slices = grains < threads ? grains : threads;
    if (h.slices == 1) return h;
    int64_t items = h.range / h.slices;
    h.each = grains / h.slices / WORTH;
    if (h.each > items) h.each = items;
    if (h.each > EACH) h.each = EACH;
    if (h.each < 1) h.each = 1;
    return h;
}

/* Waking threads costs more than a small model takes: only those with something to do take part. */
static int32_t threads_needed(const OctetContext *c, int32_t most)
{
    int64_t n = 1;
    if (c->model->phases > 1) return most;
    for (uint32_t s = 0; s < c->model->steps && n < most; s++) {
        Share h = step_share(c, s, most);
        if (h.slices > n) n = h.slices;
    }
    return (int32_t)n;
}

static uint64_t scratch_stride(const OctetContext *c)
{
    return c->scratch > c->learnt_scratch ? c->scratch : c->learnt_scratch;
}

static uint64_t arena_needed(const OctetContext *c)
{
    const OctetModel *m = c->model;
    uint64_t plan = m->arena_bytes == UINT64_MAX ? c->plan : m->arena_bytes;
    if (c->learnt > plan) plan = c->learnt;
    return plan + scratch_stride(c) * (uint64_t)c->threads;
}

static OctetStatus sizes_prepare(OctetContext *c, const OctetTensor *in)
{
    c->phase = 0, c->plan = 0, c->scratch = 0;
    OctetStatus s = phase_sizes(c, 0, in);
    if (s != OCTET_OK) return s;
    c->phase = 1;
    sizes_resolve(c);
    return OCTET_OK;
}

OctetStatus octet_prepare(OctetContext *c, const OctetTensor *in, OctetTensor *out, size_t *arena_bytes)
{
    if (!c || (!in && c->model->inputs) || (!out && c->model->outputs)) return OCTET_ERR_ARGUMENT;
    c->text[0] = 0;
    OctetStatus s = sizes_prepare(c, in);
    if (s == OCTET_OK) s = outputs_size(c, out);
    if (s == OCTET_OK && arena_bytes) *arena_bytes = arena_needed(c);
    return s;
}

/* Whether the sizes of the last prepare() are those of `in`. */
static bool sizes_current(const OctetContext *c, const OctetTensor *in)
{
    const OctetModel *m = c->model;
    const uint32_t *at = m->input_dim;
    if (c->phase != 1) return false;
    for (uint32_t i = 0; i < m->inputs; i++)
        for (int32_t a = 0; a < m->input[i].rank; a++, at++)
            if (in[i].dim[a] != c->size[*at]) return false;
    for (uint32_t i = 0; i < m->phase[0].symbols; i++) {
        const OctetSymbol *s = &m->symbol[i];
        const void *p = s->source == SOURCE_VALUE ? value_source(c, s, in) : NULL;
        int64_t v;
        if (s->source == SOURCE_VALUE && (!p || !load_element(s->dtype, p, s->at, &v) || v != c->size[i])) return false;
    }
    return true;
}

/* ---- running ---- */
static const void *buffer_address(const OctetContext *c, uint32_t b)
{
    const OctetModel *m = c->model;
    const OctetBuffer *f = &m->buffer[b];
    switch (f->segment) {
    case SEG_INPUT: return c->in[f->index].data;
    case SEG_OUTPUT: return c->out[f->index].data;
    case SEG_ARENA: return c->arena + f->offset;
    case SEG_BLOCK: return c->arena + c->block_at[f->index];
    case SEG_WEIGHTS: return (const char *)m->weights + f->offset;
    default: return NULL;
    }
}

/* The addresses of the steps of the phase just done. */
static void buffers_resolve(OctetContext *c)
{
    const OctetModel *m = c->model;
    uint32_t from = c->phase > 1 ? m->phase[c->phase - 1].step : 0;
    uint32_t to = c->phase < m->phases ? m->phase[c->phase].step : m->steps;
    for (uint32_t s = from; s < to; s++) {
        OctetSpan b = m->step[s].buf;
        for (uint32_t i = b.at; i < b.at + b.n; i++) c->arg[i].buf = (void *)(uintptr_t)buffer_address(c, m->arg[i]);
    }
}

static uint64_t element_count(const OctetTensorInfo *info, const OctetTensor *t)
{
    uint64_t n = 1;
    for (int32_t a = 0; a < info->rank; a++)
        if (t->dim[a] == 0) n = 0;
    return n;
}

static OctetStatus tensors_check(OctetContext *c)
{
    const OctetModel *m = c->model;
    for (uint32_t i = 0; i < m->inputs; i++)
        if (!c->in[i].data && element_count(&m->input[i], &c->in[i]))
            return FAIL(c, OCTET_ERR_ARGUMENT, "input '%s' has no data", m->input[i].name);
    for (uint32_t o = 0; o < m->outputs; o++)
        if (m->output_buffer[o] == UINT32_MAX && !c->out[o].data && element_count(&m->output[o], &c->out[o]))
            return FAIL(c, OCTET_ERR_ARGUMENT, "output '%s' has no memory", m->output[o].name);
    return OCTET_OK;
}

static OctetStatus arena_check(OctetContext *c)
{
    uint64_t need = arena_needed(c);
    if (need && (uintptr_t)c->arena % 64) return FAIL(c, OCTET_ERR_ARENA, "the arena is not aligned to 64 bytes");
    if (need && (!c->arena || c->arena_bytes < need))
        return FAIL(c, OCTET_ERR_ARENA, "the arena has %llu bytes, %llu are needed", (unsigned long long)c->arena_bytes,
                    (unsigned long long)need);
    return OCTET_OK;
}

/* One thread, between groups: what the last phase's steps computed becomes sizes of the next. The arena's plan may outgrow it; how much is needed is remembered for the next prepare(). */
static OctetStatus phase_advance(OctetContext *c)
{
    OctetStatus s = phase_sizes(c, c->phase, c->in);
    if (s != OCTET_OK) return s;
    c->phase++;
    if (c->plan > c->learnt) c->learnt = c->plan;
    sizes_resolve(c);
    if (c->scratch > c->learnt_scratch) c->learnt_scratch = c->scratch;
    s = arena_check(c);
    if (s == OCTET_OK) s = outputs_size(c, c->out);
    if (s == OCTET_OK) buffers_resolve(c);
    return s;
}

/* The environment that compiled code expects: round to nearest, nothing trapped, denormals kept. */
#if defined(__x86_64__)
typedef uint32_t FloatState;
static FloatState float_enter(void)
{
    uint32_t old, ours = 0x1f80;
    __asm__ volatile("stmxcsr %0" : "=m"(old));
    __asm__ volatile("ldmxcsr %0" ::"m"(ours));
    return old;
}
static void float_leave(FloatState old) { __asm__ volatile("ldmxcsr %0" ::"m"(old)); }
static void tiles_release(void) { __asm__ volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0xc0"); } /* TILERELEASE */
#else
typedef uint64_t FloatState;
static FloatState float_enter(void)
{
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr\n\tmsr fpcr, xzr" : "=&r"(old));
    return old;
}
static void float_leave(FloatState old) { __asm__ volatile("msr fpcr, %0" ::"r"(old)); }
static void tiles_release(void) {}
#endif

/* Where part i of n begins: the first range % n of them have one item more. */
static int64_t part_start(int64_t range, int64_t n, int64_t i)
{
    int64_t more = range % n;
    return range / n * i + (i < more ? i : more);
}

static void step_chunk(OctetContext *c, uint32_t s, const Share *h, int64_t chunk, void *scratch)
{
    const OctetStep *step = &c->model->step[s];
    int64_t i = chunk / h->each, j = chunk % h->each;
    int64_t from = part_start(h->range, h->slices, i), range = part_start(h->range, h->slices, i + 1) - from;
    int64_t lo = from + part_start(range, h->each, j), hi = from + part_start(range, h->each, j + 1);
    if (lo >= hi) return;
    int32_t status = kernel_of(c, s)(&c->arg[step->buf.at].buf, &c->arg[step->size.at].size, lo, hi, scratch);
    if (!status) return;
    atomic_store(&c->failed_step, s);
    atomic_store(&c->failed, status);
}

static bool phase_begins(const OctetContext *c, uint32_t s)
{
    return c->phase < c->model->phases && c->model->phase[c->phase].step == s;
}

/* The steps from `first` on up to the next barrier; when they are timed, each is a group. Long groups are cut: looking for a
 * chunk walks over its group. */
static uint32_t group_end(const OctetContext *c, uint32_t first)
{
    enum { MOST = 8 };
    const OctetModel *m = c->model;
    uint32_t s = first + 1;
    while (s < m->steps && s - first < MOST && !c->profile && !m->step[s].barrier && !phase_begins(c, s)) s++;
    return s;
}

/* A group as a unit of the team. Steps of one chunk are done in a row, which is chunk 0 (the flag says so): the compiler
 * keeps their order without barriers. */
static OctetUnit group_unit(const OctetContext *c, uint32_t first)
{
    OctetUnit u = {.first = first, .end = group_end(c, first)};
    for (uint32_t s = first; s < u.end; s++) {
        Share h = step_share(c, s, c->active);
        int64_t chunks = h.slices * h.each;
        if (chunks == 1) u.flag = 1;
        else u.chunks += (uint32_t)chunks;
    }
    u.chunks += u.flag;
    return u;
}

static void step_timed(OctetContext *c, uint32_t s)
{
    if (!c->profile) return;
    uint64_t now = nanoseconds_now();
    c->profile[s] += now - c->stamp;
    c->stamp = now;
}

static void *thread_scratch(const OctetContext *c, int32_t t)
{
    return c->arena ? c->arena + (c->arena_bytes - scratch_stride(c) * (uint64_t)(c->threads - t)) / 64 * 64 : NULL;
}

static void group_chunk(void *arg, int32_t t, OctetUnit u, uint32_t chunk)
{
    OctetContext *c = arg;
    const uint64_t tiles = OCTET_CPU_AMX_INT8 | OCTET_CPU_AMX_BF16;
    void *scratch = thread_scratch(c, t);
    bool row = u.flag && chunk == 0;
    int64_t at = (int64_t)chunk - u.flag; /* among the chunks of the steps that have several */
    FloatState environment = float_enter();
    for (uint32_t s = u.first; s < u.end; s++) {
        Share h = step_share(c, s, c->active);
        int64_t chunks = h.slices * h.each;
        if (row != (chunks == 1)) continue;
        if (row) step_chunk(c, s, &h, 0, scratch);
        else if (at >= 0 && at < chunks) step_chunk(c, s, &h, at, scratch);
        at -= row ? 0 : chunks;
    }
    if (c->model->level_needs[c->level] & tiles) tiles_release();
    float_leave(environment);
}

/* A thread that loses its CPU amid a chunk keeps the others waiting for a time slice of the scheduler, as long as many
 * chunks. It shows: chunks of one step are of a size, so none takes much longer than all others took. When that happens so
 * often that the loss outweighs what the threads gain, one thread less is used for a while, longer each time. */
static void stall_note(OctetContext *c, uint64_t since)
{
    enum { STALL = 500000, OFTEN = 4, LEAST = 16, MOST = 64 }; /* nanoseconds; times the loss */
    if (since < c->opened || c->end - c->done > 1) return;
    uint64_t loss = nanoseconds_now() - since;
    if (loss < STALL || loss / 2 < since - c->opened) return;
    c->rest = c->good / OFTEN > loss ? 0 : c->rest ? 2 * c->rest : LEAST * loss;
    if (c->rest > MOST * loss) c->rest = MOST * loss;
    c->good = 0;
    if (!c->rest) return;
    c->allowed = c->active > 1 ? c->active - 1 : 1;
    c->left = c->rest;
}

/* The group in progress is done; does what thread t can do alone and stops before a group for several threads. A failed
 * kernel does not end its phase: every kernel checks its own indices, and what comes after reads no sizes from it. */
static OctetUnit run_advance(void *arg, int32_t t, uint64_t since)
{
    OctetContext *c = arg;
    const OctetUnit over = {0};
    if (since) stall_note(c, since);
    if (c->end > c->done) step_timed(c, c->done);
    for (;;) {
        c->done = c->end;
        while (phase_begins(c, c->done)) {
            if (!atomic_load(&c->failed)) atomic_store(&c->failed, (int32_t)phase_advance(c));
            if (atomic_load(&c->failed)) return over;
        }
        if (c->done == c->model->steps) return over;
        OctetUnit u = group_unit(c, c->done);
        c->end = u.end;
        if (u.chunks > 1) {
            uint64_t now = nanoseconds_now();
            if (c->opened && c->good < INT64_MAX) c->good += now - c->opened;
            c->opened = now;
            return u;
        }
        group_chunk(c, t, u, 0);
        step_timed(c, c->done);
    }
}

static void run_thread(void *arg, int32_t t)
{
    OctetContext *c = arg;
    team_work(&c->team, t, false);
}

static void run_steps(OctetContext *c)
{
    c->done = c->end = 0, c->opened = 0;
    c->stamp = c->profile ? nanoseconds_now() : 0;
    OctetUnit u = run_advance(c, 0, 0);
    if (!u.chunks) return;
    OctetJob job = {group_chunk, run_advance, c};
    if (c->pool) {
        ((const OctetPoolHead *)(const void *)c->pool)->run(c->pool, &job, c->active, &u);
        return;
    }
    team_begin(&c->team, &job, c->active, u, team_bits(c->active));
    c->host_for(c->host, c->active, run_thread, c);
}

/* While fewer threads are allowed, the time of runs counts against the rest. */
static void run_paced(OctetContext *c)
{
    bool rested = c->allowed < c->usable;
    uint64_t begin = rested ? nanoseconds_now() : 0;
    c->active = threads_needed(c, c->allowed);
    run_steps(c);
    if (!rested) return;
    uint64_t took = nanoseconds_now() - begin;
    c->left = c->left > took ? c->left - took : 0;
    if (!c->left) c->left = c->rest, c->allowed++;
}

static void outputs_place(OctetContext *c)
{
    const OctetModel *m = c->model;
    for (uint32_t o = 0; o < m->outputs; o++)
        if (m->output_buffer[o] != UINT32_MAX)
            c->out[o].data = (void *)(uintptr_t)buffer_address(c, m->output_buffer[o]);
}

static OctetStatus run_finish(OctetContext *c)
{
    const OctetModel *m = c->model;
    OctetStatus s = (OctetStatus)atomic_load(&c->failed);
    if (m->phases > 1) {
        if (s == OCTET_OK) outputs_place(c);
        c->phase = 0; /* the next run starts from its inputs again */
    }
    if (s == OCTET_ERR_INDEX && !c->text[0]) {
        uint32_t at = atomic_load(&c->failed_step);
        snprintf(c->text, sizeof c->text, "%s: an index in the data is out of range", m->step_name[at]);
    }
    return s;
}

OctetStatus octet_run(OctetContext *c, const OctetTensor *in, OctetTensor *out, void *arena, size_t arena_bytes)
{
    if (!c || (!in && c->model->inputs) || (!out && c->model->outputs)) return OCTET_ERR_ARGUMENT;
    if (c->level < 0) return OCTET_ERR_CPU;
    c->text[0] = 0;
    c->in = in, c->out = out, c->arena = arena, c->arena_bytes = arena_bytes;
    OctetStatus s = sizes_current(c, in) ? OCTET_OK : sizes_prepare(c, in);
    if (s == OCTET_OK) s = outputs_size(c, out);
    if (s == OCTET_OK) s = tensors_check(c);
    if (s == OCTET_OK) s = arena_check(c);
    if (s != OCTET_OK) return s;
    buffers_resolve(c);
    atomic_store_explicit(&c->failed, 0, memory_order_relaxed);
    run_paced(c);
    return run_finish(c);
}
