/* store.c - values between kernels stored in 16 bits.
 *
 * Comes in: the clustered program with its halos, everything f32. Goes out: the same program, where temporaries and weights are bf16 or f16.
 * Nothing else changes: a stage computes in f32 from widened loads and rounds once, where it stores, so a value that a kernel
 * never stores is never rounded. Sums of products of two bf16 operands become dot products further on (layout.c, tune.c).
 *
 * What stays f32, and why:
 *
 *   inputs, outputs   their type is the model's contract; contractions read a rounded copy of an input
 *   private           temporaries that only one group of stages touches (maxima and sums of a softmax, moments of a norm)
 *   places kept       a place that receives values while they are summed; what leaves the group is stored narrow in its last stage
 *   states            of scans, and targets of scattered updates: rounded again in every step, they would drift
 *   positions         what is made of integers alone (ranges, masks, angles of rotary embeddings): 16 bits do not hold 1001
 *   places            where elements are looked up, and what such are computed from element by element
 *   statistics        sums over many elements that no contraction reads, but under no window: there are few of them
 *   small constants   biases and scales: there are few of them (weights of contractions and windows are factors like any other)
 *   weights of few bits, which are widened where they are used, and their scales
 *   weights that the type cannot hold, and what the user keeps by the name of its node */
#include "codegen/analyse.h"
#include <math.h>

enum { LARGE = 4096, MANY = 16, DEEP = 4, FEW = 8 };

#define F16_MAX  65504.0
#define BF16_MAX 3.38953138925153547590470800371487866880e38

typedef struct Store {
    Kernel *k;
    DType type;
    const regex_t *keep;
    Arena *mem;
    bool *narrow, *operand, *wide; /* per buffer: stored in `type`; read by a contraction; must stay f32 */
    bool *data; /* per buffer: made of what a call brings, and no statistic of it */
    int *group; /* per buffer: the group of stages that alone touches it; 0: none yet, -1: several or none */
} Store;

static bool is_kept(const Compute *c, const regex_t *keep)
{
    return keep && c->loc && c->loc->node && !regexec(keep, c->loc->node, 0, NULL, 0);
}

static int64_t product(Kernel *k, const int *axis, int n)
{
    int64_t all = 1;
    for (int i = 0; i < n && all < INT32_MAX; i++) all *= expr_constant(k, k->axis.at[axis[i]].extent, MANY);
    return all;
}

bool is_deep_sum(Kernel *k, const Compute *c, const regex_t *keep)
{
    Contraction r;
    if (c->scan || is_kept(c, keep) || !contraction_of(k, c, &r) || r.acc != DT_f32) return false;
    return product(k, c->reduce, c->reduces) >= DEEP;
}

/* ---- copies of inputs ---- */
/* The dimension that a summed axis alone walks: the longest, if it is longer than a few; -1: none. */
static int summed_dim(const Kernel *k, const Compute *c, const ExprNode *load)
{
    int best = -1;
    int64_t longest = FEW;
    for (int d = 0; d < k->buf.at[load->id].rank; d++)
        for (int i = 0; i < c->reduces; i++) {
            int64_t n = expr_constant(k, k->axis.at[c->reduce[i]].extent, MANY);
            if (axis_of_index(k, load->arg[d]) == c->reduce[i] && n >= longest) best = d, longest = n;
        }
    return best;
}

/* The input, rounded, with the dimension in question innermost. */
static int input_copy(Store *s, int buf, int inner, const Loc *loc)
{
    Kernel *k = s->k;
    Buf b = k->buf.at[buf];
    Compute c = {.rank = b.rank, .loc = loc};
    b.name = arena_printf(k->mem, "%s.%s", b.name, dtypes[s->type].name), b.kind = BUF_TMP, b.source = 0;
    for (int d = 0; d < b.rank && inner >= 0 && inner < b.rank - 1; d++)
        if (d != inner) b.layout.axis[b.layout.n++] = (LayoutAxis){d, 1, 0};
    if (b.layout.n) b.layout.axis[b.layout.n++] = (LayoutAxis){inner, 1, 0};
    for (int d = 0; d < b.rank; d++) c.space[d] = kernel_axis(k, NULL, b.dim[d]), c.at[d] = expr_axis(k, c.space[d]);
    c.value = expr_load(k, buf, c.at), c.out = kernel_buf(k, b);
    vec_push(k->mem, &k->stage, c);
    memmove(k->stage.at + 1, k->stage.at, sizeof *k->stage.at * (k->stage.n - 1));
    k->stage.at[0] = c;
    return c.out;
}

