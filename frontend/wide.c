/* wide.c - see wide.h. */
#include "frontend/wide.h"
#include "frontend/metric.h"
#include "frontend/program.h"
#include "ir/op.h"
#include <math.h>
#include <stdlib.h>

enum {
    SAMPLES = 16,       /* at most, spread over all, fewer where these would have more than */
    ENOUGH = 512,       /* rows of outputs: errors of two products are alike by chance where there are few; */
    MEMORY = 256 << 20, /* or more bytes are kept of them */
    LEAST_RUNS = 8,     /* of a sample */
    EQUATIONS = 2,      /* for each product, at least */
    TRIES = 16,         /* choices that are tried, before all products that cost anything multiply 16 bits */
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
    const Tensor **off; /* by value: what rounding takes from it in the float model */
} Tried;

typedef struct Wide {
    const Graph *g;
    Quantization *q;
    const CalibrateOptions *o;
    Arena mem;
    RowProduct *product;
    uint32_t n;
    Val *value;                /* that they multiply, each once */
    uint32_t *of, values;      /* of: which of them, per product */
    uint32_t *output, outputs; /* float ones of g */
    Program program;
    VEC(Tried) tried;
    uint64_t wanted;           /* of them; 0: the first is not run yet, which says how large they are */
    uint64_t random;
    VEC(const int8_t *) sign;  /* of an equation, per product */
    VEC(double) right;
    bool *wide;                /* the choice, per product, */
    double cost;               /* and what it costs, of the bound, added up over samples */
} Wide;

/* ---- two programs: the float model, which says what rounding takes from values; the same with values moved by shares of that ---- */
static Graph *plain_graph(const Wide *w, Arena *mem)
{
    const Graph *g = w->g;
    Graph *to = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(to, g, mem);
    const bool *live = graph_live(g, mem);
    for (uint32_t i = 0; i < g->node.n; i++)
        if (live[i]) graph_copy_node(to, g, i, map);
    for (uint32_t i = 0; i < w->outputs; i++)
        graph_output(to, map[g->output.at[w->output[i]].id], arena_printf(mem, "output_%u", i));
    for (uint32_t i = 0, done = 0; i < w->n; i++) {
        const RowProduct *p = &w->product[i];
        const Node *n = &g->node.at[p->node];
        Val x = map[w->value[w->of[i]].id];
        if (w->of[i] < done) continue;
        const Range *r = range_find(w->q, tensor_name(g, w->value[done], mem));
        Val off = emit(to, "Sub", n->loc, 2, through_eight_bits(to, x, r, p->rows, n->loc), x);
        graph_output(to, off, arena_printf(mem, "off_%u", done++));
    }
    return to;
}

static Graph *moved_graph(const Wide *w, Arena *mem)
{
    const Graph *g = w->g;
    Graph *to = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(to, g, mem), *off = NEW_ARRAY(mem, Val, w->values + 1);
    const bool *live = graph_live(g, mem);
    Type shares = {.dtype = DT_f32, .rank = 1, .dim = {dim_const(g->module->dim, w->n)}};
    for (uint32_t i = 0; i < w->values; i++) off[i] = graph_input(to, arena_printf(mem, "octet.off_%u", i), *val_type(g, w->value[i]));
    Val share = graph_input(to, "octet.shares", shares);
    for (uint32_t i = 0, next = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        Val x = node_in(g, n, 0), was = map[x.id];
        if (!live[i]) continue;
        if (next < w->n && w->product[next].node == i) {
            Val by = emit(to, "Gather", n->loc, 2, share, graph_const(to, tensor_scalar(mem, DT_i64, next), NULL));
            map[x.id] = emit(to, "Add", n->loc, 2, was, emit(to, "Mul", n->loc, 2, off[w->of[next++]], by));
        }
        graph_copy_node(to, g, i, map);
        map[x.id] = was;
    }
    for (uint32_t i = 0; i < w->outputs; i++)
        graph_output(to, map[g->output.at[w->output[i]].id], arena_printf(mem, "output_%u", i));
    return to;
}

/* ---- what is seen of outputs ---- */
static double element(const Tensor *t, int64_t i)
{
    return t->type == DT_f32 ? (double)((const float *)t->data)[i] : dtype_load(t->type, t->data, i);
}

