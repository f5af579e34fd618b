/* quantize.c - places Q/DQ pairs by ranges and by each row's `quant` column, and quantizes constant weights. Nothing here knows
 * an operator: a row says how it behaves under quantization, which axis holds its channels, and its integer form. */
#include "passes/quantize.h"
#include "passes/passes.h"
#include "passes/simulate.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* Nodes before number `def` that come from the same node of the model with the same operator: the directions of an LSTM multiply one by one. */
static uint32_t alike_before(const Graph *g, uint32_t def)
{
    uint32_t count = 0;
    const Node *n = &g->node.at[def];
    for (uint32_t i = 0; i < def; i++) {
        const Node *m = &g->node.at[i];
        count += m->op == n->op && m->loc && (m->loc == n->loc || (m->loc->index == n->loc->index && !strcmp(m->loc->node, n->loc->node)));
    }
    return count;
}

const char *tensor_name(const Graph *g, Val v, Arena *mem)
{
    const Value *val = graph_val(g, v);
    if (val->name) return val->name;
    if (val->def == NO_NODE) return "";
    const Node *n = &g->node.at[val->def];
    const char *node = *n->loc->node ? n->loc->node : arena_printf(mem, "#%d", n->loc->index);
    const char *name = arena_printf(mem, "%s/%s:%u", node, n->op->name, v.id - n->out.id);
    uint32_t before = alike_before(g, val->def);
    return before ? arena_printf(mem, "%s+%u", name, before) : name;
}

/* ---- which nodes become integer ---- */

static double elements(const Graph *g, const Type *t)
{
    enum { FREE = 64 }; /* what a free size is taken for */
    double n = 1;
    int64_t v;
    for (int d = 0; d < t->rank; d++) n *= dim_is_const(g->module->dim, t->dim[d], &v) ? (double)v : FREE;
    return n;
}

/* What the integer form saves, counted in float multiply-adds. READ: so many a core makes while it reads a byte of weights from beyond its
 * own caches. An integer instruction sums DOT products of one group's channels in the time of one float product, so channels are padded
 * to a multiple; an input costs QUANTIZE operations before, an output SCALE more than a float sum needs. */
static double saved(const Graph *g, const Node *n, const Tensor *w, double *products)
{
    enum { DOT = 4, READ = 3, QUANTIZE = 4, SCALE = 2 };
    double weights = (double)tensor_count(w), outputs = elements(g, val_type(g, n->out)),
           inputs = elements(g, val_type(g, multiplied(g, n))),
           channels = (double)w->dim[axis_at(n->op->w_input, w->rank)],
           per_output = weights / (double)w->dim[axis_at(n->op->w_channel, w->rank)],
           padded = ceil(channels / DOT) * DOT / channels;
    *products = outputs * per_output;
    double as_float = *products + READ * 4 * weights, as_integer = *products * padded / DOT + READ * weights;
    return as_float - as_integer - QUANTIZE * inputs - SCALE * outputs;
}

/* What is too small to be seen in a profile is integer, as asked. */
bool integer_is_slower(const Graph *g, const Node *n)
{
    enum { SMALL = 4096 };
    const Tensor *w = graph_val(g, node_in(g, n, 1))->konst;
    if (!tensor_count(w)) return false;
    double products, less = saved(g, n, w, &products);
    return products > SMALL && less < 0;
}

/* What R must be: a matrix that is not so small that the conversions of a state cost what its products save. */
static const char *why_float_state(const Graph *g, const Node *n)
{
    enum { LEAST = 1 << 14 };
    const Tensor *r = graph_val(g, node_in(g, n, 1))->konst;
    if (!r) return "its recurrent weights are computed at run time";
    if (r->type != DT_f32) return "its recurrent weights are not float32";
    if (node_in(g, n, (uint32_t)n->op->w_scales).id) return "its recurrent weights are codes as they are";
    return tensor_count(r) < LEAST ? "its states are too few to pay for conversions: float is as fast and more accurate" : NULL;
}

static const char *why_float(const Graph *g, const Node *n)
{
    if (n->op->quant == QUANT_STATE) return why_float_state(g, n);
    if (!n->op->integer) return "this operator has no integer form";
    if (val_type(g, node_in(g, n, 0))->dtype != DT_f32) return "its activations are not float32";
    const Value *w = graph_val(g, node_in(g, n, 1));
    if (!w->konst) return "both operands are computed at run time";
    if (w->konst->type != DT_f32) return "its weights are not float32";
    if (w->konst->rank < 2) return "its weights are a vector";
    if (integer_is_slower(g, n))
        return "its products are too few to pay for conversions: float is as fast and more accurate";
    return NULL;
}

static bool is_contraction(const Node *n) { return n->op->quant == QUANT_INTEGER; }

static bool is_recurrence(const Node *n) { return n->op->quant == QUANT_STATE; }

static bool multiplies(const Node *n) { return is_contraction(n) || is_recurrence(n); }

Val multiplied(const Graph *g, const Node *n) { return is_recurrence(n) ? n->out : node_in(g, n, 0); }

