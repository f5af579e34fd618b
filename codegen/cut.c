/* cut.c - the clustered program cut into kernels; equal kernels shared.
 *
 * Comes in: the program, one Kernel of many stages over all buffers of the model. Goes out: distinct small kernels whose buffers are
 * parameters and whose sizes are constants or private symbols, and the steps that call them in order.
 *
 * A run of stages that share loops (Compute.share) or a scanned axis (Compute.scan) stays in one kernel; every other stage is a kernel
 * of its own, so that each has one parallel loop nest. Extraction rebuilds the formulas in the kernel's own pool, in order of
 * first appearance; equal work therefore gives equal pools, and two kernels are the same exactly when everything in them is equal. A
 * kernel is extracted into scratch memory first and again, for good, only when no earlier one equals it. */
#include "codegen/analyse.h"
#include "ir/base/map.h"
#include <assert.h>
#include <ctype.h>

typedef struct Slot {
    uint32_t epoch, to;
} Slot; /* a memo that is emptied by counting up */
typedef struct Cutter {
    Kernel *p;
    Arena *mem;
    Slot *expr, *axis, *buf, *view; /* view: a buffer the group also writes, as it was before */
    uint32_t epoch, walk;           /* walk: expressions are forgotten after each stage */
    uint32_t *first, *last;         /* per buffer: the groups that touch it */
    bool *written, *now;            /* per buffer: by the current group; by its stages so far */
    bool *is_size;                  /* per expression: a dimension of a buffer */
    Cut *cut;
    VEC(uint64_t) hash; /* beside cut->kernel */
    VEC(struct CutStep) step;
} Cutter;

typedef struct Extract {
    Cutter *c;
    Kernel *k;
    uint32_t group;
    VEC(int) buf;  /* program buffer of parameter i + 1 */
    VEC(Dim) size; /* program size of symbol i */
} Extract;

/* ---- groups ---- */
static bool together(const Compute *a, const Compute *b)
{
    return (a->share && a->share == b->share) || (a->scan && a->scan == b->scan);
}

static uint32_t group_end(const Kernel *p, uint32_t i)
{
    uint32_t end = i + 1;
    while (end < p->stage.n && together(&p->stage.at[end - 1], &p->stage.at[end])) end++;
    return end;
}

typedef struct Touch {
    Cutter *c;
    uint32_t group;
} Touch;

static void touch(Cutter *c, int buf, uint32_t group)
{
    if (!c->first[buf]) c->first[buf] = group;
    c->last[buf] = group;
}

static bool touch_load(void *ctx, Expr load)
{
    Touch *t = ctx;
    touch(t->c, (int)expr_node(t->c->p, load)->id, t->group);
    return true;
}

static void touch_stage(Cutter *c, const Compute *s, uint32_t group)
{
    Touch t = {.c = c, .group = group};
    Expr e[] = {s->value, s->epilogue, s->keep, s->check, s->where};
    touch(c, s->out, group);
    for (size_t i = 0; i < COUNT_OF(e); i++)
        if (e[i]) expr_loads(c->p, e[i], touch_load, &t);
    for (int d = 0; d < c->p->buf.at[s->out].rank; d++) expr_loads(c->p, s->at[d], touch_load, &t);
}

/* ---- one kernel ---- */
static Expr translate(Extract *x, Expr e);

/* A size of a buffer is not negative, proven or not: the artefact checks it. Other sizes may be anything (an offset, a pad). */
static Expr symbol(Extract *x, Expr e)
{
    uint32_t i = 0;
    Dim d = {expr_node(x->c->p, e)->id};
    while (i < x->size.n && !dim_same(x->size.at[i], d)) i++;
    if (i == x->size.n) vec_push(x->k->mem, &x->size, d);
    int64_t lo;
    if (!dim_lower(x->c->p->dim, d, &lo)) lo = -((int64_t)1 << DIM_ELEMENT_BITS);
    if (lo < 0 && x->c->is_size[e]) lo = 0;
    return expr_dim(x->k, dim_symbol(x->k->dim, arena_printf(x->k->mem, "s%u", (unsigned)i), DIM_INPUT, lo));
}

