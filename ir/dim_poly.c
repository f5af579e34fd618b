/* dim_poly.c - interning of monomials, polynomials and atoms; sums and products in normal form. */
#include "ir/dim_poly.h"
#include "ir/base/checked.h"
#include <assert.h>

/* ---- interning ---- */
static uint32_t *table_slot(Dims *d, Table *t, uint32_t hash, bool (*same)(const Dims *, uint32_t, const void *),
                            const void *key)
{
    uint32_t i = hash & (t->cap - 1);
    while (t->slot[i] && !same(d, t->slot[i] - 1, key)) i = (i + 1) & (t->cap - 1);
    return &t->slot[i];
}

static void table_grow(Arena *mem, Table *t, uint32_t (*hash_of)(const Dims *, uint32_t), const Dims *d)
{
    if (t->n * 4 < t->cap * 3) return;
    Table old = *t;
    t->cap = old.cap ? old.cap * 2 : 64;
    t->slot = NEW_ARRAY(mem, uint32_t, t->cap);
    for (uint32_t i = 0; i < old.cap; i++) {
        if (!old.slot[i]) continue;
        uint32_t k = hash_of(d, old.slot[i] - 1) & (t->cap - 1);
        while (t->slot[k]) k = (k + 1) & (t->cap - 1);
        t->slot[k] = old.slot[i];
    }
}

static uint32_t mix(uint32_t h, uint64_t v) { return (uint32_t)hash_bytes(&v, sizeof v, h); }

typedef struct MonoKey {
    const Factor *f;
    uint32_t n;
} MonoKey;
static uint32_t mono_hash(const Dims *d, uint32_t m) { return d->mono.at[m].hash; }
static bool mono_same(const Dims *d, uint32_t m, const void *key)
{
    const MonoKey *k = key;
    const Mono *x = &d->mono.at[m];
    return x->n == k->n && (!k->n || !memcmp(&d->factor.at[x->at], k->f, k->n * sizeof *k->f));
}

uint32_t mono_intern(Dims *d, const Factor *f, uint32_t n)
{
    uint32_t hash = n, degree = 0;
    for (uint32_t i = 0; i < n; i++) hash = mix(hash, (uint64_t)f[i].atom << 32 | f[i].power), degree += f[i].power;
    table_grow(d->mem, &d->monos, mono_hash, d);
    uint32_t *slot = table_slot(d, &d->monos, hash, mono_same, &(MonoKey){f, n});
    if (*slot) return *slot - 1;
    uint32_t at = d->factor.n;
    for (uint32_t i = 0; i < n; i++) vec_push(d->mem, &d->factor, f[i]);
    uint32_t m = vec_push(d->mem, &d->mono, (Mono){at, n, degree, hash});
    *slot = m + 1, d->monos.n++;
    return m;
}

/* Graded lexicographic: negative when x comes first. Multiplying both by a monomial keeps the order, which makes
 * dividing by the leading term end. */
static int mono_compare(const Dims *d, uint32_t x, uint32_t y)
{
    const Mono *a = &d->mono.at[x], *b = &d->mono.at[y];
    if (x == y) return 0;
    if (a->degree != b->degree) return a->degree > b->degree ? -1 : 1;
    for (uint32_t i = 0;; i++) {
        assert(i < a->n && i < b->n);
        Factor f = d->factor.at[a->at + i], g = d->factor.at[b->at + i];
        if (f.atom != g.atom) return f.atom < g.atom ? -1 : 1;
        if (f.power != g.power) return f.power > g.power ? -1 : 1;
    }
}

typedef struct PolyKey {
    const Term *t;
    uint32_t n;
} PolyKey;
static uint32_t poly_hash(const Dims *d, uint32_t p) { return d->poly.at[p].hash; }
static bool poly_same(const Dims *d, uint32_t p, const void *key)
{
    const PolyKey *k = key;
    const Poly *x = &d->poly.at[p];
    if (!p || x->n != k->n) return false;
    for (uint32_t i = 0; i < k->n; i++) {
        const Term *t = &d->term.at[x->at + i];
        if (t->c != k->t[i].c || t->mono != k->t[i].mono) return false;
    }
    return true;
}

uint32_t poly_intern(Dims *d, const Term *t, uint32_t n)
{
    uint32_t hash = n;
    for (uint32_t i = 0; i < n; i++) hash = mix(mix(hash, (uint64_t)t[i].c), t[i].mono);
    table_grow(d->mem, &d->polys, poly_hash, d);
    uint32_t *slot = table_slot(d, &d->polys, hash, poly_same, &(PolyKey){t, n});
    if (*slot) return *slot - 1;
    uint32_t at = d->term.n;
    for (uint32_t i = 0; i < n; i++) vec_push(d->mem, &d->term, t[i]);
    uint32_t p = vec_push(d->mem, &d->poly, (Poly){.at = at, .n = n, .hash = hash});
    *slot = p + 1, d->polys.n++;
    return p;
}

static uint32_t atom_hash(const Dims *d, uint32_t a) { return d->atom.at[a].hash; }
static bool atom_same(const Dims *d, uint32_t a, const void *key)
{
    const Atom *x = &d->atom.at[a], *k = key;
    return x->op == k->op && x->a == k->a && x->b == k->b;
}

bool poly_has_data(const Dims *d, uint32_t p)
{
    const Poly *x = &d->poly.at[p];
    for (uint32_t i = 0; i < x->n; i++) {
        const Mono *m = &d->mono.at[d->term.at[x->at + i].mono];
        for (uint32_t k = 0; k < m->n; k++)
            if (d->atom.at[d->factor.at[m->at + k].atom].data) return true;
    }
    return false;
}

