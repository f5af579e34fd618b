/* attention.c - Attention, RotaryEmbedding, and the losses that exported training graphs end in.
 *
 * Attention: S = scale * Q K^T (softcap, mask), softmax over the keys, Y = P V, as stages on the operands where they stand: [B, H, L, E]
 * or [B, L, H*E], a query head reading key head h / (Hq / Hkv). A row whose keys are all masked gives zeros. The cache outputs
 * are copies of the past and the new part into one buffer, which the products then read. */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <math.h>
#include <string.h>

/* ---- sizes ---- */
typedef struct Heads {
    Dim batch, length, width;
    int64_t heads;
    bool flat;
} Heads; /* of Q, K or V; heads 0: not known */

static bool read_heads(Dims *d, const Type *t, const Attr *count, Heads *h)
{
    *h = (Heads){.flat = t->rank == 3, .batch = t->dim[0]};
    if (t->rank == 4) {
        h->length = t->dim[2], h->width = t->dim[3];
        return dim_is_const(d, t->dim[1], &h->heads) && h->heads > 0;
    }
    if (t->rank != 3 || count->kind != ATTR_INT || count->i < 1) return false;
    h->heads = count->i, h->length = t->dim[1];
    return dim_exact(d, t->dim[2], dim_const(d, h->heads), &h->width);
}

typedef struct Sizes {
    Heads q, k, v;
    Dim past, total;
} Sizes;

static const char *read_sizes(Dims *d, const Node *n, const Type *q, const Type *k, const Type *v, const Type *past,
                              Sizes *s)
{
    const Attr *hq = node_attr(n, "q_num_heads"), *hk = node_attr(n, "kv_num_heads");
    if (!read_heads(d, q, hq, &s->q) || !read_heads(d, k, hk, &s->k) || !read_heads(d, v, hk, &s->v))
        return "Q, K and V must have 4 dimensions with a known number of heads, or 3 with q_num_heads and kv_num_heads";
    if (s->q.heads % s->k.heads || s->k.heads != s->v.heads)
        return "query heads must be a multiple of key heads, and value heads equal";
    if (past && past->rank != 4) return "past_key must have 4 dimensions";
    s->past = past ? past->dim[2] : dim_const(d, 0);
    s->total = dim_add(d, s->past, s->k.length);
    return NULL;
}

/* The past of K or V, [B, H, P, E]. */
static bool cache_fits(Infer *c, uint32_t in, const Heads *h, Dim past)
{
    return rule_has_shape(c, in, 4, (Dim[]){h->batch, DIM(c, h->heads), past, h->width}, "the past and the new part");
}

/* A mask is aligned with the last dimensions of [B, H, S, T]: each 1 or that size, the last one possibly shorter. */
static bool mask_fits(Infer *c, const Sizes *s)
{
    int rank = in_has(c, 3) ? in_rank(c, 3) : 0;
    const Dim want[] = {s->q.batch, DIM(c, s->q.heads), s->q.length};
    for (int i = 0; i < rank - 1; i++) {
        Dim is = in_dim(c, 3, i);
        if (!dim_is(c->d, is, 1) && !require_eq(c, is, want[4 - rank + i], "sizes of attn_mask and of the scores"))
            return false;
    }
    return !rank || require_ge(c, s->total, in_dim(c, 3, rank - 1), "keys of attn_mask");
}