static bool rounds_inputs(Store *s, const Compute *c)
{
    Contraction r;
    return is_deep_sum(s->k, c, s->keep) && contraction_of(s->k, c, &r) && !has_few_rows(s->k, c, &r);
}

/* Dot products take bf16 alone. A contraction that reads an f32 input in place would have to round it again for every use, unless few rows use it, as it is. */
static void copy_inputs(Store *s)
{
    Kernel *k = s->k;
    int *copy = NEW_ARRAY(s->mem, int, k->buf.n);
    for (uint32_t i = 0; i < k->stage.n && s->type == DT_bf16; i++) {
        LoadList loads = {0};
        if (rounds_inputs(s, &k->stage.at[i])) loads_of(k, s->mem, k->stage.at[i].value, &loads);
        for (uint32_t l = 0; l < loads.at.n; l++) {
            ExprNode n = *expr_node(k, loads.at.at[l]);
            if (k->buf.at[n.id].kind != BUF_IN || k->buf.at[n.id].type != DT_f32) continue;
            if (!copy[n.id]) {
                const Compute *c = &k->stage.at[i++];
                copy[n.id] = input_copy(s, (int)n.id, summed_dim(k, c, &n), c->loc);
            }
            Compute *c = &k->stage.at[i];
            c->value = expr_replace(k, c->value, loads.at.at[l], expr_load(k, copy[n.id], n.arg));
        }
    }
}

/* ---- which ---- */
static void note_group(Store *s, int buf, const Compute *c)
{
    int mine = c->share ? c->share : -1;
    s->group[buf] = !s->group[buf] || s->group[buf] == mine ? mine : -1;
}

static bool is_deep_window(Store *s, const Compute *c) /* products of weights and an image under them (depthwise) */
{
    Kernel *k = s->k;
    const ExprNode *v = expr_node(k, c->value);
    if (c->scan || c->how != P_add || v->kind != E_PRIM || v->prim != P_mul || v->type != DT_f32) return false;
    return !is_kept(c, s->keep) && stage_is_window(k, c) && product(k, c->reduce, c->reduces) >= DEEP;
}

static void note_operands(Store *s, const Compute *c)
{
    Kernel *k = s->k;
    LoadList loads = {0};
    if (is_deep_sum(k, c, s->keep) || is_deep_window(s, c)) loads_of(k, s->mem, c->value, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) s->operand[expr_node(k, loads.at.at[i])->id] = true;
}

static void note_stage(Store *s, const Compute *c)
{
    Kernel *k = s->k;
    LoadList loads = {0};
    stage_loads(k, s->mem, c, &loads);
    note_group(s, c->out, c);
    for (uint32_t i = 0; i < loads.at.n; i++) note_group(s, (int)expr_node(k, loads.at.at[i])->id, c);
    if (c->scan || c->update || is_kept(c, s->keep)) s->wide[c->out] = true;
    for (uint32_t i = 0; is_kept(c, s->keep) && i < loads.at.n; i++) {
        int from = (int)expr_node(k, loads.at.at[i])->id;
        if (k->buf.at[from].kind == BUF_CONST) s->wide[from] = true;
    }
    if (c->keep) s->wide[expr_node(k, c->keep)->id] = true;
    note_operands(s, c);
}

