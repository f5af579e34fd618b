/* rewrite.c - the pattern engine of rewrite.h: parse the rules once a call, walk the nodes in order, match on the old graph,
 * emit into the new one. What no output reaches is never copied, so dead code needs no pass. */
#include "passes/rewrite.h"
#include <assert.h>
#include <ctype.h>
#include <stdio.h>

enum { MAX_ARGS = 12 };
typedef struct Term {
    const OpDef *op;         /* NULL: a plain value */
    const char *name, *like; /* bound name; in a replacement, whose attributes */
    bool konst, optional, alone;
    uint32_t args;
    struct Term *arg[MAX_ARGS];
} Term;

/* ---- parsing ---- */
static void spaces(const char **p)
{
    while (isspace((unsigned char)**p)) ++*p;
}

static const char *word(const char **p, Arena *mem)
{
    spaces(p);
    const char *s = *p;
    while (isalnum((unsigned char)**p) || **p == '_' || **p == '.') ++*p;
    assert(*p > s && "rule: a name is missing");
    return arena_text(mem, s, (size_t)(*p - s));
}

static const OpDef *find(const char *w)
{
    const char *dot = strrchr(w, '.');
    char domain[32] = "";
    if (dot) snprintf(domain, sizeof domain, "%.*s", (int)(dot - w), w);
    const OpDef *op = op_find(domain, dot ? dot + 1 : w);
    if (!op) fprintf(stderr, "rule names unknown operator %s\n", w);
    assert(op);
    return op;
}

static bool is_op(const char *w)
{
    const char *dot = strrchr(w, '.');
    return isupper((unsigned char)(dot ? dot[1] : w[0]));
}

static bool eat(const char **p, char c)
{
    spaces(p);
    return **p == c && ++*p;
}

static Term *term(const char **p, Arena *mem)
{
    Term *t = NEW(mem, Term);
    t->alone = eat(p, '!'), t->konst = eat(p, '#');
    const char *w = word(p, mem);
    if (!is_op(w)) {
        t->name = w, t->optional = eat(p, '?');
        if (!eat(p, '@')) return t;
        w = word(p, mem);
    }
    t->op = find(w);
    if (eat(p, '@')) t->like = word(p, mem);
    if (!eat(p, '(')) return t;
    do {
        assert(t->args < MAX_ARGS);
        t->arg[t->args++] = term(p, mem);
    } while (eat(p, ','));
    bool closed = eat(p, ')');
    assert(closed && "rule: ) is missing"), (void)closed;
    return t;
}

static Term *parse(const char *text, Arena *mem)
{
    Term *t = term(&text, mem);
    spaces(&text);
    assert(!*text && "rule: text after the pattern");
    return t;
}

void rules_check(const Rule *rules)
{
    Arena mem = {0};
    for (const Rule *r = rules; r->name; r++) {
        parse(r->match, &mem);
        assert(!r->replace != !r->make);
        if (r->replace) parse(r->replace, &mem);
    }
    arena_drop(&mem);
}

/* ---- matching ---- */
static const Val *bound(const Match *m, const char *name)
{
    for (uint32_t i = 0; i < m->binds; i++)
        if (!strcmp(m->bind[i].name, name)) return &m->bind[i].val;
    return NULL;
}

Val match_old(const Match *m, const char *name)
{
    const Val *v = bound(m, name);
    assert(v && "rule code asks for a name its pattern does not bind");
    return *v;
}

Val match_new(const Match *m, const char *name) { return m->map[match_old(m, name).id]; }
const Node *match_root(const Match *m) { return &m->in->node.at[m->root]; }

const Node *match_node(const Match *m, const char *name)
{
    uint32_t def = graph_val(m->in, match_old(m, name))->def;
    return def == NO_NODE ? NULL : &m->in->node.at[def];
}

static bool bind(Match *m, const char *name, Val v)
{
    const Val *old = bound(m, name);
    if (old) return old->id == v.id;
    assert(m->binds < MAX_BINDS);
    m->bind[m->binds].name = name, m->bind[m->binds++].val = v;
    return true;
}

