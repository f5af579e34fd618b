/* rewrite.h - rules as data: a pattern over operators, and what takes its place.
 *
 *   term := '#' name | name ['?'] | ['!'] [name '@'] Op ['@' name] '(' term, ... ')'
 *     name      any value; the same name twice must be the same value
 *     name?     any value, or an absent optional input
 *     #name     a constant
 *     !x@Op()   x has no other user
 *     Op@x      in a replacement: takes its attributes from node x; without @, defaults
 * A pattern matches the first output of its nodes; trailing inputs that a pattern does not name must be absent.
 * A domain other than ai.onnx is written before the operator: octet.QuantizeBy(x, s, z).
 *
 * The engine reads one graph and emits another: a rule fires on the old graph (use counts are known), its replacement is
 * born in the new one through graph_emit, which folds and shares. Rounds repeat until nothing fires; a rule that keeps
 * firing for REWRITE_ROUNDS rounds is a bug. Rules preserve type, never make a graph worse, and go one way only. */
#ifndef OCTET_REWRITE_H
#define OCTET_REWRITE_H
#include "passes/pass.h"

enum { REWRITE_ROUNDS = 50, MAX_BINDS = 24 };

typedef struct Match {
    const Graph *in;
    Graph *out;
    const Val *map;          /* old value -> new value */
    const uint16_t *uses;
    Arena *scratch;
    PassCtx *ctx;
    uint32_t root;           /* node number in `in` */
    uint32_t binds;
    struct { const char *name; Val val; } bind[MAX_BINDS];
} Match;
Val match_old(const Match *m, const char *name);          /* the value bound to a name, in the old graph */
Val match_new(const Match *m, const char *name);          /* the same in the new graph */
const Node *match_node(const Match *m, const char *name); /* the node that defines it, old graph */
const Node *match_root(const Match *m);

typedef struct Rule {
    const char *name, *match, *replace;
    bool (*when)(const Match *m);  /* a guard, or NULL */
    Val (*make)(Match *m);         /* instead of `replace`: emits into m->out; id 0 declines */
} Rule;

/* One table of rules, ended by a row without name. fired, when not NULL, counts firings per rule. */
Graph *rewrite(const Graph *in, PassCtx *ctx, const Rule *rules, uint32_t *fired);
extern const Rule rules_simplify[];                        /* simplify.c */
extern const Rule rules_scale[];                           /* scale.c */
extern const Rule rules_saturation[];                      /* the same: what QuantizeLinear does anyway */
void rules_check(const Rule *rules);                       /* parses every pattern: a malformed one is a bug (asserts) */
#endif