static bool infer_attention(Infer *c)
{
    Sizes s;
    const char *why =
        read_sizes(c->d, c->n, in_type(c, 0), in_type(c, 1), in_type(c, 2), in_has(c, 4) ? in_type(c, 4) : NULL, &s);
    if (why) return infer_error(c, "%s", why);
    if (in_has(c, 4) != in_has(c, 5)) return infer_error(c, "past_key and past_value must be given together");
    if (in_has(c, 3) && (in_rank(c, 3) < 1 || in_rank(c, 3) > 4))
        return infer_error(c, "attn_mask has rank %d", in_rank(c, 3));
    if (!require_eq(c, s.q.width, s.k.width, "head sizes of Q and K") ||
        !require_eq(c, s.k.length, s.v.length, "lengths of K and V") ||
        !require_eq(c, s.q.batch, s.k.batch, "batches of Q and K") ||
        !require_eq(c, s.q.batch, s.v.batch, "batches of Q and V") || !cache_fits(c, 4, &s.k, s.past) ||
        !cache_fits(c, 5, &s.v, s.past) || !mask_fits(c, &s))
        return false;
    if (!rule_has_shape(c, 6, 1, &s.q.batch, "nonpad_kv_seqlen and the batch")) return false;
    Dim hq = DIM(c, s.q.heads), hk = DIM(c, s.k.heads);
    if (s.q.flat) out_shape(c, 0, 3, (Dim[]){s.q.batch, s.q.length, dim_mul(c->d, hq, s.v.width)});
    else out_shape(c, 0, 4, (Dim[]){s.q.batch, hq, s.q.length, s.v.width});
    if (c->n->nout > 1) out_shape(c, 1, 4, (Dim[]){s.k.batch, hk, s.total, s.k.width});
    if (c->n->nout > 2) out_shape(c, 2, 4, (Dim[]){s.v.batch, hk, s.total, s.v.width});
    if (c->n->nout > 3) out_shape(c, 3, 4, (Dim[]){s.q.batch, hq, s.q.length, s.total});
    return true;
}

/* ---- lowering ---- */
static Expr load_head(Lower *l, int buf, const Heads *h, Expr b, Expr head, Expr at, Expr e)
{
    Kernel *k = l->k;
    if (!h->flat) return low_load(l, buf, (Expr[MAX_RANK]){b, head, at, e});
    return low_load(l, buf, (Expr[MAX_RANK]){b, at, expr_add(k, expr_mul(k, head, expr_dim(k, h->width)), e)});
}

/* K or V with the past before it; the buffer the products read, and how (heads becomes that of a 4-D buffer where it is a copy). */
static int join_past(Lower *l, uint32_t in, uint32_t past_in, uint32_t out, Heads *h, Dim past, Dim total)
{
    Kernel *k = l->k;
    int from = low_in(l, in), before = low_in(l, past_in), asked = l->n->nout > out ? low_out(l, out) : 0;
    if (!before && !asked) return from;
    Expr dim[] = {expr_dim(k, h->batch), expr_index(k, h->heads), expr_dim(k, total), expr_dim(k, h->width)};
    int to = asked ? asked : low_temp(l, low_type(l, from), 4, dim), axis[4];
    Expr at[MAX_RANK] = {0};
    if (before) {
        low_axes(l, before, axis), low_index(l, axis, 4, at);
        low_stage(l, to, axis, 4, expr_load(k, before, at));
    }
    dim[2] = expr_dim(k, h->length);
    for (int i = 0; i < 4; i++) at[i] = expr_axis(k, axis[i] = low_axis(l, dim[i]));
    Expr value = low_store_as(l, to, load_head(l, from, h, at[0], at[1], at[2], at[3]));
    low_stage(l, to, axis, 4, value)->at[2] = expr_add(k, at[2], expr_dim(k, past));
    h->flat = false, h->length = total;
    return to;
}

typedef struct Scores {
    Expr b, h, q, j, zero, never;
    DType acc;
    const Sizes *s;
} Scores; /* one score's place */

static Expr masked(Lower *l, const Scores *p, Expr sum, Expr allowed)
{
    Expr term = low_select(l, allowed, p->zero, p->never);
    return sum ? expr_add(l->k, sum, term) : term;
}

/* The mask aligned with the last dimensions; keys after its end do not count. */
static Expr mask_term(Lower *l, const Scores *p)
{
    Kernel *k = l->k;
    int mask = low_in(l, 3), rank = low_rank(l, mask);
    const Type *t = low_in_type(l, 3);
    const Expr place[] = {p->b, p->h, p->q, p->j};
    Expr at[MAX_RANK] = {0};
    for (int i = 0; i < rank; i++) {
        bool last = i == rank - 1;
        at[i] = !last && dim_is(k->dim, t->dim[i], 1) ? expr_index(k, 0) : place[4 - rank + i];
    }
    Expr load = expr_load(k, mask, at), value = expr_cast(k, p->acc, load);
    if (low_type(l, mask) == DT_bool) value = low_select(l, load, p->zero, p->never);
    Dim end = dim_canon(k->dim, t->dim[rank - 1]);
    if (dim_same(end, dim_canon(k->dim, p->s->total))) return value;
    return expr_guard(k, expr_lt(k, p->j, expr_dim(k, end)), value, p->never);
}