/* A group that reads one part of a buffer and writes another has two parameters for it: they never meet. */
static int buffer(Extract *x, int b, bool reads)
{
    Cutter *c = x->c;
    bool before = reads && c->written[b] && !c->now[b];
    Slot *slot = before ? &c->view[b] : &c->buf[b];
    if (slot->epoch == c->epoch) return (int)slot->to;
    Buf to = c->p->buf.at[b];
    for (int d = 0; d < to.rank; d++) to.dim[d] = translate(x, to.dim[d]);
    bool inside = to.kind == BUF_TMP && c->first[b] == x->group && c->last[b] == x->group;
    to.slack = to.kind == BUF_TMP && !inside && dtypes[to.type].bytes == 1; /* words are made of bytes alone */
    if (to.kind != BUF_CONST && !inside) to.kind = c->written[b] && !before ? BUF_OUT : BUF_IN;
    to.name = arena_printf(x->k->mem, "b%u", (unsigned)x->k->buf.n), to.source = (uint32_t)b;
    int id = kernel_buf(x->k, to);
    vec_push(x->k->mem, &x->buf, b);
    *slot = (Slot){c->epoch, (uint32_t)id};
    return id;
}

static int axis(Extract *x, int a)
{
    Cutter *c = x->c;
    if (c->axis[a].epoch == c->epoch) return (int)c->axis[a].to;
    Expr extent = translate(x, c->p->axis.at[a].extent);
    int id = kernel_axis(x->k, arena_printf(x->k->mem, "a%u", (unsigned)x->k->axis.n), extent);
    c->axis[a] = (Slot){c->epoch, (uint32_t)id};
    return id;
}

static Expr rebuilt(Extract *x, Expr e)
{
    ExprNode n = *expr_node(x->c->p, e);
    if (n.kind == E_SYM) return symbol(x, e);
    if (n.kind == E_LOAD) n.id = (uint32_t)buffer(x, (int)n.id, true);
    if (n.kind == E_AXIS) n.id = (uint32_t)axis(x, (int)n.id);
    for (int i = 0; i < MAX_RANK && n.arg[i]; i++) n.arg[i] = translate(x, n.arg[i]);
    return expr_rebuild(x->k, &n);
}

static Expr translate(Extract *x, Expr e)
{
    if (!e) return 0;
    Slot *s = &x->c->expr[e];
    if (s->epoch == x->c->walk) return s->to;
    Expr to = rebuilt(x, e);
    *s = (Slot){x->c->walk, to};
    return to;
}

static void stage(Extract *x, const Compute *from)
{
    Compute to = *from;
    Cutter *c = x->c;
    c->walk++;
    if (from->keep) c->now[expr_node(c->p, from->keep)->id] = true;
    if (from->update || from->scan) c->now[from->out] = true;
    for (int d = 0; d < to.rank; d++) to.space[d] = axis(x, from->space[d]);
    for (int d = 0; d < to.reduces; d++) to.reduce[d] = axis(x, from->reduce[d]);
    to.value = translate(x, from->value), to.epilogue = translate(x, from->epilogue);
    to.keep = translate(x, from->keep), to.check = translate(x, from->check), to.where = translate(x, from->where);
    for (int d = 0; d < MAX_RANK; d++) to.at[d] = d < c->p->buf.at[from->out].rank ? translate(x, from->at[d]) : 0;
    to.out = buffer(x, from->out, false);
    to.scan = from->scan ? axis(x, from->scan) : 0;
    to.share = from->share ? 1 : 0; /* numbers of the program mean nothing here */
    to.when = 0;                    /* the step says it */
    vec_push(x->k->mem, &x->k->stage, to);
    c->now[from->out] = true;
}

static void mark_written(Cutter *c, uint32_t first, uint32_t end, bool is)
{
    for (uint32_t i = first; i < end; i++) {
        const Compute *s = &c->p->stage.at[i];
        c->written[s->out] = is;
        if (!is || s->scan) c->now[s->out] = is; /* a scan reads what it wrote at smaller values of its axis */
        if (s->keep) c->written[expr_node(c->p, s->keep)->id] = is;
        if (s->keep && !is) c->now[expr_node(c->p, s->keep)->id] = false;
    }
}

static const char *kernel_name(const Cutter *c, Arena *mem, uint32_t first, uint32_t end)
{
    char text[48] = "stage";
    for (uint32_t i = first; i < end; i++)
        if (c->p->stage.at[i].loc && c->p->stage.at[i].loc->op)
            snprintf(text, sizeof text, "%.40s", c->p->stage.at[i].loc->op);
    for (char *s = text; *s; s++)
        if (!isalnum((unsigned char)*s)) *s = '_';
    return arena_printf(mem, "k%u_%s", (unsigned)c->cut->kernel.n, text);
}

