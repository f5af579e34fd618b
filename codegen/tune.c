/* tune.c - kernel and target facts in, a schedule out.
 *
 * Comes in: one kernel of a cut program, its layouts chosen. Goes out: directives, data that can be printed, read back and changed. What a
 * stage is decides what is asked; the answers come from two questions to its formulas: by how much does an axis move an
 * address (0: the same for all lanes, 1: a vector load, else one by one), and how often is an element used.
 *
 *   contraction   the `contract` call on a register tile of rows x panels x 16 lanes that divides the problem and fits the registers;
 *                 of bytes or bf16, where there are tile registers: the `tiles` call on up to four of them
 *   window sum    (pooling, depthwise) lanes over the contiguous axis, a few neighbours of another axis in registers; of bf16 products,
 *                 where one instruction sums two, and of pools: the `window` and `pool` calls on such a tile
 *   reduction     lanes over the contiguous axis: a summed one gets partial results, a space one needs none
 *   map           lanes over the axis contiguous in the output, or tiles of two axes when a copy transposes
 *
 * A vector is 16 lanes on every level: LLVM makes 2 or 4 registers of it. Stages of one kernel share the loops they can; each then has
 * axes of its own, so that one stage's lanes are not another's. Scans run their axis in order. */
#include "codegen/analyse.h"
#include "codegen/blocking.h"
#include <assert.h>

enum {
    LANES = 16,
    SMALL = 4,
    SOME = 4, /* neighbours together, of an unknown number */
    ITEMS = 48,
    UNKNOWN = 64,
    GATHER = 24,
    STRIDED = 6, /* lanes at most STRIDED_MOST elements apart */
    STRIDED_MOST = 4,
    LEAST = 2048,
    MOST_CHOICES = 8,
    MOST_ROWS = 30,
    BLOCK = 128
};

typedef struct Tuner {
    Kernel *k;
    const Target *t;
    Arena *mem;      /* scratch */
    bool *outer;     /* per axis: a loop that encloses the stage */
    int *inside;     /* per axis: 0, or its last part, a block of it, when the stages share the loop over its blocks */
    int *columns;    /* per axis: 0, or its first of three parts (blocks, panels, lanes), when they share the loop over blocks of columns */
    bool parallel;   /* may this stage have parallel loops? */
    bool small;      /* little code is wanted more than time */
    int group, lane; /* axes to ask with: an axis as group * 16 + lane */
} Tuner;

typedef struct Order {
    int n, axis[MAX_STEP];
} Order;

static bool is_among(const Order *o, int axis)
{
    for (int i = 0; i < o->n; i++)
        if (o->axis[i] == axis) return true;
    return false;
}

static void put(Order *o, int a)
{
    if (a && !is_among(o, a) && o->n < MAX_STEP) o->axis[o->n++] = a;
}

static void step(Kernel *k, StepKind what, LoopKind loop, const int *axis, int n, const char *name)
{
    Step s = {.what = what, .loop = loop, .n = n, .name = name};
    memcpy(s.axis, axis, sizeof *axis * (size_t)n);
    if (n) vec_push(k->mem, &k->schedule.step, s);
}

static void mark(Kernel *k, LoopKind loop, int axis) { step(k, STEP_LOOP, loop, &axis, 1, NULL); }
static int64_t extent(const Kernel *k, int a) { return expr_constant(k, k->axis.at[a].extent, -1); }
static int64_t about(const Kernel *k, int a) { return expr_constant(k, k->axis.at[a].extent, UNKNOWN); }

/* ---- what a stage touches ---- */
typedef struct Access {
    Expr address;
    bool store;
    int buf;
} Access;
typedef struct Accesses {
    VEC(Access) at;
    bool odd;
} Accesses; /* odd: a type without arithmetic */

static Accesses accesses_of(Tuner *u, const Compute *c, bool loads_only)
{
    Kernel *k = u->k;
    Accesses a = {0};
    LoadList l = {0};
    if (loads_only) loads_of(k, u->mem, c->value, &l);
    else stage_loads(k, u->mem, c, &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        ExprNode n = *expr_node(k, l.at.at[i]);
        vec_push(u->mem, &a.at, (Access){buf_address(k, (int)n.id, n.arg), false, (int)n.id});
        a.odd = a.odd || dtypes[k->buf.at[n.id].type].cls == DC_OTHER;
    }
    a.odd = a.odd || dtypes[k->buf.at[c->out].type].cls == DC_OTHER;
    if (!loads_only) vec_push(u->mem, &a.at, (Access){buf_address(k, c->out, c->at), true, c->out});
    return a;
}

/* What lanes over this axis cost, in plain vector accesses. */
static int lanes_cost(Tuner *u, const Accesses *a, int axis)
{
    Kernel *k = u->k;
    int cost = 0;
    Expr *map = NEW_ARRAY(u->mem, Expr, k->axis.n);
    map[axis] = expr_add(k, expr_mul(k, expr_axis(k, u->group), expr_index(k, LANES)), expr_axis(k, u->lane));
    for (uint32_t i = 0; i < a->at.n; i++) {
        Expr by = expr_step(k, a->at.at[i].address, axis);
        if (!by) by = expr_step(k, expr_map(k, a->at.at[i].address, map), u->lane); /* panels are adjacent within one */
        int64_t n = by ? expr_constant(k, by, 1000) : -1;
        if (n == 0 && !a->at.at[i].store) continue;
        int mine = n == 1 || n == 0 ? 1 : n < 0 ? GATHER : n <= STRIDED_MOST ? STRIDED : LANES;
        cost += a->at.at[i].store ? mine * 3 / 2 : mine; /* stores one by one cost more than loads */
    }
    return cost;
}

static bool loads_index(Kernel *k, Expr e) /* is there a load inside an index? */
{
    const ExprNode *n = expr_node(k, e);
    if (n->kind == E_LOAD) return true;
    for (int i = 0; i < MAX_RANK && n->arg[i]; i++)
        if (loads_index(k, expr_node(k, e)->arg[i])) return true;
    return false;
}

static bool is_scattered(Kernel *k, const Compute *c) /* stores where data says: order may matter */
{
    for (int d = 0; d < k->buf.at[c->out].rank; d++)
        if (loads_index(k, c->at[d])) return true;
    return c->update != P_NONE;
}

/* About how much an index is when every free size is UNKNOWN; INT64_MAX: no idea. */
static int64_t index_about(Tuner *u, Expr e)
{
    Kernel *k = u->k;
    ExprNode n = *expr_node(k, e);
    int64_t v, other;
    if (n.kind == E_INT) return n.u.i;
    if (n.kind == E_SYM) {
        int64_t *size = NEW_ARRAY(u->mem, int64_t, dim_symbols(k->dim) + 1);
        for (uint32_t i = 0; i < dim_symbols(k->dim); i++) size[i] = UNKNOWN;
        return dim_eval(k->dim, (Dim){n.id}, size, &v) ? v : INT64_MAX;
    }
    if (n.kind != E_PRIM || n.prim != P_mul) return INT64_MAX;
    v = index_about(u, n.arg[0]), other = index_about(u, n.arg[1]);
    return v > INT32_MAX || other > INT32_MAX ? INT64_MAX : v * other;
}

/* Space axes not yet outside, in the order their elements lie in the output: the widest step first. */
static void space_order(Tuner *u, const Compute *c, Order *o)
{
    Kernel *k = u->k;
    Expr at = buf_address(k, c->out, c->at);
    int64_t by[MAX_RANK];
    *o = (Order){0};
    for (int d = 0; d < c->rank; d++) {
        int a = c->space[d], i = o->n;
        if (u->outer[a]) continue;
        Expr s = expr_step(k, at, a);
        if (u->inside[a]) a = u->inside[a];
        int64_t mine = s ? index_about(u, s) : INT64_MAX;
        for (; i && mine != INT64_MAX && by[i - 1] < mine; i--) by[i] = by[i - 1], o->axis[i] = o->axis[i - 1];
        by[i] = mine, o->axis[i] = a, o->n++;
    }
}

static bool divides(Kernel *k, int a, int64_t n) /* for certain: 12 * N is a multiple of 4 */
{
    return expr_is(k, expr_mod(k, k->axis.at[a].extent, expr_index(k, n)), 0);
}

static bool is_ragged(Kernel *k, int leaf) /* the first part of a split that does not divide its axis */
{
    int whole = k->axis.at[leaf].parent;
    int64_t tile = 1;
    for (int i = 1; whole && i < k->axis.at[whole].parts; i++) tile *= extent(k, k->axis.at[whole].part + i);
    return whole && !divides(k, whole, tile);
}

/* Iterations of a loop at least; a split's first part is known by the split. */
static int64_t items_of(const Kernel *k, int leaf)
{
    int whole = k->axis.at[leaf].parent;
    if (!whole || k->axis.at[whole].part != leaf) return expr_constant(k, k->axis.at[leaf].extent, 1);
    int64_t tile = 1;
    for (int i = 1; i < k->axis.at[whole].parts; i++) tile *= extent(k, k->axis.at[whole].part + i);
    return (expr_constant(k, k->axis.at[whole].extent, 1) + tile - 1) / tile;
}

