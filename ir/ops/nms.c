/* nms.c - NonMaxSuppression: boxes in the order of their scores, each kept unless a better kept one overlaps it.
 *
 * It expands into TopK (the order), NmsKeep (which stay: a scan, since each decision needs the ones before it), NonZero (how many
 * that is, and where) and GatherND (back from places in the order to boxes). */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <assert.h>

static bool nms_input(Infer *c, uint32_t boxes, uint32_t scores)
{
    if (in_rank(c, boxes) != 3 || in_rank(c, scores) != 3)
        return infer_error(c, "boxes and scores have rank %d and %d, expected 3", in_rank(c, boxes),
                           in_rank(c, scores));
    return require_eq(c, in_dim(c, boxes, 0), in_dim(c, scores, 0), "one batch of boxes and scores") &&
           require_eq(c, in_dim(c, boxes, 1), in_dim(c, scores, 2), "a score for every box") &&
           require_eq(c, in_dim(c, boxes, 2), DIM(c, 4), "a box is 4 numbers");
}

static bool infer_nms(Infer *c)
{
    return nms_input(c, 0, 1) && out_shape(c, 0, 2, (Dim[]){dim_fresh(c->d, "selected", DIM_DATA), DIM(c, 3)});
}

static bool expand_nms(Expand *x)
{
    Val scores = ex_in(x, 1), all = ex_slice(x, EX(x, "Shape", scores), 0, 2, 3), best[2];
    graph_emit(x->g, op_find(NULL, "TopK"), NULL, (const Val[]){scores, all}, 2, 2, x->loc, best);
    Val most = ex_has(x, 2) ? ex_in(x, 2) : ex_scalar(x, DT_i64, 0),
        overlap = ex_has(x, 3) ? ex_in(x, 3) : ex_scalar(x, DT_f32, 0);
    Val keep =
        ex_op_like(x, "octet", "NmsKeep", (const Val[]){ex_in(x, 0), best[0], best[1], most, overlap, ex_in(x, 4)}, 6);
    Val place =
        ex_transpose(x, EX(x, "NonZero", keep), (const int64_t[]){1, 0}, 2); /* batch, class, place in the order */
    Val box = ex_unsqueeze(x, EX(x, "GatherND", best[1], place), (const int64_t[]){1}, 1);
    x->out[0] = ex_concat(x, (const Val[]){ex_slice(x, place, 1, 0, 2), box}, 2, 1);
    return true;
}

static bool infer_keep(Infer *c) { return nms_input(c, 0, 1) && out_like(c, 0, 1); }

/* Do boxes a and b overlap by more than t, as intersection over union? Corners in any order, or centres and sizes. */
static Expr overlaps(Lower *l, const Expr *a, const Expr *b, Expr t)
{
    static const char corners[] = "at = min(a0, a2); ab = max(a0, a2); al = min(a1, a3); ar = max(a1, a3);"
                                  "bt = min(b0, b2); bb = max(b0, b2); bl = min(b1, b3); br = max(b1, b3);";
    static const char centres[] = "al = a0 - a2 / 2; ar = a0 + a2 / 2; at = a1 - a3 / 2; ab = a1 + a3 / 2;"
                                  "bl = b0 - b2 / 2; br = b0 + b2 / 2; bt = b1 - b3 / 2; bb = b1 + b3 / 2;";
    static const char area[] = "both = max(min(ab, bb) - max(at, bt), 0) * max(min(ar, br) - max(al, bl), 0);"
                               "one = (ab - at) * (ar - al) + (bb - bt) * (br - bl) - both;"
                               "(both > 0) && (one > 0) && (both / one > t)";
    const char *text = arena_printf(l->k->mem, "%s%s", node_int(l->n, "center_point_box") ? centres : corners, area);
    Expr arg[] = {a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], t};
    return low_formula(l, text, (const char *const[]){"a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3", "t"}, arg, 9);
}

static void lower_keep(Lower *l)
{
    Kernel *k = l->k;
    int boxes = low_in(l, 0), score = low_in(l, 1), order = low_in(l, 2), keep = low_out(l, 0), axis[3];
    low_axes(l, keep, axis);
    Expr at[MAX_RANK] = {0}, other[MAX_RANK] = {0}, before[MAX_RANK] = {0}, dim[3], box[2][4], zero = expr_index(k, 0);
    int better = low_axis(l, low_dim(l, keep, 2));
    low_index(l, axis, 3, at);
    for (int i = 0; i < 3; i++) dim[i] = low_dim(l, keep, i), other[i] = before[i] = at[i];
    other[2] = expr_axis(k, better), before[2] = expr_sub(k, at[2], expr_index(k, 1));
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < 4; i++)
            box[which][i] =
                expr_load(k, boxes, (Expr[MAX_RANK]){at[0], expr_load(k, order, which ? other : at), expr_index(k, i)});
    int hidden = low_temp(l, DT_i32, 3, dim), count = low_temp(l, DT_i64, 3, dim); /* count: of those kept before */
    Expr none = low_const(l, DT_i32, 0),
         by = expr_and(k, expr_load(k, keep, other), overlaps(l, box[0], box[1], low_scalar(l, 4)));
    by = expr_guard(k, expr_lt(k, other[2], at[2]), expr_cast(k, DT_i32, by), none);
    low_reduce(l, hidden, axis, 3, &better, 1, P_max, by, 0)->scan = axis[2];
    Expr chosen = expr_add(k, expr_load(k, count, before), low_i64(l, expr_load(k, keep, before)));
    low_stage(l, count, axis, 3, expr_guard(k, expr_lt(k, zero, at[2]), chosen, zero))->scan = axis[2];
    Expr stays = expr_and(k, expr_prim(k, P_eq, expr_load(k, hidden, at), none, 0),
                          expr_lt(k, expr_load(k, count, at), low_scalar(l, 3)));
    if (low_in(l, 5)) stays = expr_and(k, stays, expr_lt(k, low_scalar(l, 5), expr_load(k, score, at)));
    low_stage(l, keep, axis, 3, stays)->scan = axis[2];
}

/* clang-format off */
const OpDef ops_nms[] = {
    OP(NonMaxSuppression, .since = 10,
       .sig = "boxes:f32 scores:f32 max_output_boxes_per_class:i64? iou_threshold:f32? score_threshold:f32? -> selected_indices:i64",
       .attrs = "center_point_box:int=0", .infer = infer_nms, .expand = expand_nms),
    OP(NmsKeep, .domain = "octet", .since = 1, .sig = "boxes:f32 scores:f32 order:i64 most:i64 overlap:f32 least:f32? -> keep:bool",
       .attrs = "center_point_box:int=0", .infer = infer_keep, .lower = lower_keep),
    {0},
};
/* clang-format on */
