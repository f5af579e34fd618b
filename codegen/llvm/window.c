/* window.c - the `window` and `pool` calls: a window passes over an image channel by channel, and the results of a few neighbours are made in
 * registers.
 *
 * `window` sums products. Both factors are bf16 and their channels lie side by side, so no word of them holds two terms of one sum. Taken from two rows of the
 * window and dealt into each other they do, and the instruction that sums the products of two bf16 sums two taps of every channel at
 * once. An odd row has zeros beside it, in both factors.
 *
 * `pool` adds or takes the largest. The column of the window over one place of the image is reduced once for all neighbours that see it.
 * The largest of all is found without regard to NaN, which is looked for beside it, in two values at once.
 *
 * What is done goes in the order of the image's places: one that several neighbours read is loaded once, and their results do not wait for
 * each other. Where only the call knows how many neighbours there are, the last ones go in blocks of few, then one by one. */
#include "codegen/analyse.h"
#include "codegen/llvm/internal.h"
#include <math.h>
#include <stdlib.h>

enum { LANES = 16, MAX_ROWS = 16, MAX_TAPS = 16, FEW_ROWS = 4 };

typedef struct Tap {
    int row, tap;
    int64_t place; /* in the image, beside the block's first */
} Tap;
typedef struct Window {
    Emit *x;
    const Stmt *s;
    const Tile *t;
    int rows, pairs, taps;      /* of this block; rows of the window by twos; taps of a row */
    int pair, tap;              /* the axes; tap 0: a window of one dimension */
    int64_t height;             /* rows of the window */
    int64_t row_step, tap_step; /* elements of the image */
    bool known;                 /* are they? */
    Expr left, right;
    V row[MAX_ROWS], acc[MAX_ROWS], mask;
    V nan[MAX_ROWS]; /* pool: lanes that have seen one; NULL: of sums */
} Window;

/* ---- can it be done? ---- */
static bool extent_of(const Kernel *k, int axis, int64_t most, int *n)
{
    int64_t v;
    if (!expr_is_index(k, k->axis.at[axis].extent, &v) || v < 1 || v > most) return false;
    *n = (int)v;
    return true;
}

static bool place_step(Kernel *k, Expr load, int axis, int64_t *by)
{
    ExprNode n = *expr_node(k, load);
    Expr step = expr_step(k, buf_address(k, (int)n.id, n.arg), axis);
    return step && expr_is_index(k, step, by);
}

static bool runs_in_lanes(const Window *w, Expr load)
{
    const ExprNode *n = expr_node(w->x->k, load);
    int64_t by;
    return n->kind == E_LOAD && n->type == DT_bf16 && place_step(w->x->k, load, w->t->lane, &by) && by == 1;
}

static bool steps_of(Window *w, Expr image)
{
    Kernel *k = w->x->k;
    if (!place_step(k, image, w->t->row, &w->row_step)) return false;
    return !w->tap || place_step(k, image, w->tap, &w->tap_step);
}

static bool match_tile(Window *w, const char *name)
{
    const Tile *t = w->t;
    int lanes;
    if (strcmp(w->s->name, name) || t->acc != DT_f32) return false;
    if (!extent_of(w->x->k, t->row, MAX_ROWS, &w->rows)) return false;
    return extent_of(w->x->k, t->lane, LANES, &lanes) && lanes == LANES;
}

static bool match_pool(Window *w)
{
    const Tile *t = w->t;
    Kernel *k = w->x->k;
    int height;
    if (!match_tile(w, "pool") || w->x->target->lanes != LANES || t->depths < 1 || t->depths > 2) return false;
    w->pair = t->depth[0], w->tap = t->depths == 2 ? t->depth[1] : 0, w->taps = 1;
    if (!extent_of(k, w->pair, 2 * MAX_TAPS, &height) || (w->tap && !extent_of(k, w->tap, MAX_TAPS, &w->taps)))
        return false;
    w->height = height, w->left = expr_expand(k, t->left);
    return w->known = steps_of(w, uncast(k, w->left, DT_f32));
}