static bool is_one_tile(const Kernel *k, int leaf) /* for certain */
{
    int whole = k->axis.at[leaf].parent;
    return whole && extent(k, whole) > 0 && items_of(k, leaf) == 1;
}

static int64_t points(const Kernel *k, const Compute *c)
{
    int64_t n = 1;
    for (int d = 0; d < c->rank + c->reduces && n < INT32_MAX; d++)
        n *= expr_constant(k, k->axis.at[d < c->rank ? c->space[d] : c->reduce[d - c->rank]].extent, 1);
    return n;
}

/* Leading loops become parallel until there are enough items to hand out (a batch of unknown size may be one), or the items get too small to be worth their numbering. A
 * ragged loop is the last: its whole tiles are told from the rest by one test inside it, unless there is one tile alone. */
static void parallelise(Tuner *u, const Compute *c, const Order *o, int n)
{
    int64_t items = 1, work = points(u->k, c);
    for (int i = 0; i < n && u->parallel && items < ITEMS; i++) {
        int64_t more = items_of(u->k, o->axis[i]);
        if (items > 1 && more > 1 && work / items / more < LEAST) return;
        mark(u->k, LOOP_PARALLEL, o->axis[i]);
        items *= more;
        if (is_ragged(u->k, o->axis[i]) && !is_one_tile(u->k, o->axis[i])) return;
    }
}

static int64_t best_divisor(int64_t n, int64_t most) /* the largest divisor not above most */
{
    for (int64_t d = most; d > 1; d--)
        if (n % d == 0) return d;
    return 1;
}

/* Lanes of maps: a register of them, where little code is wanted. */
static int vector_lanes(const Tuner *u) { return u->small ? u->t->lanes : LANES; }

/* Splits for lanes: the vector part and, when it divides, some vectors together: `most` of one register each, fewer of several, which do
 * not wait for each other either. Yields the number of parts. */
static int split_lanes(Tuner *u, int a, int wide, int most, int *part)
{
    Kernel *k = u->k;
    most = most * u->t->lanes / wide > 1 ? most * u->t->lanes / wide : 1;
    int64_t n = extent(k, a);
    int factor[2] = {1, wide}, from = 1;
    if (n > 0 && n < wide && (n == 4 || n == 8)) factor[1] = (int)n; /* narrow but whole */
    int64_t vectors = n > 0 ? n / factor[1] : 0;
    int together = n > 0 && n % factor[1] == 0    ? (int)best_divisor(vectors, most)
                   : n < 0 || vectors >= 4 * most ? most
                                                  : 1;
    if (together > 1) factor[0] = together, from = 0;
    int first = schedule_split(k, a, factor + from, 2 - from), parts = 3 - from;
    for (int i = 0; i < parts; i++) part[i] = first + i;
    mark(k, LOOP_VECTOR, part[parts - 1]);
    if (parts == 3) mark(k, LOOP_UNROLL, part[1]);
    return parts;
}

/* ---- maps ---- */
static bool stores_run(Tuner *u, const Accesses *a, int axis) /* do stores go on by one? */
{
    for (uint32_t i = 0; i < a->at.n; i++) {
        Expr by = a->at.at[i].store ? expr_step(u->k, a->at.at[i].address, axis) : 0;
        if (by && expr_is(u->k, by, 1)) return true;
    }
    return false;
}

/* What these accesses cost with lanes over the axis; run: stores go on by one along it. */
static int price(Tuner *u, const Accesses *a, int axis, bool run)
{
    int64_t n = extent(u->k, axis);
    int cost = lanes_cost(u, a, axis) * 16;
    if (n >= 0 && n < LANES) return cost + cost * (LANES - (int)n) / 16;
    return n < 0 && !run ? cost + cost / 2 : cost; /* a batch of one is the usual one */
}

static int best_lanes(Tuner *u, const Accesses *a, const int *axis, int n, int *cost)
{
    Kernel *k = u->k;
    int best = 0, runs = 0;
    *cost = INT32_MAX;
    for (int i = 0; i < n; i++) {
        if (u->outer[axis[i]] || k->axis.at[axis[i]].parent) continue; /* a part of a shared axis is no choice */
        if (extent(k, axis[i]) >= 0 && extent(k, axis[i]) < SMALL) continue;
        int run = stores_run(u, a, axis[i]), mine = price(u, a, axis[i], run);
        bool better = run != runs ? run > runs : about(k, axis[i]) > about(k, best);
        if (mine < *cost || (mine == *cost && better)) best = axis[i], *cost = mine, runs = run;
    }
    return best;
}

static bool is_apart(Kernel *k, Expr address, int axis) /* do lanes over it load one by one? */
{
    Expr by = expr_step(k, address, axis);
    return by ? expr_constant(k, by, 1000) > STRIDED_MOST : expr_uses(k, address, axis);
}

/* An axis along which a load is contiguous that is not along `but`; 0: there is none. */
static int loaded_lanes(Tuner *u, const Accesses *a, const Order *o, int but)
{
    Kernel *k = u->k;
    for (int i = 0; i < o->n; i++) {
        int axis = o->axis[i];
        bool narrow = extent(k, axis) >= 0 && extent(k, axis) < LANES;
        if (axis == but || u->outer[axis] || k->axis.at[axis].parent || narrow) continue;
        for (uint32_t j = 0; j < a->at.n; j++) {
            Expr by = a->at.at[j].store ? 0 : expr_step(k, a->at.at[j].address, axis);
            if (by && expr_is(k, by, 1) && is_apart(k, a->at.at[j].address, but)) return axis;
        }
    }
    return 0;
}

/* ---- maps that interleave: lanes that store n elements apart, and n values that fill the gaps ---- */
enum { MOST_WOVEN = 8 };

static bool loads_run(Tuner *u, const Accesses *a, const Expr *map, int axis) /* do all loads go on by one, or stay? */
{
    Kernel *k = u->k;
    for (uint32_t i = 0; i < a->at.n; i++) {
        Expr at = map ? expr_map(k, a->at.at[i].address, map) : a->at.at[i].address;
        if (!a->at.at[i].store && !step_is(k, at, axis, 1) && expr_uses(k, at, axis)) return false;
    }
    return true;
}

/* A channel-first image into channels last: the few channels are the n values. */
static bool weave_axes(Tuner *u, const Accesses *a, const Order *o, Expr store, Order *loops)
{
    Kernel *k = u->k;
    for (int i = 0; i < o->n; i++)
        for (int j = 0; j < o->n; j++) {
            int unit = o->axis[i], lane = o->axis[j];
            int64_t n = extent(k, unit);
            if (n < 2 || n > MOST_WOVEN || (extent(k, lane) >= 0 && extent(k, lane) < LANES)) continue;
            if (!step_is(k, store, unit, 1) || !step_is(k, store, lane, n) || !loads_run(u, a, NULL, lane)) continue;
            int first = schedule_split(k, lane, (int[]){LANES}, 1);
            loops->axis[0] = first, loops->axis[1] = first + 1, loops->axis[2] = unit, loops->n = 3;
            return true;
        }
    return false;
}

/* Shuffled channels, c -> c % n * m + c / n: the axis is split, and loads run along c / n. */
static bool weave_split(Tuner *u, const Accesses *a, const Order *o, Expr store, Order *loops)
{
    Kernel *k = u->k;
    Expr *map = NEW_ARRAY(u->mem, Expr, k->axis.n);
    for (int i = 0; i < o->n; i++) {
        int axis = o->axis[i];
        if (!step_is(k, store, axis, 1) || loads_run(u, a, NULL, axis)) continue;
        for (int n = 2; n <= MOST_WOVEN; n++) {
            if (extent(k, axis) < n * LANES / 2 || extent(k, axis) % n) continue;
            Expr unit = expr_mod(k, expr_axis(k, u->lane), expr_index(k, n));
            map[axis] = expr_add(k, expr_mul(k, expr_axis(k, u->group), expr_index(k, n)), unit);
            if (!loads_run(u, a, map, u->group)) continue;
            int first = schedule_split(k, axis, (int[]){LANES, n}, 2);
            for (loops->n = 0; loops->n < 3; loops->n++) loops->axis[loops->n] = first + loops->n;
            return true;
        }
        map[axis] = 0;
    }
    return false;
}