static double score(const Seen *s, const Tensor *t, int64_t i)
{
    static const double LEAST = 1e-7; /* of a probability */
    double x = element(t, i);
    return s->ready ? log(fmax(x, LEAST)) : x;
}

/* The largest scores of a row, in any order. */
static void see_scores(Seen *s, const Tensor *t, int64_t from, int64_t n, Arena *mem)
{
    double sum = 0, most = -INFINITY;
    int64_t least = 0;
    s->n = n < SCORES ? n : SCORES;
    s->at = NEW_ARRAY(mem, int64_t, s->n + 1), s->share = NEW_ARRAY(mem, double, s->n + 1);
    for (int64_t i = 0; i < n; i++) {
        if (i >= s->n && !(element(t, from + i) > element(t, s->at[least]))) continue;
        s->at[i < s->n ? i : least] = from + i;
        for (int64_t k = 0; i + 1 >= s->n && k < s->n; k++)
            if (element(t, s->at[k]) < element(t, s->at[least])) least = k;
    }
    for (int64_t k = 0; k < s->n; k++) most = fmax(most, score(s, t, s->at[k]));
    for (int64_t k = 0; k < s->n; k++) sum += s->share[k] = exp(score(s, t, s->at[k]) - most);
    for (int64_t k = 0; k < s->n; k++) s->share[k] /= sum;
}

static void see_values(Seen *s, int64_t from, int64_t n, Arena *mem)
{
    s->n = n < COLUMNS ? n : COLUMNS, s->at = NEW_ARRAY(mem, int64_t, s->n + 1);
    for (int64_t i = 0; i < s->n; i++) s->at[i] = from + i * n / s->n;
}

static bool looks_like_scores(const Tensor *t)
{
    enum { TELLING_ROWS = 64 };
    int64_t n = t->rank > 1 ? t->dim[t->rank - 1] : 0, rows = n ? tensor_count(t) / n : 0;
    return n > 1 && t->type == DT_f32 && rows_are_scores(t->data, rows < TELLING_ROWS ? rows : TELLING_ROWS, n);
}

static void see_output(Sights *all, uint32_t output, const Tensor *t, bool scores, uint32_t outputs, Arena *mem)
{
    int64_t n = t->rank ? t->dim[t->rank - 1] : 1, rows = n ? tensor_count(t) / n : 0, seen = rows < ROWS ? rows : ROWS;
    uint32_t first = all->n;
    double energy = 0;
    for (int64_t i = 0; i < seen; i++) {
        Seen s = {.output = output};
        int64_t from = i * rows / seen * n;
        s.ready = scores && row_is_distribution((const float *)t->data + from, n);
        if (scores) see_scores(&s, t, from, n, mem);
        else see_values(&s, from, n, mem);
        s.is = NEW_ARRAY(mem, double, s.n + 1);
        for (int64_t k = 0; k < s.n; k++) s.is[k] = score(&s, t, s.at[k]);
        for (int64_t k = 0; k < s.n; k++) energy += element(t, s.at[k]) * element(t, s.at[k]);
        vec_push(mem, all, s);
    }
    double bound = outputs * (scores ? 2 * (double)seen * DIVERGENCE : energy * ENERGY);
    for (uint32_t i = first; i < all->n; i++) all->at[i].by = bound > 0 ? 1 / sqrt(bound) : 0;
}

/* Scores, where there are any: other outputs are by the way then. */
static Sights see_outputs(const Wide *w, const Tensor *const *out, Arena *mem)
{
    Sights all = {0};
    uint32_t scores = 0;
    for (uint32_t i = 0; i < w->outputs; i++) scores += looks_like_scores(out[i]);
    for (uint32_t i = 0; i < w->outputs; i++) {
        bool are = looks_like_scores(out[i]);
        if (are || !scores) see_output(&all, i, out[i], are, scores ? scores : w->outputs, mem);
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

static const int8_t *draw_signs(Wide *w, Arena *mem)
{
    int8_t *sign = NEW_ARRAY(mem, int8_t, w->n + 1);
    for (uint32_t i = 0; i < w->n; i++) sign[i] = draw(&w->random) & 1 ? 1 : -1;
    return sign;
}

/* The errors of outputs with values moved by share[] times what rounding takes; NULL: reported. */
static float *errors_with(const Wide *w, const Sample *s, const Tried *t, const float *share, Arena *mem, Diag *diag)
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

/* Two runs' errors, multiplied: what products cost, each times the product of its signs. */
static void add_equation(Wide *w, const int8_t *a, const int8_t *b, const float *x, const float *y, int64_t n)
{
    int8_t *sign = NEW_ARRAY(&w->mem, int8_t, w->n + 1);
    for (uint32_t i = 0; i < w->n; i++) sign[i] = (int8_t)(a[i] * b[i]);
    vec_push(&w->mem, &w->sign, sign), vec_push(&w->mem, &w->right, row_dot(x, y, n) / (AMOUNT * AMOUNT));
}

static uint32_t runs_of(const Wide *w, uint32_t samples)
{
    uint32_t runs = LEAST_RUNS;
    while (samples * (uint64_t)runs * (runs - 1) / 2 < (uint64_t)EQUATIONS * w->n) runs++;
    return runs;
}

static uint64_t bytes_kept(const Wide *w, const Tensor *const *off)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < w->values; i++) sum += tensor_bytes(off[i]);
    return sum;
}

