/* lower.c - a graph becomes one program: a kernel of many stages.
 *
 * Comes in: a graph whose composite operators have been expanded. Goes out: a buffer for every value and, node by
 * node, the stages its operator's row appends (its `lower`, or low_body of its scalar body). Indices are logical;
 * nothing here knows a layout, a target or an operator. What cannot be lowered is reported with its node, all of it in
 * one run. */
#include "ir/lower.h"
#include "ir/expr.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* ---- what a row's `lower` uses ---- */
static int buf_of_val(const Lower *l, Val v) { return v.id ? l->buf_of[v.id] : 0; }

int low_in(const Lower *l, uint32_t i) { return buf_of_val(l, node_in(l->g, l->n, i)); }

int low_out(const Lower *l, uint32_t o)
{
    assert(o < l->n->nout);
    return buf_of_val(l, node_out(l->n, o));
}

int low_rank(const Lower *l, int buf) { return l->k->buf.at[buf].rank; }

Expr low_dim(const Lower *l, int buf, int axis)
{
    const Buf *b = &l->k->buf.at[buf];
    if (axis < 0) axis += b->rank;
    assert(axis >= 0 && axis < b->rank);
    return b->dim[axis];
}

DType low_type(const Lower *l, int buf) { return l->k->buf.at[buf].type; }

int low_temp(Lower *l, DType t, int rank, const Expr *dim)
{
    Buf b = {.kind = BUF_TMP, .type = t, .rank = rank};
    if (rank) memcpy(b.dim, dim, (size_t)rank * sizeof *dim);
    return kernel_buf(l->k, b);
}

int low_axis(Lower *l, Expr extent) { return kernel_axis(l->k, NULL, extent); }

void low_axes(Lower *l, int buf, int *axis)
{
    for (int d = 0; d < low_rank(l, buf); d++) axis[d] = low_axis(l, low_dim(l, buf, d));
}

void low_index(Lower *l, const int *axis, int n, Expr *at)
{
    for (int d = 0; d < n; d++) at[d] = expr_axis(l->k, axis[d]);
}

/* A size that may be 1 at run time and is not known equal to the other one gives way then. */
Expr low_load_broadcast(Lower *l, int buf, const int *axis, int rank)
{
    Kernel *k = l->k;
    Expr at[MAX_RANK] = {0}, zero = expr_index(k, 0), one = expr_index(k, 1);
    int own = low_rank(l, buf);
    assert(own <= rank);
    for (int d = 0; d < own; d++) {
        int a = axis[rank - own + d];
        Expr size = low_dim(l, buf, d), i = expr_axis(k, a);
        if (size == k->axis.at[a].extent) at[d] = i;
        else at[d] = expr_prim(k, P_select, expr_prim(k, P_eq, size, one, 0), zero, i);
    }
    return expr_load(k, buf, at);
}

static DType type_of(const Lower *l, Expr e) { return (DType)expr_node(l->k, e)->type; }

/* Between float types the store rounds; everything else is the row's own business. */
static Expr fit(Lower *l, Expr e, DType t)
{
    DType from = type_of(l, e);
    assert(from == t || (dtype_is_float(from) && dtype_is_float(t)));
    return from == t ? e : expr_cast(l->k, t, e);
}

static Compute *stage(Lower *l, int out, const int *space, int n, Compute c)
{
    assert(n >= 0 && n <= MAX_RANK);
    c.out = out, c.rank = n, c.loc = l->n ? l->n->loc : NULL;
    if (n) memcpy(c.space, space, (size_t)n * sizeof *space);
    low_index(l, space, n, c.at);
    return &l->k->stage.at[vec_push(l->k->mem, &l->k->stage, c)];
}

Compute *low_stage(Lower *l, int out, const int *space, int n, Expr value)
{
    return stage(l, out, space, n, (Compute){.value = fit(l, value, low_type(l, out))});
}

Compute *low_reduce(Lower *l, int out, const int *space, int n, const int *reduce, int nr, Prim how, Expr value,
                    Expr epilogue)
{
    Compute c = {.how = how, .reduces = nr};
    DType t = low_type(l, out), acc = dtype_compute(type_of(l, value));
    assert(how != P_NONE && nr >= 0 && nr <= MAX_RANK);
    c.value = fit(l, value, acc);
    if (nr) memcpy(c.reduce, reduce, (size_t)nr * sizeof *reduce);
    if (epilogue) c.epilogue = fit(l, epilogue, t);
    else if (acc != t) c.epilogue = fit(l, expr_it(l->k, acc), t);
    return stage(l, out, space, n, c);
}

