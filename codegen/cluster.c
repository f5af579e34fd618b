/* cluster.c - which stages disappear.
 *
 * Comes in: the program as the operators lowered it, one stage or a few for every node. Goes out: the same program with fewer stages.
 * Stages are visited in order, each once, so that its producers are settled when it is looked at:
 *
 *   constants   A load of a constant scalar becomes a number where that helps folding.
 *   inline      A stage that only computes a value is substituted into the visited stage: when it is a copy with simple indices, when
 *               it costs next to nothing, or when it is read here alone and every element once. Work is never moved to where it would be
 *               repeated: into a sum that reads each element for many results.
 *   absorb      The visited stage, if it only computes a value and alone reads a stage it has the index of, becomes that stage's
 *               epilogue: convolution + bias + activation + residual + requantization. The pair takes the later place, where
 *               all operands exist; a member of a shared group stays in its place and takes only what exists there.
 *   distribute  The visited stage, if it alone reads a result that several stages put together, element by element, goes to each of them.
 *   dead        Stages nobody reads go.
 *   retarget    A stage that only copies a temporary to a place inside another buffer (Concat) goes: the producer stores there and all other
 *               readers read there. Visited last to first, so that nested concatenations settle in one pass.
 *   share       Stages of one node get common names for their common loops; a group that would leave too little to share is released.
 *
 * Every stage keeps a list of the buffers it reads and every buffer a list of its readers, so the whole is near linear. */
#include "codegen/analyse.h"
#include <assert.h>

enum { CHEAP = 2, CHEAP_NARROW = 5, MANY = 8, MOST = 192, FEW = 8, SERIAL_WORK = 32768 };

typedef struct Cluster {
    Kernel *k;
    Arena *mem;     /* dropped at the end */
    bool *dead;     /* per stage */
    int *cost;      /* per stage: of value and epilogue */
    LoadList *load; /* per stage */
    struct Use {
        uint32_t defs, def;
        VEC(uint32_t) reader, writer;
    } * use;   /* per buffer; def: the last stage that writes it */
    Expr *map; /* per axis: scratch for substitutions, all 0 between them */
} Cluster;

/* ---- who reads what ---- */
static bool reads(const Cluster *c, uint32_t stage, int buf)
{
    for (uint32_t i = 0; i < c->load[stage].at.n; i++)
        if ((int)expr_node(c->k, c->load[stage].at.at[i])->id == buf) return true;
    return false;
}

static void note_loads(Cluster *c, uint32_t stage)
{
    const Compute *s = &c->k->stage.at[stage];
    c->load[stage].at.n = 0;
    stage_loads(c->k, c->mem, s, &c->load[stage]);
    c->cost[stage] = expr_cost(c->k, s->value) + (s->epilogue ? expr_cost(c->k, s->epilogue) : 0);
    for (uint32_t i = 0; i < c->load[stage].at.n; i++) {
        struct Use *u = &c->use[expr_node(c->k, c->load[stage].at.at[i])->id];
        bool known = false;
        for (uint32_t r = u->reader.n; r-- && !known;) known = u->reader.at[r] == stage;
        if (!known) vec_push(c->mem, &u->reader, stage);
    }
}

/* Drops what is no longer true from a buffer's list; returns how many readers there are. */
static uint32_t readers(Cluster *c, int buf)
{
    struct Use *u = &c->use[buf];
    uint32_t n = 0;
    for (uint32_t i = 0; i < u->reader.n; i++)
        if (!c->dead[u->reader.at[i]] && reads(c, u->reader.at[i], buf)) u->reader.at[n++] = u->reader.at[i];
    return u->reader.n = n;
}

static bool is_single(const Cluster *c, int buf) { return c->k->buf.at[buf].kind == BUF_TMP && c->use[buf].defs == 1; }

/* ---- constants ---- */
static bool is_round(double v) { return v * 2 == (double)(int64_t)(v * 2) && v >= -64 && v <= 64; }

/* A number worth having in the formula: indices fold, round floats let compares fold; other floats stay in memory so that equal layers
 * with other scales stay equal kernels. */
static Expr scalar_of(Kernel *k, int buf)
{
    const Buf *b = &k->buf.at[buf];
    if (b->kind != BUF_CONST || !b->data || tensor_count(b->data) != 1 || !b->data->data) return 0;
    if (dtypes[b->type].cls == DC_OTHER) return 0;
    if (!dtype_is_float(b->type)) return expr_int(k, b->type, dtype_load_int(b->type, b->data->data, 0));
    double v = dtype_load(b->type, b->data->data, 0);
    if (b->type != DT_f32 || !(v >= -64 && v <= 64) || !is_round(v)) return 0;
    return expr_float(k, b->type, v);
}

/* Is it added to a rounded number somewhere in e? A zero point, that is: it differs from layer to layer, and code for one in memory is as
 * good (llvm/value.c), so that equal layers stay equal kernels. One that is 0 goes. */
