/* rotate.c - the residual stream of a model with RMS norms is turned, so that what lay in a few large channels is spread over all of them and
 * eight bits hold it.
 * Sources: Ashkboos et al. 2024, "SliceGPT" and "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs"; Liu et al. 2024, "SpinQuant".
 *
 * Comes in: the graph after `simplify`. Goes out: a graph that computes the same. A stream is what additions, and multiplications of whole
 * rows, connect to the input of an RMS norm, written out or not. The norm does not see an orthogonal matrix R on its rows, so where x was, x R is:
 * weights that write to the stream are multiplied by R behind, those that read it by R^T before, after the norm's gains went into
 * them. Nothing is added to the model, but one product with R or R^T where the stream begins or ends in something that takes none: a
 * table of words that is also the weights of the head, an operator of another kind. Where such products would be many, the stream stays.
 *
 * R = D (F x H): random signs of a fixed seed, the Hadamard matrix H of the largest power of two in the number of channels, and the discrete
 * Hartley matrix F of what is left; all of them are flat, and need no product of matrices to be applied. */
#include "passes/passes.h"
#include "passes/quantize.h"
#include <math.h>

enum { LEAST_CHANNELS = 64, LEAST_POWER = 16, WORTH = 16, LEAST_READERS = 4 }; /* WORTH: so many times the added products must be turned */

typedef enum Role { /* of a value of the stream, to one that reads it */
    ROLE_OTHER,     /* needs it as it was */
    ROLE_STREAM,    /* the result is in the stream too */
    ROLE_LENGTH,    /* sees only lengths of rows, or sizes */
    ROLE_GAIN,      /* channels are multiplied by a constant, for products alone */
    ROLE_PRODUCT    /* by constant weights */
} Role;

typedef struct Stream {
    int64_t n, power;    /* channels; the size of H */
    const float *sign;
    bool *in;            /* per Val of the graph */
    VEC(Val) val;
} Stream;

typedef struct Rotor {
    const Graph *g;
    Graph *out;
    Arena *mem;          /* of the pass */
    const bool *live, *looked, *is_output;
    uint32_t *reader, *first_reader; /* nodes that read each Val, one after the other: of Val v those from first_reader[v] on */
    const Stream **of;   /* per Val: the stream it is in, if that is turned */
    Val *map, *turned;   /* per old Val: as it was; times R (of a gained one: without its gains) */
    const Tensor **gain; /* per old Val: the gains that are in the weights now */
    const Stream **gained; /* per old Val: that has gains */
} Rotor;

/* ---- looking ---- */
static int64_t last_dim(const Graph *g, Val v) /* 0: not known */
{
    const Type *t = val_type(g, v);
    int64_t n;
    if (t->rank < 1) return t->rank == 0;
    return dim_is_const(g->module->dim, t->dim[t->rank - 1], &n) ? n : 0;
}

static bool has_channels(const Graph *g, Val v, int64_t n) { return val_type(g, v)->dtype == DT_f32 && last_dim(g, v) == n; }

/* Constant weights of one matrix, which sum over the last axis of input 0. */
static bool is_product(const Rotor *r, const Node *n)
{
    if (n->op->quant != QUANT_INTEGER || n->op->w_taps) return false;
    const Tensor *w = graph_val(r->g, node_in(r->g, n, 1))->konst;
    int rank = val_type(r->g, node_in(r->g, n, 0))->rank;
    return w && w->type == DT_f32 && w->rank == 2 && rank >= 1 && axis_at(n->op->x_input, rank) == rank - 1 &&
           !table_of(r->g, r->looked, node_in(r->g, n, 1)).id;
}

static bool all_read(const Rotor *r, Val v, bool (*is)(const Rotor *, const Node *, Val))
{
    for (uint32_t i = r->first_reader[v.id]; i < r->first_reader[v.id + 1]; i++)
        if (!is(r, &r->g->node.at[r->reader[i]], v)) return false;
    return !r->is_output[v.id];
}