/* What is added to a score: 0 where nothing is masked. */
static Expr bias(Lower *l, const Scores *p)
{
    Kernel *k = l->k;
    int lengths = low_in(l, 6);
    int64_t left = node_int(l->n, "left_window_size"), right = node_int(l->n, "right_window_size");
    Expr valid = lengths ? low_i64(l, expr_load(k, lengths, (Expr[MAX_RANK]){p->b})) : 0,
         sum = low_in(l, 3) ? mask_term(l, p) : 0;
    Expr offset = valid && !low_in(l, 4) ? expr_sub(k, valid, expr_dim(k, p->s->q.length)) : expr_dim(k, p->s->past);
    Expr here = expr_add(k, p->q, offset);
    if (node_int(l->n, "is_causal")) sum = masked(l, p, sum, expr_le(k, p->j, here));
    if (left >= 0) sum = masked(l, p, sum, expr_le(k, here, expr_add(k, p->j, expr_index(k, left))));
    if (right >= 0) sum = masked(l, p, sum, expr_le(k, p->j, expr_add(k, here, expr_index(k, right))));
    return valid ? masked(l, p, sum, expr_lt(k, p->j, valid)) : sum;
}

static Expr softcap(Lower *l, Expr x, DType t)
{
    Kernel *k = l->k;
    double cap = node_float(l->n, "softcap");
    if (!(cap > 0)) return x;
    Expr c = low_const(l, t, cap);
    return expr_mul(k, expr_prim(k, P_tanh, expr_div(k, x, c), 0, 0), c);
}

static void lower_attention(Lower *l)
{
    Kernel *k = l->k;
    Sizes s;
    if (read_sizes(k->dim, l->n, low_in_type(l, 0), low_in_type(l, 1), low_in_type(l, 2),
                   low_in(l, 4) ? low_in_type(l, 4) : NULL, &s))
        return;
    DType acc = dtype_compute(low_type(l, low_in(l, 0)));
    int keys = join_past(l, 1, 4, 1, &s.k, s.past, s.total), values = join_past(l, 2, 5, 2, &s.v, s.past, s.total);
    int b = low_axis(l, expr_dim(k, s.q.batch)), h = low_axis(l, expr_index(k, s.q.heads)),
        q = low_axis(l, expr_dim(k, s.q.length));
    int j = low_axis(l, expr_dim(k, s.total)), e = low_axis(l, expr_dim(k, s.q.width)),
        v = low_axis(l, expr_dim(k, s.v.width));
    int space[] = {b, h, q, j}, share = low_share(l);
    Expr dim[4], at[MAX_RANK] = {0}, one = low_const(l, acc, 1), depth = expr_axis(k, e);
    for (int i = 0; i < 4; i++) dim[i] = k->axis.at[space[i]].extent, at[i] = expr_axis(k, space[i]);
    Expr key_head = expr_div(k, at[1], expr_index(k, s.q.heads / s.k.heads));
    const Attr *given = node_attr(l->n, "scale");
    Expr width = expr_cast(k, acc, expr_dim(k, s.q.width));
    Expr scale = given->kind == ATTR_FLOAT ? low_const(l, acc, (double)given->f) : expr_prim(k, P_rsqrt, width, 0, 0);
    int raw = low_temp(l, acc, 4, dim), scores = low_temp(l, acc, 4, dim), exps = low_temp(l, acc, 4, dim),
        probs = low_temp(l, acc, 4, dim);
    Expr left = load_head(l, low_in(l, 0), &s.q, at[0], at[1], at[2], depth),
         right = load_head(l, keys, &s.k, at[0], key_head, at[3], depth);
    low_reduce(l, raw, space, 4, &e, 1, P_add, expr_mul(k, left, right), expr_mul(k, expr_it(k, acc), scale));
    Scores p = {at[0], at[1], at[2], at[3], low_const(l, acc, 0), low_const(l, acc, -INFINITY), acc, &s};
    Expr capped = softcap(l, expr_load(k, raw, at), acc), add = bias(l, &p);
    low_stage(l, scores, space, 4, add ? expr_add(k, capped, add) : capped);

    int most = low_temp(l, acc, 3, dim), inverse = low_temp(l, acc, 3, dim);
    Expr score = expr_load(k, scores, at), row[MAX_RANK] = {at[0], at[1], at[2]}, it = expr_it(k, acc);
    low_reduce(l, most, space, 3, &j, 1, P_larger, score, it)->share = share;
    Expr max = expr_load(k, most, row), safe = low_select(l, expr_prim(k, P_eq, max, p.never, 0), p.zero, max);
    Expr inv = low_select(l, expr_prim(k, P_eq, it, p.zero, 0), p.zero, expr_div(k, one, it));
    Compute *sum =
        low_reduce(l, inverse, space, 3, &j, 1, P_add, expr_prim(k, P_exp, expr_sub(k, score, safe), 0, 0), inv);
    sum->keep = expr_load(k, exps, at), sum->share = share;
    low_stage(l, probs, space, 4, expr_mul(k, expr_load(k, exps, at), expr_load(k, inverse, row)))->share = share;

    int out = low_out(l, 0), result[] = {b, h, q, v};
    Expr channel = expr_axis(k, v), weight = expr_load(k, probs, at);
    right = load_head(l, values, &s.v, at[0], key_head, at[3], channel);
    Compute *y = low_reduce(l, out, result, 4, &j, 1, P_add, expr_mul(k, weight, expr_cast(k, acc, right)),
                            low_store_as(l, out, it));
    if (s.q.flat) {
        memset(y->at, 0, sizeof y->at);
        y->at[0] = at[0], y->at[1] = at[2];
        y->at[2] = expr_add(k, expr_mul(k, at[1], expr_dim(k, s.v.width)), channel);
    }
    if (l->n->nout < 4) return;
    const Expr modes[] = {expr_load(k, raw, at), capped, score, weight};
    int64_t mode = node_int(l->n, "qk_matmul_output_mode");
    low_stage(l, low_out(l, 3), space, 4, low_store_as(l, low_out(l, 3), modes[mode < 0 || mode > 3 ? 0 : mode]));
}