static bool shifts_rounded(Kernel *k, Expr e, Expr load)
{
    ExprNode n = *expr_node(k, e);
    if (n.kind != E_PRIM) return false;
    for (int i = 0; i < 2 && n.prim == P_add; i++) {
        const ExprNode *by = expr_node(k, n.arg[i]), *to = expr_node(k, n.arg[1 - i]);
        bool cast = by->kind == E_PRIM && by->prim == P_cast && by->arg[0] == load;
        if (cast && to->kind == E_PRIM && to->prim == P_rint) return true;
    }
    for (int i = 0; i < 3 && n.arg[i]; i++)
        if (shifts_rounded(k, n.arg[i], load)) return true;
    return false;
}

static bool replace_all(Kernel *k, Compute *s, Expr from, Expr to)
{
    stage_replace(k, s, from, to);
    return true;
}

static void fold_constants(Cluster *c, uint32_t stage)
{
    bool changed = false;
    for (uint32_t i = 0; i < c->load[stage].at.n; i++) {
        Expr load = c->load[stage].at.at[i], number = scalar_of(c->k, (int)expr_node(c->k, load)->id);
        bool zero_point = number && !expr_is(c->k, number, 0) && shifts_rounded(c->k, c->k->stage.at[stage].value, load);
        if (number && !zero_point && load != c->k->stage.at[stage].keep)
            changed = replace_all(c->k, &c->k->stage.at[stage], load, number);
    }
    if (changed) note_loads(c, stage);
}

/* ---- inline ---- */
static bool is_copy(const Kernel *k, const Compute *s)
{
    ExprKind kind = (ExprKind)expr_node(k, s->value)->kind;
    return kind == E_LOAD || kind == E_FLOAT || kind == E_INT;
}

static bool divides(const Kernel *k, Expr e) /* has an index that is not a sum of multiples? */
{
    const ExprNode *n = expr_node(k, e);
    if (n->kind == E_LOAD) return true; /* an index out of data */
    if (n->kind != E_PRIM) return false;
    if (n->prim != P_add && n->prim != P_sub && n->prim != P_mul) return true;
    return divides(k, n->arg[0]) || divides(k, n->arg[1]);
}

static Expr substituted(Cluster *c, const Compute *def,
                        Expr load) /* what the load reads, said by the stage that made it */
{
    ExprNode n = *expr_node(c->k, load);
    for (int d = 0; d < def->rank; d++) c->map[axis_of_index(c->k, def->at[d])] = n.arg[d];
    Expr e = expr_map(c->k, def->value, c->map);
    for (int d = 0; d < def->rank; d++) c->map[axis_of_index(c->k, def->at[d])] = 0;
    return e;
}

/* A piece of an axis that moves all factors of a sum of products, a batch: several heads of queries have keys in common. */
static bool is_of_batch(Cluster *c, uint32_t stage, Expr load, Expr index)
{
    const ExprNode *n = expr_node(c->k, index);
    int axis = n->kind == E_PRIM && n->prim == P_div && expr_is_index(c->k, n->arg[1], NULL)
                   ? axis_of_index(c->k, n->arg[0])
                   : 0;
    if (!axis) return false;
    for (uint32_t i = 0; i < c->load[stage].at.n; i++)
        if (c->load[stage].at.at[i] != load && !expr_uses(c->k, c->load[stage].at.at[i], axis)) return false;
    return c->load[stage].at.n > 1;
}

static bool simple_indices(Cluster *c, const Compute *def, uint32_t stage, Expr load)
{
    ExprNode n = *expr_node(c->k, substituted(c, def, load));
    for (int d = 0; n.kind == E_LOAD && d < MAX_RANK && n.arg[d]; d++)
        if (divides(c->k, n.arg[d]) && !is_of_batch(c, stage, load, n.arg[d])) return false;
    return true;
}

static bool is_narrowing(const Cluster *c, uint32_t def) /* what it reads takes fewer bytes than what it writes */
{
    int in = 0;
    for (uint32_t i = 0; i < c->load[def].at.n; i++) {
        const Buf *b = &c->k->buf.at[expr_node(c->k, c->load[def].at.at[i])->id];
        if (b->kind != BUF_CONST) in += dtypes[b->type].bytes;
    }
    return in < dtypes[c->k->buf.at[c->k->stage.at[def].out].type].bytes;
}

static bool is_worth(Cluster *c, uint32_t def, uint32_t stage, Expr load, int times)
{
    Kernel *k = c->k;
    const Compute *s = &k->stage.at[stage], *d = &k->stage.at[def];
    bool in_value = expr_reads(k, s->value, d->out) > 0, sums = s->how && in_value;
    bool again = is_rereading(k, s, load, sums), copy = is_copy(k, d);
    if (!copy && is_widening(k, &c->load[def])) return !sums; /* looked up: only what is read; else widen.c says where */
    uint32_t others = readers(c, d->out);
    if (sums && again) return copy && simple_indices(c, d, stage, load);
    if (copy) return others == 1 || simple_indices(c, d, stage, load);
    if (times > MANY) return false;
    int cheap = is_narrowing(c, def) ? CHEAP_NARROW : CHEAP;
    if (c->cost[def] <= cheap && c->load[def].at.n <= 2) return true;
    return others == 1 && times == 1 && !again;
}

