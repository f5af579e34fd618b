/* interpret.c - buffers for every step of a lowered graph, filled, run by interp_compute(), read back. */
#include "frontend/interpret.h"
#include "ir/lower.h"
#include "runtime/include/octet.h"
#include <inttypes.h>

static const int64_t LIMIT = (int64_t)1 << 34; /* bytes a buffer may have here */

/* The sizes of the call: every free size is an axis of some input, or an element of one. */
static bool bind_symbols(const Graph *g, const Tensor *const *in, int64_t *symbol, Diag *d)
{
    Dims *dims = g->module->dim;
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Type *t = val_type(g, g->input.at[i]);
        const char *name = graph_val(g, g->input.at[i])->name;
        if (in[i]->type != t->dtype)
            return diag_error(d, NULL, "input '%s' has type %s, expected %s", name, dtypes[in[i]->type].name,
                              dtypes[t->dtype].name);
        if (in[i]->rank != t->rank)
            return diag_error(d, NULL, "input '%s' has rank %d, expected %d", name, in[i]->rank, t->rank);
        for (int a = 0; a < t->rank; a++) {
            uint32_t s;
            if (dim_is_symbol(dims, t->dim[a], &s)) symbol[s] = in[i]->dim[a];
        }
        const Value *v = graph_val(g, g->input.at[i]);
        for (uint32_t k = 0; v->elem && k < v->elems && k < tensor_count(in[i]); k++) {
            uint32_t s;
            if (dim_is_symbol(dims, v->elem[k], &s)) symbol[s] = dtype_load_int(in[i]->type, in[i]->data, k);
        }
    }
    return true;
}

static bool check_sizes(const Graph *g, const Tensor *const *in, const int64_t *symbol, Diag *d)
{
    Dims *dims = g->module->dim;
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Type *t = val_type(g, g->input.at[i]);
        for (int a = 0; a < t->rank; a++) {
            int64_t want;
            if (!dim_eval(dims, t->dim[a], symbol, &want) || want != in[i]->dim[a])
                return diag_error(d, NULL, "input '%s': axis %d is %" PRId64 ", expected %" PRId64,
                                  graph_val(g, g->input.at[i])->name, a, in[i]->dim[a], want);
        }
    }
    const Guard *guard;
    uint32_t n = dim_guards(dims, &guard);
    for (uint32_t i = 0; i < n; i++) {
        int64_t a, b, when = 1;
        if (guard[i].when.id && (!dim_eval(dims, guard[i].when, symbol, &when) || !when)) continue;
        if (!dim_eval(dims, guard[i].a, symbol, &a) || !dim_eval(dims, guard[i].b, symbol, &b))
            return diag_error(d, guard[i].loc, "sizes too large");
        const bool holds[] = {
            [GUARD_EQ] = a == b, [GUARD_GE] = a >= b, [GUARD_EQ_OR_ONE] = a == b || a == 1, [GUARD_NE] = a != b};
        if (!holds[guard[i].kind])
            return diag_error(d, guard[i].loc, "sizes do not fit: %s (%" PRId64 ", %" PRId64 ")", guard[i].why, a, b);
    }
    return true;
}

/* Does a size depend on what only running tells? Sizes and elements of inputs are known. */
static bool is_told_by_data(const Graph *g, const Kernel *k, Expr e)
{
    ExprNode n = *expr_node(k, e);
    bool told = n.kind == E_SYM && !graph_knows_size(g, (Dim){n.id});
    for (int i = 0; n.kind == E_PRIM && i < prims[n.prim].arity; i++) told = told || is_told_by_data(g, k, n.arg[i]);
    return told;
}

/* A size of a buffer: an expression over sizes only. */
static bool eval_size(const Kernel *k, Expr e, const int64_t *symbol, int64_t *v)
{
    ExprNode n = *expr_node(k, e);
    int64_t a = 0, b = 0, c = 0;
    if (n.kind == E_INT) return *v = n.u.i, true;
    if (n.kind == E_SYM) return dim_eval(k->dim, (Dim){n.id}, symbol, v);
    if (n.kind != E_PRIM || !eval_size(k, n.arg[0], symbol, &a)) return false;
    if (prims[n.prim].arity > 1 && !eval_size(k, n.arg[1], symbol, &b)) return false;
    if (prims[n.prim].arity > 2 && !eval_size(k, n.arg[2], symbol, &c)) return false;
    switch ((Prim)n.prim) {
    case P_add: *v = a + b; return true;
    case P_sub: *v = a - b; return true;
    case P_mul: *v = a * b; return true;
    case P_min: *v = a < b ? a : b; return true;
    case P_max: *v = a > b ? a : b; return true;
    case P_lt: *v = a < b; return true;
    case P_le: *v = a <= b; return true;
    case P_eq: *v = a == b; return true;
    case P_select: *v = a ? b : c; return true;
    case P_div: *v = b ? a / b : 0; return b != 0;
    case P_mod: *v = b ? a % b : 0; return b != 0;
    default: return false;
    }
}

