/* microsoft_attention.c - attention as the domain com.microsoft spells it: what ONNX Runtime's optimizers and language model exporters write.
 *
 * Attention (one product makes queries, keys and values), QAttention (the same of codes), MultiHeadAttention (operands apart) and
 * GroupQueryAttention (a cache, rotation of positions) become the ai.onnx rows Attention and RotaryEmbedding: what is left to do here is to take packed operands apart,
 * to say masks as numbers or conditions, and to put rows into a cache at places that are data (KvAppend).
 * Source: ContribOperators.md of ONNX Runtime ("Windowed KV Cache" for caches that are a window); where it is silent, its CPU kernels (1.32). */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <math.h>

/* ---- what all are made of ---- */
typedef struct Core {
    Val q, k, v, mask, past_k, past_v;
    int64_t heads, kv_heads;
    bool causal;
} Core; /* operands of ai.onnx.Attention; q of rank 3, k and v of rank 3 or 4 */

static void attend(Expand *x, const Core *c, uint32_t nout, Val *out)
{
    const OpDef *op = op_find(NULL, "Attention");
    Attr *attr = op_attr_defaults(x->g->mem, op);
    double scale = node_float(x->n, "scale");
    attr_set_int(op, attr, "q_num_heads", c->heads), attr_set_int(op, attr, "kv_num_heads", c->kv_heads);
    attr_set_int(op, attr, "is_causal", c->causal), attr_set_int(op, attr, "qk_matmul_output_mode", 2);
    if (scale != 0) attr_set_float(op, attr, "scale", (float)scale);
    if (op_attr_index(x->n->op, "softcap") >= 0) attr_set_float(op, attr, "softcap", (float)node_float(x->n, "softcap"));
    graph_emit(x->g, op, attr, (Val[]){c->q, c->k, c->v, c->mask, c->past_k, c->past_v}, 6, nout, x->loc, out);
}

static Val scalar_size(Expand *x, Val v, int axis) { return ex_squeeze(x, ex_size(x, v, axis), (int64_t[]){0}, 1); }
static Val count_to(Expand *x, Val n) { return EX(x, "Range", ex_scalar(x, DT_i64, 0), n, ex_scalar(x, DT_i64, 1)); }

/* Columns of the last dimension. */
static Val columns(Expand *x, Val v, int64_t from, int64_t n) { return ex_slice(x, v, ex_type(x, v)->rank - 1, from, from + n); }

/* What is added to scores where a key is not visible. */
static Val added(Expand *x, Val visible, DType t)
{
    return EX(x, "Where", visible, ex_scalar(x, t, 0), ex_scalar(x, t, node_float(x->n, "mask_filter_value")));
}

static bool is_twice(Dims *d, Dim a, Dim b) { return dim_same(dim_canon(d, a), dim_canon(d, dim_mul(d, b, dim_const(d, 2)))); }

/* Which keys a mask leaves: [B] lengths, [2B] ends and starts, [B, T] and [B, S, T] positive where visible, [B, 1] nothing.
 * As something that broadcasts to [B, N, S, T]; id 0: all. */
static bool visible_keys(Expand *x, Val mask, Val total, Dim batch, Val *visible)
{
    *visible = (Val){0};
    if (!mask.id) return true;
    Dims *d = x->m->dim;
    const Type *t = ex_type(x, mask);
    Val zero = ex_scalar(x, t->dtype, 0);
    if (t->rank == 2 && dim_is(d, t->dim[1], 1)) return true;
    if (t->rank == 2) *visible = ex_unsqueeze(x, EX(x, "Greater", mask, zero), (int64_t[]){1, 2}, 2);
    else if (t->rank == 3) *visible = ex_unsqueeze(x, EX(x, "Greater", mask, zero), (int64_t[]){1}, 1);
    else if (t->rank == 1) {
        bool both_ends = is_twice(d, t->dim[0], batch);
        Val key = ex_cast(x, count_to(x, total), t->dtype);
        Val ends = ex_reshape(x, mask, (int64_t[]){both_ends ? 2 : 1, -1, 1, 1, 1}, 5),
            end = ex_squeeze(x, ex_slice(x, ends, 0, 0, 1), (int64_t[]){0}, 1);
        *visible = EX(x, "Less", key, end);
        if (both_ends)
            *visible = EX(x, "And", *visible,
                          EX(x, "GreaterOrEqual", key, ex_squeeze(x, ex_slice(x, ends, 0, 1, 2), (int64_t[]){0}, 1)));
    } else {
        return expand_error(x, "a mask of rank %d is not supported, expected 1 to 3", t->rank);
    }
    return true;
}

/* Sum of what masks and biases add; either may be absent. */
static Val both(Expand *x, Val a, Val b) { return a.id && b.id ? EX(x, "Add", a, b) : a.id ? a : b; }

/* Refuses attributes and inputs that change what is computed and are not understood. */
static bool plain(Expand *x, const char *attr, int64_t usual)
{
    int64_t v = node_int(x->n, attr);
    return v == usual || expand_error(x, "%s=%lld is not supported", attr, (long long)v);
}