static bool can_inline(Cluster *c, uint32_t def, uint32_t stage)
{
    const Compute *d = &c->k->stage.at[def], *s = &c->k->stage.at[stage];
    if (c->dead[def] || def >= stage || !stage_is_plain(d) || !stage_at_axes(c->k, d)) return false;
    if (d->share && d->share != s->share) return false;
    if (s->keep && (int)expr_node(c->k, s->keep)->id == d->out) return false;
    return !s->update || d->out != s->out;
}

static bool try_inline(Cluster *c, uint32_t stage, Expr load)
{
    Kernel *k = c->k;
    int buf = (int)expr_node(k, load)->id, times = 0;
    if (!is_single(c, buf)) return false;
    uint32_t def = c->use[buf].def;
    if (!can_inline(c, def, stage)) return false;
    for (uint32_t i = 0; i < c->load[stage].at.n; i++) times += (int)expr_node(k, c->load[stage].at.at[i])->id == buf;
    for (uint32_t i = 0; i < c->load[stage].at.n; i++)
        if ((int)expr_node(k, c->load[stage].at.at[i])->id == buf &&
            !is_worth(c, def, stage, c->load[stage].at.at[i], times))
            return false;
    if (c->cost[stage] + times * c->cost[def] > MOST) return false;
    const Compute d = k->stage.at[def];
    for (uint32_t i = 0; i < c->load[stage].at.n; i++) {
        Expr old = c->load[stage].at.at[i];
        if ((int)expr_node(k, old)->id == buf) replace_all(k, &k->stage.at[stage], old, substituted(c, &d, old));
    }
    note_loads(c, stage);
    if (!readers(c, buf)) c->dead[def] = true;
    return true;
}

static void inline_into(Cluster *c, uint32_t stage)
{
    bool again = true;
    while (again) {
        again = false;
        for (uint32_t i = 0; i < c->load[stage].at.n && !again; i++)
            again = try_inline(c, stage, c->load[stage].at.at[i]);
    }
}

/* ---- absorb ---- */
enum { MAX_DIGITS = 2 * MAX_RANK };
/* A digit of an axis in a mixed radix: (axis / by) % of; of 0: the most significant one. value: said by the stage that is read. */
typedef struct Digit {
    int axis;
    int64_t by, of;
    Expr value;
} Digit;

static bool digit_of(const Kernel *k, Expr e, Digit *d)
{
    *d = (Digit){.by = 1};
    const ExprNode *n = expr_node(k, e);
    if (n->kind == E_PRIM && n->prim == P_mod && expr_is_index(k, n->arg[1], &d->of)) n = expr_node(k, n->arg[0]);
    if (n->kind == E_PRIM && n->prim == P_div && expr_is_index(k, n->arg[1], &d->by)) n = expr_node(k, n->arg[0]);
    d->axis = n->kind == E_AXIS ? (int)n->id : 0;
    return d->axis != 0;
}

/* How many values a digit has; 0: it is not known to divide its axis. */
static Expr digit_size(Kernel *k, const Digit *d)
{
    Expr by = expr_index(k, d->by), size = d->of ? expr_index(k, d->of) : expr_div(k, k->axis.at[d->axis].extent, by);
    Expr all = expr_mul(k, size, by), extent = k->axis.at[d->axis].extent;
    return all == extent || (d->of && expr_is(k, expr_mod(k, extent, all), 0)) ? size : 0;
}

/* Takes an index of what is read apart into digits, the least significant one first, each said with `at`, the axis of the stage that
 * made it. Yields how many; -1: the index is no number made of digits. */
static int digits_of(Kernel *k, Expr index, Expr at, Expr extent, Digit *digit, int room)
{
    Lin l = lin_of(k, index);
    int n = 0;
    if (!l.ok || l.base || l.n > room) return -1;
    Expr counts = expr_index(k, 1);
    while (n < l.n) {
        int next = -1;
        Expr size = 0;
        for (int i = n; i < l.n && !expr_is(k, size, 1); i++) { /* digits of one value come first: they count nothing */
            if (!expr_is(k, counts, l.term[i].by)) continue;
            next = i;
            if (!digit_of(k, l.term[i].atom, &digit[n]) || !(size = digit_size(k, &digit[n]))) return -1;
        }
        if (next < 0) return -1;
        l.term[next] = l.term[n];
        digit[n].value = expr_div(k, at, counts);
        if (++n < l.n) digit[n - 1].value = expr_mod(k, digit[n - 1].value, size);
        counts = expr_mul(k, counts, size);
    }
    return counts == extent ? n : -1;
}

