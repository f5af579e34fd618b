/* general.c - kernels that differ in sizes alone have one in common.
 *
 * Comes in: a cut, whose kernels are made for their sizes. Goes out: for every kernel that has kin a general one, in which the
 * numbers that differ are free sizes, and steps that say these too. Convolutions of a network are mostly the same formula with
 * other numbers of channels: where little code is wanted more than time, all of them run the general kernel.
 *
 * Kin have the same formulas but for numbers among sizes and indices. Some numbers are worth more than code, or decide results to
 * the last bit, and kin agree in them: what divides an index, taps of windows, lanes of short vectors, steps, how many floats are
 * added where they are no words of two. Numbers with a common factor keep it, so that whole vectors stay whole. */
#include "codegen/analyse.h"
#include "codegen/image.h"
#include <stddef.h>

enum { FEW = 16 }; /* iterations that are worth knowing */

/* ---- are two kernels kin? Their formulas are walked side by side ---- */
typedef struct Pair {
    Kernel *a, *b;
    Arena *mem;
    Expr *met; /* per expression of a: of b what it was found to be like */
} Pair;

static bool is_number(const ExprNode *n) { return n->type == DT_i64 && (n->kind == E_INT || n->kind == E_SYM); }

/* The same polynomial of the same symbols. */
static bool dims_same(const Kernel *a, Dim x, const Kernel *b, Dim y)
{
    Arena mem = {0};
    const DimCode *p, *q;
    uint32_t n = dim_code(a->dim, x, &mem, &p);
    bool same = n == dim_code(b->dim, y, &mem, &q);
    for (uint32_t i = 0; i < n && same; i++) same = p[i].op == q[i].op && p[i].arg == q[i].arg;
    arena_drop(&mem);
    return same;
}

static bool same_number(const Kernel *a, Expr x, const Kernel *b, Expr y)
{
    const ExprNode *p = expr_node(a, x), *q = expr_node(b, y);
    if (!is_number(p) || !is_number(q) || p->kind != q->kind) return false;
    return p->kind == E_INT ? p->u.i == q->u.i : dims_same(a, (Dim){p->id}, b, (Dim){q->id});
}

static bool is_free(const ExprNode *n) { return n->kind == E_SYM || (n->u.i >= 0 && n->u.i <= INT32_MAX); }

static bool is_few(const Kernel *k, Expr e)
{
    int64_t n;
    return expr_is_index(k, e, &n) && n < FEW;
}

static bool like(Pair *p, Expr x, Expr y);

/* What divides an index stays, and so does what multiplies one, if it is small: the step of a window. */
static bool factors_like(const Pair *p, const ExprNode *m, const ExprNode *n)
{
    bool divides = m->prim == P_div || m->prim == P_mod;
    if (m->kind != E_PRIM || m->type != DT_i64 || (!divides && m->prim != P_mul)) return true;
    for (int i = divides; i < 2; i++) {
        Expr x = m->arg[i], y = n->arg[i];
        if (!is_number(expr_node(p->a, x)) || same_number(p->a, x, p->b, y)) continue;
        if (divides || is_few(p->a, x) || is_few(p->b, y)) return false;
    }
    return true;
}

static bool nodes_like(Pair *p, Expr x, Expr y)
{
    ExprNode m = *expr_node(p->a, x), n = *expr_node(p->b, y);
    if (is_number(&m) && is_number(&n)) return same_number(p->a, x, p->b, y) || (is_free(&m) && is_free(&n));
    bool same = m.kind == n.kind && m.type == n.type && m.prim == n.prim && m.id == n.id && m.u.i == n.u.i;
    if (!same || !factors_like(p, &m, &n)) return false;
    for (int i = 0; i < MAX_RANK && same; i++) same = like(p, m.arg[i], n.arg[i]);
    return same;
}

static bool like(Pair *p, Expr x, Expr y)
{
    if (!x || !y) return x == y;
    if (p->met[x] == y) return true;
    if (!nodes_like(p, x, y)) return false;
    p->met[x] = y;
    return true;
}

static bool bufs_like(Pair *p, const Buf *a, const Buf *b)
{
    bool same = a->kind == b->kind && a->type == b->type && a->rank == b->rank && a->slack == b->slack &&
                layout_equal(&a->layout, &b->layout);
    for (int d = 0; d < a->rank && same; d++) same = like(p, a->dim[d], b->dim[d]);
    return same;
}