/* Does the node's first input need a range, or the means of its channels? */
static bool is_watched(const Graph *g, const Node *n, const Quantization *q)
{
    const Tensor *w = is_contraction(n) ? graph_val(g, node_in(g, n, 1))->konst : NULL;
    if (q && q->float_activations)
        return w && w->type == DT_f32 && w->rank >= 2 && val_type(g, node_in(g, n, 0))->dtype == DT_f32;
    return is_contraction(n) && (!why_float(g, n) || (q && codes_beside_integers(g, q, n)));
}

bool *quantize_wanted(const Graph *g, const Quantization *q, Arena *scratch)
{
    bool *want = NEW_ARRAY(scratch, bool, g->val.n + 1);
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        if (is_watched(g, n, q)) want[node_in(g, n, 0).id] = true;
    }
    return want;
}

bool multiplies_computed(const Graph *g)
{
    for (uint32_t i = 0; i < g->node.n; i++)
        if (is_contraction(&g->node.at[i]) && !graph_val(g, node_in(g, &g->node.at[i], 1))->konst) return true;
    return false;
}

/* ---- emission ---- */
typedef struct Quantizer {
    PassCtx *ctx;
    Quantization *q;
    const Graph *in;
    Graph *out;
    Val *map, *dequantized[2]; /* per old Val: its DQ(Q(.)) of 8 and of 16 bits, made on first need */
    const bool *wanted;
    bool *integer; /* per node */
    const bool *live;
    bool *wide;    /* the same: it multiplies rows of 16 bits */
    bool *rows;    /* per old Val: every row has a scale of its own */
    Regions region;
    Val switches; /* of a simulation */
    regex_t keep;
} Quantizer;

typedef struct Affine {
    double scale;
    int zero;
} Affine;

static Affine affine_of(const Range *r)
{
    double lo = fmin(r->lo, 0), hi = fmax(r->hi, 0);
    float scale = (float)((hi - lo) / 255);
    if (!(scale > 0) || !isnormal(scale)) scale = 1;
    return (Affine){scale, (int)fmin(255, fmax(0, rint(-lo / scale)))};
}

static const Range *val_range(const Quantizer *z, Val v)
{
    return range_find(z->q, tensor_name(z->in, v, z->ctx->scratch));
}

static Val scalar(Graph *g, DType t, double v) { return graph_const(g, tensor_scalar(g->mem, t, v), NULL); }

/* A simulation chooses when it runs. */
static Val switched(Quantizer *z, uint32_t region, Val quantized, Val plain, const Loc *loc)
{
    return z->q->simulate ? simulate_switch(z->out, z->switches, region, quantized, plain, loc) : quantized;
}

/* ---- a scale for every row: computed while the model runs from the row's largest element ---- */
/* One sum's operands must share a scale: does node i, which reads v in 8 bits, sum over v's last axis alone? */
static bool sums_rows(const Graph *g, uint32_t i)
{
    const Node *n = &g->node.at[i];
    int rank = val_type(g, node_in(g, n, 0))->rank;
    return rank > 0 && !n->op->w_taps && axis_at(n->op->x_input, rank) == rank - 1;
}

static bool rows_are_summed(const Quantizer *z, Val v)
{
    bool all = true;
    for (uint32_t i = 0; i < z->in->node.n; i++)
        if (z->integer[i] && node_in(z->in, &z->in->node.at[i], 0).id == v.id) all = all && sums_rows(z->in, i);
    return all;
}

static bool is_positive(const Range *r) { return r->lo >= 0; }
static double row_steps(const Range *r) { return is_positive(r) ? 255 : 127; }

bool rows_pay(double tensor_db, double row_db)
{
    static const double ENOUGH = 40, GAIN = 3.521825181113625; /* dB; steps 1.5 times as fine */
    return tensor_db < ENOUGH && row_db > tensor_db + GAIN;
}

/* Known from products tried out, or else from sizes of elements. */
static bool wants_rows(const Quantizer *z, Val v, const Range *r)
{
    double step = affine_of(r).scale, row_step = r->row_peak / row_steps(r);
    if (!rows_are_summed(z, v)) return false;
    if (r->tensor_db > 0) return rows_pay(r->tensor_db, r->row_db);
    if (!(r->rms > 0) || !(row_step > 0)) return false;
    double db = 20 * log10(r->rms / step * sqrt(12));
    return rows_pay(db, db + 20 * log10(step / row_step));
}

/* ---- 16 bits: a decision of every product, since others may read the same tensor ---- */
/* Which of the contractions that read its values, in their order. */
static uint32_t reader_number(const Graph *g, uint32_t i)
{
    uint32_t before = 0, x = node_in(g, &g->node.at[i], 0).id;
    for (uint32_t k = 0; k < i; k++) before += is_contraction(&g->node.at[k]) && node_in(g, &g->node.at[k], 0).id == x;
    return before;
}

/* Sums must fit 32 bits. */
static bool may_be_wide(const Graph *g, uint32_t i)
{
    enum { DEPTH = INT32_MAX / (256 * 127) };
    const Type *t = val_type(g, node_in(g, &g->node.at[i], 0));
    int64_t depth;
    return sums_rows(g, i) && dim_is_const(g->module->dim, t->dim[t->rank - 1], &depth) && depth <= DEPTH;
}

static bool wants_wide(const Quantizer *z, uint32_t i)
{
    const Range *r = val_range(z, node_in(z->in, &z->in->node.at[i], 0));
    if (z->q->narrow || !r->wide || !may_be_wide(z->in, i)) return false;
    uint32_t number = reader_number(z->in, i);
    return number < r->readers && r->wide[number];
}