static bool multiplies_it(const Rotor *r, const Node *n, Val v)
{
    return is_product(r, n) && node_in(r->g, n, 0).id == v.id;
}

/* A reduction, with keepdims or without, over the last axis alone; axes are its second input. */
static bool reduces_rows(const Rotor *r, const Node *n, Val v)
{
    Val axes = node_in(r->g, n, 1);
    const Tensor *t = axes.id ? graph_val(r->g, axes)->konst : NULL;
    int rank = val_type(r->g, v)->rank;
    if ((!node_is(n, "ReduceMean") && !node_is(n, "ReduceSum")) || !t || tensor_count(t) != 1) return false;
    return axis_at((int)dtype_load_int(t->type, t->data, 0), rank) == rank - 1;
}

static Role square_role(const Rotor *r, const Node *n) { return all_read(r, n->out, reduces_rows) ? ROLE_LENGTH : ROLE_OTHER; }

static Role sum_role(const Rotor *r, const Node *n, uint32_t k)
{
    int64_t channels = last_dim(r->g, node_in(r->g, n, k));
    return has_channels(r->g, node_in(r->g, n, 1 - k), channels) ? ROLE_STREAM : ROLE_OTHER;
}

static Role quotient_role(const Rotor *r, const Node *n, uint32_t k)
{
    return k == 0 && last_dim(r->g, node_in(r->g, n, 1)) == 1 ? ROLE_STREAM : ROLE_OTHER;
}

static Role product_role(const Rotor *r, const Node *n, uint32_t k)
{
    Val v = node_in(r->g, n, k), by = node_in(r->g, n, 1 - k);
    const Tensor *t = graph_val(r->g, by)->konst;
    if (by.id == v.id) return square_role(r, n);
    if (last_dim(r->g, by) == 1) return ROLE_STREAM;
    bool gain = t && has_channels(r->g, by, last_dim(r->g, v)) && tensor_count(t) == last_dim(r->g, v);
    return gain && all_read(r, n->out, multiplies_it) ? ROLE_GAIN : ROLE_OTHER;
}

static Role power_role(const Rotor *r, const Node *n, uint32_t k)
{
    const Tensor *t = graph_val(r->g, node_in(r->g, n, 1))->konst;
    return k == 0 && t && tensor_count(t) == 1 && dtype_load(t->type, t->data, 0) == 2 ? square_role(r, n) : ROLE_OTHER;
}

static Role norm_role(const Rotor *r, const Node *n, uint32_t k)
{
    const Tensor *t = graph_val(r->g, node_in(r->g, n, 1))->konst;
    int rank = val_type(r->g, node_in(r->g, n, 0))->rank;
    bool rows = k == 0 && t && t->type == DT_f32 && axis_at((int)node_int(n, "axis"), rank) == rank - 1;
    return rows && tensor_count(t) == last_dim(r->g, node_in(r->g, n, 0)) && all_read(r, n->out, multiplies_it) ? ROLE_GAIN : ROLE_OTHER;
}

typedef struct Reader {
    const char *name;
    Role (*role)(const Rotor *, const Node *, uint32_t k);
    bool norm; /* with gains, which become 1 */
} Reader;
static const Reader readers[] = {{"Add", sum_role, false},      {"Sub", sum_role, false},   {"Mul", product_role, false},
                                 {"Div", quotient_role, false}, {"Pow", power_role, false}, {"RMSNormalization", norm_role, true}};

static const Reader *reader_of(const Node *n)
{
    for (size_t i = 0; i < COUNT_OF(readers); i++)
        if (!strcmp(n->op->name, readers[i].name)) return &readers[i];
    return NULL;
}