/* Words of a panel: lanes lie n apart, and n neighbours of another axis, whose rest goes elsewhere, fill the gaps. */
static bool weave_words(Tuner *u, const Accesses *a, const Order *o, Expr store, Order *loops)
{
    Kernel *k = u->k;
    Expr *map = NEW_ARRAY(u->mem, Expr, k->axis.n);
    int64_t n, by;
    for (int i = 0; i < o->n; i++)
        for (int j = 0; j < o->n; j++) {
            int words = o->axis[i], lane = o->axis[j];
            map[lane] = expr_add(k, expr_mul(k, expr_axis(k, u->group), expr_index(k, LANES)), expr_axis(k, u->lane));
            Expr step = expr_step(k, expr_map(k, store, map), u->lane), first = 0;
            map[lane] = 0;
            if (words == lane || !step || !expr_is_index(k, step, &n) || n < 2 || n > MOST_WOVEN) continue;
            if (k->axis.at[words].parent || k->axis.at[lane].parent || !loads_run(u, a, NULL, lane)) continue;
            bool fill = extent(k, lane) < 0 || extent(k, lane) >= LANES;
            for (int64_t w = 0; w < n && fill; w++) {
                map[words] = expr_add(k, expr_mul(k, expr_axis(k, u->group), expr_index(k, n)), expr_index(k, w));
                Expr here = expr_map(k, store, map);
                if (w == 0) first = here;
                fill = lin_differ(k, here, first, &by) && by == w;
            }
            map[words] = 0;
            if (!fill) continue;
            int part = schedule_split(k, words, (int[]){(int)n}, 1), run = schedule_split(k, lane, (int[]){LANES}, 1);
            loops->axis[0] = run, loops->axis[1] = run + 1, loops->axis[2] = part + 1, loops->n = 3;
            return true;
        }
    return false;
}

static bool tune_woven(Tuner *u, const Compute *c, const Accesses *a, const Order *o)
{
    Kernel *k = u->k;
    Expr store = buf_address(k, c->out, c->at);
    Order inner = {0}, loops = {0};
    if (!weave_axes(u, a, o, store, &inner) && !weave_split(u, a, o, store, &inner) &&
        !weave_words(u, a, o, store, &inner))
        return false;
    for (int i = 0; i < o->n; i++) {
        int part = k->axis.at[o->axis[i]].part; /* what words leave of their axis is a loop outside */
        if (o->axis[i] != inner.axis[2] && o->axis[i] != k->axis.at[inner.axis[0]].parent)
            put(&loops, part ? part : o->axis[i]);
    }
    int outer = loops.n;
    for (int i = 0; i < inner.n; i++) put(&loops, inner.axis[i]);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    mark(k, LOOP_VECTOR, inner.axis[1]), mark(k, LOOP_UNROLL, inner.axis[2]);
    parallelise(u, c, &loops, outer + 1); /* blocks of lanes, where all rows of an image are one axis */
    return true;
}

/* Panels (codegen/layout.c): the lanes of one panel lie side by side and the next value of some other axis behind them. PIECE values of
 * it at a time, so that a few streams are written and few pages touched. */
enum { PIECE = 64 };
static bool tune_panels(Tuner *u, const Compute *c, const Order *o, int lane)
{
    Kernel *k = u->k;
    Expr at = buf_address(k, c->out, c->at);
    int behind = 0, part[3];
    if (expr_step(k, at, lane)) return false;
    for (int i = 0; i < o->n; i++) {
        Expr by = o->axis[i] == lane ? 0 : expr_step(k, at, o->axis[i]);
        if (by && expr_is(k, by, LANES) && about(k, o->axis[i]) > PIECE) behind = o->axis[i];
    }
    if (!behind) return false;
    Order loops = {0};
    int piece = schedule_split(k, behind, (int[]){PIECE}, 1), parts = split_lanes(u, lane, LANES, 4, part);
    for (int i = 0; i < o->n; i++)
        if (o->axis[i] != lane && o->axis[i] != behind) put(&loops, o->axis[i]);
    put(&loops, part[0]), put(&loops, piece);
    int outer = loops.n;
    put(&loops, piece + 1);
    for (int i = 1; i < parts; i++) put(&loops, part[i]);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    parallelise(u, c, &loops, outer);
    return true;
}

/* Does the axis choose among formulas? Unrolled, the choice is made when code is. */
static bool chooses(const Kernel *k, Expr e, int axis)
{
    ExprNode n = *expr_node(k, e);
    if (n.kind != E_PRIM || !expr_uses(k, e, axis)) return false;
    ExprNode cond = *expr_node(k, n.arg[0]);
    if (n.prim == P_guard && cond.kind == E_PRIM && cond.prim == P_eq && axis_of_index(k, cond.arg[0]) == axis &&
        expr_is_index(k, cond.arg[1], NULL))
        return true;
    for (int i = 0; i < 3 && n.arg[i]; i++)
        if (chooses(k, n.arg[i], axis)) return true;
    return false;
}

/* Lanes, and around them all formulas that the choosing axes choose: what they have in common is computed once. */
static void choices_in_lanes(Tuner *u, const Compute *c, const Order *o, int lane, const Order *pick)
{
    Kernel *k = u->k;
    Order loops = {0};
    int part = schedule_split(k, lane, (int[]){vector_lanes(u)}, 1);
    for (int i = 0; i < o->n; i++)
        if (o->axis[i] != lane && !is_among(pick, o->axis[i])) put(&loops, o->axis[i]);
    put(&loops, part);
    int outer = loops.n;
    for (int j = 0; j < pick->n; j++) put(&loops, pick->axis[j]), mark(k, LOOP_UNROLL, pick->axis[j]);
    put(&loops, part + 1), mark(k, LOOP_VECTOR, part + 1);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    parallelise(u, c, &loops, outer);
}

/* The run along the axis after which something else is read, if it is longer than the TOGETHER codes of a byte: a group of weights has one
 * scale. *period: the shortest found so far, 0: none. */
enum { TOGETHER = 4 };
static void find_period(Kernel *k, Expr e, int axis, int64_t *period)
{
    ExprNode n = *expr_node(k, e);
    int64_t by;
    if (!expr_uses(k, e, axis)) return;
    bool divides = n.kind == E_PRIM && n.prim == P_div && axis_of_index(k, n.arg[0]) == axis;
    if (divides && expr_is_index(k, n.arg[1], &by) && by > TOGETHER && (!*period || by < *period)) *period = by;
    for (int i = 0; i < MAX_RANK && n.arg[i]; i++) find_period(k, n.arg[i], axis, period);
}

/* A block of columns of a constant (codegen/widen.c), one line of lanes after the other; neighbours that share bytes together. */
static bool tune_columns(Tuner *u, const Compute *c)
{
    Kernel *k = u->k;
    int lane = 0, inner = 0;
    int64_t period = 0, found;
    Order loops = {0};
    for (int i = 0; i < c->rank; i++)
        if (u->columns[c->space[i]]) lane = c->space[i];
    if (!lane) return false;
    for (int i = 0; i < c->rank; i++) {
        int a = c->space[i];
        if (a == lane || u->outer[a]) continue;
        found = 0, find_period(k, c->value, a, &found);
        if (found || !period) inner = a, period = found;
    }
    for (int i = 0; i < c->rank; i++)
        if (c->space[i] != lane && c->space[i] != inner && !u->outer[c->space[i]]) put(&loops, c->space[i]);
    if (inner) {
        int few = TOGETHER, run = (int)(period / few);
        int part = run > 1 ? schedule_split(k, inner, (int[]){run, few}, 2) : schedule_split(k, inner, &few, 1);
        for (int i = 0; i < k->axis.at[inner].parts; i++) {
            if (i == k->axis.at[inner].parts - 1) put(&loops, u->columns[lane] + 1);
            put(&loops, part + i);
        }
        mark(k, LOOP_UNROLL, part + k->axis.at[inner].parts - 1);
    }
    put(&loops, u->columns[lane] + 2);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    return true;
}

/* A fixed value for what does not lie side by side, the border of an image of a few channels, is not worth code: plain loops, which may be
 * the same on all levels. */
static bool is_plain_fill(Tuner *u, const Compute *c, const Accesses *a, int lane)
{
    Kernel *k = u->k;
    return u->small && a->at.n == 1 && lane && !step_is(k, buf_address(k, c->out, c->at), lane, 1);
}

/* An axis that chooses among formulas would have lanes of all of them: it is taken if there is no other. */
static int map_lanes(Tuner *u, const Accesses *a, const Order *o, const Order *pick)
{
    Order rest = {0};
    int cost;
    for (int i = 0; i < o->n; i++)
        if (!is_among(pick, o->axis[i])) put(&rest, o->axis[i]);
    int lane = best_lanes(u, a, rest.axis, rest.n, &cost);
    return lane ? lane : best_lanes(u, a, o->axis, o->n, &cost);
}