/* As blocked QuantizeLinear and DequantizeLinear with one block a row, without a zero point. */
static Val through_rows(Graph *g, Val x, const Range *r, bool wide, const Loc *loc)
{
    double steps = wide ? 32767 : row_steps(r);
    DType type = wide ? DT_i16 : is_positive(r) ? DT_u8 : DT_i8;
    const Type *t = val_type(g, x);
    static const double LEAST = 1e-30; /* a row of zeros has a scale, too */
    int64_t last = -1, size = 0;
    dim_is_const(g->module->dim, t->dim[t->rank - 1], &size);
    Val most = is_positive(r) ? x : emit(g, "Abs", loc, 1, x);
    most = emit(g, "ReduceMax", loc, 2, most, graph_const(g, tensor_ints(g->mem, &last, 1), NULL));
    Val scale = emit(g, "Mul", loc, 2, most, scalar(g, DT_f32, 1 / steps));
    scale = emit(g, "Max", loc, 2, scale, scalar(g, DT_f32, LEAST));
    const OpDef *op[2] = {op_find("", "QuantizeLinear"), op_find("", "DequantizeLinear")};
    for (int i = 0; i < 2; i++) {
        Attr *attr = op_attr_defaults(g->mem, op[i]);
        attr_set_int(op[i], attr, "axis", -1), attr_set_int(op[i], attr, "block_size", size);
        if (!i) attr_set_int(op[i], attr, "output_dtype", type);
        x = graph_emit(g, op[i], attr, (Val[]){x, scale}, 2, 1, loc, NULL);
    }
    return x;
}

static Val through_tensor(Graph *g, Val x, const Range *r, const Loc *loc)
{
    Affine a = affine_of(r);
    Val s = scalar(g, DT_f32, a.scale), zero = scalar(g, DT_u8, a.zero), q = emit(g, "QuantizeLinear", loc, 3, x, s, zero);
    return emit(g, "DequantizeLinear", loc, 3, q, s, zero);
}

static Val dequantized(Quantizer *z, Val v, bool wide, const Loc *loc)
{
    Val *known = &z->dequantized[wide][v.id], x = z->map[v.id];
    if (known->id) return *known;
    const Range *r = val_range(z, v);
    Val dq = wide || z->rows[v.id] ? through_rows(z->out, x, r, wide, loc) : through_tensor(z->out, x, r, loc);
    return *known = switched(z, z->region.of_val[v.id], dq, x, loc);
}

typedef struct Channels {
    int64_t outer, n, inner;
} Channels; /* a tensor as [outer][n][inner] around its channel axis */

static Channels channels_of(const Tensor *t, int axis)
{
    Channels c = {1, t->dim[axis], 1};
    for (int d = 0; d < axis; d++) c.outer *= t->dim[d];
    for (int d = axis + 1; d < t->rank; d++) c.inner *= t->dim[d];
    return c;
}

int channel_axis(const Graph *g, const Quantization *q, Val v)
{
    int rank = val_type(g, v)->rank, found = -1;
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        if (!is_watched(g, n, q) || node_in(g, n, 0).id != v.id) continue;
        int axis = axis_at(n->op->x_input, rank);
        if (found >= 0 && found != axis) return -1;
        found = axis;
    }
    return found >= 0 && dim_is_const(g->module->dim, val_type(g, v)->dim[found], NULL) ? found : -1;
}

const float *lost_by_rounding(const Node *n, const Tensor *w, const LayerCodes *codes, const Range *r, Arena *mem)
{
    Channels out = channels_of(w, axis_at(n->op->w_channel, w->rank)),
             in = channels_of(w, axis_at(n->op->w_input, w->rank));
    if (codes->lost) return codes->lost;
    if (!r || !r->mean || in.n != r->channels) return NULL;
    Arena work = {0};
    float *lost = NEW_ARRAY(mem, float, out.n);
    const float *is = w->data, *becomes = code_values(&codes->codes, &work)->data;
    int64_t at = 0, of = 0, until = out.inner, next = in.inner; /* channels, and where they end */
    for (int64_t i = 0, count = tensor_count(w); i < count; i++) {
        if (i == until) until += out.inner, at = at + 1 < out.n ? at + 1 : 0;
        if (i == next) next += in.inner, of = of + 1 < in.n ? of + 1 : 0;
        lost[at] += (is[i] - becomes[i]) * r->mean[of];
    }
    arena_drop(&work);
    return lost;
}

Val add_lost(Graph *g, const Node *n, const Tensor *w, Val y, const float *lost)
{
    int rank = val_type(g, y)->rank, axis = axis_at(n->op->y_channel, rank);
    int64_t dim[MAX_RANK] = {w->dim[axis_at(n->op->w_channel, w->rank)]};
    for (int d = 1; d < rank - axis; d++) dim[d] = 1;
    Tensor *t = tensor_new(g->mem, DT_f32, rank - axis, dim);
    memcpy((void *)t->data, lost, tensor_bytes(t));
    return emit(g, "Add", n->loc, 2, y, graph_const(g, t, NULL));
}

