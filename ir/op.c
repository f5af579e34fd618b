/* op.c - the operator table: finding rows, and reading their texts.
 *
 * Comes in: the tables of ir/ops/. Goes out: op_find, op_at, and every row's parsed schema. All texts are parsed at
 * the first use, once for the process; a text that does not parse is a bug and asserts with the row's name. */
#include "ir/op.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <threads.h>

enum { MAX_OPS = 1024, SLOTS = 4 * MAX_OPS };

static struct {
    Arena mem; /* lives as long as the process */
    const OpDef *op[MAX_OPS];
    const OpSchema *schema[MAX_OPS];
    uint32_t n;
    uint16_t by_name[SLOTS], by_row[SLOTS]; /* number + 1 */
} ops;
static once_flag ops_once = ONCE_FLAG_INIT;

static const char *domain_of(const char *domain) { return !domain || !strcmp(domain, "ai.onnx") ? "" : domain; }

static uint32_t name_slot(const char *domain, const char *name)
{
    domain = domain_of(domain);
    uint64_t h = hash_bytes(name, strlen(name), hash_bytes(domain, strlen(domain), 0));
    uint32_t i = (uint32_t)h % SLOTS;
    for (; ops.by_name[i]; i = (i + 1) % SLOTS) {
        const OpDef *op = ops.op[ops.by_name[i] - 1];
        if (!strcmp(op->name, name) && !strcmp(domain_of(op->domain), domain)) break;
    }
    return i;
}

static uint32_t row_slot(const OpDef *op)
{
    uint32_t i = (uint32_t)hash_bytes(&op, sizeof op, 0) % SLOTS;
    while (ops.by_row[i] && ops.op[ops.by_row[i] - 1] != op) i = (i + 1) % SLOTS;
    return i;
}

/* ---- the texts ---- */
static void malformed(const OpDef *op, const char *text, const char *what)
{
    fprintf(stderr, "octet: row %s: %s in \"%s\"\n", op->name, what, text);
    abort();
}

/* The next word of *s, or NULL at the end. */
static const char *next_word(const char **s)
{
    *s += strspn(*s, " ");
    size_t n = strcspn(*s, " ");
    const char *w = n ? arena_text(&ops.mem, *s, n) : NULL;
    *s += n;
    return w;
}

/* "name:type?=k*" */
static OpArg parse_arg(const OpDef *op, const char *word)
{
    const char *colon = strchr(word, ':');
    if (!colon) malformed(op, word, "no type");
    size_t n = strcspn(colon + 1, "?*=");
    OpArg a = {.name = arena_text(&ops.mem, word, (size_t)(colon - word)), .type = arena_text(&ops.mem, colon + 1, n)};
    const char *rest = colon + 1 + n;
    if (*rest == '?') a.optional = true, rest++;
    if (*rest == '=') {
        size_t k = strcspn(++rest, "*");
        a.fallback = arena_text(&ops.mem, rest, k), rest += k;
    }
    if (*rest == '*') a.variadic = true, rest++;
    bool variable = a.type[0] >= 'A' && a.type[0] <= 'Z';
    if (*rest || (!variable && !dtype_find(a.type, (int)n))) malformed(op, word, "not an argument");
    return a;
}

static const char *const kinds[] = {
    [ATTR_INT] = "int",       [ATTR_FLOAT] = "float",     [ATTR_STRING] = "string", [ATTR_INTS] = "ints",
    [ATTR_FLOATS] = "floats", [ATTR_STRINGS] = "strings", [ATTR_TENSOR] = "tensor", [ATTR_GRAPH] = "graph"};

static void parse_list(OpAttr *a, const char *text)
{
    enum { MOST = 16 };
    int64_t ints[MOST];
    float floats[MOST];
    uint32_t n = 0;
    for (char *end; *text && n < MOST; text = *end == ',' ? end + 1 : end, n++) {
        floats[n] = strtof(text, &end);
        ints[n] = (int64_t)floats[n];
        if (end == text) break;
    }
    a->fallback.n = n;
    if (a->kind == ATTR_INTS) a->fallback.ints = arena_copy(&ops.mem, ints, n * sizeof *ints);
    else a->fallback.floats = arena_copy(&ops.mem, floats, n * sizeof *floats);
}

/* "name:kind=default" or "name:kind!" */
static OpAttr parse_attr(const OpDef *op, const char *word)
{
    const char *colon = strchr(word, ':');
    if (!colon) malformed(op, word, "no kind");
    size_t n = strcspn(colon + 1, "=!");
    const char *rest = colon + 1 + n;
    OpAttr a = {.name = arena_text(&ops.mem, word, (size_t)(colon - word)), .required = *rest == '!'};
    for (uint32_t k = 1; k < COUNT_OF(kinds); k++)
        if (strlen(kinds[k]) == n && !strncmp(kinds[k], colon + 1, n)) a.kind = (AttrKind)k;
    if (!a.kind) malformed(op, word, "no such kind");
    if (*rest != '=') return a;
    rest++;
    a.fallback.kind = a.kind;
    switch (a.kind) {
    case ATTR_INT: a.fallback.i = strtoll(rest, NULL, 10); break;
    case ATTR_FLOAT: a.fallback.f = strtof(rest, NULL); break;
    case ATTR_STRING: a.fallback.s = rest; break;
    case ATTR_INTS:
    case ATTR_FLOATS: parse_list(&a, rest); break;
    default: malformed(op, word, "this kind has no default");
    }
    return a;
}