Expr low_linear(Lower *l, int buf, const Expr *at)
{
    Expr e = expr_index(l->k, 0);
    for (int d = 0; d < low_rank(l, buf); d++) e = expr_add(l->k, expr_mul(l->k, e, low_dim(l, buf, d)), at[d]);
    return e;
}

void low_delinear(Lower *l, int buf, Expr linear, Expr *at)
{
    Expr stride = expr_index(l->k, 1);
    for (int d = low_rank(l, buf) - 1; d >= 0; d--) {
        Expr q = expr_div(l->k, linear, stride);
        at[d] = d ? expr_mod(l->k, q, low_dim(l, buf, d)) : q; /* the first is below its size already */
        stride = expr_mul(l->k, stride, low_dim(l, buf, d));
    }
}

Expr low_const(Lower *l, DType t, double v)
{
    return dtype_is_float(t) ? expr_float(l->k, t, v) : expr_int(l->k, t, (int64_t)v);
}

void low_refuse(Lower *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    l->refused = true;
    if (l->diag) diag_error(l->diag, l->n ? l->n->loc : NULL, "%s", arena_vprintf(l->k->mem, fmt, args));
    va_end(args);
}

int low_share(Lower *l) { return (int)l->k->stage.n + 1; /* every group of one node starts at another stage */ }

/* The layout pass walks a buffer in the order its layout gives: channels last is { 0, spatial..., 1 }. */
void low_channels_last(Lower *l, int buf)
{
    Buf *b = &l->k->buf.at[buf];
    if (b->rank < 3 || b->layout.n || (b->kind != BUF_TMP && b->kind != BUF_LOCAL)) return;
    int n = 0;
    for (int d = 0; d < b->rank; d++)
        b->layout.axis[n++] = (LayoutAxis){.dim = d == 0 ? 0 : d + 1 < b->rank ? d + 1 : 1, .div = 1};
    b->layout.n = n;
}

/* ---- elementwise bodies ---- */
enum { MAX_NAMES = 48 };
typedef struct Names {
    const char *name[MAX_NAMES];
    Expr e[MAX_NAMES];
    int n;
} Names;

static void bind(Names *b, const char *name, Expr e)
{
    assert(b->n < MAX_NAMES);
    b->name[b->n] = name, b->e[b->n++] = e;
}

/* `lowest` and `highest` stand for the ends of the type, which max and min then drop. */
static Expr fallback(Lower *l, const char *text, DType t)
{
    Prim end = !strcmp(text, "lowest") ? P_max : !strcmp(text, "highest") ? P_min : P_NONE;
    if (end) return reduce_identity(l->k, end, t);
    return low_const(l, t, strtod(text, NULL));
}

static void bind_inputs(Lower *l, Names *b, const int *axis, int rank, DType t)
{
    const OpSchema *s = op_schema(l->n->op);
    for (uint32_t i = 0; i < s->nin; i++) {
        int buf = low_in(l, i);
        if (!buf && !s->in[i].fallback) continue;
        if (!buf) {
            bind(b, s->in[i].name, fallback(l, s->in[i].fallback, t));
            continue;
        }
        Expr e = low_load_broadcast(l, buf, axis, rank);
        bind(b, s->in[i].name, expr_cast(l->k, dtype_compute(low_type(l, buf)), e));
    }
}

static void bind_attrs(Lower *l, Names *b)
{
    const OpSchema *s = op_schema(l->n->op);
    for (uint32_t i = 0; i < s->nattr; i++) {
        const Attr *a = &l->n->attr[i];
        if (a->kind == ATTR_FLOAT) bind(b, s->attr[i].name, expr_float(l->k, DT_f64, (double)a->f));
        if (a->kind == ATTR_INT) bind(b, s->attr[i].name, expr_index(l->k, a->i));
    }
}

void low_body(Lower *l, const char *body)
{
    int out = low_out(l, 0), rank = low_rank(l, out), axis[MAX_RANK];
    DType to = low_type(l, out), t = dtype_compute(to);
    Names b = {.n = 0};
    const char *error = NULL;
    low_axes(l, out, axis);
    bind_inputs(l, &b, axis, rank, t);
    bind_attrs(l, &b);
    Expr e = scalar_parse(l->k, body, b.name, b.e, b.n, &error);
    if (!e) {
        low_refuse(l, "body of the operator: %s", error);
        return;
    }
    low_stage(l, out, axis, rank, expr_cast(l->k, to, expr_cast(l->k, t, e)));
}

/* ---- the whole graph ---- */
typedef struct Build {
    Lower l;
    int *buf_of;
    bool ok;
} Build;

static bool refuse(Build *b, const Loc *loc, const char *name, const char *what)
{
    b->ok = false;
    return b->l.diag ? diag_error(b->l.diag, loc, "%s%s%s%s", name ? "'" : "", name ? name : "a value",
                                  name ? "' " : " ", what)
                     : false;
}

