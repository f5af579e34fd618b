/* demand.c - where the stages of a program run at all.
 *
 * Comes in: a program in which some stages say a condition, one of two copies that stand for a choice (octet.Choose), and per
 * buffer where its contents are wanted from outside. Goes out: every stage's condition. A stage runs where one that reads its result
 * does, so whatever a branch needs alone is skipped with it, however the stages have been joined, copied or laid out since. */
#include "ir/lower.h"

typedef struct Demand {
    Kernel *k;
    Dim *need; /* per buffer; id 0: nowhere */
    Dim now;   /* of the stage in hand */
} Demand;

static Dim either(Dims *d, Dim a, Dim b)
{
    if (!a.id || !b.id) return a.id ? a : b;
    if (dim_same(a, b) || dim_is(d, a, 1)) return a;
    return dim_is(d, b, 1) ? b : dim_either(d, a, b);
}

static Dim size_of(Kernel *k, Expr e)
{
    ExprNode n = *expr_node(k, e);
    return n.kind == E_INT ? dim_const(k->dim, n.u.i) : (Dim){n.id};
}

static bool read(void *ctx, Expr load)
{
    Demand *x = ctx;
    uint32_t buf = expr_node(x->k, load)->id;
    x->need[buf] = either(x->k->dim, x->need[buf], x->now);
    return true;
}

static Dim stage_need(Demand *x, const Compute *s)
{
    Dims *d = x->k->dim;
    Dim n = x->need[s->out];
    if (s->keep) n = either(d, n, x->need[expr_node(x->k, s->keep)->id]);
    return n.id && s->when ? dim_mul(d, n, size_of(x->k, s->when)) : n;
}

static void stage_reads(Demand *x, const Compute *s, Dim now)
{
    Expr e[] = {s->value, s->epilogue, s->check, s->where};
    x->now = now;
    for (size_t i = 0; i < COUNT_OF(e); i++)
        if (e[i]) expr_loads(x->k, e[i], read, x);
    for (int a = 0; a < x->k->buf.at[s->out].rank; a++) expr_loads(x->k, s->at[a], read, x);
}

void program_demand(Kernel *k, const Dim *wanted)
{
    Arena mem = {0};
    Demand x = {.k = k, .need = NEW_ARRAY(&mem, Dim, k->buf.n)};
    Dim *now = NEW_ARRAY(&mem, Dim, k->stage.n + 1);
    memcpy(x.need, wanted, sizeof *wanted * k->buf.n);
    for (bool again = true; again;) { /* a stage of a scan may be read by one that stands before it */
        again = false;
        for (uint32_t i = k->stage.n; i--;) {
            Dim n = stage_need(&x, &k->stage.at[i]);
            if (!n.id || dim_same(n, now[i])) continue;
            now[i] = n, again = true;
            stage_reads(&x, &k->stage.at[i], n);
        }
    }
    for (uint32_t i = 0; i < k->stage.n; i++)
        k->stage.at[i].when = dim_is(k->dim, now[i], 1) ? 0 : expr_dim(k, now[i].id ? now[i] : dim_const(k->dim, 0));
    arena_drop(&mem);
}
