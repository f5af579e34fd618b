/* layout.c - the order of every buffer's elements, and the copies a faster order needs.
 *
 * Comes in: the clustered program; lowerings of convolutions and pools have left the channels-last order on the buffers they walk pixel
 * by pixel. Goes out: the same program, a layout on every buffer, and a few more stages that copy. In order:
 *
 *   1. Graph inputs and outputs are row-major: that is their contract. An output that is computed channels-last gets a temporary before it, and an
 *      input that is walked so one behind it.
 *   2. The channels-last order spreads along stages that work point by point.
 *   3. Halo: a sum that reads its operand under a guard (padding) reads a padded temporary without one. Where the operand is a
 *      temporary, its producers store into the padded one and only the border is filled.
 *   4. Where values are stored narrow, or factors split, they become so here (store.c, split.c): all temporaries exist, and operands follow
 *      their types.
 *   5. Operands of contractions: constants on the right go to panels of 16 columns (dot products: a word of 32 bits of the summed axis
 *      together); right operands whose columns are not side by side, and left operands of dot products whose summed axis is not, are copied to where
 *      they are. Constants that vary along the vector axis of a depthwise sum are turned so that it is contiguous.
 *   6. Rows of left operands begin in different places of a cache. */
#include "codegen/analyse.h"
#include <assert.h>

enum { PANEL = 16, TILE_WORDS = 16, FEW_CHANNELS = 8, MOST_REPEATED = 65536 };

typedef struct Halo {
    int from, to;
    int64_t skip[MAX_RANK], cut[MAX_RANK];
    Expr low[MAX_RANK], pad;
} Halo; /* to[i] holds from[i + low], or pad where i + low is none of the dimension's places without its first `skip` and last `cut` */
typedef struct Layer {
    Kernel *k;
    Arena *mem;
    const Storage *store;
    VEC(Compute) out;           /* the program being made */
    int share;                  /* numbers not yet used */
    bool *turned;               /* per buffer: a constant whose layout is settled */
    int *widened, bufs;         /* for so many buffers: not 0 where a stage makes numbers of codes (widen.c) */
    uint32_t *readers, counted; /* per buffer; for so many: later ones have one reader */
} Layer;

static Layout order(int n, const int *dim)
{
    Layout l = {.n = n};
    for (int i = 0; i < n; i++) l.axis[i] = (LayoutAxis){dim[i], 1, 0};
    return l;
}

static void append(Layer *l, Compute c) { vec_push(l->mem, &l->out, c); }
static Expr minus_one(Kernel *k, Expr e) { return expr_sub(k, e, expr_index(k, 1)); }

/* ---- 1, 2: inputs, outputs, channels-last ---- */
static bool is_pointwise(Kernel *k, const Compute *s, Expr load)
{
    ExprNode n = *expr_node(k, load);
    int64_t by;
    if (k->buf.at[n.id].rank != k->buf.at[s->out].rank) return false;
    for (int d = 0; d < k->buf.at[s->out].rank; d++)
        if (!lin_differ(k, n.arg[d], s->at[d], &by)) return false;
    return true;
}

/* An order may be given to a temporary, and to a constant as large as what it meets. */
static bool may_take(Kernel *k, int buf, int like)
{
    const Buf *b = &k->buf.at[buf], *l = &k->buf.at[like];
    if (b->layout.n || (b->kind != BUF_TMP && b->kind != BUF_CONST)) return false;
    for (int d = 0; b->kind == BUF_CONST && d < b->rank; d++)
        if (b->dim[d] != l->dim[d]) return false;
    return true;
}

static bool spread_stage(Kernel *k, Arena *mem, const Compute *s)
{
    LoadList loads = {0};
    bool changed = false;
    stage_loads(k, mem, s, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        int from = (int)expr_node(k, loads.at.at[i])->id;
        if (!is_pointwise(k, s, loads.at.at[i])) continue;
        if (k->buf.at[s->out].layout.n && may_take(k, from, s->out))
            k->buf.at[from].layout = k->buf.at[s->out].layout, changed = true;
        else if (k->buf.at[from].layout.n && k->buf.at[from].kind != BUF_CONST && may_take(k, s->out, from))
            k->buf.at[s->out].layout = k->buf.at[from].layout, changed = true;
    }
    return changed;
}

void spread_order(Kernel *k)
{
    Arena scratch = {0};
    bool again = true;
    for (int round = 0; again && round < 4;
         round++) { /* one way each: a program is read in order, so few rounds reach everything */
        again = false;
        for (uint32_t i = 0; i < k->stage.n; i++) again = spread_stage(k, &scratch, &k->stage.at[i]) || again;
        for (uint32_t i = k->stage.n; i--;) again = spread_stage(k, &scratch, &k->stage.at[i]) || again;
    }
    arena_drop(&scratch);
}

/* A copy of `from` into `to`, dimension by dimension. */
static Compute copy_stage(Kernel *k, int to, int from, const Loc *loc)
{
    Compute c = {.out = to, .rank = k->buf.at[to].rank, .loc = loc};
    for (int d = 0; d < c.rank; d++)
        c.space[d] = kernel_axis(k, NULL, k->buf.at[to].dim[d]), c.at[d] = expr_axis(k, c.space[d]);
    c.value = expr_load(k, from, c.at);
    return c;
}

static void find_widened(Layer *l) { l->widened = widened_buffers(l->k, l->mem), l->bufs = (int)l->k->buf.n; }

/* What a stage makes of constant codes (widen.c). */
static bool is_widened(const Layer *l, Expr e)
{
    const ExprNode *n = expr_node(l->k, e);
    return n->kind == E_LOAD && (int)n->id < l->bufs && l->widened[n->id];
}

/* Weights: a constant, or what is made of constant codes. */
static bool is_weights(const Layer *l, Expr e) { return is_constant_load(l->k, e) || is_widened(l, e); }

/* A convolution into a graph output: its channels come from weights, and the output has them second. */
static bool is_turned(const Layer *l, const Compute *s)
{
    Kernel *k = l->k;
    const Buf *b = &k->buf.at[s->out];
    Contraction c;
    if (b->kind != BUF_OUT || b->rank < 3 || s->scan || !contraction_of(k, s, &c)) return false;
    int channel = 0;
    for (int d = 0; d < s->rank; d++)
        if (expr_uses(k, s->at[1], s->space[d])) channel = channel ? -1 : s->space[d];
    if (channel <= 0) return false;
    bool by_left = is_weights(l, c.left) && expr_uses(k, c.left, channel) && !expr_uses(k, c.right, channel);
    bool by_right = is_weights(l, c.right) && expr_uses(k, c.right, channel) && !expr_uses(k, c.left, channel);
    return by_left || by_right;
}

static Layout channels_last(int rank)
{
    int dim[MAX_RANK] = {0};
    for (int d = 1; d < rank; d++) dim[d] = d + 1 < rank ? d + 1 : 1;
    return order(rank, dim);
}