static void tune_map(Tuner *u, const Compute *c)
{
    Kernel *k = u->k;
    if (tune_columns(u, c)) return;
    Accesses a = accesses_of(u, c, false);
    Order o, loops = {0}, pick = {0};
    space_order(u, c, &o);
    bool ordered = is_scattered(k, c);
    for (int i = 0; i < o.n; i++)
        if (extent(k, o.axis[i]) > 1 && extent(k, o.axis[i]) <= MOST_CHOICES && chooses(k, c->value, o.axis[i]))
            put(&pick, o.axis[i]);
    int lane = a.odd || ordered ? 0 : map_lanes(u, &a, &o, &pick);
    if (ordered) return; /* points in order, one after the other: the plain loops */
    if (is_plain_fill(u, c, &a, lane)) lane = 0;
    else if (!a.odd && !pick.n && tune_woven(u, c, &a, &o)) return;
    if (!lane) {
        step(k, STEP_ORDER, LOOP_SERIAL, o.axis, o.n, NULL);
        parallelise(u, c, &o, o.n);
        return;
    }
    if (pick.n && !c->check) {
        choices_in_lanes(u, c, &o, lane, &pick);
        return;
    }
    int across = loaded_lanes(u, &a, &o, lane), part[3], tile[2] = {0};
    if (across) {
        tile[0] = schedule_split(k, across, (int[]){LANES}, 1), tile[1] = tile[0] + 1;
        int vector = schedule_split(k, lane, (int[]){LANES}, 1);
        mark(k, LOOP_VECTOR, vector + 1);
        for (int i = 0; i < o.n; i++)
            if (o.axis[i] != lane && o.axis[i] != across) put(&loops, o.axis[i]);
        int outer = loops.n;
        put(&loops, vector), put(&loops, tile[0]), put(&loops, tile[1]), put(&loops, vector + 1);
        step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
        parallelise(u, c, &loops, outer + 1);
        return;
    }
    if (tune_panels(u, c, &o, lane)) return;
    int64_t around = 1, n = about(k, lane);
    for (int i = 0; i < o.n; i++) around *= o.axis[i] == lane ? 1 : about(k, o.axis[i]);
    if (u->parallel && around < ITEMS && n >= 4096) { /* pieces of one long row */
        int first = schedule_split(k, lane, (int[]){8, 4, LANES}, 3);
        mark(k, LOOP_UNROLL, first + 2), mark(k, LOOP_VECTOR, first + 3);
        for (int i = 0; i < o.n; i++)
            if (o.axis[i] != lane) put(&loops, o.axis[i]);
        put(&loops, first);
        int outer = loops.n;
        for (int i = 1; i < 4; i++) put(&loops, first + i);
        step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
        parallelise(u, c, &loops, outer);
        return;
    }
    int parts = split_lanes(u, lane, vector_lanes(u), u->small ? 1 : 4, part);
    for (int i = 0; i < o.n; i++)
        if (o.axis[i] != lane) put(&loops, o.axis[i]);
    int outer = loops.n;
    for (int i = 0; i < parts; i++) put(&loops, part[i]);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    parallelise(u, c, &loops, around < ITEMS ? outer + 1 : outer);
}

/* ---- reductions ---- */
static bool is_under_window(Tuner *u, const Compute *c, int axis) /* do windows move along it? */
{
    Kernel *k = u->k;
    LoadList loads = {0};
    loads_of(k, u->mem, c->value, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        ExprNode n = *expr_node(k, loads.at.at[i]);
        for (int d = 0; d < k->buf.at[n.id].rank; d++)
            for (int j = 0; j < c->reduces; j++)
                if (expr_uses(k, n.arg[d], axis) && expr_uses(k, n.arg[d], c->reduce[j])) return true;
    }
    return false;
}

/* Another space axis whose neighbours read mostly the same: a few of its values are kept in registers. */
static int neighbours(Tuner *u, const Compute *c, const Accesses *a, const Order *o, int lane, int64_t *tile)
{
    Kernel *k = u->k;
    int most = u->t->registers / 2 / (LANES / (u->t->lanes ? u->t->lanes : 1)); /* half of the registers accumulate */
    if (most > 7) most = 7;
    if (most < 2) most = 2;
    for (int i = o->n; i--;) {
        int x = o->axis[i];
        if (x == lane || extent(k, x) == 0 || extent(k, x) == 1 || k->axis.at[x].parent) continue;
        bool few = u->small && most < SOME; /* and code for what they leave */
        if (extent(k, x) < 0 && (few || !is_under_window(u, c, x))) continue; /* a batch may be one */
        bool same = false;
        for (uint32_t j = 0; j < a->at.n; j++) same = same || !expr_uses(k, a->at.at[j].address, x);
        *tile = extent(k, x) < 0 ? most : best_divisor(extent(k, x), most);
        if (same && *tile > 1) return x;
    }
    return 0;
}

static void unroll_windows(Tuner *u, const Compute *c)
{
    int64_t all = 1;
    for (int i = c->reduces; i--;) {
        int64_t n = extent(u->k, c->reduce[i]);
        if (n < 1 || (all *= n) > 9 || u->k->axis.at[c->reduce[i]].parts) return;
        mark(u->k, LOOP_UNROLL, c->reduce[i]);
    }
}

/* The taps of a float window (a depthwise convolution) become one axis, summed in blocks of TAPS: the partial sums are shorter, so less
 * is lost to rounding, and the order is the one other engines sum in, which matters where a quantized model amplifies the last bit.
 * Integers in float are exact in any order and stay as they are. */
enum { TAPS = 4, MAX_TAPS = 32 };
static bool is_float_window(Kernel *k, const Compute *c)
{
    ExprNode v = *expr_node(k, c->value);
    if (c->how != P_add || c->keep || c->check || v.kind != E_PRIM || v.prim != P_mul || v.type != DT_f32 ||
        c->reduces < 2)
        return false;
    int64_t taps = 1;
    for (int i = 0; i < c->reduces; i++) {
        int64_t n = extent(k, c->reduce[i]);
        if (n < 1 || (taps *= n) > MAX_TAPS) return false;
        for (int f = 0; f < 2; f++)
            if (!expr_uses(k, v.arg[f], c->reduce[i])) return false;
    }
    bool whole = true;
    for (int f = 0; f < 2; f++) {
        const ExprNode *n = expr_node(k, v.arg[f]);
        whole = whole && n->kind == E_PRIM && n->prim == P_cast && dtype_is_int((DType)expr_node(k, n->arg[0])->type);
    }
    return taps > TAPS && !whole;
}

static int flatten_window(Kernel *k, Compute *c)
{
    int64_t taps = 1;
    for (int i = 0; i < c->reduces; i++) taps *= extent(k, c->reduce[i]);
    int all = kernel_axis(k, NULL, expr_index(k, taps));
    Expr *map = NEW_ARRAY(k->mem, Expr, k->axis.n), tap = expr_axis(k, all);
    for (int i = 0; i < c->reduces; i++) {
        int64_t n = extent(k, c->reduce[i]);
        taps /= n;
        map[c->reduce[i]] = expr_mod(k, expr_div(k, tap, expr_index(k, taps)), expr_index(k, n));
    }
    c->value = expr_map(k, c->value, map);
    c->reduce[0] = all, c->reduces = 1;
    return all;
}

/* A sum over a tensor's last dimensions: there four chains save time and error. Sums over outer dimensions keep one chain, the order every
 * engine adds rows in: models that subtract squared means from mean squares hang on it. */
static bool is_run(Tuner *u, const Compute *c)
{
    Kernel *k = u->k;
    LoadList loads = {0};
    if (c->reduces != 1 || c->scan || extent(k, c->reduce[0]) < 4 * TAPS) return false;
    loads_of(k, u->mem, c->value, &loads);
    for (uint32_t i = 0; i < loads.at.n; i++) {
        ExprNode n = *expr_node(k, loads.at.at[i]);
        int rank = k->buf.at[n.id].rank;
        if (rank && !expr_uses(k, n.arg[rank - 1], c->reduce[0])) return false;
    }
    return true;
}

static void reduce_in_lanes(Tuner *u, const Compute *c, int lane)
{
    Kernel *k = u->k;
    Order o, loops = {0};
    int part[3];
    space_order(u, c, &o);
    for (int i = 0; i < o.n; i++) put(&loops, o.axis[i]);
    int outer = loops.n,
        parts = split_lanes(u, lane, LANES, extent(k, lane) < 0 || extent(k, lane) >= 8 * LANES ? 4 : 1, part);
    for (int i = 0; i < c->reduces; i++)
        if (c->reduce[i] != lane) put(&loops, c->reduce[i]);
    for (int i = 0; i < parts; i++) put(&loops, part[i]);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    step(k, STEP_PARTIAL, LOOP_SERIAL, part + 1, parts - 1, NULL);
    parallelise(u, c, &loops, outer);
}

static bool slides_along(Tuner *u, const Compute *c, const Accesses *a, int axis) /* is an image under a window? */
{
    Kernel *k = u->k;
    for (uint32_t i = 0; i < a->at.n; i++)
        for (int r = 0; r < c->reduces; r++)
            if (!a->at.at[i].store && expr_uses(k, a->at.at[i].address, axis) &&
                expr_uses(k, a->at.at[i].address, c->reduce[r]))
                return true;
    return false;
}

/* A window passes over an image: what it reads for one row of results is read again for the next. All channels of it are more than the
 * nearest cache holds; some channels (this many vectors of them) at a time, it stays there. 0: it does anyway, or the image comes from
 * so far that it should be read from end to end. */
