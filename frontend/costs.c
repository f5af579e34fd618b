/* costs.c - see costs.h. */
#include "frontend/costs.h"
#include "frontend/metric.h"
#include "frontend/program.h"
#include "ir/op.h"
#include <math.h>
#include <stdlib.h>

enum {
    SAMPLES = 16,       /* at most, spread over all, fewer where these would have more than */
    ENOUGH = 512,       /* rows of outputs: errors of two roundings are alike by chance where there are few, */
    DIFFERENT = 3,      /* but so many, however many rows they have: what one is about need not be what the next is about; */
    MEMORY = 256 << 20, /* or more bytes are kept of them */
    TELLING = 4,        /* samples tell what outputs are */
    LEAST_RUNS = 8,     /* of a sample */
    EQUATIONS = 2,      /* for each cost, at least, */
    EXACT = 8,          /* more where not all may be spared that costs too much: then it matters which, */
    ENOUGH_ROWS = 64,   /* and the more the fewer rows than these all samples have, */
    MOST_TIMES = 8,     /* up to so many times as many: it is by chance that errors of two roundings are alike in few rows */
    TRIES = 16,         /* choices that are tried, before all is spared that costs anything */
    ROWS = 512,         /* of an output of a sample are looked at, */
    SCORES = 64,        /* in a row of scores the largest, */
    COLUMNS = 1024      /* in another one so many, spread over it */
};
static const double DIVERGENCE = 0.0025, ENERGY = 0.001; /* that rounding may cost scores, in nats, and others, of their energy */
static const double AMOUNT = 0.25;                      /* of the rounding is tried: more of it might not add up */

/* A row of an output, or what is looked at of it. */
typedef struct Seen {
    uint32_t output;
    int64_t n, *at;
    double *is;         /* what the float model says there */
    double *share;      /* of scores: their probabilities among those looked at; of others NULL */
    bool ready;         /* they are probabilities already */
    double by;          /* what errors are multiplied by: then the bound is a sum of squares of 1 */
} Seen;
typedef VEC(Seen) Sights;

typedef struct Tried {  /* a sample */
    uint32_t index;
    Sights sights;
    int64_t size;       /* of them all */
    const Tensor **off; /* by value: what rounding adds to it in the float model */
} Tried;

typedef struct Costs {
    const Graph *g;
    const CalibrateOptions *o;
    Roundings *asked;
    Arena mem;
    uint32_t n;                /* of the roundings */
    Val *value;                /* computed ones that are rounded, each once */
    uint32_t *of, values;      /* of: which of them, per rounding; from `values` on: a constant, or of a branch, which a sample may not take */
    uint32_t *first;           /* per value: the first of its roundings */
    uint32_t *output, outputs; /* float ones of g */
    Program program;
    VEC(Tried) tried;
    uint64_t wanted;           /* of them; 0: the first is not run yet, which says how large they are */
    uint64_t random;
    VEC(const int8_t *) sign;  /* of an equation, per rounding */
    VEC(double) right;
    double cost;               /* of the choice, of the bound, added up over samples */
    int *votes;                /* per output: samples in which it looks like scores, less those in which it does not; 0 and more: it is scores */
    bool scores;               /* some are; then they are what is seen of outputs */
} Costs;

/* ---- two programs: the float model, which says what rounding adds to values; the same with operands moved by shares of that ---- */
static void outputs_copy(const Costs *w, Graph *to, const Val *map)
{
    for (uint32_t i = 0; i < w->outputs; i++)
        graph_output(to, map[w->g->output.at[w->output[i]].id], arena_printf(to->mem, "output_%u", i));
}

static Graph *plain_graph(const Costs *w, Arena *mem)
{
    const Graph *g = w->g;
    Graph *to = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(to, g, mem);
    const bool *live = graph_live(g, mem);
    for (uint32_t i = 0; i < g->node.n; i++)
        if (live[i]) graph_copy_node(to, g, i, map);
    outputs_copy(w, to, map);
    for (uint32_t i = 0; i < w->values; i++)
        graph_output(to, w->asked->off(w->asked->ctx, to, w->first[i], map[w->value[i].id]), arena_printf(mem, "off_%u", i));
    return to;
}

static Val moved(Graph *to, Val x, Val off, Val by, const Loc *loc) { return emit(to, "Add", loc, 2, x, emit(to, "Mul", loc, 2, off, by)); }

