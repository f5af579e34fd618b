/* refine.c - see refine.h. A round: the model up to its layers, with the codes found so far as its weights, is compiled and run on all
 * samples; their inputs are added to second moments, threads taking layers; then threads round the layers. Every layer is one
 * thread's at a time and sees its rows in order, so the number of threads changes nothing. */
#include "frontend/refine.h"
#include "frontend/crew.h"
#include <stdlib.h>

enum { ROUNDS = 8, ROWS = 8192, UNKNOWN_SAMPLES = 64 };
static const size_t REFINE_MEMORY = (size_t)256 << 20;

typedef struct LayerJob { /* one layer */
    const Node *n;
    WeightForm form;
    Arena mem;
    WeightMatrix m;
    uint32_t input;      /* number in Round.input */
    WeightChoice choice; /* in mem */
    bool refined;        /* in smaller groups, too (form_finer()): */
    WeightChoice finer;
} LayerJob;

typedef struct Input { /* what one or more layers multiply */
    Val x;             /* of the model */
    const LayerJob *of;  /* one of those layers; rows are seen as it sees them */
    Arena mem;
    Moments *moments; /* NULL: too large */
    InputRows rows;   /* of the present sample */
    uint32_t read;    /* what is watched says which rows are read; 0: nothing does */
    bool alone;       /* nothing rounded reads x but these layers */
    float *gain;      /* of x's channels, in mem; NULL: none */
} Input;

typedef struct Round {
    const Graph *g;
    const bool *coded; /* per node */
    Quantization *q;
    VEC(LayerJob) target;
    VEC(Input) input;
    uint32_t sample, samples; /* of samples: 0: nobody knows */
    int threads;
} Round;

typedef struct Watched {
    Val v;
    int rows_of; /* 0, or what attention multiplies rows of values of this rank with: of each row the largest */
} Watched;

/* ---- rows that are read ---- */
/* Do the first axes of values x, all but the last two, and their last but one stand in `factors` as the first and the last? */
static bool is_row_of(const Graph *g, Val x, Val factors)
{
    const Type *a = val_type(g, x), *f = val_type(g, factors);
    bool same = a->rank >= 2 && f->rank >= a->rank;
    for (int d = 0; same && d + 1 < a->rank; d++)
        same = dim_same(dim_canon(g->module->dim, a->dim[d]), dim_canon(g->module->dim, f->dim[d + 2 < a->rank ? d : f->rank - 1]));
    return same;
}

/* What attention multiplies rows with that are made of the rows of x: a product of two computed matrices, the last axis of the first being
 * the rows of the second. Or id 0. */
static Val factors_of(const Graph *g, Val x)
{
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        Val f = node_in(g, n, 0);
        if (n->op->quant != QUANT_INTEGER || n->op->w_taps || graph_val(g, f)->konst || graph_val(g, node_in(g, n, 1))->konst) continue;
        int rank = val_type(g, f)->rank;
        bool last = n->op->x_input == -1 || n->op->x_input == rank - 1;
        if (last && val_type(g, f)->dtype == DT_f32 && is_row_of(g, x, f)) return f;
    }
    return (Val){0};
}

/* The largest magnitude of each of the rows' factors: 0 says that a mask hides the row from all others. */
static Val largest(Graph *g, Val factors, int rank)
{
    int64_t axis[MAX_RANK], n = 0;
    const Loc *loc = g->node.at[graph_val(g, factors)->def].loc;
    for (int d = rank - 2; d + 1 < val_type(g, factors)->rank; d++) axis[n++] = d;
    Val size = emit(g, "Abs", loc, 1, factors);
    return emit(g, "ReduceMax", loc, 2, size, graph_const(g, tensor_ints(g->mem, axis, n), NULL));
}

/* ---- the model as far as it is rounded ---- */
/* What the values watched need of the graph; rounded: with the codes that its layers have so far. watched: as numbers of the graph, becomes those of the
 * result. (A layer's codes are found by the name of its result, which a quotient of it has, too.) */
