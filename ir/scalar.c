/* scalar.c - scalar bodies as text: "select(X < 0, alpha * X, X)".
 *
 *   body := { name = expr ; } expr
 *   expr := || , && , comparisons , + - , * / % , unary - ! , loosest first
 *   atom := number | name | function(expr, ...) | ( expr )
 *
 * Functions are the primitives, a type name (f32(x): cast), sat_ and a type name. inf, nan, true and false are numbers.
 * A number takes the type of what it meets. Two whole numbers are not divided: 1 / 3 over floats is a mistake. */
#include "ir/scalar.h"
#include <assert.h>
#include <ctype.h>
#include <math.h>
#include <stdlib.h>

const ScalarSign scalar_signs[SCALAR_SIGNS] = {
    {"||", 0, P_or}, {"&&", 1, P_and}, {"<=", 2, P_le}, {"<", 2, P_lt},  {">=", 2, P_ge},
    {">", 2, P_gt},  {"==", 2, P_eq},  {"!=", 2, P_ne}, {"+", 3, P_add}, {"-", 3, P_sub},
    {"*", 4, P_mul}, {"/", 4, P_div},  {"%", 4, P_mod},
};

/* ---- lexing ---- */
void scalar_skip(Scalar *s)
{
    while (isspace((unsigned char)*s->p) || *s->p == '#') s->p += *s->p == '#' ? strcspn(s->p, "\n") : 1;
}

bool scalar_fail(Scalar *s, const char *fmt, ...)
{
    va_list args;
    if (s->error) return false;
    va_start(args, fmt);
    s->error = arena_printf(s->k->mem, "%s at '%.30s'", arena_vprintf(s->k->mem, fmt, args), s->p);
    va_end(args);
    return false;
}

bool scalar_accept(Scalar *s, const char *text)
{
    size_t n = strlen(text);
    scalar_skip(s);
    if (strncmp(s->p, text, n) != 0) return false;
    if (isalpha((unsigned char)*text) && (isalnum((unsigned char)s->p[n]) || s->p[n] == '_')) return false;
    s->p += n;
    return true;
}

bool scalar_expect(Scalar *s, const char *text)
{
    return scalar_accept(s, text) || scalar_fail(s, "expected '%s'", text);
}

size_t scalar_word(Scalar *s, const char **at)
{
    scalar_skip(s);
    *at = s->p;
    while (isalnum((unsigned char)*s->p) || *s->p == '_') s->p++;
    return (size_t)(s->p - *at);
}

/* ---- types ---- */
static DType type_of(Scalar *s, Expr e) { return (DType)expr_node(s->k, e)->type; }

Expr scalar_fit(Scalar *s, Expr e, DType t)
{
    if (!e || type_of(s, e) == t) return e;
    DType from = type_of(s, e);
    Number v;
    if (expr_is_const(s->k, e)) {
        v = expr_number(s->k, e);
        bool whole = !dtype_is_float(from) || v.f == trunc(v.f);
        if (whole || dtype_is_float(t)) return expr_of_number(s->k, t, number_convert(t, false, from, v));
    }
    scalar_fail(s, "%s meets %s", dtypes[from].name, dtypes[t].name);
    return 0;
}

/* The common type of operands [first, n): that of the first that is no number, else `number` when one is a fraction. */
static bool unify(Scalar *s, Expr *a, int first, int n)
{
    DType t = DT_NONE;
    for (int i = first; i < n; i++)
        if (!t && a[i] && !expr_is_const(s->k, a[i])) t = type_of(s, a[i]);
    if (!t) {
        t = type_of(s, a[first]);
        for (int i = first; i < n; i++)
            if (dtype_is_float(type_of(s, a[i]))) t = DT_f64;
    }
    for (int i = first; i < n; i++) a[i] = scalar_fit(s, a[i], t);
    return !s->error;
}

/* Operands that are all numbers: a choice between them, or a function that is only defined on floats, has a type at
 * once. */