static uint64_t samples_wanted(uint64_t rows, uint64_t bytes)
{
    uint64_t by_rows = ENOUGH / (rows + !rows), by_memory = MEMORY / (bytes + !bytes), n = by_rows < by_memory ? by_rows : by_memory;
    return n < 1 ? 1 : n < SAMPLES ? n : SAMPLES;
}

static bool run_plain(void *ctx, const Sample *s, Diag *diag)
{
    Wide *w = ctx;
    Tried t = {.index = s->index, .off = NEW_ARRAY(&w->mem, const Tensor *, w->values + 1)};
    const Tensor **out = NEW_ARRAY(s->mem, const Tensor *, w->outputs + w->values + 1), **off = out + w->outputs;
    if (w->wanted && !is_spread(s->index, s->of, w->wanted)) return true;
    if (!session_run(w->program.session, s->mem, s->in, out, diag)) return false;
    t.sights = see_outputs(w, out, &w->mem), t.size = sight_size(&t.sights);
    if (!w->wanted) w->wanted = samples_wanted(rows_of(&t.sights), bytes_kept(w, off));
    if (!is_spread(s->index, s->of, w->wanted)) return true;
    for (uint32_t i = 0; i < w->values; i++) {
        Tensor *copy = arena_copy(&w->mem, off[i], sizeof *copy);
        copy->data = arena_copy(&w->mem, copy->data, tensor_bytes(copy)), t.off[i] = copy;
    }
    return vec_push(&w->mem, &w->tried, t), true;
}

static const Tried *tried_find(const Wide *w, uint32_t index)
{
    for (const Tried *t = w->tried.at; t < w->tried.at + w->tried.n; t++)
        if (t->index == index) return t;
    return NULL;
}

static bool run_signs(void *ctx, const Sample *s, Diag *diag)
{
    Wide *w = ctx;
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

static bool run_choice(void *ctx, const Sample *s, Diag *diag)
{
    Wide *w = ctx;
    const Tried *t = tried_find(w, s->index);
    float *share = NEW_ARRAY(s->mem, float, w->n + 1);
    if (!t) return true;
    for (uint32_t i = 0; i < w->n; i++) share[i] = w->wide[i] ? 0 : 1;
    const float *error = errors_with(w, s, t, share, s->mem, diag);
    return error && (w->cost += row_dot(error, error, t->size), true);
}

static bool program_make(Wide *w, Graph *graph(const Wide *, Arena *), Diag *diag)
{
    Arena mem = {0};
    ProgramOptions p = {.threads = w->o->threads, .cache = w->o->cache};
    program_drop(&w->program);
    bool ok = program_new(&w->program, graph(w, &mem), &p, &w->mem, diag);
    arena_drop(&mem), files_rest(w->o->files);
    return ok;
}

static bool run_all(Wide *w, SampleFn *each, Diag *diag)
{
    return samples_each(w->o->samples, w->g, samples_are_streamed(w->o->samples) ? SAMPLES : 0, each, w, diag);
}

/* ---- what products cost, and which are not worth it ---- */
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
    uint32_t product;
    double cost, worth; /* of 8 bits, of the bound; the same over its multiplications */
} Choice;

static int by_worth(const void *a, const void *b)
{
    const Choice *x = a, *y = b;
    return x->worth != y->worth ? (x->worth < y->worth) - (x->worth > y->worth) : (x->product > y->product) - (x->product < y->product);
}