/* The order in which floats are added hangs on how many there are, but words are added one after the other. */
static bool is_float_sum(Kernel *k, const Compute *c)
{
    bool sum = c->how && c->how != P_max && c->how != P_min;
    return sum && dtype_is_float((DType)expr_node(k, c->value)->type) && !summed_word(k, c);
}

static bool is_window(const Kernel *k, const Compute *c)
{
    bool few = true;
    for (int i = 0; i < c->reduces; i++) few = few && is_few(k, k->axis.at[c->reduce[i]].extent);
    return few;
}

/* Must kin agree in how long a loop is? It may decide the order of a float sum; be taps of a window; or lanes, side by side in memory. */
static bool is_told(Kernel *k, const Compute *c, int axis, bool reduced)
{
    Contraction r;
    bool floats = is_float_sum(k, c);
    if (floats && (reduced || contraction_of(k, c, &r))) return true;
    if (!is_few(k, k->axis.at[axis].extent)) return false;
    Expr by = expr_step(k, buf_address(k, c->out, c->at), axis);
    return reduced || (floats && !is_window(k, c)) || !by || expr_is(k, by, 1);
}

static bool loops_like(Pair *p, const Compute *a, const Compute *b)
{
    LoadList loads = {0};
    stage_loads(p->a, p->mem, a, &loads);
    for (int d = 0; d < a->rank + a->reduces; d++) {
        bool reduced = d >= a->rank;
        int i = reduced ? a->reduce[d - a->rank] : a->space[d], j = reduced ? b->reduce[d - a->rank] : b->space[d];
        Expr x = p->a->axis.at[i].extent, y = p->b->axis.at[j].extent;
        if (i != j || !like(p, x, y)) return false;
        bool told = loads.at.n && (is_told(p->a, a, i, reduced) || is_told(p->b, b, j, reduced));
        if (told && !same_number(p->a, x, p->b, y)) return false;
    }
    return true;
}

static bool stages_like(Pair *p, const Compute *a, const Compute *b)
{
    bool same = a->out == b->out && a->rank == b->rank && a->reduces == b->reduces && a->how == b->how &&
                a->scan == b->scan && a->update == b->update && a->share == b->share && a->apart == b->apart;
    same = same && like(p, a->value, b->value) && like(p, a->epilogue, b->epilogue) && like(p, a->keep, b->keep) &&
           like(p, a->check, b->check) && like(p, a->where, b->where) && loops_like(p, a, b);
    for (int d = 0; same && d < p->a->buf.at[a->out].rank; d++) same = like(p, a->at[d], b->at[d]);
    return same;
}

static bool are_kin(Kernel *a, Kernel *b)
{
    Arena scratch = {0};
    Pair p = {a, b, &scratch, NEW_ARRAY(&scratch, Expr, expr_count(a) + 1)};
    bool same = a->buf.n == b->buf.n && a->stage.n == b->stage.n;
    for (uint32_t i = 1; same && i < a->buf.n; i++) same = bufs_like(&p, &a->buf.at[i], &b->buf.at[i]);
    for (uint32_t i = 0; same && i < a->stage.n; i++) same = stages_like(&p, &a->stage.at[i], &b->stage.at[i]);
    arena_drop(&scratch);
    return same;
}

/* ---- what kin have in common ---- */
typedef struct Varying {
    const Expr *of; /* what it is in each kernel, */
    int64_t by;     /* divided by this */
    Dim size;       /* in the general kernel */
} Varying;

typedef struct Family {
    Arena *mem, *scratch;
    Kernel **kin;
    uint32_t n;
    Kernel *k; /* the general one */
    Dim *own;  /* its first sizes: those that the kernels have themselves */
    uint32_t owns;
    VEC(Varying) number;
    struct Known {
        const Expr *of;
        Expr is;
    } *known; /* per expression of the first kernel */
} Family;

static int64_t common_factor(int64_t a, int64_t b) { return b ? common_factor(b, a % b) : a; }

static int64_t factor_of(const Family *f, const Expr *e)
{
    int64_t factor = 0, n;
    for (uint32_t i = 0; i < f->n; i++) {
        if (!expr_is_index(f->kin[i], e[i], &n)) return 1;
        factor = common_factor(factor, n);
    }
    return factor;
}

static bool is_multiple(const Family *f, const Varying *a, const Expr *e, int64_t by)
{
    for (uint32_t i = 0; i < f->n; i++) {
        int64_t x, y;
        bool numbers = expr_is_index(f->kin[i], a->of[i], &x) && expr_is_index(f->kin[i], e[i], &y);
        if (numbers ? x / a->by != y / by : !same_number(f->kin[i], a->of[i], f->kin[i], e[i])) return false;
    }
    return true;
}

