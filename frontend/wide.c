/* wide.c - see wide.h. */
#include "frontend/wide.h"
#include "frontend/costs.h"
#include "ir/op.h"
#include <math.h>

typedef struct Wide {
    const Graph *g;
    Quantization *q;
    RowProduct *product;
    uint32_t n;
} Wide;

static Val value_of(const Wide *w, uint32_t i) { return node_in(w->g, &w->g->node.at[w->product[i].node], 0); }

static Val off_by_eight_bits(const void *wide, Graph *to, uint32_t i, Val was)
{
    const Wide *w = wide;
    Arena mem = {0};
    const Range *r = range_find(w->q, tensor_name(w->g, value_of(w, i), &mem));
    const Loc *loc = w->g->node.at[w->product[i].node].loc;
    arena_drop(&mem);
    return emit(to, "Sub", loc, 2, through_eight_bits(to, was, r, w->product[i].rows, loc), was);
}

static void mark_wide(const Wide *w, uint32_t i)
{
    Arena mem = {0};
    const RowProduct *p = &w->product[i];
    const char *name = tensor_name(w->g, value_of(w, i), &mem);
    const Range *is = range_find(w->q, name);
    Range *r = range_set(w->q, name, is->lo, is->hi);
    int64_t readers = p->reader + 1 > r->readers ? p->reader + 1 : r->readers;
    bool *wide = NEW_ARRAY(w->q->mem, bool, readers + 1);
    if (r->wide) memcpy(wide, r->wide, (size_t)r->readers * sizeof *wide);
    wide[p->reader] = true, r->wide = wide, r->readers = readers;
    arena_drop(&mem);
}

/* Products of values whose sizes only the data tells are none of them: these cannot be given to a program. */
static void products_find(Wide *w, Arena *mem)
{
    uint32_t all = row_products(w->g, w->q, &w->product, mem);
    for (uint32_t i = 0; i < all; i++) {
        const Type *t = val_type(w->g, value_of(w, i));
        bool known = true;
        for (int d = 0; d < t->rank; d++) known = known && !dim_has_data(w->g->module->dim, t->dim[d]);
        if (known) w->product[w->n++] = w->product[i];
    }
}

bool wide_choose(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag)
{
    Arena mem = {0};
    Wide w = {.g = g, .q = q};
    for (Range *r = q->range.at; r < q->range.at + q->range.n; r++) r->wide = NULL, r->readers = 0;
    products_find(&w, &mem);
    Roundings r = {.at = NEW_ARRAY(&mem, Rounding, w.n + 1), .n = w.n, .part = 1, .most = INFINITY, .off = off_by_eight_bits, .ctx = &w};
    for (uint32_t i = 0; i < w.n; i++) r.at[i] = (Rounding){.node = w.product[i].node, .by = {{w.product[i].products, 0}}, .reliefs = 1};
    bool ok = costs_choose(g, &r, o, diag);
    q->costs = r.costs;
    for (uint32_t i = 0; ok && i < w.n; i++) {
        cost_note(q, tensor_name(g, g->node.at[r.at[i].node].out, &mem), r.at[i].cost, r.at[i].relief > 0);
        if (r.at[i].relief) mark_wide(&w, i);
    }
    arena_drop(&mem);
    return ok;
}