/* Says each axis of the reader with the axes of the stage it reads: load's indices must be all digits of all the reader's axes. */
static bool invert(Kernel *k, const Compute *def, const Compute *reader, Expr load, Expr *map)
{
    ExprNode n = *expr_node(k, load);
    Digit digit[MAX_DIGITS];
    int digits = 0, used = 0, rank = k->buf.at[def->out].rank;
    for (int d = 0; d < rank; d++) {
        Expr extent = k->axis.at[axis_of_index(k, def->at[d])].extent;
        if (expr_is(k, n.arg[d], 0) && expr_is(k, extent, 1)) continue;
        int more = digits_of(k, n.arg[d], def->at[d], extent, digit + digits, MAX_DIGITS - digits);
        if (more < 0) return false;
        digits += more;
    }
    for (int r = 0; r < reader->rank; r++) {
        int a = reader->space[r];
        int64_t by = 1;
        Expr sum = expr_index(k, 0);
        bool whole = expr_is(k, k->axis.at[a].extent, 1); /* one element: nothing need choose it */
        for (int at = 0; at < digits; at++) {
            const Digit *d = &digit[at];
            if (d->axis != a || d->by != by || (whole && by > 1)) continue;
            sum = expr_add(k, sum, expr_mul(k, d->value, expr_index(k, by)));
            used++, by *= d->of ? d->of : 1, at = d->of ? -1 : digits, whole = !d->of;
        }
        if (!whole) return false;
        map[a] = sum;
    }
    return used == digits;
}

/* Along which dimension do elements lie side by side? */
static int beside_dim(Kernel *k, const Buf *b)
{
    for (int i = b->layout.n ? b->layout.n : b->rank; i--;) {
        int d = b->layout.n ? b->layout.axis[i].dim : i;
        if (!expr_is(k, b->dim[d], 1)) return d;
    }
    return -1;
}

/* The same where the reader passes point by point over all the stage stores, whatever indices it stores at: channel g * M + m. */
static bool follow(Kernel *k, const Compute *def, const Compute *reader, Expr load, Expr *map)
{
    ExprNode n = *expr_node(k, load);
    const Buf *b = &k->buf.at[def->out];
    int used = 0;
    for (int d = 0; d < b->rank; d++) {
        int a = axis_of_index(k, n.arg[d]), axes = 0;
        if (expr_is(k, n.arg[d], 0) && expr_is(k, b->dim[d], 1)) continue;
        for (int r = 0; r < reader->rank; r++) axes += reader->space[r] == a;
        if (!a || axes != 1 || map[a] || k->axis.at[a].extent != b->dim[d]) return false;
        map[a] = def->at[d], used++;
    }
    for (int r = 0; r < reader->rank; r++) {
        if (map[reader->space[r]]) continue;
        if (!expr_is(k, k->axis.at[reader->space[r]].extent, 1)) return false;
        map[reader->space[r]] = expr_index(k, 0);
    }
    return used > 0;
}

/* What lies side by side in the output must lie side by side in what computes it, or the results are stored one by one. */
static bool keeps_order(Kernel *k, const Compute *def, const Compute *reader, const Expr *map)
{
    int from = beside_dim(k, &k->buf.at[def->out]), to = beside_dim(k, &k->buf.at[reader->out]);
    if (from < 0 || to < 0) return true;
    int a = axis_of_index(k, def->at[from]);
    Expr place = expr_map(k, reader->at[to], map);
    if (a && expr_constant(k, k->axis.at[a].extent, FEW) < FEW && place != def->at[from] &&
        !expr_is(k, k->axis.at[a].extent, 1))
        return false; /* better done where there are more of them beside each other */
    if (expr_node(k, reader->value)->kind != E_LOAD) return true;
    for (int d = 0; !a && d < def->rank;
         d++) /* stored at pieces of an axis: those that choose the neighbours choose them still */
        if (expr_uses(k, def->at[from], def->space[d]) && !expr_uses(k, place, def->space[d])) return false;
    if (!a || expr_is(k, k->axis.at[a].extent, 1)) return true;
    Lin l = lin_of(k, place);
    bool kept = false, cut = false; /* cut in pieces that do not lie side by side: a shuffle */
    for (int i = 0; i < l.n; i++) {
        const ExprNode *n = expr_node(k, l.term[i].atom);
        bool piece = n->kind == E_PRIM && n->prim == P_mod && n->arg[0] == def->at[from];
        kept = kept || expr_uses(k, l.term[i].atom, a), cut = cut || (piece && l.term[i].by != 1);
    }
    return kept && !cut;
}