/* `buf` with its channels last. */
static int turned_buffer(Kernel *k, int buf)
{
    Buf b = k->buf.at[buf];
    b.kind = BUF_TMP, b.name = arena_printf(k->mem, "%s.last", b.name), b.source = 0, b.layout = channels_last(b.rank);
    return kernel_buf(k, b);
}

static bool reduces_any(Kernel *k, const Compute *s, Expr e)
{
    for (int i = 0; i < s->reduces; i++)
        if (expr_uses(k, e, s->reduce[i])) return true;
    return false;
}

static bool fills_lanes(Kernel *k, int axis) { return axis && expr_constant(k, k->axis.at[axis].extent, 0) >= PANEL; }

/* Does a stage that reads several places of an image for each result have its channels, lanes full of them, side by side in these? Row-major,
 * they would be gathered at every place. */
static bool walks_channels(Kernel *k, const Compute *s, const LoadList *loads, int image)
{
    uint32_t places = 0;
    Expr at = buf_address(k, s->out, s->at);
    if (s->how || s->scan || k->buf.at[image].rank < 3) return false;
    for (uint32_t i = 0; i < loads->at.n; i++) {
        const ExprNode *n = expr_node(k, loads->at.at[i]);
        int channel = (int)n->id == image ? axis_of_index(k, n->arg[1]) : 0;
        if ((int)n->id != image) continue;
        if (!fills_lanes(k, channel) || !step_is(k, at, channel, 1)) return false;
        places++;
    }
    return places > 1;
}

/* The same for an output: what is read in several places has its channels side by side, and the output would be stored one by one. Where a window moves
 * over the image lanes would be gathered for each of its taps instead; where the places are written out, stores are slow if planes begin in the
 * same few places of a cache. */
static bool fills_channels(Layer *l, const Compute *s)
{
    enum { PAIR = 2, APART = 256 }; /* places; elements, of which planes are a multiple */
    Kernel *k = l->k;
    LoadList loads = {0};
    uint32_t places = 0;
    int channel = k->buf.at[s->out].rank >= 3 ? axis_of_index(k, s->at[1]) : 0;
    if (k->buf.at[s->out].kind != BUF_OUT || s->scan || s->update || !fills_lanes(k, channel)) return false;
    Contraction c;
    Expr plane = expr_step(k, buf_address(k, s->out, s->at), channel);
    if (!plane || expr_is(k, plane, 1) || contraction_of(k, s, &c)) return false;
    stage_loads(k, l->mem, s, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        const ExprNode *n = expr_node(k, loads.at.at[i]);
        if (!step_is(k, buf_address(k, (int)n->id, n->arg), channel, 1)) continue;
        if (s->how && reduces_any(k, s, loads.at.at[i])) return true;
        places++;
    }
    return places > PAIR && expr_constant(k, plane, 0) % APART == 0;
}

/* A stage reads inputs that it walks in copies with their channels last; last: per buffer, its copy or 0. */
static void turn_inputs(Layer *l, Compute *s, int *last)
{
    Kernel *k = l->k;
    LoadList loads = {0};
    stage_loads(k, l->mem, s, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        ExprNode n = *expr_node(k, loads.at.at[i]);
        int from = (int)n.id;
        if (k->buf.at[from].kind != BUF_IN || !walks_channels(k, s, &loads, from)) continue;
        if (!last[from]) last[from] = turned_buffer(k, from), append(l, copy_stage(k, last[from], from, s->loc));
        stage_replace(k, s, loads.at.at[i], expr_load(k, last[from], n.arg));
    }
}

static void settle_contract(Layer *l)
{
    Kernel *k = l->k;
    uint32_t *writers = NEW_ARRAY(l->mem, uint32_t, k->buf.n);
    int *last = NEW_ARRAY(l->mem, int, k->buf.n);
    find_widened(l);
    for (uint32_t i = 0; i < k->stage.n; i++) writers[k->stage.at[i].out]++;
    for (uint32_t b = 1; b < k->buf.n; b++)
        if (k->buf.at[b].kind == BUF_IN || k->buf.at[b].kind == BUF_OUT) k->buf.at[b].layout.n = 0;
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Compute s = k->stage.at[i];
        int to = s.out;
        bool turn = writers[to] == 1 && (is_turned(l, &s) || fills_channels(l, &s));
        if (turn) s.out = turned_buffer(k, to);
        turn_inputs(l, &s, last);
        append(l, s);
        if (turn) append(l, copy_stage(k, to, s.out, s.loc));
    }
}

static void take_stages(Layer *l) /* what was appended becomes the program */
{
    l->k->stage.at = arena_copy(l->k->mem, l->out.at, sizeof *l->out.at * l->out.n);
    l->k->stage.n = l->k->stage.cap = l->out.n;
    l->out.n = 0;
}

/* ---- 3: halo ---- */
static bool is_halo_guard(const Kernel *k, const ExprNode *n) /* a guarded load, maybe cast, with a constant outside */
{
    if (n->kind != E_PRIM || n->prim != P_guard) return false;
    const ExprNode *v = expr_node(k, n->arg[1]), *other = expr_node(k, n->arg[2]);
    if (v->kind == E_PRIM && v->prim == P_cast) v = expr_node(k, v->arg[0]);
    return v->kind == E_LOAD && (other->kind == E_FLOAT || other->kind == E_INT);
}

static Expr guarded_load(const Kernel *k, Expr guard)
{
    Expr v = expr_node(k, guard)->arg[1];
    return expr_node(k, v)->kind == E_LOAD ? v : expr_node(k, v)->arg[0];
}

static void guards_of(Layer *l, Expr e, LoadList *list)
{
    ExprNode n = *expr_node(l->k, e);
    if (n.kind != E_PRIM) return;
    for (uint32_t i = 0; i < list->at.n; i++)
        if (list->at.at[i] == e) return;
    if (is_halo_guard(l->k, &n)) vec_push(l->mem, &list->at, e);
    else
        for (int i = 0; i < 3 && n.arg[i]; i++) guards_of(l, n.arg[i], list);
}

/* Do tests keep the load inside its buffer? They may leave out more of it, where a window moves over a slice. */
static bool in_bounds(Kernel *k, Expr cond, const Buf *b, const ExprNode *load, Halo *h)
{
    ExprNode n = *expr_node(k, cond);
    int64_t by;
    if (n.kind != E_PRIM) return false;
    if (n.prim == P_and) return in_bounds(k, n.arg[0], b, load, h) && in_bounds(k, n.arg[1], b, load, h);
    if (n.prim != P_lt && n.prim != P_le) return false;
    Expr gap = expr_sub(k, n.arg[1], n.arg[0]); /* >= 0, or > 0 */
    int64_t need = n.prim == P_lt ? 1 : 0, *out = NULL;
    for (int d = 0; d < b->rank && !out; d++) {
        Expr rest = expr_sub(k, minus_one(k, b->dim[d]), load->arg[d]);
        if (lin_differ(k, gap, load->arg[d], &by) && by <= need) out = &h->skip[d];
        else if (lin_differ(k, gap, rest, &by) && by <= need) out = &h->cut[d];
    }
    if (!out) return false;
    *out = need - by > *out ? need - by : *out;
    return true;
}

