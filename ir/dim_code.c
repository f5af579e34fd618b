/* dim_code.c - sizes as numbers, as programs, and as the text that graph_parse reads. */
#include "ir/base/checked.h"
#include "ir/dim_poly.h"
#include <assert.h>

uint32_t dim_symbols(const Dims *d) { return d->symbol.n; }
const char *dim_symbol_name(const Dims *d, uint32_t i) { return d->symbol.at[i].name; }
DimKind dim_symbol_kind(const Dims *d, uint32_t i) { return d->symbol.at[i].kind; }

bool dim_is_symbol(const Dims *d, Dim a, uint32_t *i)
{
    const Poly *x = &d->poly.at[a.id];
    if (x->n != 1 || d->term.at[x->at].c != 1 || d->mono.at[d->term.at[x->at].mono].degree != 1) return false;
    const Atom *atom = &d->atom.at[d->factor.at[d->mono.at[d->term.at[x->at].mono].at].atom];
    *i = atom->a;
    return atom->op == DIMOP_SYM;
}

static bool atom_eval(const Dims *d, const Atom *a, const int64_t *symbol, int64_t *v)
{
    int64_t x, y = 0;
    if (a->op == DIMOP_SYM) {
        *v = symbol[a->a];
        return true;
    }
    if (!dim_eval(d, dim_of(a->a), symbol, &x)) return false;
    if (a->op == DIMOP_SCALE) return dim_scale_eval(x, a->b, v);
    if (a->b && !dim_eval(d, dim_of(a->b), symbol, &y)) return false;
    switch (a->op) {
    case DIMOP_POS: *v = x > 0 ? x : 0; return true;
    case DIMOP_GE0: *v = x >= 0; return true;
    case DIMOP_EQ0: *v = x == 0; return true;
    case DIMOP_ADD: return checked_add(x, y, v);
    case DIMOP_MUL: return checked_mul(x, y, v);
    case DIMOP_TDIV:
        if (y == 0 || (x == INT64_MIN && y == -1)) return false;
        *v = x / y;
        return true;
    default:
        if (y <= 0) return false;
        *v = floor_div(x, y);
        return true;
    }
}

bool dim_eval(const Dims *d, Dim p, const int64_t *symbol, int64_t *v)
{
    const Poly *x = &d->poly.at[p.id];
    int64_t sum = 0;
    if (!p.id) return false;
    for (uint32_t i = 0; i < x->n; i++) {
        int64_t product = d->term.at[x->at + i].c, a;
        const Mono *m = &d->mono.at[d->term.at[x->at + i].mono];
        for (uint32_t k = 0; k < m->n; k++) {
            Factor f = d->factor.at[m->at + k];
            if (!atom_eval(d, &d->atom.at[f.atom], symbol, &a)) return false;
            for (uint32_t e = 0; e < f.power; e++)
                if (!checked_mul(product, a, &product)) return false;
        }
        if (!checked_add(sum, product, &sum)) return false;
    }
    *v = sum;
    return true;
}

typedef struct Code {
    VEC(DimCode) at;
    Arena *mem;
    const Dims *d;
} Code;

static void code_push(Code *c, DimOp op, int64_t arg)
{
    vec_push(c->mem, &c->at, (DimCode){.op = (int32_t)op, .arg = arg});
}

static void code_poly(Code *c, uint32_t p);
static void code_atom(Code *c, const Atom *a)
{
    if (a->op == DIMOP_SYM) {
        code_push(c, DIMOP_SYM, a->a);
        return;
    }
    bool binary = a->op == DIMOP_FDIV || a->op == DIMOP_TDIV || a->op == DIMOP_ADD || a->op == DIMOP_MUL;
    code_poly(c, a->a);
    if (binary) code_poly(c, a->b);
    code_push(c, a->op, a->op == DIMOP_SCALE ? a->b : 0);
}

