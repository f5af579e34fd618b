/* graph_text.c - graphs as text, out and in.
 *
 *   graph "mnist" (%1 "x": f32[N,1,28,28]) -> (%5 "y") {
 *     %2 = const f32[8,1,5,5] @5c1f2e6d0a9b8c77 "conv1.weight"
 *     %3 = const i64[2] {1, -1}
 *     %4 = Conv(%1, %2, _) {pads=[2,2,2,2]} : f32[N,8,28,28] ; "Conv_0" #0
 *     %5 = Reshape(%4, %3) : f32[1,6272*N] ; "Reshape_1" #1
 *   }
 *
 * Operators of another domain are written domain.Name. Attributes equal to their default are left out. A large constant
 * is a hash of its bytes, and reads back as zeros. $N is a size that is computed from data. What is read goes through
 * graph_emit, and the types written must be what it infers. */
#include "ir/graph.h"
#include "ir/op.h"
#include <inttypes.h>
#include <stdlib.h>

enum { INLINE_ELEMENTS = 32 };

/* ---- out ---- */
const char *type_text(const Module *m, const Type *t, Arena *mem)
{
    if (!t->dtype) return "?";
    if (t->rank < 0) return arena_printf(mem, "%s[*]", dtypes[t->dtype].name);
    const char *s = arena_printf(mem, "%s[", dtypes[t->dtype].name);
    for (int i = 0; i < t->rank; i++)
        s = arena_printf(mem, "%s%s%s", s, i ? "," : "", dim_text(m->dim, dim_canon(m->dim, t->dim[i]), mem));
    return arena_printf(mem, "%s]", s);
}

static void print_string(const char *s, FILE *f)
{
    fputc('"', f);
    for (const unsigned char *c = (const unsigned char *)s; *c; c++) {
        if (*c == '"' || *c == '\\') fprintf(f, "\\%c", *c);
        else if (*c < 32 || *c == 127) fprintf(f, "\\x%02x", *c);
        else fputc(*c, f);
    }
    fputc('"', f);
}

static void print_element(const Tensor *t, int64_t i, FILE *f)
{
    if (t->type == DT_str) print_string(((const char *const *)t->data)[i], f);
    else if (t->type == DT_f64) fprintf(f, "%.17g", dtype_load(t->type, t->data, i));
    else if (dtype_is_float(t->type)) fprintf(f, "%.9g", dtype_load(t->type, t->data, i));
    else fprintf(f, t->type == DT_u64 ? "%" PRIu64 : "%" PRId64, dtype_load_int(t->type, t->data, i));
}

static void print_tensor(const Tensor *t, FILE *f)
{
    fprintf(f, "%s[", dtypes[t->type].name);
    for (int i = 0; i < t->rank; i++) fprintf(f, "%s%" PRId64, i ? "," : "", t->dim[i]);
    fputs("] ", f);
    bool complex = t->type == DT_c64 || t->type == DT_c128;
    if (t->type != DT_str && (complex || tensor_count(t) > INLINE_ELEMENTS)) {
        fprintf(f, "@%016" PRIx64, hash_bytes(t->data, tensor_bytes(t), 0));
        return;
    }
    fputc('{', f);
    for (int64_t i = 0, n = tensor_count(t); i < n; i++) fputs(i ? ", " : "", f), print_element(t, i, f);
    fputc('}', f);
}

static void print_graph(const Graph *g, int depth, FILE *f);
static void print_attr(const Attr *a, int depth, FILE *f)
{
    switch (a->kind) {
    case ATTR_INT: fprintf(f, "%" PRId64, a->i); return;
    case ATTR_FLOAT: fprintf(f, "%.9g", (double)a->f); return;
    case ATTR_STRING: print_string(a->s, f); return;
    case ATTR_TENSOR: print_tensor(a->tensor, f); return;
    case ATTR_GRAPH: print_graph(a->graph, depth + 1, f); return;
    default: break;
    }
    fputc('[', f);
    for (uint32_t i = 0; i < a->n; i++) {
        if (i) fputc(',', f);
        if (a->kind == ATTR_INTS) fprintf(f, "%" PRId64, a->ints[i]);
        else if (a->kind == ATTR_FLOATS) fprintf(f, "%.9g", (double)a->floats[i]);
        else print_string(a->strings[i], f);
    }
    fputc(']', f);
}