static bool absent(Expand *x, uint32_t input)
{
    return !ex_has(x, input) || expand_error(x, "input %s is not supported", op_schema(x->n->op)->in[input].name);
}

/* ---- Attention and QAttention: input [B, S, Di] times weights [Di, D + D + Dv] ---- */
typedef struct Packed {
    int64_t heads, width[3];
} Packed; /* columns of queries, keys and values */

static const char *read_packed(Dims *d, const Node *n, const Type *weights, Packed *p)
{
    int64_t all;
    p->heads = node_int(n, "num_heads");
    if (weights->rank != 2 || !dim_is_const(d, weights->dim[1], &all)) return "weights must have 2 known dimensions";
    p->width[0] = p->width[1] = p->width[2] = all / 3;
    if (op_attr_index(n->op, "qkv_hidden_sizes") >= 0) {
        const Attr *sizes = node_attr(n, "qkv_hidden_sizes");
        if (sizes->kind == ATTR_INTS && sizes->n == 3)
            for (int i = 0; i < 3; i++) p->width[i] = sizes->ints[i];
    }
    const int64_t *w = p->width;
    if (p->heads < 1 || w[0] < 1 || w[2] < 1 || w[0] > all || w[2] > all || w[0] != w[1] || w[0] + w[1] + w[2] != all ||
        w[0] % p->heads || w[2] % p->heads)
        return "the columns of weights must be those of queries, keys and values, each a multiple of num_heads";
    return NULL;
}

static bool infer_packed(Infer *c, uint32_t past)
{
    Packed p;
    const Type *x = in_type(c, 0);
    for (uint32_t o = 0; o < c->n->nout; o++) out_unknown(c, o);
    if (x->rank < 0 || in_rank(c, 1) < 0) return true;
    if (x->rank != 3) return infer_error(c, "input has rank %d, expected 3", x->rank);
    const char *why = read_packed(c->d, c->n, in_type(c, 1), &p);
    if (why) return infer_error(c, "%s", why);
    if (in_has(c, past) && in_rank(c, past) != 5) return infer_error(c, "past has rank %d, expected 5", in_rank(c, past));
    if (!require_eq(c, x->dim[2], in_dim(c, 1, 0), "the last dimension of input and the rows of weights")) return false;
    Dim total = in_has(c, past) ? dim_add(c->d, in_dim(c, past, 3), x->dim[1]) : x->dim[1];
    if (c->n->nout > 1)
        out_shape(c, 1, 5, (Dim[]){DIM(c, 2), x->dim[0], DIM(c, p.heads), total, DIM(c, p.width[2] / p.heads)});
    return out_shape(c, 0, 3, (Dim[]){x->dim[0], x->dim[1], DIM(c, p.width[2])});
}

static bool infer_attention(Infer *c) { return infer_packed(c, 4); }
static bool infer_qattention(Infer *c) { return infer_packed(c, 8); }

/* sums: [B, S, D + D + Dv]; past and present hold keys and values as [2, B, N, P, H]. */
static bool attend_packed(Expand *x, Val sums, Val weights, Val mask, Val past, Val bias)
{
    Packed p;
    if (ex_type(x, sums)->rank != 3 || read_packed(x->m->dim, x->n, ex_type(x, weights), &p))
        return expand_error(x, "input and weights have no known ranks of 3 and 2");
    DType t = ex_type(x, sums)->dtype;
    Val visible, total = scalar_size(x, sums, 1);
    if (past.id) total = EX(x, "Add", total, scalar_size(x, past, 3));
    if (!visible_keys(x, mask, total, ex_type(x, sums)->dim[0], &visible)) return false;
    Core c = {.heads = p.heads, .kv_heads = p.heads, .causal = node_int(x->n, "unidirectional")};
    c.q = columns(x, sums, 0, p.width[0]), c.k = columns(x, sums, p.width[0], p.width[1]);
    c.v = columns(x, sums, p.width[0] + p.width[1], p.width[2]);
    c.mask = both(x, visible.id ? added(x, visible, t) : visible, bias);
    Val *part[] = {&c.past_k, &c.past_v}, out[3];
    for (int i = 0; past.id && i < 2; i++) *part[i] = ex_squeeze(x, ex_slice(x, past, 0, i, i + 1), (int64_t[]){0}, 1);
    attend(x, &c, x->n->nout > 1 ? 3 : 1, out);
    x->out[0] = out[0];
    for (int i = 1; x->n->nout > 1 && i < 3; i++) out[i] = ex_unsqueeze(x, out[i], (int64_t[]){0}, 1);
    if (x->n->nout > 1) x->out[1] = ex_concat(x, out + 1, 2, 0);
    return true;
}

