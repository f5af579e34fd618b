/* dim_bounds.c - proven bounds of sizes.
 *
 * By cases on one composite atom after the other (0 or x, 0 or 1, x/q within one); what remains are symbols, each
 * shifted to its least value, so that terms without negative coefficients are at least 0. No solver; the depth
 * is capped. */
#include "ir/base/checked.h"
#include "ir/dim_poly.h"

static uint32_t mono_without(Dims *d, uint32_t mono, uint32_t atom)
{
    Mono m = d->mono.at[mono];
    Factor f[32];
    uint32_t n = 0;
    for (uint32_t i = 0; i < m.n; i++)
        if (d->factor.at[m.at + i].atom != atom) f[n++] = d->factor.at[m.at + i];
    return mono_intern(d, f, n);
}

/* p = c * atom + r with c and r free of atom outside of other atoms; false: it has a higher power. */
static bool split_on(Dims *d, uint32_t p, uint32_t atom, uint32_t *c, uint32_t *r)
{
    Sum with = {.n = 0}, rest = {.n = 0};
    const Poly x = d->poly.at[p];
    for (uint32_t i = 0; i < x.n; i++) {
        Term t = d->term.at[x.at + i];
        uint32_t power = mono_power(d, t.mono, atom);
        if (power > 1) return false;
        if (power) sum_add(&with, t.c, mono_without(d, t.mono, atom));
        else sum_add(&rest, t.c, t.mono);
    }
    *c = sum_finish(d, &with), *r = sum_finish(d, &rest);
    return *c && *r;
}

bool poly_at_least(Dims *d, uint32_t p, int depth, bool limit, int64_t v)
{
    int64_t lo;
    return poly_lower(d, p, depth, limit, &lo) && lo >= v;
}

/* c * atom + r where atom is floor(x / q). */
static bool lower_fdiv(Dims *d, const Atom *a, uint32_t c, uint32_t r, int depth, bool limit, int64_t *lo)
{
    int64_t q, k;
    bool scaled = poly_is_const(d, a->b, &q) && q > 0 && poly_is_const(d, c, &k);
    bool found = false;
    if (scaled) { /* (x - q + 1) / q <= floor(x / q) <= x / q */
        uint32_t x = k > 0 ? poly_shift(d, a->a, 1 - q) : a->a;
        int64_t v;
        found = poly_lower(d, poly_add(d, poly_scale(d, r, q), k, x), depth, limit, &v) && v > INT64_MIN + 1;
        if (found) *lo = ceil_div(v, q);
    }
    if (!poly_at_least(d, a->a, depth, limit, 0) || !poly_at_least(d, a->b, depth, limit, 1)) return found;
    int64_t v;
    bool more = false;
    if (poly_at_least(d, c, depth, limit, 0)) more = poly_lower(d, r, depth, limit, &v);
    else if (!scaled && poly_is_const(d, c, &k)) more = poly_lower(d, poly_add(d, r, k, a->a), depth, limit, &v);
    if (more && (!found || v > *lo)) *lo = v;
    return found || more;
}

/* By cases on one composite atom. */
static bool lower_split(Dims *d, uint32_t atom, uint32_t c, uint32_t r, int depth, bool limit, int64_t *lo)
{
    const Atom a = d->atom.at[atom];
    int64_t l0, l1;
    bool h0, h1;
    switch (a.op) {
    case DIMOP_POS: /* 0 or x */
        h0 = poly_lower(d, r, depth, limit, &l0);
        h1 = poly_lower(d, poly_add(d, poly_mul(d, c, a.a), 1, r), depth, limit, &l1);
        if (poly_at_least(d, c, depth, limit, 0)) {
            *lo = !h1 || (h0 && l0 > l1) ? l0 : l1;
            return h0 || h1;
        }
        *lo = h0 && h1 && l0 < l1 ? l0 : l1;
        return h0 && h1;
    case DIMOP_GE0:
    case DIMOP_EQ0: /* 0 or 1 */
        h0 = poly_lower(d, r, depth, limit, &l0), h1 = poly_lower(d, poly_add(d, c, 1, r), depth, limit, &l1);
        *lo = h0 && h1 && l0 < l1 ? l0 : l1;
        return h0 && h1;
    case DIMOP_FDIV: return lower_fdiv(d, &a, c, r, depth, limit, lo);
    case DIMOP_TDIV:
        if (!poly_at_least(d, a.b, depth, limit, 1)) return false;
        break;
    case DIMOP_SCALE: {
        float s;
        memcpy(&s, &a.b, sizeof s);
        if (!(s >= 0)) return false;
        break;
    }
    default: /* ADD, MUL of what is not negative */
        if (!poly_at_least(d, a.b, depth, limit, 0)) return false;
    }
    if (!poly_at_least(d, a.a, depth, limit, 0) || !poly_at_least(d, c, depth, limit, 0)) return false;
    return poly_lower(d, r, depth, limit, lo);
}

