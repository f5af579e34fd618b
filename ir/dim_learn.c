/* dim_learn.c - conditions on sizes: proven, refuted, or recorded as guards and learnt from; the broadcast policy. */
#include "ir/base/checked.h"
#include "ir/dim_poly.h"

static bool mentions(const Dims *d, uint32_t p, uint32_t atom)
{
    const Poly *x = &d->poly.at[p];
    for (uint32_t i = 0; i < x->n; i++) {
        const Mono *m = &d->mono.at[d->term.at[x->at + i].mono];
        for (uint32_t k = 0; k < m->n; k++) {
            const Atom *a = &d->atom.at[d->factor.at[m->at + k].atom];
            if (d->factor.at[m->at + k].atom == atom) return true;
            if (a->op == DIMOP_SYM) continue;
            if (mentions(d, a->a, atom) || (a->op != DIMOP_SCALE && mentions(d, a->b, atom))) return true;
        }
    }
    return false;
}

/* p is c * S + k: the symbol, or NULL. */
static Symbol *only_symbol(Dims *d, uint32_t p, int64_t *c, int64_t *k)
{
    const Poly *x = &d->poly.at[p];
    if (!p || !x->n || x->n > 2 || (x->n == 2 && d->term.at[x->at + 1].mono)) return NULL;
    Term t = d->term.at[x->at];
    if (d->mono.at[t.mono].degree != 1) return NULL;
    const Atom *a = &d->atom.at[d->factor.at[d->mono.at[t.mono].at].atom];
    *c = t.c, *k = poly_const_term(d, p);
    return a->op == DIMOP_SYM ? &d->symbol.at[a->a] : NULL;
}

/* p >= 0 from now on. */
static void learn_ge(Dims *d, uint32_t p)
{
    int64_t c, k;
    Symbol *s = only_symbol(d, p, &c, &k);
    if (!s || c == INT64_MIN || k == INT64_MIN) return;
    if (c > 0 && ceil_div(-k, c) > s->lo) s->lo = ceil_div(-k, c), d->learnt++;
    int64_t hi = c < 0 ? floor_div(k, -c) : INT64_MAX;
    if (c < 0 && (!s->bounded || hi < s->hi)) s->hi = hi, s->bounded = true, d->learnt++;
    if (s->bounded && s->lo == s->hi && !s->solution) s->solution = poly_const(d, s->lo);
}

/* How gladly a symbol is replaced by what it equals: a size of an input least, a size that nothing but its equal tells most. */
static int replaceable(const Symbol *s) { return s->kind != DIM_DATA ? 0 : s->element ? 1 : 2; }

/* p == 0 from now on: solved for a symbol that occurs once, the most replaceable, then the last declared. */
static void learn_eq(Dims *d, uint32_t p)
{
    int64_t g = poly_content(d, p, 0, true);
    if (g > 1) p = poly_divided(d, p, g);
    const Poly x = d->poly.at[p];
    uint32_t best = UINT32_MAX, solution = 0;
    for (uint32_t i = 0; i < x.n; i++) {
        Term t = d->term.at[x.at + i];
        Mono m = d->mono.at[t.mono];
        if (m.degree != 1 || (t.c != 1 && t.c != -1)) continue;
        const Atom a = d->atom.at[d->factor.at[m.at].atom];
        uint32_t rest = poly_add(d, p, -1, poly_intern(d, &t, 1));
        if (a.op == DIMOP_POS && rest == 1) { /* max(x, 0) = 0 */
            learn_ge(d, poly_scale(d, a.a, -1));
            return;
        }
        bool holds = rest == poly_const(d, -t.c); /* a condition that is 1 */
        if (a.op == DIMOP_EQ0 && holds) {
            learn_eq(d, a.a);
            return;
        }
        if (a.op == DIMOP_GE0 && holds) {
            learn_ge(d, a.a);
            return;
        }
        if (a.op != DIMOP_SYM || !rest || mentions(d, rest, d->symbol.at[a.a].atom)) continue;
        int own = replaceable(&d->symbol.at[a.a]), other = best == UINT32_MAX ? -1 : replaceable(&d->symbol.at[best]);
        if (own < other || (own == other && a.a < best)) continue;
        best = a.a, solution = poly_scale(d, rest, -t.c);
    }
    if (best == UINT32_MAX || !solution) return;
    Symbol *s = &d->symbol.at[best];
    s->solution = solution;
    d->learnt++;
    learn_ge(d, poly_shift(d, solution, -s->lo)); /* what is known of the symbol is known of its solution */
    if (d->symbol.at[best].bounded) learn_ge(d, poly_shift(d, poly_scale(d, solution, -1), d->symbol.at[best].hi));
}

Dim dim_assume(Dims *d, Dim when)
{
    Dim before = d->when;
    d->when = dim_is(d, when, 1) ? dim_of(0) : when;
    return before;
}

/* A guard that another branch needs too holds where either is taken. True: it holds always, so it may be learnt from. */
static bool guard_widen(Dims *d, Guard *g)
{
    if (g->when.id && d->when.id) g->when = dim_either(d, g->when, d->when);
    if (!d->when.id || dim_is(d, g->when, 1)) g->when = dim_of(0);
    return !g->when.id;
}