static bool settle(Scalar *s, Prim p, Expr *a, int first, int n)
{
    DType t = type_of(s, a[first]), to = DT_NONE, real = dtype_is_float(s->number) ? s->number : DT_f32;
    for (int i = first; i < n; i++)
        if (!expr_is_const(s->k, a[i])) return true;
    if (prim_chooses(p)) to = t == DT_bool ? DT_NONE : dtype_is_float(t) ? real : s->number;
    else if (!prim_takes(p, t)) to = real;
    for (int i = first; i < n && to; i++) a[i] = scalar_fit(s, a[i], to);
    return !s->error;
}

static Expr apply(Scalar *s, Prim p, Expr *a)
{
    int n = prims[p].arity, first = prim_chooses(p);
    if (s->error) return 0;
    if (first && !(a[0] = scalar_fit(s, a[0], DT_bool))) return 0;
    if (!unify(s, a, first, n) || !settle(s, p, a, first, n)) return 0;
    bool number = expr_is_const(s->k, a[0]) && (n < 2 || expr_is_const(s->k, a[1]));
    if (p == P_div && number && type_of(s, a[0]) == DT_i64 && s->number != DT_i64)
        return scalar_fail(s, "two whole numbers are divided: write one with a point"), 0;
    if (!prim_takes(p, type_of(s, a[first])))
        return scalar_fail(s, "%s of %s", prims[p].name, dtypes[type_of(s, a[first])].name), 0;
    if (p == P_bits && !type_bits(type_of(s, a[0])))
        return scalar_fail(s, "bits of %s", dtypes[type_of(s, a[0])].name), 0;
    return expr_prim(s->k, p, a[0], a[1], a[2]);
}

/* ---- expressions ---- */
static Expr level(Scalar *s, int at);

static bool conversion(Scalar *s, const char *name, size_t n, Expr *e) /* f32(x), sat_u8(x) */
{
    bool sat = n > 4 && !memcmp(name, "sat_", 4);
    DType to = dtype_find(name + (sat ? 4 : 0), (int)(n - (sat ? 4 : 0)));
    if (!to || (sat && !dtype_is_int(to))) return false;
    Expr x = level(s, 0);
    scalar_expect(s, ")");
    if (!s->error) *e = sat ? expr_sat(s->k, to, x) : expr_cast(s->k, to, x);
    return true;
}

static Expr call(Scalar *s, const char *name, size_t n)
{
    Expr a[3] = {0}, e = 0;
    if (conversion(s, name, n, &e)) return e;
    for (Prim p = 1; p < PRIM_COUNT; p++) {
        if (strlen(prims[p].name) != n || memcmp(prims[p].name, name, n) != 0 || p == P_cast || p == P_sat) continue;
        for (int i = 0; i < prims[p].arity && !s->error; i++) {
            a[i] = level(s, 0);
            scalar_expect(s, i + 1 < prims[p].arity ? "," : ")");
        }
        return apply(s, p, a);
    }
    scalar_fail(s, "no function '%.*s'", (int)n, name);
    return 0;
}

static Expr named(Scalar *s)
{
    static const struct {
        const char *name;
        double v;
    } numbers[] = {{"inf", INFINITY}, {"nan", NAN}};
    const char *name;
    size_t n = scalar_word(s, &name);
    if (!n) return scalar_fail(s, "expected a value"), 0;
    scalar_skip(s);
    bool call_it = *s->p == '('; /* an operator may name an input like a function: Clip's min and max */
    for (int i = call_it ? -1 : s->lets - 1; i >= 0; i--)
        if (s->let[i].len == n && !memcmp(s->let[i].name, name, n)) return s->let[i].e;
    Expr e = s->name ? s->name(s, name, n) : 0;
    if (e || s->error) return s->error ? 0 : e;
    if (scalar_accept(s, "(")) return call(s, name, n);
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        if (strlen(numbers[i].name) == n && !memcmp(name, numbers[i].name, n))
            return expr_float(s->k, DT_f64, numbers[i].v);
    if (n == 4 && !memcmp(name, "true", 4)) return expr_int(s->k, DT_bool, 1);
    if (n == 5 && !memcmp(name, "false", 5)) return expr_int(s->k, DT_bool, 0);
    scalar_fail(s, "unknown name '%.*s'", (int)n, name);
    return 0;
}