/* Does the row take a bias, and is it constant or absent here? */
static bool takes_bias(const Quantizer *z, const Node *n)
{
    Val b = node_in(z->in, n, 2);
    const Tensor *t = b.id ? graph_val(z->in, b)->konst : NULL;
    if (!b.id) return op_schema(n->op)->nin > 2 && !z->q->simulate; /* which would switch between a bias and none */
    return t && t->type == DT_f32 && t->rank == 1;
}

/* A bias as 32-bit multiples of the integer sum's scales, in a DequantizeLinear: what other engines need to stay with integers. The
 * rounding is half a unit of that sum. Absent where float would not hold the multiples exactly. */
static Val integer_bias(Quantizer *z, const Node *n, const Tensor *b, const Tensor *scale, const char *name)
{
    enum { EXACT = 1 << 24 };
    int64_t channels = b->dim[0];
    if (tensor_count(scale) != channels) return (Val){0};
    Tensor *q = tensor_new(z->out->mem, DT_i32, 1, &channels);
    for (int64_t i = 0; i < channels; i++) {
        float s = ((const float *)scale->data)[i];
        double v = isnormal(s) ? rint((double)((const float *)b->data)[i] / s) : INFINITY;
        if (!(fabs(v) <= EXACT)) return (Val){0};
        ((int32_t *)(void *)q->data)[i] = (int32_t)v;
    }
    const OpDef *op = op_find("", "DequantizeLinear");
    Attr *attr = op_attr_defaults(z->out->mem, op);
    attr_set_int(op, attr, "axis", 0);
    Val in[2] = {graph_const(z->out, q, name), graph_const(z->out, scale, NULL)};
    return graph_emit(z->out, op, attr, in, 2, 1, n->loc, NULL);
}

/* The bias with what rounding took (lost, or NULL); weights: their DequantizeLinear in the new graph. */
static Val bias_of(Quantizer *z, const Node *n, Val weights, float x_scale, const float *lost)
{
    const Value *old = graph_val(z->in, node_in(z->in, n, 2));
    const Tensor *w = graph_val(z->in, node_in(z->in, n, 1))->konst, *b = node_in(z->in, n, 2).id ? old->konst : NULL;
    const Tensor *ws = graph_val(z->out, node_in(z->out, &z->out->node.at[graph_val(z->out, weights)->def], 1))->konst;
    int64_t channels = channels_of(w, axis_at(n->op->w_channel, w->rank)).n;
    if (!b && !lost) return (Val){0};
    Tensor *sum = tensor_new(z->out->mem, DT_f32, 1, &channels), *s = tensor_new(z->out->mem, DT_f32, ws->rank, ws->dim);
    for (int64_t i = 0; i < channels; i++)
        ((float *)(void *)sum->data)[i] = (b ? ((const float *)b->data)[i] : 0) + (lost ? lost[i] : 0);
    for (int64_t i = 0; i < tensor_count(ws); i++)
        ((float *)(void *)s->data)[i] = ((const float *)ws->data)[i] * x_scale;
    Val q = integer_bias(z, n, sum, s, b ? old->name : NULL);
    return q.id ? q : graph_const(z->out, sum, b ? old->name : NULL);
}

static WeightForm quantize_form(const Quantization *q)
{
    return q->form.code ? q->form : (WeightForm){.code = DT_i8};
}

const LayerTried *rewritings_find(const Quantization *q, const char *tensor)
{
    uint32_t i = map_get(&q->tried_of, tensor);
    return i ? q->tried.at[i - 1] : NULL;
}

LayerRewriting *rewriting_note(Quantization *q, const char *tensor, Rewriting kind)
{
    if (!rewritings_find(q, tensor)) {
        vec_push(q->mem, &q->tried, NEW(q->mem, LayerTried));
        map_put(q->mem, &q->tried_of, arena_text(q->mem, tensor, strlen(tensor)), q->tried.n);
    }
    return &q->tried.at[map_get(&q->tried_of, tensor) - 1]->by[kind];
}

static void keep(Arena *mem, CodesKept **kept, LayerCodes c)
{
    c.tensor = arena_text(mem, c.tensor, strlen(c.tensor));
    if (!*kept) *kept = NEW(mem, CodesKept);
    vec_push(mem, &(*kept)->layer, c);
    map_put(mem, &(*kept)->index, c.tensor, (*kept)->layer.n);
}

static const LayerCodes *kept_find(const CodesKept *kept, const char *tensor)
{
    uint32_t i = kept ? map_get(&kept->index, tensor) : 0;
    return i ? &kept->layer.at[i - 1] : NULL;
}

void codes_set(Quantization *q, LayerCodes c) { keep(q->mem, &q->kept, c); }
void finer_set(Quantization *q, LayerCodes c) { keep(q->mem, &q->finer, c); }

CodesKept *codes_copied(const Quantization *q)
{
    Quantization copy = {.mem = q->mem};
    for (uint32_t i = 0; q->kept && i < q->kept->layer.n; i++) codes_set(&copy, q->kept->layer.at[i]);
    return copy.kept;
}

const LayerCodes *codes_find(const Quantization *q, const char *tensor) { return kept_find(q->kept, tensor); }

static const WeightMethod *method_of(const Graph *g, const Node *n, const Quantization *q)
{
    if (q->windows && is_channelwise(g, n)) return q->windows;
    return q->weights ? q->weights : weight_method_at(0);
}