/* Node i with an operand moved, and its first output by what makes up for that on average. */
static void copy_moved(const Costs *w, Graph *to, uint32_t number, Val *map, const Val *off, Val shares)
{
    const Roundings *r = w->asked;
    uint32_t i = r->at[number].node;
    const Node *n = &w->g->node.at[i];
    Val x = node_in(w->g, n, r->at[number].operand), was = map[x.id];
    Val by = emit(to, "Gather", n->loc, 2, shares, graph_const(to, tensor_scalar(to->mem, DT_i64, number), NULL));
    map[x.id] = moved(to, was, w->of[number] < w->values ? off[w->of[number]] : r->off(r->ctx, to, number, was), by, n->loc);
    graph_copy_node(to, w->g, i, map);
    map[x.id] = was;
    Val shift = r->shift ? r->shift(r->ctx, to, number, map[n->out.id]) : (Val){0};
    if (shift.id) map[n->out.id] = moved(to, map[n->out.id], shift, by, n->loc);
}

static Graph *moved_graph(const Costs *w, Arena *mem)
{
    const Graph *g = w->g;
    Graph *to = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(to, g, mem), *off = NEW_ARRAY(mem, Val, w->values + 1);
    const bool *live = graph_live(g, mem);
    Type shares = {.dtype = DT_f32, .rank = 1, .dim = {dim_const(g->module->dim, w->n)}};
    for (uint32_t i = 0; i < w->values; i++) off[i] = graph_input(to, arena_printf(mem, "octet.off_%u", i), *val_type(g, w->value[i]));
    Val share = graph_input(to, "octet.shares", shares);
    for (uint32_t i = 0, next = 0; i < g->node.n; i++) {
        bool rounds = next < w->n && w->asked->at[next].node == i;
        if (rounds) copy_moved(w, to, next++, map, off, share);
        else if (live[i]) graph_copy_node(to, g, i, map);
    }
    outputs_copy(w, to, map);
    return to;
}

/* ---- what is seen of outputs ---- */
static double score(const Seen *s, const Tensor *t, int64_t i)
{
    double x = tensor_element(t, i);
    return s->ready ? log(fmax(x, LEAST_PROBABILITY)) : x;
}

/* What a mask rules out says nothing. */
static void leave_out_infinite(Seen *s, const Tensor *t)
{
    int64_t all = s->n;
    s->n = 0;
    for (int64_t k = 0; k < all; k++)
        if (isfinite(tensor_element(t, s->at[k]))) s->at[s->n++] = s->at[k];
}

/* The largest scores of a row, in any order. */
static void see_scores(Seen *s, const Tensor *t, int64_t from, int64_t n, Arena *mem)
{
    double sum = 0, most = -INFINITY;
    int64_t least = 0;
    s->n = n < SCORES ? n : SCORES;
    s->at = NEW_ARRAY(mem, int64_t, s->n + 1), s->share = NEW_ARRAY(mem, double, s->n + 1);
    for (int64_t i = 0; i < n; i++) {
        if (i >= s->n && !(tensor_element(t, from + i) > tensor_element(t, s->at[least]))) continue;
        s->at[i < s->n ? i : least] = from + i;
        for (int64_t k = 0; i + 1 >= s->n && k < s->n; k++)
            if (tensor_element(t, s->at[k]) < tensor_element(t, s->at[least])) least = k;
    }
    leave_out_infinite(s, t);
    for (int64_t k = 0; k < s->n; k++) most = fmax(most, score(s, t, s->at[k]));
    for (int64_t k = 0; k < s->n; k++) sum += s->share[k] = exp(score(s, t, s->at[k]) - most);
    for (int64_t k = 0; k < s->n; k++) s->share[k] /= sum;
}

static void see_values(Seen *s, const Tensor *t, int64_t from, int64_t n, Arena *mem)
{
    s->n = n < COLUMNS ? n : COLUMNS, s->at = NEW_ARRAY(mem, int64_t, s->n + 1);
    for (int64_t i = 0; i < s->n; i++) s->at[i] = from + i * n / s->n;
    leave_out_infinite(s, t);
}

static bool looks_like_scores(const Tensor *t)
{
    enum { TELLING_ROWS = 64 };
    int64_t n = t->rank > 1 ? t->dim[t->rank - 1] : 0, rows = n ? tensor_count(t) / n : 0;
    return n > 1 && t->type == DT_f32 && rows_are_scores(t->data, rows < TELLING_ROWS ? rows : TELLING_ROWS, n);
}