static bool expand_attention(Expand *x)
{
    if (!plain(x, "do_rotary", 0) || !plain(x, "past_present_share_buffer", 0) || !absent(x, 6)) return false;
    Val sums = EX(x, "MatMul", x->in[0], x->in[1]);
    if (ex_has(x, 2)) sums = EX(x, "Add", sums, x->in[2]);
    return attend_packed(x, sums, x->in[1], ex_in(x, 3), ex_in(x, 4), ex_in(x, 5));
}

/* input, weight, bias, input_scale, weight_scale, mask_index, input_zero_point, weight_zero_point, past */
static bool expand_qattention(Expand *x)
{
    const Val *in = x->in;
    if (!plain(x, "do_rotary", 0) || !plain(x, "past_present_share_buffer", 0)) return false;
    Val product[] = {in[0], in[1], in[3], in[4], ex_in(x, 6), ex_in(x, 7), in[2]};
    Val sums = ex_op(x, "com.microsoft", "MatMulIntegerToFloat", NULL, 0, product, COUNT_OF(product));
    return attend_packed(x, sums, in[1], ex_in(x, 5), ex_in(x, 8), (Val){0});
}

/* ---- MultiHeadAttention: query, key, value, bias?, key_padding_mask?, attention_bias?, past_key?, past_value? ---- */
enum { MHA_BIAS = 3, MHA_MASK, MHA_ADDED, MHA_PAST_K, MHA_PAST_V, MHA_PAST_LENGTH, MHA_INDIRECTION };

typedef struct Multi {
    Dim batch, queries, keys, width, v_width;
    int64_t heads;
} Multi; /* widths of all heads together */

/* Queries of rank 5 hold keys and values too, [B, S, N, 3, H]; keys of rank 5 hold values, [B, L, N, 2, H]; of rank 4 they are [B, N, L, H]. */
static const char *read_multi(Dims *d, int64_t heads, const Type *q, const Type *k, const Type *v, Multi *s)
{
    Dim n = dim_const(d, heads);
    *s = (Multi){.batch = q->dim[0], .queries = q->dim[1], .heads = heads};
    if (heads < 1) return "num_heads must be positive";
    if (q->rank == 5 && !k && !v) {
        s->keys = q->dim[1], s->width = s->v_width = dim_mul(d, n, q->dim[4]);
        return dim_is(d, q->dim[3], 3) && dim_is(d, q->dim[2], heads) ? NULL : "a query of rank 5 must be [batch, length, num_heads, 3, head size]";
    }
    if (q->rank != 3 || !k) return "query must have 3 dimensions and a key beside it, or 5";
    s->width = s->v_width = q->dim[2], s->keys = k->dim[1];
    if (k->rank == 5 && !v)
        return dim_is(d, k->dim[3], 2) && dim_is(d, k->dim[2], heads) ? NULL : "a key of rank 5 must be [batch, length, num_heads, 2, head size]";
    if (!v || k->rank != v->rank || (k->rank != 3 && k->rank != 4)) return "key and value must both have 3 or both have 4 dimensions";
    if (k->rank == 4) s->keys = k->dim[2];
    s->v_width = k->rank == 4 ? dim_mul(d, n, v->dim[3]) : v->dim[2];
    return NULL;
}

static bool infer_multi(Infer *c)
{
    Multi s;
    Dim each[2];
    const Type *in[3] = {0};
    for (uint32_t o = 0; o < c->n->nout; o++) out_unknown(c, o);
    for (uint32_t i = 0; i < 3; i++) {
        if (in_has(c, i)) in[i] = in_type(c, i);
        if (in[i] && in[i]->rank < 0) return true;
    }
    const char *why = read_multi(c->d, node_int(c->n, "num_heads"), in[0], in[1], in[2], &s);
    if (why) return infer_error(c, "%s", why);
    if (!dim_exact(c->d, s.width, DIM(c, s.heads), &each[0]) || !dim_exact(c->d, s.v_width, DIM(c, s.heads), &each[1]))
        return infer_error(c, "the last dimensions of query and value must be multiples of num_heads");
    if (in_has(c, MHA_PAST_K) != in_has(c, MHA_PAST_V)) return infer_error(c, "past_key and past_value must be given together");
    if (in_has(c, MHA_PAST_K) && in_rank(c, MHA_PAST_K) != 4) return infer_error(c, "past_key has rank %d, expected 4", in_rank(c, MHA_PAST_K));
    Dim total = in_has(c, MHA_PAST_K) ? dim_add(c->d, in_dim(c, MHA_PAST_K, 2), s.keys) : s.keys, n = DIM(c, s.heads);
    for (uint32_t o = 1; o < c->n->nout && o < 3; o++) out_shape(c, o, 4, (Dim[]){s.batch, n, total, each[o - 1]});
    if (c->n->nout > 3) out_shape(c, 3, 4, (Dim[]){s.batch, n, s.queries, total});
    return out_shape(c, 0, 3, (Dim[]){s.batch, s.queries, s.v_width});
}