void cost_note(Quantization *q, const char *tensor, double cost, bool spared)
{
    LayerCost c = {arena_text(q->mem, tensor, strlen(tensor)), cost, spared};
    vec_push(q->mem, &q->cost, c);
    map_put(q->mem, &q->cost_of, c.tensor, q->cost.n);
}

const LayerCost *cost_find(const Quantization *q, const char *tensor)
{
    uint32_t i = map_get(&q->cost_of, tensor);
    return i ? &q->cost.at[i - 1] : NULL;
}

void layer_note_cost(const Quantization *q, Layer *l)
{
    const LayerCost *c = cost_find(q, l->tensor);
    l->cost = c ? c->cost : (double)NAN, l->spared = c && c->spared;
}

/* Rounded without statistics. */
static LayerCodes codes_by(const WeightMethod *how, const Graph *g, const Node *n, Quantization *q, WeightForm form, CodesKept **kept)
{
    Arena work = {0};
    WeightMatrix m = weight_matrix(g, n, &work);
    WeightChoice c = weight_choose(how, &m, &form, NULL, &work);
    LayerCodes l = {.method = how, .form = form, .codes = weight_tensors(&m, &c.codes, q->mem), .sqnr = c.sqnr, .fallback = c.why};
    l.tensor = tensor_name(g, n->out, &work), l.error_nearest = c.error_nearest, l.error = c.error;
    keep(q->mem, kept, l);
    arena_drop(&work);
    return l;
}

/* Beside float8 8-bit integers need its groups to be much finer; beside 4 bits they are with a scale for each channel. */
WeightForm form_spared(const Quantization *q)
{
    return (WeightForm){.code = q->spared.code, .group = dtypes[q->form.code].bits < 8 ? q->spared.group : q->form.group};
}

void layer_spare(const Graph *g, const Node *n, Quantization *q)
{
    codes_by(weight_method_blind(method_of(g, n, q)), g, n, q, form_spared(q), &q->kept);
}

WeightForm form_finer(const Quantization *q, const Node *n)
{
    enum { LEAST_GROUP = 16 };
    WeightForm f = q->form;
    bool are = q->bound > 0 && !f.asymmetric && !n->op->w_taps && dtypes[f.code].bits < 8 && f.group >= 2 * LEAST_GROUP && f.group % (2 * LEAST_GROUP) == 0;
    return f.group /= 2, are ? f : (WeightForm){0};
}

const LayerCodes *layer_finer(const Graph *g, const Node *n, Quantization *q)
{
    Arena work = {0};
    const char *name = tensor_name(g, n->out, &work);
    const WeightMethod *how = method_of(g, n, q);
    WeightForm form = form_finer(q, n);
    if (form.code && !how->needs && !kept_find(q->finer, name)) codes_by(how, g, n, q, form, &q->finer);
    const LayerCodes *found = kept_find(q->finer, name);
    arena_drop(&work);
    return found;
}

LayerCodes layer_codes(const Graph *g, const Node *n, Quantization *q, WeightForm form, Layer *note)
{
    Arena work = {0};
    const LayerCodes *found = codes_find(q, tensor_name(g, n->out, &work));
    LayerCodes l = found ? *found : codes_by(method_of(g, n, q), g, n, q, form, &q->kept);
    arena_drop(&work);
    if (!note) return l;
    note->form = l.form, note->weight_sqnr = l.sqnr, note->fallback = l.fallback;
    note->method = l.fallback ? weight_method_at(0)->name : l.method->name;
    note->error_nearest = l.error_nearest, note->error = l.error;
    return l;
}

static Val dequantize(Graph *g, const char *domain, int axis, int64_t block, const Val *in, uint32_t n, const Loc *loc)
{
    const OpDef *op = op_find(domain, *domain ? "Dequantize" : "DequantizeLinear");
    Attr *attr = op_attr_defaults(g->mem, op);
    attr_set_int(op, attr, "axis", axis), attr_set_int(op, attr, "block_size", block);
    return graph_emit(g, op, attr, in, n, 1, loc, NULL);
}

Val codes_emit(Graph *g, const CodeTensors *t, const char *name, const Loc *loc)
{
    bool fine = t->scale_code != NULL;
    Val in[3] = {graph_const(g, t->code, name)};
    if (fine) in[1] = dequantize(g, "", t->scale_axis, 0, (Val[]){graph_const(g, t->scale_code, NULL), graph_const(g, t->scale_of, NULL)}, 2, loc);
    else in[1] = graph_const(g, t->scale, NULL);
    if (t->zero) in[2] = graph_const(g, t->zero, NULL);
    return dequantize(g, fine ? "octet" : "", t->axis, t->block, in, t->zero ? 3 : 2, loc);
}

/* The weights' codes, in a DequantizeLinear. Beside values with a scale for each row its axis is counted from the end: ONNX Runtime takes a product
 * with constant codes whose scales go along axis 1 for one of weights alone, and rounds what stands before it to 8 bits in blocks. */