static bool match_window(Window *w)
{
    const Tile *t = w->t;
    Kernel *k = w->x->k;
    if (!match_tile(w, "window") || !target_sums_words(w->x->target, DT_bf16, DT_bf16)) return false;
    if (t->depths < 2 || t->depths > 3 || t->depth[t->depths - 1] != t->dot) return false;
    w->pair = t->depth[0], w->tap = t->depths == 3 ? t->depth[1] : 0, w->taps = 1;
    const Axis *pair = &k->axis.at[w->pair];
    if (!pair->parent || k->axis.at[t->dot].parent != pair->parent || k->axis.at[pair->parent].parts != 2) return false;
    if (!expr_is_index(k, k->axis.at[pair->parent].extent, &w->height) || w->height > 2 * MAX_TAPS) return false;
    if (w->tap && !extent_of(k, w->tap, MAX_TAPS, &w->taps)) return false;
    w->pairs = (int)(w->height + 1) / 2;
    w->left = expr_expand(k, t->left), w->right = expr_expand(k, t->right);
    if (!runs_in_lanes(w, w->left) || !runs_in_lanes(w, w->right)) return false;
    w->known = steps_of(w, w->left);
    return true;
}

/* ---- one pair of taps ---- */
static V channels(Window *w, Expr load)
{
    Emit *x = w->x;
    x->lane = w->t->lane, x->lanes = LANES, x->mask = w->mask, x->var[w->t->lane] = int64(x, 0);
    V v = emit_fresh(x, load);
    x->lane = 0, x->mask = NULL;
    return v;
}

/* Both rows of pair p: one word a channel. */
static V words(Window *w, Expr load, int p)
{
    Emit *x = w->x;
    V index[2 * LANES], first, both;
    x->var[w->t->dot] = int64(x, 0), first = channels(w, load), x->var[w->t->dot] = int64(x, 1);
    for (unsigned i = 0; i < 2 * LANES; i++) index[i] = LLVMConstInt(x->i32, i / 2 + i % 2 * LANES, 0);
    if (2 * p + 1 < w->height)
        both = LLVMBuildShuffleVector(x->b, first, channels(w, load), LLVMConstVector(index, 2 * LANES), "");
    else both = LLVMBuildZExt(x->b, first, LLVMVectorType(x->i32, LANES), "");
    return LLVMBuildBitCast(x->b, both, LLVMVectorType(LLVMBFloatTypeInContext(x->c), 2 * LANES), "");
}

/* ---- one column of a pool ---- */
static V either(Emit *x, V a, V b) { return a ? LLVMBuildOr(x->b, a, b, "") : b; }

/* The largest as one instruction takes it: said by comparison and choice, values made of bits would become two. */
static V reduced(Emit *x, Prim how, V a, V b)
{
    if (!a) return b;
    if (how == P_add) return LLVMBuildFAdd(x->b, a, b, "");
    return intrinsic(x, "llvm.x86.avx512.max.ps.512", NULL, 0, (V[]){a, b, LLVMConstInt(x->i32, 4, 0)}, 3);
}

static V column(Window *w, V *nan)
{
    Emit *x = w->x;
    V all = NULL, last = NULL;
    *nan = NULL;
    for (int64_t i = 0; i < w->height; i++) {
        x->var[w->pair] = int64(x, i);
        V v = channels(w, w->left);
        bool look = w->s->how == P_max && (i % 2 || i + 1 == w->height);
        if (look) *nan = either(x, *nan, LLVMBuildFCmp(x->b, LLVMRealUNO, i % 2 ? last : v, v, ""));
        all = reduced(x, w->s->how, all, v), last = v;
    }
    return all;
}

static void store_row(Window *w, int i)
{
    Emit *x = w->x;
    const Tile *t = w->t;
    V none = real_of(LLVMTypeOf(w->acc[i]), NAN);
    if (w->nan[i]) w->acc[i] = LLVMBuildSelect(x->b, w->nan[i], none, w->acc[i], "");
    x->var[t->row] = w->row[i], x->var[t->lane] = int64(x, 0);
    x->lane = t->lane, x->lanes = LANES, x->mask = w->mask, x->it = w->acc[i];
    emit_store(x, w->s->buf, w->s->at, emit_fresh(x, t->epilogue));
    x->it = NULL, x->mask = NULL, x->lane = 0;
}

/* A result is stored as soon as it is complete: fewer wait in registers. */
static void pool(Window *w, const Tap *order)
{
    Emit *x = w->x;
    V all = NULL, nan = NULL;
    int seen[MAX_ROWS] = {0};
    for (int i = 0; i < w->rows * w->taps; i++) {
        const Tap *t = &order[i];
        x->var[w->t->row] = w->row[t->row];
        if (w->tap) x->var[w->tap] = int64(x, t->tap);
        if (!i || t->place != order[i - 1].place) all = column(w, &nan);
        w->acc[t->row] = reduced(x, w->s->how, w->acc[t->row], all);
        if (nan) w->nan[t->row] = either(x, w->nan[t->row], nan);
        if (++seen[t->row] == w->taps) store_row(w, t->row);
    }
}

