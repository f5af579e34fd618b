/* dim.c - arithmetic on sizes, simplifying as it goes; what has been learnt is applied by dim_canon. */
#include "ir/base/checked.h"
#include "ir/dim_poly.h"
#include <assert.h>
#include <math.h>

static Dim opaque(Dims *d, DimOp op, Dim a, Dim b)
{
    bool swap = (op == DIMOP_ADD || op == DIMOP_MUL) && a.id > b.id;
    return dim_of(swap ? atom_intern(d, op, b.id, a.id) : atom_intern(d, op, a.id, b.id));
}

Dims *dims_new(Arena *mem)
{
    Dims *d = NEW(mem, Dims);
    d->mem = mem, d->learnt = 1;
    vec_push(mem, &d->poly, (Poly){.n = 0});
    mono_intern(d, NULL, 0);
    poly_intern(d, NULL, 0);
    assert(d->poly.n == 2 && d->mono.n == 1);
    return d;
}

Dim dim_const(Dims *d, int64_t v) { return dim_of(poly_const(d, v)); }

Dim dim_symbol(Dims *d, const char *name, DimKind kind, int64_t lo)
{
    uint32_t known = map_get(&d->names, name);
    if (known) return dim_of(d->atom.at[d->symbol.at[known - 1].atom].self);
    name = arena_text(d->mem, name, strlen(name));
    uint32_t i = vec_push(d->mem, &d->symbol, (Symbol){.name = name, .kind = kind, .lo = lo});
    map_put(d->mem, &d->names, name, i + 1);
    d->symbol.at[i].atom = d->atom.n;
    return dim_of(atom_intern(d, DIMOP_SYM, i, 0));
}

static const char *fresh_name(Dims *d, const char *stem)
{
    const char *name;
    do name = arena_printf(d->mem, "%s.%u", stem, ++d->fresh);
    while (map_get(&d->names, name));
    return name;
}

Dim dim_fresh(Dims *d, const char *stem, DimKind kind) { return dim_symbol(d, fresh_name(d, stem), kind, 0); }

static Dim element(Dims *d, const char *name, int64_t lo)
{
    uint32_t i = d->symbol.n;
    Dim s = dim_symbol(d, map_get(&d->names, name) ? fresh_name(d, name) : name, DIM_DATA, lo);
    d->symbol.at[i].element = true;
    return s;
}

Dim dim_element(Dims *d, const char *name) { return element(d, name, -((int64_t)1 << DIM_ELEMENT_BITS)); }

Dim dim_truth(Dims *d, const char *name)
{
    uint32_t i = d->symbol.n;
    Dim s = element(d, name, 0);
    d->symbol.at[i].truth = d->symbol.at[i].bounded = true, d->symbol.at[i].hi = 1;
    return s;
}

Dim dim_add(Dims *d, Dim a, Dim b)
{
    if (!a.id || !b.id) return dim_of(0);
    uint32_t r = poly_add(d, a.id, 1, b.id);
    return r ? dim_of(r) : opaque(d, DIMOP_ADD, a, b);
}

Dim dim_mul(Dims *d, Dim a, Dim b)
{
    if (!a.id || !b.id) return dim_of(0);
    uint32_t r = poly_mul(d, a.id, b.id);
    return r ? dim_of(r) : opaque(d, DIMOP_MUL, a, b);
}

Dim dim_sub(Dims *d, Dim a, Dim b) { return dim_add(d, a, dim_mul(d, dim_const(d, -1), b)); }

static int64_t gcd(int64_t a, int64_t b)
{
    a = a < 0 ? -a : a, b = b < 0 ? -b : b;
    while (b) {
        int64_t r = a % b;
        a = b, b = r;
    }
    return a;
}

/* The gcd of g and the coefficients, without the constant's if !whole; 1 when one of them is INT64_MIN. */
int64_t poly_content(const Dims *d, uint32_t p, int64_t g, bool whole)
{
    const Poly *x = &d->poly.at[p];
    for (uint32_t i = 0; i < x->n; i++) {
        Term t = d->term.at[x->at + i];
        if (t.c == INT64_MIN) return 1;
        if (t.mono || whole) g = gcd(g, t.c);
    }
    return g;
}

/* Every coefficient floor-divided by k > 0. */
uint32_t poly_divided(Dims *d, uint32_t p, int64_t k)
{
    Sum s = {.n = 0};
    const Poly x = d->poly.at[p];
    for (uint32_t i = 0; i < x.n; i++) sum_add(&s, floor_div(d->term.at[x.at + i].c, k), d->term.at[x.at + i].mono);
    return sum_finish(d, &s);
}