static int64_t least_of(Kernel *k, Dim d)
{
    int64_t least;
    return dim_lower(k->dim, d, &least) ? least : -((int64_t)1 << DIM_ELEMENT_BITS);
}

static int64_t least_value(const Family *f, const Expr *e, int64_t by)
{
    int64_t least = INT64_MAX, n;
    for (uint32_t i = 0; i < f->n; i++) {
        Kernel *k = f->kin[i];
        int64_t mine = expr_is_index(k, e[i], &n) ? n / by : least_of(k, (Dim){expr_node(k, e[i])->id});
        least = mine < least ? mine : least;
    }
    return least;
}

static Dim size_new(const Family *f, uint32_t i, int64_t least)
{
    return dim_symbol(f->k->dim, arena_printf(f->mem, "s%u", (unsigned)i), DIM_INPUT, least);
}

static Expr number_of(Family *f, const Expr *e)
{
    uint32_t same = 1, i = 0;
    while (same < f->n && same_number(f->kin[0], e[0], f->kin[same], e[same])) same++;
    if (same == f->n) return expr_dim(f->k, dim_of_expr(f->k->dim, f->kin[0], e[0], f->own));
    int64_t by = factor_of(f, e);
    while (i < f->number.n && !is_multiple(f, &f->number.at[i], e, by)) i++;
    if (i == f->number.n) {
        Varying new = {arena_copy(f->scratch, e, sizeof *e * f->n), by, {0}};
        new.size = size_new(f, f->owns + i, least_value(f, e, by));
        vec_push(f->scratch, &f->number, new);
    }
    return expr_dim(f->k, dim_mul(f->k->dim, dim_const(f->k->dim, by), f->number.at[i].size));
}

static Expr general_expr(Family *f, const Expr *e);

static Expr general_node(Family *f, const Expr *e)
{
    ExprNode n = *expr_node(f->kin[0], e[0]);
    Expr *each = NEW_ARRAY(f->scratch, Expr, f->n);
    if (is_number(&n)) return number_of(f, e);
    for (int a = 0; a < MAX_RANK && n.arg[a]; a++) {
        for (uint32_t i = 0; i < f->n; i++) each[i] = expr_node(f->kin[i], e[i])->arg[a];
        n.arg[a] = general_expr(f, each);
    }
    return expr_rebuild(f->k, &n);
}

static Expr general_expr(Family *f, const Expr *e)
{
    if (!e[0]) return 0;
    struct Known *known = &f->known[e[0]];
    if (known->of && !memcmp(known->of, e, sizeof *e * f->n)) return known->is;
    const Expr *of = arena_copy(f->scratch, e, sizeof *e * f->n);
    Expr is = general_node(f, e);
    *known = (struct Known){of, is};
    return is;
}

/* The expression that lies `at` bytes into what each kernel has at `whose`. */
typedef const char *Whose(const Kernel *k, uint32_t i);
static const char *buf_of(const Kernel *k, uint32_t i) { return (const char *)&k->buf.at[i]; }
static const char *axis_of(const Kernel *k, uint32_t i) { return (const char *)&k->axis.at[i]; }
static const char *stage_of(const Kernel *k, uint32_t i) { return (const char *)&k->stage.at[i]; }

static Expr general_of(Family *f, Whose *whose, uint32_t i, size_t at)
{
    Expr *e = NEW_ARRAY(f->scratch, Expr, f->n);
    for (uint32_t m = 0; m < f->n; m++) memcpy(&e[m], whose(f->kin[m], i) + at, sizeof *e);
    return general_expr(f, e);
}

static void general_stage(Family *f, uint32_t i)
{
    static const size_t parts[] = {offsetof(Compute, value), offsetof(Compute, epilogue), offsetof(Compute, keep),
                                   offsetof(Compute, check), offsetof(Compute, where)};
    size_t by = sizeof(Expr);
    Compute c = f->kin[0]->stage.at[i];
    for (size_t p = 0; p < COUNT_OF(parts); p++) {
        Expr e = general_of(f, stage_of, i, parts[p]);
        memcpy((char *)&c + parts[p], &e, sizeof e);
    }
    for (int d = 0; d < MAX_RANK; d++)
        c.at[d] = d < f->k->buf.at[c.out].rank ? general_of(f, stage_of, i, offsetof(Compute, at) + by * (size_t)d) : 0;
    vec_push(f->mem, &f->k->stage, c);
}