static Role role_of(const Rotor *r, const Node *n, uint32_t k)
{
    if (n->op->flags & OP_SHAPE_ONLY) return ROLE_LENGTH;
    if (k == 0 && is_product(r, n)) return ROLE_PRODUCT;
    const Reader *row = reader_of(n);
    return row ? row->role(r, n, k) : ROLE_OTHER;
}

/* A table that can be turned: nobody else has it. */
static bool is_table(const Rotor *r, const Node *n)
{
    Val t = node_in(r->g, n, 0);
    if (!looks_up(r->g, n) || op_attr_index(n->op, "axis") < 0 || node_int(n, "axis") != 0 ||
        r->first_reader[t.id + 1] - r->first_reader[t.id] != 1) return false;
    for (uint32_t i = 0; i < r->g->node.n; i++)
        if (r->live[i] && r->g->node.at[i].op->quant == QUANT_INTEGER &&
            table_of(r->g, r->looked, node_in(r->g, &r->g->node.at[i], 1)).id == t.id)
            return false;
    return true;
}

/* ---- a stream ---- */
static bool is_stream_node(const Rotor *r, const Node *n, int64_t channels) /* Is its result in the stream by an operand? */
{
    for (uint32_t k = 0; k < n->nin; k++)
        if (node_in(r->g, n, k).id && has_channels(r->g, node_in(r->g, n, k), channels) && role_of(r, n, k) == ROLE_STREAM) return true;
    return false;
}

static void join(Rotor *r, Stream *s, Val v)
{
    if (s->in[v.id] || graph_val(r->g, v)->konst || !has_channels(r->g, v, s->n)) return;
    s->in[v.id] = true;
    vec_push(r->mem, &s->val, v);
}

static void grow(Rotor *r, Stream *s)
{
    for (uint32_t i = 0; i < s->val.n; i++) {
        Val v = s->val.at[i];
        const Node *def = val_def(r->g, v);
        if (def && is_stream_node(r, def, s->n))
            for (uint32_t k = 0; k < def->nin; k++) join(r, s, node_in(r->g, def, k));
        for (uint32_t k = r->first_reader[v.id]; k < r->first_reader[v.id + 1]; k++) {
            const Node *n = &r->g->node.at[r->reader[k]];
            if (is_stream_node(r, n, s->n)) join(r, s, n->out);
        }
    }
}

static bool begins_by_product(const Rotor *r, const Stream *s, Val v)
{
    const Node *def = val_def(r->g, v);
    return def && is_product(r, def) && has_channels(r->g, v, s->n);
}

static bool begins_apart(const Rotor *r, const Stream *s, Val v) /* as something that must be multiplied by R */
{
    const Node *def = val_def(r->g, v);
    return !def || !(is_stream_node(r, def, s->n) || begins_by_product(r, s, v) || is_table(r, def));
}

/* Weights that are turned, against the products that are added. */
static bool is_worth_it(const Rotor *r, const Stream *s)
{
    double turned = 0, added = 0;
    int products = 0;
    for (uint32_t i = 0; i < s->val.n; i++) {
        Val v = s->val.at[i];
        bool ends = r->is_output[v.id];
        if (begins_by_product(r, s, v)) turned += (double)tensor_count(graph_val(r->g, node_in(r->g, val_def(r->g, v), 1))->konst);
        for (uint32_t k = r->first_reader[v.id]; k < r->first_reader[v.id + 1]; k++) {
            const Node *n = &r->g->node.at[r->reader[k]];
            Role role = role_of(r, n, node_in(r->g, n, 0).id == v.id ? 0 : 1);
            Val gained = role == ROLE_GAIN ? n->out : (Val){0};
            ends = ends || role == ROLE_OTHER;
            if (role == ROLE_PRODUCT) turned += (double)tensor_count(graph_val(r->g, node_in(r->g, n, 1))->konst), products++;
            for (uint32_t p = r->first_reader[gained.id]; gained.id && p < r->first_reader[gained.id + 1]; p++, products++)
                turned += (double)tensor_count(graph_val(r->g, node_in(r->g, &r->g->node.at[r->reader[p]], 1))->konst);
        }
        added += (double)(s->n * s->n) * (ends + begins_apart(r, s, v));
    }
    return products >= LEAST_READERS && turned >= WORTH * added;
}