static int strip_vectors(Tuner *u, const Compute *c, const Accesses *a, const Order *o, int near, int lane, int64_t wide)
{
    enum { NEAR_CACHE = 32 * 1024, OWN_CACHE = 1024 * 1024, MOST_VECTORS = 4 };
    Kernel *k = u->k;
    int64_t bytes = 0, taps = 1, n = extent(k, lane), image = 0;
    for (uint32_t i = 0; i < a->at.n; i++)
        if (!a->at.at[i].store && expr_uses(k, a->at.at[i].address, near)) {
            const Buf *b = &k->buf.at[a->at.at[i].buf];
            int64_t all = dtypes[b->type].bytes;
            bytes += all;
            for (int d = 0; d < b->rank; d++) all *= expr_constant(k, b->dim[d], 1); /* one of a batch */
            image += all;
        }
    for (int i = 0; i + 1 < c->reduces; i++) taps *= about(k, c->reduce[i]); /* rows of the window */
    bool rows = false;
    for (int i = 0; i < o->n; i++) {
        int x = o->axis[i];
        if (x == lane || !slides_along(u, c, a, x)) continue;
        rows = rows || x != near;
        if (extent(k, x) < 0) image *= UNKNOWN;
    }
    if (!rows || n < 2 * LANES || n % LANES || wide < 0 || !slides_along(u, c, a, near)) return 0;
    int64_t each = bytes * taps * wide * LANES;
    if (each * (n / LANES) <= NEAR_CACHE || image > OWN_CACHE) return 0;
    int64_t most = NEAR_CACHE / each;
    return (int)best_divisor(n / LANES, most < 1 ? 1 : most > MOST_VECTORS ? MOST_VECTORS : most);
}

/* ---- windows with a call of their own: `window`, where one instruction sums the products of two bf16, takes two rows at once; `pool` adds
 * bf16, or takes the largest of floats, column by column ---- */
enum { MAX_WINDOW = 64, LEAST_ROWS_APART = 7, MOST_NEAR = 14, FEW_NEAR = 7, SOME_NEAR = 12 };

static bool runs_along(Tuner *u, Expr factor, int lane) /* does it lie side by side in memory? */
{
    Kernel *k = u->k;
    ExprNode n = *expr_node(k, factor);
    return n.kind == E_LOAD && step_is(k, buf_address(k, (int)n.id, n.arg), lane, 1);
}

static bool is_run_of_pairs(Tuner *u, Expr factor, int lane)
{
    return expr_node(u->k, factor)->type == DT_bf16 && runs_along(u, factor, lane);
}

/* The call that can make this window's results, and the images it may pass over; NULL: none. */
static const char *window_call(Tuner *u, const Compute *c, int lane, Expr image[2])
{
    Kernel *k = u->k;
    ExprNode v = *expr_node(k, c->value);
    if (v.type != DT_f32 || c->keep || c->check || c->where || c->update || c->scan) return NULL;
    image[0] = uncast(k, c->value, DT_f32), image[1] = 0;
    bool narrow = expr_node(k, image[0])->type == DT_bf16;
    if (u->t->lanes == LANES && (c->how == P_max || (c->how == P_add && narrow)) && runs_along(u, image[0], lane))
        return dtype_is_float((DType)expr_node(k, image[0])->type) ? "pool" : NULL;
    if (v.kind != E_PRIM || v.prim != P_mul || c->how != P_add || !target_sums_words(u->t, DT_bf16, DT_bf16))
        return NULL;
    for (int i = 0; i < 2; i++) image[i] = uncast(k, v.arg[i], DT_f32);
    return is_run_of_pairs(u, image[0], lane) && is_run_of_pairs(u, image[1], lane) ? "window" : NULL;
}

static bool is_small_window(Tuner *u, const Compute *c)
{
    int64_t taps = 1, n;
    for (int i = 0; i < c->reduces; i++) {
        if ((n = extent(u->k, c->reduce[i])) < 1 || n > LANES) return false;
        taps *= n;
    }
    return c->reduces >= 1 && c->reduces <= 2 && taps >= SMALL / 2 && taps <= MAX_WINDOW;
}

/* The space axis along which the window moves and neighbours share what they read: of one image alone. 0: there is none. */
static int window_axis(Tuner *u, const Compute *c, const Order *o, int lane, Expr image[2])
{
    Kernel *k = u->k;
    for (int i = o->n; i--;) {
        int x = o->axis[i];
        if (x == lane || extent(k, x) == 1 || k->axis.at[x].parent || !is_under_window(u, c, x)) continue;
        bool first = expr_uses(k, image[0], x), second = image[1] && expr_uses(k, image[1], x);
        if (first == second) return 0;
        if (second) image[0] = image[1];
        return x;
    }
    return 0;
}

/* Rows of the window are taken by twos: the summed axis along which the neighbours do not lie, if there is one. */
static int row_of_window(Tuner *u, const Compute *c, Expr image, int near)
{
    Kernel *k = u->k;
    ExprNode n = *expr_node(k, image);
    for (int i = 0; i < c->reduces && c->reduces > 1; i++) {
        bool along = false;
        for (int d = 0; d < k->buf.at[n.id].rank; d++)
            along = along || (expr_uses(k, n.arg[d], near) && expr_uses(k, n.arg[d], c->reduce[i]));
        if (!along) return c->reduce[i];
    }
    return c->reduce[0];
}

/* As many neighbours as registers take, in tiles of one size. A window that moves by more than a place shares less. */
static int near_tile(Tuner *u, Expr image, int near)
{
    Kernel *k = u->k;
    ExprNode n = *expr_node(k, image);
    int64_t size = extent(k, near), most = FEW_NEAR;
    for (int d = 0; d < k->buf.at[n.id].rank; d++)
        if (step_is(k, n.arg[d], near, 1)) most = MOST_NEAR;
    if (size < 0) return SOME_NEAR;
    int64_t tiles = (size + most - 1) / most;
    return (int)((size + tiles - 1) / tiles);
}

/* Loops whose every pass is a piece of work that makes a row of results; 0: there are too few. */
static int whole_rows(Tuner *u, const Order *loops)
{
    int64_t items = 1;
    for (int i = 0; i < loops->n; i++) items *= about(u->k, loops->axis[i]);
    return items >= LEAST_ROWS_APART ? loops->n : 0;
}

static bool tune_window(Tuner *u, Compute *c, const Accesses *a, const Order *o, int lane)
{
    Kernel *k = u->k;
    Order loops = {0};
    Expr image[2];
    const char *call = is_small_window(u, c) ? window_call(u, c, lane, image) : NULL;
    int near = call ? window_axis(u, c, o, lane, image) : 0;
    if (!near || (extent(k, lane) >= 0 && extent(k, lane) < LANES)) return false;
    bool by_two = !strcmp(call, "window");
    int rows = row_of_window(u, c, image[0], near), tile = near_tile(u, image[0], near), lanes[] = {1, LANES};
    int strip = strip_vectors(u, c, a, o, near, lane, about(k, near));
    lanes[0] = strip > 1 ? strip : 1;
    int row = schedule_split(k, near, &tile, 1), part = schedule_split(k, lane, lanes, 2);
    int pair = by_two ? schedule_split(k, rows, (int[]){2}, 1) : rows;
    for (int i = 0; i < o->n; i++) { /* the channels lie innermost, or outside the rows */
        if (o->axis[i] == lane || o->axis[i] == near) continue;
        if (strip && slides_along(u, c, a, o->axis[i])) put(&loops, part);
        put(&loops, o->axis[i]);
    }
    int whole = whole_rows(u, &loops);
    put(&loops, row), put(&loops, part), put(&loops, part + 1);
    int outer = whole ? whole : loops.n;
    put(&loops, pair);
    for (int i = 0; i < c->reduces; i++)
        if (c->reduce[i] != rows) put(&loops, c->reduce[i]), mark(k, LOOP_UNROLL, c->reduce[i]);
    if (by_two) put(&loops, pair + 1), mark(k, LOOP_UNROLL, pair + 1);
    put(&loops, row + 1), put(&loops, part + 2);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    mark(k, LOOP_UNROLL, pair), mark(k, LOOP_UNROLL, row + 1), mark(k, LOOP_VECTOR, part + 2);
    step(k, STEP_CALL, LOOP_SERIAL, &rows, 1, call);
    parallelise(u, c, &loops, outer);
    return true;
}

/* The weights, which all neighbours have in common, are bf16: what they are widened to is kept while a row of results is made. */
static bool has_narrow_weights(Tuner *u, const Compute *c, int near)
{
    Kernel *k = u->k;
    ExprNode v = *expr_node(k, c->value);
    bool narrow = false;
    if (v.kind != E_PRIM || v.prim != P_mul || v.type != DT_f32) return false;
    for (int f = 0; f < 2; f++)
        narrow =
            narrow || (!expr_uses(k, v.arg[f], near) && expr_node(k, uncast(k, v.arg[f], DT_f32))->type == DT_bf16);
    return narrow;
}