static Val dequantized_weights(Quantizer *z, const Node *n, const Range *r, Layer *layer, const float **lost)
{
    const Value *val = graph_val(z->in, node_in(z->in, n, 1));
    LayerCodes l = layer_codes(z->in, n, z->q, quantize_form(z->q), layer);
    *lost = lost_by_rounding(n, val->konst, &l, r, z->ctx->mem);
    layer->weights = tensor_count(val->konst);
    if (layer->rows) l.codes.axis -= val->konst->rank;
    return codes_emit(z->out, &l.codes, val->name, n->loc);
}

/* Whether input k of a node reads the 8-bit form of a tensor that some contraction wants in 8 bits. Sums of signed tensors do not:
 * those are residual streams without an activation in between, where the rounding of every block would add up to the end. */
static bool reads_eight(const Quantizer *z, uint32_t i, uint32_t k)
{
    const Node *n = &z->in->node.at[i];
    Val v = node_in(z->in, n, k);
    const Range *r = z->wanted[v.id] ? val_range(z, v) : NULL;
    if (!r) return false;
    if (z->integer[i] || z->rows[v.id]) return z->integer[i] && k == 0;
    return n->op->quant != QUANT_NONE && (n->op->quant != QUANT_RESCALE || r->lo >= 0);
}

static void copy_quantized(Quantizer *z, uint32_t i)
{
    const Node *n = &z->in->node.at[i];
    uint32_t nin = n->nin;
    Val *old = NEW_ARRAY(z->ctx->scratch, Val, nin + 1), *arg = NEW_ARRAY(z->ctx->scratch, Val, nin + 2);
    Layer layer = {.loc = n->loc, .tensor = tensor_name(z->in, n->out, z->q->mem), .state = LAYER_INTEGER, .sqnr = NAN};
    layer_note_cost(z->q, &layer);
    layer.input = tensor_name(z->in, node_in(z->in, n, 0), z->q->mem), layer.tried = rewritings_find(z->q, layer.tensor);
    for (uint32_t k = 0; k < n->nin; k++) {
        old[k] = node_in(z->in, n, k);
        arg[k] = z->map[old[k].id];
        if (reads_eight(z, i, k)) arg[k] = dequantized(z, old[k], z->wide[i], n->loc);
    }
    const float *lost = NULL;
    if (z->integer[i]) {
        const Range *r = val_range(z, old[0]);
        Affine a = affine_of(r);
        layer.lo = r->lo, layer.hi = r->hi, layer.scale = a.scale, layer.zero_point = a.zero;
        double products;
        layer.smooth = r->gain != NULL;
        layer.wide = z->wide[i], layer.eight_db = fmax(r->tensor_db, r->row_db);
        layer.rows = layer.wide || z->rows[old[0].id], layer.region = z->region.of_node[i];
        layer.saved = saved(z->in, n, graph_val(z->in, old[1])->konst, &products);
        Val codes = dequantized_weights(z, n, r, &layer, &lost);
        pass_rest(z->ctx); /* of the weights */
        arg[1] = switched(z, layer.region, codes, arg[1], n->loc);
        vec_push(z->q->mem, &z->q->layer, layer);
        if (takes_bias(z, n) && !layer.rows) {
            Val bias = bias_of(z, n, codes, (float)a.scale, lost);
            if (bias.id) arg[2] = arg[2].id ? switched(z, layer.region, bias, arg[2], n->loc) : bias, nin = nin < 3 ? 3 : nin;
            lost = NULL;
        }
    }
    Val *out = NEW_ARRAY(z->ctx->scratch, Val, n->nout);
    graph_emit(z->out, n->op, n->attr, arg, nin, n->nout, n->loc, out);
    if (lost)
        out[0] = switched(z, layer.region, add_lost(z->out, n, graph_val(z->in, old[1])->konst, out[0], lost), out[0],
                          n->loc);
    if (z->integer[i]) graph_name(z->out, out[0], layer.tensor); /* also where its name was made up: whoever measures it finds it */
    for (uint32_t k = 0; k < n->nout; k++) {
        z->map[n->out.id + k] = out[k];
        graph_stand_for(z->out, out[k], graph_val(z->in, node_out(n, k)));
    }
}

/* ---- recurrent weights: s8 codes beside a scale for each row and the sums of the rows, by which the zero point of a state counts ---- */
static void copy_recurrence(Quantizer *z, uint32_t i)
{
    const Node *n = &z->in->node.at[i];
    uint32_t scales = (uint32_t)n->op->w_scales;
    const Value *r = graph_val(z->in, node_in(z->in, n, 1));
    Layer layer = {.loc = n->loc, .tensor = tensor_name(z->in, n->out, z->q->mem), .state = LAYER_INTEGER, .sqnr = NAN, .cost = NAN, .rows = true, .states = true};
    layer.input = layer.tensor, layer.weights = tensor_count(r->konst), layer.region = z->region.of_node[i];
    layer.saved = saved(z->in, n, r->konst, &(double){0});
    Val *arg = NEW_ARRAY(z->ctx->scratch, Val, scales + 2), *plain = NEW_ARRAY(z->ctx->scratch, Val, n->nout), *out = plain;
    for (uint32_t k = 0; k < n->nin; k++) arg[k] = z->map[node_in(z->in, n, k).id];
    if (z->q->simulate) graph_emit(z->out, n->op, n->attr, arg, n->nin, n->nout, n->loc, plain);
    CodeTensors t = layer_codes(z->in, n, z->q, quantize_form(z->q), &layer).codes;
    pass_rest(z->ctx); /* of the weights */
    arg[1] = graph_const(z->out, t.code, r->name), arg[scales] = graph_const(z->out, t.scale, NULL);
    arg[scales + 1] = graph_const(z->out, tensor_sums(z->out->mem, t.code, 1u << 1, false), NULL);
    out = NEW_ARRAY(z->ctx->scratch, Val, n->nout);
    graph_emit(z->out, n->op, n->attr, arg, scales + 2, n->nout, n->loc, out);
    for (uint32_t k = 0; k < n->nout; k++) {
        out[k] = switched(z, layer.region, out[k], plain[k], n->loc);
        if (!k) graph_name(z->out, out[k], layer.tensor);
        z->map[n->out.id + k] = out[k];
        graph_stand_for(z->out, out[k], graph_val(z->in, node_out(n, k)));
    }
    vec_push(z->q->mem, &z->q->layer, layer);
}