/* ---- RotaryEmbedding: pairs of a head's elements turned by an angle of their position ---- */
static bool infer_rotary(Infer *c)
{
    const Type *x = in_type(c, 0);
    const Attr *heads = node_attr(c->n, "num_heads");
    Dim width;
    if (x->rank != 3 && x->rank != 4) return infer_error(c, "X has rank %d, expected 3 or 4", x->rank);
    if (x->rank == 3 &&
        (heads->kind != ATTR_INT || heads->i < 1 || !dim_exact(c->d, x->dim[2], DIM(c, heads->i), &width)))
        return infer_error(c, "an X of rank 3 needs num_heads, a divisor of its last dimension");
    if (x->rank == 4) width = x->dim[3];
    int64_t all, turned = node_int(c->n, "rotary_embedding_dim");
    if (!dim_is_const(c->d, width, &all) || turned > all || turned % 2 || (turned == 0 && all % 2))
        return infer_error(c, "the head size must be known, even and at least rotary_embedding_dim");
    Dim length = x->dim[x->rank - 2], angles = DIM(c, (turned ? turned : all) / 2);
    for (uint32_t i = 1; i < 3; i++) {
        int rank = in_has(c, 3) ? 2 : 3;
        if (in_rank(c, i) != rank)
            return infer_error(c, "%s has rank %d, expected %d", i == 1 ? "cos_cache" : "sin_cache", in_rank(c, i),
                               rank);
        if (!require_ge(c, in_dim(c, i, -1), angles, "columns of cos_cache and sin_cache")) return false;
        if (rank == 3 && (!require_eq(c, in_dim(c, i, 0), x->dim[0], "entries of cos_cache and of the batch") ||
                          !require_eq(c, in_dim(c, i, 1), length, "rows of cos_cache and of X")))
            return false;
    }
    if (!in_has(c, 3)) return out_like(c, 0, 0);
    if (in_rank(c, 3) != 2) return infer_error(c, "position_ids has rank %d, expected 2", in_rank(c, 3));
    if (!require_eq(c, in_dim(c, 1, 0), in_dim(c, 2, 0), "rows of cos_cache and sin_cache") ||
        !require_eq(c, in_dim(c, 3, 1), length, "position_ids and rows of X") ||
        (!dim_is(c->d, in_dim(c, 3, 0), 1) &&
         !require_eq(c, in_dim(c, 3, 0), x->dim[0], "entries of position_ids and of the batch")))
        return false;
    return out_like(c, 0, 0);
}

