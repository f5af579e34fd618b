/* interp.c - the definition of a kernel. interp_compute() runs the stages in order over whole tensors and ignores the
 * schedule; interp_loops() runs the loops. A schedule is right when both agree. Every index is checked on the way; one
 * out of range, or a failed check, ends the run with INTERP_ERR_INDEX.
 *
 * An expression is compiled once to a list of instructions over a register per node, operands first; what is needed
 * only under a guard stands behind a jump, so its loads are performed only where it holds. Constant folding runs
 * through here, over whole weights: what has many points on its innermost axis goes through interp_block.c. */
#include "ir/interp.h"
#include <assert.h>

/* ---- compiling ---- */
typedef struct Build {
    Run *r;
    VEC(Inst) inst;
    VEC(uint32_t) done; /* expressions with a register, in order: a guarded part forgets its own */
    uint32_t regs;
    VEC(Number) konst;
} Build;

static uint32_t compile(Build *b, Expr e);

static uint32_t fresh(Build *b, Expr e)
{
    b->r->reg_of[e] = ++b->regs;
    vec_push(&b->r->mem, &b->done, e);
    return b->regs - 1;
}

static void forget(Build *b, uint32_t from)
{
    while (b->done.n > from) b->r->reg_of[b->done.at[--b->done.n]] = 0;
}

static uint32_t konst(Build *b, Expr e, Number v)
{
    Inst i = {.op = OP_KONST, .to = fresh(b, e), .id = b->konst.n};
    vec_push(&b->r->mem, &b->konst, v);
    vec_push(&b->r->mem, &b->inst, i);
    return i.to;
}

static bool has_load(const Kernel *k, Expr e) { return (k->pool->axes.at[e] & HAS_LOAD) != 0; }

/* to = cond ? value : other, where only the side that counts is evaluated. */
static uint32_t compile_choice(Build *b, Expr e, const ExprNode *n)
{
    uint32_t cond = compile(b, n->arg[0]);
    Inst pick = {.op = OP_SELECT, .type = n->type, .arg = {cond}};
    if (n->prim == P_select || !has_load(b->r->k, n->arg[1])) {
        pick.arg[1] = compile(b, n->arg[1]), pick.arg[2] = compile(b, n->arg[2]);
        pick.to = fresh(b, e);
        vec_push(&b->r->mem, &b->inst, pick);
        return pick.to;
    }
    uint32_t skip = vec_push(&b->r->mem, &b->inst, (Inst){.op = OP_SKIP_UNLESS, .arg = {cond}}), known = b->done.n;
    uint32_t value = compile(b, n->arg[1]);
    forget(b, known);
    b->inst.at[skip].to = b->inst.n;
    pick.arg[1] = value, pick.arg[2] = compile(b, n->arg[2]);
    pick.to = fresh(b, e);
    vec_push(&b->r->mem, &b->inst, pick);
    return pick.to;
}

static uint32_t compile_prim(Build *b, Expr e, const ExprNode *n)
{
    Inst i = {.type = n->type, .prim = n->prim, .from = expr_node(b->r->k, n->arg[0])->type};
    if (prim_chooses(n->prim)) return compile_choice(b, e, n);
    for (int j = 0; j < prims[n->prim].arity; j++) i.arg[j] = compile(b, n->arg[j]);
    i.to = fresh(b, e);
    bool f = dtype_is_float((DType)i.from);
    if (n->prim == P_cast || n->prim == P_sat) i.op = OP_CONVERT;
    else if (n->prim == P_bits) i.op = OP_BITS;
    else if (!f)
        i.op = i.from == DT_i64 && (n->prim == P_add || n->prim == P_mul || n->prim == P_lt) ? OP_INDEX : OP_INT;
    else i.op = n->type == DT_bool ? OP_FLOAT_TEST : OP_FLOAT;
    vec_push(&b->r->mem, &b->inst, i);
    return i.to;
}