static Graph *rounded_so_far(const Round *r, bool rounded, Watched *watched, uint32_t n, Arena *mem)
{
    const Graph *g = r->g;
    Arena scratch = {0};
    bool *need = NEW_ARRAY(&scratch, bool, g->val.n + 1);
    for (uint32_t i = 0; i < n; i++) need[watched[i].v.id] = true;
    bool *live = NEW_ARRAY(&scratch, bool, g->node.n + 1);
    for (uint32_t i = g->node.n; i-- > 0;) {
        const Node *node = &g->node.at[i];
        for (uint32_t k = 0; k < node->nout; k++) live[i] = live[i] || need[node_out(node, k).id];
        for (uint32_t k = 0; live[i] && k < node->nin; k++) need[node_in(g, node, k).id] = true;
    }
    Graph *out = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(out, g, &scratch);
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *node = &g->node.at[i];
        if (!live[i]) continue;
        const LayerCodes *c = rounded && r->coded[i] ? codes_find(r->q, tensor_name(g, node->out, &scratch)) : NULL;
        Val w = node_in(g, node, 1), kept = w.id ? map[w.id] : w;
        if (c) map[w.id] = codes_emit(out, &c->codes, NULL, node->loc);
        graph_copy_node(out, g, i, map);
        if (w.id) map[w.id] = kept;
    }
    for (uint32_t i = 0; i < n; i++) {
        Val v = map[watched[i].v.id];
        watched[i].v = watched[i].rows_of ? largest(out, v, watched[i].rows_of) : v;
        graph_output(out, watched[i].v, arena_printf(mem, "input_%u", i));
    }
    arena_drop(&scratch);
    return out;
}

/* ---- a round ---- */
static bool sees_alike(const LayerJob *a, const LayerJob *b)
{
    if (a->n->op->w_taps || b->n->op->w_taps || a->m.in != b->m.in || a->m.tensor->rank != b->m.tensor->rank)
        return false;
    for (int d = 0; d + 2 < a->m.tensor->rank; d++)
        if (a->m.tensor->dim[d] != b->m.tensor->dim[d]) return false;
    return true;
}

static uint32_t input_of(Round *r, Arena *mem, const LayerJob *t)
{
    Val x = multiplied(r->g, t->n);
    for (uint32_t i = 0; i < r->input.n; i++)
        if (r->input.at[i].x.id == x.id && sees_alike(r->input.at[i].of, t)) return i;
    vec_push(mem, &r->input, (Input){.x = x, .of = t});
    return r->input.n - 1;
}

static void add_rows(void *round, uint32_t i)
{
    Round *r = round;
    Input *in = &r->input.at[i];
    uint32_t samples = r->samples ? r->samples : UNKNOWN_SAMPLES;
    if (!in->moments || !in->rows.rows) return;
    int64_t rows = 4 * in->moments->in > ROWS ? 4 * in->moments->in : ROWS, most = (rows + samples - 1) / samples,
            most_held = (in->moments->held_room * HELD_OUT + samples - 1) / samples;
    if (r->samples >= HELD_OUT) {
        bool held = is_held_out(r->sample, r->samples);
        moments_add(in->moments, &in->rows, held ? most_held : most, held);
        return;
    }
    InputRows held = rows_part(in->rows, HELD_OUT, true), seen = rows_part(in->rows, HELD_OUT, false); /* of so few samples, rows */
    moments_add(in->moments, &held, (most_held + HELD_OUT - 1) / HELD_OUT, true);
    moments_add(in->moments, &seen, most, false);
}

static bool see_sample(void *ctx, const Sample *s, const Tensor *const *out, Diag *diag)
{
    Round *r = ctx;
    (void)diag;
    r->sample = s->index, r->samples = s->of;
    for (uint32_t i = 0; i < r->input.n; i++) {
        Input *in = &r->input.at[i];
        if (!in->moments) continue;
        in->rows = input_rows(r->g, in->of->n, &in->of->m, out[i], s->mem);
        if (in->read) in->rows = rows_read(in->rows, out[in->read], s->mem);
    }
    crew_run(r->threads, r->input.n, add_rows, r);
    return true;
}