/* Where elements are looked up (a grid of samples, offsets of a deformed window): in 16 bits 50.3 is 50.25 at best. */
static void note_places(Store *s)
{
    Kernel *k = s->k;
    bool *place = NEW_ARRAY(s->mem, bool, k->buf.n);
    for (uint32_t i = k->stage.n; i-- > 0;) {
        const Compute *c = &k->stage.at[i];
        LoadList loads = {0}, at = {0};
        stage_loads(k, s->mem, c, &loads);
        for (int d = 0; d < k->buf.at[c->out].rank; d++) loads_of(k, s->mem, c->at[d], &at);
        for (uint32_t l = 0; l < loads.at.n; l++) {
            ExprNode n = *expr_node(k, loads.at.at[l]);
            for (int d = 0; d < k->buf.at[n.id].rank; d++) loads_of(k, s->mem, n.arg[d], &at);
            if (place[c->out] && !c->how) place[n.id] = true;
        }
        for (uint32_t l = 0; l < at.at.n; l++) place[expr_node(k, at.at.at[l])->id] = true;
    }
    for (uint32_t b = 1; b < k->buf.n; b++) s->wide[b] = s->wide[b] || place[b];
}

/* Weights made of codes (widen.c) are widened beside their product; scales keep their type. */
static void note_widened(Store *s)
{
    Kernel *k = s->k;
    int *def = widened_buffers(k, s->mem);
    for (uint32_t b = 1; b < k->buf.n; b++) {
        LoadList loads = {0};
        if (!def[b]) continue;
        s->wide[b] = true;
        stage_loads(k, s->mem, &k->stage.at[def[b] - 1], &loads);
        for (uint32_t i = 0; i < loads.at.n; i++) s->wide[expr_node(k, loads.at.at[i])->id] = true;
    }
}

static int64_t elements(const Kernel *k, const Buf *b)
{
    int64_t n = 1;
    for (int d = 0; d < b->rank && n < INT32_MAX; d++) n *= expr_constant(k, b->dim[d], MANY);
    return n;
}

static bool holds(DType t, const Tensor *data)
{
    int64_t n = tensor_count(data);
    for (int64_t i = 0; i < n; i++) {
        double v = dtype_load(data->type, data->data, i);
        if (isfinite(v) && !isfinite(float_round(t, v))) return false;
    }
    return true;
}

static bool is_narrow_constant(const Store *s, int buf)
{
    const Buf *b = &s->k->buf.at[buf];
    if (b->kind != BUF_CONST || b->type != DT_f32 || !b->data || s->wide[buf]) return false;
    return (s->operand[buf] || elements(s->k, b) >= LARGE) && holds(s->type, b->data);
}

/* Is what the stage computes made of integers, small constants and statistics alone? */
static bool is_position(const Store *s, const Compute *c)
{
    Kernel *k = s->k;
    LoadList loads = {0};
    stage_loads(k, s->mem, c, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        const Buf *b = &k->buf.at[expr_node(k, loads.at.at[i])->id];
        uint32_t id = expr_node(k, loads.at.at[i])->id;
        bool plain = dtypes[b->type].cls != DC_FLOAT || b->kind == BUF_CONST;
        if (s->narrow[id] || s->data[id] || (!plain && b->kind != BUF_TMP)) return false;
    }
    return true;
}

static bool is_statistic(const Store *s, const Compute *c)
{
    Contraction r;
    if (!c->how || !c->reduces || contraction_of(s->k, c, &r) || stage_is_window(s->k, c)) return false;
    return product(s->k, c->reduce, c->reduces) > MANY;
}

/* Sums of products that the graph itself rounded (tiles of convolutions by minimal filtering), which it transforms back: rounded once more
 * they would lose as much again. */
static bool is_rounded_sum(const Store *s, const Compute *c)
{
    Kernel *k = s->k;
    LoadList loads = {0};
    bool rounded = false;
    if (c->how) loads_of(k, s->mem, c->value, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        const Buf *b = &k->buf.at[expr_node(k, loads.at.at[i])->id];
        rounded = rounded || (b->kind == BUF_TMP && b->type == s->type);
    }
    return rounded;
}

/* In the order of the program, so that what a stage reads is settled; a buffer several stages write is narrow unless all of them say no. */
static void choose(Store *s)
{
    Kernel *k = s->k;
    for (int b = 1; b < (int)k->buf.n; b++) s->narrow[b] = is_narrow_constant(s, b);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *c = &k->stage.at[i];
        const Buf *b = &k->buf.at[c->out];
        if (b->kind != BUF_TMP || s->wide[c->out]) continue;
        s->data[c->out] = s->data[c->out] || (!is_position(s, c) && !is_statistic(s, c));
        if (b->type != DT_f32 || s->group[c->out] > 0 || is_rounded_sum(s, c)) continue;
        s->narrow[c->out] = s->narrow[c->out] || s->operand[c->out] || s->data[c->out];
    }
}