static const OpSchema *parse_schema(const OpDef *op)
{
    OpSchema *s = NEW(&ops.mem, OpSchema);
    const char *at = op->sig ? op->sig : "", *w;
    bool outputs = false;
    while ((w = next_word(&at))) {
        if (!strcmp(w, "->")) {
            outputs = true;
            continue;
        }
        if (outputs ? s->nout == COUNT_OF(s->out) : s->nin == COUNT_OF(s->in))
            malformed(op, op->sig, "too many arguments");
        if (outputs) s->out[s->nout++] = parse_arg(op, w);
        else s->in[s->nin++] = parse_arg(op, w);
    }
    if (!s->nout) malformed(op, op->sig ? op->sig : "", "no output");
    for (at = op->attrs ? op->attrs : ""; (w = next_word(&at));) {
        if (s->nattr == COUNT_OF(s->attr)) malformed(op, op->attrs, "too many attributes");
        s->attr[s->nattr++] = parse_attr(op, w);
    }
    return s;
}

static void ops_load(void)
{
    for (const OpDef *const *table = op_tables; *table; table++)
        for (const OpDef *op = *table; op->name; op++) {
            assert(ops.n < MAX_OPS);
            uint32_t slot = name_slot(op->domain, op->name), row = row_slot(op);
            if (ops.by_name[slot]) malformed(op, op->name, "a second row");
            ops.op[ops.n] = op, ops.schema[ops.n] = parse_schema(op);
            ops.by_name[slot] = ops.by_row[row] = (uint16_t)++ops.n;
        }
}

const OpDef *op_find(const char *domain, const char *name)
{
    call_once(&ops_once, ops_load);
    uint32_t i = ops.by_name[name_slot(domain, name)];
    return i ? ops.op[i - 1] : NULL;
}

const OpDef *op_at(uint32_t i)
{
    call_once(&ops_once, ops_load);
    return i < ops.n ? ops.op[i] : NULL;
}

const OpSchema *op_schema(const OpDef *op)
{
    call_once(&ops_once, ops_load);
    uint32_t i = ops.by_row[row_slot(op)];
    assert(i && "the row is in no table of registry.c");
    return ops.schema[i - 1];
}

/* ---- attributes ---- */
uint32_t op_attrs(const OpDef *op) { return op_schema(op)->nattr; }

int op_attr_index(const OpDef *op, const char *name)
{
    const OpSchema *s = op_schema(op);
    for (uint32_t i = 0; i < s->nattr; i++)
        if (!strcmp(s->attr[i].name, name)) return (int)i;
    return -1;
}

Attr *op_attr_defaults(Arena *a, const OpDef *op)
{
    const OpSchema *s = op_schema(op);
    Attr *attr = NEW_ARRAY(a, Attr, s->nattr + 1);
    for (uint32_t i = 0; i < s->nattr; i++) attr[i] = s->attr[i].fallback;
    return attr;
}

static Attr *attr_of_kind(const OpDef *op, Attr *attr, const char *name, AttrKind kind)
{
    int i = op_attr_index(op, name);
    assert(i >= 0 && op_schema(op)->attr[i].kind == kind);
    attr[i].kind = kind;
    return &attr[i];
}

void attr_set_int(const OpDef *op, Attr *attr, const char *name, int64_t v)
{
    attr_of_kind(op, attr, name, ATTR_INT)->i = v;
}
void attr_set_float(const OpDef *op, Attr *attr, const char *name, float v)
{
    attr_of_kind(op, attr, name, ATTR_FLOAT)->f = v;
}
void attr_set_str(const OpDef *op, Attr *attr, const char *name, const char *v)
{
    attr_of_kind(op, attr, name, ATTR_STRING)->s = v;
}

void attr_set_ints(const OpDef *op, Attr *attr, const char *name, const int64_t *v, uint32_t n)
{
    Attr *a = attr_of_kind(op, attr, name, ATTR_INTS);
    a->ints = v, a->n = n;
}

/* ---- shape rules ---- */
bool in_has(const Infer *c, uint32_t i) { return node_in(c->g, c->n, i).id != 0; }

const Type *in_type(const Infer *c, uint32_t i)
{
    return val_type(c->g, node_in(c->g, c->n, i)); /* value 0, the absent one, has rank -1 */
}

int in_rank(const Infer *c, uint32_t i) { return in_type(c, i)->rank; }