static void print_attrs(const Node *n, int depth, FILE *f)
{
    const OpSchema *s = op_schema(n->op);
    const char *before = " {";
    for (uint32_t i = 0; i < s->nattr; i++) {
        if (!n->attr[i].kind || attr_equal(&n->attr[i], &s->attr[i].fallback)) continue;
        fprintf(f, "%s%s=", before, s->attr[i].name);
        print_attr(&n->attr[i], depth, f);
        before = ", ";
    }
    if (*before == ',') fputc('}', f);
}

static void print_node(const Graph *g, const Node *n, int depth, FILE *f)
{
    Arena scratch = {0};
    const char *domain = n->op->domain && *n->op->domain ? n->op->domain : NULL;
    for (uint32_t o = 0; o < n->nout; o++) fprintf(f, "%s%%%u", o ? ", " : "", node_out(n, o).id);
    fprintf(f, " = %s%s%s(", domain ? domain : "", domain ? "." : "", n->op->name);
    for (uint32_t i = 0; i < n->nin; i++) {
        Val v = node_in(g, n, i);
        fputs(i ? ", " : "", f);
        if (v.id) fprintf(f, "%%%u", v.id);
        else fputc('_', f);
    }
    fputc(')', f);
    print_attrs(n, depth, f);
    for (uint32_t o = 0; o < n->nout; o++)
        fprintf(f, "%s%s", o ? ", " : " : ", type_text(g->module, val_type(g, node_out(n, o)), &scratch));
    if (n->loc) {
        fputs(" ; ", f);
        print_string(n->loc->node, f);
        fprintf(f, " #%d", n->loc->index);
        if (n->loc->when) fprintf(f, " when %s", dim_text(g->module->dim, (Dim){n->loc->when}, &scratch));
    }
    arena_drop(&scratch);
}

static void print_head(const Graph *g, FILE *f)
{
    Arena scratch = {0};
    fputs("graph ", f);
    print_string(g->name ? g->name : "", f);
    fputs(" (", f);
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Value *v = graph_val(g, g->input.at[i]);
        fprintf(f, "%s%%%u", i ? ", " : "", g->input.at[i].id);
        if (v->name) fputc(' ', f), print_string(v->name, f);
        fprintf(f, ": %s", type_text(g->module, &v->type, &scratch));
    }
    fputs(") -> (", f);
    for (uint32_t i = 0; i < g->output.n; i++) {
        fprintf(f, "%s%%%u", i ? ", " : "", g->output.at[i].id);
        if (g->output_name.at[i]) fputc(' ', f), print_string(g->output_name.at[i], f);
    }
    fputs(") {\n", f);
    arena_drop(&scratch);
}

static void print_graph(const Graph *g, int depth, FILE *f)
{
    print_head(g, f);
    for (uint32_t v = 1; v < g->val.n; v++) {
        const Value *val = &g->val.at[v];
        const Node *n = val->def == NO_NODE ? NULL : &g->node.at[val->def];
        if (n ? n->out.id != v : !val->konst) continue;
        fprintf(f, "%*s", 2 * depth + 2, "");
        if (n) {
            print_node(g, n, depth, f);
        } else {
            fprintf(f, "%%%u = const ", v);
            print_tensor(val->konst, f);
            if (val->name) fputc(' ', f), print_string(val->name, f);
        }
        fputc('\n', f);
    }
    fprintf(f, "%*s}", 2 * depth, "");
}

void graph_print(const Graph *g, FILE *f)
{
    print_graph(g, 0, f);
    fputc('\n', f);
}

/* ---- in ---- */
typedef struct Written {
    Val v;
    Type type;
} Written;
typedef struct Parser {
    const char *s, *start;
    Module *m;
    Arena *mem;
    bool failed;
} Parser;
typedef struct Scope {
    Graph *g;
    VEC(Val) val;         /* by the number in the text */
    VEC(Written) written; /* types to compare at the end */
} Scope;
enum { MAX_NUMBER = 1 << 22, MAX_DEPTH = 64 };