static bool defined_before(const Cluster *c, uint32_t stage, const LoadList *l, int but, uint32_t place)
{
    for (uint32_t i = 0; i < l->at.n; i++) {
        int buf = (int)expr_node(c->k, l->at.at[i])->id;
        if (buf != but && c->use[buf].defs && c->use[buf].def >= place) return false;
    }
    return stage > place;
}

static bool forget(Cluster *c, const Compute *s) /* empties the map of a stage's axes; false */
{
    for (int d = 0; d < s->rank; d++) c->map[s->space[d]] = 0;
    return false;
}

/* The stage that the reader's formula is applied to, storing where the reader does. map: the reader's axes, said with those of d. */
static Compute with_epilogue(Kernel *k, Compute d, const Compute *r, Expr load, const Expr *map)
{
    DType type = (DType)expr_node(k, d.value)->type;
    Expr before = d.how ? (d.epilogue ? d.epilogue : expr_it(k, type)) : d.value;
    Expr mark = expr_it(k, (DType)expr_node(k, load)->type);
    Expr after = expr_map(k, expr_replace(k, r->value, load, mark), map);
    Expr both = expr_replace(k, after, mark, before);
    if (d.how) d.epilogue = expr_node(k, both)->kind == E_IT ? 0 : both;
    else d.value = both;
    d.out = r->out;
    for (int i = 0; i < MAX_RANK; i++) d.at[i] = i < k->buf.at[r->out].rank ? expr_map(k, r->at[i], map) : 0;
    return d;
}

static bool is_row_major(const Layout *order)
{
    for (int i = 0; i < order->n; i++)
        if (order->axis[i].dim != i) return false;
    return true;
}

/* The order that a lowering left on what the stage stored, for what it stores now: the same axes follow each other, where each is an index of it. */
static void hand_order(Kernel *k, const Buf *from, const Expr *was, const Compute *d)
{
    Buf *to = &k->buf.at[d->out];
    Layout order = {0};
    if (to->kind != BUF_TMP || to->layout.n || from->layout.n != from->rank) return;
    for (int t = 0; t < to->rank; t++)
        if (expr_is(k, to->dim[t], 1)) order.axis[order.n++] = (LayoutAxis){t, 1, 0};
    for (int i = 0; i < from->rank; i++) {
        int f = from->layout.axis[i].dim, a = axis_of_index(k, was[f]), dim = -1;
        if (expr_is(k, from->dim[f], 1)) continue;
        for (int t = 0; t < to->rank; t++)
            if (a && axis_of_index(k, d->at[t]) == a && !expr_is(k, to->dim[t], 1)) dim = t;
        if (dim < 0) return;
        order.axis[order.n++] = (LayoutAxis){dim, 1, 0};
    }
    if (order.n == to->rank && !is_row_major(&order)) to->layout = order;
}

static bool try_absorb(Cluster *c, uint32_t stage, Expr load)
{
    Kernel *k = c->k;
    const Compute r = k->stage.at[stage];
    int buf = (int)expr_node(k, load)->id;
    uint32_t def = c->use[buf].def;
    if (!is_single(c, buf) || c->dead[def] || def >= stage || readers(c, buf) != 1) return false;
    const Compute was = k->stage.at[def];
    Compute d = was;
    bool stays = d.share != 0;
    bool at_axes = stage_at_axes(k, &d) && !d.where;
    if (d.scan || d.update || d.keep || (!at_axes && !stage_places(k, &d))) return false;
    if (!d.how && !d.check && !d.share && at_axes) return false; /* inlining was the question for those */
    if (d.check && d.how) return false;
    if (stays && (r.share || !defined_before(c, stage, &c->load[stage], buf, def))) return false;
    if (c->use[r.out].defs > 1 && stays) return false;
    for (uint32_t i = 0; i < c->load[stage].at.n; i++)
        if (c->load[stage].at.at[i] != load && (int)expr_node(k, c->load[stage].at.at[i])->id == buf) return false;
    Expr *map = c->map;
    bool fits = at_axes ? invert(k, &d, &r, load, map) : follow(k, &d, &r, load, map);
    if (!fits || !keeps_order(k, &d, &r, map) || c->cost[def] + c->cost[stage] > 2 * MOST) return forget(c, &r);
    d = with_epilogue(k, d, &r, load, map);
    forget(c, &r);
    uint32_t place = stays ? def : stage, gone = stays ? stage : def;
    if (!stays) d.share = r.share;
    k->stage.at[place] = d;
    if (c->use[d.out].defs == 1) hand_order(k, &k->buf.at[was.out], was.at, &d);
    c->dead[gone] = true, c->load[gone].at.n = 0;
    c->use[d.out].def = place;
    note_loads(c, place);
    return true;
}