static Expr number(Scalar *s)
{
    char *end_i, *end_f;
    int64_t i = (int64_t)strtoull(s->p, &end_i, 0);
    double f = strtod(s->p, &end_f);
    bool whole = end_i == end_f;
    s->p = end_f;
    return whole ? expr_index(s->k, i) : expr_float(s->k, DT_f64, f);
}

static Expr atom(Scalar *s)
{
    Expr a[3] = {0};
    scalar_skip(s);
    if (s->error) return 0;
    if (scalar_accept(s, "(")) {
        a[0] = level(s, 0);
        scalar_expect(s, ")");
        return s->error ? 0 : a[0];
    }
    if (scalar_accept(s, "-")) {
        a[0] = atom(s);
        return apply(s, P_neg, a);
    }
    if (*s->p == '!' && s->p[1] != '=') {
        s->p++, a[0] = atom(s);
        return apply(s, P_not, a);
    }
    return isdigit((unsigned char)*s->p) || (*s->p == '.' && isdigit((unsigned char)s->p[1])) ? number(s) : named(s);
}

static const ScalarSign *sign(Scalar *s, int at)
{
    for (int i = 0; i < SCALAR_SIGNS; i++)
        if (scalar_signs[i].level >= at && scalar_accept(s, scalar_signs[i].sign)) return &scalar_signs[i];
    return NULL;
}

static Expr level(Scalar *s, int at)
{
    Expr left = atom(s);
    for (const ScalarSign *o; !s->error && (o = sign(s, at));) {
        Expr a[3] = {left, level(s, o->level + 1)};
        left = apply(s, o->prim, a);
    }
    return s->error ? 0 : left;
}

Expr scalar_expr(Scalar *s) { return level(s, 0); }

Expr scalar_index(Scalar *s)
{
    DType outer = s->number;
    s->number = DT_i64;
    Expr e = scalar_fit(s, level(s, 0), DT_i64);
    s->number = outer;
    return e;
}

/* ---- bodies ---- */
static bool let(Scalar *s) /* name = expr ; */
{
    const char *start = s->p, *name;
    size_t n = scalar_word(s, &name);
    scalar_skip(s);
    if (!n || isdigit((unsigned char)*name) || *s->p != '=' || s->p[1] == '=') return s->p = start, false;
    s->p++;
    Expr e = level(s, 0);
    if (s->error || !scalar_expect(s, ";")) return false;
    if (s->lets == MAX_LETS) return scalar_fail(s, "too many names");
    s->let[s->lets].name = name, s->let[s->lets].len = n, s->let[s->lets++].e = e;
    return true;
}

Expr scalar_parse(Kernel *k, const char *body, const char *const *name, const Expr *arg, int n, const char **error)
{
    Scalar s = {.k = k, .p = body};
    assert(n <= MAX_LETS);
    for (int i = 0; i < n; i++) {
        if (!s.number && arg[i] && !expr_is_const(k, arg[i]) && expr_node(k, arg[i])->type != DT_bool)
            s.number = (DType)expr_node(k, arg[i])->type;
        if (!arg[i]) continue;
        s.let[s.lets].name = name[i], s.let[s.lets].len = strlen(name[i]), s.let[s.lets++].e = arg[i];
    }
    if (!s.number) s.number = DT_f32;
    while (let(&s)) continue;
    Expr e = s.error ? 0 : level(&s, 0);
    scalar_skip(&s);
    if (e && *s.p) scalar_fail(&s, "unexpected text");
    *error = s.error;
    return s.error ? 0 : e;
}