static bool fail(Parser *p, const char *what)
{
    unsigned line = 1;
    for (const char *c = p->start; c < p->s; c++) line += *c == '\n';
    if (!p->failed)
        diag_error(p->m->diag, NULL, "line %u: %s, found '%.*s'", line, what, (int)strcspn(p->s, "\n"), p->s);
    p->failed = true;
    return false;
}

static bool accept(Parser *p, const char *token)
{
    p->s += strspn(p->s, " \t\r\n");
    size_t n = strlen(token);
    if (strncmp(p->s, token, n)) return false;
    p->s += n;
    return true;
}

static bool expect(Parser *p, const char *token)
{
    return accept(p, token) || fail(p, arena_printf(p->mem, "expected '%s'", token));
}

static const char *parse_word(Parser *p)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789.";
    p->s += strspn(p->s, " \t\r\n");
    size_t n = strspn(p->s, letters);
    if (!n) {
        fail(p, "expected a name");
        return "";
    }
    p->s += n;
    return arena_text(p->mem, p->s - n, n);
}

static int64_t parse_int(Parser *p)
{
    char *end;
    int64_t v = *(p->s += strspn(p->s, " \t\r\n")) == '-' ? strtoll(p->s, &end, 10) : (int64_t)strtoull(p->s, &end, 10);
    if (end == p->s) fail(p, "expected an integer");
    p->s = end;
    return v;
}

static double parse_float(Parser *p)
{
    char *end;
    double v = strtod(p->s, &end);
    if (end == p->s) fail(p, "expected a number");
    p->s = end;
    return v;
}

static const char *parse_string(Parser *p)
{
    if (!expect(p, "\"")) return "";
    char *out = arena_alloc(p->mem, strlen(p->s) < 4096 ? strlen(p->s) + 1 : 4096);
    size_t n = 0;
    for (; *p->s && *p->s != '"' && n < 4095; n++) {
        if (*p->s != '\\') {
            out[n] = *p->s++;
        } else if (p->s[1] == 'x' && p->s[2] && p->s[3]) {
            out[n] = (char)strtol((char[]){p->s[2], p->s[3], 0}, NULL, 16);
            p->s += 4;
        } else if (p->s[1]) {
            out[n] = p->s[1];
            p->s += 2;
        } else {
            break;
        }
    }
    expect(p, "\"");
    return out;
}

static Dim parse_dim(Parser *p, int depth);

static Dim call2(Dims *d, const char *name, Dim a, Dim b)
{
    static const struct {
        const char *name;
        Dim (*make)(Dims *, Dim, Dim);
    } calls[] = {{"fdiv", dim_fdiv}, {"tdiv", dim_tdiv}, {"add", dim_add}, {"mul", dim_mul},
                 {"pos", dim_max},   {"ge0", dim_ge},    {"eq0", dim_eq}};
    for (uint32_t i = 0; i < COUNT_OF(calls); i++)
        if (!strcmp(calls[i].name, name)) return calls[i].make(d, a, b);
    return (Dim){0};
}

static Dim parse_call(Parser *p, const char *name, int depth)
{
    Dims *d = p->m->dim;
    Dim a = parse_dim(p, depth + 1), b = dim_const(d, 0), r;
    if (!strcmp(name, "scale")) {
        expect(p, ",");
        r = dim_scale(d, a, (float)parse_float(p));
    } else {
        if (accept(p, ",")) b = parse_dim(p, depth + 1);
        r = call2(d, name, a, b);
        if (!dim_known(r)) fail(p, arena_printf(p->mem, "'%s' is no function of sizes", name));
    }
    expect(p, ")");
    return r;
}