/* The places of dimension d that are read where the guard holds. */
static Expr part_of(Kernel *k, const Halo *h, int d)
{
    return expr_sub(k, k->buf.at[h->from].dim[d], expr_index(k, h->skip[d] + h->cut[d]));
}

static bool is_part(const Halo *h)
{
    for (int d = 0; d < MAX_RANK; d++)
        if (h->skip[d] || h->cut[d]) return true;
    return false;
}

static bool same_values(const Halo *a, const Halo *b)
{
    return a->from == b->from && a->pad == b->pad && !memcmp(a->skip, b->skip, sizeof a->skip) &&
           !memcmp(a->cut, b->cut, sizeof a->cut);
}

/* The greatest value of an axis or of a digit of one, axis / c or axis % c; the least is 0. 0: it is neither. */
static Expr digit_most(Kernel *k, Expr e)
{
    ExprNode n = *expr_node(k, e);
    bool digit = n.kind == E_PRIM && (n.prim == P_div || n.prim == P_mod) && expr_is_index(k, n.arg[1], NULL);
    int a = axis_of_index(k, digit ? n.arg[0] : e);
    if (!a) return 0;
    Expr last = minus_one(k, k->axis.at[a].extent);
    if (!digit) return last;
    return n.prim == P_div ? expr_div(k, last, n.arg[1]) : expr_prim(k, P_min, last, minus_one(k, n.arg[1]), 0);
}

/* The least and greatest value of an index that grows with every axis, or digit of an axis, in it. */
static bool span(Kernel *k, Expr e, Expr *lo, Expr *hi)
{
    Lin l = lin_of(k, e);
    *lo = *hi = e;
    if (!l.ok) return false;
    for (int axes = 0; axes < 2; axes++) /* digits first: their axes stand in them */
        for (int i = 0; i < l.n; i++) {
            Expr atom = l.term[i].atom, most = digit_most(k, atom);
            if (expr_node(k, atom)->kind == E_SYM || axes != (axis_of_index(k, atom) != 0)) continue;
            if (!most || l.term[i].by <= 0) return false;
            *lo = expr_replace(k, *lo, atom, expr_index(k, 0)), *hi = expr_replace(k, *hi, atom, most);
        }
    return true;
}

/* What the padded temporary looks like; false: this guard is not a halo. */
static bool halo_of(Kernel *k, const Compute *s, Expr guard, Halo *h, Buf *want)
{
    ExprNode g = *expr_node(k, guard);
    Expr load = guarded_load(k, guard);
    ExprNode n = *expr_node(k, load);
    Buf b = k->buf.at[n.id];
    *h = (Halo){.from = (int)n.id, .pad = expr_cast(k, b.type, g.arg[2])};
    if (!in_bounds(k, g.arg[0], &b, &n, h)) return false;
    if (expr_cast(k, (DType)g.type, h->pad) != g.arg[2]) return false; /* the pad is no value of the stored type */
    *want = b, want->kind = BUF_TMP, want->source = 0, want->data = NULL;
    bool padded = false;
    if (!is_rereading(k, s, load, true)) return false;
    for (int d = 0; d < b.rank; d++) {
        Expr lo, hi;
        if (!span(k, n.arg[d], &lo, &hi) || !expr_is_index(k, lo, NULL)) return false;
        Expr part = part_of(k, h, d), first = expr_index(k, h->skip[d]);
        h->low[d] = expr_prim(k, P_min, lo, first, 0);
        Expr end = expr_prim(k, P_max, expr_add(k, hi, expr_index(k, 1)), expr_add(k, first, part), 0);
        want->dim[d] = expr_sub(k, end, h->low[d]);
        padded = padded || want->dim[d] != part;
    }
    return padded;
}

/* A strip of the border along dimension d, filled with the pad. */
static void fill_strip(Layer *l, const Halo *h, int d, bool high, int share, const Loc *loc)
{
    Kernel *k = l->k;
    Buf to = k->buf.at[h->to];
    Expr low = expr_sub(k, expr_index(k, h->skip[d]), h->low[d]),
         start = high ? expr_add(k, low, part_of(k, h, d)) : expr_index(k, 0);
    Expr size = high ? expr_sub(k, to.dim[d], start) : low;
    if (expr_is(k, size, 0)) return;
    Compute c = {.out = h->to, .rank = to.rank, .value = h->pad, .apart = true, .share = share, .loc = loc};
    for (int i = 0; i < to.rank; i++) {
        c.space[i] = kernel_axis(k, NULL, i == d ? size : to.dim[i]);
        c.at[i] = expr_axis(k, c.space[i]);
    }
    c.at[d] = expr_add(k, c.at[d], start);
    append(l, c);
}

static void fill_border(Layer *l, const Halo *h, const Loc *loc)
{
    int share = ++l->share;
    for (int d = 0; d < l->k->buf.at[h->to].rank; d++)
        fill_strip(l, h, d, false, share, loc), fill_strip(l, h, d, true, share, loc);
}

/* The operand itself, moved: the padded temporary has a place for each of its elements. Lines of a copy without a test, where a guard would
 * mask every vector. */
static void fill_interior(Layer *l, const Halo *h, const Loc *loc)
{
    Kernel *k = l->k;
    Compute c = {.out = h->to, .rank = k->buf.at[h->from].rank, .loc = loc};
    Expr at[MAX_RANK] = {0};
    for (int d = 0; d < c.rank; d++) {
        c.space[d] = kernel_axis(k, NULL, part_of(k, h, d));
        at[d] = expr_add(k, expr_axis(k, c.space[d]), expr_index(k, h->skip[d]));
        c.at[d] = expr_sub(k, at[d], h->low[d]);
    }
    c.value = expr_load(k, h->from, at);
    append(l, c);
}

static Expr halo_read(Kernel *k, const Halo *h, Expr load)
{
    ExprNode n = *expr_node(k, load);
    for (int d = 0; d < k->buf.at[h->from].rank; d++) n.arg[d] = expr_sub(k, n.arg[d], h->low[d]);
    return expr_load(k, h->to, n.arg);
}

static void replace_loads(Layer *l, Compute *s, const Halo *h)
{
    Kernel *k = l->k;
    LoadList loads = {0};
    stage_loads(k, l->mem, s, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        Expr old = loads.at.at[i];
        if ((int)expr_node(k, old)->id != h->from) continue;
        stage_replace(k, s, old, halo_read(k, h, old));
    }
}

/* May all that writes and reads the temporary use the padded one instead? */
static bool can_grow(Layer *l, int buf)
{
    Kernel *k = l->k;
    if (k->buf.at[buf].kind != BUF_TMP) return false;
    uint32_t writers = 0;
    for (uint32_t i = 0; i < l->out.n; i++) {
        const Compute *s = &l->out.at[i];
        if (s->keep && (int)expr_node(k, s->keep)->id == buf) return false;
        if (s->out != buf) continue;
        if (s->scan || s->update || (s->where && !stage_places(k, s))) return false;
        writers++;
    }
    return writers > 0;
}