/* Into the latest of the stages it reads: that one can wait for nobody else. */
static bool absorb(Cluster *c, uint32_t stage)
{
    if (!stage_is_plain(&c->k->stage.at[stage]) || c->k->stage.at[stage].share) return false;
    for (uint32_t tried = UINT32_MAX;;) {
        Expr best = 0;
        uint32_t at = 0;
        for (uint32_t i = 0; i < c->load[stage].at.n; i++) {
            const struct Use *u = &c->use[expr_node(c->k, c->load[stage].at.at[i])->id];
            if (u->defs && u->def < tried && (!best || u->def > at)) best = c->load[stage].at.at[i], at = u->def;
        }
        if (!best) return false;
        if (try_absorb(c, stage, best)) return true;
        tried = at;
    }
}

/* ---- distribute ---- */
/* May the stage's formula be applied to each of the stages that put together what it reads, all of it, element by element? */
static bool may_distribute(Cluster *c, uint32_t stage, Expr load)
{
    Kernel *k = c->k;
    const Compute *r = &k->stage.at[stage];
    ExprNode n = *expr_node(k, load);
    const struct Use *u = &c->use[n.id];
    if (k->buf.at[n.id].kind != BUF_TMP || u->defs < 2 || u->writer.n != u->defs || readers(c, (int)n.id) != 1)
        return false;
    if (!is_single(c, r->out)) return false;
    for (uint32_t i = 0; i < c->load[stage].at.n; i++)
        if (c->load[stage].at.at[i] != load && expr_node(k, c->load[stage].at.at[i])->id == n.id) return false;
    for (uint32_t i = 0; i < u->writer.n; i++) {
        uint32_t w = u->writer.at[i];
        const Compute *d = &k->stage.at[w];
        if (w >= stage || d->scan || d->where || d->update || d->keep || d->share || d->check || reads(c, w, (int)n.id))
            return false;
        LoadList places = {0};
        for (int j = 0; j < k->buf.at[d->out].rank; j++) loads_of(k, c->mem, d->at[j], &places);
        if (places.at.n) return false; /* where data says: some elements may not be written here */
        bool follows = follow(k, d, r, load, c->map);
        forget(c, r);
        if (!follows || c->cost[w] + c->cost[stage] > 2 * MOST ||
            !defined_before(c, stage, &c->load[stage], (int)n.id, w))
            return false;
    }
    return true;
}

/* What reads a result made in pieces (of Concat, of the phases of a transposed convolution) goes to each of its pieces. */
static bool distribute(Cluster *c, uint32_t stage)
{
    Kernel *k = c->k;
    Compute r = k->stage.at[stage];
    Expr load = 0;
    if (!stage_is_plain(&r) || r.share) return false;
    for (uint32_t i = 0; i < c->load[stage].at.n && !load; i++)
        if (may_distribute(c, stage, c->load[stage].at.at[i])) load = c->load[stage].at.at[i];
    if (!load) return false;
    ExprNode n = *expr_node(k, load);
    struct Use *from = &c->use[n.id], *to = &c->use[r.out];
    c->dead[stage] = true, c->load[stage].at.n = 0, to->writer.n = to->defs = 0;
    for (uint32_t i = 0; i < from->writer.n; i++) {
        uint32_t w = from->writer.at[i];
        follow(k, &k->stage.at[w], &r, load, c->map);
        k->stage.at[w] = with_epilogue(k, k->stage.at[w], &r, load, c->map);
        vec_push(c->mem, &to->writer, w), to->defs++, to->def = w;
        forget(c, &r), note_loads(c, w);
    }
    from->writer.n = from->defs = 0;
    for (uint32_t i = 0; i < to->writer.n; i++) inline_into(c, to->writer.at[i]), absorb(c, to->writer.at[i]);
    to->def = to->writer.at[to->writer.n - 1]; /* the last one, wherever its formula went */
    return true;
}

/* ---- dead stages ---- */
/* Marks what live stages read; true when that is more than before: a stage of a scan may be read by one that stands before it. */
static bool mark_live(const Cluster *c, bool *live, bool *needed)
{
    bool more = false;
    for (uint32_t i = c->k->stage.n; i--;) {
        const Compute *s = &c->k->stage.at[i];
        if (live[i] || c->dead[i]) continue;
        live[i] =
            c->k->buf.at[s->out].kind == BUF_OUT || needed[s->out] || (s->keep && needed[expr_node(c->k, s->keep)->id]);
        more |= live[i];
        for (uint32_t l = 0; live[i] && l < c->load[i].at.n; l++)
            needed[expr_node(c->k, c->load[i].at.at[l])->id] = true;
    }
    return more;
}

static void sweep(Cluster *c)
{
    Kernel *k = c->k;
    bool *needed = NEW_ARRAY(c->mem, bool, k->buf.n), *live = NEW_ARRAY(c->mem, bool, k->stage.n + 1);
    while (mark_live(c, live, needed)) continue;
    uint32_t n = 0;
    for (uint32_t i = 0; i < k->stage.n; i++)
        if (live[i]) k->stage.at[n++] = k->stage.at[i];
    k->stage.n = n;
}