static void round_layer(void *round, uint32_t i)
{
    Round *r = round;
    LayerJob *t = &r->target.at[i];
    WeightForm finer = form_finer(r->q, t->n);
    t->choice = weight_choose(r->q->weights, &t->m, &t->form, r->input.at[t->input].moments, &t->mem);
    t->refined = finer.code && t->form.code == r->q->form.code;
    if (t->refined) t->finer = weight_choose(r->q->weights, &t->m, &finer, r->input.at[t->input].moments, &t->mem);
}

/* Layers that multiply the same values, together. */
static void balance_input(void *round, uint32_t i)
{
    Round *r = round;
    Arena work = {0};
    Input *in = &r->input.at[i];
    uint32_t n = 0;
    LayerJob **job = NEW_ARRAY(&work, LayerJob *, r->target.n + 1);
    for (uint32_t k = 0; k < r->target.n; k++)
        if (r->target.at[k].input == i) job[n++] = &r->target.at[k];
    const WeightMatrix **m = NEW_ARRAY(&work, const WeightMatrix *, n + 1);
    WeightForm *form = NEW_ARRAY(&work, WeightForm, n + 1);
    WeightChoice *choice = NEW_ARRAY(&work, WeightChoice, n + 1);
    Arena **mem = NEW_ARRAY(&work, Arena *, n + 1);
    for (uint32_t k = 0; k < n; k++) m[k] = &job[k]->m, form[k] = job[k]->form, mem[k] = &job[k]->mem;
    in->gain = NEW_ARRAY(&in->mem, float, m[0]->channels + 1);
    r->q->weights->balance(m, form, n, in->moments, in->alone ? in->gain : NULL, choice, mem);
    for (uint32_t k = 0; k < n; k++) job[k]->choice = choice[k];
    arena_drop(&work);
}

static void keep_gains(const Round *r, const Input *in)
{
    int64_t n = in->of->m.channels;
    bool any = false;
    for (int64_t c = 0; in->gain && c < n; c++) any = any || in->gain[c] != 1;
    if (any && in->alone)
        vec_push(r->q->mem, &r->q->gains,
                 (Gains){in->x, n, arena_copy(r->q->mem, in->gain, sizeof *in->gain * (size_t)n)});
}

static void keep_codes(const Round *r, const LayerJob *t, const WeightChoice *c, void keep(Quantization *, LayerCodes))
{
    Arena work = {0};
    bool known = c->lost && t->m.batches == 1;
    const float *lost = known ? arena_copy(r->q->mem, c->lost, sizeof *lost * (size_t)t->m.out) : NULL;
    keep(r->q, (LayerCodes){.tensor = tensor_name(r->g, t->n->out, &work),
                            .method = r->q->weights,
                            .form = c->codes.form,
                            .codes = weight_tensors(&t->m, &c->codes, r->q->mem),
                            .sqnr = c->sqnr,
                            .error_nearest = c->error_nearest,
                            .error = c->error,
                            .fallback = c->why,
                            .lost = lost});
    arena_drop(&work);
}

static bool is_alone(const Round *r, uint32_t input)
{
    uint32_t here = 0, all = 0;
    bool state = false; /* which nothing divides */
    for (uint32_t i = 0; i < r->target.n; i++) here += r->target.at[i].input == input;
    for (uint32_t i = 0; i < r->g->node.n; i++) {
        const Node *n = &r->g->node.at[i];
        bool reads = r->coded[i] && multiplied(r->g, n).id == r->input.at[input].x.id;
        all += reads, state = state || (reads && n->op->quant == QUANT_STATE);
    }
    return !state && here == all && r->input.at[input].of->m.blocks == 1;
}