static void see_output(Sights *all, uint32_t output, const Tensor *t, bool scores, double part, Arena *mem)
{
    int64_t n = t->rank ? t->dim[t->rank - 1] : 1, rows = n ? tensor_count(t) / n : 0, seen = rows < ROWS ? rows : ROWS;
    uint32_t first = all->n;
    double energy = 0;
    for (int64_t i = 0; i < seen; i++) {
        Seen s = {.output = output};
        int64_t from = i * rows / seen * n;
        s.ready = scores && row_is_distribution((const float *)t->data + from, n);
        if (scores) see_scores(&s, t, from, n, mem);
        else see_values(&s, t, from, n, mem);
        s.is = NEW_ARRAY(mem, double, s.n + 1);
        for (int64_t k = 0; k < s.n; k++) s.is[k] = score(&s, t, s.at[k]);
        for (int64_t k = 0; k < s.n; k++) energy += tensor_element(t, s.at[k]) * tensor_element(t, s.at[k]);
        vec_push(mem, all, s);
    }
    double bound = part * (scores ? 2 * (double)seen * DIVERGENCE : energy * ENERGY);
    for (uint32_t i = first; i < all->n; i++) all->at[i].by = bound > 0 ? 1 / sqrt(bound) : 0;
}

/* Scores, where there are any: other outputs are by the way then. */
static Sights see_outputs(Costs *w, const Tensor *const *out, Arena *mem)
{
    Sights all = {0};
    uint32_t scores = 0;
    for (uint32_t i = 0; i < w->outputs; i++) scores += w->votes[i] >= 0;
    w->scores = scores > 0;
    for (uint32_t i = 0; i < w->outputs; i++) {
        bool are = w->votes[i] >= 0;
        if (are || !scores) see_output(&all, i, out[i], are, w->asked->part * (scores ? scores : w->outputs), mem);
    }
    return all;
}

static int64_t sight_size(const Sights *all)
{
    int64_t n = 0;
    for (uint32_t i = 0; i < all->n; i++) n += all->at[i].n;
    return n;
}

/* Of the output with most. */
static uint32_t rows_of(const Sights *all)
{
    uint32_t most = 0, n = 0;
    for (uint32_t i = 0; i < all->n; i++) {
        n = i && all->at[i].output == all->at[i - 1].output ? n + 1 : 1;
        most = n > most ? n : most;
    }
    return most;
}

/* How far moved outputs are off. Scores may all rise together. */
static float *errors_of(const Tried *t, const Tensor *const *out, Arena *mem)
{
    float *error = NEW_ARRAY(mem, float, t->size + 1), *to = error;
    for (const Seen *s = t->sights.at; s < t->sights.at + t->sights.n; to += s++->n) {
        double mean = 0;
        for (int64_t k = 0; s->share && k < s->n; k++) mean += s->share[k] * (score(s, out[s->output], s->at[k]) - s->is[k]);
        for (int64_t k = 0; k < s->n; k++)
            to[k] = (float)((score(s, out[s->output], s->at[k]) - s->is[k] - mean) * s->by * (s->share ? sqrt(s->share[k]) : 1));
    }
    return error;
}

/* ---- runs ---- */
static uint64_t draw(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u, x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static const int8_t *draw_signs(Costs *w, Arena *mem)
{
    int8_t *sign = NEW_ARRAY(mem, int8_t, w->n + 1);
    for (uint32_t i = 0; i < w->n; i++) sign[i] = draw(&w->random) & 1 ? 1 : -1;
    return sign;
}

/* The errors of outputs with values moved by share[] times what rounding takes; NULL: reported. */
static float *errors_with(const Costs *w, const Sample *s, const Tried *t, const float *share, Arena *mem, Diag *diag)
{
    Arena run = {0};
    uint32_t inputs = w->g->input.n;
    int64_t n = w->n;
    const Tensor **in = NEW_ARRAY(&run, const Tensor *, inputs + w->values + 2), **out = NEW_ARRAY(&run, const Tensor *, w->outputs + 1);
    Tensor shares = {.type = DT_f32, .rank = 1, .dim = {n}, .data = share};
    memcpy(in, s->in, inputs * sizeof *in), memcpy(in + inputs, t->off, w->values * sizeof *in);
    in[inputs + w->values] = &shares;
    float *errors = session_run(w->program.session, &run, in, out, diag) ? errors_of(t, out, mem) : NULL;
    arena_drop(&run);
    return errors;
}

/* Two runs' errors, multiplied: what roundings cost, each times the product of its signs. */
static void add_equation(Costs *w, const int8_t *a, const int8_t *b, const float *x, const float *y, int64_t n)
{
    int8_t *sign = NEW_ARRAY(&w->mem, int8_t, w->n + 1);
    for (uint32_t i = 0; i < w->n; i++) sign[i] = (int8_t)(a[i] * b[i]);
    vec_push(&w->mem, &w->sign, sign), vec_push(&w->mem, &w->right, row_dot(x, y, n) / (AMOUNT * AMOUNT));
}

static uint32_t runs_of(const Costs *w, uint32_t samples)
{
    uint32_t runs = LEAST_RUNS, rows = samples * rows_of(&w->tried.at->sights), times = ENOUGH_ROWS / (rows + !rows);
    times = times < 1 ? 1 : times > MOST_TIMES ? MOST_TIMES : times;
    while (samples * (uint64_t)runs * (runs - 1) / 2 < (uint64_t)(isfinite(w->asked->most) ? EXACT : EQUATIONS) * times * w->n) runs++;
    return runs;
}

static uint64_t bytes_kept(const Costs *w, const Tensor *const *off)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < w->values; i++) sum += tensor_bytes(off[i]);
    return sum;
}