/* stages from `at` on are not appended yet */
static void grow(Layer *l, const Halo *h, uint32_t at)
{
    Kernel *k = l->k;
    for (uint32_t i = 0; i < l->out.n + (k->stage.n - at); i++) {
        Compute *s = i < l->out.n ? &l->out.at[i] : &k->stage.at[at + (i - l->out.n)];
        replace_loads(l, s, h);
        if (s->out != h->from) continue;
        for (int d = 0; d < k->buf.at[h->from].rank; d++) s->at[d] = expr_sub(k, s->at[d], h->low[d]);
        s->out = h->to;
    }
}

/* The padded temporary serves every sum that reads the operand with this pad: it is as large as the largest needs. */
static bool join_halo(Kernel *k, const Halo *h, Halo *all, Buf *want, const Buf *more)
{
    if (h->from != all->from) return true;
    if (!same_values(h, all)) return false;
    for (int d = 0; d < want->rank; d++) {
        Expr end = expr_prim(k, P_max, expr_add(k, want->dim[d], all->low[d]), expr_add(k, more->dim[d], h->low[d]), 0);
        all->low[d] = expr_prim(k, P_min, all->low[d], h->low[d], 0);
        want->dim[d] = expr_sub(k, end, all->low[d]);
    }
    return true;
}

/* The guards of a sum over a window, or of a formula that looks at several places. */
static void window_guards(Layer *l, const Compute *s, LoadList *guards)
{
    guards_of(l, s->value, guards);
    if (!(s->how && s->reduces) && guards->at.n < 2) guards->at.n = 0;
}

static void unguard(Layer *l, Compute *s, const Halo *h)
{
    Kernel *k = l->k;
    LoadList guards = {0};
    window_guards(l, s, &guards);
    for (uint32_t i = 0; i < guards.at.n; i++) {
        Halo mine;
        Buf want;
        if (!halo_of(k, s, guards.at.at[i], &mine, &want) || !same_values(&mine, h)) continue;
        Expr guard = guards.at.at[i], read = halo_read(k, h, guarded_load(k, guard));
        s->value = expr_replace(k, s->value, guard, expr_cast(k, (DType)expr_node(k, guard)->type, read));
    }
}

/* Do summed axes alone choose the last index of what is guarded? An image that came with its channels there has them side by side. */
static bool ends_in_channels(Kernel *k, const Compute *s, Expr guard)
{
    ExprNode n = *expr_node(k, guarded_load(k, guard));
    Expr last = n.arg[k->buf.at[n.id].rank - 1];
    for (int d = 0; d < s->rank; d++)
        if (expr_uses(k, last, s->space[d])) return false;
    return reduces_any(k, s, last);
}

/* The stage for which a copy of the buffer that is made for stage `at` is old: behind the first that writes the buffer. */
static uint32_t old_from(const Kernel *k, int buf, uint32_t at)
{
    for (uint32_t i = at; i < k->stage.n; i++)
        if (stage_writes(k, &k->stage.at[i], buf)) return i + 1;
    return k->stage.n;
}

/* The operand under this guard, unguarded, in a padded temporary. */
static bool add_halo(Layer *l, uint32_t at, Expr guard)
{
    Kernel *k = l->k;
    Halo h, other;
    Buf want, more;
    bool alone = true;
    if (!halo_of(k, &k->stage.at[at], guard, &h, &want)) return false;
    for (uint32_t i = at; i < k->stage.n; i++) {
        LoadList guards = {0};
        if (expr_reads(k, k->stage.at[i].value, h.from)) window_guards(l, &k->stage.at[i], &guards);
        for (uint32_t j = 0; j < guards.at.n; j++)
            if (halo_of(k, &k->stage.at[i], guards.at.at[j], &other, &more))
                alone = join_halo(k, &other, &h, &want, &more) && alone;
    }
    want.name = arena_printf(k->mem, "%s.pad", k->buf.at[h.from].name);
    if (want.rank >= 3 && !want.layout.n && dtypes[want.type].bytes == 1 &&
        !ends_in_channels(k, &k->stage.at[at], guard))
        want.layout = channels_last(want.rank); /* words of bytes need it */
    h.to = kernel_buf(k, want);
    bool grows = alone && !is_part(&h) && can_grow(l, h.from);
    uint32_t end = grows ? k->stage.n : old_from(k, h.from, at);
    for (uint32_t i = at; i < end; i++)
        if (expr_reads(k, k->stage.at[i].value, h.from)) unguard(l, &k->stage.at[i], &h);
    const Loc *loc = k->stage.at[at].loc;
    if (grows) grow(l, &h, at);
    else fill_interior(l, &h, loc);
    fill_border(l, &h, loc);
    return true;
}

static void add_halos(Layer *l)
{
    Kernel *k = l->k;
    for (uint32_t i = 0; i < k->stage.n; i++) {
        bool again = true;
        while (again) { /* one takes all guards of its buffer away */
            LoadList guards = {0};
            again = false;
            window_guards(l, &k->stage.at[i], &guards);
            for (uint32_t j = 0; j < guards.at.n && !again; j++) again = add_halo(l, i, guards.at.at[j]);
        }
        append(l, k->stage.at[i]);
    }
    take_stages(l);
}

/* ---- 5: operands ---- */
static bool step_is_one(Kernel *k, Expr load, int axis)
{
    ExprNode n = *expr_node(k, load);
    if (n.kind != E_LOAD) return false;
    Expr step = expr_step(k, buf_address(k, (int)n.id, n.arg), axis);
    return step && expr_is(k, step, 1);
}

/* The summed axis along which the left operand is contiguous, or 0; one tap is no axis where there is another. */
static int word_axis(Kernel *k, const Compute *s, Expr left)
{
    int single = 0, longer = 0;
    for (int i = s->reduces; i--;) {
        bool one = expr_is(k, k->axis.at[s->reduce[i]].extent, 1);
        longer += !one;
        if (!step_is_one(k, left, s->reduce[i])) continue;
        if (!one) return s->reduce[i];
        single = s->reduce[i];
    }
    return longer ? 0 : single;
}

static bool fits_panel(Kernel *k, Expr index, int lane) /* index / 16 and index % 16 fold when lane is split by 16 */
{
    if (axis_of_index(k, index) == lane) return true;
    Lin l = lin_of(k, index);
    for (int i = 0; i < l.n; i++)
        if (axis_of_index(k, l.term[i].atom) != lane && l.term[i].by % PANEL) return false;
    return l.ok && l.base % PANEL == 0;
}

static void layout_add(Layout *l, int dim, int div, int size)
{
    assert(l->n < MAX_PHYS);
    l->axis[l->n++] = (LayoutAxis){dim, div, size};
}