static bool match(Match *m, const Term *t, Val v)
{
    if (!v.id) return t->optional && bind(m, t->name, v);
    const Value *val = graph_val(m->in, v);
    if (t->konst && !val->konst) return false;
    if (t->alone && m->uses[v.id] != 1) return false;
    if (!t->op) return bind(m, t->name, v);
    if (val->def == NO_NODE) return false;
    const Node *n = &m->in->node.at[val->def];
    if (n->op != t->op || n->out.id != v.id || n->nout != 1) return false;
    for (uint32_t i = 0; i < t->args; i++)
        if (!match(m, t->arg[i], node_in(m->in, n, i))) return false;
    for (uint32_t i = t->args; i < n->nin; i++)
        if (node_in(m->in, n, i).id) return false;
    return !t->name || bind(m, t->name, v);
}

/* ---- building ---- */
static Val build(Match *m, const Term *t)
{
    if (!t->op) return match_new(m, t->name);
    Val arg[MAX_ARGS] = {{0}};
    for (uint32_t i = 0; i < t->args; i++) arg[i] = build(m, t->arg[i]);
    const Attr *attr = t->like ? match_node(m, t->like)->attr : NULL;
    return graph_emit(m->out, t->op, attr, arg, t->args, 1, match_root(m)->loc, NULL);
}

typedef struct Compiled {
    const Rule *rule;
    Term *match, *replace;
} Compiled;
typedef VEC(Compiled) CompiledRules;

static Val fire(const CompiledRules *rules, const Match *start, Val root, uint32_t *which)
{
    for (uint32_t r = 0; r < rules->n; r++) {
        const Compiled *c = &rules->at[r];
        Match m = *start;
        if (!match(&m, c->match, root) || (c->rule->when && !c->rule->when(&m))) continue;
        Val v = c->rule->make ? c->rule->make(&m) : build(&m, c->replace);
        if (v.id) return *which = r, v;
    }
    return (Val){0};
}

static Graph *rewrite_round(const Graph *in, PassCtx *ctx, const CompiledRules *rules, uint32_t *fired, bool *changed)
{
    Graph *out = graph_new(ctx->module, ctx->mem, in->name);
    Val *map = graph_begin(out, in, ctx->scratch);
    const uint16_t *uses = graph_uses(in, ctx->scratch);
    const bool *live = graph_live(in, ctx->scratch);
    for (uint32_t i = 0; i < in->node.n; i++) {
        const Node *n = &in->node.at[i];
        if (!live[i]) continue;
        Match start = {.in = in, .out = out, .map = map, .uses = uses, .scratch = ctx->scratch, .ctx = ctx, .root = i};
        uint32_t which = 0;
        Val v = n->nout == 1 ? fire(rules, &start, n->out, &which) : (Val){0};
        if (!v.id) {
            graph_copy_node(out, in, i, map);
            continue;
        }
        map[n->out.id] = v, *changed = true, fired[which]++;
        graph_stand_for(out, v, graph_val(in, n->out));
    }
    graph_end(out, in, map);
    return out;
}

Graph *rewrite(const Graph *in, PassCtx *ctx, const Rule *rules, uint32_t *fired)
{
    CompiledRules table = {0};
    for (const Rule *r = rules; r->name; r++)
        vec_push(ctx->scratch, &table,
                 (Compiled){r, parse(r->match, ctx->scratch), r->replace ? parse(r->replace, ctx->scratch) : NULL});
    uint32_t *count = fired ? fired : NEW_ARRAY(ctx->scratch, uint32_t, table.n + 1);
    const Graph *g = in;
    for (int round = 0; round < REWRITE_ROUNDS; round++) {
        bool changed = false;
        g = rewrite_round(g, ctx, &table, count, &changed);
        if (!changed) return (Graph *)g;
    }
    assert(!"a rule keeps firing");
    return (Graph *)g;
}