static void space_in_lanes(Tuner *u, Compute *c, const Accesses *a, int lane)
{
    Kernel *k = u->k;
    Order o, loops = {0};
    int64_t tile = 1;
    space_order(u, c, &o);
    if (tune_window(u, c, a, &o, lane)) return;
    int near = neighbours(u, c, a, &o, lane, &tile),
        narrow = extent(k, lane) == 8 || extent(k, lane) == 4 ? (int)extent(k, lane) : LANES;
    int strip = near && narrow == LANES ? strip_vectors(u, c, a, &o, near, lane, extent(k, near)) : 0;
    int row = near ? schedule_split(k, near, (int[]){(int)tile}, 1) : 0, part[3] = {0};
    int first = strip > 1 ? schedule_split(k, lane, (int[]){strip, LANES}, 2) : schedule_split(k, lane, &narrow, 1);
    part[0] = first, part[1] = strip > 1 ? first + 1 : 0, part[2] = first + (strip > 1 ? 2 : 1);
    if (near) mark(k, LOOP_UNROLL, row + 1);
    mark(k, LOOP_VECTOR, part[2]);
    bool keeps = near && has_narrow_weights(u, c, near);
    for (int i = 0; i < o.n; i++) {
        if (strip && o.axis[i] != lane && slides_along(u, c, a, o.axis[i])) put(&loops, part[0]);
        if (o.axis[i] == near && keeps) continue;
        put(&loops, o.axis[i] == near ? row : o.axis[i] == lane ? part[0] : o.axis[i]);
    }
    put(&loops, part[1]);
    int whole = keeps ? whole_rows(u, &loops) : 0;
    if (keeps) put(&loops, row);
    int outer = whole ? whole : loops.n,
        apart = !near && is_run(u, c) ? schedule_split(k, c->reduce[0], (int[]){TAPS}, 1) : 0;
    int block = is_float_window(k, c) ? schedule_split(k, flatten_window(k, c), (int[]){TAPS}, 1) : 0;
    if (block) put(&loops, block), put(&loops, block + 1);
    if (apart) put(&loops, apart), put(&loops, apart + 1);
    for (int i = 0; i < c->reduces && !block && !apart; i++) put(&loops, c->reduce[i]);
    if (near) put(&loops, row + 1);
    put(&loops, part[2]);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    if (apart)
        mark(k, LOOP_UNROLL, apart + 1), step(k, STEP_PARTIAL, LOOP_SERIAL, (int[]){apart + 1}, 1,
                                              NULL); /* four chains: additions wait for each other */
    else if (block) {
        if (!u->small) mark(k, LOOP_UNROLL, block + 1), mark(k, LOOP_UNROLL, block);
        step(k, STEP_PARTIAL, LOOP_SERIAL, &block, 1, NULL);
    }
    else unroll_windows(u, c);
    parallelise(u, c, &loops, outer);
}

static void tune_reduction(Tuner *u, Compute *c)
{
    Kernel *k = u->k;
    Accesses all = accesses_of(u, c, false), loads = accesses_of(u, c, true);
    Order o;
    int space_cost, reduce_cost;
    space_order(u, c, &o);
    if (is_scattered(k, c)) return;
    int space = all.odd ? 0 : best_lanes(u, &all, o.axis, o.n, &space_cost);
    int reduce = all.odd ? 0 : best_lanes(u, &loads, c->reduce, c->reduces, &reduce_cost);
    /* What is read and written once a result counts for neither: with the sum in lanes, that is done one by one. */
    if (space) space_cost = price(u, &loads, space, stores_run(u, &all, space));
    if (space && (!reduce || space_cost <= reduce_cost + 16)) space_in_lanes(u, c, &all, space);
    else if (reduce) reduce_in_lanes(u, c, reduce);
    else {
        Order loops = o;
        for (int i = 0; i < c->reduces; i++) put(&loops, c->reduce[i]);
        step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
        parallelise(u, c, &o, o.n);
    }
}

/* ---- contractions ---- */
/* Codes in blocks are unpacked for tiles, and what these sum is added by vectors, block by block: for few rows vectors do all of it in less time. */
static bool suits_coded_tiles(Tuner *u, const Contraction *r)
{
    enum { LEAST_TERMS = 16, MOST_TERMS = 1024, LEAST_CODED = 16 }; /* of a block; rows */
    int64_t rows = extent(u->k, r->row);
    bool many = !u->inside[r->row] && (rows < 0 || rows >= LEAST_CODED);
    return many && r->terms >= LEAST_TERMS && r->terms <= MOST_TERMS;
}

/* Left rows with a constant step between them and words beside each other, panels of 16 rows of words: what tiles load. They pay from so many
 * terms of a sum on: vectors sum four bytes with one instruction, but take two bf16 apart and multiply them one by one. */
enum { LEAST_BYTES = 64, LEAST_PAIRED = 8, LEAST_ROWS = 4 };
static bool suits_tiles(Tuner *u, const Compute *c, const Contraction *r, int word)
{
    Kernel *k = u->k;
    ExprNode left = *expr_node(k, r->left);
    int inner = c->reduce[c->reduces - 1];
    int64_t depth = extent(k, inner), rows = extent(k, r->row);
    bool has = word == 4 ? u->t->dot == DOT_AMX : word == 2 && u->t->pair == PAIR_AMX;
    if (r->scale) return has && suits_coded_tiles(u, r);
    if (!has || left.kind != E_LOAD || depth < SMALL || (rows >= 0 && rows < LEAST_ROWS)) return false;
    for (int i = 0; i < c->reduces - 1; i++) depth *= about(k, c->reduce[i]);
    if (depth < (word == 4 ? LEAST_BYTES : LEAST_PAIRED)) return false;
    Expr at = buf_address(k, (int)left.id, left.arg), by = expr_step(k, at, inner);
    return expr_step(k, at, r->row) && by && expr_is(k, by, 1);
}

static void add_row(Tuner *u, Compute *c, Contraction *r) /* a vector times a matrix is one row */
{
    Kernel *k = u->k;
    if (r->row || c->rank == MAX_RANK) return;
    r->row = kernel_axis(k, NULL, expr_index(k, 1));
    c->space[c->rank++] = r->row;
}

/* Is `right` contiguous along the lanes once the lane axis is split? */
static bool lanes_adjacent(Tuner *u, Expr right, int lane, int first, int by)
{
    Kernel *k = u->k;
    LoadList l = {0};
    Expr *map = NEW_ARRAY(u->mem, Expr, k->axis.n);
    map[lane] =
        expr_add(k, expr_mul(k, expr_axis(k, first), expr_index(k, (int64_t)by * LANES)),
                 expr_add(k, expr_mul(k, expr_axis(k, first + 1), expr_index(k, LANES)), expr_axis(k, first + 2)));
    loads_of(k, u->mem, expr_map(k, right, map), &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        ExprNode n = *expr_node(k, l.at.at[i]);
        Expr s = expr_step(k, buf_address(k, (int)n.id, n.arg), first + 2);
        if (!s || expr_constant(k, s, 1000) > 4) return false;
    }
    return true;
}

static int64_t bytes_of(Kernel *k, Expr factor) /* in memory; -1: unknown */
{
    ExprNode n = *expr_node(k, factor);
    int64_t elements = n.kind == E_LOAD ? expr_constant(k, buf_elements(k, (int)n.id), -1) : -1;
    return elements < 0 ? -1 : elements * dtypes[n.type].bytes;
}

static int64_t pitch_of(Kernel *k, Expr factor, int row) /* bytes between rows; 0: unknown */
{
    ExprNode n = *expr_node(k, factor);
    Expr by = n.kind == E_LOAD ? expr_step(k, buf_address(k, (int)n.id, n.arg), row) : 0;
    return by ? expr_constant(k, by, 0) * dtypes[n.type].bytes : 0;
}

static Product product_of(Kernel *k, const Compute *c, const Contraction *r,
                          int together) /* summed by one instruction */
{
    int64_t n = extent(k, r->lane), most;
    Product p = {
        .rows = extent(k, r->row), .panels = n < 0 ? -1 : (n + LANES - 1) / LANES, .steps = 1, .times = 1, .lines = 1};
    for (int i = 0; i < c->reduces; i++) p.steps *= about(k, c->reduce[i]);
    p.once = true;
    for (int i = 0; i + 1 < c->reduces; i++) p.once = p.once && extent(k, c->reduce[i]) == 1;
    p.steps = (p.steps + together - 1) / together;
    for (int i = 0; i < c->rank; i++)
        if (c->space[i] != r->row && !expr_uses(k, r->right, c->space[i])) p.times *= about(k, c->space[i]);
    p.unit = 1;
    for (int64_t i = 2; i <= MOST_ROWS && p.rows < 0; i++)
        if (divides(k, r->row, p.unit * i)) p.unit *= i--;
    expr_range(k, k->axis.at[r->row].extent, &p.least, &most);
    p.image = bytes_of(k, r->left), p.pitch = pitch_of(k, r->left, r->row);
    p.left = together * dtypes[expr_node(k, r->left)->type].bytes;
    p.right = LANES * together * dtypes[expr_node(k, r->right)->type].bytes;
    p.result = dtypes[k->buf.at[c->out].type].bytes;
    return p;
}

static TileStep tile_step(Tuner *u, const Contraction *r, int word)
{
    DType left = (DType)expr_node(u->k, r->left)->type, right = sum_type(u->k, r);
    if (word && target_sums_words(u->t, left, right)) return TILE_FUSED;
    if (word) return r->few_bits && target_pairs_bytes(u->t) ? TILE_APART : TILE_HALVES;
    return r->acc == DT_f32 && u->t->fma ? TILE_FUSED : TILE_APART;
}