/* The Dim that is one atom. b: a Dim, or the bits of SCALE, or 0. */
uint32_t atom_intern(Dims *d, DimOp op, uint32_t a, uint32_t b)
{
    Atom key = {.op = op, .a = a, .b = b, .hash = mix(mix((uint32_t)op, a), b)};
    table_grow(d->mem, &d->atoms, atom_hash, d);
    uint32_t *slot = table_slot(d, &d->atoms, key.hash, atom_same, &key);
    if (*slot) return d->atom.at[*slot - 1].self;
    if (op == DIMOP_SYM) key.data = d->symbol.at[a].kind == DIM_DATA;
    else key.data = poly_has_data(d, a) || (op != DIMOP_SCALE && b && poly_has_data(d, b));
    uint32_t i = vec_push(d->mem, &d->atom, key);
    *slot = i + 1, d->atoms.n++;
    uint32_t self = poly_intern(d, &(Term){1, mono_intern(d, &(Factor){i, 1}, 1)}, 1);
    d->atom.at[i].self = self;
    return self;
}

/* ---- sums under construction ---- */
void sum_add(Sum *s, int64_t c, uint32_t mono)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->t[i].mono == mono) {
            if (!checked_add(s->t[i].c, c, &s->t[i].c)) s->bad = true;
            return;
        }
    if (s->n == SUM_TERMS) s->bad = true;
    else s->t[s->n++] = (Term){c, mono};
}

uint32_t sum_finish(Dims *d, Sum *s)
{
    if (s->bad) return 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        Term t = s->t[i];
        if (!t.c) continue;
        uint32_t k = n++;
        for (; k && mono_compare(d, t.mono, s->t[k - 1].mono) < 0; k--) s->t[k] = s->t[k - 1];
        s->t[k] = t;
    }
    return n > TERMS ? 0 : poly_intern(d, s->t, n);
}

uint32_t poly_const(Dims *d, int64_t v) { return v ? poly_intern(d, &(Term){v, 0}, 1) : 1; }

bool poly_is_const(const Dims *d, uint32_t p, int64_t *v)
{
    const Poly *x = &d->poly.at[p];
    if (!p || x->n > 1 || (x->n && d->term.at[x->at].mono)) return false;
    *v = x->n ? d->term.at[x->at].c : 0;
    return true;
}

int64_t poly_const_term(const Dims *d, uint32_t p)
{
    const Poly *x = &d->poly.at[p];
    return x->n && !d->term.at[x->at + x->n - 1].mono ? d->term.at[x->at + x->n - 1].c : 0;
}

/* a + k * b */
uint32_t poly_add(Dims *d, uint32_t a, int64_t k, uint32_t b)
{
    if (!a || !b) return 0;
    Sum s = {.n = 0};
    const Poly x = d->poly.at[a], y = d->poly.at[b];
    for (uint32_t i = 0; i < x.n; i++) sum_add(&s, d->term.at[x.at + i].c, d->term.at[x.at + i].mono);
    for (uint32_t i = 0; i < y.n; i++) {
        int64_t c;
        if (!checked_mul(d->term.at[y.at + i].c, k, &c)) return 0;
        sum_add(&s, c, d->term.at[y.at + i].mono);
    }
    return sum_finish(d, &s);
}

uint32_t poly_shift(Dims *d, uint32_t a, int64_t k) { return poly_add(d, a, 1, poly_const(d, k)); }
uint32_t poly_scale(Dims *d, uint32_t a, int64_t k) { return poly_add(d, 1, k, a); }

static bool is_indicator(const Dims *d, uint32_t atom)
{
    const Atom *a = &d->atom.at[atom];
    return a->op == DIMOP_GE0 || a->op == DIMOP_EQ0 || (a->op == DIMOP_SYM && d->symbol.at[a->a].truth);
}

static uint32_t mono_mul(Dims *d, uint32_t x, uint32_t y)
{
    enum { FACTORS = 32 };
    Mono a = d->mono.at[x], b = d->mono.at[y];
    Factor f[FACTORS];
    uint32_t n = 0, i = 0, k = 0;
    if (a.n + b.n > FACTORS) return UINT32_MAX;
    while (i < a.n || k < b.n) {
        Factor g = i < a.n ? d->factor.at[a.at + i] : (Factor){UINT32_MAX, 0};
        Factor h = k < b.n ? d->factor.at[b.at + k] : (Factor){UINT32_MAX, 0};
        Factor r = g.atom < h.atom ? g : h;
        if (g.atom == h.atom) r.power = is_indicator(d, g.atom) ? 1 : g.power + h.power; /* c * c = c */
        i += g.atom == r.atom, k += h.atom == r.atom;
        f[n++] = r;
    }
    return mono_intern(d, f, n);
}

uint32_t poly_mul(Dims *d, uint32_t a, uint32_t b)
{
    if (!a || !b) return 0;
    const Poly x = d->poly.at[a], y = d->poly.at[b];
    if (x.n * y.n > SUM_TERMS) return 0;
    Sum s = {.n = 0};
    for (uint32_t i = 0; i < x.n; i++)
        for (uint32_t k = 0; k < y.n; k++) {
            Term t = d->term.at[x.at + i], u = d->term.at[y.at + k];
            int64_t c;
            uint32_t m = mono_mul(d, t.mono, u.mono);
            if (m == UINT32_MAX || !checked_mul(t.c, u.c, &c)) return 0;
            sum_add(&s, c, m);
        }
    return sum_finish(d, &s);
}

uint32_t mono_power(const Dims *d, uint32_t mono, uint32_t atom)
{
    const Mono *m = &d->mono.at[mono];
    for (uint32_t i = 0; i < m->n; i++)
        if (d->factor.at[m->at + i].atom == atom) return d->factor.at[m->at + i].power;
    return 0;
}