/* Part i of [B, L, N, parts, H] as [B, L, N * H]. */
static Val unpacked_part(Expand *x, Val v, int i)
{
    return ex_reshape(x, ex_squeeze(x, ex_slice(x, v, 3, i, i + 1), (int64_t[]){3}, 1), (int64_t[]){0, 0, -1}, 3);
}

static bool expand_multi(Expand *x)
{
    Multi s;
    const Type *in[3] = {0};
    if (!absent(x, MHA_PAST_LENGTH) || !absent(x, MHA_INDIRECTION)) return false;
    for (uint32_t i = 0; i < 3; i++)
        if (ex_has(x, i)) in[i] = ex_type(x, x->in[i]);
    if (read_multi(x->m->dim, node_int(x->n, "num_heads"), in[0], in[1], in[2], &s)) return expand_error(x, "the ranks of query, key and value are not known");
    Core c = {.heads = s.heads, .kv_heads = s.heads, .causal = node_int(x->n, "unidirectional"), .past_k = ex_in(x, MHA_PAST_K), .past_v = ex_in(x, MHA_PAST_V)};
    c.q = x->in[0], c.k = ex_in(x, 1), c.v = ex_in(x, 2);
    if (in[0]->rank == 5) c.q = unpacked_part(x, x->in[0], 0), c.k = unpacked_part(x, x->in[0], 1), c.v = unpacked_part(x, x->in[0], 2);
    else if (in[1]->rank == 5) c.k = unpacked_part(x, x->in[1], 0), c.v = unpacked_part(x, x->in[1], 1);
    if (ex_has(x, MHA_BIAS)) {
        int64_t w, vw;
        if (!dim_is_const(x->m->dim, s.width, &w) || !dim_is_const(x->m->dim, s.v_width, &vw) || (in[1] && in[1]->rank == 4))
            return expand_error(x, "a bias needs operands of known widths that are not [batch, heads, length, head size]");
        Val bias = x->in[MHA_BIAS];
        c.q = EX(x, "Add", c.q, columns(x, bias, 0, w)), c.k = EX(x, "Add", c.k, columns(x, bias, w, w)), c.v = EX(x, "Add", c.v, columns(x, bias, 2 * w, vw));
    }
    Val visible, total = scalar_size(x, c.k, ex_type(x, c.k)->rank == 4 ? 2 : 1);
    if (c.past_k.id) total = EX(x, "Add", total, scalar_size(x, c.past_k, 2));
    if (!visible_keys(x, ex_in(x, MHA_MASK), total, s.batch, &visible)) return false;
    c.mask = both(x, visible.id ? added(x, visible, ex_type(x, c.q)->dtype) : visible, ex_in(x, MHA_ADDED));
    attend(x, &c, x->n->nout, x->out);
    return true;
}

/* ---- GroupQueryAttention: query, key?, value?, past_key?, past_value?, seqlens_k, total_sequence_length, cos_cache?, sin_cache?,
 * position_ids?, attention_bias?, head_sink?, k_scale?, v_scale? (caches of codes, refused), q_norm_weight?, k_norm_weight?, query_seqlens? (refused) ---- */
enum { GQA_PAST_K = 3, GQA_PAST_V, GQA_LENGTHS, GQA_TOTAL, GQA_COS, GQA_SIN, GQA_POSITIONS, GQA_ADDED, GQA_SINK, GQA_K_SCALE, GQA_V_SCALE, GQA_Q_NORM, GQA_K_NORM,
       GQA_QUERY_LENGTHS };

typedef struct Group {
    Dim batch, length, present;
    int64_t heads, kv_heads, width; /* width of one head */
    bool packed;                    /* keys and values are columns of the query */
} Group;

static const char *read_group(Dims *d, const Node *n, const Type *q, bool packed, Group *s)
{
    int64_t columns;
    *s = (Group){.batch = q->dim[0], .length = q->dim[1], .heads = node_int(n, "num_heads"), .kv_heads = node_int(n, "kv_num_heads"), .packed = packed};
    if (s->heads < 1 || s->kv_heads < 1 || s->heads % s->kv_heads) return "num_heads must be a multiple of kv_num_heads";
    if (s->heads > INT32_MAX) return "num_heads is too large";
    int64_t parts = s->heads + (packed ? 2 * s->kv_heads : 0);
    if (q->rank != 3 || !dim_is_const(d, q->dim[2], &columns) || columns < 1 || columns % parts)
        return "query must have 3 dimensions, the last one known and of whole heads";
    s->width = columns / parts;
    return NULL;
}