static uint64_t samples_wanted(uint64_t rows, uint64_t bytes)
{
    uint64_t by_rows = ENOUGH / (rows + !rows), by_memory = MEMORY / (bytes + !bytes), n = by_rows < DIFFERENT ? DIFFERENT : by_rows;
    n = n < by_memory ? n : by_memory;
    return n < 1 ? 1 : n < SAMPLES ? n : SAMPLES;
}

/* Is it one of those that are wanted, spread over all that say something? */
static bool is_wanted(const Costs *w, const Sample *s)
{
    bool apart = w->asked->fitted && s->of >= HELD_OUT;
    uint32_t every = apart ? HELD_OUT : 1;
    if (apart && !is_held_out(s->index, s->of)) return false;
    return !w->wanted || is_spread(s->index / every, s->of / every, w->wanted);
}

/* One sample may leave a classifier undecided: what outputs are is the same for all. */
static bool run_telling(void *ctx, const Sample *s, Diag *diag)
{
    Costs *w = ctx;
    const Tensor **out = NEW_ARRAY(s->mem, const Tensor *, w->outputs + w->values + 1);
    if (!is_spread(s->index, s->of, TELLING)) return true;
    if (!session_run(w->program.session, s->mem, s->in, out, diag)) return false;
    for (uint32_t i = 0; i < w->outputs; i++) w->votes[i] += looks_like_scores(out[i]) ? 1 : -1;
    return true;
}

static bool run_plain(void *ctx, const Sample *s, Diag *diag)
{
    Costs *w = ctx;
    Tried t = {.index = s->index, .off = NEW_ARRAY(&w->mem, const Tensor *, w->values + 1)};
    const Tensor **out = NEW_ARRAY(s->mem, const Tensor *, w->outputs + w->values + 1), **off = out + w->outputs;
    if (!is_wanted(w, s)) return true;
    if (!session_run(w->program.session, s->mem, s->in, out, diag)) return false;
    t.sights = see_outputs(w, out, &w->mem), t.size = sight_size(&t.sights);
    if (!w->wanted) w->wanted = samples_wanted(rows_of(&t.sights), bytes_kept(w, off));
    if (!is_wanted(w, s)) return true;
    for (uint32_t i = 0; i < w->values; i++) t.off[i] = tensor_copy(&w->mem, off[i]);
    return vec_push(&w->mem, &w->tried, t), true;
}

static const Tried *tried_find(const Costs *w, uint32_t index)
{
    for (const Tried *t = w->tried.at; t < w->tried.at + w->tried.n; t++)
        if (t->index == index) return t;
    return NULL;
}

static bool run_signs(void *ctx, const Sample *s, Diag *diag)
{
    Costs *w = ctx;
    const Tried *t = tried_find(w, s->index);
    uint32_t runs = t ? runs_of(w, w->tried.n) : 0;
    const int8_t **sign = NEW_ARRAY(s->mem, const int8_t *, runs + 1);
    float **error = NEW_ARRAY(s->mem, float *, runs + 1), *share = NEW_ARRAY(s->mem, float, w->n + 1);
    for (uint32_t k = 0; k < runs; k++) {
        sign[k] = draw_signs(w, s->mem);
        for (uint32_t i = 0; i < w->n; i++) share[i] = sign[k][i] * (float)AMOUNT;
        if (!(error[k] = errors_with(w, s, t, share, s->mem, diag))) return false;
        for (uint32_t j = 0; j <= k; j++) add_equation(w, sign[j], sign[k], error[j], error[k], t->size);
    }
    return true;
}