static void general_axes(Family *f)
{
    const Kernel *first = f->kin[0];
    bool *used = NEW_ARRAY(f->scratch, bool, first->axis.n);
    for (uint32_t i = 0; i < first->stage.n; i++) {
        const Compute *c = &first->stage.at[i];
        for (int d = 0; d < c->rank; d++) used[c->space[d]] = true;
        for (int d = 0; d < c->reduces; d++) used[c->reduce[d]] = true;
    }
    for (uint32_t i = 1; i < first->axis.n; i++) { /* axes that were fused are left behind */
        Expr extent = used[i] ? general_of(f, axis_of, i, offsetof(Axis, extent)) : expr_index(f->k, 1);
        kernel_axis(f->k, first->axis.at[i].name, extent);
    }
}

static void own_sizes(Family *f)
{
    for (uint32_t i = 0; i < f->n; i++)
        if (dim_symbols(f->kin[i]->dim) > f->owns) f->owns = dim_symbols(f->kin[i]->dim);
    f->own = NEW_ARRAY(f->scratch, Dim, f->owns);
    for (uint32_t s = 0; s < f->owns; s++) {
        int64_t least = INT64_MAX;
        for (uint32_t i = 0; i < f->n; i++) {
            Dims *d = f->kin[i]->dim;
            if (s >= dim_symbols(d)) continue;
            int64_t mine = least_of(f->kin[i], dim_symbol(d, dim_symbol_name(d, s), DIM_INPUT, 0));
            least = mine < least ? mine : least;
        }
        f->own[s] = size_new(f, s, least);
    }
}

static void general_make(Family *f)
{
    const Kernel *first = f->kin[0];
    f->k = kernel_new(f->mem, dims_new(f->mem), first->name);
    f->known = NEW_ARRAY(f->scratch, struct Known, expr_count(first) + 1);
    own_sizes(f);
    for (uint32_t i = 1; i < first->buf.n; i++) {
        Buf b = first->buf.at[i];
        for (int d = 0; d < b.rank; d++)
            b.dim[d] = general_of(f, buf_of, i, offsetof(Buf, dim) + sizeof(Expr) * (size_t)d);
        kernel_buf(f->k, b);
    }
    general_axes(f);
    for (uint32_t i = 0; i < first->stage.n; i++) general_stage(f, i);
}

/* What a step has to say: the sizes of its own kernel, and those of the general one. */
static void step_say(const Family *f, struct CutStep *s, uint32_t kin, Dims *dim)
{
    Dim *size = NEW_ARRAY(f->mem, Dim, f->owns + f->number.n);
    for (uint32_t i = 0; i < f->owns; i++) size[i] = i < s->sizes ? s->size[i] : dim_const(dim, 0);
    for (uint32_t i = 0; i < f->number.n; i++) {
        const Varying *n = &f->number.at[i];
        Dim whole = dim_of_expr(dim, f->kin[kin], n->of[kin], s->size);
        size[f->owns + i] = dim_fdiv(dim, whole, dim_const(dim, n->by));
    }
    s->size = size, s->sizes = f->owns + f->number.n;
}

static void family_make(Cut *c, Dims *dim, Arena *mem, const uint32_t *kernel, uint32_t n)
{
    Arena scratch = {0};
    Family f = {.mem = mem, .scratch = &scratch, .kin = NEW_ARRAY(&scratch, Kernel *, n), .n = n};
    for (uint32_t i = 0; i < n; i++) f.kin[i] = c->kernel.at[kernel[i]];
    general_make(&f);
    for (uint32_t i = 0; i < n; i++) {
        c->general[kernel[i]] = f.k;
        for (uint32_t s = 0; s < c->steps; s++)
            if (c->step[s].kernel == kernel[i]) step_say(&f, &c->step[s], i, dim);
    }
    arena_drop(&scratch);
}

void cut_generalize(Cut *c, Dims *dim, Arena *mem)
{
    Arena scratch = {0};
    uint32_t kernels = c->kernel.n, *kin = NEW_ARRAY(&scratch, uint32_t, kernels);
    bool *done = NEW_ARRAY(&scratch, bool, kernels);
    c->general = NEW_ARRAY(mem, Kernel *, kernels + 1);
    for (uint32_t i = 0; i < kernels; i++) {
        uint32_t n = 0;
        for (uint32_t j = i; j < kernels; j++)
            if (!done[j] && (i == j || are_kin(c->kernel.at[i], c->kernel.at[j]))) done[j] = true, kin[n++] = j;
        if (n > 1) family_make(c, dim, mem, kin, n);
    }
    arena_drop(&scratch);
}