static bool infer_group(Infer *c)
{
    Group s;
    for (uint32_t o = 0; o < c->n->nout; o++) out_unknown(c, o);
    if (in_rank(c, 0) < 0) return true;
    if (in_has(c, 1) != in_has(c, 2)) return infer_error(c, "key and value must be given together");
    if (in_has(c, GQA_PAST_K) != in_has(c, GQA_PAST_V)) return infer_error(c, "past_key and past_value must be given together");
    if (in_has(c, GQA_COS) != in_has(c, GQA_SIN)) return infer_error(c, "cos_cache and sin_cache must be given together");
    if (in_has(c, GQA_Q_NORM) != in_has(c, GQA_K_NORM)) return infer_error(c, "q_norm_weight and k_norm_weight must be given together");
    const char *why = read_group(c->d, c->n, in_type(c, 0), !in_has(c, 1), &s);
    if (why) return infer_error(c, "%s", why);
    Dim heads = DIM(c, s.heads), width = DIM(c, s.width);
    if (!rule_has_shape(c, GQA_SINK, 1, &heads, "head_sink and the heads") || !rule_has_shape(c, GQA_Q_NORM, 1, &width, "q_norm_weight and the head size") ||
        !rule_has_shape(c, GQA_K_NORM, 1, &width, "k_norm_weight and the head size"))
        return false;
    if (in_has(c, GQA_PAST_K) && in_rank(c, GQA_PAST_K) != 4) return infer_error(c, "past_key has rank %d, expected 4", in_rank(c, GQA_PAST_K));
    for (uint32_t i = 1; i < 3 && in_has(c, i); i++) {
        if (in_rank(c, i) != 3) return infer_error(c, "key and value must have 3 dimensions");
        if (!require_eq(c, in_dim(c, i, 2), DIM(c, s.kv_heads * s.width), "the last dimension of key and kv_num_heads heads") ||
            !require_eq(c, in_dim(c, i, 1), s.length, "lengths of query and key"))
            return false;
    }
    int64_t window = node_int(c->n, "local_window_size");
    bool evicts = node_int(c->n, "sliding_window_cache");
    if (evicts && (window < 1 || !node_int(c->n, "causal") || !in_has(c, GQA_PAST_K)))
        return infer_error(c, "sliding_window_cache needs local_window_size, causal=1 and past_key");
    if (evicts && !require_ge(c, in_dim(c, GQA_PAST_K, 2), DIM(c, window), "rows of a cache that is a window")) return false;
    Dim total = rule_elem(c, GQA_TOTAL, 0), past = in_has(c, GQA_PAST_K) ? in_dim(c, GQA_PAST_K, 2) : DIM(c, 0);
    Dim present = evicts ? past : dim_known(total) ? dim_max(c->d, past, total) : dim_fresh(c->d, "present", DIM_DATA);
    for (uint32_t o = 1; o < c->n->nout && o < 3; o++) out_shape(c, o, 4, (Dim[]){s.batch, DIM(c, s.kv_heads), present, DIM(c, s.width)});
    return out_shape(c, 0, 3, (Dim[]){s.batch, s.length, DIM(c, s.heads * s.width)});
}

static Val rotated(Expand *x, Val v, int64_t heads, Val positions)
{
    int64_t cos_columns;
    const Type *cache = ex_type(x, x->in[GQA_COS]);
    AttrSet set[] = {SET_INT("num_heads", heads), SET_INT("interleaved", node_int(x->n, "rotary_interleaved")),
                     SET_INT("rotary_embedding_dim", cache->rank == 2 && dim_is_const(x->m->dim, cache->dim[1], &cos_columns) ? 2 * cos_columns : 0)};
    return ex_op(x, NULL, "RotaryEmbedding", set, COUNT_OF(set), (Val[]){v, x->in[GQA_COS], x->in[GQA_SIN], positions}, 4);
}

/* Every head of v by its root mean square, times the weights that all heads have in common. */
static Val normalized(Expand *x, Val v, int64_t heads, Val weight, const char *epsilon)
{
    double own = node_float(x->n, epsilon), e = own != 0 ? own : node_float(x->n, "qk_norm_epsilon");
    AttrSet set[] = {SET_INT("axis", -1), SET_FLOAT("epsilon", (float)e)};
    Val rows = ex_reshape(x, v, (int64_t[]){0, 0, heads, -1}, 4);
    return ex_reshape(x, ex_op(x, NULL, "SimplifiedLayerNormalization", set, COUNT_OF(set), (Val[]){rows, weight}, 2), (int64_t[]){0, 0, -1}, 3);
}

/* A sink takes its part of the softmax and gives nothing: one more key behind all others, whose score is the sink (none: 0) and whose value is 0. */
static void add_sink(Expand *x, Core *c, Val sink, Val total)
{
    static const int64_t key[] = {0, 0, 0, 0, 0, 0, 1, 0}, score[] = {0, 0, 0, 0, 0, 0, 0, 1};
    DType t = ex_type(x, c->mask)->dtype;
    c->k = EX(x, "Pad", c->k, ex_ints(x, key, COUNT_OF(key))), c->v = EX(x, "Pad", c->v, ex_ints(x, key, COUNT_OF(key)));
    c->mask = EX(x, "Pad", c->mask, ex_ints(x, score, COUNT_OF(score)));
    if (!sink.id) return;
    Val last = EX(x, "Equal", count_to(x, EX(x, "Add", total, ex_scalar(x, DT_i64, 1))), total);
    Val each = ex_reshape(x, sink, (int64_t[]){1, -1, 1, 1}, 4);
    c->mask = EX(x, "Add", c->mask, EX(x, "Where", last, each, ex_scalar(x, t, 0)));
}