static Relief relief_of(const Rounding *r, uint32_t relief) { return relief ? r->by[relief - 1] : (Relief){0, 1}; }

/* What relief leaves of a cost is taken for so much of the rounding: errors are the roots of costs. */
static bool run_choice(void *ctx, const Sample *s, Diag *diag)
{
    Costs *w = ctx;
    const Tried *t = tried_find(w, s->index);
    float *share = NEW_ARRAY(s->mem, float, w->n + 1);
    if (!t) return true;
    for (uint32_t i = 0; i < w->n; i++) share[i] = w->asked->at[i].reliefs ? (float)sqrt(relief_of(&w->asked->at[i], w->asked->at[i].relief).left) : 0;
    const float *error = errors_with(w, s, t, share, s->mem, diag);
    return error && (w->cost += row_dot(error, error, t->size), true);
}

static bool program_make(Costs *w, Graph *graph(const Costs *, Arena *), Diag *diag)
{
    Arena mem = {.folder = w->mem.folder}; /* what is added to constants is as large as they are */
    ProgramOptions p = {.threads = w->o->threads, .cache = w->o->cache};
    program_drop(&w->program);
    bool ok = program_new(&w->program, graph(w, &mem), &p, &w->mem, diag);
    arena_drop(&mem), files_rest(w->o->files);
    return ok;
}

static bool run_all(Costs *w, SampleFn *each, Diag *diag)
{
    return samples_each(w->o->samples, w->g, samples_are_streamed(w->o->samples) ? SAMPLES : 0, each, w, diag);
}

/* ---- what each costs, and which are not worth it ---- */
void costs_solve(const int8_t *const *sign, const double *right, uint32_t equations, uint32_t n, double *costs)
{
    enum { SWEEPS = 100 };
    Arena mem = {0};
    double *left = arena_copy(&mem, right, equations * sizeof *left + 1); /* of the right sides */
    memset(costs, 0, n * sizeof *costs);
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (uint32_t i = 0; i < n; i++) {
            double sum = 0;
            for (uint32_t e = 0; e < equations; e++) sum += sign[e][i] * left[e];
            double more = fmax(sum / equations, -costs[i]);
            costs[i] += more;
            for (uint32_t e = 0; e < equations; e++) left[e] -= sign[e][i] * more;
        }
    arena_drop(&mem);
}

typedef struct Choice {
    uint32_t number, relief;
    double worth; /* what it takes from the cost, over its price */
} Choice;

static int by_worth(const void *a, const void *b)
{
    const Choice *x = a, *y = b;
    if (x->worth != y->worth) return x->worth < y->worth ? 1 : -1;
    return x->number != y->number ? (x->number > y->number) - (x->number < y->number) : (x->relief > y->relief) - (x->relief < y->relief);
}

static double worth_of(const Rounding *r, uint32_t from, uint32_t to)
{
    Relief a = relief_of(r, from), b = relief_of(r, to);
    return r->cost * (a.left - b.left) / fmax(b.price - a.price, 1);
}

/* The reliefs that there are, n of them, each for what it takes from the one before it, or from the whole cost where that is less: then the one before it is passed over. */
static Choice *choices_of(Costs *w, uint32_t *n)
{
    double *costs = NEW_ARRAY(&w->mem, double, w->n + 1);
    Choice *c = NEW_ARRAY(&w->mem, Choice, w->n * MOST_RELIEFS + 1);
    costs_solve(w->sign.at, w->right.at, w->right.n, w->n, costs);
    *n = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        Rounding *r = &w->asked->at[i];
        r->cost = costs[i];
        for (uint32_t k = 1; k <= r->reliefs; k++) c[(*n)++] = (Choice){i, k, fmin(worth_of(r, k - 1, k), worth_of(r, 0, k))};
    }
    qsort(c, *n, sizeof *c, by_worth);
    return c;
}

/* Those first that take most for their price, until what is left costs no more than is allowed; what is too dear for what may still be paid is passed
 * over. What is left by these figures. */