static Dim parse_factor(Parser *p, int depth)
{
    Dims *d = p->m->dim;
    if (depth > MAX_DEPTH) {
        fail(p, "too deeply nested");
        return (Dim){0};
    }
    if (accept(p, "?")) return (Dim){0};
    if (accept(p, "-")) return dim_sub(d, dim_const(d, 0), parse_factor(p, depth + 1));
    DimKind kind = accept(p, "$") ? DIM_DATA : DIM_INPUT;
    if (accept(p, "'")) {
        size_t n = strcspn(p->s, "'");
        Dim s = dim_symbol(d, arena_text(p->mem, p->s, n), kind, 0);
        p->s += n;
        expect(p, "'");
        return s;
    }
    if (*p->s >= '0' && *p->s <= '9') return dim_const(d, parse_int(p));
    const char *name = parse_word(p);
    if (accept(p, "(")) return parse_call(p, name, depth);
    return dim_symbol(d, name, kind, 0);
}

static Dim parse_product(Parser *p, int depth)
{
    Dim a = parse_factor(p, depth);
    while (!p->failed && accept(p, "*")) a = dim_mul(p->m->dim, a, parse_factor(p, depth));
    return a;
}

static Dim parse_dim(Parser *p, int depth)
{
    Dims *d = p->m->dim;
    Dim a = parse_product(p, depth);
    while (!p->failed) {
        if (accept(p, "+")) a = dim_add(d, a, parse_product(p, depth));
        else if (accept(p, "-")) a = dim_sub(d, a, parse_product(p, depth));
        else break;
    }
    return a;
}

static Type parse_type(Parser *p)
{
    Type t = {.rank = -1};
    if (accept(p, "?")) return t;
    const char *name = parse_word(p);
    t.dtype = dtype_find(name, (int)strlen(name));
    if (!t.dtype) fail(p, arena_printf(p->mem, "'%s' is no element type", name));
    if (!expect(p, "[") || accept(p, "*]")) return t;
    t.rank = 0;
    if (accept(p, "]")) return t;
    do {
        if (t.rank == MAX_RANK) fail(p, "too many dimensions");
        else t.dim[t.rank++] = parse_dim(p, 0);
    } while (!p->failed && accept(p, ","));
    expect(p, "]");
    return t;
}

static const Tensor *parse_tensor(Parser *p)
{
    enum { MOST = 1 << 28 }; /* what a text may ask for */
    Type type = parse_type(p);
    int64_t dim[MAX_RANK], count = 1;
    for (int i = 0; i < type.rank; i++) {
        if (!dim_is_const(p->m->dim, type.dim[i], &dim[i]) || dim[i] < 0 || dim[i] > MOST || count * dim[i] > MOST) {
            fail(p, "the sizes of a constant must be small numbers");
            return NULL;
        }
        count *= dim[i];
    }
    if (p->failed || type.rank < 0) return NULL;
    Tensor *t = tensor_new(p->m->mem, type.dtype, type.rank, dim);
    void *data = (void *)t->data;
    if (accept(p, "@")) {
        parse_word(p);
        return type.dtype == DT_str && !fail(p, "strings must be written out") ? NULL : t;
    }
    expect(p, "{");
    for (int64_t i = 0; i < count && !p->failed; i++) {
        if (i) expect(p, ",");
        if (type.dtype == DT_str) ((const char **)data)[i] = parse_string(p);
        else if (dtype_is_float(type.dtype)) dtype_store(type.dtype, data, i, parse_float(p));
        else dtype_store_int(type.dtype, data, i, parse_int(p));
    }
    expect(p, "}");
    return p->failed ? NULL : t;
}

static Graph *parse_graph(Parser *p, int depth);

/* A list "[a,b]" of one of the three plural kinds. */
static void parse_list(Parser *p, Attr *a)
{
    VEC(int64_t) ints = {0};
    VEC(float) floats = {0};
    VEC(const char *) strings = {0};
    expect(p, "[");
    for (a->n = 0; !p->failed && !accept(p, "]"); a->n++) {
        if (a->n) expect(p, ",");
        if (a->kind == ATTR_INTS) vec_push(p->mem, &ints, parse_int(p));
        else if (a->kind == ATTR_FLOATS) vec_push(p->mem, &floats, (float)parse_float(p));
        else vec_push(p->mem, &strings, parse_string(p));
    }
    if (a->kind == ATTR_INTS) a->ints = ints.at;
    else if (a->kind == ATTR_FLOATS) a->floats = floats.at;
    else a->strings = strings.at;
}

