/* window.c - the `window` call: a window passes over an image channel by channel, and a few neighbours are summed in registers.
 *
 * Both factors are bf16 and their channels lie side by side, so no word of them holds two terms of one sum. Taken from two rows of the
 * window and dealt into each other they do, and the instruction that sums the products of two bf16 sums two taps of every channel at
 * once. An odd row has zeros beside it, in both factors.
 *
 * Products are made in the order of the image's places: one that several neighbours read is loaded and dealt once, and their sums do
 * not wait for each other. Where only the call knows how many neighbours there are, the last ones go in blocks of few, then one by one. */
#include "codegen/llvm/internal.h"
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

static bool match(Window *w)
{
    const Tile *t = w->t;
    Kernel *k = w->x->k;
    int lanes;
    if (strcmp(w->s->name, "window") || !target_sums_words(w->x->target, DT_bf16, DT_bf16)) return false;
    if (t->acc != DT_f32 || t->depths < 2 || t->depths > 3 || t->depth[t->depths - 1] != t->dot) return false;
    if (!extent_of(k, t->row, MAX_ROWS, &w->rows) || !extent_of(k, t->lane, LANES, &lanes) || lanes != LANES)
        return false;
    w->pair = t->depth[0], w->tap = t->depths == 3 ? t->depth[1] : 0, w->taps = 1;
    const Axis *pair = &k->axis.at[w->pair];
    if (!pair->parent || k->axis.at[t->dot].parent != pair->parent || k->axis.at[pair->parent].parts != 2) return false;
    if (!expr_is_index(k, k->axis.at[pair->parent].extent, &w->height) || w->height > 2 * MAX_TAPS) return false;
    if (w->tap && !extent_of(k, w->tap, MAX_TAPS, &w->taps)) return false;
    w->pairs = (int)(w->height + 1) / 2;
    w->left = expr_expand(k, t->left), w->right = expr_expand(k, t->right);
    if (!runs_in_lanes(w, w->left) || !runs_in_lanes(w, w->right)) return false;
    w->known = place_step(k, w->left, t->row, &w->row_step) && (!w->tap || place_step(k, w->left, w->tap, &w->tap_step));
    return true;
}

/* ---- one pair of taps ---- */
static V channels(Window *w, Expr load, int64_t second)
{
    Emit *x = w->x;
    x->var[w->t->dot] = int64(x, second);
    x->lane = w->t->lane, x->lanes = LANES, x->mask = w->mask, x->var[w->t->lane] = int64(x, 0);
    V v = emit_fresh(x, load);
    x->lane = 0, x->mask = NULL;
    return v;
}

/* Both rows of pair p: one word a channel. */
static V words(Window *w, Expr load, int p)
{
    Emit *x = w->x;
    V index[2 * LANES], first = channels(w, load, 0), both;
    for (unsigned i = 0; i < 2 * LANES; i++) index[i] = LLVMConstInt(x->i32, i / 2 + i % 2 * LANES, 0);
    if (2 * p + 1 < w->height)
        both = LLVMBuildShuffleVector(x->b, first, channels(w, load, 1), LLVMConstVector(index, 2 * LANES), "");
    else both = LLVMBuildZExt(x->b, first, LLVMVectorType(x->i32, LANES), "");
    return LLVMBuildBitCast(x->b, both, LLVMVectorType(LLVMBFloatTypeInContext(x->c), 2 * LANES), "");
}

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

/* ---- the block ---- */
static void store_row(Window *w, int i)
{
    Emit *x = w->x;
    const Tile *t = w->t;
    x->var[t->row] = w->row[i], x->var[t->lane] = int64(x, 0);
    x->lane = t->lane, x->lanes = LANES, x->mask = w->mask, x->it = w->acc[i];
    emit_store(x, w->s->buf, w->s->at, emit_fresh(x, t->epilogue));
    x->it = NULL, x->mask = NULL, x->lane = 0;
}

static void block(Window *w, V first, int rows)
{
    Emit *x = w->x;
    Tap order[MAX_ROWS * MAX_TAPS];
    int n = 0;
    w->rows = rows;
    for (int i = 0; i < rows; i++) {
        w->row[i] = LLVMBuildAdd(x->b, first, int64(x, i), "");
        w->acc[i] = LLVMConstNull(LLVMVectorType(x->f32, LANES));
        for (int j = 0; j < w->taps; j++) order[n++] = (Tap){i, j, w->known ? w->row_step * i + w->tap_step * j : 0};
    }
    qsort(order, (size_t)n, sizeof *order, by_place);
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
    if (!match(w)) return false;
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
