/* kernel_verify.c - every invariant of kernel.h that can be checked without running: run after each step in tests and
 * debug builds. A kernel that fails here is a bug of ours, never of a model. */
#include "ir/expr.h"
#include <stdio.h>

typedef struct Check {
    Kernel *k;
    const char *why;
    bool *scope;           /* per axis: may be used here */
    bool *written, *alive; /* per buffer: has values; is allocated (loops) */
    DType it;              /* type of E_IT; DT_NONE: not allowed here */
    bool data;             /* loads are allowed here */
    bool threads;          /* inside an `if`: barriers would hang */
} Check;

static bool fail(Check *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
static bool fail(Check *c, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (!c->why) c->why = arena_vprintf(c->k->mem, fmt, args);
    va_end(args);
    return false;
}

static DType type_of(const Check *c, Expr e) { return (DType)expr_node(c->k, e)->type; }

/* ---- expressions ---- */
static bool check_load(Check *c, const ExprNode *n)
{
    if (n->id == 0 || n->id >= c->k->buf.n) return fail(c, "load of buffer %u, which does not exist", n->id);
    const Buf *b = &c->k->buf.at[n->id];
    if (!c->data) return fail(c, "a size or a loop bound loads from %s", b->name);
    if (n->type != b->type) return fail(c, "load of %s has type %s", b->name, dtypes[n->type].name);
    for (int d = 0; d < MAX_RANK; d++)
        if (!n->arg[d] != (d >= b->rank)) return fail(c, "load of %s has not %d indices", b->name, b->rank);
    for (int d = 0; d < b->rank; d++)
        if (type_of(c, n->arg[d]) != DT_i64) return fail(c, "an index of %s is no i64", b->name);
    if (!c->written[n->id]) return fail(c, "%s is read before it is written", b->name);
    return true;
}

static bool check_prim(Check *c, const ExprNode *n)
{
    const PrimInfo *p = &prims[n->prim];
    bool choice = prim_chooses(n->prim),
         change = n->prim == P_cast || n->prim == P_sat || n->prim == P_bits;
    for (int i = 0; i < MAX_RANK; i++)
        if (!n->arg[i] != (i >= p->arity)) return fail(c, "%s has not %d operands", p->name, p->arity);
    DType t = type_of(c, n->arg[choice]);
    for (int i = choice; i < p->arity; i++)
        if (type_of(c, n->arg[i]) != t) return fail(c, "operands of %s differ in type", p->name);
    if (choice && type_of(c, n->arg[0]) != DT_bool) return fail(c, "%s on what is no bool", p->name);
    if (!choice && !change && !prim_takes((Prim)n->prim, t)) return fail(c, "%s of %s", p->name, dtypes[t].name);
    bool compares = dtype_is_float(t) ? p->compares : p->integer.compares;
    if (!change && n->type != (compares ? DT_bool : t)) return fail(c, "%s has a wrong type", p->name);
    return true;
}

static bool check_node(void *ctx, const Kernel *k, Expr e)
{
    Check *c = ctx;
    const ExprNode *n = expr_node(k, e);
    switch (n->kind) {
    case E_FLOAT: return dtype_is_float((DType)n->type) || fail(c, "a fraction of type %s", dtypes[n->type].name);
    case E_INT:
        return dtype_is_int((DType)n->type) || n->type == DT_bool ||
               fail(c, "a whole number of type %s", dtypes[n->type].name);
    case E_SYM: return n->id || fail(c, "an unknown size");
    case E_AXIS:
        return (n->id < k->axis.n && c->scope[n->id]) ||
               fail(c, "axis %s is used out of its scope", n->id < k->axis.n ? k->axis.at[n->id].name : "?");
    case E_IT:
        return (c->it && c->it == (DType)n->type) ||
               fail(c, "`it` of type %s where there is none", dtypes[n->type].name);
    case E_LOAD: return check_load(c, n);
    case E_PRIM: return check_prim(c, n);
    default: return fail(c, "an expression of no kind");
    }
}

static bool check_expr(Check *c, Expr e, DType t, const char *what)
{
    if (!e) return true;
    if (!expr_visit(c->k, e, 0, check_node, c)) return false;
    return !t || type_of(c, e) == t ||
           fail(c, "%s has type %s, expected %s", what, dtypes[type_of(c, e)].name, dtypes[t].name);
}

/* ---- buffers and axes ---- */
static bool check_layout(Check *c, const Buf *b)
{
    for (int i = 0; i < b->layout.n; i++) {
        const LayoutAxis *a = &b->layout.axis[i];
        if (a->dim < 0 || a->dim >= b->rank || a->div < 0 || a->size < 0) return fail(c, "layout of %s", b->name);
    }
    return b->layout.n <= MAX_PHYS || fail(c, "layout of %s has too many axes", b->name);
}

static bool check_buf(Check *c, uint32_t i)
{
    const Buf *b = &c->k->buf.at[i];
    if (!b->name || b->kind <= BUF_NONE || b->kind > BUF_SHARED) return fail(c, "buffer %u has no name or kind", i);
    if (dtypes[b->type].cls == DC_NONE || dtypes[b->type].cls == DC_OTHER)
        return fail(c, "%s has no element type", b->name);
    if (b->rank < 0 || b->rank > MAX_RANK) return fail(c, "%s has rank %d", b->name, b->rank);
    for (int d = 0; d < b->rank; d++)
        if (!b->dim[d] || !check_expr(c, b->dim[d], DT_i64, "a dimension"))
            return fail(c, "dimension %d of %s", d, b->name);
    return check_layout(c, b);
}

static bool check_axis(Check *c, uint32_t i)
{
    const Axis *a = &c->k->axis.at[i];
    if (!a->name || !a->extent) return fail(c, "axis %u has no name or extent", i);
    return check_expr(c, a->extent, DT_i64, "an extent");
}

/* ---- stages ---- */
static bool open_axes(Check *c, const int *axis, int n)
{
    for (int i = 0; i < n; i++) {
        if (axis[i] <= 0 || (uint32_t)axis[i] >= c->k->axis.n) return fail(c, "axis %d does not exist", axis[i]);
        if (c->scope[axis[i]]) return fail(c, "axis %s is bound twice", c->k->axis.at[axis[i]].name);
        c->scope[axis[i]] = true;
    }
    return true;
}

static void close_axes(Check *c, const int *axis, int n)
{
    for (int i = 0; i < n; i++) c->scope[axis[i]] = false;
}

static bool check_target(Check *c, const Compute *s)
{
    if (s->out <= 0 || (uint32_t)s->out >= c->k->buf.n) return fail(c, "a stage without a result");
    const Buf *b = &c->k->buf.at[s->out];
    if (b->kind == BUF_IN || b->kind == BUF_CONST) return fail(c, "%s is written to", b->name);
    for (int d = 0; d < b->rank; d++)
        if (!s->at[d]) return fail(c, "a store to %s has not %d indices", b->name, b->rank);
    for (int d = 0; d < b->rank; d++)
        if (!check_expr(c, s->at[d], DT_i64, "an index")) return false;
    return true;
}

static bool reduction(Prim p)
{
    return p == P_add || p == P_mul || p == P_max || p == P_larger || p == P_min || p == P_and || p == P_or;
}

static bool check_value(Check *c, const Compute *s)
{
    DType out = c->k->buf.at[s->out].type;
    if (!s->value) return fail(c, "a stage without a value");
    if (s->how && !reduction(s->how)) return fail(c, "%s is no reduction", prims[s->how].name);
    if (!s->how && s->reduces) return fail(c, "reduction axes without a reduction");
    if (!open_axes(c, s->reduce, s->reduces)) return false;
    if (!check_expr(c, s->value, s->epilogue ? DT_NONE : out, "a value") ||
        !check_expr(c, s->check, DT_bool, "a check"))
        return false;
    if (s->keep) {
        const ExprNode n = *expr_node(c->k, s->keep);
        if (n.kind != E_LOAD || n.type != type_of(c, s->value))
            return fail(c, "a place to keep values in is none, or of another type");
        for (int d = 0; d < MAX_RANK && n.arg[d]; d++)
            if (!check_expr(c, n.arg[d], DT_i64, "an index")) return false;
        c->written[n.id] = true;
    }
    close_axes(c, s->reduce, s->reduces);
    return true;
}

static bool check_stage(Check *c, const Compute *s)
{
    if (s->rank < 0 || s->rank > MAX_RANK || s->reduces < 0 || s->reduces > MAX_RANK)
        return fail(c, "a stage has too many axes");
    if (!open_axes(c, s->space, s->rank)) return false;
    bool scanned = false;
    for (int i = 0; i < s->rank; i++) scanned = scanned || s->space[i] == s->scan;
    if (s->scan && !scanned) return fail(c, "the scan axis is no axis of the stage");
    if (!check_target(c, s) || !check_value(c, s) || !check_expr(c, s->where, DT_bool, "a condition") ||
        !check_expr(c, s->when, DT_i64, "a size"))
        return false;
    c->it = type_of(c, s->value);
    if (!check_expr(c, s->epilogue, c->k->buf.at[s->out].type, "an epilogue")) return false;
    c->it = DT_NONE, c->written[s->out] = true;
    close_axes(c, s->space, s->rank);
    return true;
}

static bool check_stages(Check *c)
{
    Kernel *k = c->k;
    for (uint32_t i = 0, end; i < k->stage.n; i = end) {
        int scan = k->stage.at[i].scan;
        for (end = i + 1; scan && end < k->stage.n && k->stage.at[end].scan == scan; end++) continue;
        for (uint32_t j = i; scan && j < end; j++) /* stages that run together read what they wrote before */
            if (k->stage.at[j].out > 0 && (uint32_t)k->stage.at[j].out < k->buf.n)
                c->written[k->stage.at[j].out] = true;
        for (uint32_t j = i; j < end; j++)
            if (!check_stage(c, &k->stage.at[j])) return fail(c, "stage %u", j);
    }
    return true;
}

/* ---- loops ---- */
static bool check_loops(Check *c, const Stmt *s);

static bool check_for(Check *c, const Stmt *s)
{
    c->data = false;
    bool ok = check_expr(c, s->lo, DT_i64, "a bound") && check_expr(c, s->hi, DT_i64, "a bound");
    c->data = true;
    if (!ok || !open_axes(c, &s->axis, 1) || !check_loops(c, s->body)) return false;
    close_axes(c, &s->axis, 1);
    return true;
}

static bool check_place(Check *c, const Stmt *s)
{
    if (s->buf <= 0 || (uint32_t)s->buf >= c->k->buf.n) return fail(c, "a store to no buffer");
    const Buf *b = &c->k->buf.at[s->buf];
    if (b->kind == BUF_IN || b->kind == BUF_CONST) return fail(c, "%s is written to", b->name);
    if (b->kind >= BUF_LOCAL && !c->alive[s->buf]) return fail(c, "%s is used before it is allocated", b->name);
    for (int d = 0; d < b->rank; d++) {
        if (!s->at[d]) return fail(c, "a store to %s has not %d indices", b->name, b->rank);
        if (b->block[d] != 1 && !check_expr(c, s->at[d], DT_i64, "an index")) return false;
    }
    c->written[s->buf] = true;
    return check_expr(c, s->value, b->type, "a stored value");
}

static bool check_if(Check *c, const Stmt *s)
{
    bool outer = c->threads;
    if (!check_expr(c, s->cond, DT_bool, "a condition")) return false;
    c->threads = true;
    bool ok = check_loops(c, s->body);
    c->threads = outer;
    return ok;
}

static bool check_loops(Check *c, const Stmt *s)
{
    for (; s; s = s->next) {
        bool ok = true;
        switch (s->kind) {
        case S_FOR: ok = check_for(c, s); break;
        case S_IF: ok = check_if(c, s); break;
        case S_CHECK: ok = check_expr(c, s->cond, DT_bool, "a check"); break;
        case S_ALLOC: c->alive[s->buf] = true; break;
        case S_STORE:
        case S_UPDATE: ok = check_place(c, s); break;
        case S_BARRIER: ok = !c->threads || fail(c, "a barrier under a condition"); break;
        case S_CALL: ok = check_loops(c, s->body); break;
        }
        if (!ok) return false;
    }
    return true;
}

bool kernel_verify(Kernel *k, const char **why)
{
    Check c = {.k = k};
    c.scope = NEW_ARRAY(k->mem, bool, k->axis.n);
    c.written = NEW_ARRAY(k->mem, bool, k->buf.n);
    c.alive = NEW_ARRAY(k->mem, bool, k->buf.n);
    bool ok = true;
    for (uint32_t i = 1; ok && i < k->buf.n; i++) {
        ok = check_buf(&c, i);
        c.written[i] = k->buf.at[i].kind == BUF_IN || k->buf.at[i].kind == BUF_CONST;
    }
    for (uint32_t i = 1; ok && i < k->axis.n; i++) ok = check_axis(&c, i);
    c.data = true;
    ok = ok && check_stages(&c);
    memset(c.scope, 0, k->axis.n);
    ok = ok && check_loops(&c, k->loops);
    *why = c.why;
    return ok;
}