static void parse_attr(Parser *p, const OpDef *op, Attr *attr, int depth)
{
    const char *name = parse_word(p);
    int i = op_attr_index(op, name);
    if (i < 0) {
        fail(p, arena_printf(p->mem, "%s has no attribute '%s'", op->name, name));
        return;
    }
    expect(p, "=");
    Attr *a = &attr[i];
    a->kind = op_schema(op)->attr[i].kind;
    switch (a->kind) {
    case ATTR_INT: a->i = parse_int(p); break;
    case ATTR_FLOAT: a->f = (float)parse_float(p); break;
    case ATTR_STRING: a->s = parse_string(p); break;
    case ATTR_TENSOR: a->tensor = parse_tensor(p); break;
    case ATTR_GRAPH: a->graph = parse_graph(p, depth + 1); break;
    default: parse_list(p, a);
    }
}

static uint32_t parse_number(Parser *p)
{
    int64_t v = expect(p, "%") ? parse_int(p) : 0;
    if (v > 0 && v < MAX_NUMBER) return (uint32_t)v;
    fail(p, "expected the number of a value");
    return 0;
}

static void define(Parser *p, Scope *s, uint32_t number, Val v)
{
    while (s->val.n <= number) vec_push(p->mem, &s->val, (Val){0});
    if (number && s->val.at[number].id) fail(p, arena_printf(p->mem, "%%%u is defined twice", number));
    s->val.at[number] = v;
}

static Val parse_use(Parser *p, Scope *s)
{
    if (accept(p, "_")) return (Val){0};
    uint32_t i = parse_number(p);
    if (i < s->val.n && s->val.at[i].id) return s->val.at[i];
    fail(p, arena_printf(p->mem, "%%%u is not defined", i));
    return (Val){0};
}

static const OpDef *parse_op(Parser *p)
{
    char *word = (char *)parse_word(p), *dot = strrchr(word, '.');
    if (dot) *dot = 0;
    const OpDef *op = op_find(dot ? word : NULL, dot ? dot + 1 : word);
    if (!op) fail(p, arena_printf(p->mem, "no operator '%s'", dot ? dot + 1 : word));
    return op;
}

static const Loc *parse_loc(Parser *p, const OpDef *op)
{
    if (!accept(p, ";")) return NULL;
    Loc *loc = NEW(p->m->mem, Loc);
    *loc = (Loc){.node = parse_string(p), .op = op->name};
    if (expect(p, "#")) loc->index = (int)parse_int(p);
    if (accept(p, "when")) loc->when = parse_dim(p, 0).id;
    return loc;
}

/* The text's symbol for a size that is computed from data is the one that inference has just made up. */
static void adopt_symbols(Parser *p, const Type *is, const Type *said)
{
    Dims *d = p->m->dim;
    uint32_t i, k;
    for (int a = 0; is->rank == said->rank && a < is->rank; a++)
        if (dim_is_symbol(d, is->dim[a], &i) && dim_is_symbol(d, said->dim[a], &k) && dim_has_data(d, is->dim[a]) &&
            dim_has_data(d, said->dim[a]))
            dim_unify(d, is->dim[a], said->dim[a]);
}

/* What follows "%3, %4 =". */
static void parse_node(Parser *p, Scope *s, const uint32_t *number, uint32_t nout, int depth)
{
    enum { MOST = 256 };
    Val in[MOST], out[MOST];
    Type type[MOST];
    uint32_t nin = 0, types = 0;
    const OpDef *op = parse_op(p);
    if (!op || !expect(p, "(")) return;
    if (!accept(p, ")")) {
        do in[nin++] = parse_use(p, s);
        while (!p->failed && accept(p, ",") && nin < MOST);
        expect(p, ")");
    }
    Attr *attr = op_attr_defaults(p->mem, op);
    if (accept(p, "{")) {
        do parse_attr(p, op, attr, depth);
        while (!p->failed && accept(p, ","));
        expect(p, "}");
    }
    if (accept(p, ":")) {
        do type[types++] = parse_type(p);
        while (!p->failed && accept(p, ",") && types < MOST);
        if (types != nout) fail(p, "one type for each result");
    }
    const Loc *loc = parse_loc(p, op);
    if (p->failed) return;
    graph_emit(s->g, op, attr, in, nin, nout, loc, out);
    for (uint32_t o = 0; o < nout; o++) {
        define(p, s, number[o], out[o]);
        if (!types) continue;
        adopt_symbols(p, val_type(s->g, out[o]), &type[o]);
        vec_push(p->mem, &s->written, (Written){out[o], type[o]});
    }
}