static double spare_worst(Costs *w, const Choice *c, uint32_t n, double allowed)
{
    double sum = 0, paid = 0;
    for (Rounding *r = w->asked->at; r < w->asked->at + w->n; r++) sum += r->reliefs ? r->cost : 0, r->relief = 0;
    for (uint32_t k = 0; k < n && sum > allowed; k++) {
        Rounding *r = &w->asked->at[c[k].number];
        Relief was = relief_of(r, r->relief), is = relief_of(r, c[k].relief);
        if (r->relief >= c[k].relief || paid + is.price - was.price > w->asked->most) continue;
        sum -= r->cost * (was.left - is.left), paid += is.price - was.price, r->relief = c[k].relief;
    }
    return sum;
}

/* What a choice costs together, of the bound. */
static bool measure_choice(Costs *w, Diag *diag)
{
    w->cost = 0;
    if (!run_all(w, run_choice, diag)) return false;
    return w->cost /= w->tried.n, true;
}

/* Less is allowed until what a choice costs is inside the bound, or no more may be paid. */
static bool choose(Costs *w, const Choice *c, uint32_t n, Diag *diag)
{
    double allowed = 1;
    for (int i = 0; i < TRIES; i++) {
        double sum = spare_worst(w, c, n, allowed);
        w->cost = 0;
        if (sum <= 0) break; /* nothing left to choose */
        if (!measure_choice(w, diag)) return false;
        if (w->cost <= 1 || sum > allowed) break;
        allowed = i + 2 < TRIES ? fmin(allowed, sum) / (w->cost * 1.05) : 0;
    }
    return true;
}

/* Where all together are inside the bound, only a report asks which of them costs what. */
static bool weigh_all(Costs *w, Diag *diag)
{
    uint32_t n;
    if (!w->tried.n) return true;
    if (!measure_choice(w, diag)) return false;
    bool inside = w->cost <= 1;
    if (inside && !w->o->each) return true;
    if (!run_all(w, run_signs, diag)) return false;
    const Choice *c = choices_of(w, &n);
    return inside || choose(w, c, n, diag);
}

/* Of the bound until now. */
static void costs_fill(const Costs *w)
{
    Roundings *r = w->asked;
    double bound = r->part * (w->scores ? DIVERGENCE : ENERGY);
    for (uint32_t i = 0; i < w->n; i++) r->at[i].cost *= bound;
    r->costs = (OutputCosts){.known = true, .scores = w->scores, .bound = bound, .left = w->cost * bound};
}

static void outputs_find(Costs *w)
{
    w->output = NEW_ARRAY(&w->mem, uint32_t, w->g->output.n + 1), w->votes = NEW_ARRAY(&w->mem, int, w->g->output.n + 1);
    for (uint32_t i = 0; i < w->g->output.n; i++)
        if (dtype_is_float(val_type(w->g, w->g->output.at[i])->dtype)) w->output[w->outputs++] = i;
}

static bool in_branch(const Graph *g, Val v) { return graph_when(g, v).id != 0; }

static void values_find(Costs *w)
{
    w->value = NEW_ARRAY(&w->mem, Val, w->n + 1), w->first = NEW_ARRAY(&w->mem, uint32_t, w->n + 1);
    w->of = NEW_ARRAY(&w->mem, uint32_t, w->n + 1);
    for (uint32_t i = 0; i < w->n; i++) {
        Val x = node_in(w->g, &w->g->node.at[w->asked->at[i].node], w->asked->at[i].operand);
        uint32_t v = 0;
        w->of[i] = UINT32_MAX, w->asked->at[i].cost = NAN, w->asked->at[i].relief = 0;
        if (graph_val(w->g, x)->konst || in_branch(w->g, x) || in_branch(w->g, w->g->node.at[w->asked->at[i].node].out)) continue;
        while (v < w->values && w->value[v].id != x.id) v++;
        if (v == w->values) w->first[v] = i, w->value[w->values++] = x;
        w->of[i] = v;
    }
}

bool costs_choose(const Graph *g, Roundings *r, const CalibrateOptions *o, Diag *diag)
{
    Costs w = {.g = g, .asked = r, .n = r->n, .o = o, .mem.folder = temporary_base()};
    values_find(&w), outputs_find(&w);
    bool ok = !w.n || !w.outputs ||
              (program_make(&w, plain_graph, diag) && run_all(&w, run_telling, diag) && run_all(&w, run_plain, diag) &&
               program_make(&w, moved_graph, diag) && weigh_all(&w, diag));
    if (ok && w.tried.n) costs_fill(&w);
    program_drop(&w.program), arena_drop(&w.mem);
    return ok;
}
