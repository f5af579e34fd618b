/* judge.c - see judge.h. Of every layer some rows of its input are kept, the same ones of both graphs, and some outputs are computed of them, with
 * and without rounding. An output channel's error is relative to the channel, so that factors of channels, which an equalization moves
 * from one layer to another, say nothing themselves. Nothing was chosen by these rows. */
#include "frontend/judge.h"
#include "frontend/crew.h"
#include "frontend/metric.h"
#include <math.h>

enum { SAMPLES = 8, ROWS = 64, OUTPUTS = 64, ROUNDS = 4 };

typedef struct Seen {   /* a layer in one of the graphs */
    const Node *n;
    WeightForm form;
    WeightMatrix m;     /* without its elements */
    uint32_t input;     /* number in Side.watch */
    float *row;         /* [blocks][ROWS][in] */
    int64_t rows;
    float lo, hi;       /* of all values of its input */
} Seen;

typedef struct Side {
    const Graph *g;
    VEC(Seen) layer;
    VEC(Val) watch;
    uint32_t sample, samples; /* of samples: 0: nobody knows */
    Arena *mem;
} Side;

typedef struct Judge {
    Side before, after;
    uint32_t *pair;     /* per layer of `after`: that of `before` */
    double *db[2];      /* per layer of `after` */
    bool floats;        /* values are not rounded */
} Judge;

/* ---- layers ---- */
static uint32_t watched(Side *s, Val x)
{
    for (uint32_t i = 0; i < s->watch.n; i++)
        if (s->watch.at[i].id == x.id) return i;
    vec_push(s->mem, &s->watch, x);
    return s->watch.n - 1;
}

static void add_layer(Side *s, uint32_t node, WeightForm form)
{
    Arena work = {0};
    Seen l = {.n = &s->g->node.at[node], .form = form};
    l.m = weight_matrix(s->g, l.n, &work);
    l.m.row = l.m.col = NULL, l.m.w = NULL;
    l.input = watched(s, multiplied(s->g, l.n));
    l.row = NEW_ARRAY(s->mem, float, l.m.blocks * ROWS * l.m.in + 1);
    vec_push(s->mem, &s->layer, l);
    arena_drop(&work);
}

static const Tensor *weights_of(const Graph *g, uint32_t node) { return graph_val(g, node_in(g, &g->node.at[node], 1))->konst; }

/* Layers of both graphs, by the names of their outputs, whose weights differ. */
static void find_layers(Judge *j, const Quantization *q, Arena *mem)
{
    Map at = {0};
    const WeightForm *before = quantize_forms(j->before.g, q, mem), *after = quantize_forms(j->after.g, q, mem);
    for (uint32_t i = 0; i < j->before.g->node.n; i++)
        if (before[i].code) map_put(mem, &at, tensor_name(j->before.g, j->before.g->node.at[i].out, mem), i + 1);
    for (uint32_t i = 0; i < j->after.g->node.n; i++) {
        uint32_t was = after[i].code ? map_get(&at, tensor_name(j->after.g, j->after.g->node.at[i].out, mem)) : 0;
        if (!was) continue;
        const Tensor *a = weights_of(j->before.g, was - 1), *b = weights_of(j->after.g, i);
        if (!tensor_alike(a, b) || tensor_equal(a, b)) continue;
        add_layer(&j->before, was - 1, before[was - 1]), add_layer(&j->after, i, after[i]);
    }
}

/* ---- rows ---- */
static void see_range(Seen *l, const Tensor *x)
{
    const float *v = x->data;
    for (int64_t i = 0, n = tensor_count(x); i < n; i++)
        if (isfinite(v[i])) l->lo = fminf(l->lo, v[i]), l->hi = fmaxf(l->hi, v[i]);
}

static void keep_rows(const Side *s, Seen *l, const InputRows *r)
{
    uint32_t of = s->samples && s->samples < SAMPLES ? s->samples : SAMPLES;
    int64_t share = (ROWS + of - 1) / of, taken = r->rows < share ? r->rows : share;
    if (taken > ROWS - l->rows) taken = ROWS - l->rows;
    for (int64_t b = 0; b < l->m.blocks; b++)
        for (int64_t k = 0; k < taken; k++) {
            float *to = l->row + (b * ROWS + l->rows + k) * l->m.in;
            input_row(r, b, row_spread(s->sample + 1, k, taken, r->rows), to);
            if (!row_is_finite(to, l->m.in)) memset(to, 0, sizeof *to * (size_t)l->m.in);
        }
    l->rows += taken;
}