static void parse_line(Parser *p, Scope *s, int depth)
{
    enum { MOST = 256 };
    uint32_t number[MOST], n = 0;
    do number[n++] = parse_number(p);
    while (!p->failed && accept(p, ",") && n < MOST);
    expect(p, "=");
    if (!accept(p, "const ")) {
        if (!p->failed) parse_node(p, s, number, n, depth);
        return;
    }
    const Tensor *t = parse_tensor(p);
    if (!t) return;
    bool placeholder = p->s[-1] != '}';
    p->s += strspn(p->s, " ");
    const char *name = *p->s == '"' ? parse_string(p) : NULL;
    if (!placeholder) {
        define(p, s, number[0], graph_const(s->g, t, name));
        return;
    }
    /* Not through graph_const: two of them were different data, and must not be shared for both being zeros now. */
    Value v = {.type = type_of_tensor(p->m, t), .def = NO_NODE, .konst = t, .name = name};
    s->g->consts++;
    define(p, s, number[0], (Val){vec_push(p->mem, &s->g->val, v)});
}

static const char *parse_name(Parser *p)
{
    p->s += strspn(p->s, " ");
    return *p->s == '"' ? parse_string(p) : NULL;
}

/* Compared at the end: what the graph teaches about its sizes is then known, as it was when the text was written. */
static void compare_types(Parser *p, const Scope *s)
{
    for (uint32_t i = 0; i < s->written.n; i++) {
        const char *said = type_text(p->m, &s->written.at[i].type, p->mem);
        const char *is = type_text(p->m, val_type(s->g, s->written.at[i].v), p->mem);
        if (!strcmp(said, is) || p->failed) continue;
        diag_error(p->m->diag, NULL, "value %%%u is written as %s, but is %s", s->written.at[i].v.id, said, is);
        p->failed = true;
    }
}

typedef struct Result {
    uint32_t number;
    const char *name;
} Result;

static Graph *parse_graph(Parser *p, int depth)
{
    Scope s = {.g = NULL};
    VEC(Result) result = {0};
    if (depth > MAX_DEPTH || !expect(p, "graph")) {
        fail(p, "expected a graph");
        return NULL;
    }
    s.g = graph_new(p->m, p->mem, parse_name(p));
    expect(p, "(");
    while (!p->failed && !accept(p, ")")) {
        uint32_t number = parse_number(p);
        const char *name = parse_name(p);
        expect(p, ":");
        Val v = graph_input(s.g, name, parse_type(p));
        graph_track(s.g, v); /* as the importer does */
        define(p, &s, number, v);
        accept(p, ",");
    }
    expect(p, "->"), expect(p, "(");
    while (!p->failed && !accept(p, ")")) {
        uint32_t number = parse_number(p);
        vec_push(p->mem, &result, (Result){number, parse_name(p)});
        accept(p, ",");
    }
    expect(p, "{");
    while (!p->failed && !accept(p, "}")) parse_line(p, &s, depth);
    for (uint32_t i = 0; i < result.n && !p->failed; i++) {
        uint32_t k = result.at[i].number;
        if (k >= s.val.n || !s.val.at[k].id) fail(p, arena_printf(p->mem, "output %%%u is not defined", k));
        else graph_output(s.g, s.val.at[k], result.at[i].name);
    }
    compare_types(p, &s);
    return s.g;
}

Graph *graph_parse(Module *m, Arena *mem, const char *text)
{
    unsigned errors = m->diag->errors;
    Parser p = {.s = text, .start = text, .m = m, .mem = mem};
    Graph *g = parse_graph(&p, 0);
    p.s += strspn(p.s, " \t\r\n");
    if (!p.failed && *p.s) fail(&p, "expected the end");
    return p.failed || m->diag->errors != errors ? NULL : g;
}