static uint32_t compile(Build *b, Expr e)
{
    if (b->r->reg_of[e]) return b->r->reg_of[e] - 1;
    Run *r = b->r;
    const ExprNode n = *expr_node(r->k, e);
    Inst i = {.type = n.type, .id = n.id};
    Number v = {.i = n.u.i};
    switch (n.kind) {
    case E_FLOAT: return konst(b, e, (Number){.f = n.u.f});
    case E_INT: return konst(b, e, v);
    case E_SYM:
        if (!r->symbol || !dim_eval(r->k->dim, (Dim){n.id}, r->symbol, &v.i)) r->error = INTERP_ERR_OVERFLOW;
        return konst(b, e, v);
    case E_AXIS: i.op = OP_AXIS; break;
    case E_IT: i.op = OP_IT; break;
    case E_LOAD:
        i.op = OP_LOAD, i.rank = (uint8_t)r->k->buf.at[n.id].rank;
        for (int d = 0; d < i.rank; d++) i.arg[d] = compile(b, n.arg[d]);
        break;
    default: return compile_prim(b, e, &n);
    }
    i.to = fresh(b, e);
    vec_push(&r->mem, &b->inst, i);
    return i.to;
}

/* What runs per point is the code without its constants. */
static Code *code_finish(Build *b, Code *c)
{
    uint32_t *moved = NEW_ARRAY(&b->r->mem, uint32_t, b->inst.n + 1);
    c->regs = b->regs, c->reg = NEW_ARRAY(&b->r->mem, Number, b->regs);
    for (uint32_t i = 0; i < b->inst.n; i++) {
        moved[i] = c->n;
        if (b->inst.at[i].op == OP_KONST) c->reg[b->inst.at[i].to] = b->konst.at[b->inst.at[i].id];
        else b->inst.at[c->n++] = b->inst.at[i];
    }
    moved[b->inst.n] = c->n, c->at = b->inst.at;
    for (uint32_t i = 0; i < c->n; i++)
        if (c->at[i].op == OP_SKIP_UNLESS) c->at[i].to = moved[c->at[i].to];
    return c;
}

static void grow(Run *r)
{
    uint32_t n = expr_count(r->k) + 1;
    if (n > r->reg_ofs) r->reg_ofs = 2 * n, r->reg_of = NEW_ARRAY(&r->mem, uint32_t, r->reg_ofs); /* all are 0 here */
    if (n <= r->codes) return;
    Code **code = NEW_ARRAY(&r->mem, Code *, 2 * n);
    if (r->codes) memcpy(code, r->code, r->codes * sizeof *code);
    r->code = code, r->codes = 2 * n;
}

Code *interp_code(Run *r, Expr e)
{
    if (e >= r->codes) grow(r);
    if (r->code[e]) return r->code[e];
    grow(r);
    Build b = {.r = r};
    Code *c = NEW(&r->mem, Code);
    c->result = compile(&b, e), c->type = (DType)expr_node(r->k, e)->type;
    forget(&b, 0);
    return r->code[e] = code_finish(&b, c);
}

/* ---- places ---- */
static int64_t index_of(Run *r, Expr e);

Place *interp_place(Run *r, int buf)
{
    Place *p = &r->place[buf];
    if (r->placed[buf]) return p;
    const Buf *b = &r->k->buf.at[buf];
    *p = (Place){.data = p->data, .type = b->type, .rank = b->rank, .bytes = dtypes[b->type].bytes};
    if (!p->data && r->data) p->data = r->data[buf];
    for (int d = 0; d < b->rank; d++) p->dim[d] = index_of(r, b->dim[d]), p->block[d] = b->block[d];
    LayoutAxis axis[MAX_PHYS];
    int n = b->layout.n ? b->layout.n : b->rank;
    for (int i = 0; i < n; i++) axis[i] = b->layout.n ? b->layout.axis[i] : (LayoutAxis){.dim = i, .div = 1};
    for (int i = 0; i < n; i++) {
        int32_t div = axis[i].div > 1 ? axis[i].div : 1;
        if (b->block[axis[i].dim] == 1) continue;
        p->which[p->phys] = axis[i].dim, p->div[p->phys] = div;
        p->size[p->phys++] = axis[i].size ? axis[i].size : (p->dim[axis[i].dim] + div - 1) / div;
    }
    r->placed[buf] = true;
    return p;
}

static int64_t place_elements(const Place *p)
{
    int64_t n = 1;
    for (int i = 0; i < p->phys; i++) n *= p->size[i];
    return n;
}