/* p = q * a + b by dividing leading terms, as far as it goes. */
static bool divide(Dims *d, uint32_t p, uint32_t q, uint32_t *a, uint32_t *b)
{
    if (!p || d->poly.at[q].n == 0) return false;
    Term lead = d->term.at[d->poly.at[q].at];
    uint32_t rest = p;
    *a = *b = 1;
    for (int step = 0; step < DIVISION_STEPS && rest && d->poly.at[rest].n; step++) {
        Term t = d->term.at[d->poly.at[rest].at];
        Mono m = d->mono.at[t.mono], l = d->mono.at[lead.mono];
        bool fits = lead.c != -1 && t.c % lead.c == 0;
        if (lead.c == -1) fits = t.c != INT64_MIN;
        for (uint32_t i = 0; fits && i < l.n; i++) {
            Factor f = d->factor.at[l.at + i];
            fits = mono_power(d, t.mono, f.atom) >= f.power;
        }
        if (!fits) { /* set aside: part of the remainder */
            uint32_t term = poly_intern(d, &t, 1);
            *b = poly_add(d, *b, 1, term), rest = poly_add(d, rest, -1, term);
            continue;
        }
        Factor f[32];
        uint32_t n = 0;
        for (uint32_t i = 0; i < m.n; i++) {
            Factor g = d->factor.at[m.at + i];
            g.power -= mono_power(d, lead.mono, g.atom);
            if (g.power) f[n++] = g;
        }
        uint32_t part = poly_intern(d, &(Term){t.c / lead.c, mono_intern(d, f, n)}, 1);
        *a = poly_add(d, *a, 1, part), rest = poly_add(d, rest, -1, poly_mul(d, part, q));
    }
    *b = poly_add(d, *b, 1, rest);
    return *a && *b;
}

/* p / k where p is a floor division by a constant, plus a constant:
 * floor((floor(y / c) + j) / k) = floor((y + j * c) / (c * k)) */
static bool flatten_fdiv(Dims *d, uint32_t p, int64_t k, Dim *r)
{
    const Poly x = d->poly.at[p];
    Term t = d->term.at[x.at];
    if (x.n > 2 || (x.n == 2 && d->term.at[x.at + 1].mono) || t.c != 1 || d->mono.at[t.mono].degree != 1) return false;
    const Atom a = d->atom.at[d->factor.at[d->mono.at[t.mono].at].atom];
    int64_t c, ck, j;
    if (a.op != DIMOP_FDIV || !poly_is_const(d, a.b, &c) || c <= 0 || !checked_mul(c, k, &ck)) return false;
    if (!checked_mul(poly_const_term(d, p), c, &j)) return false;
    uint32_t y = poly_shift(d, a.a, j);
    if (!y) return false;
    *r = dim_fdiv(d, dim_of(y), dim_const(d, ck));
    return true;
}

static Dim fdiv_const(Dims *d, Dim p, int64_t q)
{
    if (q == 1) return p;
    uint32_t a = poly_divided(d, p.id, q);
    uint32_t b = poly_add(d, p.id, -q, a); /* the remainders of the coefficients */
    int64_t v, lo, hi;
    if (!a || !b) return opaque(d, DIMOP_FDIV, p, dim_const(d, q));
    if (poly_is_const(d, b, &v)) return dim_of(a);
    int64_t g = poly_content(d, b, q, false);
    if (g > 1) return dim_add(d, dim_of(a), fdiv_const(d, dim_of(poly_divided(d, b, g)), q / g));
    if (poly_lower(d, b, 0, true, &lo) && poly_upper(d, b, true, &hi) && floor_div(lo, q) == floor_div(hi, q))
        return dim_add(d, dim_of(a), dim_const(d, floor_div(lo, q)));
    Dim flat;
    if (!flatten_fdiv(d, b, q, &flat)) flat = opaque(d, DIMOP_FDIV, dim_of(b), dim_const(d, q));
    return dim_add(d, dim_of(a), flat);
}

Dim dim_fdiv(Dims *d, Dim a, Dim b)
{
    int64_t q;
    if (!a.id || !b.id) return dim_of(0);
    if (poly_is_const(d, b.id, &q)) return q > 0 ? fdiv_const(d, a, q) : opaque(d, DIMOP_FDIV, a, b);
    uint32_t quotient, rest;
    if (!divide(d, a.id, b.id, &quotient, &rest)) return opaque(d, DIMOP_FDIV, a, b);
    if (rest == 1) return dim_of(quotient);
    if (poly_at_least(d, rest, 0, true, 0) && poly_at_least(d, poly_add(d, b.id, -1, rest), 0, true, 1))
        return dim_of(quotient);
    return dim_add(d, dim_of(quotient), opaque(d, DIMOP_FDIV, dim_of(rest), b));
}