static Extract extract(Cutter *c, Arena *mem, uint32_t group, uint32_t first, uint32_t end)
{
    Extract x = {.c = c, .group = group};
    x.k = kernel_new(mem, dims_new(mem), kernel_name(c, mem, first, end));
    c->epoch++;
    mark_written(c, first, end, true);
    for (uint32_t i = first; i < end; i++) stage(&x, &c->p->stage.at[i]);
    mark_written(c, first, end, false);
    kernel_fuse(x.k);
    return x;
}

/* ---- equality: pools made in the same order by the same builder ---- */
static bool nodes_equal(const ExprNode *a, const ExprNode *b)
{
    return a->kind == b->kind && a->type == b->type && a->prim == b->prim && a->id == b->id && a->u.i == b->u.i &&
           !memcmp(a->arg, b->arg, sizeof a->arg);
}

static bool stages_equal(const Kernel *k, const Compute *a, const Compute *b)
{
    int rank = k->buf.at[a->out].rank;
    return a->out == b->out && a->rank == b->rank && a->reduces == b->reduces && a->how == b->how &&
           a->value == b->value && a->epilogue == b->epilogue && a->keep == b->keep && a->check == b->check &&
           a->where == b->where && a->scan == b->scan && a->update == b->update && a->share == b->share && a->apart == b->apart &&
           !memcmp(a->space, b->space, sizeof(int) * (size_t)a->rank) &&
           !memcmp(a->reduce, b->reduce, sizeof(int) * (size_t)a->reduces) &&
           !memcmp(a->at, b->at, sizeof(Expr) * (size_t)rank);
}

static bool bufs_equal(const Buf *a, const Buf *b)
{
    return a->kind == b->kind && a->type == b->type && a->rank == b->rank && a->slack == b->slack &&
           !memcmp(a->dim, b->dim, sizeof(Expr) * (size_t)a->rank) && a->layout.n == b->layout.n &&
           !memcmp(a->layout.axis, b->layout.axis, sizeof(LayoutAxis) * (size_t)a->layout.n);
}

static bool sizes_equal(const Kernel *a, const Kernel *b)
{
    if (dim_symbols(a->dim) != dim_symbols(b->dim)) return false;
    for (uint32_t i = 0; i < dim_symbols(a->dim); i++) { /* the least values decide what folds and what is provable */
        const char *name = dim_symbol_name(a->dim, i);
        int64_t x = 0, y = 0;
        dim_lower(a->dim, dim_symbol(a->dim, name, DIM_INPUT, 0), &x),
            dim_lower(b->dim, dim_symbol(b->dim, name, DIM_INPUT, 0), &y);
        if (x != y) return false;
    }
    return true;
}

static bool kernels_equal(const Kernel *a, const Kernel *b)
{
    if (a->buf.n != b->buf.n || a->axis.n != b->axis.n || a->stage.n != b->stage.n || expr_count(a) != expr_count(b))
        return false;
    for (uint32_t i = 1; i < a->buf.n; i++)
        if (!bufs_equal(&a->buf.at[i], &b->buf.at[i])) return false;
    for (uint32_t i = 1; i < a->axis.n; i++)
        if (a->axis.at[i].extent != b->axis.at[i].extent) return false;
    for (uint32_t i = 0; i < a->stage.n; i++)
        if (!stages_equal(a, &a->stage.at[i], &b->stage.at[i])) return false;
    for (Expr e = 1; e <= expr_count(a); e++)
        if (!nodes_equal(expr_node(a, e), expr_node(b, e))) return false;
    return sizes_equal(a, b);
}

static uint64_t kernel_hash(const Kernel *k)
{
    uint64_t h = 0;
    for (Expr e = 1; e <= expr_count(k); e++) {
        const ExprNode *n = expr_node(k, e);
        uint64_t word[] = {n->kind,   n->type,   n->prim,   n->id,    (uint64_t)n->u.i,
                           n->arg[0], n->arg[1], n->arg[2], n->arg[3]};
        h = hash_bytes(word, sizeof word, h);
    }
    for (uint32_t i = 0; i < k->stage.n; i++) h = hash_bytes(&k->stage.at[i].value, sizeof(Expr), h);
    return h;
}