static bool is_measured(const Rotor *r, Val v) /* does a norm begin at it? */
{
    for (uint32_t k = r->first_reader[v.id]; k < r->first_reader[v.id + 1]; k++) {
        const Node *n = &r->g->node.at[r->reader[k]];
        if (node_in(r->g, n, 0).id != v.id || n->op->flags & OP_SHAPE_ONLY) continue;
        Role role = role_of(r, n, 0);
        if (role == ROLE_LENGTH || (role == ROLE_GAIN && reader_of(n)->norm)) return true;
    }
    return false;
}

static float *signs_of(int64_t n, Arena *mem)
{
    float *sign = NEW_ARRAY(mem, float, n);
    uint32_t seed = 1;
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        sign[i] = seed >> 31 ? -1 : 1;
    }
    return sign;
}

static void find_streams(Rotor *r)
{
    for (uint32_t v = 1; v < r->g->val.n; v++) {
        int64_t n = last_dim(r->g, (Val){v}), power = n & -n;
        if (r->of[v] || graph_val(r->g, (Val){v})->konst || n < LEAST_CHANNELS || power < LEAST_POWER) continue;
        if (val_type(r->g, (Val){v})->dtype != DT_f32 || !is_measured(r, (Val){v})) continue;
        Stream *s = NEW(r->mem, Stream);
        *s = (Stream){.n = n, .power = power, .sign = signs_of(n, r->mem), .in = NEW_ARRAY(r->mem, bool, r->g->val.n + 1)};
        join(r, s, (Val){v}), grow(r, s);
        for (uint32_t i = 0, worth = is_worth_it(r, s); worth && i < s->val.n; i++) r->of[s->val.at[i].id] = s;
    }
}

/* ---- R ---- */
/* x becomes x R; room: n numbers */
static void turn(const Stream *s, double *x, double *room)
{
    const double FULL = 6.283185307179586;
    int64_t rest = s->n / s->power;
    for (int64_t i = 0; i < s->n; i++) x[i] *= (double)s->sign[i];
    for (int64_t half = 1; half < s->power; half *= 2)
        for (int64_t i = 0; i < s->n; i += i % half == half - 1 ? half + 1 : 1) {
            double a = x[i], b = x[i + half];
            x[i] = a + b, x[i + half] = a - b;
        }
    memcpy(room, x, sizeof *x * (size_t)s->n);
    for (int64_t p = 0; p < rest; p++)
        for (int64_t j = 0; j < s->power; j++) {
            double sum = 0;
            for (int64_t q = 0; q < rest; q++) {
                double angle = FULL * (double)(p * q % rest) / (double)rest;
                sum += room[q * s->power + j] * (cos(angle) + sin(angle));
            }
            x[p * s->power + j] = sum / sqrt((double)s->n);
        }
}

/* A constant, its vectors along an axis times the gains (NULL: 1) and R. */
static const Tensor *turned_tensor(const Rotor *r, const Stream *s, const Tensor *t, int axis, const Tensor *gain)
{
    Arena work = {0};
    Tensor *to = tensor_new(r->out->mem, DT_f32, t->rank, t->dim);
    double *x = NEW_ARRAY(&work, double, s->n), *room = NEW_ARRAY(&work, double, s->n);
    int64_t inner = 1, count = tensor_count(t);
    for (int d = axis + 1; d < t->rank; d++) inner *= t->dim[d];
    for (int64_t i = 0; i < count / s->n; i++) {
        int64_t at = i / inner * inner * s->n + i % inner;
        for (int64_t c = 0; c < s->n; c++)
            x[c] = (double)((const float *)t->data)[at + c * inner] * (gain ? (double)((const float *)gain->data)[c] : 1);
        turn(s, x, room);
        for (int64_t c = 0; c < s->n; c++) ((float *)(void *)to->data)[at + c * inner] = (float)x[c];
    }
    arena_drop(&work);
    return to;
}