/* Which keys [T] a query sees, [B, 1, S, T]: those up to its own position, the last local_window_size of them. */
static Val group_visible(Expand *x, Val positions, Val lengths, Val total)
{
    int64_t window = node_int(x->n, "local_window_size");
    Val key = count_to(x, total), here = ex_unsqueeze(x, positions, (int64_t[]){1, 3}, 2), visible;
    if (node_int(x->n, "causal")) visible = EX(x, "LessOrEqual", key, here);
    else visible = EX(x, "LessOrEqual", key, ex_unsqueeze(x, lengths, (int64_t[]){1, 2, 3}, 3));
    if (window > 0) visible = EX(x, "And", visible, EX(x, "Greater", key, EX(x, "Sub", here, ex_scalar(x, DT_i64, (double)window))));
    return visible;
}

/* Of so many positions, how many the window's cache of `room` rows holds: those that no step needs any more go `slack` at a time. */
static Val resident(Expand *x, Val positions, Val room)
{
    Val one = ex_scalar(x, DT_i64, 1), window = ex_scalar(x, DT_i64, (double)node_int(x->n, "local_window_size"));
    Val slack = EX(x, "Max", EX(x, "Add", EX(x, "Sub", room, window), one), one), over = EX(x, "Sub", positions, room);
    Val times = EX(x, "Div", EX(x, "Sub", EX(x, "Add", over, slack), one), slack);
    Val left = EX(x, "Sub", positions, EX(x, "Mul", slack, times));
    return EX(x, "Where", EX(x, "LessOrEqual", over, ex_scalar(x, DT_i64, 0)), positions, left);
}

static bool expand_group(Expand *x)
{
    Group s;
    if (!absent(x, GQA_K_SCALE) || !absent(x, GQA_V_SCALE) || !absent(x, GQA_QUERY_LENGTHS)) return false;
    if (!plain(x, "qk_output", 0) || !plain(x, "kv_cache_bit_width", 0)) return false;
    bool evicts = node_int(x->n, "sliding_window_cache");
    if (evicts && !absent(x, GQA_ADDED)) return false;
    if (read_group(x->m->dim, x->n, ex_type(x, x->in[0]), !ex_has(x, 1), &s)) return expand_error(x, "query has no known rank of 3");
    Core c = {.q = x->in[0], .k = ex_in(x, 1), .v = ex_in(x, 2), .heads = s.heads, .kv_heads = s.kv_heads};
    int64_t q_width = s.heads * s.width, kv_width = s.kv_heads * s.width;
    if (s.packed) c.q = columns(x, x->in[0], 0, q_width), c.k = columns(x, x->in[0], q_width, kv_width), c.v = columns(x, x->in[0], q_width + kv_width, kv_width);

    if (ex_has(x, GQA_Q_NORM)) {
        c.q = normalized(x, c.q, s.heads, x->in[GQA_Q_NORM], "q_norm_epsilon");
        c.k = normalized(x, c.k, s.kv_heads, x->in[GQA_K_NORM], "k_norm_epsilon");
    }
    /* The first row of this call is row `start` of an entry: its length so far less what comes now; a prompt of entries padded to one length starts at 0. */
    Val length = scalar_size(x, x->in[0], 1), lengths = ex_reshape(x, ex_cast(x, x->in[GQA_LENGTHS], DT_i64), (int64_t[]){-1}, 1);
    Val start = EX(x, "Max", EX(x, "Sub", lengths, EX(x, "Sub", length, ex_scalar(x, DT_i64, 1))), ex_scalar(x, DT_i64, 0));
    Val places = EX(x, "Add", ex_unsqueeze(x, start, (int64_t[]){1}, 1), count_to(x, length));
    Val total = ex_cast(x, ex_reshape(x, x->in[GQA_TOTAL], NULL, 0), DT_i64);
    Val room = ex_has(x, GQA_PAST_K) ? scalar_size(x, x->in[GQA_PAST_K], 2) : (Val){0}, drop = {0};
    if (room.id) total = EX(x, "Max", total, room);
    if (node_int(x->n, "do_rotary")) {
        if (!ex_has(x, GQA_COS)) return expand_error(x, "do_rotary needs cos_cache and sin_cache");
        Val positions = ex_has(x, GQA_POSITIONS) ? x->in[GQA_POSITIONS] : places;
        c.q = rotated(x, c.q, s.heads, positions), c.k = rotated(x, c.k, s.kv_heads, positions);
    }
    if (evicts) { /* places are those behind the rows that the window holds; what leaves it is still seen by this call's first rows */
        Val held = resident(x, start, room), after = EX(x, "Add", lengths, ex_scalar(x, DT_i64, 1));
        drop = EX(x, "Sub", EX(x, "Sub", after, resident(x, after, room)), EX(x, "Sub", start, held));
        start = held, total = EX(x, "Add", room, length);
        places = EX(x, "Add", ex_unsqueeze(x, start, (int64_t[]){1}, 1), count_to(x, length));
    }
    Val *part[] = {&c.k, &c.v};
    for (uint32_t i = 0; i < 2; i++) {
        Val in[] = {*part[i], start, total, ex_in(x, GQA_PAST_K + i), {0}}, kept[] = {*part[i], start, room, in[3], drop};
        AttrSet set[] = {SET_INT("heads", s.kv_heads)};
        *part[i] = ex_op(x, "octet", "KvAppend", set, COUNT_OF(set), in, COUNT_OF(in));
        if (x->n->nout > i + 1) x->out[i + 1] = evicts ? ex_op(x, "octet", "KvAppend", set, COUNT_OF(set), kept, COUNT_OF(kept)) : *part[i];
    }
    c.mask = group_visible(x, places, lengths, total);
    bool sinks = ex_has(x, GQA_SINK) || node_int(x->n, "smooth_softmax");
    DType t = ex_type(x, x->in[0])->dtype;
    if (ex_has(x, GQA_ADDED) || sinks)
        c.mask = EX(x, "Where", c.mask, ex_has(x, GQA_ADDED) ? x->in[GQA_ADDED] : ex_scalar(x, t, 0), ex_scalar(x, t, -INFINITY));
    if (sinks) add_sink(x, &c, ex_in(x, GQA_SINK), total);
    attend(x, &c, 1, x->out);
    return true;
}