/* Batches, panels, what is summed (dimension `inner` last, -1: none), the columns of a panel, the values of a word (0: one). */
static Layout panels(int rank, const bool *batch, int lane, int inner, int word, bool panel)
{
    Layout l = {0};
    for (int d = 0; d < rank; d++)
        if (batch[d] && d != lane) layout_add(&l, d, 1, 0);
    if (panel) layout_add(&l, lane, PANEL, 0);
    for (int d = 0; d < rank; d++)
        if (!batch[d] && d != lane && d != inner) layout_add(&l, d, 1, 0);
    if (inner >= 0) layout_add(&l, inner, word ? word : 1, 0);
    layout_add(&l, lane, 1, panel ? PANEL : 0);
    if (word) layout_add(&l, inner, 1, word);
    return l;
}

/* Conv sums (channel, row, column); memory has the channel innermost, and so has the panel. */
static void order_reduces(Compute *s, int inner)
{
    int n = 0;
    for (int i = 0; i < s->reduces; i++)
        if (s->reduce[i] != inner) s->reduce[n++] = s->reduce[i];
    if (inner && n < s->reduces) s->reduce[n] = inner;
}

/* The constant in this order: itself when nobody reads it otherwise, or another image of the same data. */
static int constant_in_order(Layer *l, int buf, const Layout *want)
{
    Kernel *k = l->k;
    Buf b = k->buf.at[buf];
    if (!b.layout.n && ((uint32_t)buf >= l->counted || l->readers[buf] <= 1)) return k->buf.at[buf].layout = *want, buf;
    for (int i = 1; i < (int)k->buf.n; i++) {
        const Buf *o = &k->buf.at[i];
        if (o->kind == BUF_CONST && o->data == b.data && o->rank == b.rank && layout_equal(&o->layout, want)) return i;
    }
    b.name = arena_printf(k->mem, "%s.panels", b.name), b.layout = *want;
    return kernel_buf(k, b);
}

/* Groups: another axis moves the lane's dimension by whole rows of lanes (channel g * M + m). Then that dimension becomes two, g and m,
 * so that every group has panels of its own. A view: the data is the same. */
static Expr split_groups(Kernel *k, Expr right, int lane)
{
    ExprNode n = *expr_node(k, right);
    Buf b = k->buf.at[n.id];
    int at = dim_of_axis(k, &n, lane), group = 0;
    int64_t size = expr_constant(k, k->axis.at[lane].extent, -1), count;
    if (at < 0 || b.rank == MAX_RANK || !b.data || size < 1 || fits_panel(k, n.arg[at], lane)) return right;
    Lin l = lin_of(k, n.arg[at]);
    for (int i = 0; i < l.n; i++)
        if (axis_of_index(k, l.term[i].atom) != lane && l.term[i].by == size) group = axis_of_index(k, l.term[i].atom);
    count = group ? expr_constant(k, k->axis.at[group].extent, -1) : -1;
    if (!l.ok || l.n != 2 || l.base || count * size != expr_constant(k, b.dim[at], -1)) return right;
    Tensor *view = arena_copy(k->mem, b.data, sizeof *view);
    for (int d = b.rank++; d > at; d--)
        b.dim[d] = b.dim[d - 1], n.arg[d] = n.arg[d - 1], view->dim[d] = view->dim[d - 1];
    b.dim[at] = expr_index(k, count), b.dim[at + 1] = expr_index(k, size);
    n.arg[at] = expr_axis(k, group), n.arg[at + 1] = expr_axis(k, lane);
    view->rank++, view->dim[at] = count, view->dim[at + 1] = size;
    b.name = arena_printf(k->mem, "%s.groups", b.name), b.data = view, b.layout.n = 0;
    return expr_load(k, kernel_buf(k, b), n.arg);
}

static bool turn_constant(Layer *l, Compute *s, Expr was, int lane, int inner_of, int word, bool panel)
{
    Kernel *k = l->k;
    Expr right = split_groups(k, was, lane);
    ExprNode n = *expr_node(k, right);
    int at = dim_of_axis(k, &n, lane), inner = inner_of ? dim_of_axis(k, &n, inner_of) : -1,
        rank = k->buf.at[n.id].rank;
    if (inner >= 0 && axis_of_index(k, n.arg[inner]) != inner_of) inner = -1;
    if (at < 0 || (word && inner < 0) || inner == at || rank + 2 > MAX_PHYS) return false;
    bool batch[MAX_RANK] = {0};
    for (int d = 0; d < rank; d++) batch[d] = (d != at || !panel) && !reduces_any(k, s, n.arg[d]);
    Layout want = panel || inner < 0 ? panels(rank, batch, at, inner, word, panel && fits_panel(k, n.arg[at], lane))
                                     : panels(rank, batch, inner, -1, 0, false);
    int own = (int)n.id;
    if (right == was) own = constant_in_order(l, own, &want);
    else k->buf.at[own].layout = want;
    s->value = expr_replace(k, s->value, was, expr_load(k, own, n.arg));
    return true;
}

static Expr pieces(Kernel *k, int axis, int64_t piece) /* how many an axis has */
{
    return expr_div(k, expr_add(k, k->axis.at[axis].extent, expr_index(k, piece - 1)), expr_index(k, piece));
}

/* An operand computed beforehand over its own axes, those of `last` innermost in that order. */
static int materialise(Layer *l, const Compute *s, Expr e, const int *axis, int n, const char *what)
{
    Kernel *k = l->k;
    Buf b = {.kind = BUF_TMP, .type = (DType)expr_node(k, e)->type, .rank = n};
    b.name = arena_printf(k->mem, "%s.%u", what, (unsigned)k->buf.n);
    Compute c = {.rank = n, .loc = s->loc};
    Expr *map = NEW_ARRAY(k->mem, Expr, k->axis.n);
    for (int d = 0; d < n; d++) {
        int64_t piece = piece_of(k, e, axis[d]);
        b.dim[d] = pieces(k, axis[d], piece);
        c.space[d] = kernel_axis(k, NULL, b.dim[d]);
        c.at[d] = expr_axis(k, c.space[d]), map[axis[d]] = expr_mul(k, c.at[d], expr_index(k, piece));
    }
    c.out = kernel_buf(k, b), c.value = expr_map(k, e, map);
    append(l, c);
    return c.out;
}

static Expr read_materialised(Kernel *k, int buf, Expr e, const int *axis)
{
    Expr at[MAX_RANK] = {0};
    for (int d = 0; d < k->buf.at[buf].rank; d++)
        at[d] = expr_div(k, expr_axis(k, axis[d]), expr_index(k, piece_of(k, e, axis[d])));
    return expr_load(k, buf, at);
}

/* The axes of the stage that e uses: space axes but `lane`, then what is summed but `inner`, then `inner`, then `lane`. */
static int axes_used(Kernel *k, const Compute *s, Expr e, int inner, int lane, int *axis)
{
    int n = 0;
    for (int d = 0; d < s->rank; d++)
        if (s->space[d] != lane && expr_uses(k, e, s->space[d])) axis[n++] = s->space[d];
    for (int d = 0; d < s->reduces; d++)
        if (s->reduce[d] != inner && expr_uses(k, e, s->reduce[d])) axis[n++] = s->reduce[d];
    if (inner && expr_uses(k, e, inner)) axis[n++] = inner;
    if (lane) axis[n++] = lane;
    return n;
}