/* A zeroed tensor with the sizes of a buffer in this call. */
static Tensor *buffer_tensor(const Graph *g, const Kernel *k, int buf, const int64_t *symbol, Arena *mem, Diag *d)
{
    const Buf *b = &k->buf.at[buf];
    int64_t dim[MAX_RANK], count = 1;
    for (int i = 0; i < b->rank; i++) {
        if (is_told_by_data(g, k, b->dim[i]) || !eval_size(k, b->dim[i], symbol, &dim[i]) || dim[i] < 0)
            return diag_error(d, NULL, "sizes that depend on data cannot be interpreted"), NULL;
        if (dim[i] && count > LIMIT / 16 / dim[i]) return diag_error(d, NULL, "a tensor is too large"), NULL;
        count *= dim[i];
    }
    return tensor_new(mem, b->type, b->rank, dim);
}

/* Every stage's condition, and which buffers a stage that runs writes: sizes of the others may be anything. */
static bool *written_buffers(const Graph *g, Kernel *k, Arena *mem, const int64_t *symbol)
{
    Dim *wanted = NEW_ARRAY(mem, Dim, k->buf.n);
    bool *written = NEW_ARRAY(mem, bool, k->buf.n);
    int64_t runs;
    for (uint32_t b = 1, o = 0; b < k->buf.n; b++) {
        if (k->buf.at[b].kind != BUF_OUT) continue;
        Dim when = graph_when(g, g->output.at[o++]);
        wanted[b] = when.id ? when : dim_const(k->dim, 1);
    }
    program_demand(k, wanted);
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *s = &k->stage.at[i];
        if (s->when && eval_size(k, s->when, symbol, &runs) && !runs) continue;
        written[s->out] = true;
        if (s->keep) written[expr_node(k, s->keep)->id] = true;
    }
    return written;
}

/* Loops may be bounded by data where no size of a buffer is. */
static bool know_loops(const Graph *g, const Kernel *k, const bool *written, Diag *d)
{
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *s = &k->stage.at[i];
        bool told = false;
        for (int a = 0; a < s->rank; a++) told = told || is_told_by_data(g, k, k->axis.at[s->space[a]].extent);
        for (int a = 0; a < s->reduces; a++) told = told || is_told_by_data(g, k, k->axis.at[s->reduce[a]].extent);
        if (told && written[s->out]) return diag_error(d, s->loc, "loops that depend on data cannot be interpreted");
    }
    return true;
}

bool interpret(const Graph *g, Kernel *k, Arena *mem, const Tensor *const *in, const Tensor **out, Diag *d)
{
    int64_t *symbol = NEW_ARRAY(mem, int64_t, dim_symbols(g->module->dim) + 1);
    if (!bind_symbols(g, in, symbol, d) || !check_sizes(g, in, symbol, d)) return false;
    Tensor **made = NEW_ARRAY(mem, Tensor *, k->buf.n);
    void **data = NEW_ARRAY(mem, void *, k->buf.n);
    uint32_t inputs = 0, outputs = 0;
    const bool *written = written_buffers(g, k, mem, symbol);
    for (uint32_t b = 1; b < k->buf.n; b++) {
        BufKind kind = k->buf.at[b].kind;
        if (kind == BUF_IN) data[b] = (void *)in[inputs++]->data;
        else if (kind == BUF_CONST) data[b] = (void *)k->buf.at[b].data->data;
        else if (!written[b] && kind != BUF_OUT) continue;
        else if (!(made[b] = buffer_tensor(g, k, (int)b, symbol, mem, d))) return false;
        else data[b] = (void *)made[b]->data;
        if (kind == BUF_OUT) out[outputs++] = made[b];
    }
    if (!know_loops(g, k, written, d)) return false;
    int status = interp_compute(k, symbol, data);
    if (status)
        return diag_error(
            d, NULL, status == OCTET_ERR_INDEX ? "an index in the data is out of range" : "the interpreter failed");
    return true;
}