/* KvAppend: rows [B, S, N * H] put behind the first start[b] rows of a cache [B, N, P, H], size rows in all; zeros behind them. With drop, all but the
 * first drop[b] of these, as many as there is room for. */
static bool infer_append(Infer *c)
{
    int64_t heads = node_int(c->n, "heads");
    Dim width, size = rule_elem(c, 2, 0);
    if (in_rank(c, 0) != 3 || heads < 1 || !dim_exact(c->d, in_dim(c, 0, 2), DIM(c, heads), &width)) return infer_error(c, "rows of whole heads are expected");
    if (!dim_known(size)) size = dim_fresh(c->d, "present", DIM_DATA);
    Dim batch = in_dim(c, 0, 0), cache[] = {batch, DIM(c, heads), in_has(c, 3) ? in_dim(c, 3, 2) : size, width};
    if (!rule_has_shape(c, 3, 4, cache, "the cache and the rows put behind it") ||
        !rule_has_shape(c, 1, 1, &batch, "seqlens_k and the batch") || !rule_has_shape(c, 4, 1, &batch, "rows to drop and the batch"))
        return false;
    return out_shape(c, 0, 4, (Dim[]){batch, cache[1], size, width});
}

static void lower_append(Lower *l)
{
    if (!low_sized(l)) return;
    Kernel *k = l->k;
    int rows = low_in(l, 0), past = low_in(l, 3), drop = low_in(l, 4), out = low_out(l, 0), axis[4];
    Expr at[MAX_RANK] = {0};
    low_axes(l, out, axis), low_index(l, axis, 4, at);
    Expr start = low_i64(l, expr_load(k, low_in(l, 1), at)), count = low_dim(l, rows, 1), zero = expr_index(k, 0);
    Expr before = past ? low_dim(l, past, 2) : zero, size = low_dim(l, out, 2), place = at[2], dropped = drop ? low_i64(l, expr_load(k, drop, at)) : zero;
    if (drop) place = expr_add(k, place, dropped);
    Expr row = expr_sub(k, place, start);
    Expr from[MAX_RANK] = {at[0], row, expr_add(k, expr_mul(k, at[1], low_dim(l, out, 3)), at[3])};
    Expr now = expr_and(k, expr_le(k, start, place), expr_lt(k, row, count)), kept[MAX_RANK] = {at[0], at[1], place, at[3]};
    Expr value = expr_guard(k, now, expr_load(k, rows, from), low_const(l, low_type(l, out), 0));
    if (past) value = expr_guard(k, expr_lt(k, place, start), expr_load(k, past, kept), value);
    Expr fits = drop ? expr_le(k, zero, dropped) : expr_le(k, expr_add(k, start, count), size);
    low_stage(l, out, axis, 4, value)->check = expr_and(k, expr_and(k, expr_le(k, zero, start), expr_le(k, start, before)), fits);
}

/* ---- RotaryEmbedding: input, position_ids ([1]: of the first row; or [B, S]), cos_cache, sin_cache ---- */
static bool infer_rotary(Infer *c) { return in_rank(c, 0) < 0 ? out_unknown(c, 0) : out_like(c, 0, 0); }