static void keep_compile(const Quantization *q, regex_t *keep)
{
    if (q->keep && regcomp(keep, q->keep, REG_EXTENDED | REG_NOSUB)) assert(!"--keep was checked by its option");
}

static const char *why_kept(const Graph *g, const Quantization *q, const regex_t *keep, const Node *n)
{
    const char *why = why_float(g, n);
    if (why) return why;
    return q->keep && !regexec(keep, n->loc->node, 0, NULL, 0) ? "kept by --keep" : NULL;
}

static const char *decide(const Quantizer *z, const Node *n)
{
    const char *why = why_kept(z->in, z->q, &z->keep, n);
    if (why || is_recurrence(n)) return why; /* states get scales while the model runs */
    if (!val_range(z, node_in(z->in, n, 0))) return "its input has no range: no calibration sample reached it";
    return NULL;
}

WeightForm *quantize_forms(const Graph *g, const Quantization *q, Arena *mem)
{
    regex_t keep;
    if (q->float_activations) return codes_forms(g, q, mem);
    WeightForm *form = NEW_ARRAY(mem, WeightForm, g->node.n + 1);
    const bool *live = graph_live(g, mem);
    keep_compile(q, &keep);
    for (uint32_t i = 0; i < g->node.n; i++)
        if (live[i] && multiplies(&g->node.at[i]) && !why_kept(g, q, &keep, &g->node.at[i]))
            form[i] = quantize_form(q);
    if (q->keep) regfree(&keep);
    return form;
}

WeightForm *weight_forms(const Graph *g, const Quantization *q, Arena *mem)
{
    WeightForm *form = quantize_forms(g, q, mem), *beside = q->float_activations ? form : codes_forms(g, q, mem);
    for (uint32_t i = 0; i < g->node.n; i++)
        if (!form[i].code) form[i] = beside[i];
    return form;
}

int64_t weights_coded(const Graph *g, const Quantization *q)
{
    Arena mem = {0};
    int64_t all = 0;
    const WeightForm *form = weight_forms(g, q, &mem);
    for (uint32_t i = 0; i < g->node.n; i++)
        if (form[i].code) all += tensor_count(graph_val(g, node_in(g, &g->node.at[i], 1))->konst);
    arena_drop(&mem);
    return all;
}

static void keep_float(Quantizer *z, uint32_t i, const char *why)
{
    const Node *n = &z->in->node.at[i];
    z->integer[i] = false;
    Layer l = {.loc = n->loc, .tensor = tensor_name(z->in, n->out, z->q->mem), .state = LAYER_FLOAT, .why = why};
    l.input = tensor_name(z->in, multiplied(z->in, n), z->q->mem), l.sqnr = l.cost = NAN, l.region = z->region.n ? z->region.of_node[i] : 0;
    vec_push(z->q->mem, &z->q->layer, l);
}

/* Do constants alone become codes here? */
static bool codes_alone(const Quantizer *z, uint32_t i)
{
    const Node *n = &z->in->node.at[i];
    return z->live[i] && (codes_tables(z->in, z->q, n) || codes_beside_integers(z->in, z->q, n));
}

/* By what they read, as ranges are known, for who makes another graph of the same model. */
static void name_regions(const Quantizer *z)
{
    Quantization *q = z->q;
    q->region_reads = NEW_ARRAY(q->mem, const char *, q->regions + 1);
    for (uint32_t v = 1; v < z->in->val.n; v++)
        if (z->region.of_val[v]) q->region_reads[z->region.of_val[v]] = tensor_name(z->in, (Val){v}, q->mem);
}

static void note_places(const Quantizer *z)
{
    Quantization *q = z->q;
    q->located = 0;
    for (uint32_t i = 0; i < z->in->node.n; i++)
        if (z->in->node.at[i].loc && z->in->node.at[i].loc->place >= q->located) q->located = z->in->node.at[i].loc->place + 1;
    q->region_at = NEW_ARRAY(q->mem, uint32_t, q->located + 1);
    for (uint32_t i = 0; i < z->in->node.n; i++) {
        const Node *n = &z->in->node.at[i];
        if (n->loc) q->region_at[n->loc->place] = codes_alone(z, i) && !z->region.of_node[i] ? q->tables : z->region.of_node[i];
    }
    q->region_at[0] = 0;
}

