/* smooth.c - see smooth.h. One round over some samples, spread over all: of every value that may get gains some rows are kept, every fourth
 * sample's (of few samples every fourth row) to judge by. Then threads take values. */
#include "frontend/smooth.h"
#include "frontend/crew.h"
#include "passes/balance.h"
#include "passes/smooth.h"

enum { SAMPLES = 8, JUDGING = 4 };

typedef struct Smoothed {
    Val x;
    int64_t channels;
    VEC(uint32_t) reader;        /* numbers of nodes */
    bool folds;
    bool tied;                   /* weights are a table too, which with gains they would be no longer */
    KeptRows *rows;
    Arena mem;
    Smoothing found;
    float *gain;
} Smoothed;

typedef struct Smoother {
    const Graph *g;
    const WeightForm *form;      /* per node */
    const bool *looked;          /* per Val: a table that is looked up */
    VEC(Smoothed) value;
    const Tensor *const *out;    /* of the present sample */
    uint32_t seen, of;           /* samples that were run; that will be, 0: nobody knows */
    int threads;
    bool gains;                  /* are wanted */
} Smoother;

/* A matrix product with one matrix of weights for all rows of x, along its last axis. */
static bool multiplies_rows(const Smoother *s, uint32_t i)
{
    const Node *n = &s->g->node.at[i];
    if (!s->form[i].code || n->op->quant != QUANT_INTEGER || n->op->w_taps) return false;
    const Type *x = val_type(s->g, node_in(s->g, n, 0));
    int axis = n->op->x_input < 0 ? n->op->x_input + x->rank : n->op->x_input;
    return graph_val(s->g, node_in(s->g, n, 1))->konst->rank == 2 && x->rank > 0 && axis == x->rank - 1 &&
           dim_is_const(s->g->module->dim, x->dim[axis], NULL) && multiplies_rows_alone(s->g, node_in(s->g, n, 0));
}

static Smoothed *value_of(Smoother *s, Arena *mem, Val x)
{
    for (uint32_t i = s->value.n; i-- > 0;)
        if (s->value.at[i].x.id == x.id) return &s->value.at[i];
    const Type *t = val_type(s->g, x);
    Smoothed v = {.x = x};
    dim_is_const(s->g->module->dim, t->dim[t->rank - 1], &v.channels);
    vec_push(mem, &s->value, v);
    return &s->value.at[s->value.n - 1];
}

static void find_values(Smoother *s, Arena *mem)
{
    for (uint32_t i = 0; i < s->g->node.n; i++)
        if (multiplies_rows(s, i)) {
            Smoothed *v = value_of(s, mem, node_in(s->g, &s->g->node.at[i], 0));
            v->tied = v->tied || table_of(s->g, s->looked, node_in(s->g, &s->g->node.at[i], 1)).id;
            vec_push(mem, &v->reader, i);
        }
    Gains *gains = NEW_ARRAY(mem, Gains, s->value.n + 1);
    uint32_t *readers = NEW_ARRAY(mem, uint32_t, s->value.n + 1);
    bool *folds = NEW_ARRAY(mem, bool, s->value.n + 1);
    for (uint32_t i = 0; i < s->value.n; i++)
        gains[i] = (Gains){s->value.at[i].x, s->value.at[i].channels, NULL}, readers[i] = s->value.at[i].reader.n;
    gains_fold(s->g, gains, readers, s->value.n, folds);
    for (uint32_t i = 0; i < s->value.n; i++) s->value.at[i].folds = folds[i];
}

/* Of a sample as many rows as fill the room with those of the others. */
static int64_t share(int64_t room, uint32_t samples) { return samples ? (room + samples - 1) / samples : room; }