Dim in_dim(const Infer *c, uint32_t i, int axis)
{
    const Type *t = in_type(c, i);
    if (axis < 0) axis += t->rank;
    assert(axis >= 0 && axis < t->rank);
    return dim_canon(c->d, t->dim[axis]);
}

const Tensor *in_const(const Infer *c, uint32_t i) { return graph_val(c->g, node_in(c->g, c->n, i))->konst; }

static bool has_elements(const Tensor *t)
{
    return (dtype_is_int(t->type) || t->type == DT_bool) && tensor_count(t) <= MAX_ELEMS;
}

const Dim *in_elems(const Infer *c, uint32_t i, uint32_t *n)
{
    Value *v = graph_val(c->g, node_in(c->g, c->n, i));
    if (!v->elem && v->konst && has_elements(v->konst)) {
        uint32_t count = (uint32_t)tensor_count(v->konst);
        Dim *elem = NEW_ARRAY(c->g->mem, Dim, count + 1);
        for (uint32_t k = 0; k < count; k++)
            elem[k] = DIM((Infer *)c, dtype_load_int(v->konst->type, v->konst->data, k));
        v->elem = elem, v->elems = count;
    }
    *n = v->elem ? v->elems : 0;
    return v->elem;
}

bool in_axis(Infer *c, int64_t axis, int rank, int *out)
{
    if (axis < -rank || axis >= rank)
        return infer_error(c, "axis %lld is outside of a tensor of rank %d", (long long)axis, rank);
    *out = (int)(axis < 0 ? axis + rank : axis);
    return true;
}

bool out_shape(Infer *c, uint32_t o, int rank, const Dim *dim)
{
    assert(o < c->n->nout && rank >= 0);
    if (rank > MAX_RANK) return infer_error(c, "the result has rank %d, at most %d is supported", rank, MAX_RANK);
    c->out[o].rank = rank;
    for (int i = 0; i < rank; i++) c->out[o].dim[i] = dim_canon(c->d, dim[i]);
    return true;
}

bool out_like(Infer *c, uint32_t o, uint32_t i)
{
    const Type *t = in_type(c, i);
    return t->rank < 0 ? out_unknown(c, o) : out_shape(c, o, t->rank, t->dim);
}

bool out_unknown(Infer *c, uint32_t o)
{
    assert(o < c->n->nout);
    c->out[o].rank = -1;
    return true;
}

bool out_elems(Infer *c, uint32_t o, const Dim *elem, uint32_t n)
{
    assert(o < c->n->nout);
    if (n > MAX_ELEMS) return true;
    c->elem[o] = arena_copy(c->g->mem, elem, n * sizeof *elem), c->elems[o] = n;
    return true;
}

bool out_broadcast(Infer *c, uint32_t o, uint32_t nin, const uint32_t *in)
{
    Dim dim[MAX_RANK];
    int rank = 0;
    for (uint32_t k = 0; k < nin; k++)
        if (in_has(c, in[k]) && in_rank(c, in[k]) > rank) rank = in_rank(c, in[k]);
    for (int a = 0; a < rank; a++) dim[a] = DIM(c, 1);
    for (uint32_t k = 0; k < nin; k++) {
        if (!in_has(c, in[k])) continue;
        if (in_rank(c, in[k]) < 0) return out_unknown(c, o);
        int shift = rank - in_rank(c, in[k]);
        for (int a = shift; a < rank; a++) {
            Dim x = in_dim(c, in[k], a - shift), r = dim_broadcast(c->d, dim[a], x, c->loc);
            if (!dim_known(r) && dim_known(x) && dim_known(dim[a]))
                return infer_error(c, "the inputs do not broadcast: size %s against %s on axis %d",
                                   dim_text(c->d, dim[a], c->m->mem), dim_text(c->d, x, c->m->mem), a);
            dim[a] = r;
        }
    }
    return out_shape(c, o, rank, dim);
}

static bool require(Infer *c, GuardKind kind, Dim a, Dim b, const char *why, const char *relation)
{
    if (dim_require(c->d, kind, a, b, c->loc, why)) return true;
    return infer_error(c, "%s: %s must be %s %s", why, dim_text(c->d, dim_canon(c->d, a), c->m->mem), relation,
                       dim_text(c->d, dim_canon(c->d, b), c->m->mem));
}

bool require_eq(Infer *c, Dim a, Dim b, const char *why) { return require(c, GUARD_EQ, a, b, why, "equal to"); }
bool require_ge(Infer *c, Dim a, Dim b, const char *why) { return require(c, GUARD_GE, a, b, why, "at least"); }

bool infer_error(Infer *c, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const char *text = arena_vprintf(c->m->mem, fmt, args);
    va_end(args);
    return diag_error(c->m->diag, c->loc, "%s", text);
}

bool expand_error(Expand *x, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const char *text = arena_vprintf(x->m->mem, fmt, args);
    va_end(args);
    return diag_error(x->m->diag, x->loc, "%s", text);
}