/* ---- how ---- */
/* The largest finite number of the type stands for everything above it: what f32 holds must not become infinite. f16 is bounded wherever it is
 * stored. bf16 has the range of f32 but for its last binade's end, where nothing lies but what hides: masks of -FLT_MAX, and a row that is
 * masked as a whole would be a softmax of infinities. */
typedef struct Rounding {
    DType type;
    double most; /* 0: no bound is needed */
} Rounding;

static Expr rounded(Kernel *k, Rounding r, Expr e)
{
    ExprNode n = *expr_node(k, e);
    if (n.type == r.type) return e;
    if (n.kind == E_PRIM && n.prim == P_cast && expr_node(k, n.arg[0])->type == r.type) return n.arg[0]; /* a copy */
    if (n.kind == E_PRIM && prim_chooses(n.prim))
        return expr_prim(k, (Prim)n.prim, n.arg[0], rounded(k, r, n.arg[1]), rounded(k, r, n.arg[2]));
    if (r.most > 0) {
        Expr most = expr_float(k, DT_f32, r.most), least = expr_float(k, DT_f32, -r.most);
        e = expr_prim(k, P_min, expr_prim(k, P_max, e, least, 0), most, 0);
    }
    return expr_cast(k, r.type, e);
}

/* Which buffers may hold what bf16 does not: inputs, constants that do, and f32 that is made of such; per stage, whether it computes such. */
static bool *huge_stages(Kernel *k, Arena *mem, const bool *narrow)
{
    bool *huge = NEW_ARRAY(mem, bool, k->buf.n), *stage = NEW_ARRAY(mem, bool, k->stage.n + 1);
    for (uint32_t b = 1; b < k->buf.n; b++) {
        const Buf *buf = &k->buf.at[b];
        bool constant = buf->kind == BUF_CONST && buf->type == DT_f32 && buf->data && !narrow[b];
        huge[b] = buf->kind == BUF_IN || (constant && !holds(DT_bf16, buf->data));
    }
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *c = &k->stage.at[i];
        LoadList loads = {0};
        loads_of(k, mem, c->value, &loads), loads_of(k, mem, c->epilogue, &loads);
        for (uint32_t l = 0; l < loads.at.n; l++) stage[i] = stage[i] || huge[expr_node(k, loads.at.at[l])->id];
        stage[i] = stage[i] || fmax(expr_largest(k, c->value), expr_largest(k, c->epilogue)) > BF16_MAX;
        if (!narrow[c->out]) huge[c->out] = huge[c->out] || stage[i];
    }
    return stage;
}

static Expr widened(Kernel *k, Expr e, const LoadList *loads, const bool *narrow)
{
    for (uint32_t i = 0; e && i < loads->at.n; i++) {
        ExprNode n = *expr_node(k, loads->at.at[i]);
        if (!narrow[n.id] || n.type != DT_f32) continue;
        e = expr_replace(k, e, loads->at.at[i], expr_cast(k, DT_f32, expr_load(k, (int)n.id, n.arg)));
    }
    return e;
}

static void store_stage(Kernel *k, Arena *mem, Compute *c, Rounding r, const bool *narrow)
{
    LoadList loads = {0};
    stage_loads(k, mem, c, &loads);
    Expr *e[] = {&c->value, &c->epilogue, &c->check, &c->where};
    for (size_t i = 0; i < COUNT_OF(e); i++) *e[i] = widened(k, *e[i], &loads, narrow);
    for (int d = 0; d < k->buf.at[c->out].rank; d++) c->at[d] = widened(k, c->at[d], &loads, narrow);
    if (!narrow[c->out]) return;
    if (!c->how) c->value = rounded(k, r, c->value);
    else c->epilogue = rounded(k, r, c->epilogue ? c->epilogue : expr_it(k, DT_f32));
}