static void note_program(Cluster *c)
{
    Kernel *k = c->k;
    c->dead = NEW_ARRAY(c->mem, bool, k->stage.n), c->cost = NEW_ARRAY(c->mem, int, k->stage.n);
    c->load = NEW_ARRAY(c->mem, LoadList, k->stage.n);
    c->use = arena_alloc(c->mem, sizeof *c->use * k->buf.n), c->map = NEW_ARRAY(c->mem, Expr, k->axis.n);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        note_loads(c, i);
        c->use[k->stage.at[i].out].defs++, c->use[k->stage.at[i].out].def = i;
        vec_push(c->mem, &c->use[k->stage.at[i].out].writer, i);
        if (!k->stage.at[i].keep) continue;
        c->use[expr_node(k, k->stage.at[i].keep)->id].defs += 2, c->use[expr_node(k, k->stage.at[i].keep)->id].def = i;
    }
}

/* ---- retarget ---- */
/* Reads of buffer `from` become reads of `to`, moved by off. */
static Expr moved(Kernel *k, Expr e, int from, int to, const Expr *off)
{
    if (!e || !expr_reads(k, e, from)) return e;
    ExprNode n = *expr_node(k, e);
    for (int i = 0; i < MAX_RANK && n.arg[i]; i++) n.arg[i] = moved(k, n.arg[i], from, to, off);
    if (n.kind == E_LOAD && (int)n.id == from) {
        for (int d = 0; d < k->buf.at[from].rank; d++) n.arg[d] = expr_add(k, n.arg[d], off[d]);
        n.id = (uint32_t)to;
    }
    return expr_rebuild(k, &n);
}

static void move_stage(Kernel *k, Compute *s, int from, int to, const Expr *off)
{
    s->value = moved(k, s->value, from, to, off), s->epilogue = moved(k, s->epilogue, from, to, off);
    s->keep = moved(k, s->keep, from, to, off), s->check = moved(k, s->check, from, to, off),
    s->where = moved(k, s->where, from, to, off);
    for (int d = 0; d < k->buf.at[s->out].rank; d++) s->at[d] = moved(k, s->at[d], from, to, off);
    if (s->out != from) return;
    for (int d = 0; d < k->buf.at[from].rank; d++) s->at[d] = expr_add(k, s->at[d], off[d]);
    s->out = to;
}

/* A copy of a whole temporary to constant offsets in another buffer: off[d] is where it starts. */
static bool copies_whole(Kernel *k, const Compute *s, Expr *off)
{
    ExprNode load = *expr_node(k, s->value);
    if (!stage_is_plain(s) || s->share || load.kind != E_LOAD || k->buf.at[s->out].rank != k->buf.at[load.id].rank)
        return false;
    if (k->buf.at[load.id].type != k->buf.at[s->out].type || s->rank != k->buf.at[s->out].rank) return false;
    for (int d = 0; d < s->rank; d++) {
        int a = axis_of_index(k, load.arg[d]);
        if (!a || k->axis.at[a].extent != k->buf.at[load.id].dim[d]) return false;
        off[d] = expr_sub(k, s->at[d], load.arg[d]);
        for (int i = 0; i < s->rank; i++)
            if (expr_uses(k, off[d], s->space[i])) return false;
    }
    return true;
}

static bool may_move(const Cluster *c, int buf,
                     uint32_t before) /* is everything that writes it a plain store, earlier? */
{
    const struct Use *u = &c->use[buf];
    for (uint32_t i = 0; i < u->writer.n; i++) {
        const Compute *s = &c->k->stage.at[u->writer.at[i]];
        if (u->writer.at[i] >= before || s->scan || s->update || s->keep) return false;
        if (s->where && !stage_places(c->k, s)) return false;
    }
    return u->writer.n > 0 && u->defs == u->writer.n; /* a place kept by another stage counts more */
}

static bool at_least(Kernel *k, Expr a, Expr b)
{
    int64_t least, most;
    return expr_range(k, expr_sub(k, a, b), &least, &most) && least >= 0;
}

/* Does a stage store outside of what begins at `off` and is as large as the buffer? */
static bool stores_beside(Cluster *c, const Compute *s, int buf, const Expr *off)
{
    Kernel *k = c->k;
    for (int d = 0; d < k->buf.at[s->out].rank; d++) {
        Expr first = s->at[d], after = expr_add(k, off[d], k->buf.at[buf].dim[d]), extent = expr_index(k, 1);
        int axes = 0;
        for (int i = 0; i < s->rank; i++) {
            if (!expr_uses(k, first, s->space[i])) continue;
            axes += step_is(k, first, s->space[i], 1) ? 1 : 2;
            extent = k->axis.at[s->space[i]].extent, c->map[s->space[i]] = expr_index(k, 0);
            first = expr_map(k, first, c->map);
            c->map[s->space[i]] = 0;
        }
        if (axes > 1 || depends_on_data(k, first)) continue;
        if (at_least(k, first, after) || at_least(k, off[d], expr_add(k, first, extent))) return true;
    }
    return false;
}