/* R, or its transpose. */
static Val matrix(const Rotor *r, const Stream *s, bool transposed)
{
    Tensor *one = tensor_new(r->out->mem, DT_f32, 2, (int64_t[]){s->n, s->n});
    for (int64_t i = 0; i < s->n; i++) ((float *)(void *)one->data)[i * (s->n + 1)] = 1;
    return graph_const(r->out, turned_tensor(r, s, one, transposed ? 0 : 1, NULL), NULL);
}

/* ---- emission ---- */
static Val as_it_was(Rotor *r, Val v)
{
    const Stream *s = r->of[v.id];
    if (!r->map[v.id].id && s) {
        const Node *def = val_def(r->g, v);
        r->map[v.id] = emit(r->out, "MatMul", def->loc, 2, r->turned[v.id], matrix(r, s, true));
    }
    return r->map[v.id];
}

static Val turned_operand(Rotor *r, const Stream *s, Val v)
{
    const Value *val = graph_val(r->g, v);
    if (!val->konst || last_dim(r->g, v) != s->n) return r->of[v.id] ? r->turned[v.id] : r->map[v.id];
    return graph_const(r->out, turned_tensor(r, s, val->konst, val->konst->rank - 1, NULL), val->name);
}

static Val turned_weights(Rotor *r, const Node *n, const Stream *to)
{
    Val x = node_in(r->g, n, 0);
    const Value *w = graph_val(r->g, node_in(r->g, n, 1));
    const Stream *from = r->gained[x.id] ? r->gained[x.id] : r->of[x.id];
    const Tensor *t = w->konst;
    if (from) t = turned_tensor(r, from, t, axis_at(n->op->w_input, 2), r->gain[x.id]);
    if (to) t = turned_tensor(r, to, t, axis_at(n->op->w_channel, 2), NULL);
    return t == w->konst ? r->map[node_in(r->g, n, 1).id] : graph_const(r->out, t, w->name);
}

static const Stream *stream_of(const Rotor *r, const Node *n, Role *role)
{
    for (uint32_t k = 0; k < n->nin && k < 2; k++) {
        const Stream *s = r->of[node_in(r->g, n, k).id];
        if (s && (*role = role_of(r, n, k)) != ROLE_OTHER) return s;
    }
    *role = ROLE_OTHER;
    return NULL;
}

/* The gains go to the weights of those who read: a norm has none left, a multiplication by them is gone. */
static void drop_gain(Rotor *r, const Node *n, const Stream *s)
{
    uint32_t k = graph_val(r->g, node_in(r->g, n, 0))->konst ? 0 : 1;
    const Tensor *gain = graph_val(r->g, node_in(r->g, n, k))->konst;
    Val x = r->turned[node_in(r->g, n, 1 - k).id];
    r->gain[n->out.id] = gain, r->gained[n->out.id] = s;
    if (reader_of(n)->norm) {
        Tensor *one = tensor_new(r->out->mem, DT_f32, gain->rank, gain->dim);
        for (int64_t i = 0; i < s->n; i++) ((float *)(void *)one->data)[i] = 1;
        x = graph_emit(r->out, n->op, n->attr, (Val[]){x, graph_const(r->out, one, NULL)}, 2, 1, n->loc, NULL);
        graph_stand_for(r->out, x, graph_val(r->g, n->out));
    }
    r->map[n->out.id] = x;
}