static bool see_sample(void *side, const Sample *sample, const Tensor *const *out, Diag *diag)
{
    Side *s = side;
    (void)diag;
    s->samples = sample->of;
    for (uint32_t i = 0; i < s->layer.n; i++) {
        Seen *l = &s->layer.at[i];
        InputRows r = input_rows(s->g, l->n, &l->m, out[l->input], sample->mem);
        see_range(l, out[l->input]), keep_rows(s, l, &r);
    }
    s->sample++;
    return true;
}

/* ---- errors ---- */
/* Some output channels, spread over all, as a matrix; *block of each. */
static WeightMatrix some_outputs(const Side *s, const Seen *l, int64_t *block, Arena *mem)
{
    WeightMatrix m = weight_matrix(s->g, l->n, mem);
    const float *w = m.w;
    int64_t all = m.out;
    m.out = all < OUTPUTS ? all : OUTPUTS, m.batches = 1;
    m.w = NEW_ARRAY(mem, float, m.out * m.in + 1);
    for (int64_t o = 0; o < m.out; o++) {
        int64_t at = o * all / m.out;
        block[o] = at / (all / m.blocks);
        memcpy(m.w + o * m.in, w + at * m.in, sizeof *w * (size_t)m.in);
    }
    return m;
}

/* u8, by one range for all or, each, s8 by every row's own. */
static float *rounded_rows(const Seen *l, bool each, Arena *mem)
{
    int64_t in = l->m.in;
    float *x = NEW_ARRAY(mem, float, l->m.blocks * ROWS * in + 1), lo = fminf(l->lo, 0), hi = fmaxf(l->hi, 0);
    for (int64_t r = 0; r < l->m.blocks * ROWS; r++) {
        const float *from = l->row + r * in;
        float most = 0, step = (hi - lo) / 255;
        for (int64_t c = 0; c < in; c++) most = fmaxf(most, fabsf(from[c]));
        if (each) step = most / (lo < 0 ? 127 : 255);
        for (int64_t c = 0; c < in; c++) x[r * in + c] = step > 0 ? step * rintf(from[c] / step) : from[c];
    }
    return x;
}

/* The mean of the channels' errors, in dB; channels of next to nothing count as if they were a little. */
static double error_db(const Seen *l, const WeightMatrix *is, const WeightMatrix *becomes, const float *x, const int64_t *block)
{
    static const double LITTLE = 1e-6, NOTHING = 1e-30;
    double sum = 0, signal[OUTPUTS] = {0}, noise[OUTPUTS] = {0}, all = 0;
    for (int64_t o = 0; o < is->out; o++) {
        for (int64_t r = block[o] * ROWS; r < block[o] * ROWS + l->rows; r++) {
            double y = row_dot(l->row + r * is->in, is->w + o * is->in, is->in), z = row_dot(x + r * is->in, becomes->w + o * is->in, is->in);
            signal[o] += y * y, noise[o] += (z - y) * (z - y);
        }
        all += signal[o] / (double)is->out;
    }
    for (int64_t o = 0; o < is->out; o++) sum += noise[o] / (signal[o] + LITTLE * all + NOTHING) / (double)is->out;
    return -10 * log10(sum + NOTHING);
}

static double layer_db(const Side *s, const Seen *l, bool floats)
{
    Arena work = {0};
    int64_t block[OUTPUTS];
    WeightMatrix is = some_outputs(s, l, block, &work), becomes = is;
    becomes.w = arena_copy(&work, is.w, sizeof *is.w * (size_t)(is.out * is.in));
    weights_rounded(&becomes, &l->form);
    double db = error_db(l, &is, &becomes, floats ? l->row : rounded_rows(l, false, &work), block);
    if (!floats && !l->n->op->w_taps) { /* as pass_quantize() will choose them */
        double each = error_db(l, &is, &becomes, rounded_rows(l, true, &work), block);
        if (rows_pay(db, each)) db = each;
    }
    arena_drop(&work);
    return db;
}

static void judge_layer(void *judge, uint32_t i)
{
    Judge *j = judge;
    j->db[0][i] = layer_db(&j->before, &j->before.layer.at[i], j->floats);
    j->db[1][i] = layer_db(&j->after, &j->after.layer.at[i], j->floats);
}