/* Once a copy is gone, its target holds the values from when they are made to when they are read for the last time: nobody else may store there meanwhile,
 * as an update of the copy does. */
static bool is_left_alone(Cluster *c, uint32_t copy, int from, const Expr *off)
{
    const struct Use *u = &c->use[from], *target = &c->use[c->k->stage.at[copy].out];
    uint32_t first = copy, last = copy, n = readers(c, from);
    for (uint32_t i = 0; i < u->writer.n; i++)
        if (u->writer.at[i] < first) first = u->writer.at[i];
    for (uint32_t i = 0; i < n; i++)
        if (u->reader.at[i] > last) last = u->reader.at[i];
    for (uint32_t i = 0; i < target->writer.n; i++) {
        uint32_t w = target->writer.at[i];
        if (w == copy || c->dead[w] || w < first || w > last) continue;
        if (!stores_beside(c, &c->k->stage.at[w], from, off)) return false;
    }
    return true;
}

static bool try_retarget(Cluster *c, uint32_t stage)
{
    Kernel *k = c->k;
    Compute *s = &k->stage.at[stage];
    Expr off[MAX_RANK] = {0};
    if (c->dead[stage] || !copies_whole(k, s, off)) return false;
    int from = (int)expr_node(k, s->value)->id, to = s->out;
    if (k->buf.at[from].kind != BUF_TMP || from == to || !may_move(c, from, stage)) return false;
    if (!is_left_alone(c, stage, from, off)) return false;
    Buf *target = &k->buf.at[to];
    if (target->kind == BUF_TMP && !target->layout.n) target->layout = k->buf.at[from].layout;
    if (!layout_equal(&target->layout, &k->buf.at[from].layout) && target->kind != BUF_TMP) return false;
    c->dead[stage] = true, c->load[stage].at.n = 0;
    for (uint32_t i = 0; i < c->use[from].writer.n; i++) {
        move_stage(k, &k->stage.at[c->use[from].writer.at[i]], from, to, off);
        vec_push(c->mem, &c->use[to].writer, c->use[from].writer.at[i]);
    }
    uint32_t n = readers(c, from);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t reader = c->use[from].reader.at[i];
        move_stage(k, &k->stage.at[reader], from, to, off);
        note_loads(c, reader);
    }
    return true;
}

/* ---- shared loops ---- */
static int64_t points(const Kernel *k, const Compute *s)
{
    int64_t n = 1;
    for (int d = 0; d < s->rank + s->reduces; d++) {
        int64_t e = expr_constant(k, k->axis.at[d < s->rank ? s->space[d] : s->reduce[d - s->rank]].extent, 64);
        if (e && n > INT64_MAX / 4096 / e) return n;
        n *= e;
    }
    return n;
}

static void settle_group(Kernel *k, uint32_t first, uint32_t last)
{
    const Compute lead = k->stage.at[first];
    int64_t work = 0, shared = 1;
    for (uint32_t i = first; i < last; i++) work += points(k, &k->stage.at[i]);
    for (uint32_t i = first + 1; i < last; i++) {
        Compute *s = &k->stage.at[i];
        for (int d = 0; d < s->rank && d < lead.rank; d++) {
            if (s->space[d] == lead.space[d]) continue;
            if (k->axis.at[s->space[d]].extent != k->axis.at[lead.space[d]].extent || stage_has_axis(s, lead.space[d]))
                break;
            stage_rename(k, s, s->space[d], lead.space[d]);
        }
    }
    int axis[MAX_RANK], n = share_axes(k, first, last, axis);
    for (int i = 0; i < n; i++) shared *= expr_constant(k, k->axis.at[axis[i]].extent, 64);
    if (last - first == 1 || (work > SERIAL_WORK && shared < 8))
        for (uint32_t i = first; i < last; i++) k->stage.at[i].share = 0;
}

static void settle_groups(Kernel *k)
{
    for (uint32_t i = 0, end; i < k->stage.n; i = end) {
        for (end = i + 1; end < k->stage.n && k->stage.at[i].share && k->stage.at[end].share == k->stage.at[i].share;)
            end++;
        if (k->stage.at[i].share) settle_group(k, i, end);
    }
}

Kernel *program_cluster(Kernel *k)
{
    Arena scratch = {0};
    Cluster c = {.k = k, .mem = &scratch};
    spread_order(k); /* before stages disappear: what a convolution asked for reaches what becomes its result */
    note_program(&c);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        fold_constants(&c, i);
        inline_into(&c, i);
        if (!absorb(&c, i)) distribute(&c, i);
    }
    sweep(&c);
    note_program(&c);
    for (uint32_t i = k->stage.n; i--;) try_retarget(&c, i);
    sweep(&c);
    settle_groups(k);
    arena_drop(&scratch);
    return k;
}