static void note_regions(const Quantizer *z)
{
    Quantization *q = z->q;
    bool tables = false;
    for (uint32_t i = 0; i < z->in->node.n && !tables; i++) tables = codes_alone(z, i);
    q->regions = z->region.n + tables, q->tables = tables ? q->regions : 0;
    name_regions(z), note_places(z);
}

bool *regions_elsewhere(const Quantization *q, const bool *chosen, const Quantization *there, Arena *mem)
{
    bool *r = NEW_ARRAY(mem, bool, there->regions + 1);
    Map at = {0};
    for (uint32_t i = 1; i <= q->regions; i++)
        if (i != q->tables) map_put(mem, &at, q->region_reads[i], i);
    for (uint32_t i = 1; i <= there->regions; i++) {
        uint32_t here = i == there->tables ? q->tables : map_get(&at, there->region_reads[i]);
        r[i] = !here || chosen[here];
    }
    return r;
}

static void find_regions(Quantizer *z)
{
    Quantization *q = z->q;
    z->region = regions_find(z->in, z->integer, z->ctx->scratch);
    note_regions(z);
    if (q->simulate) z->switches = simulate_begin(z->out, q->regions);
    for (uint32_t i = 0; q->reverted && i < z->in->node.n; i++)
        if (z->integer[i] && q->reverted[z->region.of_node[i]]) keep_float(z, i, "kept by --max-loss");
}

/* Whose inputs become codes, and in which form. */
static void choose_forms(Quantizer *z)
{
    const Graph *g = z->in;
    bool *wanted = NEW_ARRAY(z->ctx->scratch, bool, g->val.n + 1), *narrow = NEW_ARRAY(z->ctx->scratch, bool, g->val.n + 1);
    z->wanted = wanted, z->wide = NEW_ARRAY(z->ctx->scratch, bool, g->node.n + 1);
    z->rows = NEW_ARRAY(z->ctx->scratch, bool, g->val.n + 1);
    for (uint32_t i = 0; i < g->node.n; i++) {
        uint32_t v = node_in(g, &g->node.at[i], 0).id;
        if (!z->integer[i] || !is_contraction(&g->node.at[i])) continue;
        wanted[v] = true, z->wide[i] = wants_wide(z, i), narrow[v] = narrow[v] || !z->wide[i];
    }
    for (uint32_t v = 1; v < g->val.n; v++)
        z->rows[v] = wanted[v] && (!narrow[v] || wants_rows(z, (Val){v}, val_range(z, (Val){v})));
}

/* note: layers that stay float are noted. */
static void choose_integer(Quantizer *z, bool note)
{
    z->integer = NEW_ARRAY(z->ctx->scratch, bool, z->in->node.n + 1);
    keep_compile(z->q, &z->keep);
    for (uint32_t i = 0; i < z->in->node.n; i++) {
        if (!z->live[i] || !multiplies(&z->in->node.at[i])) continue;
        const char *why = decide(z, &z->in->node.at[i]);
        z->integer[i] = !why;
        if (why && note && !codes_beside_integers(z->in, z->q, &z->in->node.at[i])) keep_float(z, i, why);
    }
    if (z->q->keep) regfree(&z->keep);
}

Graph *pass_quantize(const Graph *in, PassCtx *ctx)
{
    Quantizer z = {.ctx = ctx, .q = ctx->quant, .in = in, .out = graph_new(ctx->module, ctx->mem, in->name)};
    const bool *live = z.live = graph_live(in, ctx->scratch);
    z.map = graph_begin(z.out, in, ctx->scratch);
    for (int wide = 0; wide < 2; wide++) z.dequantized[wide] = NEW_ARRAY(ctx->scratch, Val, in->val.n + 1);
    choose_integer(&z, true);
    find_regions(&z);
    choose_forms(&z);
    for (uint32_t i = 0; i < in->node.n; i++)
        if (live[i] && z.integer[i] && is_recurrence(&in->node.at[i])) copy_recurrence(&z, i);
        else if (live[i]) copy_quantized(&z, i);
    graph_end(z.out, in, z.map);
    return z.out;
}

/* ---- what 16 bits are for ---- */
uint32_t row_products(const Graph *g, Quantization *q, RowProduct **list, Arena *mem)
{
    PassCtx ctx = {.scratch = mem};
    Quantizer z = {.ctx = &ctx, .q = q, .in = g, .live = graph_live(g, mem)};
    uint32_t n = 0;
    choose_integer(&z, false);
    *list = NEW_ARRAY(mem, RowProduct, g->node.n + 1);
    for (uint32_t i = 0; i < g->node.n; i++) {
        RowProduct p = {.node = i};
        if (!z.integer[i] || !is_contraction(&g->node.at[i]) || !may_be_wide(g, i)) continue;
        Val x = node_in(g, &g->node.at[i], 0);
        saved(g, &g->node.at[i], graph_val(g, node_in(g, &g->node.at[i], 1))->konst, &p.products);
        p.rows = wants_rows(&z, x, val_range(&z, x)), p.reader = reader_number(g, i);
        (*list)[n++] = p;
    }
    return n;
}

Val through_eight_bits(Graph *g, Val x, const Range *r, bool rows, const Loc *loc)
{
    return rows ? through_rows(g, x, r, false, loc) : through_tensor(g, x, r, loc);
}