static Expr pack_right(Layer *l, Compute *s, Expr right, int lane, int inner, int word)
{
    Kernel *k = l->k;
    int axis[MAX_RANK * 2], n = axes_used(k, s, right, inner, lane, axis);
    if (n > MAX_RANK) return right;
    int buf = materialise(l, s, right, axis, n, "packed");
    bool batch[MAX_RANK] = {0};
    for (int d = 0; d < n; d++) batch[d] = axis[d] != lane && !reduces_any(k, s, expr_axis(k, axis[d]));
    k->buf.at[buf].layout = panels(n, batch, n - 1, inner ? n - 2 : -1, word, true);
    return read_materialised(k, buf, right, axis);
}

/* Has the operand, spread over the axes that choose it, about as many elements as it reads? (Not so for an image under a window.) */
static bool is_compact(Kernel *k, const Compute *s, Expr e)
{
    LoadList loads = {0};
    Arena scratch = {0};
    int64_t spreads = 1, holds = 1;
    for (int d = 0; d < s->rank + s->reduces; d++) {
        int a = d < s->rank ? s->space[d] : s->reduce[d - s->rank];
        if (expr_uses(k, e, a)) spreads *= expr_constant(k, pieces(k, a, piece_of(k, e, a)), 1);
    }
    loads_of(k, &scratch, e, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        const Buf *b = &k->buf.at[expr_node(k, loads.at.at[i])->id];
        int64_t n = 1;
        for (int d = 0; d < b->rank; d++) n *= expr_constant(k, b->dim[d], 1);
        holds = n > holds ? n : holds;
    }
    arena_drop(&scratch);
    return spreads <= 2 * holds;
}

/* The constant with its dimensions a and b, in that order, as the last one. */
static int merged_constant(Layer *l, int buf, int a, int b)
{
    Kernel *k = l->k;
    Buf to = k->buf.at[buf];
    const Tensor *from = to.data;
    size_t size = (size_t)dtypes[from->type].bytes;
    int64_t dim[MAX_RANK], step[MAX_RANK], all = 1, at[MAX_RANK] = {0};
    int order[MAX_RANK], n = 0;
    for (int d = from->rank; d--; all *= from->dim[d]) step[d] = all;
    for (int d = 0; d < from->rank; d++)
        if (d != a && d != b) order[n++] = d;
    order[n] = a, order[n + 1] = b;
    for (int d = 0; d < n; d++) dim[d] = from->dim[order[d]], to.dim[d] = expr_index(k, dim[d]);
    dim[n] = from->dim[a] * from->dim[b], to.dim[n] = expr_index(k, dim[n]);
    Tensor *t = tensor_new(k->mem, from->type, n + 1, dim);
    for (int64_t i = 0; i < all; i++) { /* at: counts in the new order */
        int64_t e = 0;
        for (int d = 0; d < from->rank; d++) e += at[d] * step[order[d]];
        memcpy((char *)(void *)t->data + (size_t)i * size, (const char *)from->data + (size_t)e * size, size);
        for (int d = from->rank; d-- && ++at[d] == from->dim[order[d]];) at[d] = 0;
    }
    to.rank = n + 1, to.data = t, to.layout.n = 0, to.name = arena_printf(k->mem, "%s.rows", to.name);
    return kernel_buf(k, to);
}

/* Few channels leave words half empty, and steps of tile registers, but the taps of a window's row lie side by side. Both are one summed axis
 * then, with no more words. Yields that axis, or `inner` as it was. */
static int merge_taps(Layer *l, Compute *s, Contraction *c, int inner, int word)
{
    Kernel *k = l->k;
    ExprNode left = *expr_node(k, c->left), right = *expr_node(k, c->right);
    int64_t channels = expr_constant(k, k->axis.at[inner].extent, 0), taps = 0;
    int window = 0, dim[2];
    const Tensor *data = k->buf.at[right.id].data;
    if (left.kind != E_LOAD || channels >= TILE_WORDS * word || !data || k->buf.at[right.id].rank != data->rank) return inner;
    Expr at = buf_address(k, (int)left.id, left.arg);
    for (int i = 0; i < s->reduces; i++) {
        Expr step = s->reduce[i] == inner ? 0 : expr_step(k, at, s->reduce[i]);
        if (step && expr_is(k, step, channels)) window = s->reduce[i];
    }
    taps = window ? expr_constant(k, k->axis.at[window].extent, 0) : 0;
    if (taps < 2 || (taps * channels + word - 1) / word > taps * ((channels + word - 1) / word)) return inner;
    for (int i = 0; i < 2; i++) {
        int axis = i ? inner : window;
        dim[i] = dim_of_axis(k, &right, axis);
        if (dim[i] < 0 || axis_of_index(k, right.arg[dim[i]]) != axis) return inner;
    }
    int both = kernel_axis(k, NULL, expr_index(k, taps * channels));
    Expr *map = NEW_ARRAY(k->mem, Expr, k->axis.n), axis = expr_axis(k, both);
    map[window] = expr_div(k, axis, expr_index(k, channels)), map[inner] = expr_mod(k, axis, expr_index(k, channels));
    Expr moved = expr_map(k, c->left, map), index[MAX_RANK] = {0};
    if (!step_is_one(k, moved, both)) return inner;
    int buf = merged_constant(l, (int)right.id, dim[0], dim[1]), n = 0;
    for (int d = 0; d < k->buf.at[right.id].rank; d++)
        if (d != dim[0] && d != dim[1]) index[n++] = right.arg[d];
    index[n] = axis;
    Expr packed = expr_load(k, buf, index);
    s->value = expr_replace(k, expr_replace(k, s->value, c->left, moved), c->right, packed);
    c->left = moved, c->right = packed, n = 0;
    for (int i = 0; i < s->reduces; i++)
        if (s->reduce[i] != window && s->reduce[i] != inner) s->reduce[n++] = s->reduce[i];
    s->reduce[n] = both, s->reduces = n + 1;
    return both;
}

/* Is it worth an extra pass over the operand? Every element of it must be used for several results. */
static bool pays(const Kernel *k, int other) { return other && expr_constant(k, k->axis.at[other].extent, 64) >= 4; }

static int64_t uses_of(Kernel *k, const Compute *s, Expr factor) /* of one element, at least */
{
    int64_t uses = 1;
    for (int i = 0; i < s->rank; i++)
        if (!expr_uses(k, factor, s->space[i])) uses *= expr_constant(k, k->axis.at[s->space[i]].extent, 1);
    return uses;
}

/* A factor that lies the other way: each step of a sum, along any axis, touches another page, and in the caches few places. Turned it is worth
 * the pass when much reads it. */