static bool upper_of(const Symbol *s, bool limit, int64_t *hi)
{
    *hi = s->bounded ? s->hi : SIZE_LIMIT;
    return s->bounded || (limit && s->lo >= 0);
}

/* Only symbols: each shifted to its lower bound, so that a term without negative coefficient is at least 0. */
static bool lower_symbols(Dims *d, uint32_t p, bool limit, int64_t *lo)
{
    uint32_t shifted = 1;
    const Poly x = d->poly.at[p];
    for (uint32_t i = 0; i < x.n; i++) {
        Term t = d->term.at[x.at + i];
        Mono m = d->mono.at[t.mono];
        uint32_t product = poly_const(d, t.c);
        for (uint32_t k = 0; k < m.n; k++) {
            Factor f = d->factor.at[m.at + k];
            const Atom *a = &d->atom.at[f.atom];
            uint32_t up = poly_shift(d, a->self, d->symbol.at[a->a].lo);
            for (uint32_t e = 0; e < f.power; e++) product = poly_mul(d, product, up);
        }
        shifted = poly_add(d, shifted, 1, product);
    }
    if (!shifted) return false;
    int64_t sum = 0;
    const Poly y = d->poly.at[shifted];
    for (uint32_t i = 0; i < y.n; i++) {
        Term t = d->term.at[y.at + i];
        Mono m = d->mono.at[t.mono];
        if (m.n && t.c > 0) continue;
        for (uint32_t k = 0; k < m.n; k++) {
            Factor f = d->factor.at[m.at + k];
            const Symbol *s = &d->symbol.at[d->atom.at[f.atom].a];
            int64_t span;
            if (!upper_of(s, limit, &span) || !checked_sub(span, s->lo, &span)) return false;
            for (uint32_t e = 0; e < f.power; e++)
                if (!checked_mul(t.c, span, &t.c)) return false;
        }
        if (!checked_add(sum, t.c, &sum)) return false;
    }
    *lo = sum;
    return true;
}

static bool lower_prove(Dims *d, uint32_t p, int depth, bool limit, int64_t *lo)
{
    uint32_t tried = UINT32_MAX; /* the latest composite atom first: it may hold the others */
    for (;;) {
        uint32_t best = UINT32_MAX, c, r;
        const Poly x = d->poly.at[p];
        for (uint32_t i = 0; i < x.n; i++) {
            Mono m = d->mono.at[d->term.at[x.at + i].mono];
            for (uint32_t k = 0; k < m.n; k++) {
                uint32_t a = d->factor.at[m.at + k].atom;
                if (d->atom.at[a].op == DIMOP_SYM || a >= tried) continue;
                if (best == UINT32_MAX || a > best) best = a;
            }
        }
        if (best == UINT32_MAX) return tried == UINT32_MAX && lower_symbols(d, p, limit, lo);
        if (split_on(d, p, best, &c, &r)) return lower_split(d, best, c, r, depth + 1, limit, lo);
        tried = best;
    }
}

bool poly_lower(Dims *d, uint32_t p, int depth, bool limit, int64_t *lo)
{
    if (!p) return false;
    if (poly_is_const(d, p, lo)) return true;
    Proof known = d->poly.at[p].lower[limit];
    if (known.when == d->learnt) {
        *lo = known.lo;
        return known.proven;
    }
    if (depth > PROOF_DEPTH) return false;
    int64_t v = 0;
    bool proven = lower_prove(d, p, depth, limit, &v);
    if (!depth) d->poly.at[p].lower[limit] = (Proof){d->learnt, proven, v}; /* deeper ones were cut short */
    *lo = v;
    return proven;
}

bool poly_upper(Dims *d, uint32_t p, bool limit, int64_t *hi)
{
    int64_t lo;
    if (!poly_lower(d, poly_scale(d, p, -1), 0, limit, &lo) || lo == INT64_MIN) return false;
    *hi = -lo;
    return true;
}