/* What a group stores of a kept place leaves it through another buffer: the last stage of the group writes there. */
static void leave_group(Kernel *k, uint32_t last)
{
    Compute *c = &k->stage.at[last];
    int from = c->out;
    Buf b = k->buf.at[from];
    b.name = arena_printf(k->mem, "%s.out", b.name);
    c->out = kernel_buf(k, b);
    for (uint32_t i = last + 1; i < k->stage.n; i++) {
        Compute *r = &k->stage.at[i];
        Expr *e[] = {&r->value, &r->epilogue, &r->check, &r->where};
        for (size_t j = 0; j < COUNT_OF(e); j++) {
            Arena scratch = {0};
            LoadList loads = {0};
            loads_of(k, &scratch, *e[j], &loads);
            for (uint32_t l = 0; l < loads.at.n; l++) {
                ExprNode n = *expr_node(k, loads.at.at[l]);
                if ((int)n.id == from) *e[j] = expr_replace(k, *e[j], loads.at.at[l], expr_load(k, c->out, n.arg));
            }
            arena_drop(&scratch);
        }
    }
}

static bool is_last_writer(const Kernel *k, uint32_t stage)
{
    for (uint32_t i = stage + 1; i < k->stage.n; i++) {
        const Compute *c = &k->stage.at[i];
        if (c->out == k->stage.at[stage].out || c->share == k->stage.at[stage].share) return false;
        for (int d = 0; d < k->buf.at[c->out].rank; d++)
            if (expr_reads(k, c->at[d], k->stage.at[stage].out)) return false;
    }
    return true;
}

static void leave_groups(Kernel *k)
{
    for (uint32_t i = 0; i < k->stage.n; i++) {
        if (!k->stage.at[i].keep || !k->stage.at[i].share) continue;
        int place = (int)expr_node(k, k->stage.at[i].keep)->id;
        for (uint32_t j = i + 1; j < k->stage.n && k->stage.at[j].share == k->stage.at[i].share; j++)
            if (k->stage.at[j].out == place && k->buf.at[place].kind == BUF_TMP && is_last_writer(k, j) &&
                !k->stage.at[j].scan)
                leave_group(k, j);
    }
}

static const Tensor *converted(Kernel *k, DType t, const Tensor *from)
{
    Tensor *to = tensor_new(k->mem, t, from->rank, from->dim);
    int64_t n = tensor_count(from);
    for (int64_t i = 0; i < n; i++) dtype_store(t, (void *)to->data, i, dtype_load(from->type, from->data, i));
    return to;
}

void program_narrow(Kernel *k, DType t, const bool *narrow)
{
    Arena scratch = {0};
    const bool *huge = t == DT_bf16 ? huge_stages(k, &scratch, narrow) : NULL;
    for (uint32_t b = 1; b < k->buf.n; b++) {
        if (!narrow[b]) continue;
        k->buf.at[b].type = t;
        if (k->buf.at[b].kind == BUF_CONST) k->buf.at[b].data = converted(k, t, k->buf.at[b].data);
    }
    for (uint32_t i = 0; i < k->stage.n; i++) {
        double most = t == DT_f16 ? F16_MAX : huge && huge[i] ? BF16_MAX : 0;
        store_stage(k, &scratch, &k->stage.at[i], (Rounding){t, most}, narrow);
    }
    arena_drop(&scratch);
}

void program_store(Kernel *k, const Storage *store)
{
    DType t = store->type;
    Arena scratch = {0};
    leave_groups(k);
    copy_inputs(&(Store){.k = k, .type = t, .keep = store->keep, .mem = &scratch});
    Store s = {.k = k, .type = t, .keep = store->keep, .mem = &scratch};
    s.narrow = NEW_ARRAY(&scratch, bool, k->buf.n), s.operand = NEW_ARRAY(&scratch, bool, k->buf.n);
    s.wide = NEW_ARRAY(&scratch, bool, k->buf.n), s.group = NEW_ARRAY(&scratch, int, k->buf.n);
    s.data = NEW_ARRAY(&scratch, bool, k->buf.n);
    for (uint32_t i = 0; i < k->stage.n; i++) note_stage(&s, &k->stage.at[i]);
    note_widened(&s);
    note_places(&s);
    choose(&s);
    program_narrow(k, t, s.narrow);
    arena_drop(&scratch);
}