static const Loc *loc_of(const Graph *g, const Value *v) { return v->def == NO_NODE ? NULL : g->node.at[v->def].loc; }

/* A buffer of the value's type; reports what has no fixed type. */
static int value_buf(Build *b, Val v, BufKind kind)
{
    const Graph *g = b->l.g;
    const Value *x = graph_val(g, v);
    Buf buf = {.kind = kind, .type = x->type.dtype, .rank = x->type.rank, .source = v.id};
    if (!buf.type || buf.rank < 0)
        return refuse(b, loc_of(g, x), x->name, "has no type that is known before it runs"), 0;
    if (dtypes[buf.type].cls == DC_OTHER) {
        const char *what =
            arena_printf(b->l.k->mem, "has elements of type %s, which is not supported", dtypes[buf.type].name);
        return refuse(b, loc_of(g, x), x->name, what), 0;
    }
    for (int d = 0; d < buf.rank; d++) {
        if (!dim_known(x->type.dim[d]))
            return refuse(b, loc_of(g, x), x->name, "has a size that is not known before it runs"), 0;
        buf.dim[d] = expr_dim(b->l.k, x->type.dim[d]);
    }
    if (kind == BUF_CONST) buf.data = x->konst;
    return kernel_buf(b->l.k, buf);
}

static bool is_konst(const Graph *g, Val v) { return graph_val(g, v)->konst != NULL; }

static void lower_inputs(Build *b)
{
    const Graph *g = b->l.g;
    for (uint32_t i = 0; i < g->input.n; i++) b->buf_of[g->input.at[i].id] = value_buf(b, g->input.at[i], BUF_IN);
}

/* An output that no node makes, or that is listed before, has a buffer of its own that is copied to. */
static void lower_outputs(Build *b, int *copy)
{
    const Graph *g = b->l.g;
    for (uint32_t i = 0; i < g->output.n; i++) {
        Val v = g->output.at[i];
        int buf = value_buf(b, v, BUF_OUT);
        if (is_konst(g, v) || b->buf_of[v.id]) copy[i] = buf;
        else b->buf_of[v.id] = buf;
    }
}

static void lower_constants(Build *b, const uint16_t *uses)
{
    const Graph *g = b->l.g;
    for (uint32_t i = 1; i < g->val.n; i++)
        if (g->val.at[i].konst && uses[i] && !b->buf_of[i] && dtypes[g->val.at[i].type.dtype].cls != DC_OTHER)
            b->buf_of[i] = value_buf(b, (Val){i}, BUF_CONST);
}

static bool lower_node(Build *b, const Node *n)
{
    b->l.n = n;
    for (uint32_t o = 0; o < n->nout; o++) {
        Val v = node_out(n, o);
        if (!b->buf_of[v.id]) b->buf_of[v.id] = value_buf(b, v, BUF_TMP);
        if (!b->buf_of[v.id]) return false;
    }
    for (uint32_t i = 0; i < n->nin; i++) {
        Val v = node_in(b->l.g, n, i);
        if (v.id && !b->buf_of[v.id] && !is_konst(b->l.g, v)) return false; /* reported where it was made */
    }
    if (n->op->lower) n->op->lower(&b->l);
    else if (n->op->body) low_body(&b->l, n->op->body);
    else low_refuse(&b->l, "operator %s is not supported", n->op->name);
    return !b->l.refused;
}

static void lower_copy(Build *b, int from, int to)
{
    int axis[MAX_RANK];
    Expr at[MAX_RANK] = {0};
    b->l.n = NULL;
    low_axes(&b->l, to, axis);
    low_index(&b->l, axis, low_rank(&b->l, to), at);
    low_stage(&b->l, to, axis, low_rank(&b->l, to), expr_load(b->l.k, from, at));
}

static Kernel *build(Build *b)
{
    const Graph *g = b->l.g;
    Arena *mem = b->l.k->mem;
    int *copy = NEW_ARRAY(mem, int, g->output.n + 1);
    const bool *live = graph_live(g, mem);
    lower_inputs(b);
    lower_outputs(b, copy);
    lower_constants(b, graph_uses(g, mem));
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        if (!live[i] || (n->nout && is_konst(g, n->out))) continue;
        if (!lower_node(b, n)) b->ok = false;
        b->l.refused = false;
    }
    for (uint32_t i = 0; i < g->output.n && b->ok; i++)
        if (copy[i]) lower_copy(b, b->buf_of[g->output.at[i].id], copy[i]);
    return b->ok ? b->l.k : NULL;
}