static bool is_spread(Kernel *k, const Compute *s, Expr factor, int across)
{
    enum { APART = 256, LARGE = 32 * 1024, USES = 128 }; /* elements; elements; how often one is used */
    ExprNode n = *expr_node(k, factor);
    int64_t size = expr_constant(k, k->axis.at[across].extent, 1), apart = INT64_MAX;
    if (n.kind != E_LOAD) return false;
    for (int i = 0; i < s->reduces; i++) {
        Expr by = expr_step(k, buf_address(k, (int)n.id, n.arg), s->reduce[i]);
        size *= expr_constant(k, k->axis.at[s->reduce[i]].extent, 1);
        int64_t mine = by ? expr_constant(k, by, 0) : 0;
        if (mine < apart) apart = mine;
    }
    return s->reduces && apart >= APART && size >= LARGE && uses_of(k, s, factor) >= USES;
}

/* May the factor be computed before the stage? Not the state of a scan, which its own steps write. */
static bool comes_before(const Kernel *k, const Compute *s, Expr factor)
{
    for (uint32_t i = 0; s->scan && i < k->stage.n; i++)
        if (k->stage.at[i].scan == s->scan && expr_reads(k, factor, k->stage.at[i].out)) return false;
    return true;
}

/* The left operand, computed beforehand with its longest summed axis innermost. Yields that axis; 0: it stays as it is. */
static int lay_rows(Layer *l, Compute *s, Contraction *c)
{
    Kernel *k = l->k;
    int axis[MAX_RANK * 2], inner = 0;
    for (int i = 0; i < s->reduces; i++)
        if (expr_uses(k, c->left, s->reduce[i]) && (!inner || expr_constant(k, k->axis.at[s->reduce[i]].extent, 64) >
                                                                  expr_constant(k, k->axis.at[inner].extent, 64)))
            inner = s->reduce[i];
    int n = axes_used(k, s, c->left, inner, 0, axis);
    if (!inner || n > MAX_RANK || !comes_before(k, s, c->left)) return 0;
    Expr was = c->left;
    int rows = materialise(l, s, was, axis, n, "rows");
    c->left = read_materialised(k, rows, was, axis);
    s->value = expr_replace(k, s->value, was, c->left);
    return inner;
}

/* One factor is stored narrow and the other, computed or an input, is not: rounded it can be copied like any operand. */
static void round_operand(Layer *l, Compute *s, Contraction *c)
{
    Kernel *k = l->k;
    DType t = l->store ? l->store->type : DT_NONE;
    Expr *side[2] = {&c->left, &c->right};
    if (t != DT_bf16 || c->acc != DT_f32) return;
    for (int i = 0; i < 2; i++) {
        Expr e = *side[i];
        ExprNode n = *expr_node(k, e);
        if (n.type != DT_f32 || is_constant_load(k, e) || expr_node(k, *side[1 - i])->type != t) continue;
        if (!pays(k, i ? c->row : c->lane) || !comes_before(k, s, e)) continue;
        *side[i] = expr_cast(k, t, e);
        s->value = expr_mul(k, expr_cast(k, DT_f32, c->left), expr_cast(k, DT_f32, c->right));
    }
}

static void settle_contraction(Layer *l, Compute *s, Contraction *c)
{
    Kernel *k = l->k;
    if (is_widened(l, c->right)) { /* widen.c: it lies as the product wants it */
        if (c->row && is_spread(k, s, c->left, c->row)) lay_rows(l, s, c);
        order_reduces(s, word_axis(k, s, c->left));
        return;
    }
    bool few = has_few_rows(k, s, c), constant = is_constant_load(k, c->right);
    if (!few) round_operand(l, s, c);
    int word = few ? 0 : word_of(k, c), word_of_axis = word ? word_axis(k, s, c->left) : 0;
    if (word && !word_of_axis && pays(k, c->lane)) word_of_axis = lay_rows(l, s, c);
    else if (c->row && is_spread(k, s, c->left, c->row)) lay_rows(l, s, c);
    int64_t depth = word_of_axis ? expr_constant(k, k->axis.at[word_of_axis].extent, 1) : 0;
    if (!constant && word && depth % word) word_of_axis = 0; /* only a constant's padding is known to be zero */
    if (!word_of_axis) word = 0;
    if (word && constant) word_of_axis = merge_taps(l, s, c, word_of_axis, word);
    int inner = word ? word_of_axis : word_axis(k, s, c->left);
    bool panel = fills_panels(k, s, c, word) || summed_run(k, s, c->left) < LEAST_RUN;
    if (!word && panel && inner && expr_constant(k, k->axis.at[inner].extent, PANEL) < FEW_CHANNELS)
        inner = 0; /* an image's channels: any order is as good */
    if (constant) {
        if (turn_constant(l, s, c->right, c->lane, inner, word, panel)) order_reduces(s, inner);
        return;
    }
    bool ready = !word && step_is_one(k, c->right, c->lane) && !is_spread(k, s, c->right, c->lane);
    if (ready || (!panel && step_is_one(k, c->right, inner)) || !pays(k, c->row) || !is_compact(k, s, c->right)) return;
    if (!comes_before(k, s, c->right) || few) return;
    Expr packed = pack_right(l, s, c->right, c->lane, inner && expr_uses(k, c->right, inner) ? inner : 0, word);
    s->value = expr_replace(k, s->value, c->right, packed);
    order_reduces(s, inner);
}

/* The axis that alone chooses what is read, as a digit of it; 0: there is none, or it is the index itself. */
static int digit_axis(Kernel *k, const Compute *s, const ExprNode *load)
{
    int axis = 0;
    bool moved = false;
    for (int i = 0; i < s->rank; i++)
        for (int d = 0; d < k->buf.at[load->id].rank; d++) {
            if (!expr_uses(k, load->arg[d], s->space[i])) continue;
            if (axis && axis != s->space[i]) return 0;
            axis = s->space[i], moved = moved || !expr_step(k, load->arg[d], axis);
        }
    for (int i = 0; i < s->reduces; i++)
        for (int d = 0; d < k->buf.at[load->id].rank; d++)
            if (expr_uses(k, load->arg[d], s->reduce[i])) return 0;
    return moved ? axis : 0;
}

/* The same values in the order the axis reads them: w[i % n] as a constant over i. */
static int repeated(Kernel *k, const ExprNode *load, int axis, int64_t n)
{
    Buf b = k->buf.at[load->id];
    size_t bytes = (size_t)dtypes[b.type].bytes;
    Tensor *to = tensor_new(k->mem, b.type, 1, &n);
    Expr *map = NEW_ARRAY(k->mem, Expr, k->axis.n);
    for (int64_t i = 0; i < n; i++) {
        int64_t from = 0;
        map[axis] = expr_index(k, i);
        for (int d = 0; d < b.rank; d++) {
            int64_t at = expr_constant(k, expr_map(k, load->arg[d], map), -1);
            if (at < 0 || at >= b.data->dim[d]) return 0;
            from = from * b.data->dim[d] + at;
        }
        memcpy((char *)(void *)to->data + (size_t)i * bytes, (const char *)b.data->data + (size_t)from * bytes, bytes);
    }
    b.name = arena_printf(k->mem, "%s.repeated", b.name), b.rank = 1, b.dim[0] = expr_index(k, n), b.data = to;
    b.layout.n = 0, b.source = 0;
    return kernel_buf(k, b);
}