/* Whose rows a mask hides is told by what is watched beside it; matrices in batches, which have inputs of their own, are left alone. */
static void watch_reads(const Round *r, Input *in, Watched *watch, uint32_t *n)
{
    Val f = in->of->n->op->w_taps || in->of->m.blocks != 1 ? (Val){0} : factors_of(r->g, in->x);
    int rank = val_type(r->g, in->x)->rank;
    if (!f.id) return;
    for (in->read = r->input.n; in->read < *n; in->read++)
        if (watch[in->read].v.id == f.id && watch[in->read].rows_of == rank) return;
    watch[(*n)++] = (Watched){f, rank};
}

static bool round_run(Round *r, const CalibrateOptions *o, Diag *diag)
{
    Arena mem = {0};
    for (uint32_t i = 0; i < r->target.n; i++) r->target.at[i].input = input_of(r, &mem, &r->target.at[i]);
    uint32_t watched = r->input.n;
    Watched *watch = NEW_ARRAY(&mem, Watched, 2 * r->input.n + 1);
    Val *see = NEW_ARRAY(&mem, Val, 2 * r->input.n + 1);
    for (uint32_t i = 0; i < r->input.n; i++) {
        Input *in = &r->input.at[i];
        watch[i].v = in->x;
        watch_reads(r, in, watch, &watched);
        in->alone = is_alone(r, i);
        if (in->of->m.in <= MOMENTS_MOST) in->moments = moments_new(&in->of->m, &in->mem);
    }
    bool balances = r->q->weights->balance != NULL; /* values that are divided later say nothing now: the model as it is */
    const Graph *now = rounded_so_far(r, !balances, watch, watched, &mem);
    for (uint32_t i = 0; i < watched; i++) see[i] = watch[i].v;
    bool ok = observe(now, see, watched, o, 0, "rounding weights", see_sample, r, diag);
    if (ok && balances) crew_run(r->threads, r->input.n, balance_input, r);
    else if (ok) crew_run(r->threads, r->target.n, round_layer, r);
    for (uint32_t i = 0; ok && i < r->input.n; i++) keep_gains(r, &r->input.at[i]);
    for (LayerJob *t = r->target.at; ok && t < r->target.at + r->target.n; t++) {
        keep_codes(r, t, &t->choice, codes_set);
        if (t->refined) keep_codes(r, t, &t->finer, finer_set);
    }
    for (uint32_t i = 0; i < r->target.n; i++) arena_drop(&r->target.at[i].mem);
    for (uint32_t i = 0; i < r->input.n; i++) arena_drop(&r->input.at[i].mem);
    arena_drop(&mem);
    return ok;
}

bool refine_weights(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag)
{
    Arena mem = {0};
    const WeightForm *forms = weight_forms(g, q, &mem);
    bool *coded = NEW_ARRAY(&mem, bool, g->node.n + 1);
    for (uint32_t i = 0; i < g->node.n; i++) coded[i] = forms[i].code != DT_NONE;
    uint32_t layers = 0;
    bool ok = true;
    for (uint32_t i = 0; i < g->node.n; i++) layers += coded[i];
    for (uint32_t i = 0; ok && i < g->node.n;) {
        Arena one = {0};
        Round r = {.g = g, .coded = coded, .q = q, .threads = o->threads};
        size_t bytes = 0;
        for (; i < g->node.n; i++) {
            if (!coded[i]) continue;
            LayerJob t = {.n = &g->node.at[i], .form = forms[i]};
            bool full = r.target.n >= (layers + ROUNDS - 1) / ROUNDS || bytes >= REFINE_MEMORY;
            if (full && multiplied(g, t.n).id != multiplied(g, r.target.at[r.target.n - 1].n).id) break;
            t.m = weight_matrix(g, t.n, &t.mem);
            bytes += moments_bytes(&t.m);
            vec_push(&one, &r.target, t);
        }
        ok = !r.target.n || round_run(&r, o, diag);
        arena_drop(&one);
    }
    arena_drop(&mem);
    return ok;
}
