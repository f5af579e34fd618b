/* work.c - what a step has to do, said for whoever reads a profile: how many operations, how many bytes, and of what form.
 *
 * Comes in: a kernel of the cut and the sizes of one of its steps. Goes out: sizes of the program (free ones stay formulas) and
 * a few words. Bytes are those of distinct elements that the formulas read and write in buffers with memory of their own: what has
 * to move when every element moves once. */
#include "codegen/analyse.h"
#include "codegen/image.h"
#include <stdlib.h>

typedef struct Worker {
    Kernel *k;
    Sizes *z;
    const struct CutStep *step;
    Arena mem;
} Worker;

static Dim dim_one(const Worker *w) { return dim_const(w->z->dim, 1); }
static Dim extent(const Worker *w, int axis)
{
    return dim_of_expr(w->z->dim, w->k, w->k->axis.at[axis].extent, w->step->size);
}

static Dim product(const Worker *w, Dim a, Dim b) { return dim_mul(w->z->dim, a, b); }

/* ---- operations ---- */
static Dim points(const Worker *w, const Compute *c)
{
    Dim n = dim_one(w);
    for (int a = 0; a < c->rank; a++) n = product(w, n, extent(w, c->space[a]));
    return n;
}

static Dim terms(const Worker *w, const Compute *c)
{
    Dim n = dim_one(w);
    for (int a = 0; a < c->reduces; a++) n = product(w, n, extent(w, c->reduce[a]));
    return n;
}

static bool is_sum_of_products(const Kernel *k, const Compute *c)
{
    const ExprNode *v = expr_node(k, c->value);
    return c->reduces && c->how == P_add && v->kind == E_PRIM && v->prim == P_mul;
}

static double guess(const Worker *w, const Compute *c)
{
    double n = (double)size_guess(w->z, points(w, c)) * (double)size_guess(w->z, terms(w, c));
    return is_sum_of_products(w->k, c) ? 2 * n : n;
}

/* ---- bytes ---- */
/* Elements of a buffer that an index with these axes can name: no more than the axes have values, or the buffer elements. */
static Dim named(const Worker *w, const Compute *c, const Expr *at, int buf)
{
    Dim n = dim_one(w);
    const Buf *b = &w->k->buf.at[buf];
    for (int a = 0; a < c->rank + c->reduces; a++) {
        int axis = a < c->rank ? c->space[a] : c->reduce[a - c->rank];
        bool uses = false;
        for (int d = 0; d < b->rank; d++) uses = uses || expr_uses(w->k, at[d], axis);
        if (uses) n = product(w, n, extent(w, axis));
    }
    return n;
}

static Dim elements(const Worker *w, int buf)
{
    const Buf *b = &w->k->buf.at[buf];
    Dim n = dim_one(w);
    for (int d = 0; d < b->rank; d++) n = product(w, n, dim_of_expr(w->z->dim, w->k, b->dim[d], w->step->size));
    return n;
}

typedef struct Touched {
    Dim *elements;          /* per buffer: named by one of its accesses, the largest; unknown: not touched */
    const bool *has_memory; /* per buffer */
} Touched;

static void touch(Worker *w, Touched *t, const Compute *c, const Expr *at, int buf)
{
    if (!t->has_memory[buf]) return;
    Dim n = named(w, c, at, buf), *most = &t->elements[buf];
    if (!dim_known(*most) || size_guess(w->z, n) > size_guess(w->z, *most)) *most = n;
}

static void touch_stage(Worker *w, Touched *t, const Compute *c)
{
    LoadList l = {0};
    stage_loads(w->k, &w->mem, c, &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        const ExprNode n = *expr_node(w->k, l.at.at[i]);
        touch(w, t, c, n.arg, (int)n.id);
    }
    touch(w, t, c, c->at, c->out);
}

static Dim bytes(Worker *w, const bool *has_memory)
{
    Dims *d = w->z->dim;
    Touched t = {NEW_ARRAY(&w->mem, Dim, w->k->buf.n), has_memory};
    for (uint32_t i = 0; i < w->k->stage.n; i++) touch_stage(w, &t, &w->k->stage.at[i]);
    Dim sum = dim_const(d, 0);
    for (uint32_t b = 1; b < w->k->buf.n; b++) {
        if (!dim_known(t.elements[b])) continue;
        Dim all = elements(w, (int)b);
        Dim n = size_guess(w->z, all) < size_guess(w->z, t.elements[b]) ? all : t.elements[b];
        sum = dim_add(d, sum, product(w, n, dim_const(d, dtypes[w->k->buf.at[b].type].bytes)));
    }
    return sum;
}