static bool guard_record(Dims *d, GuardKind kind, Dim a, Dim b, const Loc *loc, const char *why)
{
    for (uint32_t i = 0; i < d->guard.n; i++) {
        Guard *g = &d->guard.at[i];
        if (g->kind == kind && g->a.id == a.id && g->b.id == b.id) return guard_widen(d, g);
    }
    vec_push(d->mem, &d->guard, (Guard){kind, a, b, loc, why, d->when});
    return !d->when.id;
}

bool dim_require(Dims *d, GuardKind kind, Dim a, Dim b, const Loc *loc, const char *why)
{
    if (!a.id || !b.id) return true;
    a = dim_canon(d, a), b = dim_canon(d, b);
    Dim p = dim_sub(d, a, b);
    int64_t v;
    switch (kind) {
    case GUARD_EQ:
        if (p.id == 1) return true;
        if (poly_never_zero(d, p.id)) return false;
        if (guard_record(d, kind, a, b, loc, why)) learn_eq(d, p.id);
        return true;
    case GUARD_GE:
        if (poly_at_least(d, p.id, 0, true, 0)) return true;
        if (poly_upper(d, p.id, true, &v) && v < 0) return false;
        if (guard_record(d, kind, a, b, loc, why)) learn_ge(d, p.id);
        return true;
    case GUARD_EQ_OR_ONE: {
        Dim one = dim_const(d, 1);
        if (p.id == 1 || a.id == one.id) return true;
        if (b.id == one.id) return dim_require(d, GUARD_EQ, a, b, loc, why);
        bool is_b = !poly_never_zero(d, p.id), is_one = !poly_never_zero(d, dim_sub(d, a, one).id);
        if (!is_b || !is_one) return (is_b || is_one) && dim_require(d, GUARD_EQ, a, is_b ? b : one, loc, why);
        guard_record(d, kind, a, b, loc, why);
        return true;
    }
    case GUARD_NE:
        if (p.id == 1) return false;
        if (poly_never_zero(d, p.id)) return true;
        if (!guard_record(d, kind, a, b, loc, why)) return true;
        if (poly_at_least(d, p.id, 0, false, 0)) learn_ge(d, poly_shift(d, p.id, -1));
        else if (poly_upper(d, p.id, false, &v) && v <= 0) learn_ge(d, poly_shift(d, poly_scale(d, p.id, -1), -1));
        return true;
    }
    return false;
}

/* The guard that said what became of a size. */
static const Guard *guard_of(const Dims *d, Dim a)
{
    for (uint32_t i = 0; i < d->guard.n; i++) {
        const Guard *g = &d->guard.at[i];
        if (g->kind == GUARD_EQ && (g->a.id == a.id || g->b.id == a.id)) return g;
    }
    return NULL;
}

/* What data tells was learnt to be something else, under a guard that will find the size gone: its twin must be that, too. */
static void guard_twin(Dims *d, Dim gone, Dim is, Dim twin)
{
    if (!dim_has_data(d, gone) || dim_has_data(d, is) || !dim_has_data(d, twin)) return;
    const Guard *g = guard_of(d, gone);
    guard_record(d, GUARD_EQ, twin, is, g ? g->loc : NULL, g ? g->why : NULL);
}

void dim_unify(Dims *d, Dim a, Dim b)
{
    Dim x = dim_canon(d, a), y = dim_canon(d, b), p = dim_sub(d, x, y);
    if (p.id <= 1) return;
    guard_twin(d, a, x, y), guard_twin(d, b, y, x);
    learn_eq(d, p.id);
}

/* Neither is guessed: whichever is 1 gives way, at run time. */
static Dim broadcast_exact(Dims *d, Dim a, Dim b, const Loc *loc)
{
    const char *why = "sizes that broadcast together";
    Dim s = dim_select(d, dim_eq(d, a, dim_const(d, 1)), b, a);
    bool ok = dim_require(d, GUARD_EQ_OR_ONE, a, s, loc, why) && dim_require(d, GUARD_EQ_OR_ONE, b, s, loc, why);
    return ok ? dim_canon(d, s) : dim_of(0);
}

Dim dim_broadcast(Dims *d, Dim a, Dim b, const Loc *loc)
{
    a = dim_canon(d, a), b = dim_canon(d, b);
    if (a.id == b.id || dim_is(d, b, 1)) return a;
    if (dim_is(d, a, 1)) return b;
    bool ca = dim_is_const(d, a, NULL), cb = dim_is_const(d, b, NULL);
    if (!a.id || !b.id) return ca ? a : cb ? b : dim_of(0);
    const char *why = "sizes that broadcast together";
    if (ca && cb) return dim_of(0);
    if (ca || cb) {
        Dim c = ca ? a : b;
        return dim_require(d, GUARD_EQ_OR_ONE, ca ? b : a, c, loc, why) ? c : dim_of(0);
    }
    int64_t c, k;
    Dim p = dim_sub(d, a, b);
    bool guess =
        !dim_has_data(d, a) && !dim_has_data(d, b) && !poly_never_zero(d, p.id) && !only_symbol(d, p.id, &c, &k);
    if (!guess) return broadcast_exact(d, a, b, loc);
    return dim_require(d, GUARD_EQ, a, b, loc, why) ? dim_canon(d, a) : dim_of(0);
}

uint32_t dim_guards(const Dims *d, const Guard **list)
{
    *list = d->guard.at;
    return d->guard.n;
}