static uint32_t find_kernel(const Cutter *c, const Kernel *k, uint64_t hash)
{
    for (uint32_t i = 0; i < c->cut->kernel.n; i++)
        if (c->hash.at[i] == hash && kernels_equal(c->cut->kernel.at[i], k)) return i;
    return c->cut->kernel.n;
}

/* ---- the program ---- */
/* Where the stages first .. end - 1 run, or one of them; id 0: always. */
static Dim group_when(Kernel *p, uint32_t first, uint32_t end)
{
    Dim all = dim_const(p->dim, 0);
    for (uint32_t i = first; i < end; i++) {
        const ExprNode *n = p->stage.at[i].when ? expr_node(p, p->stage.at[i].when) : NULL;
        if (!n) return (Dim){0};
        Dim when = n->kind == E_INT ? dim_const(p->dim, n->u.i) : (Dim){n->id};
        all = dim_same(all, when) ? all : dim_either(p->dim, all, when);
    }
    return all;
}

static void add_step(Cutter *c, const Extract *x, uint32_t kernel, uint32_t first, uint32_t end)
{
    struct CutStep s = {.kernel = kernel, .bufs = x->buf.n, .sizes = x->size.n};
    s.buf = arena_copy(c->mem, x->buf.at, sizeof(int) * x->buf.n);
    s.size = arena_copy(c->mem, x->size.at, sizeof(Dim) * x->size.n);
    for (uint32_t i = first; i < end; i++)
        if (c->p->stage.at[i].loc) s.loc = c->p->stage.at[i].loc;
    s.when = group_when(c->p, first, end);
    vec_push(c->mem, &c->step, s);
}

static void cut_group(Cutter *c, uint32_t group, uint32_t first, uint32_t end)
{
    Arena scratch = {0};
    Extract x = extract(c, &scratch, group, first, end);
    uint64_t hash = kernel_hash(x.k);
    uint32_t kernel = find_kernel(c, x.k, hash);
    add_step(c, &x, kernel, first, end);
    arena_drop(&scratch);
    if (kernel < c->cut->kernel.n) return;
    Kernel *k = extract(c, c->mem, group, first, end).k;
    vec_push(c->mem, &c->cut->kernel, k);
    vec_push(c->mem, &c->hash, hash);
}

Cut *program_cut(Kernel *program, Arena *mem)
{
    Cutter c = {.p = program, .mem = mem, .cut = NEW(mem, Cut)};
    Arena scratch = {0};
    c.expr = NEW_ARRAY(&scratch, Slot, expr_count(program) + 1);
    c.axis = NEW_ARRAY(&scratch, Slot, program->axis.n), c.buf = NEW_ARRAY(&scratch, Slot, program->buf.n);
    c.view = NEW_ARRAY(&scratch, Slot, program->buf.n), c.now = NEW_ARRAY(&scratch, bool, program->buf.n);
    c.first = NEW_ARRAY(&scratch, uint32_t, program->buf.n), c.last = NEW_ARRAY(&scratch, uint32_t, program->buf.n);
    c.written = NEW_ARRAY(&scratch, bool, program->buf.n);
    c.is_size = NEW_ARRAY(&scratch, bool, expr_count(program) + 1);
    for (uint32_t b = 1; b < program->buf.n; b++)
        for (int a = 0; a < program->buf.at[b].rank; a++) c.is_size[program->buf.at[b].dim[a]] = true;
    for (uint32_t i = 0, end, group = 1; i < program->stage.n; i = end, group++) {
        end = group_end(program, i);
        for (uint32_t s = i; s < end; s++) touch_stage(&c, &program->stage.at[s], group);
    }
    for (uint32_t i = 0, end, group = 1; i < program->stage.n; i = end, group++)
        cut_group(&c, group, i, end = group_end(program, i));
    c.cut->step = c.step.at, c.cut->steps = c.step.n;
    arena_drop(&scratch);
    return c.cut;
}

uint32_t kernel_params(const Kernel *k)
{
    uint32_t n = k->buf.n - 1;
    while (n && (k->buf.at[n].kind == BUF_LOCAL || k->buf.at[n].kind == BUF_SHARED)) n--;
    return n;
}
