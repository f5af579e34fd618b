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

Graph *region_labels(const Graph *g, const Quantization *q, Arena *mem)
{
    Arena scratch = {0};
    Graph *out = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(out, g, &scratch);
    for (uint32_t i = 0; i < g->node.n; i++) graph_copy_node(out, g, i, map);
    graph_end(out, g, map);
    for (uint32_t i = 0; i < out->node.n; i++) {
        const Loc *was = out->node.at[i].loc;
        bool known = was && was->index >= 0 && (uint32_t)was->index < q->places;
        Loc *loc = NEW(mem, Loc);
        loc->op = "", loc->index = -1;
        if (was) *loc = *was;
        loc->node = arena_printf(mem, "#%u", known ? q->region_of[was->index] : 0);
        out->node.at[i].loc = loc;
    }
    arena_drop(&scratch);
    return out;
}

static uint32_t region_named(const char *step, uint32_t regions)
{
    const char *at = strstr(step, " '#");
    unsigned long r = at ? strtoul(at + 3, NULL, 10) : 0;
    return r <= regions ? (uint32_t)r : 0;
}

/* Runs until TIME is over; step[]: the least of every one. */
static bool run_often(Session *s, const OctetApi *api, const Tensor *const *in, uint64_t *step, Diag *diag)
{
    Arena mem = {0};
    uint64_t *one = NEW_ARRAY(&mem, uint64_t, api->steps + 1);
    double start = seconds_now();
    bool ok = true;
    session_profile(s, one);
    for (int i = 0; ok && i < MOST && (i < LEAST || seconds_now() - start < TIME); i++) {
        Arena run = {0};
        memset(one, 0, sizeof *one * (size_t)api->steps);
        ok = session_run(s, &run, in, NEW_ARRAY(&run, const Tensor *, api->outputs + 1), diag);
        for (int32_t k = 0; k < api->steps; k++)
            if (!i || one[k] < step[k]) step[k] = one[k];
        arena_drop(&run);
    }
    session_profile(s, NULL);
    arena_drop(&mem);
    return ok;
}

bool region_times(Program *p, const Tensor *const *in, double *seconds, uint32_t regions, double *run, Diag *diag)
{
    Arena mem = {0};
    const OctetApi *api = p->loaded.api;
    uint64_t *step = NEW_ARRAY(&mem, uint64_t, api->steps + 1);
    Session *s = session_new(&p->loaded, 1, diag);
    bool ok = s && run_often(s, api, in, step, diag);
    for (uint32_t r = 0; r <= regions; r++) seconds[r] = 0;
    for (int32_t i = 0; ok && i < api->steps; i++)
        seconds[region_named(api->step_name[i], regions)] += (double)step[i] * 1e-9;
    *run = 0;
    for (uint32_t r = 0; r <= regions; r++) *run += seconds[r];
    session_drop(s);
    arena_drop(&mem);
    return ok;
}