/* What the rewriting did to every layer it changed; sum: of all gains, in dB. */
static bool judge(const Graph *before, const Graph *after, Quantization *q, Rewriting kind, const CalibrateOptions *o, double *sum, Diag *diag)
{
    static const char *const what[] = {[REWRITING_EQUALIZE] = "judging equalization", [REWRITING_ROTATE] = "judging rotation"};
    Arena mem = {0};
    Judge j = {.before = {.g = before, .mem = &mem}, .after = {.g = after, .mem = &mem}, .floats = q->float_activations};
    find_layers(&j, q, &mem);
    uint32_t n = j.after.layer.n;
    for (int k = 0; k < 2; k++) j.db[k] = NEW_ARRAY(&mem, double, n + 1);
    bool ok = !n || (observe_some(before, j.before.watch.at, j.before.watch.n, o, SAMPLES, what[kind], see_sample, &j.before, diag) &&
                     observe_some(after, j.after.watch.at, j.after.watch.n, o, SAMPLES, what[kind], see_sample, &j.after, diag));
    if (ok) crew_run(o->threads, n, judge_layer, &j);
    *sum = 0;
    for (uint32_t i = 0; ok && i < n; i++) {
        LayerRewriting *l = rewriting_note(q, tensor_name(after, j.after.layer.at[i].n->out, &mem), kind);
        *l = (LayerRewriting){.judged = true, .taken = true, .before = j.db[0][i], .after = j.db[1][i]};
        *sum += l->after - l->before;
    }
    arena_drop(&mem);
    return ok;
}

/* ---- equalization: pair by pair ---- */
/* Pairs whose layers lose stay as they are from now on. */
static bool give_back(Quantization *q)
{
    bool any = false;
    for (uint32_t i = 0; i < q->pair.n; i++) {
        const EqualPair *p = &q->pair.at[i];
        double sum = 0;
        for (uint32_t k = 0; k < p->layer.n; k++) {
            const LayerRewriting *l = rewriting_note(q, p->layer.at[k], REWRITING_EQUALIZE);
            sum += l->judged ? l->after - l->before : 0;
        }
        if (sum >= 0) continue;
        for (uint32_t k = 0; k < p->layer.n; k++) rewriting_note(q, p->layer.at[k], REWRITING_EQUALIZE)->taken = false;
        vec_push(q->mem, &q->uneven, p->x), any = true;
    }
    return any;
}

static bool judge_equalization(const Graph *g, Quantization *q, RewriteFn *rewrite, void *ctx, const CalibrateOptions *o, Diag *diag)
{
    bool ok = true, again = true;
    double sum;
    for (int round = 0; ok && again && round < ROUNDS; round++) {
        Arena mem = {0};
        const Graph *even = rewrite(ctx, g, REWRITING_EQUALIZE, q, &mem);
        ok = even && judge(g, even, q, REWRITING_EQUALIZE, o, &sum, diag);
        again = ok && give_back(q);
        arena_drop(&mem);
    }
    for (uint32_t i = 0; ok && again && i < q->pair.n; i++) { /* every choice of them lost somewhere */
        for (uint32_t k = 0; k < q->pair.at[i].layer.n; k++) rewriting_note(q, q->pair.at[i].layer.at[k], REWRITING_EQUALIZE)->taken = false;
        vec_push(q->mem, &q->uneven, q->pair.at[i].x);
    }
    return ok;
}

/* ---- rotation: the model as a whole ---- */
static bool judge_rotation(const Graph *g, Quantization *q, RewriteFn *rewrite, void *ctx, const CalibrateOptions *o, Diag *diag)
{
    Arena mem = {0};
    double sum = 0;
    const Graph *even = q->equalize ? rewrite(ctx, g, REWRITING_EQUALIZE, q, &mem) : g, *turned = even ? rewrite(ctx, even, REWRITING_ROTATE, q, &mem) : NULL;
    bool ok = turned && judge(even, turned, q, REWRITING_ROTATE, o, &sum, diag);
    if (ok && sum < 0) {
        q->rotate = false;
        for (uint32_t i = 0; i < q->tried.n; i++) q->tried.at[i]->by[REWRITING_ROTATE].taken = false;
    }
    arena_drop(&mem);
    return ok;
}

bool judge_rewritings(const Graph *g, Quantization *q, RewriteFn *rewrite, void *ctx, const CalibrateOptions *o, Diag *diag)
{
    return (!q->equalize || judge_equalization(g, q, rewrite, ctx, o, diag)) && (!q->rotate || judge_rotation(g, q, rewrite, ctx, o, diag));
}
