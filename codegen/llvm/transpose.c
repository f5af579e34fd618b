/* transpose.c - a tile that turns: 16 x 16 elements computed along one axis and stored along another.
 *
 * Comes in: a loop of 16 over an axis along which loads are contiguous, around 16 lanes of the axis along which the store is. Said
 * lane by lane that is a gather for every vector. Goes out: the 16 vectors with the lanes along the first axis, turned in registers (a row
 * becomes a lane), and 16 plain stores, or fewer longer ones where a few values of the loop lie side by side (words of a panel). Any other statement is left alone. */
#include "codegen/analyse.h"
#include "codegen/llvm/internal.h"

enum { SIDE = 16, QUARTER = 4 };

static V shuffle(Emit *x, V a, V b, const unsigned *lane)
{
    V index[SIDE];
    for (unsigned i = 0; i < SIDE; i++) index[i] = LLVMConstInt(x->i32, lane[i], 0);
    return LLVMBuildShuffleVector(x->b, a, b, LLVMConstVector(index, SIDE), "");
}

/* Elements of a and b in turn, `n` at a time, within each quarter: its lower or its upper half. */
static V unpack(Emit *x, V a, V b, unsigned n, bool high)
{
    unsigned lane[SIDE];
    for (unsigned i = 0; i < SIDE; i++) {
        unsigned quarter = i / QUARTER * QUARTER, at = i % QUARTER, from = at / n % 2;
        lane[i] = quarter + (at / (2 * n)) * n + at % n + (high ? QUARTER / 2 : 0) + (from ? SIDE : 0);
    }
    return shuffle(x, a, b, lane);
}

/* The even or odd quarters of a, then of b. */
static V quarters(Emit *x, V a, V b, bool odd)
{
    unsigned lane[SIDE];
    for (unsigned i = 0; i < SIDE; i++) {
        unsigned quarter = i / QUARTER % 2 * 2 + odd;
        lane[i] = quarter * QUARTER + i % QUARTER + (i >= SIDE / 2 ? SIDE : 0);
    }
    return shuffle(x, a, b, lane);
}

/* Words: two rounds within quarters of a register, two that move whole quarters. */
static void turn_words(Emit *x, V *row)
{
    V pair[SIDE], four[SIDE];
    for (unsigned i = 0; i < SIDE; i += 2)
        pair[i] = unpack(x, row[i], row[i + 1], 1, false), pair[i + 1] = unpack(x, row[i], row[i + 1], 1, true);
    for (unsigned i = 0; i < SIDE; i += QUARTER)
        for (unsigned c = 0; c < QUARTER; c++) four[i + c] = unpack(x, pair[i + c / 2], pair[i + c / 2 + 2], 2, c % 2);
    for (unsigned c = 0; c < QUARTER; c++)
        for (unsigned odd = 0; odd < 2; odd++) {
            V low = quarters(x, four[c], four[c + 4], odd), high = quarters(x, four[c + 8], four[c + 12], odd);
            for (unsigned late = 0; late < 2; late++)
                row[(late * 2 + odd) * QUARTER + c] = quarters(x, low, high, late);
        }
}

/* Other widths: four rounds that deal two rows into each other. */
static void turn_any(Emit *x, V *row)
{
    for (int round = 0; round < 4; round++) {
        V next[SIDE];
        for (unsigned i = 0; i < SIDE; i++) {
            unsigned lane[SIDE];
            for (unsigned l = 0; l < SIDE; l++) lane[l] = i % 2 * SIDE / 2 + l / 2 + (l % 2 ? SIDE : 0);
            next[i] = shuffle(x, row[i / 2], row[i / 2 + SIDE / 2], lane);
        }
        memcpy(row, next, sizeof next);
    }
}

/* ---- is it one? ---- */
typedef struct Turn {
    Kernel *k;
    int along, lane; /* loads should be contiguous along the first, and are not along the second */
    bool any, no;
} Turn;