/* Few columns: the terms of every sum are in lanes. All columns of a few rows at a time have in common what they read. */
static bool tune_sums(Tuner *u, Compute *c, const Contraction *r)
{
    enum { SUMS = 12, MOST = 6 }; /* vectors of sums; rows */
    Kernel *k = u->k;
    Order o, loops = {0};
    int inner = c->reduce[c->reduces - 1], lanes = LANES;
    bool runs = runs_along(u, r->left, inner) && runs_along(u, r->right, inner) && extent(k, inner) >= LEAST_RUN;
    int64_t columns = extent(k, r->lane);
    if (!runs || !r->row || u->inside[r->row] || extent(k, r->row) == 1 || u->columns[r->lane] || columns < 1)
        return false;
    int most = SUMS * u->t->lanes / LANES / (int)columns, tile = most < 1 ? 1 : most > MOST ? MOST : most;
    space_order(u, c, &o);
    int row = schedule_split(k, r->row, &tile, 1), terms = schedule_split(k, inner, &lanes, 1);
    for (int i = 0; i < o.n; i++)
        if (o.axis[i] != r->row && o.axis[i] != r->lane) put(&loops, o.axis[i]);
    put(&loops, row);
    int outer = loops.n;
    for (int i = 0; i + 1 < c->reduces; i++) put(&loops, c->reduce[i]);
    put(&loops, terms), put(&loops, row + 1), put(&loops, r->lane), put(&loops, terms + 1);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    mark(k, LOOP_UNROLL, row + 1), mark(k, LOOP_UNROLL, r->lane), mark(k, LOOP_VECTOR, terms + 1);
    step(k, STEP_PARTIAL, LOOP_SERIAL, (int[]){terms + 1}, 1, NULL);
    parallelise(u, c, &loops, outer);
    return true;
}

/* Whole tiles and the rest of them are one piece of code: rows are tested in all, and are few enough to be tested at once. */
static int one_form(Tuner *u, int axis, int rows)
{
    enum { MOST_TESTED = 8 };
    step(u->k, STEP_GUARD, LOOP_SERIAL, &axis, 1, NULL);
    return rows > MOST_TESTED ? MOST_TESTED : rows;
}

/* May there be one row alone, and one of all else beside the columns? A vector times a matrix should not take the time of several. */
static bool may_be_vector(Tuner *u, const Compute *c, const Contraction *r)
{
    for (int i = 0; i < c->rank; i++)
        if (c->space[i] != r->row && c->space[i] != r->lane && extent(u->k, c->space[i]) > 1) return false;
    return extent(u->k, r->row) < 0;
}

/* The axis around the rows whose values are lines of the same rows: a tile may have the rows of several. 0: there is none. */
static int line_axis(Tuner *u, const Contraction *r, const Order *o)
{
    Kernel *k = u->k;
    ExprNode left = *expr_node(k, r->left);
    for (int i = o->n; i--;) {
        int a = o->axis[i];
        if (a == r->row || a == r->lane || expr_uses(k, r->right, a)) continue;
        bool known = extent(k, a) > 1 && extent(k, r->row) > 0 && !k->axis.at[a].parent && !u->outer[a];
        return known && expr_step(k, buf_address(k, (int)left.id, left.arg), a) ? a : 0;
    }
    return 0;
}

/* Columns that lie apart, terms side by side: a panel of columns and one row after the other, their terms in lanes. */
static bool tune_dots(Tuner *u, Compute *c, Contraction r)
{
    Kernel *k = u->k;
    int rows = r.row, block = rows ? u->inside[rows] : 0;
    Order o, loops = {0};
    if (c->scan || u->columns[r.lane]) return false;
    space_order(u, c, &o);
    r.row = 0, add_row(u, c, &r);
    if (!r.row) return false;
    int lane = schedule_split(k, r.lane, (int[]){1, LANES}, 2), row = schedule_split(k, r.row, (int[]){1}, 1);
    for (int i = 0; i < o.n; i++)
        if (o.axis[i] != rows && o.axis[i] != r.lane && o.axis[i] != block) put(&loops, o.axis[i]);
    put(&loops, row), put(&loops, lane);
    if (rows) put(&loops, block ? block : rows);
    int outer = loops.n;
    put(&loops, c->reduce[0]), put(&loops, row + 1), put(&loops, lane + 1), put(&loops, lane + 2);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    mark(k, LOOP_UNROLL, row + 1), mark(k, LOOP_UNROLL, lane + 1), mark(k, LOOP_VECTOR, lane + 2);
    step(k, STEP_CALL, LOOP_SERIAL, c->reduce, 1, "contract");
    parallelise(u, c, &loops, outer);
    return true;
}

static bool tune_contraction(Tuner *u, Compute *c, Contraction r)
{
    Kernel *k = u->k;
    if (r.row && u->outer[r.row] && (c->scan || panel_word(k, &r, c->reduce[c->reduces - 1])))
        r.row = 0; /* a step's rows, one by one */
    if (u->outer[r.lane] || (r.row && u->outer[r.row]) || is_scattered(k, c)) return false;
    if (!fills_panels(k, c, &r, panel_word(k, &r, c->reduce[c->reduces - 1]))) return tune_sums(u, c, &r);
    if (has_terms_beside(k, c, &r)) return tune_dots(u, c, r);
    uint32_t steps = k->schedule.step.n, axes = k->axis.n;
    int rank = c->rank;
    add_row(u, c, &r);
    if (!r.row) return false;
    int inner = c->reduce[c->reduces - 1];
    int word = panel_word(k, &r, inner);
    bool tiles = suits_tiles(u, c, &r, word);
    int block = u->inside[r.row];
    Product p = product_of(k, c, &r, word ? word : 1);
    p.tile = block ? extent(k, block) : 0, p.how = tile_step(u, &r, word), p.codes = r.scale != 0;
    Order o, loops = {0};
    space_order(u, c, &o);
    int line = tiles && !block && !r.scale ? line_axis(u, &r, &o) : 0;
    if (line) {
        Expr at = buf_address(k, (int)expr_node(k, r.left)->id, expr_node(k, r.left)->arg);
        p.lines = extent(k, line), p.apart = rows_apart(k, at, line, r.row);
    }
    Blocking s = tiles && !block ? blocking_tiles(&p) : blocking_vectors(&p, u->t);
    int columns = u->columns[r.lane];
    if (columns) s.cols = (int)extent(k, columns + 1);
    int panel_block = s.panels_first || columns ? 0 : s.block, row_block = s.panels_first ? s.block : 0;
    const int across[3] = {panel_block, s.cols, LANES}, down[2] = {row_block, s.rows};
    int group = columns ? columns : schedule_split(k, r.lane, panel_block ? across : across + 1, panel_block ? 3 : 2);
    int lane = panel_block ? group + 1 : group;
    if (!lanes_adjacent(u, r.right, r.lane, lane, s.cols)) { /* undo: other loops will do better */
        k->schedule.step.n = steps, k->axis.at[r.lane].parts = k->axis.at[r.lane].part = 0;
        k->axis.n = axes, c->rank = rank;
        return false;
    }
    if (u->small && !block && !tiles && !may_be_vector(u, c, &r)) s.rows = one_form(u, r.row, s.rows);
    if (u->small && u->t->lanes == LANES && !columns && !tiles) step(k, STEP_GUARD, LOOP_SERIAL, &r.lane, 1, NULL);
    int row = block ? block - 1 : schedule_split(k, r.row, row_block ? down : down + 1, row_block ? 2 : 1);
    int lines = s.lines > 1 ? schedule_split(k, line, &s.lines, 1) : 0;
    int words = word ? schedule_split(k, inner, &word, 1) : 0;
    bool batch[MAX_STEP];
    for (int i = 0; i < o.n; i++) batch[i] = expr_uses(k, r.left, o.axis[i]) && expr_uses(k, r.right, o.axis[i]);
    for (int i = 0; i < o.n; i++)
        if (batch[i] && o.axis[i] != r.row && o.axis[i] != r.lane) put(&loops, o.axis[i]);
    if (row_block) put(&loops, row++);
    if ((s.panels_first || panel_block) && !columns) put(&loops, group);
    for (int i = 0; i < o.n; i++)
        if (!batch[i] && o.axis[i] != r.row && o.axis[i] != r.lane && o.axis[i] != block)
            put(&loops, lines && o.axis[i] == line ? lines : o.axis[i]);
    if (!block) put(&loops, row);
    if (!columns) put(&loops, lane);
    int outer = loops.n;
    for (int i = 0; i < c->reduces; i++) put(&loops, words && c->reduce[i] == inner ? words : c->reduce[i]);
    if (words) put(&loops, words + 1);
    if (lines) put(&loops, lines + 1), mark(k, LOOP_UNROLL, lines + 1);
    put(&loops, row + 1), put(&loops, lane + 1), put(&loops, lane + 2);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
    if (!block) mark(k, LOOP_UNROLL, row + 1); /* the rows of a block are the loop of other stages too */
    mark(k, LOOP_UNROLL, lane + 1), mark(k, LOOP_VECTOR, lane + 2);
    step(k, STEP_CALL, LOOP_SERIAL, c->reduce, 1, tiles ? "tiles" : "contract");
    parallelise(u, c, &loops, outer);
    return true;
}