/* The element's offset, or -1: out of range. */
int64_t interp_offset(const Place *p, const int64_t *at)
{
    int64_t offset = 0;
    for (int d = 0; d < p->rank; d++)
        if (p->block[d] != 1 && (at[d] < 0 || (!p->block[d] && at[d] >= p->dim[d]))) return -1;
    for (int i = 0; i < p->phys; i++) {
        int64_t index = at[p->which[i]];
        if (p->block[p->which[i]]) index %= p->block[p->which[i]];
        offset = offset * p->size[i] + index / p->div[i] % p->size[i];
    }
    return offset;
}

Number interp_load(const Place *p, int64_t i)
{
    switch (p->type) {
    case DT_f32: return (Number){.f = (double)((const float *)(const void *)p->data)[i]};
    case DT_i64: return (Number){.i = ((const int64_t *)(const void *)p->data)[i]};
    default:
        if (dtype_is_float(p->type)) return (Number){.f = dtype_load(p->type, p->data, i)};
        return (Number){.i = dtype_load_int(p->type, p->data, i)};
    }
}

void interp_store(const Place *p, int64_t i, Number v)
{
    if (p->type == DT_f32) ((float *)(void *)p->data)[i] = (float)v.f;
    else if (dtype_is_float(p->type)) dtype_store(p->type, p->data, i, v.f);
    else dtype_store_int(p->type, p->data, i, v.i);
}

/* ---- running ---- */
static bool run_load(Run *r, const Inst *i, Number *reg)
{
    const Place *p = interp_place(r, (int)i->id);
    int64_t at[MAX_RANK];
    for (int d = 0; d < i->rank; d++) at[d] = reg[i->arg[d]].i;
    int64_t offset = interp_offset(p, at);
    if (offset < 0 || !p->data) return r->error = INTERP_ERR_INDEX, false;
    reg[i->to] = interp_load(p, offset);
    return true;
}

static int64_t index_prim(uint16_t p, int64_t a, int64_t b)
{
    if (p == P_add) return (int64_t)((uint64_t)a + (uint64_t)b);
    return p == P_mul ? (int64_t)((uint64_t)a * (uint64_t)b) : a < b;
}

/* Constant time per instruction; false: the run has failed. */
static bool execute(Run *r, const Code *c)
{
    for (const Inst *i = c->at, *end = c->at + c->n; i < end; i++) {
        Number *reg = c->reg;
        const uint32_t *a = i->arg;
        switch ((Op)i->op) {
        case OP_KONST: break;
        case OP_AXIS: reg[i->to].i = r->axis[i->id]; break;
        case OP_IT: reg[i->to] = r->it; break;
        case OP_LOAD:
            if (!run_load(r, i, reg)) return false;
            break;
        case OP_FLOAT:
            reg[i->to].f = prim_float((Prim)i->prim, (DType)i->from, reg[a[0]].f, reg[a[1]].f, reg[a[2]].f);
            break;
        case OP_FLOAT_TEST:
            reg[i->to].i = prim_float((Prim)i->prim, (DType)i->from, reg[a[0]].f, reg[a[1]].f, reg[a[2]].f) != 0;
            break;
        case OP_INT:
            reg[i->to].i = prim_int((Prim)i->prim, (DType)i->from, reg[a[0]].i, reg[a[1]].i, reg[a[2]].i);
            break;
        case OP_INDEX: reg[i->to].i = index_prim(i->prim, reg[a[0]].i, reg[a[1]].i); break;
        case OP_SELECT: reg[i->to] = reg[a[reg[a[0]].i ? 1 : 2]]; break;
        case OP_CONVERT:
            reg[i->to] = number_convert((DType)i->type, i->prim == P_sat, (DType)i->from, reg[a[0]]);
            break;
        case OP_BITS: reg[i->to] = number_bits((DType)i->from, reg[a[0]]); break;
        case OP_SKIP_UNLESS:
            if (!reg[a[0]].i) i = c->at + i->to - 1;
            break;
        }
    }
    return true;
}