static void code_poly(Code *c, uint32_t p)
{
    const Dims *d = c->d;
    const Poly *x = &d->poly.at[p];
    if (!x->n) code_push(c, DIMOP_CONST, 0);
    for (uint32_t i = 0; i < x->n; i++) {
        Term t = d->term.at[x->at + i];
        const Mono *m = &d->mono.at[t.mono];
        bool first = t.c == 1 && m->n;
        if (!first) code_push(c, DIMOP_CONST, t.c);
        for (uint32_t k = 0; k < m->n; k++)
            for (uint32_t e = 0; e < d->factor.at[m->at + k].power; e++) {
                code_atom(c, &d->atom.at[d->factor.at[m->at + k].atom]);
                if (!first) code_push(c, DIMOP_MUL, 0);
                first = false;
            }
        if (i) code_push(c, DIMOP_ADD, 0);
    }
}

uint32_t dim_code(const Dims *d, Dim a, Arena *mem, const DimCode **code)
{
    assert(a.id);
    Code c = {.mem = mem, .d = d};
    code_poly(&c, a.id);
    *code = c.at.at;
    return c.at.n;
}

/* ---- text: what graph_parse reads ---- */
static bool plain_name(const char *s)
{
    const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
    return *s && strchr(letters, *s) &&
           !s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789.")];
}

static const char *poly_text(const Dims *d, uint32_t p, Arena *mem);
static const char *atom_text(const Dims *d, const Atom *a, Arena *mem)
{
    static const char *const name[] = {
        [DIMOP_FDIV] = "fdiv", [DIMOP_POS] = "pos", [DIMOP_GE0] = "ge0", [DIMOP_EQ0] = "eq0",
        [DIMOP_TDIV] = "tdiv", [DIMOP_ADD] = "add", [DIMOP_MUL] = "mul"};
    if (a->op == DIMOP_SYM) {
        const Symbol *s = &d->symbol.at[a->a];
        const char *data = s->kind == DIM_DATA ? "$" : ""; /* so that a reader sees at once what no input determines */
        return arena_printf(mem, plain_name(s->name) ? "%s%s" : "%s'%s'", data, s->name);
    }
    const char *x = poly_text(d, a->a, mem);
    if (a->op == DIMOP_SCALE) {
        float s;
        memcpy(&s, &a->b, sizeof s);
        return arena_printf(mem, "scale(%s, %.9g)", x, (double)s);
    }
    if (!a->b) return arena_printf(mem, "%s(%s)", name[a->op], x);
    return arena_printf(mem, "%s(%s, %s)", name[a->op], x, poly_text(d, a->b, mem));
}

static const char *poly_text(const Dims *d, uint32_t p, Arena *mem)
{
    const Poly *x = &d->poly.at[p];
    const char *text = x->n ? "" : "0";
    for (uint32_t i = 0; i < x->n; i++) {
        Term t = d->term.at[x->at + i];
        const Mono *m = &d->mono.at[t.mono];
        uint64_t size = t.c < 0 ? (uint64_t)0 - (uint64_t)t.c : (uint64_t)t.c;
        const char *sign = t.c < 0 ? (i ? " - " : "-") : i ? " + " : "";
        bool silent = size == 1 && m->n;
        text = silent ? arena_printf(mem, "%s%s", text, sign)
                      : arena_printf(mem, "%s%s%llu", text, sign, (unsigned long long)size);
        for (uint32_t k = 0; k < m->n; k++)
            for (uint32_t e = 0; e < d->factor.at[m->at + k].power; e++) {
                const char *star = silent && !k && !e ? "" : "*";
                text = arena_printf(mem, "%s%s%s", text, star,
                                    atom_text(d, &d->atom.at[d->factor.at[m->at + k].atom], mem));
            }
    }
    return text;
}

const char *dim_text(const Dims *d, Dim a, Arena *mem) { return a.id ? poly_text(d, a.id, mem) : "?"; }