static void lower_rotary(Lower *l)
{
    Kernel *k = l->k;
    int x = low_in(l, 0), y = low_out(l, 0), rank = low_rank(l, y), ids = low_in(l, 3), axis[MAX_RANK];
    low_axes(l, y, axis);
    Expr at[MAX_RANK] = {0}, one = expr_index(k, 1), two = expr_index(k, 2), e, width, base = 0;
    low_index(l, axis, rank, at);
    if (rank == 4) e = at[3], width = low_dim(l, x, 3);
    else {
        width = expr_div(k, low_dim(l, x, 2), expr_index(k, node_attr(l->n, "num_heads")->i));
        e = expr_mod(k, at[2], width), base = expr_sub(k, at[2], e);
    }
    Expr position = rank == 4 ? at[2] : at[1], check = 0;
    int64_t turned = node_int(l->n, "rotary_embedding_dim");
    bool whole = turned == 0, interleaved = node_int(l->n, "interleaved");
    Expr size = whole ? width : expr_index(k, turned), half = expr_div(k, size, two), first, pair, angle;
    if (interleaved) {
        first = expr_prim(k, P_eq, expr_mod(k, e, two), expr_index(k, 0), 0), angle = expr_div(k, e, two);
        pair = low_select(l, first, expr_add(k, e, one), expr_sub(k, e, one));
    } else {
        first = expr_lt(k, e, half), angle = expr_mod(k, e, half);
        pair = low_select(l, first, expr_add(k, e, half), expr_sub(k, e, half));
    }
    Expr other[MAX_RANK] = {0}, where[MAX_RANK] = {at[0], position, angle};
    memcpy(other, at, sizeof other);
    other[rank - 1] = base ? expr_add(k, base, pair) : pair;
    if (ids) {
        Expr entry = dim_is(k->dim, low_in_type(l, 3)->dim[0], 1) ? expr_index(k, 0) : at[0];
        where[0] = low_i64(l, expr_load(k, ids, (Expr[MAX_RANK]){entry, position})), where[1] = angle, where[2] = 0;
        check = expr_and(k, expr_le(k, expr_index(k, 0), where[0]), expr_lt(k, where[0], low_dim(l, low_in(l, 1), 0)));
    }
    Expr cosine = low_load(l, low_in(l, 1), where), sine = low_load(l, low_in(l, 2), where), here = low_load(l, x, at);
    Expr turn = expr_mul(k, sine, low_load(l, x, other));
    Expr value = expr_add(k, expr_mul(k, cosine, here), low_select(l, first, expr_prim(k, P_neg, turn, 0, 0), turn));
    if (!whole) value = expr_guard(k, expr_lt(k, e, size), value, here);
    low_stage(l, y, axis, rank, low_store_as(l, y, value))->check = check;
}

/* ---- losses: input [N, C, d...], target [N, d...], weight [C]? ---- */
static bool infer_loss(Infer *c)
{
    const Type *x = in_type(c, 0);
    const char *how = node_str(c->n, "reduction");
    if (x->rank < 2 || in_rank(c, 1) != x->rank - 1)
        return infer_error(c, "input and target have rank %d and %d", x->rank, in_rank(c, 1));
    Dim out[MAX_RANK] = {x->dim[0]};
    for (int i = 2; i < x->rank; i++) out[i - 1] = x->dim[i];
    for (int i = 0; i < x->rank - 1; i++)
        if (!require_eq(c, in_dim(c, 1, i), out[i], "sizes of input and target")) return false;
    if (!rule_has_shape(c, 2, 1, &x->dim[1], "a weight for every class")) return false;
    if (c->n->nout > 1) out_like(c, 1, 0);
    if (!strcmp(how, "none")) return out_shape(c, 0, x->rank - 1, out);
    if (strcmp(how, "mean") && strcmp(how, "sum")) return infer_error(c, "reduction '%s' is unknown", how);
    return out_shape(c, 0, 0, NULL);
}