static void keep_rows(void *ctx, uint32_t i)
{
    const Smoother *s = ctx;
    Smoothed *v = &s->value.at[i];
    const float *x = s->out[i]->data;
    int64_t rows = v->channels ? tensor_count(s->out[i]) / v->channels : 0, judging = rows / JUDGING;
    uint32_t of = s->of ? s->of : SAMPLES;
    if (!v->rows) v->rows = kept_rows_new(v->channels, &v->mem);
    if (s->of >= JUDGING) {
        bool judges = s->seen % JUDGING == JUDGING - 1;
        kept_rows_add(v->rows, judges, x, rows, share(v->rows->room[judges], judges ? of / JUDGING : of - of / JUDGING));
        return;
    }
    kept_rows_add(v->rows, 0, x, rows - judging, share(v->rows->room[0], of));
    kept_rows_add(v->rows, 1, x + (rows - judging) * v->channels, judging, share(v->rows->room[1], of));
}

static bool see_sample(void *ctx, const Sample *sample, const Tensor *const *out, Diag *diag)
{
    Smoother *s = ctx;
    (void)diag;
    s->of = sample->of < SAMPLES ? sample->of : SAMPLES, s->out = out;
    crew_run(s->threads, s->value.n, keep_rows, s);
    s->seen++;
    return true;
}

static void find_gains(void *ctx, uint32_t i)
{
    const Smoother *s = ctx;
    Smoothed *v = &s->value.at[i];
    Arena work = {0};
    uint32_t n = v->reader.n;
    WeightMatrix *m = NEW_ARRAY(&work, WeightMatrix, n + 1);
    const WeightMatrix **at = NEW_ARRAY(&work, const WeightMatrix *, n + 1);
    WeightForm *form = NEW_ARRAY(&work, WeightForm, n + 1);
    for (uint32_t k = 0; k < n; k++) {
        m[k] = weight_matrix(s->g, &s->g->node.at[v->reader.at[k]], &work);
        at[k] = &m[k], form[k] = s->form[v->reader.at[k]];
    }
    v->gain = NEW_ARRAY(&v->mem, float, v->channels + 1);
    SmoothCost cost = !s->gains || v->tied ? SMOOTH_NEVER : v->folds ? SMOOTH_FREE : SMOOTH_MULTIPLIES;
    if (v->rows) v->found = smooth_find(at, form, n, v->rows, cost, v->gain);
    arena_drop(&work);
}

static void keep_found(const Smoother *s, Quantization *q)
{
    for (uint32_t i = 0; i < s->value.n; i++) {
        const Smoothed *v = &s->value.at[i];
        if (!v->found.any && !(v->found.tensor > 0)) continue;
        Arena work = {0};
        const char *name = tensor_name(s->g, v->x, &work);
        const Range *is = range_find(q, name);
        Range *r = range_set(q, name, is ? is->lo : 0, is ? is->hi : 0);
        r->tensor_db = v->found.tensor, r->row_db = v->found.rows;
        if (v->found.any) r->gain = arena_copy(q->mem, v->gain, sizeof *v->gain * (size_t)v->channels), r->gains = v->channels;
        arena_drop(&work);
    }
}

bool smooth_values(const Graph *g, Quantization *q, const CalibrateOptions *o, bool gains, Diag *diag)
{
    Arena mem = {0};
    Smoother s = {.g = g, .form = quantize_forms(g, q, &mem), .looked = tables_looked_up(g, &mem), .threads = o->threads, .gains = gains};
    for (Range *r = q->range.at; r < q->range.at + q->range.n; r++) r->gain = NULL, r->gains = 0, r->tensor_db = r->row_db = 0;
    if (!q->float_activations) find_values(&s, &mem);
    Val *watch = NEW_ARRAY(&mem, Val, s.value.n + 1);
    for (uint32_t i = 0; i < s.value.n; i++) watch[i] = s.value.at[i].x;
    bool ok = !s.value.n || observe_some(g, watch, s.value.n, o, SAMPLES, "smoothing", see_sample, &s, diag);
    if (ok) crew_run(o->threads, s.value.n, find_gains, &s), keep_found(&s, q);
    for (uint32_t i = 0; i < s.value.n; i++) arena_drop(&s.value.at[i].mem);
    arena_drop(&mem);
    return ok;
}