/* The value of an expression; after a failure r->error is set and the value means nothing. */
static Number value_of(Run *r, Expr e)
{
    const Code *c = interp_code(r, e);
    if (r->error || !execute(r, c)) return (Number){.i = 0};
    return c->reg[c->result];
}

static int64_t index_of(Run *r, Expr e)
{
    int64_t i;
    return expr_is_index(r->k, e, &i) ? i : value_of(r, e).i;
}

static bool locate(Run *r, int buf, const Expr *at, const Place **place, int64_t *offset)
{
    int64_t index[MAX_RANK];
    *place = interp_place(r, buf);
    for (int d = 0; d < (*place)->rank; d++) index[d] = (*place)->block[d] == 1 ? 0 : index_of(r, at[d]);
    *offset = r->error ? -1 : interp_offset(*place, index);
    if (*offset < 0 || !(*place)->data) r->error = r->error ? r->error : INTERP_ERR_INDEX;
    return !r->error;
}

Number interp_combine(Prim how, DType t, Number a, Number b)
{
    if (dtype_is_float(t)) return (Number){.f = prim_float(how, t, a.f, b.f, 0)};
    return (Number){.i = prim_int(how, t, a.i, b.i, 0)};
}

static void store(Run *r, int buf, const Expr *at, Prim how, Number v)
{
    const Place *p;
    int64_t offset;
    if (!locate(r, buf, at, &p, &offset)) return;
    interp_store(p, offset, how ? interp_combine(how, p->type, interp_load(p, offset), v) : v);
}

static bool holds(Run *r, Expr cond) { return !cond || (value_of(r, cond).i != 0 && !r->error); }

/* ---- stages ---- */
static void check(Run *r, const Compute *c)
{
    if (c->check && value_of(r, c->check).i == 0 && !r->error) r->error = INTERP_ERR_INDEX;
}

/* A stage that reads what it writes goes point by point; so does one whose points may be left out. */
static int ways_of(Run *r, const Compute *c)
{
    uint8_t *ways = &r->ways[c - r->k->stage.at];
    if (*ways) return *ways;
    int out = c->how ? (c->keep ? (int)expr_node(r->k, c->keep)->id : 0) : c->out;
    bool reads = expr_reads(r->k, c->value, out) || expr_reads(r->k, c->check, out);
    for (int d = 0; d < r->k->buf.at[c->out].rank && !c->how; d++) reads = reads || expr_reads(r->k, c->at[d], out);
    *ways = WAY_KNOWN;
    if (reads) return *ways;
    if (c->how && c->reduces) *ways |= WAY_REDUCE;
    if (!c->how && !c->where && !c->epilogue && !c->keep && c->rank && c->space[c->rank - 1] != c->scan)
        *ways |= WAY_SPACE;
    return *ways;
}

static void reduce(Run *r, const Compute *c, int level, Number *acc)
{
    if (level < c->reduces) {
        int a = c->reduce[level];
        int64_t n = index_of(r, r->k->axis.at[a].extent);
        bool wide = level + 1 == c->reduces && (ways_of(r, c) & WAY_REDUCE);
        for (int64_t i = 0; i < n && !r->error;) {
            int m = n - i < BLOCK ? (int)(n - i) : BLOCK;
            if (wide && m > 2 && interp_block_reduce(r, c, a, i, m, acc)) i += m;
            else
                for (int64_t end = i + (wide ? m : 1); i < end && !r->error; i++)
                    r->axis[a] = i, reduce(r, c, level + 1, acc);
        }
        return;
    }
    check(r, c);
    if (r->error) return;
    Number v = value_of(r, c->value);
    if (c->keep) {
        ExprNode n = *expr_node(r->k, c->keep);
        store(r, (int)n.id, n.arg, P_NONE, v);
    }
    *acc = c->how ? interp_combine(c->how, (DType)expr_node(r->k, c->value)->type, *acc, v) : v;
}

static void point(Run *r, const Compute *c)
{
    Number acc = {.i = 0};
    if (!holds(r, c->where)) return;
    if (c->how) acc = value_of(r, reduce_identity(r->k, c->how, (DType)expr_node(r->k, c->value)->type));
    reduce(r, c, 0, &acc);
    if (r->error) return;
    r->it = acc;
    if (c->epilogue) acc = value_of(r, c->epilogue);
    if (!r->error) store(r, c->out, c->at, c->update, acc);
}