/* Constants read at a digit of an axis would be gathered, lane by lane. */
static void repeat_constants(Layer *l, Compute *s)
{
    Kernel *k = l->k;
    LoadList loads = {0};
    stage_loads(k, l->mem, s, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        Expr load = loads.at.at[i];
        ExprNode n = *expr_node(k, load);
        const Buf *b = &k->buf.at[n.id];
        if (b->kind != BUF_CONST || !b->data || !b->data->data || b->layout.n || dtypes[b->type].bits % 8) continue;
        int axis = digit_axis(k, s, &n);
        int64_t size = axis ? expr_constant(k, k->axis.at[axis].extent, 0) : 0;
        int to = size > 0 && size <= MOST_REPEATED ? repeated(k, &n, axis, size) : 0;
        if (!to) continue;
        Expr read = expr_load(k, to, (Expr[MAX_RANK]){expr_axis(k, axis)});
        s->value = expr_replace(k, s->value, load, read);
        if (s->epilogue) s->epilogue = expr_replace(k, s->epilogue, load, read);
    }
}

/* Depthwise sums and the like: constants turn so that the innermost axis of the output is contiguous in them too. */
static void settle_sum(Layer *l, Compute *s)
{
    Kernel *k = l->k;
    LoadList loads = {0};
    int inner = innermost_dim(&k->buf.at[s->out]);
    int lane = inner >= 0 ? axis_of_index(k, s->at[inner]) : 0;
    if (!lane) return;
    stage_loads(k, l->mem, s, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        ExprNode n = *expr_node(k, loads.at.at[i]);
        Buf *b = &k->buf.at[n.id];
        int at = b->kind == BUF_CONST ? dim_of_axis(k, &n, lane) : -1;
        if (at < 0 || b->layout.n || l->readers[n.id] > 1 || at == b->rank - 1) continue;
        int dim[MAX_RANK], m = 0;
        for (int d = 0; d < b->rank; d++)
            if (d != at) dim[m++] = d;
        dim[m++] = at;
        b->layout = order(m, dim);
    }
}

/* Data says what is read: any order is as good. */
static bool is_look_up(Kernel *k, Expr load)
{
    ExprNode n = *expr_node(k, load);
    for (int d = 0; d < MAX_RANK && n.arg[d]; d++)
        if (depends_on_data(k, n.arg[d])) return true;
    return false;
}

/* Per buffer: the loads that ask for an order. */
static uint32_t *count_readers(Layer *l)
{
    uint32_t *readers = NEW_ARRAY(l->mem, uint32_t, l->k->buf.n);
    for (uint32_t i = 0; i < l->k->stage.n; i++) {
        LoadList loads = {0};
        stage_loads(l->k, l->mem, &l->k->stage.at[i], &loads);
        for (uint32_t j = 0; j < loads.at.n; j++)
            readers[expr_node(l->k, loads.at.at[j])->id] += !is_look_up(l->k, loads.at.at[j]);
    }
    return readers;
}

/* Another image of the constant's data that is stored anyway, since something with an order reads it; or 0. */
static int stored_image(const Kernel *k, const uint32_t *readers, int buf)
{
    const Buf *b = &k->buf.at[buf];
    for (int i = 1; i < (int)k->buf.n && b->kind == BUF_CONST && b->data && !readers[buf]; i++)
        if (k->buf.at[i].kind == BUF_CONST && k->buf.at[i].data == b->data && k->buf.at[i].rank == b->rank && readers[i]) return i;
    return 0;
}

/* Several products of one constant read an image of it. Where only look-ups are left to read the constant, they read that image, too. */
static void look_up_images(Layer *l)
{
    Kernel *k = l->k;
    const uint32_t *readers = count_readers(l);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Compute *s = &k->stage.at[i];
        LoadList loads = {0};
        stage_loads(k, l->mem, s, &loads);
        for (uint32_t j = 0; j < loads.at.n; j++) {
            ExprNode n = *expr_node(k, loads.at.at[j]);
            int image = stored_image(k, readers, (int)n.id);
            if (image) stage_replace(k, s, loads.at.at[j], expr_load(k, image, n.arg));
        }
    }
}

static void settle_operands(Layer *l)
{
    Kernel *k = l->k;
    l->readers = count_readers(l), l->counted = k->buf.n;
    find_widened(l);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Compute s = k->stage.at[i];
        Contraction c;
        if (s.how) repeat_constants(l, &s);
        if (contraction_of(k, &s, &c)) settle_contraction(l, &s, &c);
        else if (s.how && s.reduces) settle_sum(l, &s);
        append(l, s);
    }
    take_stages(l);
    look_up_images(l);
}

/* ---- 6: rows apart ---- */
/* Rows that begin a multiple of a quarter of a page apart share few sets of the first cache, and those a multiple of four lines apart a bank of
 * the second, which shows where elements of one or two bytes are multiplied as fast as they come: a line more between them, and they do not. */
static void space_rows(Kernel *k, int buf)
{
    enum { LINE = 64, PAGE = 4096, BANKS = 4, FEW_LINES = 8 }; /* which would grow too much */
    Buf *b = &k->buf.at[buf];
    LayoutAxis last = b->layout.n ? b->layout.axis[b->layout.n - 1] : (LayoutAxis){b->rank - 1, 1, 0};
    int bytes = dtypes[b->type].bytes;
    int64_t n;
    if (b->kind != BUF_TMP || b->rank < 2 || last.div != 1 || last.size || !expr_is_index(k, b->dim[last.dim], &n))
        return;
    if (n * bytes % (bytes > 2 ? PAGE / 4 : BANKS * LINE) || n * bytes < FEW_LINES * LINE) return;
    b->dim[last.dim] = expr_index(k, n + LINE / bytes);
}

static void space_all_rows(Kernel *k)
{
    Contraction c;
    for (uint32_t i = 0; i < k->stage.n; i++)
        if (contraction_of(k, &k->stage.at[i], &c) && expr_node(k, c.left)->kind == E_LOAD)
            space_rows(k, (int)expr_node(k, c.left)->id);
}

void program_layout(Kernel *k, const Storage *store)
{
    Arena scratch = {0};
    Layer l = {.k = k, .mem = &scratch, .store = store};
    for (uint32_t i = 0; i < k->stage.n; i++)
        if (k->stage.at[i].share > l.share) l.share = k->stage.at[i].share;
    settle_contract(&l);
    take_stages(&l);
    spread_order(k);
    add_halos(&l);
    if (store && store->planes) program_split(k, store);
    else if (store) program_store(k, store);
    program_widen_windows(k);
    program_fill_words(k);
    settle_operands(&l);
    space_all_rows(k);
    arena_drop(&scratch);
}