/* ---- GPU: one result a thread, neighbours of the contiguous axis in one block ---- */
static void tune_threads(Tuner *u, const Compute *c)
{
    Kernel *k = u->k;
    Accesses a = accesses_of(u, c, false);
    Order o, loops = {0};
    int cost, other = 0;
    if (is_scattered(k, c) || c->scan) return;
    space_order(u, c, &o);
    int lane = best_lanes(u, &a, o.axis, o.n, &cost);
    if (!lane && o.n) lane = o.axis[o.n - 1];
    if (!lane) return;
    for (int i = 0; i < o.n; i++)
        if (o.axis[i] != lane && (!other || about(k, o.axis[i]) > about(k, other))) other = o.axis[i];
    int block = schedule_split(k, lane, (int[]){BLOCK}, 1);
    mark(k, LOOP_BLOCK_X, block), mark(k, LOOP_THREAD_X, block + 1);
    if (other) mark(k, LOOP_BLOCK_Y, other);
    put(&loops, other), put(&loops, block), put(&loops, block + 1);
    for (int i = 0; i < o.n; i++)
        if (o.axis[i] != lane) put(&loops, o.axis[i]);
    step(k, STEP_ORDER, LOOP_SERIAL, loops.axis, loops.n, NULL);
}

/* ---- stages and kernels ---- */
static void tune_stage(Tuner *u, Compute *c)
{
    Contraction r;
    if (!c->how) tune_map(u, c);
    else if (!contraction_of(u->k, c, &r) || !tune_contraction(u, c, r)) tune_reduction(u, c);
}

/* Axes that stages have in common but do not share are told apart. */
static void separate(Tuner *u)
{
    Kernel *k = u->k;
    bool *seen = NEW_ARRAY(u->mem, bool, k->axis.n);
    uint32_t axes = k->axis.n;
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Compute *s = &k->stage.at[i];
        for (int d = 0; d < s->rank + s->reduces; d++) {
            int a = d < s->rank ? s->space[d] : s->reduce[d - s->rank];
            if (a >= (int)axes || u->outer[a] || u->inside[a] || u->columns[a]) continue;
            if (seen[a]) stage_rename(k, s, a, kernel_axis(k, NULL, k->axis.at[a].extent));
            else seen[a] = true;
        }
    }
}

/* Where the stages are products over the same rows, the loop they share runs over blocks of these: what a block needs of a temporary
 * stays in the cache. Yields the first part of the axis, or the axis. */
static int share_blocks(Tuner *u, int axis)
{
    enum { SCAN_ROWS = 4 };
    Kernel *k = u->k;
    TileStep how = TILE_FUSED; /* what needs most: the rows are those of all */
    Contraction r, first = {0};
    uint32_t at = 0;
    for (uint32_t i = k->stage.n; i-- > 0;) {
        const Compute *c = &k->stage.at[i];
        if (!contraction_of(k, c, &r) || r.row != axis) continue;
        TileStep one = tile_step(u, &r, panel_word(k, &r, c->reduce[c->reduces - 1]));
        first = r, at = i, how = one > how ? one : how;
    }
    if (!first.row) return axis;
    Product p = product_of(k, &k->stage.at[at], &first, 1);
    p.tile = -1, p.how = how;
    Blocking s = blocking_vectors(&p, u->t);
    bool scan = k->stage.at[0].scan, batch = scan && extent(k, axis) < 0; /* of which there may be one */
    int rows = scan && s.rows > SCAN_ROWS ? SCAN_ROWS : s.rows;
    if (u->small && !batch) rows = one_form(u, axis, s.rows);
    int part = schedule_split(k, axis, &rows, 1);
    return u->inside[axis] = part + 1, part;
}

/* Where a stage makes the right factor of the product beside it, the loop they share runs over blocks of columns: what is made of a block
 * stays in the cache while all rows are multiplied with it. Yields the first part of the axis; 0: there is no such product. */
static int share_columns(Tuner *u, int axis)
{
    enum { BLOCK_ELEMENTS = 1 << 16 };
    Kernel *k = u->k;
    Contraction r;
    uint32_t at = 0;
    while (at < k->stage.n && !(contraction_of(k, &k->stage.at[at], &r) && r.lane == axis)) at++;
    if (at == k->stage.n || expr_node(k, r.right)->kind != E_LOAD) return 0;
    int factor = (int)expr_node(k, r.right)->id;
    bool made = false;
    for (uint32_t i = 0; i < at; i++) made = made || k->stage.at[i].out == factor;
    if (!made || k->buf.at[factor].kind != BUF_TMP) return 0;
    Product p = product_of(k, &k->stage.at[at], &r, 1);
    p.how = tile_step(u, &r, 0);
    int64_t most = BLOCK_ELEMENTS / (p.steps * LANES);
    Blocking s = blocking_vectors(&p, u->t);
    int cols = s.cols > most ? (int)(most < 1 ? 1 : most) : s.cols;
    int part = schedule_split(k, axis, (int[]){cols, LANES}, 2);
    mark(k, LOOP_UNROLL, part + 1), mark(k, LOOP_VECTOR, part + 2);
    return u->columns[axis] = part;
}

/* The loops around all stages. The axis that suits lanes stays inside: a shared loop has none. */
static void share(Tuner *u)
{
    Kernel *k = u->k;
    int axis[MAX_RANK], n = share_axes(k, 0, k->stage.n, axis), scan = k->stage.at[0].scan;
    Order o = {0};
    for (int i = 0; i < n; i++) {
        bool lanes = false;
        for (uint32_t s = 0; s < k->stage.n; s++) {
            const Compute *c = &k->stage.at[s];
            Expr by = expr_step(k, buf_address(k, c->out, c->at), axis[i]);
            int64_t e = extent(k, axis[i]);
            int64_t apart = by ? expr_constant(k, by, 0) : 0; /* more than 1: room for a few channels between lanes */
            lanes = lanes || (apart >= 1 && apart <= MOST_WOVEN && (e < 0 || e >= LANES) && c->rank > 1 &&
                              k->buf.at[c->out].kind != BUF_TMP);
        }
        bool only = n == 1 && !scan;
        int columns = scan ? 0 : share_columns(u, axis[i]);
        if (columns) {
            put(&o, columns);
            continue;
        }
        if (axis[i] != scan && (!lanes || (only && k->stage.at[0].reduces))) put(&o, share_blocks(u, axis[i]));
    }
    for (int i = 0; i < o.n; i++) u->outer[o.axis[i]] = true;
    if (scan) u->outer[scan] = true;
    step(k, STEP_SHARE, LOOP_SERIAL, o.axis, o.n, NULL);
    parallelise(u, &k->stage.at[0], &o, o.n);
}

static void forget(Kernel *k) /* a former schedule and the parts it made */
{
    uint32_t axes = k->axis.n;
    while (axes > 1 && k->axis.at[axes - 1].parent) axes--;
    k->axis.at = arena_copy(k->mem, k->axis.at, sizeof *k->axis.at * axes), k->axis.n = k->axis.cap = axes;
    for (uint32_t i = 0; i < axes; i++) k->axis.at[i].part = k->axis.at[i].parts = 0;
    k->stage.at = arena_copy(k->mem, k->stage.at, sizeof *k->stage.at * k->stage.n), k->stage.cap = k->stage.n;
    k->schedule = (Schedule){0};
}

static int question_axis(Kernel *k, int64_t size) /* no loop: goes with the parts when the kernel is tuned again */
{
    int a = kernel_axis(k, NULL, expr_index(k, size));
    return k->axis.at[a].parent = a;
}

void tune(Kernel *k, const Target *t, bool small)
{
    Arena scratch = {0};
    forget(k);
    Tuner u = {.k = k, .t = t, .mem = &scratch, .parallel = true, .small = small};
    u.outer = NEW_ARRAY(&scratch, bool, k->axis.n + 256 + 32 * k->stage.n);
    u.inside = NEW_ARRAY(&scratch, int, k->axis.n + 256 + 32 * k->stage.n);
    u.columns = NEW_ARRAY(&scratch, int, k->axis.n + 256 + 32 * k->stage.n);
    u.group = question_axis(k, (int64_t)1 << 24), u.lane = question_axis(k, LANES);
    if (t->gpu) { /* stages that must wait for each other run in one thread */
        if (k->stage.n == 1) tune_threads(&u, &k->stage.at[0]);
        arena_drop(&scratch);
        return;
    }
    if (k->stage.n > 1 || (k->stage.n && k->stage.at[0].scan)) {
        share(&u);
        separate(&u);
        u.parallel = false;
    }
    for (uint32_t i = 0; i < k->stage.n; i++) tune_stage(&u, &k->stage.at[i]);
    arena_drop(&scratch);
}