/* ---- the block ---- */
static int by_place(const void *a, const void *b)
{
    const Tap *l = a, *r = b;
    if (l->place != r->place) return l->place < r->place ? -1 : 1;
    return l->row != r->row ? l->row - r->row : l->tap - r->tap;
}

static void sum_pair(Window *w, int p, const Tap *order)
{
    Emit *x = w->x;
    V weight[MAX_TAPS], image = NULL;
    x->var[w->pair] = int64(x, p);
    for (int i = 0; i < w->taps; i++) {
        if (w->tap) x->var[w->tap] = int64(x, i);
        weight[i] = words(w, w->right, p);
    }
    for (int i = 0; i < w->rows * w->taps; i++) {
        const Tap *t = &order[i];
        bool again = i && w->known && t->place == order[i - 1].place;
        x->var[w->t->row] = w->row[t->row];
        if (w->tap) x->var[w->tap] = int64(x, t->tap);
        if (!again) image = words(w, w->left, p);
        V arg[] = {w->acc[t->row], image, weight[t->tap]};
        w->acc[t->row] = intrinsic(x, "llvm.x86.avx512bf16.dpbf16ps.512", NULL, 0, arg, 3);
    }
}

static V beginning(Window *w)
{
    Emit *x = w->x;
    if (!w->right) return NULL;
    if (!w->t->start) return LLVMConstNull(LLVMVectorType(x->f32, LANES));
    return splat(x, channels(w, w->t->start), LANES);
}

static void block(Window *w, V first, int rows)
{
    Emit *x = w->x;
    V start = beginning(w);
    Tap order[MAX_ROWS * MAX_TAPS];
    int n = 0;
    w->rows = rows;
    for (int i = 0; i < rows; i++) {
        w->row[i] = LLVMBuildAdd(x->b, first, int64(x, i), "");
        w->acc[i] = start, w->nan[i] = NULL;
        for (int j = 0; j < w->taps; j++) order[n++] = (Tap){i, j, w->known ? w->row_step * i + w->tap_step * j : 0};
    }
    qsort(order, (size_t)n, sizeof *order, by_place);
    if (!w->right) {
        pool(w, order);
        return;
    }
    for (int p = 0; p < w->pairs; p++) sum_pair(w, p, order);
    for (int i = 0; i < rows; i++) store_row(w, i);
}

static V exists(Window *w, V row, int all)
{
    Emit *x = w->x;
    x->var[w->t->row] = row;
    V within = LLVMBuildICmp(x->b, LLVMIntSLT, row, int64(x, all), "");
    return LLVMBuildAnd(x->b, within, emit_scalar(x, w->t->row_guard), "");
}

static void one_by_one(Window *w, V first, int all)
{
    Emit *x = w->x;
    Loop l = loop_head(x, first, LLVMBuildAdd(x->b, first, int64(x, FEW_ROWS), ""));
    loop_body(x, &l);
    Branch b = branch_open(x, exists(w, l.i, all));
    block(w, l.i, 1);
    branch_close(x, b);
    loop_close(x, &l, 1);
}

static void guarded_blocks(Window *w)
{
    Emit *x = w->x;
    int all = w->rows;
    Loop l = loop_head(x, int64(x, 0), int64(x, (all + FEW_ROWS - 1) / FEW_ROWS * FEW_ROWS));
    loop_body(x, &l);
    V whole = exists(w, LLVMBuildAdd(x->b, l.i, int64(x, FEW_ROWS - 1), ""), all);
    Branch few = branch_open(x, whole);
    block(w, l.i, FEW_ROWS);
    branch_close(x, few);
    Branch rest = branch_open(x, LLVMBuildNot(x->b, whole, ""));
    one_by_one(w, l.i, all);
    branch_close(x, rest);
    loop_close(x, &l, FEW_ROWS);
}

bool window_sum(Emit *x, const Stmt *s)
{
    Window *w = NEW(x->mem, Window);
    w->x = x, w->s = s, w->t = &s->tile;
    assert(!x->lane);
    if (!match_window(w) && !match_pool(w)) return false;
    x->var[s->tile.lane] = int64(x, 0);
    if (s->tile.lane_guard) {
        x->lane = s->tile.lane, x->lanes = LANES;
        w->mask = splat(x, emit_fresh(x, s->tile.lane_guard), LANES);
        x->lane = 0;
    }
    if (s->tile.row_guard) guarded_blocks(w);
    else block(w, int64(x, 0), w->rows);
    x->lanes = 0;
    return true;
}