static Build build_new(const Graph *g, Arena *mem, const char *name, Diag *diag)
{
    Build b = {.ok = true, .buf_of = NEW_ARRAY(mem, int, g->val.n)};
    b.l = (Lower){.k = kernel_new(mem, g->module->dim, name), .g = g, .buf_of = b.buf_of, .diag = diag};
    return b;
}

Kernel *lower_graph(const Graph *g, Arena *mem, int **buf_of)
{
    Build b = build_new(g, mem, g->name, g->module->diag);
    Kernel *k = build(&b);
    *buf_of = b.buf_of;
    return k;
}

/* ---- one node on constants ---- */
static bool constant_type(const Graph *g, Val v, int64_t *dim)
{
    const Type *t = val_type(g, v);
    if (!t->dtype || t->rank < 0 || dtypes[t->dtype].cls == DC_OTHER) return false;
    for (int d = 0; d < t->rank; d++)
        if (!dim_is_const(g->module->dim, t->dim[d], &dim[d])) return false;
    return true;
}

/* A composite operator folds as the operators it is made of, each of which folds by itself as it is emitted. */
static bool eval_expansion(const Graph *g, const Node *n, Arena *mem, const Tensor **out)
{
    Graph *to = graph_new(g->module, mem, "fold");
    Val *in = NEW_ARRAY(mem, Val, n->nin + 1), result[16] = {{0}};
    if (n->nout > COUNT_OF(result)) return false;
    for (uint32_t i = 0; i < n->nin; i++) {
        Val v = node_in(g, n, i);
        if (v.id) in[i] = graph_const(to, graph_val(g, v)->konst, NULL);
    }
    Node mapped = *n;
    mapped.in = to->operand.n;
    for (uint32_t i = 0; i < n->nin; i++) vec_push(to->mem, &to->operand, in[i]);
    Expand x = {.g = to, .m = to->module, .n = &mapped, .in = in, .out = result, .loc = n->loc};
    if (!n->op->expand(&x)) return false;
    for (uint32_t o = 0; o < n->nout; o++) {
        out[o] = result[o].id ? graph_val(to, result[o])->konst : NULL;
        if (!out[o]) return false;
    }
    return true;
}

static bool eval_stages(const Graph *g, const Node *n, Arena *mem, const Tensor **out)
{
    Arena scratch = {0};
    Build b = build_new(g, &scratch, "fold", NULL);
    void **data = NULL;
    Kernel *k = b.l.k;
    for (uint32_t i = 0; i < n->nin && b.ok; i++) {
        Val v = node_in(g, n, i);
        if (v.id && !b.buf_of[v.id]) b.buf_of[v.id] = value_buf(&b, v, BUF_CONST);
    }
    for (uint32_t o = 0; o < n->nout && b.ok; o++) b.buf_of[node_out(n, o).id] = value_buf(&b, node_out(n, o), BUF_OUT);
    bool ok = b.ok && lower_node(&b, n);
    if (ok) data = NEW_ARRAY(&scratch, void *, k->buf.n);
    for (uint32_t i = 1; ok && i < k->buf.n; i++) {
        Buf *buf = &k->buf.at[i];
        int64_t dim[MAX_RANK];
        buf->layout.n = 0;
        for (int d = 0; d < buf->rank; d++) ok = ok && expr_is_index(k, buf->dim[d], &dim[d]);
        if (ok) data[i] = (void *)(buf->data ? buf->data->data : tensor_new(&scratch, buf->type, buf->rank, dim)->data);
    }
    ok = ok && interp_compute(k, NULL, data) == 0;
    for (uint32_t o = 0; o < n->nout && ok; o++) {
        int64_t dim[MAX_RANK];
        Val v = node_out(n, o);
        const Type *t = val_type(g, v);
        ok = constant_type(g, v, dim);
        if (!ok) break;
        Tensor *x = tensor_new(mem, t->dtype, t->rank, dim);
        if (x->data) memcpy((void *)x->data, data[b.buf_of[v.id]], tensor_bytes(x));
        out[o] = x;
    }
    arena_drop(&scratch);
    return ok;
}

bool lower_eval(const Graph *g, const Node *n, Arena *mem, const Tensor **out)
{
    int64_t dim[MAX_RANK];
    for (uint32_t i = 0; i < n->nin; i++) {
        Val v = node_in(g, n, i);
        if (v.id && (!graph_val(g, v)->konst || !constant_type(g, v, dim))) return false;
    }
    if (!n->op->lower && !n->op->body) return n->op->expand && eval_expansion(g, n, mem, out);
    for (uint32_t o = 0; o < n->nout; o++)
        if (!constant_type(g, node_out(n, o), dim)) return false;
    return eval_stages(g, n, mem, out);
}