Dim dim_cdiv(Dims *d, Dim a, Dim b) { return dim_fdiv(d, dim_sub(d, dim_add(d, a, b), dim_const(d, 1)), b); }

Dim dim_mod(Dims *d, Dim a, Dim b) { return dim_sub(d, a, dim_mul(d, b, dim_fdiv(d, a, b))); }

Dim dim_tdiv(Dims *d, Dim a, Dim b)
{
    int64_t p, q, hi;
    if (!a.id || !b.id) return dim_of(0);
    if (poly_at_least(d, a.id, 0, true, 0) && poly_at_least(d, b.id, 0, true, 1)) return dim_fdiv(d, a, b);
    bool divisor = poly_is_const(d, b.id, &q) && q != 0;
    if (divisor && poly_is_const(d, a.id, &p) && (p != INT64_MIN || q != -1)) return dim_const(d, p / q);
    if (divisor && q > 0 && poly_upper(d, a.id, true, &hi) && hi <= 0)
        return dim_sub(d, dim_const(d, 0), dim_fdiv(d, dim_sub(d, dim_const(d, 0), a), b));
    uint32_t quotient, rest;
    if (divisor && divide(d, a.id, b.id, &quotient, &rest) && rest == 1) return dim_of(quotient);
    return opaque(d, DIMOP_TDIV, a, b);
}

static int64_t leading(const Dims *d, uint32_t p)
{
    const Poly *x = &d->poly.at[p];
    return x->n && d->term.at[x->at].mono ? d->term.at[x->at].c : 0;
}

/* max(p, 0); canonical sign by pos(-x) = pos(x) - x */
static Dim pos(Dims *d, Dim p)
{
    int64_t v;
    if (!p.id) return p;
    if (poly_at_least(d, p.id, 0, true, 0)) return p;
    if (poly_upper(d, p.id, true, &v) && v <= 0) return dim_const(d, 0);
    int64_t g = poly_content(d, p.id, 0, true);
    if (g > 1) return dim_mul(d, dim_const(d, g), pos(d, dim_of(poly_divided(d, p.id, g))));
    uint32_t minus = poly_scale(d, p.id, -1);
    if (leading(d, p.id) < 0 && minus) return dim_add(d, pos(d, dim_of(minus)), p);
    return opaque(d, DIMOP_POS, p, dim_of(0));
}

Dim dim_max(Dims *d, Dim a, Dim b) { return dim_add(d, b, pos(d, dim_sub(d, a, b))); }
Dim dim_min(Dims *d, Dim a, Dim b) { return dim_sub(d, a, pos(d, dim_sub(d, a, b))); }

Dim dim_ge(Dims *d, Dim a, Dim b)
{
    int64_t v;
    Dim p = dim_sub(d, a, b);
    if (!p.id) return p;
    if (poly_at_least(d, p.id, 0, true, 0)) return dim_const(d, 1);
    if (poly_upper(d, p.id, true, &v) && v < 0) return dim_const(d, 0);
    uint32_t flip = leading(d, p.id) < 0 ? poly_shift(d, poly_scale(d, p.id, -1), -1) : 0; /* p >= 0 is not -p-1 >= 0 */
    if (flip) return dim_sub(d, dim_const(d, 1), opaque(d, DIMOP_GE0, dim_of(flip), dim_of(0)));
    return opaque(d, DIMOP_GE0, p, dim_of(0));
}

/* Can p never be 0? */
bool poly_never_zero(Dims *d, uint32_t p)
{
    int64_t v;
    if (poly_at_least(d, p, 0, true, 1) || (poly_upper(d, p, true, &v) && v < 0)) return true;
    int64_t g = poly_content(d, p, 0, false);
    return g > 1 && poly_const_term(d, p) % g;
}

Dim dim_eq(Dims *d, Dim a, Dim b)
{
    Dim p = dim_sub(d, a, b);
    if (p.id <= 1) return p.id ? dim_const(d, 1) : p;
    if (poly_never_zero(d, p.id)) return dim_const(d, 0);
    uint32_t minus = leading(d, p.id) < 0 ? poly_scale(d, p.id, -1) : 0;
    return opaque(d, DIMOP_EQ0, minus ? dim_of(minus) : p, dim_of(0));
}

Dim dim_select(Dims *d, Dim cond, Dim a, Dim b)
{
    if (dim_is(d, cond, 1) || dim_is(d, cond, 0)) return dim_is(d, cond, 1) ? a : b;
    return dim_add(d, b, dim_mul(d, cond, dim_sub(d, a, b)));
}

Dim dim_not(Dims *d, Dim a) { return dim_sub(d, dim_const(d, 1), a); }