static bool expand_rotary(Expand *x)
{
    Dims *d = x->m->dim;
    const Type *in = ex_type(x, x->in[0]), *cache = ex_type(x, x->in[2]);
    int64_t heads = node_int(x->n, "num_heads"), turned = node_int(x->n, "rotary_embedding_dim"), columns, half;
    Val ids = x->in[1];
    if (!plain(x, "is_packed_batching", 0)) return false;
    if (node_float(x->n, "scale") != 1) return expand_error(x, "scale=%g is not supported", node_float(x->n, "scale"));
    if (in->rank != 3 && in->rank != 4) return expand_error(x, "input has rank %d, expected 3 or 4", in->rank);
    if (heads == 0 && in->rank == 3) { /* the caches tell the size of a head */
        if (cache->rank != 2 || !dim_is_const(d, in->dim[2], &columns) || !dim_is_const(d, cache->dim[1], &half) || half < 1 || columns % (2 * half))
            return expand_error(x, "without num_heads the last dimension of input must be heads of twice the columns of cos_cache");
        heads = columns / (2 * half);
    }
    if (ex_type(x, ids)->rank != 2) {
        Val row = count_to(x, scalar_size(x, x->in[0], in->rank == 4 ? 2 : 1));
        ids = ex_unsqueeze(x, EX(x, "Add", ex_reshape(x, ids, (int64_t[]){1}, 1), row), (int64_t[]){0}, 1);
    }
    AttrSet set[] = {SET_INT("interleaved", node_int(x->n, "interleaved")), SET_INT("rotary_embedding_dim", turned), SET_INT("num_heads", heads)};
    x->out[0] = ex_op(x, NULL, "RotaryEmbedding", set, heads ? 3 : 2, (Val[]){x->in[0], x->in[2], x->in[3], ids}, 4);
    return true;
}

/* clang-format off */
#define MS .domain = "com.microsoft", .since = 1
const OpDef ops_microsoft_attention[] = {
    OP(Attention, MS, .sig = "input:T weights:T bias:T? mask_index:i32? past:T? attention_bias:T? past_sequence_length:i32? -> output:T present:T?", .T = "float",
       .attrs = "do_rotary:int=0 mask_filter_value:float=-10000 num_heads:int! past_present_share_buffer:int=0 qkv_hidden_sizes:ints rotary_embedding_dim:int=0 "
                "scale:float=0 unidirectional:int=0",
       .infer = infer_attention, .expand = expand_attention, .flags = OP_UNRANKED),
    OP(QAttention, MS, .T = "u8 i8", .U = "u8 i8", .V = "f32 f16",
       .sig = "input:T weight:U bias:V input_scale:V weight_scale:V mask_index:i32? input_zero_point:T? weight_zero_point:U? past:V? -> output:V present:V?",
       .attrs = "do_rotary:int=0 mask_filter_value:float=-10000 num_heads:int! past_present_share_buffer:int=0 scale:float=0 unidirectional:int=0",
       .infer = infer_qattention, .expand = expand_qattention, .flags = OP_UNRANKED),
    OP(MultiHeadAttention, MS, .T = "float",
       .sig = "query:T key:T? value:T? bias:T? key_padding_mask:i32? attention_bias:T? past_key:T? past_value:T? past_sequence_length:i32? cache_indirection:i32? -> "
              "output:T present_key:T? present_value:T? qk:T?",
       .attrs = "mask_filter_value:float=-10000 num_heads:int! scale:float=0 unidirectional:int=0", .infer = infer_multi, .expand = expand_multi, .flags = OP_UNRANKED),
    OP(GroupQueryAttention, MS, .T = "float",
       .sig = "query:T key:T? value:T? past_key:T? past_value:T? seqlens_k:i32 total_sequence_length:i32 cos_cache:T? sin_cache:T? position_ids:i64? attention_bias:T? "
              "head_sink:T? k_scale:f32? v_scale:f32? q_norm_weight:T? k_norm_weight:T? query_seqlens:i32? -> output:T present_key:T? present_value:T?",
       .attrs = "causal:int=1 do_rotary:int=0 k_norm_epsilon:float=0 k_quant_type:string=NONE kv_cache_bit_width:int=0 kv_num_heads:int! local_window_size:int=-1 num_heads:int! "
                "q_norm_epsilon:float=0 qk_norm_epsilon:float=1e-06 qk_output:int=0 rotary_interleaved:int=0 scale:float=0 sliding_window_cache:int=0 smooth_softmax:int=0 softcap:float=0 "
                "v_quant_type:string=NONE",
       .infer = infer_group, .expand = expand_group, .flags = OP_UNRANKED),
    OP(KvAppend, .domain = "octet", .since = 1, .sig = "rows:T start:i64 size:i64 past:T? drop:i64? -> present:T", .T = "float", .attrs = "heads:int!", .infer = infer_append, .lower = lower_append),
    OP(RotaryEmbedding, MS, .sig = "input:T position_ids:i64 cos_cache:T sin_cache:T -> output:T", .T = "float",
       .attrs = "interleaved:int=0 is_packed_batching:int=0 num_heads:int=0 rotary_embedding_dim:int=0 scale:float=1", .infer = infer_rotary, .expand = expand_rotary,
       .flags = OP_UNRANKED),
    {0}
};
/* clang-format on */