static void mark_wide(const Wide *w, const RowProduct *p)
{
    Arena mem = {0};
    Val x = node_in(w->g, &w->g->node.at[p->node], 0);
    const char *name = tensor_name(w->g, x, &mem);
    const Range *is = range_find(w->q, name);
    Range *r = range_set(w->q, name, is->lo, is->hi);
    int64_t readers = p->reader + 1 > r->readers ? p->reader + 1 : r->readers;
    bool *wide = NEW_ARRAY(w->q->mem, bool, readers + 1);
    if (r->wide) memcpy(wide, r->wide, (size_t)r->readers * sizeof *wide);
    wide[p->reader] = true, r->wide = wide, r->readers = readers;
    arena_drop(&mem);
}

static Choice *choices_of(Wide *w)
{
    double *costs = NEW_ARRAY(&w->mem, double, w->n + 1);
    Choice *c = NEW_ARRAY(&w->mem, Choice, w->n + 1);
    costs_solve(w->sign.at, w->right.at, w->right.n, w->n, costs);
    for (uint32_t i = 0; i < w->n; i++) c[i] = (Choice){i, costs[i], costs[i] / fmax(w->product[i].products, 1)};
    qsort(c, w->n, sizeof *c, by_worth);
    return c;
}

/* Those first that cost most for the time that they save, until the others cost no more than is allowed. */
static bool choose(Wide *w, Diag *diag)
{
    const Choice *c = choices_of(w);
    double allowed = 1;
    for (int i = 0; i < TRIES; i++) {
        double sum = 0;
        for (uint32_t k = 0; k < w->n; k++) sum += c[k].cost, w->wide[k] = false;
        for (uint32_t k = 0; k < w->n && sum > allowed; k++) sum -= c[k].cost, w->wide[c[k].product] = true;
        if (sum <= 0) break; /* nothing left to choose */
        w->cost = 0;
        if (!run_all(w, run_choice, diag)) return false;
        double measured = w->cost / w->tried.n;
        if (measured <= 1) break;
        allowed = i + 2 < TRIES ? fmin(allowed, sum) / (measured * 1.05) : 0;
    }
    for (uint32_t i = 0; i < w->n; i++)
        if (w->wide[i]) mark_wide(w, &w->product[i]);
    return true;
}

static void outputs_find(Wide *w)
{
    w->output = NEW_ARRAY(&w->mem, uint32_t, w->g->output.n + 1);
    for (uint32_t i = 0; i < w->g->output.n; i++)
        if (dtype_is_float(val_type(w->g, w->g->output.at[i])->dtype)) w->output[w->outputs++] = i;
}

/* Products of values whose sizes only the data tells are none of them: these cannot be given to a program. */
static void products_find(Wide *w)
{
    uint32_t all = row_products(w->g, w->q, &w->product, &w->mem);
    w->value = NEW_ARRAY(&w->mem, Val, all + 1), w->of = NEW_ARRAY(&w->mem, uint32_t, all + 1);
    for (uint32_t i = 0; i < all; i++) {
        Val x = node_in(w->g, &w->g->node.at[w->product[i].node], 0);
        const Type *t = val_type(w->g, x);
        bool known = true;
        uint32_t v = 0;
        for (int d = 0; d < t->rank; d++) known = known && !dim_has_data(w->g->module->dim, t->dim[d]);
        if (!known) continue;
        while (v < w->values && w->value[v].id != x.id) v++;
        if (v == w->values) w->value[w->values++] = x;
        w->of[w->n] = v, w->product[w->n++] = w->product[i];
    }
}

bool wide_choose(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag)
{
    Wide w = {.g = g, .q = q, .o = o};
    for (Range *r = q->range.at; r < q->range.at + q->range.n; r++) r->wide = NULL, r->readers = 0;
    products_find(&w), outputs_find(&w);
    w.wide = NEW_ARRAY(&w.mem, bool, w.n + 1);
    bool ok = !w.n || !w.outputs ||
              (program_make(&w, plain_graph, diag) && run_all(&w, run_plain, diag) && program_make(&w, moved_graph, diag) &&
               run_all(&w, run_signs, diag) && (!w.right.n || choose(&w, diag)));
    program_drop(&w.program), arena_drop(&w.mem);
    return ok;
}