/* ---- form ---- */
static DType factor_type(const Worker *w, Expr e) { return (DType)expr_node(w->k, e)->type; }

static void contraction_say(Worker *w, const Compute *c, const Contraction *r, StepWork *s)
{
    DType left = factor_type(w, r->left), right = factor_type(w, r->right);
    for (int i = 0; i < c->rank; i++) {
        int a = c->space[i];
        bool l = expr_uses(w->k, r->left, a), n = expr_uses(w->k, r->right, a);
        Dim *to = &s->size[l && n ? WORK_BATCH : n ? WORK_COLUMNS : WORK_ROWS];
        *to = product(w, *to, extent(w, a));
    }
    s->size[WORK_DEPTH] = terms(w, c);
    s->math = r->acc == DT_i32 && dtypes[left].bytes == 1 ? OCTET_MATH_INT8
              : left == DT_bf16 && right == DT_bf16       ? OCTET_MATH_BF16
                                                          : OCTET_MATH_F32;
    const char *in = r->acc == DT_f32 && dtypes[left].bytes == 1 ? " in f32" : "";
    s->what = left == right ? arena_printf(w->z->mem, "contraction %s%s", dtypes[left].name, in)
                            : arena_printf(w->z->mem, "contraction %s %s%s", dtypes[left].name, dtypes[right].name, in);
}

static const char *form(Worker *w, const Compute *c)
{
    if (c->scan) return "scan";
    if (!c->reduces) return "map";
    return stage_is_window(w->k, c) ? "window" : "reduction";
}

StepWork step_work(Kernel *k, Sizes *z, const struct CutStep *step, const bool *has_memory)
{
    Worker w = {.k = k, .z = z, .step = step};
    StepWork s = {.what = "nothing", .operations = dim_const(z->dim, 0)};
    const Compute *most = NULL;
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *c = &k->stage.at[i];
        if (!most || guess(&w, c) > guess(&w, most)) most = c;
        if (!is_sum_of_products(k, c)) continue;
        Dim n = product(&w, product(&w, points(&w, c), terms(&w, c)), dim_const(z->dim, 2));
        s.operations = dim_add(z->dim, s.operations, n);
    }
    for (int i = 0; i < WORK_SIZES; i++) s.size[i] = dim_one(&w);
    Contraction r;
    if (most && contraction_of(k, most, &r)) {
        contraction_say(&w, most, &r, &s);
    } else if (most) {
        s.size[WORK_ROWS] = points(&w, most), s.size[WORK_DEPTH] = terms(&w, most);
        s.what = arena_printf(z->mem, "%s %s", form(&w, most), dtypes[k->buf.at[most->out].type].name);
    }
    s.bytes = bytes(&w, has_memory);
    if (step->when.id) s.operations = product(&w, s.operations, step->when), s.bytes = product(&w, s.bytes, step->when);
    arena_drop(&w.mem);
    return s;
}

/* ---- how long it takes, for choices ---- */
static double size_of(Kernel *k, const Sizes *z, const struct CutStep *step, int axis)
{
    return (double)size_guess(z, dim_of_expr(z->dim, k, k->axis.at[axis].extent, step->size));
}

double step_guess(Kernel *k, const Sizes *z, const struct CutStep *step)
{
    double work = 0;
    for (uint32_t i = 0; i < k->stage.n; i++) {
        const Compute *s = &k->stage.at[i];
        double n = 1 + expr_cost(k, s->value) + (s->epilogue ? expr_cost(k, s->epilogue) : 0);
        for (int a = 0; a < s->rank; a++) n *= size_of(k, z, step, s->space[a]);
        for (int a = 0; a < s->reduces; a++) n *= size_of(k, z, step, s->reduce[a]);
        work += n;
    }
    return work;
}

static int by_time(const void *a, const void *b)
{
    double x = **(const double *const *)a, y = **(const double *const *)b;
    if (x != y) return x < y ? -1 : 1;
    return *(const double *const *)a < *(const double *const *)b ? -1 : 1; /* of one array */
}

bool *hardly_seen(const double *time, uint32_t n, Arena *mem)
{
    static const double share = 0.01;
    bool *hardly = NEW_ARRAY(mem, bool, n + 1);
    const double **order = NEW_ARRAY(mem, const double *, n + 1);
    double all = 0, some = 0;
    for (uint32_t i = 0; i < n; i++) all += time[i], order[i] = &time[i];
    qsort(order, n, sizeof *order, by_time);
    for (uint32_t i = 0; i < n && (some += *order[i]) <= share * all; i++) hardly[order[i] - time] = true;
    return hardly;
}