static void copy_node(Rotor *r, const Node *n)
{
    Val *arg = NEW_ARRAY(r->mem, Val, n->nin + 1), *out = NEW_ARRAY(r->mem, Val, n->nout);
    Role role;
    const Stream *from = stream_of(r, n, &role), *to = r->of[n->out.id];
    if (role == ROLE_GAIN) {
        drop_gain(r, n, from);
        return;
    }
    bool turned = role != ROLE_OTHER, folds = to && (turned || is_product(r, n) || is_table(r, n));
    for (uint32_t k = 0; k < n->nin; k++) {
        Val v = node_in(r->g, n, k);
        if (v.id) arg[k] = turned && (role != ROLE_PRODUCT || !k) ? turned_operand(r, from, v) : as_it_was(r, v);
    }
    if (is_product(r, n)) arg[1] = turned_weights(r, n, to);
    else if (folds && !turned) arg[0] = turned_operand(r, to, node_in(r->g, n, 0));
    graph_emit(r->out, n->op, n->attr, arg, n->nin, n->nout, n->loc, out);
    for (uint32_t k = 0; k < n->nout; k++) {
        *(k == 0 && folds ? &r->turned[n->out.id] : &r->map[n->out.id + k]) = out[k];
        graph_stand_for(r->out, out[k], graph_val(r->g, node_out(n, k)));
    }
    if (to && !folds) r->turned[n->out.id] = emit(r->out, "MatMul", n->loc, 2, out[0], matrix(r, to, false));
}

static void list_readers(Rotor *r)
{
    const Graph *g = r->g;
    r->first_reader = NEW_ARRAY(r->mem, uint32_t, g->val.n + 2);
    for (uint32_t i = 0; i < g->node.n; i++)
        for (uint32_t k = 0; r->live[i] && k < g->node.at[i].nin; k++) r->first_reader[node_in(g, &g->node.at[i], k).id + 1]++;
    for (uint32_t v = 0; v < g->val.n; v++) r->first_reader[v + 1] += r->first_reader[v];
    r->reader = NEW_ARRAY(r->mem, uint32_t, r->first_reader[g->val.n] + 1);
    uint32_t *next = arena_copy(r->mem, r->first_reader, sizeof *next * (g->val.n + 1));
    for (uint32_t i = 0; i < g->node.n; i++)
        for (uint32_t k = 0; r->live[i] && k < g->node.at[i].nin; k++) r->reader[next[node_in(g, &g->node.at[i], k).id]++] = i;
}

Graph *pass_rotate(const Graph *in, PassCtx *ctx)
{
    uint32_t vals = in->val.n + 1;
    Rotor r = {.g = in, .out = graph_new(ctx->module, ctx->mem, in->name), .mem = ctx->scratch};
    r.map = graph_begin(r.out, in, r.mem), r.turned = NEW_ARRAY(r.mem, Val, vals), r.live = graph_live(in, r.mem);
    r.of = NEW_ARRAY(r.mem, const Stream *, vals), r.gained = NEW_ARRAY(r.mem, const Stream *, vals);
    r.gain = NEW_ARRAY(r.mem, const Tensor *, vals), r.looked = tables_looked_up(in, r.mem);
    bool *is_output = NEW_ARRAY(r.mem, bool, vals);
    for (uint32_t i = 0; i < in->output.n; i++) is_output[in->output.at[i].id] = true;
    r.is_output = is_output;
    list_readers(&r), find_streams(&r);
    for (uint32_t v = 1; v < in->val.n; v++) /* an input of the model */
        if (r.of[v] && in->val.at[v].def == NO_NODE)
            r.turned[v] = emit(r.out, "MatMul", in->node.at[r.reader[r.first_reader[v]]].loc, 2, r.map[v], matrix(&r, r.of[v], false));
    for (uint32_t i = 0; i < in->node.n; i++)
        if (r.live[i]) copy_node(&r, &in->node.at[i]);
    for (uint32_t i = 0; i < in->output.n; i++) as_it_was(&r, in->output.at[i]);
    graph_end(r.out, in, r.map);
    return r.out;
}