static void lower_nll(Lower *l)
{
    Kernel *k = l->k;
    int x = low_in(l, 0), target = low_in(l, 1), weight = low_in(l, 2), y = low_out(l, 0), rank = low_rank(l, target),
        axis[MAX_RANK];
    DType acc = dtype_compute(low_type(l, y));
    const Attr *ignore = node_attr(l->n, "ignore_index");
    const char *how = node_str(l->n, "reduction");
    Expr at[MAX_RANK] = {0}, none[MAX_RANK] = {0}, zero = low_const(l, acc, 0);
    low_axes(l, target, axis), low_index(l, axis, rank, at);
    Expr class = low_i64(l, expr_load(k, target, at));
    Expr counts = ignore->kind == ATTR_INT ? expr_prim(k, P_ne, class, expr_index(k, ignore->i), 0) : 0;
    Expr in = expr_and(k, expr_le(k, expr_index(k, 0), class), expr_lt(k, class, low_dim(l, x, 1)));
    Expr from[MAX_RANK] = {at[0], class};
    for (int i = 1; i < rank; i++) from[i + 1] = at[i];
    Expr w = weight ? low_load(l, weight, (Expr[MAX_RANK]){class}) : low_const(l, acc, 1);
    Expr loss = expr_mul(k, expr_prim(k, P_neg, low_load(l, x, from), 0, 0), w);
    if (counts)
        loss = expr_guard(k, counts, loss, zero), w = expr_guard(k, counts, w, zero),
        in = expr_prim(k, P_or, in, expr_prim(k, P_not, counts, 0, 0), 0);
    if (!strcmp(how, "none")) {
        low_stage(l, y, axis, rank, low_store_as(l, y, loss))->check = in;
        return;
    }
    Expr it = expr_it(k, acc);
    if (!strcmp(how, "mean")) {
        int total = low_temp(l, acc, 0, NULL);
        low_reduce(l, total, NULL, 0, axis, rank, P_add, w, it)->check = in;
        it = expr_div(k, it, expr_load(k, total, none));
    }
    low_reduce(l, y, NULL, 0, axis, rank, P_add, loss, low_store_as(l, y, it))->check = in;
}

static bool expand_cross_entropy(Expand *x)
{
    Val log = ex_op(x, NULL, "LogSoftmax", (AttrSet[]){SET_INT("axis", 1)}, 1, x->in, 1);
    x->out[0] = ex_op_like(x, NULL, "NegativeLogLikelihoodLoss", (Val[]){log, x->in[1], ex_in(x, 2)}, 3);
    if (x->n->nout > 1) x->out[1] = log;
    return true;
}

#define LOSS "ignore_index:int reduction:string=mean"
const OpDef ops_attention[] = {
    OP(Attention, .since = 23,
       .sig = "Q:T K:T V:U attn_mask:M? past_key:T? past_value:U? nonpad_kv_seqlen:i64? -> Y:T present_key:T? "
              "present_value:U? "
              "qk_matmul_output:T?",
       .T = "float", .U = "float",
       .attrs = "is_causal:int=0 kv_num_heads:int left_window_size:int=-1 q_num_heads:int qk_matmul_output_mode:int=0 "
                "right_window_size:int=-1 scale:float softcap:float=0 softmax_precision:int",
       .infer = infer_attention, .lower = lower_attention),
    OP(RotaryEmbedding, .since = 23, .sig = "X:T cos_cache:T sin_cache:T position_ids:i64? -> Y:T", .T = "float",
       .attrs = "interleaved:int=0 num_heads:int rotary_embedding_dim:int=0", .infer = infer_rotary,
       .lower = lower_rotary),
    OP(NegativeLogLikelihoodLoss, .since = 12, .sig = "input:T target:U weight:T? -> loss:T", .T = "float",
       .U = "i32 i64", .attrs = LOSS, .infer = infer_loss, .lower = lower_nll),
    OP(SoftmaxCrossEntropyLoss, .since = 12, .sig = "scores:T labels:U weights:T? -> output:T log_prob:T?",
       .T = "float", .U = "i32 i64", .attrs = LOSS, .infer = infer_loss, .expand = expand_cross_entropy),
    OP(SwiGLU, .since = 28, .sig = "A:T B:T -> Y:T", .T = "float", .attrs = "alpha:float=1",
       .body = "A * sigmoid(alpha * A) * B"),
    {0},
};
