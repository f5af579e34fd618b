/* budget_times.c - how long a program spends in each region, from its steps.
 *
 * Nodes are renamed to their region before the program is compiled, since names of nodes are what steps carry. A step that others
 * were fused into has the name of its contraction. Of several runs, on one thread, the least time of every step counts: what else the
 * machine does is seen least in that. */
#include "frontend/budget.h"
#include "frontend/program.h"
#include "ir/base/stage.h"
#include <stdlib.h>

enum { LEAST = 5, MOST = 200 };
static const double TIME = 0.25; /* seconds */

/* Every node has a Loc of its own, which may be changed. */
static Loc **copy_located(const Graph *g, Graph **out, Arena *mem)
{
    Arena scratch = {0};
    Graph *copy = *out = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(copy, g, &scratch);
    for (uint32_t i = 0; i < g->node.n; i++) graph_copy_node(copy, g, i, map);
    graph_end(copy, g, map);
    Loc **loc = NEW_ARRAY(mem, Loc *, copy->node.n + 1);
    for (uint32_t i = 0; i < copy->node.n; i++) {
        const Loc *was = copy->node.at[i].loc;
        loc[i] = NEW(mem, Loc), *loc[i] = was ? *was : (Loc){.node = "", .op = "", .index = -1};
        copy->node.at[i].loc = loc[i];
    }
    arena_drop(&scratch);
    return loc;
}

Graph *region_places(const Graph *g, Arena *mem)
{
    Graph *out;
    Loc **loc = copy_located(g, &out, mem);
    for (uint32_t i = 0; i < out->node.n; i++) loc[i]->place = i + 1;
    return out;
}

Graph *region_labels(const Graph *g, const Quantization *q, Arena *mem)
{
    Graph *out;
    Loc **loc = copy_located(g, &out, mem);
    for (uint32_t i = 0; i < out->node.n; i++)
        loc[i]->node = arena_printf(mem, "#%u", loc[i]->place < q->located ? q->region_at[loc[i]->place] : 0);
    return out;
}

static uint32_t region_named(const char *step, uint32_t regions)
{
    const char *at = strstr(step, " '#");
    unsigned long r = at ? strtoul(at + 3, NULL, 10) : 0;
    return r <= regions ? (uint32_t)r : 0;
}

typedef struct Timed {
    Session *session;
    const OctetApi *api;
    uint64_t *step, *one; /* the least of every one, and the last run's */
} Timed;

static bool run_once(Timed *t, const Tensor *const *in, bool first, Diag *diag)
{
    Arena run = {0};
    size_t steps = (size_t)t->api->steps;
    memset(t->one, 0, sizeof *t->one * steps);
    bool ok = session_run(t->session, &run, in, NEW_ARRAY(&run, const Tensor *, t->api->outputs + 1), diag);
    for (size_t k = 0; k < steps; k++)
        if (first || t->one[k] < t->step[k]) t->step[k] = t->one[k];
    arena_drop(&run);
    return ok;
}

static bool timed_open(Timed *t, Program *p, Arena *mem, Diag *diag)
{
    t->api = p->loaded.api;
    t->step = NEW_ARRAY(mem, uint64_t, t->api->steps + 1), t->one = NEW_ARRAY(mem, uint64_t, t->api->steps + 1);
    t->session = session_new(&p->loaded, 1, diag);
    if (t->session) session_profile(t->session, t->one);
    return t->session != NULL;
}

/* In turns, until TIME is over for each. */
static bool run_often(Timed *t, uint32_t n, const Tensor *const *in, Diag *diag)
{
    double start = seconds_now();
    for (int i = 0; i < MOST && (i < LEAST || seconds_now() - start < TIME * n); i++)
        for (uint32_t k = 0; k < n; k++)
            if (!run_once(&t[k], in, !i, diag)) return false;
    return true;
}

static void add_up(const Timed *t, const RegionTimes *to, uint32_t regions)
{
    for (uint32_t r = 0; r <= regions; r++) to->region[r] = 0;
    for (int32_t i = 0; i < t->api->steps; i++) to->region[region_named(t->api->step_name[i], regions)] += (double)t->step[i] * 1e-9;
    *to->run = 0;
    for (uint32_t r = 0; r <= regions; r++) *to->run += to->region[r];
}

bool region_times(const RegionTimes *t, uint32_t n, const Tensor *const *in, uint32_t regions, Diag *diag)
{
    Arena mem = {0};
    Timed *timed = NEW_ARRAY(&mem, Timed, n + 1);
    bool ok = true;
    for (uint32_t k = 0; ok && k < n; k++) ok = timed_open(&timed[k], t[k].program, &mem, diag);
    ok = ok && run_often(timed, n, in, diag);
    for (uint32_t k = 0; ok && k < n; k++) add_up(&timed[k], &t[k], regions);
    for (uint32_t k = 0; k < n; k++) session_drop(timed[k].session);
    arena_drop(&mem);
    return ok;
}