static bool note_load(void *ctx, Expr load)
{
    Turn *t = ctx;
    ExprNode n = *expr_node(t->k, load);
    Expr at = buf_address(t->k, (int)n.id, n.arg), along = expr_step(t->k, at, t->along),
         lane = expr_step(t->k, at, t->lane);
    if (!along || !lane) return t->no = true, false;
    bool still = expr_is(t->k, along, 0), dense = expr_is(t->k, along, 1);
    t->any = t->any || (dense && !expr_is(t->k, lane, 0));
    t->no = t->no || (!still && !dense);
    return true;
}

/* How many values of the loop lie side by side for one lane: 1, or the words of a panel (2 or 4, the lanes so far apart). 0: neither. */
static int side_by_side(Kernel *k, const Stmt *store, int along, int lane)
{
    int64_t words, by;
    Expr at = buf_address(k, store->buf, store->at), step = expr_step(k, at, lane), first = 0;
    if (!step || !expr_is_index(k, step, &words) || (words != 1 && words != 2 && words != 4)) return 0;
    if (words == 1) return (step = expr_step(k, at, along)) && !expr_is(k, step, 1);
    Expr *map = NEW_ARRAY(k->mem, Expr, k->axis.n);
    for (int i = 0; i < SIDE; i++) {
        map[along] = expr_index(k, i);
        Expr here = expr_map(k, at, map);
        if (i % words == 0) first = here;
        if (!lin_differ(k, here, first, &by) || by != i % words) return 0;
    }
    return (int)words;
}

static bool sixteen(const Kernel *k, const Stmt *s)
{
    return s && s->kind == S_FOR && !s->next && expr_is(k, s->lo, 0) && expr_is(k, s->hi, SIDE);
}

static int is_turn(Emit *x, const Stmt *s) /* 0, or the words of its stores */
{
    Kernel *k = x->k;
    const Stmt *in = s->body, *store = in ? in->body : NULL;
    if (x->lane || x->mask || s->loop > LOOP_UNROLL || !expr_is(k, s->lo, 0) || !expr_is(k, s->hi, SIDE)) return false;
    if (!sixteen(k, in) || in->loop != LOOP_VECTOR || !store || store->kind != S_STORE || store->next) return false;
    if (k->buf.at[store->buf].type == DT_bool || k->buf.at[store->buf].kind == BUF_LOCAL) return false;
    int words = side_by_side(k, store, s->axis, in->axis);
    if (!words) return false;
    Turn t = {.k = k, .along = s->axis, .lane = in->axis};
    expr_loads(k, store->value, note_load, &t);
    return t.any && !t.no ? words : 0;
}

static void take_lanes(Emit *x, int axis)
{
    x->lane = x->lane_axis = axis, x->lanes = axis ? SIDE : 0, x->lane_first = 0;
    if (axis) x->var[axis] = int64(x, 0);
}

bool emit_turned(Emit *x, const Stmt *s)
{
    unsigned words = (unsigned)is_turn(x, s);
    if (!words) return false;
    const Stmt *store = s->body->body;
    int lane = s->body->axis;
    V row[SIDE];
    take_lanes(x, s->axis);
    for (unsigned i = 0; i < SIDE; i++) {
        x->var[lane] = int64(x, i);
        row[i] = splat(x, emit_fresh(x, store->value), SIDE);
    }
    if (dtypes[x->k->buf.at[store->buf].type].bytes == 4) turn_words(x, row);
    else turn_any(x, row);
    take_lanes(x, lane);
    for (unsigned i = 0; i < SIDE; i += words) {
        x->var[s->axis] = int64(x, i);
        forget_all(x);
        if (words == 1) emit_store(x, store->buf, store->at, row[i]);
        else store_run(x, store->buf, place_of(x, store->buf, store->at).at, woven(x, row + i, words), NULL);
    }
    take_lanes(x, 0);
    return true;
}