/* All points of the stage whose scan axis, if it has one, is fixed outside. */
static void space(Run *r, const Compute *c, int level)
{
    if (level == c->rank) {
        point(r, c);
        return;
    }
    int a = c->space[level];
    if (c->scan && a == c->scan) {
        space(r, c, level + 1);
        return;
    }
    int64_t n = index_of(r, r->k->axis.at[a].extent);
    bool wide = level + 1 == c->rank && (ways_of(r, c) & WAY_SPACE);
    for (int64_t i = 0; i < n && !r->error;) {
        int m = n - i < BLOCK ? (int)(n - i) : BLOCK;
        if (wide && m > 2 && interp_block_space(r, c, a, i, m)) i += m;
        else
            for (int64_t end = i + (wide ? m : 1); i < end && !r->error; i++) r->axis[a] = i, space(r, c, level + 1);
    }
}

static uint32_t run_scan(Run *r, uint32_t first)
{
    Kernel *k = r->k;
    int axis = k->stage.at[first].scan;
    uint32_t end = first;
    while (end < k->stage.n && k->stage.at[end].scan == axis) end++;
    int64_t n = index_of(r, k->axis.at[axis].extent);
    for (int64_t i = 0; i < n && !r->error; i++)
        for (uint32_t s = first; s < end && !r->error; s++) r->axis[axis] = i, space(r, &k->stage.at[s], 0);
    return end;
}

static Run run_new(Kernel *k, const int64_t *symbol, void *const *data)
{
    Run r = {.k = k, .symbol = symbol, .data = data};
    r.place = NEW_ARRAY(&r.mem, Place, k->buf.n);
    r.placed = NEW_ARRAY(&r.mem, bool, k->buf.n);
    r.axis = NEW_ARRAY(&r.mem, int64_t, k->axis.n);
    r.ways = NEW_ARRAY(&r.mem, uint8_t, k->stage.n + 1);
    return r;
}

static int run_end(Run *r)
{
    arena_drop(&r->mem);
    return r->error;
}

int interp_compute(Kernel *k, const int64_t *symbol, void *const *data)
{
    Run r = run_new(k, symbol, data);
    for (uint32_t i = 0; i < k->stage.n && !r.error;) {
        if (!holds(&r, k->stage.at[i].when)) i++;
        else if (k->stage.at[i].scan) i = run_scan(&r, i);
        else space(&r, &k->stage.at[i++], 0);
    }
    return run_end(&r);
}

/* ---- loops ---- */
static void run(Run *r, const Stmt *s);

static void allocate(Run *r, int buf)
{
    Place *p = &r->place[buf];
    if (p->data) return;
    p->data = NULL, r->placed[buf] = false;
    p = interp_place(r, buf);
    if (!r->error) p->data = arena_alloc(&r->mem, (size_t)(place_elements(p) * p->bytes) + 1);
}

static void run_for(Run *r, const Stmt *s)
{
    int64_t hi = index_of(r, s->hi);
    for (int64_t i = index_of(r, s->lo); i < hi && !r->error; i++) r->axis[s->axis] = i, run(r, s->body);
}

static void run(Run *r, const Stmt *s)
{
    for (; s && !r->error; s = s->next) switch (s->kind) {
        case S_FOR: run_for(r, s); break;
        case S_IF:
            if (holds(r, s->cond)) run(r, s->body);
            break;
        case S_CHECK:
            if (!holds(r, s->cond) && !r->error) r->error = INTERP_ERR_INDEX;
            break;
        case S_ALLOC: allocate(r, s->buf); break;
        case S_STORE: store(r, s->buf, s->at, P_NONE, value_of(r, s->value)); break;
        case S_UPDATE: store(r, s->buf, s->at, s->how, value_of(r, s->value)); break;
        case S_BARRIER: break;
        case S_CALL: run(r, s->body); break;
        }
}

int interp_loops(Kernel *k, const int64_t *symbol, void *const *data)
{
    Run r = run_new(k, symbol, data);
    run(&r, k->loops);
    return run_end(&r);
}