Dim dim_either(Dims *d, Dim a, Dim b) { return dim_not(d, dim_mul(d, dim_not(d, a), dim_not(d, b))); }

bool dim_scale_eval(int64_t x, uint32_t bits, int64_t *v)
{
    float s;
    memcpy(&s, &bits, sizeof s);
    s = (float)x * s;
    if (!(s > -0x1p62f && s < 0x1p62f)) return false;
    *v = (int64_t)s;
    return true;
}

Dim dim_scale(Dims *d, Dim a, float s)
{
    int64_t v;
    uint32_t bits;
    memcpy(&bits, &s, sizeof s);
    if (!a.id) return a;
    if (poly_is_const(d, a.id, &v) && dim_scale_eval(v, bits, &v)) return dim_const(d, v);
    /* A multiple of 1/16 up to 16 is exact in float32 for every size up to 65536; truncation is then floor division. */
    bool dyadic = s > 0 && s <= 16 && s * 16 == floorf(s * 16);
    if (dyadic && poly_at_least(d, a.id, 0, true, 0))
        return dim_fdiv(d, dim_mul(d, a, dim_const(d, (int64_t)(s * 16))), dim_const(d, 16));
    return opaque(d, DIMOP_SCALE, a, dim_of(bits));
}

bool dim_exact(Dims *d, Dim a, Dim b, Dim *q)
{
    uint32_t quotient, rest;
    if (!a.id || !b.id || !divide(d, a.id, b.id, &quotient, &rest) || rest != 1) return false;
    *q = dim_of(quotient);
    return true;
}

/* ---- facts ---- */
bool dim_is_const(const Dims *d, Dim a, int64_t *v)
{
    int64_t unused;
    return poly_is_const(d, a.id, v ? v : &unused);
}

bool dim_is(const Dims *d, Dim a, int64_t v)
{
    int64_t c;
    return poly_is_const(d, a.id, &c) && c == v;
}

bool dim_lower(Dims *d, Dim a, int64_t *lo) { return poly_lower(d, dim_canon(d, a).id, 0, false, lo); }
bool dim_upper(Dims *d, Dim a, int64_t *hi) { return poly_upper(d, dim_canon(d, a).id, false, hi); }
bool dim_has_data(const Dims *d, Dim a) { return poly_has_data(d, a.id); }

static Dim atom_canon(Dims *d, uint32_t atom)
{
    const Atom a = d->atom.at[atom];
    Dim x = dim_of(a.a), y = dim_of(a.b), zero = dim_const(d, 0);
    switch (a.op) {
    case DIMOP_SYM:
        if (!d->symbol.at[a.a].solution) return dim_of(a.self);
        return dim_canon(d, dim_of(d->symbol.at[a.a].solution));
    case DIMOP_FDIV: return dim_fdiv(d, dim_canon(d, x), dim_canon(d, y));
    case DIMOP_TDIV: return dim_tdiv(d, dim_canon(d, x), dim_canon(d, y));
    case DIMOP_ADD: return dim_add(d, dim_canon(d, x), dim_canon(d, y));
    case DIMOP_MUL: return dim_mul(d, dim_canon(d, x), dim_canon(d, y));
    case DIMOP_POS: return pos(d, dim_canon(d, x));
    case DIMOP_GE0: return dim_ge(d, dim_canon(d, x), zero);
    case DIMOP_EQ0: return dim_eq(d, dim_canon(d, x), zero);
    default: {
        float s;
        memcpy(&s, &a.b, sizeof s);
        return dim_scale(d, dim_canon(d, x), s);
    }
    }
}

Dim dim_canon(Dims *d, Dim p)
{
    if (p.id <= 1 || d->learnt == 1) return p;
    if (d->poly.at[p.id].canon_when == d->learnt) return dim_of(d->poly.at[p.id].canon);
    const Poly x = d->poly.at[p.id];
    Dim sum = dim_const(d, 0);
    for (uint32_t i = 0; i < x.n; i++) {
        Term t = d->term.at[x.at + i];
        Mono m = d->mono.at[t.mono];
        Dim product = dim_const(d, t.c);
        for (uint32_t k = 0; k < m.n; k++) {
            Factor f = d->factor.at[m.at + k];
            Dim atom = atom_canon(d, f.atom);
            for (uint32_t e = 0; e < f.power; e++) product = dim_mul(d, product, atom);
        }
        sum = dim_add(d, sum, product);
    }
    d->poly.at[p.id].canon = sum.id, d->poly.at[p.id].canon_when = d->learnt;
    d->poly.at[sum.id].canon = sum.id, d->poly.at[sum.id].canon_when = d->learnt;
    return sum;
}
